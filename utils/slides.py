"""Slides: one deck for each part of the course, from the notebooks' own cells; nothing is executed.

Each chapter is a column of slides: its title and question, the claims on trial, then section by section the heading
with its claim and its prediction, the first short printed result, the figures and the verdicts. Results and verdicts
appear one step later, so that a room can predict first. reveal.js stands beside the decks, so they need no network.
"""

import re
from collections.abc import Iterator
from html import escape
from importlib import resources
from pathlib import Path

import nbformat
from nbconvert import SlidesExporter
from nbformat import NotebookNode, v4

from tools.choices import choose
from utils import files, handouts
from utils.chapters import PARTS, ROOT, all_chapters, notebook_paths
from utils.claims import VERDICT_MIME, saved_verdicts

SKIPPED = re.compile(r"Exercises|Quiz|.*\bquiz\b", re.IGNORECASE)  # sections that slides leave out
WORDS, DENSE = 120, 95  # of a section's text on one slide; from how many on in smaller letters
CODE_LINES, RESULT_LINES, COLUMNS = 14, 15, 104  # the most that fits

# nbconvert's slide show with a head of our own: reveal.js from the folder beside the deck, no script from a network.
_DECK = """
{%- extends 'reveal/index.html.j2' -%}
{%- block header -%}
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ resources.metadata.name }}</title>
<link rel="stylesheet" href="reveal/dist/reveal.css">
<style>{{ resources.style }}</style>
</head>
{%- endblock -%}
{%- block body_header -%}<body>
<main>
<div class="reveal">
<div class="slides">
{% endblock -%}
{%- block rawcell -%}{{ cell.source }}{%- endblock -%}
{%- block body_footer %}
</div>
</div>
</main>
<script src="reveal/dist/reveal.js"></script>
<script>
Reveal.initialize({width: 1280, height: 720, hash: true, slideNumber: "c/t", transition: "none",
  pdfSeparateFragments: false});
</script>
</body>
{% endblock -%}
{%- block footer_js -%}{%- endblock -%}
"""


def _slide(kind: str, html: str) -> NotebookNode:
    """A piece of a deck: "slide" starts a column, "subslide" a slide, "fragment" a step, "-" goes on."""
    return v4.new_raw_cell(html, metadata={"slideshow": {"slide_type": kind}})


def chapter_slides(path: Path) -> Iterator[NotebookNode]:
    """The slides of one chapter, picked from its notebook."""
    notebook = nbformat.read(path, as_version=4)
    chapter = handouts.Chapter(notebook, path.name[:2], path.parent, depth=2)
    first, *rest = re.split(r"^(?=## )", notebook.cells[0].source, flags=re.MULTILINE)
    heading = [block for block in first.split("\n\n") if block.startswith(("# ", "**The question", "<!--"))][:2]
    yield _slide("slide", chapter.text("\n\n".join(heading)))
    if verdicts := sorted(saved_verdicts(path), key=lambda verdict: verdict.claim):
        rows = "\n".join(f"| {found.claim} | {found.text} |" for found in verdicts)
        table = chapter.text(f"## Claims on trial\n\n| claim | the article says |\n|---|---|\n{rows}")
        yield _slide("subslide", f'<div class="dense">{table}</div>' if len(verdicts) > 5 else table)
    cells = [v4.new_markdown_cell("".join(rest)), *notebook.cells[1:]]
    for section in _sections(cells):
        if not SKIPPED.match(section[0].lstrip("# ")):
            yield from _section_slides(section, chapter)


def _sections(cells: list[NotebookNode]) -> Iterator[list]:
    """The notebook cut at its headings of level 2 and 3: a heading, then blocks of text and code cells."""
    section: list = []
    skipped = ""
    for cell in cells:
        if cell.cell_type == "code":
            section.append(cell)
            continue
        text = re.sub(r"^```.*?^```$|<!--.*?-->", "", cell.source, flags=re.MULTILINE | re.DOTALL)
        for block in filter(None, map(str.strip, re.split(r"\n\s*\n", text))):
            if block.startswith("## ") or (block.startswith("### ") and not skipped):
                if section and isinstance(section[0], str):
                    yield section
                skipped = block if SKIPPED.match(block.lstrip("# ")) else ""
                section = []
            if not skipped:
                section.append(block)
    if section and isinstance(section[0], str):
        yield section


