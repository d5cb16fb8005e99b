"""What a run of the course gave: a record of each chapter, and the report in `build/`, as a page and as JSON."""

import contextlib
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tools.templates import rendered
from utils import files


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

    @property
    def page(self) -> str:
        """Path of its page inside the build folder."""
        return f"handouts/{self.notebook.removesuffix('.ipynb')}.html"

    def record(self) -> dict[str, Any]:
        """The chapter's part of `report.json`."""
        rounded = {"seconds": round(self.seconds, 1), "peak_mb": round(self.peak_mb, 1)}
        return asdict(self) | rounded | {"handout": self.page}


def summary(results: Sequence[ChapterResult], chapters: int, seconds: float) -> dict[str, Any]:
    """What `report.json` holds: totals, versions, machine, and one record a chapter.

    Args:
        results: the chapters that ran, in order.
        chapters: how many chapters the course has.
        seconds: wall time of the whole run.
    """
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "totals": {
            "chapters_in_course": chapters,
            "chapters_run": len(results),
            "chapters_ok": sum(result.ok for result in results),
            "seconds": round(seconds, 1),
            "peak_mb": round(max((result.peak_mb for result in results), default=0.0), 1),
            "verdicts": sum(len(result.verdicts) for result in results),
        },
        "versions": {"python": platform.python_version()}
        | {package: version(package) for package in ("torch", "transformers")},
        "machine": {"cpu": _cpu_model(), "cores": os.cpu_count(), "system": platform.platform()},
        "chapters": [result.record() for result in results],
    }


def _cpu_model() -> str:
    """The processor's name, as far as the system tells it."""
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        if sys.platform == "darwin":
            return subprocess.check_output(["sysctl", "-n", "machdep.cpu.brand_string"], text=True).strip()
        if found := re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE):
            return found[1].strip()
    return platform.processor() or platform.machine()


def write_report(facts: dict[str, Any], build: Path) -> None:
    """Write `report.json` and `report.html` from what `summary` returns."""
    files.write(build / "report.json", json.dumps(facts, ensure_ascii=False, indent=1) + "\n")
    files.write(build / "report.html", rendered("templates/report.html", facts=facts))
