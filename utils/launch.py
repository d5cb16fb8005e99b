"""Run a function in several real processes that talk through `torch.distributed`, and get one result from each.

`run(worker, 4)` writes the function, and all that it uses, into a script, starts that script four times with
PyTorch's own launcher `torchrun`, and returns what the four calls returned, in the order of their ranks. The processes
use NCCL and one GPU each where there are as many GPUs as processes, else gloo and the CPU. They never outlive the call.
"""

import inspect
import json
import linecache
import os
import pickle
import re
import socket
import subprocess
import symtable
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from string import Template
from typing import Any

import psutil
import torch

from utils.errors import CourseError, InputError

ROOT = Path(__file__).resolve().parent.parent  # where `import utils` works
MAIN = Template((Path(__file__).parent / "data" / "worker.txt").read_text(encoding="utf-8"))
EXIT_CODE = re.compile(r"rank\s*: (\d+) .*\n\s*exitcode\s*: (-?\d+)")  # in torchrun's summary of failures


class LaunchError(CourseError, RuntimeError):
    """A process failed or took too long. The message is one line; the notes show what all of them wrote."""


def run(
    worker: Callable, processes: int, *, timeout: float = 120, port: int | None = None, **arguments: Any
) -> list[Any]:
    """Call `worker(**arguments)` in several processes at once and return their results, rank 0 first.

    In each process `torch.distributed` is ready. What a worker prints is printed here, marked with its rank.

    Args:
        worker: a function of a notebook or module. It returns tensors, numbers and texts, or lists or dictionaries of
            them.
        processes: how many, at least 1.
        timeout: seconds after which all are ended, the start of Python included.
        port: port of this machine at which they meet; None takes a free one.
        arguments: numbers, texts, and lists or dictionaries of them.

    Raises:
        InputError: processes, timeout or port out of range, the port in use, or something that cannot be passed on.
        LaunchError: a process failed, or the time is over. All are ended by then.
    """
    if type(processes) is not int or processes < 1:
        raise InputError(f"processes must be a whole number from 1; got {processes!r}")
    if not timeout > 0:
        raise InputError(f"timeout must be more than 0 seconds; got {timeout!r}")
    meet = ["--standalone"] if port is None else ["--master-addr=127.0.0.1", f"--master-port={_free(port)}"]
    with tempfile.TemporaryDirectory(prefix="launch-") as name:
        folder = Path(name)
        program, log = folder / "worker.py", folder / "log"
        program.write_text(script(worker, **arguments), encoding="utf-8")
        command = [sys.executable, "-m", "torch.distributed.run", *meet, "--local-addr=127.0.0.1"]
        command += [f"--nproc-per-node={processes}", "--redirects=3", f"--log-dir={folder}", str(program)]
        options = {"env": _environment(processes, folder, timeout), "stderr": subprocess.STDOUT}
        with log.open("wb") as stream:
            torchrun = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stream, **options)
        try:
            code = torchrun.wait(timeout)
        except subprocess.TimeoutExpired:
            code = None
        finally:  # also when the notebook is interrupted
            _end(torchrun)
        if code != 0:
            error = LaunchError(_problem(folder, processes, timeout if code is None else None))
            for text in [_text(log), *(_written(folder, rank, "stderr.log") for rank in range(processes))]:
                error.add_note(text[-2000:])
            raise error
        for rank in range(processes):
            for line in _written(folder, rank, "stdout.log").splitlines():
                print(f"[rank {rank}] {line}")
        return [_result(folder / f"{rank}.pt") for rank in range(processes)]


def script(worker: Callable, **arguments: Any) -> str:
    """The program that each process runs: the worker, all that it uses, and a main function that calls it.

    `torchrun --nproc-per-node=4 worker.py` runs it by hand, and leaves the results as files.

    Raises InputError where the worker or something that it uses cannot be written down as code.
    """
    parts: dict[str, str] = {}
    _write_down(worker.__name__, worker, worker, parts)
    for name, value in arguments.items():
        _literal(f"the argument {name}", value)
    imports = sorted(text for text in parts.values() if text.startswith(("import ", "from ")))
    code = [text for text in parts.values() if text not in imports]
    new = [text for text in imports if text not in MAIN.template.splitlines()]
    call = f"{worker.__name__}({', '.join(f'{name}={value!r}' for name, value in arguments.items())})"
    return MAIN.substitute(imports="\n".join(new), code="\n\n\n".join(code), call=call)


def _result(file: Path) -> Any:
    """What a worker has returned. Only data is read, no objects of other kinds."""
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        more = "more than tensors, numbers and texts: only data comes back"
        raise LaunchError(f"rank {file.stem} returned {more}") from None


