"""JupyterLab with the course's configuration, as `make lab` starts it, without a browser."""

import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from utils import chapters

CONFIGURATION = chapters.ROOT / "tools" / "jupyter"
TOC = "@jupyterlab/toc:plugin"
# What a learner's own Jupyter may be set to. None of it may open the course's server.
OPEN_TO_ALL = """
c.ServerApp.ip = "0.0.0.0"
c.ServerApp.allow_origin = "*"
c.ServerApp.disable_check_xsrf = True
c.IdentityProvider.token = ""
"""

pty = pytest.importorskip("pty")  # only at a terminal would Jupyter ask whether it may stop


@dataclass
class Server:
    process: subprocess.Popen
    folder: Path
    terminal: int
    printed: str = ""

    def address(self) -> re.Match[str]:
        """The printed address, in pieces: up to the port, path, token."""
        while not (found := re.search(r"(http://127\.0\.0\.1:\d+)(/\S*)\?token=(\w+)", self.printed)):
            assert select.select([self.terminal], [], [], 60)[0], self.printed
            self.printed += os.read(self.terminal, 4096).decode()
        return found

    def get(self, path: str) -> dict:
        address = self.address()
        for _ in range(100):  # the address is printed a moment before the server listens
            try:
                with urllib.request.urlopen(f"{address[1]}{path}?token={address[3]}", timeout=30) as answer:
                    return json.load(answer)
            except urllib.error.URLError as error:
                if not isinstance(error.reason, ConnectionError):
                    raise
                time.sleep(0.1)
        raise AssertionError("nobody listens")


def start(folder: Path, *options: str, **variables: str) -> Server:
    ours, theirs = pty.openpty()
    own = {
        "HOME": str(folder / "home"),
        "JUPYTER_CONFIG_DIR": str(CONFIGURATION),
        "JUPYTER_RUNTIME_DIR": str(folder / "r"),
    }
    command = [str(Path(sys.executable).with_name("jupyter")), "lab", "--no-browser", *options]
    streams = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
    return Server(subprocess.Popen(command, cwd=folder, env=os.environ | own | variables, **streams), folder, ours)


def end(server: Server) -> None:
    server.get("/api/contents")  # its loop runs: a signal before that would be lost
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(60) == 0


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server in a folder with a space, for a learner whose own Jupyter has other settings and another "python3"."""
    folder = tmp_path_factory.mktemp("a course")
    (folder / "notebooks").mkdir()
    (folder / "notebooks" / "00_start_here.ipynb").write_text("{}")
    (folder / "home" / ".jupyter").mkdir(parents=True)
    (folder / "home" / ".jupyter" / "jupyter_server_config.py").write_text(OPEN_TO_ALL)
    for name in ("python3", "other"):
        foreign = folder / "data" / "kernels" / name
        foreign.mkdir(parents=True)
        (foreign / "kernel.json").write_text('{"argv": ["no-such-python"], "display_name": "x", "language": "python"}')
    server = start(folder, JUPYTER_PATH=str(folder / "data"))
    yield server
    server.process.kill()


def test_it_opens_at_chapter_00_on_this_machine_alone(lab):
    address = lab.address()
    assert address[2] == "/lab/tree/00_start_here.ipynb" and len(address[3]) >= 32
    lab.get("/api/contents")  # it listens
    sockets = psutil.Process(lab.process.pid).net_connections()
    assert {each.laddr.ip for each in sockets if each.status == psutil.CONN_LISTEN} == {"127.0.0.1"}


def test_only_the_token_opens_it(lab):
    assert lab.get("/api/contents")["content"][0]["name"] == "00_start_here.ipynb"
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(f"{lab.address()[1]}/api/contents", timeout=30)


def test_the_chapters_kernel_is_this_python_s_whatever_has_its_name(lab):
    specs = lab.get("/api/kernelspecs")["kernelspecs"]
    assert specs["python3"]["spec"]["argv"][1:3] == ["-m", "ipykernel_launcher"]
    assert specs["other"]["spec"]["argv"] == ["no-such-python"]  # what else a learner has is there, too


@pytest.mark.slow
def test_ctrl_c_ends_it_without_a_question_and_the_layout_is_the_learner_s_from_then_on(lab):
    lab.get("/api/contents")  # it has started
    [layout] = (lab.folder / "build" / "lab").glob("default*")
    assert json.loads(layout.read_text())["data"]["layout-restorer:data"]["left"]["current"] == TOC
    layout.write_text(json.dumps({"data": {"mine": 1}, "metadata": {"id": "default"}}))
    end(lab)
    assert "?" not in lab.printed.replace("?token", "")
    again = start(lab.folder)
    assert again.get("/lab/api/workspaces/default")["data"] == {"mine": 1}
    end(again)
    assert not list((lab.folder / "home" / ".jupyter").glob("lab/workspaces"))


@pytest.mark.slow
def test_each_start_has_a_new_token_and_a_taken_port_that_was_asked_for_is_refused(lab):
    tokens = set()
    for _ in range(2):
        server = start(lab.folder)
        tokens.add(server.address()[3])
        end(server)
    assert len(tokens) == 2
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        refused = start(lab.folder, f"--port={port}", "--ServerApp.port_retries=0")
        assert refused.process.wait(60) == 1
        assert f"port {port} is not available" in os.read(refused.terminal, 10_000).decode()
