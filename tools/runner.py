"""Run notebooks, each in a fresh kernel: the whole course with a report (`run`), or one to store (`save`).

All kernels are driven from one event loop in a background thread. The main thread waits, so that Ctrl-C
reaches it and nothing else; it then stops the kernels and every process that they started.
"""

import asyncio
import contextlib
import copy
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import nbformat
import psutil
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbconvert.preprocessors.coalescestreams import CoalesceStreamsPreprocessor
from nbformat import NotebookNode
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from tools import pages, report
from tools.choices import choose
from tools.generated import measured
from utils import files
from utils.chapters import NOTEBOOKS, ROOT, notebook_paths
from utils.claims import VERDICT_MIME
from utils.errors import CourseError

CELL_TIMEOUT = 600  # seconds
SAMPLE_EVERY = 0.25  # seconds between two looks at memory
ERROR_LINES = 8  # how much of a traceback is shown
WIDGET_STATE = "application/vnd.jupyter.widget-state+json"
_ANSI = re.compile(r"\x1b\[[0-9;]*m")


class RunError(CourseError, ValueError):
    """What should run is not there, is no notebook, or cannot run so; the message says what is allowed."""


class NotebookFailed(CourseError, RuntimeError):
    """A notebook that should have been stored has a failing cell; the message says where and why."""


@dataclass(frozen=True)
class Failure:
    """Where and why a notebook stopped.

    Attributes:
        cell: its place among all cells, counted from 1; 0 if the kernel did not start.
        code_cell: its place among the code cells, counted from 1.
        line: the line in the cell, counted from 1; None where the kernel did not name it.
        source: that line of the cell, or the cell's first line.
        error: the last lines of the error.
    """

    cell: int
    code_cell: int
    line: int | None
    source: str
    error: str

    def __str__(self) -> str:
        place = f"cell {self.cell} (code cell {self.code_cell})" + (f", line {self.line}" if self.line else "")
        return f"{place}: {self.source}\n{self.error}"


@dataclass(frozen=True)
class ChapterResult:
    """What the run of one chapter gave.

    Attributes:
        number: "05".
        title: its first heading, without the number.
        notebook: file name.
        status: "ok", "cell failed", "timed out" or "kernel died".
        seconds: wall time from the start of the kernel to its end.
        peak_mb: peak resident memory of the kernel and the processes it started, in MB (10**6 bytes).
        verdicts: what `claims.verdict` recorded, in order.
        failure: where it stopped; None when ok.
    """

    number: str
    title: str
    notebook: str
    status: str
    seconds: float
    peak_mb: float
    verdicts: list[dict[str, Any]]
    failure: Failure | None

    @property
    def ok(self) -> bool:
        """Whether every cell ran."""
        return self.status == "ok"

    def record(self) -> dict[str, Any]:
        """The chapter's part of `report.json`."""
        rounded = {"seconds": round(self.seconds, 1), "peak_mb": round(self.peak_mb, 1)}
        return asdict(self) | rounded | {"handout": _handout(self.notebook)}


def _handout(notebook: str) -> str:
    """Path of a chapter's handout inside the build folder."""
    return f"handouts/{Path(notebook).stem}.html"


@dataclass
class _Job:
    """A notebook on its way through the runner."""

    path: Path
    notebook: NotebookNode
    expected: float | None  # seconds of an earlier run
    cell: int = 0  # index of the cell that runs
    started: float | None = None
    result: ChapterResult | None = None

    @property
    def number(self) -> str:
        return self.path.name[:2]

    @property
    def title(self) -> str:
        headings = re.findall(r"^# +(?:\d\d · )?(.+)$", "\n".join(c.source for c in self.notebook.cells), re.M)
        return headings[0].strip() if headings else self.path.stem

    def seconds_left(self) -> float | None:
        """An estimate: from the earlier run where there was one, else from the cells that are done."""
        if self.started is None:
            return self.expected
        elapsed = time.monotonic() - self.started
        if self.expected:
            return max(self.expected - elapsed, 0.0)
        return elapsed * (len(self.notebook.cells) - self.cell) / self.cell if self.cell else None


