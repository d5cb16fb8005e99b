"""What the run of a chapter gave: records that runner, report and the kernel's process share."""

from dataclasses import asdict, dataclass
from typing import Any


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
