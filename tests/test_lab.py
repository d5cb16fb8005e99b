"""Opening JupyterLab, without a browser: the port, the folders, the options, and one clear line where it cannot be."""

import json
import os
import signal
import socket
import subprocess
import sys
import webbrowser
from pathlib import Path

import pytest
from jupyter_client.kernelspec import KernelSpecManager
from jupyterlab_server.workspaces_handler import WorkspacesManager

from tools import __main__ as cli
from tools import lab
from utils import chapters


@pytest.fixture
def notebooks(tmp_path: Path) -> Path:
    """A folder with a chapter 00, in a folder whose name has a space."""
    folder = tmp_path / "a course" / "notebooks"
    folder.mkdir(parents=True)
    (folder / lab.FIRST).write_text("{}")
    return folder


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The options of each start of Lab; none really starts."""
    starts: list[list[str]] = []
    monkeypatch.setenv("JUPYTER_PATH", "")  # which a start changes
    monkeypatch.setattr(lab._Lab, "launch_instance", starts.append)
    return starts


@pytest.fixture
def taken() -> int:
    """A port of this machine that somebody listens on."""
    with socket.create_server((lab.ADDRESS, 0)) as listener:
        yield listener.getsockname()[1]


def test_a_taken_port_that_was_asked_for_is_one_clear_line(notebooks, launched, taken, capsys):
    assert cli.main(["lab", str(notebooks), "--port", str(taken), "--no-browser"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert f"port {taken} cannot be used" in line and "name another one" in line
    assert launched == []


def test_a_taken_default_port_gives_the_next_free_one_and_says_so(notebooks, launched, taken, capsys, monkeypatch):
    monkeypatch.setattr(lab, "PORT", taken)
    assert cli.main(["lab", str(notebooks), "--no-browser"]) == 0
    [[port]] = [[int(o.split("=")[1]) for o in options if o.startswith("--ServerApp.port=")] for options in launched]
    assert taken < port < taken + 100
    assert capsys.readouterr().out == f"Port {taken} is taken; this is port {port}. "


def test_a_free_port_is_taken_as_asked_for():
    with socket.create_server((lab.ADDRESS, 0)) as listener:
        port = listener.getsockname()[1]
    assert lab.free_port(port) == port


def test_no_free_port_at_all_is_one_clear_error(monkeypatch):
    def refuse(port: int, address: str) -> None:
        raise OSError(98, "Address already in use")

    monkeypatch.setattr(lab, "bind_sockets", refuse)
    with pytest.raises(lab.LabError, match=f"no port from {lab.PORT} to {lab.PORT + 99} is free"):
        lab.free_port()


@pytest.mark.parametrize("port", ["0", "-1", "65536"])
def test_a_port_that_is_none_is_one_clear_line(port, notebooks, launched, capsys):
    assert cli.main(["lab", str(notebooks), f"--port={port}"]) == 2
    assert capsys.readouterr().err == f"a port is a number from 1 to 65535; got {port}\n"
    assert launched == []


def test_a_folder_without_chapter_00_is_one_clear_line(tmp_path, launched, capsys):
    assert cli.main(["lab", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"there is no 00_start_here.ipynb in {tmp_path}\n"


def test_an_unwritable_notebooks_folder_is_one_clear_line(notebooks, launched, capsys, monkeypatch):
    monkeypatch.setattr(lab.os, "access", lambda path, mode: False)  # for root every folder is writable
    assert cli.main(["lab", str(notebooks)]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{notebooks} cannot be written") and "copy the course" in line


def test_an_unwritable_build_folder_is_one_clear_line(notebooks, launched, capsys):
    (notebooks.parent / "build").write_text("in the way")
    assert cli.main(["lab", str(notebooks)]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{notebooks.parent / 'build' / 'lab'} cannot be written") and "copy the course" in line
    assert launched == []


def test_without_a_browser_it_says_so_and_serves(notebooks, launched, capsys, monkeypatch):
    def none_found() -> None:
        raise webbrowser.Error("could not locate runnable browser")

    monkeypatch.setattr(lab.webbrowser, "get", none_found)
    assert cli.main(["lab", str(notebooks)]) == 0
    assert capsys.readouterr().out.endswith("No web browser is found on this machine. ")
    assert "--ServerApp.open_browser=False" in launched[0]


@pytest.mark.parametrize(("arguments", "opens"), [([], True), (["--no-browser"], False)])
def test_a_browser_opens_unless_told_otherwise(arguments, opens, notebooks, launched, monkeypatch):
    monkeypatch.setattr(lab.webbrowser, "get", lambda: object())
    assert cli.main(["lab", str(notebooks), *arguments]) == 0
    assert f"--ServerApp.open_browser={opens}" in launched[0]


def test_the_options_keep_everybody_else_out(notebooks):
    options = dict(o.removeprefix("--").split("=", 1) for o in lab.options(notebooks, Path("own"), 8890, "t0ken", True))
    assert options["ServerApp.ip"] == "127.0.0.1" and options["ServerApp.port"] == "8890"
    assert options["IdentityProvider.token"] == "t0ken" and options["PasswordIdentityProvider.hashed_password"] == ""
    assert options["ServerApp.allow_origin"] == options["ServerApp.allow_origin_pat"] == ""
    assert options["ServerApp.allow_remote_access"] == options["ServerApp.disable_check_xsrf"] == "False"
    assert options["ServerApp.root_dir"] == str(notebooks)
    assert options["LabApp.default_url"] == "/lab/tree/00_start_here.ipynb"
    assert (chapters.NOTEBOOKS / lab.FIRST).is_file()


def test_the_chapters_kernel_is_this_python_s_whatever_has_its_name(notebooks, launched, tmp_path, monkeypatch):
    for name in ("python3", "other"):
        foreign = tmp_path / "kernels" / name
        foreign.mkdir(parents=True)
        (foreign / "kernel.json").write_text('{"argv": ["no-such-python"], "display_name": "x", "language": "python"}')
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    assert KernelSpecManager().get_kernel_spec("python3").argv == ["no-such-python"]
    assert cli.main(["lab", str(notebooks), "--no-browser"]) == 0
    found = KernelSpecManager()
    assert found.get_kernel_spec("python3").argv[1:3] == ["-m", "ipykernel_launcher"]
    assert found.get_kernel_spec("other").argv == ["no-such-python"]  # what else a learner has is there, too


def test_each_start_has_a_new_token(notebooks, launched):
    for _ in range(2):
        assert cli.main(["lab", str(notebooks), "--no-browser"]) == 0
    first, second = ({o for o in options if "token=" in o}.pop() for options in launched)
    assert first != second and len(first.split("=")[1]) == 48


def test_the_layout_is_prepared_once_and_then_the_learner_s(notebooks):
    own = lab.prepare(notebooks)
    assert own == notebooks.parent / "build" / "lab"
    workspaces = WorkspacesManager(str(own / "workspaces"))
    layout = workspaces.load("default")["data"]["layout-restorer:data"]
    assert layout["left"]["current"] == lab.TOC and layout["left"]["visible"]
    workspaces.save("default", json.dumps({"data": {"mine": 1}, "metadata": {"id": "default"}}))
    lab.prepare(notebooks)
    assert workspaces.load("default")["data"] == {"mine": 1}


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT to send")
def test_ctrl_c_at_a_terminal_ends_it_without_a_question(notebooks):
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()  # only at a terminal would Jupyter ask whether it may stop
    environment = os.environ | {"PYTHONPATH": str(chapters.ROOT), "JUPYTER_RUNTIME_DIR": str(notebooks.parent)}
    command = [sys.executable, "-m", "tools", "lab", str(notebooks), "--no-browser"]
    process = subprocess.Popen(
        command, cwd=chapters.ROOT, env=environment, stdin=theirs, stdout=subprocess.PIPE, text=True
    )
    try:
        assert "http://127.0.0.1:" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=60)
        assert (rest, process.returncode) == ("", 0)
    finally:
        process.kill()
        os.close(ours)
        os.close(theirs)