def run_course(only: str | None = None, jobs: int = 1) -> tuple[int, list[ChapterResult]]:
    """Run chapters, write handouts and report to `build/`, print a table and every failure.

    Args:
        only: chapter numbers separated by commas; None for all.
        jobs: how many notebooks run at the same time.

    Returns:
        The exit code: 0, 1 if a chapter failed, 130 after Ctrl-C; and what each chapter gave.

    Raises:
        RunError: an unknown chapter, or jobs below 1.
    """
    console = Console()
    try:
        results = run_notebooks(only, jobs, console=console)
    except KeyboardInterrupt:
        console.print("Stopped. The kernels are shut down; the report of an earlier run is unchanged.")
        return 130, []
    for result in results:
        if result.failure:
            console.print(f"\nchapter {result.number}: {result.status}", style="bold red", highlight=False)
            console.print(f"{result.notebook}, {result.failure}", markup=False, highlight=False, soft_wrap=True)
    console.print(_table(results))
    console.print("Handouts: build/handouts/  Report: build/report.html", highlight=False)
    return (0 if all(result.ok for result in results) else 1), results


def run_notebooks(
    only: str | None = None,
    jobs: int = 1,
    *,
    notebooks: Path = NOTEBOOKS,
    build: Path = ROOT / "build",
    cell_timeout: float = CELL_TIMEOUT,
    console: Console | None = None,
) -> list[ChapterResult]:
    """Execute notebooks and write `handouts/*.html`, `report.html` and `report.json`.

    A failing chapter does not stop the others. The notebooks themselves stay as they are.

    Args:
        only: chapter numbers separated by commas; None for all.
        jobs: how many notebooks run at the same time.
        notebooks: the folder with `NN_name.ipynb`, which is also where the kernels run.
        build: the folder for what is written.
        cell_timeout: seconds that one cell may take.
        console: where progress goes; bars on a terminal, one line at a chapter's start and end elsewhere.

    Raises:
        RunError: an unknown chapter, no notebooks, an unreadable notebook, or jobs below 1.
        KeyboardInterrupt: Ctrl-C; all kernels are shut down by then.
    """
    if jobs < 1:
        raise RunError(f"--jobs must be 1 or more; got {jobs}")
    start = time.monotonic()
    paths = notebook_paths(notebooks)
    chapters = [_load(path) for path in _select(paths, only, notebooks)]

    def keep(chapter: _Job) -> None:
        target = build / _handout(chapter.path.name)
        pages.write_page(chapter.notebook, f"{chapter.number} · {chapter.title}", notebooks, target)

    results = _execute_all(chapters, jobs, cell_timeout, console or Console(), keep)
    report.write_report(report.summary(results, len(paths), time.monotonic() - start), build)
    return results


def save(notebook: Path, *, cell_timeout: float = CELL_TIMEOUT, console: Console | None = None) -> ChapterResult:
    """Execute a notebook in a fresh kernel and store it in place, with its outputs and normalised metadata.

    Raises:
        NotebookFailed: a cell failed; the file is unchanged.
        RunError: the file is no notebook.
    """
    notebook = Path(notebook).resolve()

    def keep(chapter: _Job) -> None:
        if chapter.result and chapter.result.ok:
            text = nbformat.writes(normalised(chapter.notebook))
            files.write(notebook, text.rstrip("\n") + "\n")

    [result] = _execute_all([_load(notebook)], 1, cell_timeout, console or Console(), keep)
    if not result.ok:
        raise NotebookFailed(f"{notebook.name} is not saved: {result.status}, {result.failure}")
    return result


def normalised(notebook: NotebookNode) -> NotebookNode:
    """An executed notebook as the repository keeps it: the same run gives the same file on every machine.

    Kernel and language are named without a patch version, and times are dropped. The state of widgets stays,
    because without it JupyterLab shows an error in their place until the cell runs; their random ids become
    numbers.
    """
    notebook = copy.deepcopy(notebook)
    notebook.metadata["kernelspec"] = {
        "display_name": "Python 3 (ipykernel)",
        "language": "python",
        "name": "python3",
    }
    notebook.metadata["language_info"] = {
        "file_extension": ".py",
        "mimetype": "text/x-python",
        "name": "python",
        "pygments_lexer": "ipython3",
    }
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
    ids = notebook.metadata.get("widgets", {}).get(WIDGET_STATE, {}).get("state", {})
    text = nbformat.writes(notebook)
    for place, widget in enumerate(ids):
        text = text.replace(widget, f"widget-{place:03d}")
    return nbformat.reads(text, as_version=4)


