"""JupyterLab for the course. `make lab` runs it in the course's folder, with this folder as all of its configuration.

Who may use the server can run any code as you. So it listens on 127.0.0.1 alone, and everything else that Jupyter does
against strangers stays as it is: the random token, the checks of origin and XSRF.
"""

import json
import logging
import os
import sys

import zmq
from jupyterlab_server.workspaces_handler import WorkspacesManager

TOC = "@jupyterlab/toc:plugin"
LEFT = {"collapsed": False, "visible": True, "current": TOC, "widgets": [TOC]}
LAYOUT = {"layout-restorer:data": {"left": LEFT, "relativeSizes": [0.24, 0.76, 0]}}

c = get_config()  # noqa: F821  (Jupyter defines it)
c.ServerApp.ip = "127.0.0.1"  # a name like localhost may mean a second address, where somebody else may listen
c.ServerApp.root_dir = os.path.abspath("notebooks")
c.ServerApp.allow_root = hasattr(os, "geteuid") and os.geteuid() == 0
c.ServerApp.answer_yes = True  # Ctrl-C ends it without a question
c.Application.log_level = "CRITICAL"  # the address is shown even so
logging.getLogger("asyncio").setLevel("CRITICAL")  # a restarted kernel's socket may close under its reader
c.LabApp.default_url = "/lab/tree/00_start_here.ipynb"
c.LabApp.news_url = None  # nothing is asked from the network
c.LabApp.extension_manager = "readonly"
c.LabApp.user_settings_dir = os.path.expanduser("~/.jupyter/lab/user-settings")  # the learner's own
# The chapters ask for the kernel "python3": this Python's own comes before another of that name.
places = [os.path.join(sys.prefix, "share", "jupyter"), *filter(None, [os.environ.get("JUPYTER_PATH")])]
os.environ["JUPYTER_PATH"] = os.pathsep.join(places)
# Without encryption between server and kernel, each kernel would print a warning.
c.KernelManager.transport_encryption = "auto" if zmq.has("curve") else "disabled"

# The windows' layout is the course's own, and the learner's as soon as there is one: at first, the table of contents.
c.LabApp.workspaces_dir = os.path.abspath(os.path.join("build", "lab"))
os.makedirs(c.LabApp.workspaces_dir, exist_ok=True)
workspaces = WorkspacesManager(c.LabApp.workspaces_dir)
if not workspaces.load("default")["data"]:
    workspaces.save("default", json.dumps({"data": LAYOUT, "metadata": {"id": "default"}}))
