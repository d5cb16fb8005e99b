"""JupyterLab for the course: at chapter 00, with its table of contents, on this machine only.

Who may use the server can run any code as you. So it listens on 127.0.0.1 alone, and keeps its random token: other
users of a shared machine reach that address too. The learner never types it, because the page that opens carries it.
The token is in no command line, where others could read it: the server runs in this process, and the browser opens a
private file that leads on. Jupyter's checks of origin and XSRF stay on, against other pages in the same browser.
"""

import json
import logging
import os
import secrets
import signal
import sys
import webbrowser
from pathlib import Path

import zmq
from jupyter_server.serverapp import ServerApp
from jupyterlab.labapp import LabApp
from jupyterlab_server.workspaces_handler import WorkspacesManager
from tornado.netutil import bind_sockets

from utils.chapters import NOTEBOOKS
from utils.errors import CourseError

ADDRESS = "127.0.0.1"  # a name like localhost may mean a second address, where somebody else may listen
PORT = 8888
FIRST = "00_start_here.ipynb"
ELSEWHERE = "copy the course to a folder of yours"

# Lab's question about news would be the first thing that a learner sees, and the news would come from the network.
PAGE = {"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}}
TOC = "@jupyterlab/toc:plugin"
LEFT = {"collapsed": False, "visible": True, "current": TOC, "widgets": [TOC]}
LAYOUT = {"layout-restorer:data": {"left": LEFT, "relativeSizes": [0.24, 0.76, 0]}}


class LabError(CourseError, RuntimeError):
    """JupyterLab cannot be opened; the message says why and what helps."""


def free_port(port: int | None = None) -> int:
    """The port that is asked for, or the first free one from 8888 on. LabError where there is none."""
    if port is not None and not 1 <= port <= 65535:
        raise LabError(f"a port is a number from 1 to 65535; got {port}")
    for candidate in [port] if port else range(PORT, PORT + 100):
        try:
            for listener in bind_sockets(candidate, ADDRESS):
                listener.close()
            return candidate
        except OSError as error:
            reason = error.strerror
    if port:
        raise LabError(f"port {port} cannot be used ({reason}); name another one, or none: then a free one is found")
    raise LabError(f"no port from {PORT} to {PORT + 99} is free; name another one")


def prepare(notebooks: Path) -> Path:
    """Make Lab's own folder, `build/lab` beside the notebooks: a setting, and the layout where there is none yet."""
    if not (notebooks / FIRST).is_file():
        raise LabError(f"there is no {FIRST} in {notebooks}")
    if not os.access(notebooks, os.W_OK):
        raise LabError(f"{notebooks} cannot be written, so no answer could be saved; {ELSEWHERE}")
    own = notebooks.parent / "build" / "lab"
    try:
        own.mkdir(parents=True, exist_ok=True)
        (own / "page_config.json").write_text(json.dumps(PAGE), encoding="utf-8")
        workspaces = WorkspacesManager(str(own / "workspaces"))
        if not workspaces.load("default")["data"]:
            workspaces.save("default", json.dumps({"data": LAYOUT, "metadata": {"id": "default"}}))
    except OSError as error:
        raise LabError(f"{own} cannot be written ({error.strerror}); {ELSEWHERE}") from None
    return own


def options(notebooks: Path, own: Path, port: int, token: str, opens: bool) -> list[str]:
    """Lab's options. They win over the learner's own Jupyter configuration, which may listen to everybody."""
    server = {"ip": ADDRESS, "port": port, "port_retries": 0, "root_dir": notebooks, "open_browser": opens}
    server |= {"allow_origin": "", "allow_origin_pat": "", "allow_remote_access": False, "disable_check_xsrf": False}
    server["allow_root"] = hasattr(os, "geteuid") and os.geteuid() == 0
    lab = {"default_url": f"/lab/tree/{FIRST}", "app_settings_dir": own, "workspaces_dir": own / "workspaces"}
    lab |= {"extension_manager": "readonly", "news_url": None}  # nothing is asked from the network
    sections = {"ServerApp": server, "LabApp": lab, "Application": {"log_level": "CRITICAL"}}
    sections |= {"IdentityProvider": {"token": token}, "PasswordIdentityProvider": {"hashed_password": ""}}
    # Without encryption between server and kernel, each kernel would print a warning.
    sections["KernelManager"] = {"transport_encryption": "auto" if zmq.has("curve") else "disabled"}
    return [f"--{section}.{name}={value}" for section, values in sections.items() for name, value in values.items()]


class _Server(ServerApp):
    """Jupyter's server, with one line for the learner; Ctrl-C ends it without a question."""

    def init_signal(self) -> None:
        super().init_signal()
        signal.signal(signal.SIGINT, lambda *_: self.stop(from_signal=True))

    def start_app(self) -> None:
        super().start_app()
        address = f"http://{ADDRESS}:{self.port}{self.default_url}?token={self.identity_provider.token}"
        where = "JupyterLab opens in your browser; if not, open" if self.open_browser else "Open"
        print(f"{where} {address} (Ctrl-C here ends it)", flush=True)


class _Lab(LabApp):
    serverapp_class = _Server


def serve(notebooks: Path | None = None, port: int | None = None, browser: bool = True) -> int:
    """Serve JupyterLab until Ctrl-C, and open it in the web browser where there is one; returns the exit code."""
    notebooks = (notebooks or NOTEBOOKS).resolve()
    own, chosen = prepare(notebooks), free_port(port)
    if chosen != (port or PORT):
        print(f"Port {PORT} is taken; this is port {chosen}. ", end="")
    try:
        opens = bool(browser and webbrowser.get())
    except webbrowser.Error:
        opens = False
        print("No web browser is found on this machine. ", end="")
    # The chapters ask for the kernel "python3": this Python's own comes before another of that name.
    places = [str(Path(sys.prefix, "share", "jupyter")), *filter(None, [os.environ.get("JUPYTER_PATH")])]
    os.environ["JUPYTER_PATH"] = os.pathsep.join(places)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # it tells of every page that is closed in mid-sentence
    _Lab.launch_instance(options(notebooks, own, chosen, secrets.token_hex(24), opens))
    return 0