def _select(paths: list[Path], only: str | None, folder: Path) -> list[Path]:
    known = {path.name[:2]: path for path in paths}
    if not known:
        raise RunError(f"no notebooks named NN_name.ipynb in {folder}")
    return choose(only, known, "chapter")


def _load(path: Path) -> _Job:
    try:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
    except (ValueError, AttributeError, nbformat.ValidationError) as error:
        raise RunError(f"{path} is not a notebook: {str(error).splitlines()[0]}") from error
    known = measured().get(path.name[:2])
    return _Job(path, notebook, known and known.seconds)


def _execute_all(
    chapters: list[_Job],
    jobs: int,
    cell_timeout: float,
    console: Console,
    keep: Callable[[_Job], None],
) -> list[ChapterResult]:
    """Execute chapters, at most `jobs` at a time; hand each to `keep`, in another thread, when it is done."""

    async def one(chapter: _Job, turn: asyncio.Semaphore, display: _Display) -> ChapterResult:
        async with turn:
            display.started(chapter)
            result = chapter.result = await _execute(chapter, cell_timeout, display)
            await asyncio.to_thread(keep, chapter)
            display.finished(chapter, result)
            return result

    async def everything(display: _Display) -> list[ChapterResult]:
        turn = asyncio.Semaphore(jobs)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(chapter, turn, display)) for chapter in chapters]
        except ExceptionGroup as group:  # a full disk, say; one clear error is enough
            raise group.exceptions[0] from None
        return [task.result() for task in tasks]

    with _Display(console, chapters, jobs) as display:
        return _in_background(everything(display))


def _in_background(work: Coroutine[Any, Any, list[ChapterResult]]) -> list[ChapterResult]:
    """Run a coroutine in a thread; on Ctrl-C cancel it, wait until it has cleaned up, then raise."""
    # Windows' default loop cannot serve the kernels' sockets. Runner closes the loop and what is left in it.
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        loop = runner.get_loop()
        task = loop.create_task(work)
        done = threading.Event()
        task.add_done_callback(lambda _: done.set())
        thread = threading.Thread(target=loop.run_forever, name="notebooks", daemon=True)
        thread.start()
        try:
            while not done.wait(0.2):  # with a limit, because Windows handles Ctrl-C only between two waits
                pass
            return task.result()
        except BaseException:
            # nbclient leaves tasks behind when it is cancelled; their complaints would only confuse.
            loop.set_exception_handler(lambda *_: None)
            loop.call_soon_threadsafe(task.cancel)
            done.wait()
            raise
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()


async def _execute(chapter: _Job, cell_timeout: float, display: "_Display") -> ChapterResult:
    """Execute one notebook in a fresh kernel; its outputs go into `chapter.notebook`."""
    meter = _Meter()

    def cell_starts(cell: NotebookNode, cell_index: int) -> None:
        chapter.cell = cell_index
        display.moved(chapter)

    for cell in chapter.notebook.cells:
        if cell.cell_type == "code":
            cell.update(outputs=[], execution_count=None)
    client = NotebookClient(
        chapter.notebook,
        timeout=cell_timeout,
        startup_timeout=120,
        kernel_name="python3",
        record_timing=False,
        on_cell_start=cell_starts,
        on_cell_executed=lambda **_: meter.look(),
    )
    manager = client.create_kernel_manager()
    # No folder to look for kernels: this Python's own is left, whatever else is installed under its name.
    manager.kernel_spec_manager = KernelSpecManager(kernel_dirs=[])
    chapter.started = time.monotonic()
    status, failure = "ok", None
    with tempfile.TemporaryDirectory(prefix="course-", ignore_cleanup_errors=True) as folder:
        log = Path(folder) / "kernel.log"
        with log.open("wb") as output:
            watch = asyncio.ensure_future(meter.watch(manager))
            try:
                kernel = {"cwd": str(chapter.path.parent), "env": _environment(folder)}
                await _stop_at_once(client, client.async_execute(**kernel, stdout=output, stderr=output))
            except CellExecutionError:
                outputs = chapter.notebook.cells[chapter.cell].outputs
                traces = [line for output in outputs for line in output.get("traceback", [])]
                status, failure = "cell failed", _failure(chapter, "\n".join(traces))
            except CellTimeoutError:
                status = "timed out"
                failure = _failure(chapter, f"The cell ran longer than {cell_timeout:g} s.")
            except DeadKernelError:
                status, failure = "kernel died", _failure(chapter, f"{_last_words(log)}\n{meter.ending()}")
            except RuntimeError as error:  # the kernel did not start
                status = "kernel died"
                failure = Failure(0, 0, None, "", _tail(f"{_last_words(log)}\n{error}"))
            finally:
                watch.cancel()
                meter.end_stragglers()
    seconds = time.monotonic() - chapter.started
    # How a stream is cut into pieces depends on the moment; one output for consecutive pieces does not.
    CoalesceStreamsPreprocessor().preprocess(chapter.notebook, {})
    outputs = [output for cell in chapter.notebook.cells for output in cell.get("outputs", [])]
    verdicts = [output.data[VERDICT_MIME] for output in outputs if VERDICT_MIME in output.get("data", {})]
    name = chapter.path.name
    return ChapterResult(chapter.number, chapter.title, name, status, seconds, meter.peak / 1e6, verdicts, failure)


