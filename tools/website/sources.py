"""What Sphinx reads: notebooks and pages, made ready in a folder of their own, where the links between them fit."""

import re
from collections.abc import Collection, Iterator
from pathlib import Path

import nbformat
from nbformat import NotebookNode, v4

from tools import generated, pages
from tools.templates import SITE, plain, rendered
from utils import chapters, claims, exercises, files

VARIANTS = ("blank", "filled")
GLOSSARY = "docs/glossary"  # the page


def chapter(notebook: NotebookNode) -> NotebookNode:
    """A chapter as the website shows it.

    Set-up and what only a notebook can use is left out; hints, solutions and the quiz's answers come in, folded.
    """
    seen: set[str] = set()
    notebook.cells = [shown for cell in pages.readable(notebook) for shown in _cells(cell, seen)]
    return notebook


def _cells(cell: NotebookNode, seen: set[str]) -> Iterator[NotebookNode]:
    code = cell.source if cell.cell_type == "code" else ""
    if quiz := re.match(r'quiz\("(\d\d)"', code):
        questions = exercises.all_quizzes()[quiz[1]]
        yield v4.new_markdown_cell(rendered("templates/quiz.md.j2", questions=questions))
        return
    for output in cell.get("outputs", []):
        data, about = output.get("data", {}), output.get("metadata", {})
        data.pop(claims.VERDICT_MIME, None)  # its card is there as HTML
        if "image/png" in data:
            alt = about.get("image/png", {}).get("alt") or about.get("alt", "")
            cell.metadata["mystnb"] = {"image": {"alt": " ".join(alt.split())}}
    if re.search(r"^solution\(", code, re.MULTILINE):
        cell.metadata["tags"] = [*cell.metadata.get("tags", []), "hide-output"]
    yield cell
    for exercise_id in re.findall(r'^check\("([^"]+)"', code, re.MULTILINE):
        if exercise_id in exercises.all_exercises() and exercise_id not in seen:
            seen.add(exercise_id)
            exercise = exercises.get(exercise_id)
            yield v4.new_markdown_cell(rendered("templates/exercise.md.j2", exercise=exercise))


def decks() -> dict[str, str]:
    """File name (without its ending) and title of each part's slides."""
    return {
        f"{place}_{re.sub('[^a-z]+', '_', name.lower())}": f"Part {place}: {name}"
        for place, name in enumerate(chapters.PARTS, 1)
    }


def prints() -> dict[str, str]:
    """File name (without variant and ending) and title of each page to print, the book first."""
    titles = {Path(each.file).stem: f"{each.number} · {each.title}" for each in chapters.all_chapters()}
    return {"book": "The book: all chapters and the glossary"} | titles


def _where(verdict: claims.Verdict) -> str:
    """The column that says where a claim of a report stands; nothing for the article's."""
    known = claims.claim(verdict.claim)
    return plain(f"{known.report}, section {known.section}") + " | " if known.report else ""


def write_sources(folder: Path, pdf: Collection[str] = (), language: str = "en") -> None:
    """Write the notebooks and pages for Sphinx; what has not changed keeps its time, and what has left is removed.

    Args:
        folder: where to.
        pdf: the prints (by their names) of which there will be PDF files, too.
        language: what stands in two languages in a notebook stands here in this one alone, if it is not English.
    """
    alt = re.search(r"!\[(.*)\]\(docs/where", (chapters.ROOT / "README.md").read_text(encoding="utf-8"))
    verdicts = [verdict for path in chapters.notebook_paths() for verdict in claims.saved_verdicts(path)]
    values = {
        "map": chapters.course_map("notebooks/", {n: m.written() for n, m in generated.measured().items()}),
        "figure_alt": alt[1] if alt else "",
        "parts": generated.parts(),
        "files": {chapter.number: chapter.file for chapter in chapters.all_chapters()},
        "prints": prints(),
        "decks": decks(),
        "variants": VARIANTS,
        "pdf": pdf,
        "counts": " ".join(generated.tally(verdicts).split("\n\n")),
        "families": claims.by_family(verdicts),
        "where": _where,
    }
    written = {Path(page.name): rendered(f"pages/{page.name}", **values) for page in (SITE / "pages").glob("*.md")}
    for path in chapters.notebook_paths():
        notebook = nbformat.read(path, as_version=4)
        if language != "en":
            notebook.cells[1].source = pages.OTHER_LANGUAGE.sub("", notebook.cells[1].source)
        written[Path("notebooks", path.name)] = nbformat.writes(chapter(notebook))
    for path in (Path("docs", name) for name in ("glossary.md", "workshop.md", generated.FIGURE.name)):
        written[path] = (chapters.ROOT / path).read_bytes()
    for path, content in written.items():
        files.write(folder / path, content)
    for path in filter(Path.is_file, folder.rglob("*")):
        if path.relative_to(folder) not in written:
            path.unlink()
