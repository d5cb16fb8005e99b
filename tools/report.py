"""The report that a run of the course leaves in `build/`: one HTML page, and the same facts as JSON."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tools.results import ChapterResult
from tools.templates import rendered
from utils import files


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
    try:
        if sys.platform == "darwin":
            command = ["sysctl", "-n", "machdep.cpu.brand_string"]
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except (OSError, subprocess.CalledProcessError):
        pass
    return platform.processor() or platform.machine()


def write_report(facts: dict[str, Any], build: Path) -> None:
    """Write `report.json` and `report.html` from what `summary` returns."""
    files.write(build / "report.json", json.dumps(facts, ensure_ascii=False, indent=1) + "\n")
    files.write(build / "report.html", rendered("templates/report.html", facts=facts))