async def _stop_at_once(client: NotebookClient, execution: Coroutine[Any, Any, Any]) -> None:
    """Await an execution; when cancelled, kill its kernel instead of asking it to finish.

    nbclient reports a cancellation as a dead kernel, so the execution runs as a task of its own.
    """
    task = asyncio.ensure_future(execution)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        client.shutdown_kernel = "immediate"
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        raise


def _environment(folder: str) -> dict[str, str]:
    """Variables of a kernel: those of this process and its `utils`, without the user's profile and progress."""
    kept = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
    path = os.pathsep.join(filter(None, (str(ROOT), kept.get("PYTHONPATH"))))
    own = {"PYTHONPATH": path, "IPYTHONDIR": folder, "COURSE_PROGRESS": f"{folder}/progress.json", "TQDM_DISABLE": "1"}
    # Threads that wait for each other let another program have the core soon; on a busy machine that halves the time.
    return {"GOMP_SPINCOUNT": "1000"} | kept | own


def _failure(chapter: _Job, error: str) -> Failure:
    """The failure of the cell that runs, with the line that its traceback names."""
    before = chapter.notebook.cells[: chapter.cell + 1]
    lines = before[-1].source.splitlines()
    error = _ANSI.sub("", error)
    execution = before[-1].execution_count
    frames = re.findall(rf"Cell In\[{execution}\], line (\d+)", error)
    line = int(frames[-1]) if frames else None
    source = lines[line - 1] if line and line <= len(lines) else next(filter(str.strip, lines), "")
    code_cell = sum(cell.cell_type == "code" for cell in before)
    return Failure(chapter.cell + 1, code_cell, line, source.strip(), _tail(error))


def _last_words(log: Path) -> str:
    """What a kernel wrote past its notebook, without what every kernel says at its start."""
    lines = log.read_text(errors="replace").splitlines()
    return "\n".join(line for line in lines if "IPKernelApp" not in line)


def _tail(text: str) -> str:
    return "\n".join([line.rstrip() for line in text.splitlines() if line.strip()][-ERROR_LINES:])


@dataclass
class _Meter:
    """Peak resident memory of a kernel and the processes that it starts, in bytes."""

    peak: int = 0
    kernel: subprocess.Popen[bytes] | None = None
    seen: set[psutil.Process] = field(default_factory=set)

    async def watch(self, manager: AsyncKernelManager) -> None:
        """Look again and again, from the start of the kernel until cancelled."""
        while True:
            self.kernel = self.kernel or getattr(manager.provisioner, "process", None)
            self.look()
            await asyncio.sleep(SAMPLE_EVERY)

    def look(self) -> None:
        """Take the memory of now, and the kernel's own high-water mark where the system keeps one."""
        if self.kernel is None:
            return
        total = 0
        try:
            kernel = psutil.Process(self.kernel.pid)
            self.seen.update(kernel.children(recursive=True))
            self.peak = max(self.peak, _high_water_mark(kernel))
            total = kernel.memory_info().rss
        except psutil.Error:  # it has just ended
            return
        for child in [child for child in self.seen if child.is_running()]:
            try:
                total += child.memory_info().rss
            except psutil.Error:
                self.seen.discard(child)
        self.peak = max(self.peak, total)

    def end_stragglers(self) -> None:
        """Kill the processes that the kernel started and left behind."""
        for child in self.seen:
            with contextlib.suppress(psutil.Error):  # it has ended by itself
                child.kill()

    def ending(self) -> str:
        """How the kernel's process ended, in words."""
        code = self.kernel.returncode if self.kernel else None
        if code is None or code >= 0:
            return f"The kernel ended with exit code {code}."
        name = signal.Signals(-code).name
        hint = " The system kills a process so when memory runs out." if name == "SIGKILL" else ""
        return f"The kernel was ended by {name}.{hint}"


