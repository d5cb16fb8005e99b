"""The chapters as a whole: the course map, and the parts of notebooks and README that are generated.

`refresh` writes every generated part from its one source: the set-up cell, the Colab badge, the line of reading time,
seconds and memory, the links to the next chapter, the Chinese title and objectives, the tables, the figure and the
link to Colab of the READMEs, the glossary, and the workshop guide's timetables. A test says that running it again
changes nothing.
"""

import base64
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import nbformat
from nbformat import NotebookNode

from utils import claims, colab, exercises, files, languages, workshop
from utils.errors import CourseError

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
README = ROOT / "README.md"
DATA = Path(__file__).resolve().parent / "data" / "course.json"
README_FIGURE = ROOT / "docs" / "where-the-parameters-are.png"
Item = TypeVar("Item")
BADGE = "images/open-in-colab.svg"

# The parts of the course, and their chapters: one deck of slides each.
PARTS = {
    "Foundations": ("00", "01", "02"),
    "Train it": ("03", "04"),
    "Run it": ("05", "06", "07", "08"),
    "Adapt it": ("09", "10", "11"),
    "Understand it": ("12", "13", "14", "15"),
}

COLAB = "https://colab.research.google.com/github"
HOST = "https://github.com"
BOOTSTRAP = """\
# Set-up. Where the course is installed, this does nothing. Elsewhere, as in Colab, it
# installs what is missing.
import subprocess
import sys

try:
    import deepseek_by_the_numbers as course
except ImportError:
    address = "git+{host}/{repository}@{tag}"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", address]
    if subprocess.run(pip, capture_output=True).returncode:
        sys.exit(f"pip cannot install {{address}}. Connect, then run this cell again.")
    import deepseek_by_the_numbers as course
course.set_up()"""


class ChapterError(CourseError, ValueError):
    """Something about the chapters or the repository address does not fit; the message says what is allowed."""


@dataclass(frozen=True)
class Chapter:
    """One chapter, as its notebook describes itself and as the last recorded run measured it.

    Attributes:
        number: "00", "01", ...
        file: name of the notebook.
        title: from its first heading.
        question: the one question that it answers.
        read_minutes: reading time: prose at 200 words a minute, 15 seconds a code cell.
        exercise_minutes: sum of the exercises' time boxes.
        seconds: wall time of the last recorded run on 2 cores; None before it.
        peak_mb: peak memory of that run in MB (10**6 bytes); None before it.
    """

    number: str
    file: str
    title: str
    question: str
    read_minutes: int
    exercise_minutes: int
    seconds: float | None
    peak_mb: float | None


def settings() -> dict[str, Any]:
    """Contents of `utils/data/course.json`: repository address, tag, and the chapters with their measurements."""
    return json.loads(DATA.read_text(encoding="utf-8"))


def _store(data: dict[str, Any]) -> bool:
    return files.write(DATA, json.dumps(data, ensure_ascii=False, indent=1) + "\n")


def chapters() -> list[Chapter]:
    """The chapters of the course, in order; also known where only the package is installed."""
    return [Chapter(number=number, **record) for number, record in settings()["chapters"].items()]


def choose(only: Iterable[str] | None, known: Mapping[str, Item], what: str) -> list[Item]:
    """Those that `only` names by their keys, in the order of `known`; all where it is None.

    Raises:
        ChapterError: a key that is not known; the message says what there is.
    """
    if only is None:
        return list(known.values())
    wanted = [key.strip() for key in only]
    if unknown := [key for key in wanted if key not in known]:
        raise ChapterError(f"--only: no {what} {', '.join(map(repr, unknown))}; there are {', '.join(known)}")
    return [item for key, item in known.items() if key in wanted]


def notebook_paths(folder: Path = NOTEBOOKS) -> list[Path]:
    """The notebooks in a folder, in order."""
    return sorted(folder.glob("[0-9][0-9]_*.ipynb"))


def bootstrap(repository: str, tag: str, host: str = HOST) -> str:
    """Source of the set-up cell that every notebook starts with; `host` is where git finds the repository."""
    return BOOTSTRAP.format(host=host, repository=repository, tag=tag)


def in_colab(file: str = "") -> str:
    """Address that opens a notebook in Colab; without a file, what to put before its name."""
    data = settings()
    return f"{COLAB}/{data['repository']}/blob/{data['tag']}/notebooks/{file}"