def _write_down(name: str, thing: Any, worker: Callable, parts: dict[str, str]) -> None:
    """Add to `parts` the code that gives `thing` its name, after the code of all that it uses itself."""
    if name in parts:
        return
    home, own_name = getattr(thing, "__module__", None), getattr(thing, "__qualname__", None)
    renamed = f" as {name}" if name != (own_name or getattr(thing, "__name__", name)) else ""
    if inspect.ismodule(thing):
        parts[name] = f"import {thing.__name__}{renamed}"
    elif home is None or own_name is None:
        parts[name] = f"{name} = {_literal(name, thing)}"
    elif home != worker.__module__:
        if getattr(sys.modules.get(home), own_name, None) is not thing:
            raise InputError(f"{name} cannot be imported by that name: use it through its module, as in module.{name}")
        parts[name] = f"from {home} import {own_name}{renamed}"
    else:
        parts[name] = ""  # it may use itself
        source = _source(thing)
        for used in sorted(_globals(source) & worker.__globals__.keys()):
            _write_down(used, worker.__globals__[used], worker, parts)
        parts[name] = parts.pop(name) or source.rstrip()


def _source(thing: Any) -> str:
    """Source of a function or class; inspect finds no classes of a notebook, so those are found by a method."""
    try:
        if not inspect.isclass(thing):
            return inspect.getsource(thing)
        method = next(value for value in vars(thing).values() if inspect.isfunction(value)).__code__
        lines = linecache.getlines(method.co_filename)
        start = max(n for n in range(method.co_firstlineno) if lines[n].startswith(f"class {thing.__name__}"))
        return "".join(inspect.getblock(lines[start:]))
    except (OSError, TypeError, StopIteration, ValueError):
        raise InputError(f"the source of {thing.__name__} cannot be found: write it as a def in a cell") from None


def _globals(source: str) -> set[str]:
    """Names that a piece of code takes from outside."""
    tables, names = [symtable.symtable(source, "cell", "exec")], set()
    for table in tables:  # grows while it is read
        outside = table.get_type() == "module"
        names |= {s.get_name() for s in table.get_symbols() if s.is_referenced() and (outside or s.is_global())}
        tables += table.get_children()
    return names


def _literal(name: str, value: Any) -> str:
    """A number, text, or list or dictionary of them, as code."""
    try:
        json.dumps(value)
    except TypeError:
        kind = type(value).__name__
        raise InputError(f"{name} is a {kind} and cannot be passed to another process: make it there") from None
    return repr(value)


def _free(port: int) -> int:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port or -1))  # 0 would stand for any port
        except (OSError, OverflowError, TypeError) as error:
            reason = getattr(error, "strerror", "it must be a whole number from 1 to 65535")
            raise InputError(f"port {port!r} cannot be used ({reason}): port=None takes a free one") from None
    return port


def _environment(processes: int, folder: Path, timeout: float) -> dict[str, str]:
    addresses = psutil.net_if_addrs().items()
    loopback = next((name for name, found in addresses if any(a.address == "127.0.0.1" for a in found)), None)
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    ours = {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    ours |= {"PYTHONIOENCODING": "utf-8", "LAUNCH_FOLDER": str(folder), "LAUNCH_TIMEOUT": str(timeout)}
    ours |= {"GLOO_SOCKET_IFNAME": loopback} if loopback else {}
    ours |= {"CUDA_VISIBLE_DEVICES": ""} if torch.cuda.device_count() < processes else {}
    return os.environ | ours


def _end(torchrun: subprocess.Popen) -> None:
    """Kill torchrun and all that it started. Each of its workers stands in a process group of its own."""
    if torchrun.poll() is None:
        parent = psutil.Process(torchrun.pid)
        parent.suspend()  # so that it starts no other
        family = [*parent.children(recursive=True), parent]
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(family, timeout=10)
    torchrun.wait()


def _problem(folder: Path, processes: int, timeout: float | None) -> str:
    """One line about what went wrong: which rank failed first, and the last line of its error."""
    files = sorted(folder.glob("*/attempt_0/*/error.json"), key=lambda file: file.stat().st_mtime_ns)
    errors = {int(file.parent.name): json.loads(_text(file))["message"]["message"] for file in files}
    codes = {int(rank): int(code) for rank, code in EXIT_CODE.findall(_text(folder / "log"))}
    silent = sorted(rank for rank, code in codes.items() if rank not in errors and code != -15)  # -15: by torchrun
    if silent:
        last = _written(folder, silent[0], "stderr.log").strip().splitlines() or ["no message"]
        return f"rank {silent[0]} of {processes} ended with exit code {codes[silent[0]]}: {last[-1]}"
    for rank, error in errors.items():  # the first; the others fail because this one is gone
        return f"rank {rank} of {processes} failed: {error.strip().splitlines()[-1]}"
    if timeout is not None:
        missing = ", ".join(str(rank) for rank in range(processes) if not Path(folder, f"{rank}.pt").exists())
        return f"no result within {timeout:g} s from rank {missing}; all {processes} processes are ended"
    return f"torchrun failed: {(_text(folder / 'log').strip() or 'it wrote nothing').splitlines()[-1]}"


def _written(folder: Path, rank: int, file: str) -> str:
    """What a rank wrote to "stdout.log" or "stderr.log"."""
    return "".join(_text(path) for path in folder.glob(f"*/attempt_0/{rank}/{file}"))


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")
