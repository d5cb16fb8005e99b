"""One notebook in a fresh kernel: `python -m tools.execute NOTEBOOK FOLDER SECONDS`, a process that can be ended.

It leaves `executed.ipynb` and `result.json` in FOLDER, and while it runs, the index of the cell in `cell`. When its
standard input is closed, it ends with its kernel and all that the kernel started: so nothing outlives whoever asked.
"""

import contextlib
import copy
import json
import os
import re
import signal
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import nbformat
import psutil
from jupyter_client.kernelspec import KernelSpecManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbconvert.filters import strip_ansi
from nbconvert.preprocessors.coalescestreams import CoalesceStreamsPreprocessor
from nbformat import NotebookNode

from tools.report import Failure
from utils.chapters import ROOT
from utils.claims import VERDICT_MIME

SAMPLE_EVERY = 0.25  # seconds between two looks at memory
WIDGET_STATE = "application/vnd.jupyter.widget-state+json"
ERROR_LINES = 8  # how much of a traceback is shown


class _Meter:
    """Peak resident memory, in bytes, of this process's children: the kernel, and what it starts."""

    def __init__(self) -> None:
        self.peak, self.seen = 0, set[psutil.Process]()

    def watch(self) -> None:
        """Look again and again, as long as this process lives."""
        while True:
            self.look()
            time.sleep(SAMPLE_EVERY)

    def look(self) -> None:
        """Take the memory of now, and each process's own high-water mark where the system keeps one."""
        self.seen |= set(psutil.Process().children(recursive=True))
        total = 0
        for child in list(self.seen):
            with contextlib.suppress(psutil.Error, OSError):  # it has just ended
                self.peak = max(self.peak, _high_water_mark(child))
                total += child.memory_info().rss
        self.peak = max(self.peak, total)

    def end_all(self) -> None:
        """Kill every process that was seen, also one that has left the kernel."""
        self.look()
        for child in self.seen:
            with contextlib.suppress(psutil.Error):  # it has ended by itself
                child.kill()