def _section_slides(section: list, chapter: handouts.Chapter) -> Iterator[NotebookNode]:
    title = re.sub(r"^#+ ", "", section[0])
    where = chapter.text(f"{chapter.number} · {title}").replace("<p>", '<p class="where">')
    opening = [f"## {title}"]
    blocks, open_to_all = section[1:], True
    while blocks and isinstance(blocks[0], str):
        block = blocks.pop(0)
        words = len(" ".join([*opening[1:], block]).split())
        open_to_all = open_to_all and words <= WORDS
        if open_to_all or _is_question(block):
            opening.append(block)
    html = chapter.text("\n\n".join(opening))
    yield _slide("subslide", f'<div class="dense">{html}</div>' if len(" ".join(opening).split()) > DENSE else html)
    results = cards = 0
    for block in blocks:
        if isinstance(block, str):
            if _is_question(block):
                yield _slide("subslide", where + chapter.text(block))
                cards = 0
            continue
        for output in block.outputs:
            data = output.get("data", {})
            if VERDICT_MIME in data:
                if cards % 2 == 0:
                    yield _slide("subslide", where)
                cards += 1
                yield _slide("fragment", f'<div class="card">{chapter.output(output)}</div>')
            elif "image/png" in data:
                yield _slide("subslide", where + chapter.output(output))
                cards = 0
            elif output.output_type == "stream" and not results and _fits(output.text, RESULT_LINES):
                lines, printed = len(block.source.splitlines()), len(output.text.splitlines())
                short = _fits(block.source, CODE_LINES) and lines + printed <= 20
                if (short or printed > 2) and "claim(" not in block.source:
                    results += 1
                    width = max(map(len, (output.text + (block.source if short else "")).splitlines()))
                    large = "large" if width <= 74 and printed + lines * short <= 13 else ""
                    yield _slide("subslide", where)
                    if short:
                        yield _slide("-", f'<div class="{large}">{handouts.code(block.source)}</div>')
                    yield _slide("fragment" if short else "-", f'<div class="{large}">{chapter.output(output)}</div>')
                    cards = 0


def _is_question(block: str) -> bool:
    return block.startswith(("**The claim", "> **Predict", "> **predict"))


def _fits(text: str, lines: int) -> bool:
    return 0 < len(text.splitlines()) <= lines and max(map(len, text.splitlines())) <= COLUMNS


def write_deck(number: int, name: str, notebooks: list[Path], path: Path) -> None:
    """Write the deck of one part, as HTML that expects the folder `reveal` beside it."""
    title = f"Part {number}: {name}"
    chapters = {chapter.number: chapter for chapter in all_chapters()}
    names = "".join(f"<li>{escape(f'{n} · {chapters[n].title}')}</li>" for n in PARTS[name] if n in chapters)
    front = _slide("slide", f"<h1>{title}</h1><p>{handouts.TITLE}</p><ul>{names}</ul>")
    cells = [front, *(slide for notebook in notebooks for slide in chapter_slides(notebook))]
    facts = {"metadata": {"name": f"{title}. {handouts.TITLE}"}, "style": handouts.style("pages", "slides")}
    exporter = SlidesExporter(raw_template=_DECK, exclude_raw=False)
    html, _ = exporter.from_notebook_node(v4.new_notebook(cells=cells), facts)
    files.write(path, html)


def make(only: str | None = None, build: Path = ROOT / "build") -> int:
    """Write the decks of the chosen parts, "1,3", or of all, with reveal.js to `build/slides/`.

    Raises:
        ChapterError: no such part.
        WriteError: the folder cannot be written.
    """
    parts = {str(number): (number, name) for number, name in enumerate(PARTS, 1)}
    wanted = choose(only, parts, "part")
    folder = build / "slides"
    known = {path.name[:2]: path for path in notebook_paths()}
    for number, name in wanted:
        path = folder / f"{number}_{re.sub(r'[^a-z]+', '_', name.lower())}.html"
        write_deck(number, name, [known[chapter] for chapter in PARTS[name]], path)
    with resources.as_file(resources.files("utils").joinpath("data", "reveal")) as reveal:
        for file in filter(Path.is_file, reveal.rglob("*")):
            files.write(folder / "reveal" / file.relative_to(reveal), file.read_bytes())
    count = f"{len(wanted)} decks are" if len(wanted) > 1 else "1 deck is"
    print(f"{count} in {folder}. Open one in a browser; add ?print-pdf to its address to print it.")
    return 0
