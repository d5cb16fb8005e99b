"""Slides: one deck for each part of the course, of the cells that say so (JupyterLab: Property Inspector, Slide Type).

A cell without a type is left out. Of a long text, a slide has the beginning and what it asks; a picture or a verdict
stands without the code and the prints around it.
"""

import re
import shutil
from pathlib import Path

import nbformat
from nbconvert import SlidesExporter
from nbformat import NotebookNode, v4

from tools import generated, pages
from tools.templates import SITE
from tools.website.sources import decks
from utils import chapters, files
from utils.claims import VERDICT_MIME

WORDS = 120  # of a text on one slide
CODE_LINES, COLUMNS = 14, 104  # the most code that fits


class _Exporter(pages.Exporter, SlidesExporter):
    """A deck."""


def slide(cell: NotebookNode) -> NotebookNode:
    """What a slide shows of a cell."""
    if cell.cell_type == "markdown":
        cell.source = _beginning(pages.FOR_NOTEBOOKS.sub("", pages.OTHER_LANGUAGE.sub("", cell.source)))
        return cell
    shown = [o for o in cell.outputs if {"image/png", VERDICT_MIME} & o.get("data", {}).keys()]
    lines = cell.source.splitlines()
    if shown or len(lines) > CODE_LINES or max(map(len, lines)) > COLUMNS:
        cell.metadata["jupyter"] = {"source_hidden": True}
    cell.outputs = shown or [output for output in cell.outputs if output.output_type == "stream"]
    return cell


def _beginning(text: str) -> str:
    """A text's first blocks, up to 120 words, and what it asks to predict."""
    kept, words = [], 0
    for block in re.split(r"\n\s*\n", text.strip()):
        words += len(block.split())
        if words <= WORDS or not kept or block.startswith("> **Predict"):
            kept.append(block)
    return "\n\n".join(kept)


def write_decks(folder: Path) -> None:
    """Write the deck of each part, and reveal.js beside them.

    Raises:
        WriteError: the folder cannot be written.
    """
    for (name, title), part in zip(decks().items(), generated.parts().values(), strict=True):
        listed = "\n".join(f"- {chapter.number} · {chapter.title}" for chapter in part)
        front = v4.new_markdown_cell(f"# {title}\n\nDeepSeek by the Numbers\n\n{listed}")
        front.metadata["slideshow"] = {"slide_type": "slide"}
        deck = v4.new_notebook(cells=[front])
        for chapter in part:
            where = ""
            for cell in nbformat.read(chapters.NOTEBOOKS / chapter.file, as_version=4).cells:
                heading = re.match("#+ (.+)", cell.source) if cell.cell_type == "markdown" else None
                where = f"{chapter.number} · {heading[1]}" if heading else where
                if "slideshow" in cell.metadata:
                    deck.cells.append(slide(cell))
                    deck.cells[-1].metadata["where"] = where
        resources = {"metadata": {"name": f"{title}. DeepSeek by the Numbers"}}
        html, _ = _Exporter("deck.html.j2", chapters.NOTEBOOKS, "../notebooks/").from_notebook_node(deck, resources)
        files.write(folder / f"{name}.html", html)
    shutil.copytree(SITE / "slides" / "reveal", folder / "reveal", dirs_exist_ok=True)
    shutil.copy(SITE / "slides" / "slides.css", folder)
