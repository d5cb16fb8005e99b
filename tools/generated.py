"""The generated parts of notebooks, READMEs and docs, each written from its one source.

`refresh` writes the set-up cell, the Colab badge, the line of reading time, seconds and memory, the links to the next
chapter, the Chinese title and objectives, the tables, the figure and the link to Colab of the READMEs, the glossary,
and the workshop guide's timetables. A test says that running it again changes nothing. `publish` sets the address that
badges, set-up cells and links point to; without one they are not shown, because they would lead into nothing.
"""

import base64
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from tools import languages, workshop
from tools.templates import rendered
from utils import chapters, claims, exercises, files
from utils.chapters import Address, Chapter
from utils.errors import CourseError

MEASURED = Path(__file__).with_name("measured.json")
FIGURE = Path("docs", "where-the-parameters-are.png")
HOST = "https://github.com"


class GenerateError(CourseError, ValueError):
    """A notebook, a run or an address does not fit; the message says what is allowed."""


@dataclass(frozen=True)
class Measured:
    """What the last recorded run of a chapter took on 2 cores: seconds, and peak memory in MB (10**6 bytes)."""

    seconds: float | None = None
    peak_mb: float | None = None

    def written(self) -> tuple[str, str]:
        """Running time and memory in words, rounded up."""
        if self.seconds is None or self.peak_mb is None:
            return "not yet measured", "not yet measured"
        return f"{math.ceil(self.seconds / 5) * 5} s", f"{math.ceil(self.peak_mb / 100) / 10:.1f} GB"


def measured() -> dict[str, Measured]:
    """The measurements of all chapters, by number, as `tools/measured.json` keeps them."""
    known = json.loads(MEASURED.read_text(encoding="utf-8")) if MEASURED.exists() else {}
    return {chapter.number: Measured(**known.get(chapter.number, {})) for chapter in chapters.all_chapters()}


def record(results: Iterable[Mapping[str, Any]]) -> None:
    """Keep seconds and peak memory of chapters that ran, as `report.json` lists them.

    Raises:
        GenerateError: the report has a chapter that failed.
    """
    known = {number: asdict(figures) for number, figures in measured().items() if figures.seconds is not None}
    for result in results:
        if result["status"] != "ok":
            raise GenerateError(f"chapter {result['number']} did not run through: nothing is recorded")
        known[result["number"]] = {name: round(result[name]) for name in ("seconds", "peak_mb")}
    _store(MEASURED, dict(sorted(known.items())))


def _store(path: Path, data: object) -> bool:
    return files.write(path, json.dumps(data, ensure_ascii=False, indent=1) + "\n")


def set_up_cell(address: Address, host: str = HOST) -> str:
    """Source of the cell that every notebook starts with; `host` is where git finds the repository."""
    return rendered("templates/set_up.py.j2", host=host, **vars(address))


def publish(repository: str, tag: str | None = None) -> list[Path]:
    """Set the repository and the tag that badges, set-up cells and links point to; returns the files that changed.

    Args:
        repository: "owner/name" on GitHub.
        tag: the tag or branch that Colab opens and installs; unchanged when None.

    Raises:
        GenerateError: the repository is not of the form owner/name, or the tag is not the name of one. Nothing changes.
    """
    name = r"[A-Za-z0-9_.-]*[A-Za-z0-9_-]"
    if not re.fullmatch(rf"[A-Za-z0-9][A-Za-z0-9-]*/(?!.*\.git$){name}", repository):
        raise GenerateError(f"REPO must look like owner/name, without https:// and .git; got {repository!r}")
    if tag is not None and not re.fullmatch(rf"(?![.-]){name}", tag):
        raise GenerateError(f"TAG must be letters, digits, dots and dashes, such as v1.0; got {tag!r}")
    path = chapters.DATA / "address.json"
    changed = [path] if _store(path, {"repository": repository, "tag": tag or chapters.address().tag}) else []
    return changed + refresh()


def refresh() -> list[Path]:
    """Write all generated parts anew; returns the files that changed."""
    notebooks = {path: nbformat.read(path, as_version=4) for path in chapters.notebook_paths()}
    path = chapters.DATA / "chapters.json"
    described = {path.name[:2]: _describe(path, notebook) for path, notebook in notebooks.items()}
    changed = [path] if _store(path, described) else []
    known, wanted = chapters.all_chapters(), dict[Path, str | bytes]()
    for chapter, following, (path, notebook) in zip(known, [*known[1:], None], notebooks.items(), strict=True):
        own = _chapter_parts(chapter, following)
        for cell in notebook.cells:
            if "bootstrap" in cell.metadata.get("tags", []):
                cell.source = set_up_cell(chapters.address())
            elif cell.cell_type == "markdown":
                cell.source = fill(cell.source, own)
        wanted[path] = nbformat.writes(notebook) + "\n"
    if pictures := _tagged_pictures(notebooks.values()):
        wanted[chapters.ROOT / FIGURE] = pictures[0]
    for name, page_parts in _pages(known, list(notebooks)).items():
        page = chapters.ROOT / name
        if page.exists():
            wanted[page] = fill(page.read_text(encoding="utf-8"), page_parts())
    return changed + [path for path, content in wanted.items() if files.write(path, content)]