def course_map(links: str | None = None, *, measured: bool = True) -> str:
    """The chapters as a Markdown table: chapter, question, minutes to read and to practise, seconds, memory.

    Args:
        links: folder to put before each notebook's name in its link. None fits a notebook: its own folder, and
            Colab's address where the notebooks are not at hand.
        measured: with the columns of the recorded run, which differ from machine to machine.
    """
    if links is None:
        links = "" if colab.CHECKOUT else in_colab()
    rows = [["chapter", "the question", "read", "exercises", "runs in", "memory"]]
    for chapter in chapters():
        name = f"[{chapter.number} · {chapter.title}]({links}{chapter.file})"
        times = [f"{chapter.read_minutes} min", f"{chapter.exercise_minutes} min"]
        rows.append([name, chapter.question, *times, _runs_in(chapter), _memory(chapter)])
    rows.insert(1, ["---"] * 6)
    return "\n".join(f"| {' | '.join(row if measured else row[:4])} |" for row in rows)


def parts_table() -> str:
    """The parts of the course as a Markdown table: chapters, minutes to read and to practise."""
    known = {chapter.number: chapter for chapter in chapters()}
    rows = ["| part | chapters | read | exercises |", "| --- | --- | --- | --- |"]
    for place, (name, numbers) in enumerate(PARTS.items(), 1):
        read, practise = (
            sum(getattr(known[number], minutes) for number in numbers)
            for minutes in ("read_minutes", "exercise_minutes")
        )
        links = ", ".join(f"[{number}](../notebooks/{known[number].file})" for number in numbers)
        rows.append(f"| {place} · {name} | {links} | {read} min | {practise} min |")
    return "\n".join(rows)


def _runs_in(chapter: Chapter) -> str:
    return "not yet measured" if chapter.seconds is None else f"{_rounded_up(chapter.seconds, 5)} s"


def _memory(chapter: Chapter) -> str:
    return "not yet measured" if chapter.peak_mb is None else f"{_rounded_up(chapter.peak_mb, 100) / 1000:.1f} GB"


