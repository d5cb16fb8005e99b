"""Notebooks as HTML that needs no network: formulas are MathML, pictures are inside. Nothing is executed."""

import re
from html import escape
from pathlib import Path
from xml.etree import ElementTree

from jinja2 import pass_context
from jinja2.runtime import Context
from latex2mathml.converter import convert
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode
from traitlets.config import Config

from tools.templates import SITE
from utils import files

TEMPLATES = SITE / "templates"
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
# Badges, the marks of generated parts, and links into Colab are for notebooks.
OTHER_LANGUAGE = re.compile(r"<details lang=.*?</details>", re.DOTALL)
FOR_NOTEBOOKS = re.compile(r"^\[!\[.*open-in-colab.*$|<!-- /?[\w-]+ -->| \(\[in Colab\]\([^)]*\)\)", re.MULTILINE)


def formula(latex: str, display: str = "inline") -> str:
    """A formula as MathML, "inline" or "block"; or as its source where the converter cannot read all of it."""
    try:
        # The converter knows `split`, which means the same as `aligned`.
        found = convert(latex.strip().replace("{aligned}", "{split}"), display=display)
        readable = "\\" not in "".join(ElementTree.fromstring(found).itertext())
    except Exception:  # the converter raises what its parser happens to trip over
        readable = False
    return found if readable else f"<code>{escape(latex.strip())}</code>"


def shown(output: NotebookNode) -> bool:
    """Whether a page can show an output: not a widget, whose static twin is printed, nor "waiting for your answer"."""
    return WIDGET_VIEW not in output.get("data", {}) and " is waiting for your answer " not in output.get("text", "")


class _Renderer(IPythonRenderer):
    """Markdown with MathML. Links lead to chapters, in the folder `chapters`, and into the web; others are text."""

    chapters = ""

    def inline_math(self, body: str) -> str:
        return formula(body)

    def block_math(self, body: str) -> str:
        return formula(body, "block")

    def latex_environment(self, name: str, body: str) -> str:
        return formula(rf"\begin{{{name}}}{body}\end{{{name}}}", "block")

    def link(self, text: str, url: str, title: str | None = None) -> str:
        if chapter := re.fullmatch(r"(\d\d_\w+)\.ipynb(#.*)?", url):
            return super().link(text, f"{self.chapters}{chapter[1]}.html", title)
        return super().link(text, url, title) if "://" in url else text


class Exporter(HTMLExporter):
    """nbconvert's export with this module's Markdown, and a template of site/templates/.

    Pictures that a text names are read from `folder`; a link to a chapter leads to its page in `chapters`.
    """

    def __init__(self, template: str, folder: Path, chapters: str = "") -> None:
        source = (TEMPLATES / template).read_text(encoding="utf-8")
        colours = Config({"CSSHTMLHeaderPreprocessor": {"style": "xcode"}})
        super().__init__(colours, raw_template=source, extra_template_paths=[str(TEMPLATES)])
        self._folder, self._chapters = folder, chapters

    @pass_context
    def markdown2html(self, context: Context, source: str) -> str:
        renderer = _Renderer(escape=False, embed_images=True, path=str(self._folder), exclude_anchor_links=True)
        renderer.chapters = self._chapters
        return MarkdownWithMath(renderer=renderer).render(source)


def readable(notebook: NotebookNode) -> list[NotebookNode]:
    """Copies of the cells that a page shows, without what only a notebook can use: set-up, badges, widgets."""
    cells = []
    for cell in notebook.cells:
        if "bootstrap" not in cell.metadata.get("tags", []):
            changed = NotebookNode(cell)
            if cell.cell_type == "code":
                changed.outputs = list(filter(shown, cell.outputs))
            else:
                changed.source = FOR_NOTEBOOKS.sub("", cell.source)
            cells.append(changed)
    return cells


def write_page(notebook: NotebookNode, title: str, folder: Path, path: Path) -> None:
    """Write a notebook with its outputs as one HTML file.

    Args:
        notebook: it stays as it is.
        title: title of the page.
        folder: where the notebook stands; pictures that its text refers to are read from there.
        path: the HTML file.
    """
    changed = NotebookNode(notebook | {"cells": readable(notebook)})
    style = (SITE / "_static" / "print.css").read_text(encoding="utf-8")
    resources = {"metadata": {"name": title}, "style": style}
    html, _ = Exporter("page.html.j2", folder).from_notebook_node(changed, resources)
    files.write(path, html)