def _high_water_mark(process: psutil.Process) -> int:
    """Largest resident set of one process so far, in bytes; 0 where the system does not keep it (macOS)."""
    if sys.platform == "linux":
        found = re.search(r"^VmHWM:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text(), re.M)
        return int(found[1]) * 1024 if found else 0
    return getattr(process.memory_info(), "peak_wset", 0)


def _environment(folder: Path) -> dict[str, str]:
    """Variables of a kernel: those of this process and its `utils`, without the user's profile and progress."""
    kept = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
    path = os.pathsep.join(filter(None, (str(ROOT), kept.get("PYTHONPATH"))))
    own = {"PYTHONPATH": path, "IPYTHONDIR": str(folder), "COURSE_PROGRESS": str(folder / "progress.json")}
    return kept | own | {"TQDM_DISABLE": "1"}


def execute(notebook: NotebookNode, place: Path, folder: Path, timeout: float, meter: _Meter) -> dict[str, Any]:
    """Run all cells with the working folder `place`; outputs go into the notebook. Returns status and failure."""
    at, log = folder / "cell", folder / "kernel.log"
    options = {"timeout": timeout, "startup_timeout": 120, "record_timing": False, "kernel_name": "python3"}
    client = NotebookClient(notebook, **options)
    client.on_cell_start = lambda cell, cell_index: at.write_text(str(cell_index))
    client.on_cell_executed = lambda **_: meter.look()
    manager = client.create_kernel_manager()
    # No folder to look for kernels: this Python's own is left, whatever else is installed under its name.
    manager.kernel_spec_manager = KernelSpecManager(kernel_dirs=[])
    if os.name != "nt":  # of two kernels that start at once, both may choose the same TCP port: one then never answers
        manager.transport, manager.connection_file = "ipc", str(folder / "kernel.json")
    with log.open("wb") as output:
        try:
            client.execute(cwd=str(place), env=_environment(folder), stdout=output, stderr=output)
            return {"status": "ok", "failure": None}
        except CellExecutionError:
            outputs = notebook.cells[int(at.read_text())].outputs
            status, error = "cell failed", "\n".join(line for out in outputs for line in out.get("traceback", []))
        except CellTimeoutError:
            status, error = "timed out", f"The cell ran longer than {timeout:g} s."
        except DeadKernelError:
            code = getattr(getattr(manager.provisioner, "process", None), "returncode", None)
            status, error = "kernel died", f"{_last_words(log)}\n{_ending(code)}"
        except RuntimeError as problem:
            status, error = "kernel died", f"{_last_words(log)}\n{problem}"
    begun = notebook.cells[: int(at.read_text()) + 1] if at.exists() else []
    return {"status": status, "failure": asdict(_failure(begun, strip_ansi(error)))}


def _failure(cells: list[NotebookNode], error: str) -> Failure:
    """The failure of the last of these cells, if there are any, with the line that its traceback names."""
    code_cells = [cell for cell in cells if cell.cell_type == "code"]
    line, source = None, ""
    if cells:
        lines = cells[-1].source.splitlines()
        frames = re.findall(rf"Cell In\[{cells[-1].execution_count}\], line (\d+)", error)
        line = int(frames[-1]) if frames else None
        source = lines[line - 1] if line and line <= len(lines) else next(filter(str.strip, lines), "")
    told = [text.rstrip() for text in error.splitlines() if text.strip()][-ERROR_LINES:]
    return Failure(len(cells), len(code_cells), line, source.strip(), "\n".join(told))


def _ending(code: int | None) -> str:
    """How the kernel's process ended, in words."""
    if code is None or code >= 0:
        return f"The kernel ended with exit code {code}."
    name = signal.Signals(-code).name
    hint = " The system kills a process so when memory runs out." if name == "SIGKILL" else ""
    return f"The kernel was ended by {name}.{hint}"


def _last_words(log: Path) -> str:
    """What a kernel wrote past its notebook, without what every kernel says at its start."""
    return "\n".join(line for line in log.read_text(errors="replace").splitlines() if "IPKernelApp" not in line)


def normalised(notebook: NotebookNode) -> NotebookNode:
    """An executed notebook as the repository keeps it: the same run gives the same file on every machine.

    Kernel and language are named without a patch version, and times are dropped. The state of widgets stays,
    because without it JupyterLab shows an error in their place until the cell runs; their random ids become
    numbers.
    """
    notebook = copy.deepcopy(notebook)
    kernel = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
    language = {"file_extension": ".py", "mimetype": "text/x-python", "name": "python", "pygments_lexer": "ipython3"}
    notebook.metadata.update(kernelspec=kernel, language_info=language)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
    ids = notebook.metadata.get("widgets", {}).get(WIDGET_STATE, {}).get("state", {})
    text = nbformat.writes(notebook)
    for place, widget in enumerate(ids):
        text = text.replace(widget, f"widget-{place:03d}")
    return nbformat.reads(text, as_version=4)


def main(path: Path, folder: Path, timeout: float) -> None:
    meter = _Meter()

    def end_with_whoever_asked() -> None:
        sys.stdin.buffer.read()
        meter.end_all()
        os._exit(1)

    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.update(outputs=[], execution_count=None)
    for work in (end_with_whoever_asked, meter.watch):
        threading.Thread(target=work, daemon=True).start()
    started = time.monotonic()
    ended = execute(notebook, path.parent, folder, timeout, meter)
    meter.end_all()
    # How a stream is cut into pieces depends on the moment; one output for consecutive pieces does not.
    CoalesceStreamsPreprocessor().preprocess(notebook, {})
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    verdicts = [output.data[VERDICT_MIME] for output in outputs if VERDICT_MIME in output.get("data", {})]
    ended |= {"seconds": time.monotonic() - started, "peak_mb": meter.peak / 1e6, "verdicts": verdicts}
    nbformat.write(normalised(notebook), folder / "executed.ipynb")
    (folder / "result.json").write_text(json.dumps(ended))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]))