def _describe(path: Path, notebook: NotebookNode) -> dict[str, Any]:
    first = notebook.cells[0].source
    described = re.search(r"^# \d\d · ([^\n]+)$.*^\*\*The question:\*\* ([^\n]+)$", first, re.DOTALL | re.MULTILINE)
    if not described:
        raise GenerateError(f"{path.name}: the first cell needs '# NN · title' and '**The question:** ...'")
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    code = sum(cell.cell_type == "code" for cell in notebook.cells)
    boxes = (e.minutes for e in exercises.all_exercises().values() if e.id.startswith(path.name[:2]))
    minutes = {"read_minutes": round(len(by_hand(prose).split()) / 200 + code / 4), "exercise_minutes": sum(boxes)}
    return {"file": path.name, "title": described[1], "question": described[2]} | minutes


def _chapter_parts(chapter: Chapter, following: Chapter | None) -> dict[str, str]:
    """What stands between the markers of a chapter."""
    runs_in, memory = measured()[chapter.number].written()
    facts = f"{chapter.read_minutes} min to read · {chapter.exercise_minutes} min of exercises"
    facts += f" · runs in {runs_in} on 2 cores · {memory} of memory"
    badge = _if_published("[![Open this chapter in Colab](images/open-in-colab.svg)]({})\n\n", chapter.file)
    to = following or chapters.all_chapters()[0]
    label, rest = ("**Next:**", f" {to.question}") if following else ("**Back to the map:**", "")
    # A copy that stands alone in Colab has no neighbours: there the second link leads on.
    on = f"{label} [{to.number} · {to.title}]({to.file}){_if_published(' ([in Colab]({}))', to.file)}.{rest}"
    return {"badge": badge + facts, "next": on, "zh": languages.block(chapter.number)}


def _if_published(text: str, file: str) -> str:
    """A text with the address of a notebook in Colab; nothing as long as there is none."""
    there = chapters.address().in_colab(file)
    return text.format(there) if there else ""


def _pages(known: list[Chapter], notebooks: list[Path]) -> dict[str, Callable[[], dict[str, str]]]:
    """What stands between the markers of each page of the repository."""
    words = {number: found.written() for number, found in measured().items()}
    seconds = {number: found.seconds for number, found in measured().items()}
    verdicts = [verdict for path in notebooks for verdict in claims.saved_verdicts(path)]
    there = _if_published("[Open chapter 00 in Colab]({}).", known[0].file)
    values = {"chapters": known, "parts": parts(), "measured": words, "chinese": languages.chinese()["chapters"]}
    values |= {"terms": languages.glossary(), "files": {chapter.number: chapter.file for chapter in known}}
    values |= {"further": chapters.FURTHER}
    return {
        "README.md": lambda: {
            "map": chapters.course_map("notebooks/"),
            "verdicts": tally(verdicts),
            "colab": there or "As long as the course has no address on GitHub, there are no badges.",
        },
        "README.zh-CN.md": lambda: {
            "map": rendered("templates/map.zh.md.j2", **values),
            "verdicts": languages.chinese_tally(verdicts),
        },
        "docs/verdicts.zh-CN.md": lambda: {"verdicts": languages.scoreboard(verdicts)},
        "docs/glossary.md": lambda: {"terms": rendered("templates/glossary.md.j2", **values)},
        "docs/workshop.md": lambda: (
            {"parts": rendered("templates/parts.md.j2", **values)} | workshop.tables(known, seconds)
        ),
    }


def tally(verdicts: Iterable[claims.Verdict]) -> str:
    """How many claims hold, hold under a condition, and are refuted: a paragraph for each family of claims."""
    return "\n\n".join(_tally(family, found) for family, found in claims.by_family(verdicts).items())


def _tally(family: str, verdicts: Sequence[claims.Verdict]) -> str:
    words = {"holds": "hold", "refuted": "are refuted", "holds if": "hold under a condition"}
    kinds = Counter(words.get(re.sub("^holds if .*", "holds if", v.verdict), v.verdict) for v in verdicts)
    counts = ", ".join(f"**{count} {kind}**" for kind, count in kinds.most_common())
    known = sum(key[0] == family for key in claims.ledger())
    return f"{len(verdicts)} of {known} claims of {claims.FAMILIES[family]} are judged: {counts or 'none'}."


def parts() -> dict[str, list[Chapter]]:
    """The parts of the course with their chapters."""
    known = chapters.all_chapters()
    return {name: [one for one in known if one.number in numbers] for name, numbers in chapters.PARTS.items()}


def fill(text: str, parts: Mapping[str, str]) -> str:
    """Put each part between its markers `<!-- name -->` and `<!-- /name -->`."""
    for name, part in parts.items():
        pattern = re.compile(rf"(<!-- {name} -->).*?(<!-- /{name} -->)", re.DOTALL)
        text = pattern.sub(lambda match, part=part: f"{match[1]}\n\n{part}\n\n{match[2]}", text)
    return text


def by_hand(text: str) -> str:
    """A text without its generated parts: what counts as reading, and as objectives."""
    return re.sub(r"<!-- (\S+) -->.*?<!-- /\1 -->", "", text, flags=re.DOTALL)


def _tagged_pictures(notebooks: Iterable[NotebookNode]) -> list[bytes]:
    every = [cell for notebook in notebooks for cell in notebook.cells]
    cells = [cell for cell in every if "readme-figure" in cell.metadata.get("tags", [])]
    shown = [output.get("data", {}) for cell in cells for output in cell.outputs]
    return [base64.b64decode(data["image/png"]) for data in shown if "image/png" in data]
