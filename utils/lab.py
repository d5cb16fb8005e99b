"""JupyterLab for the course: at chapter 00, with its table of contents, on this machine only.

Who may use the server can run any code as you. So it listens on 127.0.0.1 alone, and keeps its random token: other
users of a shared machine reach that address too. The learner never types it, because the page that opens carries it.
The token is in no command line, where others could read it: the server runs in this process, and the browser opens a
private file that leads on. Jupyter's checks of origin and XSRF stay on against other pages in the same browser.
"""

import json
import os
import secrets
import signal
import webbrowser
from pathlib import Path

from jupyter_server.serverapp import ServerApp
from jupyterlab.labapp import LabApp
from jupyterlab_server.workspaces_handler import WorkspacesManager
from tornado.netutil import bind_sockets

from utils import course

ADDRESS = "127.0.0.1"  # a name like localhost may mean another address, where somebody else may listen
PORT = 8888
FIRST = "00_start_here.ipynb"

# Lab's question about news would be the first thing that a learner sees, and news come from the network.
PAGE = {"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}}
LAYOUT = {
    "layout-restorer:data": {
        "left": {"collapsed": False, "visible": True, "current": "table-of-contents", "widgets": ["table-of-contents"]},
        "relativeSizes": [0.2, 0.8, 0],
    }
}


class LabError(RuntimeError):
    """JupyterLab cannot be opened; the message says why and what helps."""


def free_port(port: int | None) -> int:
    """The port that was asked for, or the first free one from 8888 on.

    Raises:
        LabError: the port that was asked for is taken or not allowed, or no port near 8888 is free.
    """
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
    raise LabError(f"no port from {PORT} to {PORT + 99} is free; name another one with --port")


def prepare(notebooks: Path) -> Path:
    """Make Lab's own folder, `build/lab` beside the notebooks: settings, and the layout where there is none yet.

    Raises:
        LabError: chapter 00 is missing, or a folder cannot be written.
    """
    if not (notebooks / FIRST).is_file():
        raise LabError(f"there is no {FIRST} in {notebooks}")
    if not os.access(notebooks, os.W_OK):
        raise LabError(
            f"{notebooks} cannot be written, so no answer could be saved; copy the course to a folder of yours"
        )
    own = notebooks.parent / "build" / "lab"
    try:
        own.mkdir(parents=True, exist_ok=True)
        (own / "page_config.json").write_text(json.dumps(PAGE), encoding="utf-8")
        workspaces = WorkspacesManager(str(own / "workspaces"))
        if not workspaces.load("default")["data"]:
            workspaces.save("default", json.dumps({"data": LAYOUT, "metadata": {"id": "default"}}))
    except OSError as error:
        raise LabError(f"{own} cannot be written ({error.strerror}); copy the course to a folder of yours") from None
    return own


def browser_is_there() -> bool:
    """Whether Python finds a web browser on this machine."""
    try:
        webbrowser.get()
    except webbrowser.Error:
        return False
    return True


def options(notebooks: Path, own: Path, port: int, token: str, opens: bool) -> list[str]:
    """Lab's options. They win over the learner's own Jupyter configuration, which may listen to everybody."""
    return [
        f"--ServerApp.ip={ADDRESS}",
        f"--ServerApp.port={port}",
        "--ServerApp.port_retries=0",
        f"--IdentityProvider.token={token}",
        "--PasswordIdentityProvider.hashed_password=",
        "--ServerApp.allow_origin=",
        "--ServerApp.allow_origin_pat=",
        "--ServerApp.allow_remote_access=False",
        "--ServerApp.disable_check_xsrf=False",
        f"--ServerApp.allow_root={hasattr(os, 'geteuid') and os.geteuid() == 0}",
        f"--ServerApp.root_dir={notebooks}",
        f"--ServerApp.open_browser={opens}",
        "--Application.log_level=ERROR",
        f"--LabApp.default_url=/lab/tree/{FIRST}",
        f"--LabApp.app_settings_dir={own}",
        f"--LabApp.workspaces_dir={own / 'workspaces'}",
        "--LabApp.extension_manager=readonly",
        "--LabApp.news_url=None",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]


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


def run(notebooks: Path | None = None, port: int | None = None, browser: bool = True) -> int:
    """Serve JupyterLab until Ctrl-C; returns the exit code.

    Args:
        notebooks: the folder of the chapters (default: the course's own).
        port: the port; None finds a free one.
        browser: open the page in the web browser, where there is one.

    Raises:
        LabError: see `free_port` and `prepare`.
    """
    notebooks = (notebooks or course.NOTEBOOKS).resolve()
    own = prepare(notebooks)
    chosen = free_port(port)
    if port is None and chosen != PORT:
        print(f"Port {PORT} is taken; this is port {chosen}.", flush=True)
    opens = browser and browser_is_there()
    if browser and not opens:
        print("No web browser found on this machine. ", end="")  # and the server goes on: Open http://...
    _Lab.launch_instance(options(notebooks, own, chosen, secrets.token_hex(24), opens))
    return 0
