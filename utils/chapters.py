"""The chapters: their titles, questions and minutes, known also where the package stands alone, as in Colab.

`python -m tools refresh` reads them from the notebooks and keeps them in `utils/data/chapters.json`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from utils import colab

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
DATA = Path(__file__).resolve().parent / "data"
COLAB = "https://colab.research.google.com/github"

# The parts of the course, and their chapters.
PARTS = {
    "Foundations": ("00", "01", "02"),
    "Train it": ("03", "04"),
    "Run it": ("05", "06", "07", "08"),
    "Adapt it": ("09", "10", "11"),
    "Understand it": ("12", "13", "14", "15"),
    "After the article": ("16", "17", "18"),
}
FURTHER = "After the article"  # the part for further study: no plan of a workshop needs it


@dataclass(frozen=True)
class Chapter:
    """One chapter, as its notebook describes itself.

    Attributes:
        number: "00", "01", ...
        file: name of the notebook.
        title: from its first heading.
        question: the one question that it answers.
        read_minutes: reading time: prose at 200 words a minute, 15 seconds a code cell.
        exercise_minutes: sum of the exercises' time boxes.
    """

    number: str
    file: str
    title: str
    question: str
    read_minutes: int
    exercise_minutes: int


@dataclass(frozen=True)
class Address:
    """Where the course is published: "owner/name" on GitHub, None as long as it is nowhere; and the tag to open."""

    repository: str | None
    tag: str

    def in_colab(self, file: str) -> str | None:
        """Address that opens a notebook in Colab; None where the course is not published."""
        return self.repository and f"{COLAB}/{self.repository}/blob/{self.tag}/notebooks/{file}"


def address() -> Address:
    """The address in `utils/data/address.json`, which `make publish` sets."""
    return Address(**json.loads((DATA / "address.json").read_text(encoding="utf-8")))


def all_chapters() -> list[Chapter]:
    """The chapters of the course, in order."""
    records = json.loads((DATA / "chapters.json").read_text(encoding="utf-8"))
    return [Chapter(number=number, **record) for number, record in records.items()]


def notebook_paths(folder: Path | None = None) -> list[Path]:
    """The notebooks in a folder (default: the course's own), in order; none where the package stands alone."""
    return sorted((folder or NOTEBOOKS).glob("[0-9][0-9]_*.ipynb"))


def course_map(links: str | None = None, measured: Mapping[str, tuple[str, str]] | None = None) -> str:
    """The chapters as a Markdown table: chapter, question, minutes to read and to practise.

    Args:
        links: folder to put before each notebook's name in its link. None fits a notebook: its own folder, and
            Colab where the notebooks are not at hand.
        measured: running time and memory of each chapter, by number, for two more columns.
    """
    rows = [["chapter", "the question", "read", "exercises", *(["runs in", "memory"] if measured else [])]]
    rows.append(["---"] * len(rows[0]))
    for chapter in all_chapters():
        name = f"{chapter.number} · {chapter.title}"
        alone = links is None and not colab.CHECKOUT
        to = address().in_colab(chapter.file) if alone else f"{links or ''}{chapter.file}"
        times = [f"{chapter.read_minutes} min", f"{chapter.exercise_minutes} min"]
        more = measured[chapter.number] if measured else ()
        rows.append([f"[{name}]({to})" if to else name, chapter.question, *times, *more])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