def _rounded_up(value: float, step: int) -> int:
    return int(-(-value // step) * step)


def record(chapters: Iterable[Mapping[str, Any]]) -> None:
    """Keep seconds and peak memory of chapters that ran, as `report.json` lists them, in `utils/data/course.json`.

    Raises:
        ChapterError: the report has a chapter that failed.
    """
    data = settings()
    for chapter in chapters:
        if chapter["status"] != "ok":
            raise ChapterError(f"chapter {chapter['number']} did not run through: nothing is recorded")
        known = data["chapters"].setdefault(chapter["number"], {})
        known |= {"seconds": round(chapter["seconds"]), "peak_mb": round(chapter["peak_mb"])}
    _store(data)


def publish(repository: str, tag: str | None = None) -> list[Path]:
    """Set the repository and the tag that badges, set-up cells and links point to; returns the files that changed.

    Args:
        repository: "owner/name" on GitHub.
        tag: the tag or branch that Colab opens and installs; unchanged when None.

    Raises:
        ChapterError: the repository is not of the form owner/name, or the tag is not the name of one. Nothing changes.
    """
    name = r"[A-Za-z0-9_.-]*[A-Za-z0-9_-]"
    if not re.fullmatch(rf"[A-Za-z0-9][A-Za-z0-9-]*/(?!.*\.git$){name}", repository):
        raise ChapterError(f"REPO must look like owner/name, without https:// and .git; got {repository!r}")
    if tag is not None and not re.fullmatch(rf"(?![.-]){name}", tag):
        raise ChapterError(f"TAG must be letters, digits, dots and dashes, such as v1.0; got {tag!r}")
    data = settings() | {"repository": repository} | ({"tag": tag} if tag else {})
    changed = [DATA] if _store(data) else []
    return changed + [path for path in refresh() if path not in changed]


def refresh() -> list[Path]:
    """Write all generated parts anew; returns the files that changed."""
    data = settings()
    notebooks = {path: nbformat.read(path, as_version=4) for path in notebook_paths()}
    data["chapters"] = {
        path.name[:2]: _describe(path, notebook, data["chapters"].get(path.name[:2], {}))
        for path, notebook in notebooks.items()
    }
    changed = [DATA] if _store(data) else []
    known = chapters()
    for place, (path, notebook) in enumerate(notebooks.items()):
        following = known[place + 1] if place + 1 < len(known) else None
        for cell in notebook.cells:
            _refresh_cell(cell, known[place], following)
        if files.write(path, nbformat.writes(notebook) + "\n"):
            changed.append(path)
    picture = next(filter(None, (_tagged_picture(notebook) for notebook in notebooks.values())), None)
    if picture and files.write(README_FIGURE, picture):
        changed.append(README_FIGURE)
    verdicts = [v for path in notebooks for v in claims.saved_verdicts(path)]
    measured = [(chapter, _runs_in(chapter), _memory(chapter)) for chapter in known]
    pages = {
        "README.md": lambda: {
            "map": course_map("notebooks/"),
            "verdicts": claims.scoreboard(verdicts),
            "colab": f"[Open chapter 00 in Colab]({in_colab(known[0].file)}).",
        },
        "README.zh-CN.md": lambda: {
            "map": languages.chapter_map(measured),
            "verdicts": languages.scoreboard(verdicts),
        },
        "docs/glossary.md": lambda: {"terms": languages.glossary_terms(known)},
        "docs/workshop.md": lambda: {"parts": parts_table()} | workshop.tables(known),
    }
    for name, parts in pages.items():
        page = README.parent / name
        if page.exists() and files.write(page, fill(page.read_text(encoding="utf-8"), parts())):
            changed.append(page)
    return changed


def _describe(path: Path, notebook: NotebookNode, known: dict[str, Any]) -> dict[str, Any]:
    first = notebook.cells[0].source
    title = re.search(r"^# \d\d · (.+)$", first, re.MULTILINE)
    question = re.search(r"^\*\*The question:\*\* (.+)$", first, re.MULTILINE)
    if not title or not question:
        raise ChapterError(f"{path.name}: the first cell needs '# NN · title' and '**The question:** ...'")
    words = sum(
        len(languages.without_block(cell.source).split()) for cell in notebook.cells if cell.cell_type == "markdown"
    )
    code = sum(cell.cell_type == "code" for cell in notebook.cells)
    boxes = (e.minutes for e in exercises.all_exercises().values() if e.id.startswith(path.name[:2]))
    return {
        "file": path.name,
        "title": title[1],
        "question": question[1],
        "read_minutes": round(words / 200 + code / 4),
        "exercise_minutes": sum(boxes),
        "seconds": known.get("seconds"),
        "peak_mb": known.get("peak_mb"),
    }


def _refresh_cell(cell: NotebookNode, chapter: Chapter, following: Chapter | None) -> None:
    if "bootstrap" in cell.metadata.get("tags", []):
        data = settings()
        cell.source = bootstrap(data["repository"], data["tag"])
    if cell.cell_type != "markdown":
        return
    badge = f"[![Open this chapter in Colab]({BADGE})]({in_colab(chapter.file)})"
    facts = (
        f"{chapter.read_minutes} min to read · {chapter.exercise_minutes} min of exercises · "
        f"runs in {_runs_in(chapter)} on 2 cores · {_memory(chapter)} of memory"
    )
    # A copy that stands alone in Colab has no neighbours: there the second link leads on.
    to = following or chapters()[0]
    label, rest = ("**Next:**", f" {to.question}") if following else ("**Back to the map:**", "")
    on = f"{label} [{to.number} · {to.title}]({to.file}) ([in Colab]({in_colab(to.file)})).{rest}"
    parts = {"badge": f"{badge}\n\n{facts}", "next": on, "zh": languages.block(chapter.number)}
    cell.source = fill(cell.source, parts)


def fill(text: str, parts: dict[str, str]) -> str:
    """Put each part between its markers `<!-- name -->` and `<!-- /name -->`."""
    for name, part in parts.items():
        pattern = re.compile(rf"(<!-- {name} -->).*?(<!-- /{name} -->)", re.DOTALL)
        text = pattern.sub(lambda match, part=part: f"{match[1]}\n\n{part}\n\n{match[2]}", text)
    return text


def _tagged_picture(notebook: NotebookNode) -> bytes | None:
    for cell in notebook.cells:
        if "readme-figure" in cell.metadata.get("tags", []):
            for output in cell.outputs:
                if "image/png" in output.get("data", {}):
                    return base64.b64decode(output.data["image/png"])
    return None
