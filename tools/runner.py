"""Run notebooks, each in a process and a kernel of its own: the whole course with a report, or one to store."""

import contextlib
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
import psutil
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from tools import pages, report
from tools.choices import choose
from tools.generated import measured
from tools.report import ChapterResult, Failure
from utils import files
from utils.chapters import NOTEBOOKS, ROOT, notebook_paths
from utils.errors import CourseError

CELL_TIMEOUT = 600  # seconds
MEMORY = 4e9  # bytes that a chapter may take, with some to spare
LOOK_EVERY = 0.1  # seconds between two looks at what runs


class RunError(CourseError, ValueError):
    """What should run is not there, is no notebook, or cannot run so; the message says what is allowed."""


class NotebookFailed(CourseError, RuntimeError):
    """A notebook that should have been stored has a failing cell; the message says where and why."""


class _Job:
    """A notebook on its way through the runner."""

    def __init__(self, path: Path) -> None:
        try:
            self.notebook = nbformat.read(path, as_version=4)  # executed, when it has ended
            nbformat.validate(self.notebook)
        except (ValueError, AttributeError, nbformat.ValidationError) as error:
            raise RunError(f"{path} is not a notebook: {str(error).splitlines()[0]}") from error
        self.path, self.number = path, path.name[:2]
        headings = re.findall(r"^# +(?:\d\d · )?(.+)$", "\n".join(c.source for c in self.notebook.cells), re.M)
        self.title = headings[0].strip() if headings else path.stem
        self.expected = measured()[self.number].seconds if self.number in measured() else None  # of an earlier run
        self.cell = 0  # index of the cell that runs
        self.started: float | None = None
        self.process: subprocess.Popen | None = None
        self.result: ChapterResult | None = None
        self.folder = tempfile.TemporaryDirectory(prefix="course-", ignore_cleanup_errors=True)

    def start(self, cell_timeout: float, environment: dict[str, str]) -> None:
        self.started = time.monotonic()
        command = [sys.executable, "-m", "tools.execute", str(self.path), self.folder.name, str(cell_timeout)]
        with (Path(self.folder.name) / "errors").open("wb") as errors:
            streams = {"stdin": subprocess.PIPE, "stdout": errors, "stderr": errors}
            # In a session of its own, so that Ctrl-C reaches this process alone, which then ends all others.
            self.process = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True, **streams)

    def look(self) -> bool:
        """Take note of the cell that runs; says whether the notebook has ended, with a result then."""
        folder = Path(self.folder.name)
        if (folder / "cell").exists():
            self.cell = int((folder / "cell").read_text() or self.cell)
        if self.process is None or self.process.poll() is None:
            return False
        if (folder / "result.json").exists():
            told = json.loads((folder / "result.json").read_text())
            self.notebook = nbformat.read(folder / "executed.ipynb", as_version=4)
        else:
            last = "\n".join((folder / "errors").read_text(errors="replace").splitlines()[-8:])
            told = {"status": "kernel died", "seconds": 0.0, "peak_mb": 0.0, "verdicts": []}
            told["failure"] = vars(Failure(0, 0, None, "", last))
        told["failure"] = told["failure"] and Failure(**told["failure"])
        self.result = ChapterResult(self.number, self.title, self.path.name, **told)
        return True

    def end(self) -> None:
        """End its process, if it still runs, with all that it started."""
        if self.process and self.process.stdin:
            self.process.stdin.close()
            self.process.wait(30)
        self.folder.cleanup()

    def seconds_left(self) -> float | None:
        """An estimate: from the earlier run where there was one, else from the cells that are done."""
        if self.started is None:
            return self.expected
        elapsed = time.monotonic() - self.started
        if self.expected:
            return max(self.expected - elapsed, 0.0)
        return elapsed * (len(self.notebook.cells) - self.cell) / self.cell if self.cell else None


def fitting_jobs() -> int:
    """How many notebooks to run at once: 2 where there are two cores and memory for both, as then all end sooner."""
    return 2 if (os.cpu_count() or 1) > 1 and psutil.virtual_memory().available >= 2 * MEMORY else 1


def run_course(only: str | None = None, jobs: int = 1) -> tuple[int, list[ChapterResult]]:
    """Run chapters, write pages and report to `build/`, print a table and every failure.

    Args:
        only: chapter numbers separated by commas; None for all.
        jobs: how many notebooks run at the same time.

    Returns:
        The exit code: 0, 1 if a chapter failed, 130 after Ctrl-C; and what each chapter gave.

    Raises:
        ChoiceError, RunError: an unknown chapter, or jobs below 1.
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
    console.print("Pages: build/handouts/  Report: build/report.html", highlight=False)
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
        ChoiceError, RunError: an unknown chapter, no notebooks, an unreadable notebook, or jobs below 1.
        KeyboardInterrupt: Ctrl-C; all kernels are ended by then.
    """
    if jobs < 1:
        raise RunError(f"--jobs must be 1 or more; got {jobs}")
    start = time.monotonic()
    known = {path.name[:2]: path for path in notebook_paths(notebooks)}
    if not known:
        raise RunError(f"no notebooks named NN_name.ipynb in {notebooks}")
    chosen = [_Job(known[number]) for number in choose(only, known, "chapter")]
    with contextlib.closing(_run_all(chosen, jobs, cell_timeout, console or Console())) as ended:
        for job in ended:
            pages.write_page(job.notebook, f"{job.number} · {job.title}", notebooks, build / job.result.page)
    results = [job.result for job in chosen if job.result]
    report.write_report(report.summary(results, len(known), time.monotonic() - start), build)
    return results