def _high_water_mark(process: psutil.Process) -> int:
    """Largest resident set of one process so far, in bytes; 0 where the system does not keep it (macOS)."""
    if sys.platform == "linux":
        try:
            found = re.search(r"^VmHWM:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text(), re.M)
        except OSError:
            return 0
        return int(found[1]) * 1024 if found else 0
    return getattr(process.memory_info(), "peak_wset", 0)


class _TimeLeft(ProgressColumn):
    def render(self, task: Task) -> Text:
        left = task.fields["left"]()
        return Text(
            "" if left is None else f"about {left / 60:.0f} min left" if left > 90 else f"about {left:.0f} s left"
        )


class _Display:
    """Progress: bars on a terminal, elsewhere one line at the start and one at the end of a chapter."""

    def __init__(self, console: Console, chapters: list[_Job], jobs: int) -> None:
        self.console, self.chapters, self.jobs = console, chapters, jobs
        self.bars: dict[str, TaskID] = {}
        self.done = 0
        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[unit]} {task.fields[at]}/{task.total}"),
            TimeElapsedColumn(),
            _TimeLeft(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.all = self.progress.add_task("all", total=len(chapters), at=0, unit="chapters", left=self._left)

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def started(self, chapter: _Job) -> None:
        title = f"{chapter.number} {chapter.title}"
        total = len(chapter.notebook.cells)
        if self.console.is_terminal:
            self.bars[chapter.number] = self.progress.add_task(
                title, total=total, at=1, unit="cell", left=chapter.seconds_left
            )
        else:
            guess = f", about {chapter.expected:.0f} s" if chapter.expected else ""
            self.console.print(f"{title}: starts, {total} cells{guess}", markup=False, highlight=False)

    def moved(self, chapter: _Job) -> None:
        if chapter.number in self.bars:
            self.progress.update(self.bars[chapter.number], completed=chapter.cell, at=chapter.cell + 1)

    def finished(self, chapter: _Job, result: ChapterResult) -> None:
        if chapter.number in self.bars:
            self.progress.remove_task(self.bars.pop(chapter.number))
        self.done += 1
        self.progress.update(self.all, completed=self.done, at=self.done)
        end = f"{result.status}, {result.seconds:.0f} s, {result.peak_mb:.0f} MB"
        self.progress.console.print(f"{result.number} {result.title}: {end}", markup=False, highlight=False)

    def _left(self) -> float | None:
        """Seconds left for all chapters; one that was never timed counts as the mean of those now done."""
        done = [chapter.result.seconds for chapter in self.chapters if chapter.result]
        mean = sum(done) / len(done) if done else None
        left = []
        for chapter in self.chapters:
            if chapter.result is None:
                guess = chapter.seconds_left()
                left.append(mean if guess is None else guess)
        known = [seconds for seconds in left if seconds is not None]
        return sum(known) / self.jobs if len(known) == len(left) else None


def _table(results: list[ChapterResult]) -> Table:
    table = Table(title="DeepSeek by the Numbers", title_justify="left")
    for name, justify in (("chapter", "left"), ("title", "left"), ("seconds", "right"), ("peak MB", "right")):
        table.add_column(name, justify=justify)
    table.add_column("verdicts")
    table.add_column("status")
    for result in results:
        table.add_row(
            result.number,
            Text(result.title),
            f"{result.seconds:.1f}",
            f"{result.peak_mb:.0f}",
            " ".join(verdict["claim"] for verdict in result.verdicts),
            Text(result.status, style="green" if result.ok else "bold red"),
        )
    return table
