"""Workers in several processes: what comes back, what is told when one fails, and that nothing is left running."""

import math
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter

import psutil
import pytest
import torch
from torch import distributed

from utils import launch
from utils.errors import InputError

FACTOR = 3
NOT_CODE = object()


class Adder:
    def __init__(self, start: int) -> None:
        self.start = start

    def add(self, number: int) -> int:
        return self.start + helper(number)


def helper(number: int) -> int:
    return math.isqrt(number) * FACTOR


def works(number: int) -> dict:
    total = torch.tensor([distributed.get_rank() + 1.0])
    distributed.all_reduce(total)
    print("working on", number)
    rank, seen = distributed.get_rank(), Counter(all=Adder(1).add(number))
    return {"rank": rank, "seen": seen, "total": total, "threads": torch.get_num_threads()}


def speaks_chinese() -> dict:
    print("第 1 章")
    return {}


def raises() -> dict:
    if distributed.get_rank() == 1:
        raise ValueError("the layer\nis upside down")
    distributed.barrier()
    return {}


def dies() -> dict:
    if distributed.get_rank() == 1:
        os._exit(3)
    distributed.barrier()
    return {}


def is_killed() -> dict:
    if distributed.get_rank() == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    distributed.barrier()
    return {}


def sleeps() -> dict:
    if distributed.get_rank() == 1:
        time.sleep(3600)
    distributed.barrier()
    return {}


def returns_an_object() -> dict:
    return {"object": object()}


def uses_an_object() -> dict:
    return {"object": repr(NOT_CODE)}


@pytest.fixture(autouse=True)
def nothing_is_left():
    """After each test, no process that it started lives."""
    yield
    assert workers() == []


def workers() -> list[int]:
    """Processes of this test, wherever they hang in the tree: their environment names it."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("LAUNCH_TEST") == str(os.getpid()) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except psutil.Error:
            continue
    return [pid for pid in found if pid != os.getpid()]


@pytest.fixture(autouse=True)
def marked(monkeypatch):
    monkeypatch.setenv("LAUNCH_TEST", str(os.getpid()))


def test_every_rank_answers_in_order(capsys):
    results = launch.run(works, 2, number=17)
    assert [result["rank"] for result in results] == [0, 1]
    assert all(result["seen"] == {"all": 1 + 4 * FACTOR} and result["threads"] == 1 for result in results)
    assert all(torch.equal(result["total"], torch.tensor([3.0])) for result in results)
    assert capsys.readouterr() == ("[rank 0] working on 17\n[rank 1] working on 17\n", "")


@pytest.mark.slow
def test_a_worker_prints_any_script_whatever_the_encoding_around_it(capsys, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    launch.run(speaks_chinese, 1)
    assert capsys.readouterr().out == "[rank 0] 第 1 章\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("worker", "message"),
    [
        (raises, r"rank 1 of 2 failed: is upside down"),
        (dies, r"rank 1 of 2 ended with exit code 3: no message"),
        (is_killed, r"rank 0 of 2 ended with exit code -9: no message"),
    ],
)
def test_a_rank_that_fails_is_named(worker, message: str):
    with pytest.raises(launch.LaunchError) as caught:
        launch.run(worker, 2, timeout=60)
    assert re.fullmatch(message, str(caught.value))
    assert "worker.py" in "".join(caught.value.__notes__)


@pytest.mark.slow
def test_only_data_comes_back():
    with pytest.raises(launch.LaunchError, match="rank 0 returned more than tensors, numbers and texts"):
        launch.run(returns_an_object, 2, timeout=60)


@pytest.mark.slow
def test_the_error_that_came_first_is_told_with_all_that_was_written():
    with pytest.raises(launch.LaunchError) as caught:
        launch.run(raises, 3, timeout=60)
    assert str(caught.value).startswith("rank 1 of 3")
    assert any("upside down" in note and "Traceback" in note for note in caught.value.__notes__)


@pytest.mark.slow
def test_the_time_limit_ends_all():
    start = time.monotonic()
    with pytest.raises(launch.LaunchError) as caught:
        launch.run(sleeps, 2, timeout=6)
    assert str(caught.value) == "no result within 6 s from rank 0, 1; all 2 processes are ended"
    assert time.monotonic() - start < 30


@pytest.mark.slow
def test_an_interrupt_ends_all():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have switched it off
    timer = threading.Timer(4, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            launch.run(sleeps, 2, timeout=60)
    finally:
        timer.join()
        signal.signal(signal.SIGINT, before)


@pytest.mark.slow
def test_workers_end_even_if_the_notebook_is_killed(tmp_path):
    """They carry their own time limit."""
    program = tmp_path / "notebook.py"
    program.write_text(
        "import time\nfrom torch import distributed\nfrom utils import launch\n"
        "def sleeps():\n    time.sleep(3600)\n"
        "if __name__ == '__main__':\n    launch.run(sleeps, 2, timeout=8)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(launch.ROOT)}
    notebook = subprocess.Popen([sys.executable, program], env=environment, stderr=subprocess.DEVNULL)
    for _ in range(200):
        if len(workers()) >= 4:  # the notebook, torchrun and two workers
            break
        time.sleep(0.05)
    notebook.kill()
    notebook.wait()
    for _ in range(500):
        if not workers():
            break
        time.sleep(0.1)
    assert workers() == []


@pytest.mark.parametrize("processes", [0, -1, 2.0, True, "2"])
def test_a_number_of_processes_that_cannot_be(processes):
    with pytest.raises(InputError, match=r"processes must be a whole number from 1; got"):
        launch.run(works, processes, number=1)


@pytest.mark.parametrize("timeout", [0, -1, math.nan])
def test_a_time_limit_that_cannot_be(timeout):
    with pytest.raises(InputError, match=r"timeout must be more than 0 seconds; got"):
        launch.run(works, 1, timeout=timeout, number=1)


@pytest.mark.parametrize("port", [0, 65536, "1"])
def test_a_port_that_cannot_be(port):
    with pytest.raises(InputError, match=rf"port {port!r} cannot be used \(it must be a whole number from 1 to 65535"):
        launch.run(works, 1, port=port, number=1)


@pytest.mark.slow
def test_a_port_in_use_is_refused_and_a_free_one_taken():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=rf"port {port} cannot be used \(.+\): port=None takes a free one"):
            launch.run(works, 1, port=port, number=1)
    assert launch.run(works, 1, port=port, number=1)[0]["rank"] == 0


def test_what_cannot_be_passed_on_is_named():
    with pytest.raises(InputError, match="the argument number is a Tensor and cannot be passed to another process"):
        launch.script(works, number=torch.ones(1))
    with pytest.raises(InputError, match="NOT_CODE is a object and cannot be passed"):
        launch.script(uses_an_object)


def test_the_script_holds_what_the_worker_uses_and_no_more():
    text = launch.script(works, number=17)
    namespace = {"__name__": "elsewhere"}
    exec(text, namespace)
    assert namespace["Adder"](2).add(16) == 2 + 4 * FACTOR
    assert "NOT_CODE" not in text and "pytest" not in text
    assert "    result = works(number=17)\n" in text and "utils" not in text


@pytest.mark.slow
def test_the_script_runs_by_hand(tmp_path):
    (tmp_path / "worker.py").write_text(launch.script(works, number=17))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1", "worker.py"]
    subprocess.run(torchrun, cwd=tmp_path, check=True, capture_output=True, timeout=120)
    assert torch.load(tmp_path / "0.pt")["seen"] == {"all": 1 + 4 * FACTOR}