def save(notebook: Path, console: Console | None = None) -> ChapterResult:
    """Execute a notebook in a fresh kernel and store it in place, with its outputs and normalised metadata.

    Raises:
        NotebookFailed: a cell failed; the file is unchanged.
        RunError: the file is no notebook.
    """
    notebook = Path(notebook).resolve()
    [job] = _run_all([_Job(notebook)], 1, CELL_TIMEOUT, console or Console())
    if not job.result.ok:
        raise NotebookFailed(f"{notebook.name} is not saved: {job.result.status}, {job.result.failure}")
    files.write(notebook, nbformat.writes(job.notebook).rstrip("\n") + "\n")
    return job.result


def _run_all(chosen: list[_Job], jobs: int, cell_timeout: float, console: Console) -> Iterator[_Job]:
    """Execute notebooks, at most `jobs` at a time; yields each when it has ended."""
    waiting, running = list(chosen), list[_Job]()
    if jobs > 1:  # the longest first: a long one that starts last would end alone
        waiting.sort(key=lambda job: job.expected or math.inf, reverse=True)
    # Together they get as many threads as there are cores: two that share a core only wait for each other.
    threads = {"OMP_NUM_THREADS": str(max((os.cpu_count() or 1) // jobs, 1))} if jobs > 1 else {}
    environment = threads | os.environ
    with _Display(console, chosen, jobs) as display:
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    running.append(waiting.pop(0))
                    running[-1].start(cell_timeout, environment)
                    display.started(running[-1])
                time.sleep(LOOK_EVERY)
                for job in list(running):
                    if job.look():
                        yield job
                        job.end()
                        running.remove(job)
                        display.finished(job, job.result)
                    else:
                        display.moved(job)
        finally:
            for job in running:
                job.end()


class _Display(Progress):
    """Progress: bars on a terminal, elsewhere one line at the start and one at the end of a chapter."""

    def __init__(self, console: Console, chosen: list[_Job], jobs: int) -> None:
        what, left = TextColumn("{task.description}", markup=False), TextColumn("{task.fields[left]}")
        place = TextColumn("{task.fields[unit]} {task.fields[at]}/{task.total}")
        columns = (what, BarColumn(bar_width=24), place, TimeElapsedColumn(), left)
        super().__init__(*columns, console=console, transient=True, disable=not console.is_terminal)
        self.chosen, self.jobs = chosen, jobs
        self.all = self.add_task("all", total=len(chosen), at=0, unit="chapters", left="")

    def started(self, job: _Job) -> None:
        title, total = f"{job.number} {job.title}", len(job.notebook.cells)
        job.bar = self.add_task(title, total=total, at=1, unit="cell", left="")
        if not self.console.is_terminal:
            guess = f", about {job.expected:.0f} s" if job.expected else ""
            self.console.print(f"{title}: starts, {total} cells{guess}", markup=False, highlight=False)

    def moved(self, job: _Job) -> None:
        self.update(job.bar, completed=job.cell, at=job.cell + 1, left=_about(job.seconds_left()))
        left = [other.seconds_left() for other in self.chosen if other.result is None]
        known = [seconds for seconds in left if seconds is not None]
        # Of all chapters, where each was timed once or has done a part.
        self.update(self.all, left=_about(sum(known) / self.jobs if len(known) == len(left) else None))

    def finished(self, job: _Job, result: ChapterResult) -> None:
        self.remove_task(job.bar)
        done = sum(other.result is not None for other in self.chosen)
        self.update(self.all, completed=done, at=done)
        end = f"{result.status}, {result.seconds:.0f} s, {result.peak_mb:.0f} MB"
        self.console.print(f"{result.number} {result.title}: {end}", markup=False, highlight=False)


def _about(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"about {seconds / 60:.0f} min left" if seconds > 90 else f"about {seconds:.0f} s left"


def _table(results: list[ChapterResult]) -> Table:
    table = Table(title="DeepSeek by the Numbers", title_justify="left")
    for name in ("chapter", "title", "seconds", "peak MB", "verdicts", "status"):
        table.add_column(name, justify="right" if name in ("seconds", "peak MB") else "left")
    for result in results:
        judged = " ".join(verdict["claim"] for verdict in result.verdicts)
        status = Text(result.status, style="green" if result.ok else "bold red")
        numbers = f"{result.seconds:.1f}", f"{result.peak_mb:.0f}"
        table.add_row(result.number, Text(result.title), *numbers, judged, status)
    return table
