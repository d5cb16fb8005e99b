"""Handouts: a page for each chapter and one book, from notebooks with their outputs; nothing is executed.

A page is one HTML file that needs no network and no other file: pictures are inside, formulas are MathML. Each comes
in two variants: "blank" has room to write under every exercise, "filled" has the solutions. Where a Chromium is
installed, it prints each page as a PDF.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import nbformat
import psutil
from latex2mathml.converter import convert as mathml
from nbconvert.filters import strip_ansi
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name
from pygments.util import ClassNotFound

from tools.choices import choose
from utils import chapters, exercises, files, languages
from utils.errors import CourseError

VARIANTS = ("blank", "filled")
TITLE = "DeepSeek by the Numbers"
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
GLOSSARY = "glossary"
LINES = {1: 6, 2: 9, 3: 14}  # level of an exercise -> ruled lines to write on
PDF_SECONDS = 180  # what the browser may take for one file
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
BROWSER_PLACES = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Microsoft Edge.app/Contents/MacOS/Microsoft Edge",
    r"C:\Program Files\Google\Chrome\Application\chrome.exe",
    r"C:\Program Files (x86)\Google\Chrome\Application\chrome.exe",
    r"C:\Program Files (x86)\Microsoft\Edge\Application\msedge.exe",
)
QUIET = (
    "--headless",
    "--disable-gpu",
    "--disable-extensions",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--no-pdf-header-footer",
    "--generate-pdf-document-outline",
)


class BrowserError(CourseError, RuntimeError):
    """No Chromium is installed, or it did not print a page."""


# ------------------------------------------------------------------------------------------------ text and outputs


@dataclass
class Chapter:
    """A chapter on its way to HTML; used once.

    Attributes:
        notebook: with its outputs.
        number: "05".
        folder: where the notebook stands; pictures that its text refers to are read from there.
        depth: heading level of the chapter's title: 1 on its own page, 2 in a book, where ids get a prefix.
        contents: what was rendered so far: level, id and HTML of each heading.
    """

    notebook: NotebookNode
    number: str
    folder: Path
    depth: int = 1
    contents: list[tuple[int, str, str]] = field(default_factory=list)
    _seen: Counter[str] = field(default_factory=Counter)

    def html(self, variant: str = "blank", title: str = "") -> str:
        """The chapter's cells as HTML, under its own first heading or else under a title."""
        parts = [part for cell in self.notebook.cells for part in self._cell(cell, variant)]
        if not self.contents:
            parts.insert(0, _Renderer(self).heading(escape(title), 1))
        return "\n".join(parts)

    def text(self, source: str) -> str:
        """Markdown as HTML."""
        return MarkdownWithMath(renderer=_Renderer(self)).render(source)

    def count(self, name: str) -> int:
        """How often this was asked for that name, this time included."""
        self._seen[name] += 1
        return self._seen[name]

    def _cell(self, cell: NotebookNode, variant: str) -> Iterator[str]:
        if cell.cell_type == "markdown":
            # The badge opens a notebook in Colab: nothing for a page to show.
            yield self.text(re.sub(r"^\[!\[.*open-in-colab.*$", "", cell.source, flags=re.MULTILINE))
        if cell.cell_type != "code" or "bootstrap" in cell.metadata.get("tags", []):
            return
        yield code(cell.source)
        quiz = re.match(r'quiz\("(\d\d)"', cell.source)
        if quiz and quiz[1] in exercises.all_quizzes():
            yield _quiz(exercises.all_quizzes()[quiz[1]], variant)
            return
        if variant == "filled" or not re.search(r"^solution\(", cell.source, re.MULTILINE):
            yield from (self.output(output) for output in cell.get("outputs", []))
        for exercise_id in re.findall(r'^check\("([^"]+)"', cell.source, re.MULTILINE):
            if exercise_id in exercises.all_exercises() and self.count(exercise_id) == 1:
                yield _answer(exercises.get(exercise_id), variant)

    def output(self, output: NotebookNode) -> str:
        """One output of a cell as HTML. Widgets are left out: the notebook prints their static twin."""
        data = output.get("data", {})
        text = output.get("text") or "\n".join(output.get("traceback", [])) or data.get("text/plain", "")
        text = re.sub(r"^.* is waiting for your answer .*\n?", "", strip_ansi(text), flags=re.MULTILINE)
        if WIDGET_VIEW in data:
            return ""
        if "image/png" in data:
            given = output.get("metadata", {})
            alt = given.get("image/png", {}).get("alt") or given.get("alt") or text.removeprefix("Figure: ")
            return figure(f"data:image/png;base64,{data['image/png'].strip()}", alt)
        if "text/html" in data:
            return data["text/html"]
        if "text/markdown" in data:
            return self.text(data["text/markdown"])
        return f'<pre class="output" tabindex="0">{escape(text.rstrip(), quote=False)}</pre>' if text.strip() else ""


class _Renderer(IPythonRenderer):
    """Markdown to HTML: formulas need no script, links go to handouts, headings never skip a level."""

    def __init__(self, chapter: Chapter) -> None:
        super().__init__(escape=False, embed_images=True, path=str(chapter.folder), exclude_anchor_links=True)
        self.chapter = chapter

    def heading(self, text: str, level: int, **attrs: Any) -> str:
        chapter = self.chapter
        if chapter.contents:
            level = max(level + chapter.depth - 1, chapter.depth + 1)
            level = min(level, chapter.contents[-1][0] + 1)
            name = self._id(re.sub(r"<[^>]+>", "", text))
            seen = chapter.count(name)
            name = f"{name}-{seen}" if seen > 1 else name
        else:
            level, name = chapter.depth, f"c{chapter.number}"
        chapter.contents.append((level, name, text))
        return f'<h{level} id="{name}">{text}</h{level}>\n'

    def _id(self, text: str, number: str = "") -> str:
        number = number or self.chapter.number
        name = languages.anchor(text) if number == GLOSSARY else re.sub(r"\W+", "-", text.casefold()).strip("-")
        name = name or "part"
        return name if self.chapter.depth == 1 else f"c{number}-{name}"

    def link(self, text: str, url: str, title: str | None = None) -> str:
        if found := re.fullmatch(r"(?:\.\./notebooks/)?((\d\d)_\w+)\.ipynb(?:#(.*))?", url):
            name, number, part = found.groups()
            anchor = f"#{self._id(part, number)}" if part else ""
            url = f"{name}.html{anchor}" if self.chapter.depth == 1 else anchor or f"#c{number}"
        elif found := re.fullmatch(r"\.\./docs/glossary\.md(?:#(.*))?", url):
            term = f"#{self._id(found[1], GLOSSARY)}" if found[1] else ""
            url = f"{GLOSSARY}.html{term}" if self.chapter.depth == 1 else term or f"#c{GLOSSARY}"
        elif url.startswith("#"):
            url = f"#{self._id(url[1:])}"
        return super().link(text, url, title)

    def block_html(self, html: str) -> str:
        # A block may open what a later one closes: only pictures need to be looked at, and what is around them closed.
        return super().block_html(html) if "<img" in html else html

    def table(self, text: str) -> str:
        label = f"Table {self.chapter.number}.{self.chapter.count('a table')}"
        text = re.sub(r"<th(?=[ >])", '<th scope="col"', text)
        return f'<div class="wide" tabindex="0" role="region" aria-label="{label}"><table>{text}</table></div>\n'

    def block_code(self, code_: str, info: str | None = None) -> str:
        return code(code_, (info or "text").split()[0])

    def inline_math(self, body: str) -> str:
        return formula(body, "inline")

    def block_math(self, body: str) -> str:
        return f'<div class="wide" tabindex="0">{formula(body, "block")}</div>'

    def latex_environment(self, name: str, body: str) -> str:
        return self.block_math(rf"\begin{{{name}}}{body}\end{{{name}}}")


def formula(latex: str, display: str) -> str:
    """A formula as MathML, or as its source where the converter cannot read all of it."""
    try:
        # The converter knows `split`, which means the same as `aligned`.
        found = mathml(latex.strip().replace("{aligned}", "{split}"), display=display)
        text = "".join(ElementTree.fromstring(found).itertext())
        readable = "\\" not in text
    except Exception:  # the converter raises what its parser happens to trip over
        readable = False
    return found if readable else f"<code>{escape(latex.strip())}</code>"


def code(source: str, language: str = "ipython3") -> str:
    """Highlighted code; with a place in the tab order, because long lines scroll."""
    try:
        lexer = get_lexer_by_name(language)
    except ClassNotFound:
        lexer = get_lexer_by_name("text")
    inner = highlight(source.rstrip(), lexer, HtmlFormatter(nowrap=True))
    return f'<pre class="code" tabindex="0"><code>{inner}</code></pre>'


def figure(source: str, alt: str) -> str:
    """A picture; its caption is the first sentence of its alt text."""
    alt = " ".join(alt.split()) or "A figure without a description"
    caption = re.split(r"(?<=[.!?;])\s", alt)[0].rstrip(";")
    picture = f'<img src="{escape(source)}" alt="{escape(alt)}">'
    return f"<figure>{picture}<figcaption>{escape(caption)}</figcaption></figure>"


def _answer(exercise: exercises.Exercise, variant: str) -> str:
    """Room for an answer, or the solution and its point."""
    if variant == "blank":
        return f'<div class="room"><p>Your answer</p>{"<hr>" * LINES[exercise.level]}</div>'
    label = f'<p class="label">Solution of {exercise.id}</p>'
    return f'<div class="solution">{label}{code(exercise.solution)}<p>{escape(exercise.after)}</p></div>'


def _quiz(questions: Sequence[exercises.Question], variant: str) -> str:
    """The questions with their options; filled, the right letter of each and why."""
    items = []
    for question in questions:
        options = "".join(f"<li>{escape(option)}</li>" for option, _ in question.options)
        why = escape(question.options[question.letters.index(question.right)][1])
        right = f'<p class="solution"><strong>{question.right})</strong> {why}</p>' if variant == "filled" else ""
        items.append(f'<li>{escape(question.text)}<ol type="a">{options}</ol>{right}</li>')
    return f'<ol class="quiz">{"".join(items)}</ol>'


# ------------------------------------------------------------------------------------------------------------ pages


def style(*names: str) -> str:
    """Style sheets of the package, and the colours of code in light and dark mode."""
    data = resources.files("utils").joinpath("data")
    light, dark = (HtmlFormatter(style=name).get_style_defs(".code") for name in ("xcode", "zenburn"))
    sheets = "\n".join(data.joinpath(f"{name}.css").read_text(encoding="utf-8") for name in names)
    return f"{light}\n@media screen and (prefers-color-scheme: dark) {{\n{dark}\n}}\n{sheets}"


def _page(title: str, contents: list[tuple[int, str, str]], body: str, more_style: str = "") -> str:
    """A whole HTML page; its table of contents has two levels, below the page's title."""
    lists = ""
    top, inside = contents[0][0] + 1 if contents else 2, False
    for level, name, text in contents:
        if level in (top, top + 1):
            lists += ("<ul>" if level > top and not inside else "") + ("</ul>" if level == top and inside else "")
            inside = level > top
            lists += f'<li><a href="#{name}">{re.sub(r"</?a[^>]*>", "", text)}</a></li>'
    lists = re.sub(r"</li><ul>(.*?)</ul>", r"<ul>\1</ul></li>", lists + ("</ul>" if inside else ""))
    skip = '<a class="skip" href="#main-text">Skip to the text</a>' if lists else ""
    head = f"<details><summary>Contents</summary><ul>{lists}</ul></details>"
    nav = f'<nav aria-label="Contents" tabindex="0">{head}</nav>' if lists else ""
    footer = f'@page {{ @bottom-left {{ content: "{_css_text(title)}"; }} }}'
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>
{style("pages", "handout")}
{footer}
{more_style}
</style>
</head>
<body>
{skip}
{nav}
<main id="main-text">
{body}
</main>
</body>
</html>
"""


def _css_text(text: str) -> str:
    return re.sub(r'[\\"<>\n]', lambda match: f"\\{ord(match[0]):x} ", text)


def _write(path: Path, page: str) -> None:
    """Write a page; where it changes, the PDF that shows what it was goes."""
    if files.write(path, page):
        path.with_suffix(".pdf").unlink(missing_ok=True)


def write_handout(notebook: NotebookNode, title: str, folder: Path, path: Path, variant: str = "blank") -> None:
    """Write a notebook with its outputs as one HTML file.

    Args:
        notebook: it stays as it is.
        title: title of the page.
        folder: where the notebook stands; pictures that its text refers to are read from there.
        path: the HTML file; its name starts with the chapter's number.
        variant: "blank" or "filled".
    """
    chapter = Chapter(notebook, path.name[:2], folder)
    body = chapter.html(variant, title)
    _write(path, _page(title, chapter.contents, body))


def write_book(notebooks: Sequence[Path], path: Path, variant: str) -> None:
    """Write several chapters and the glossary as one HTML file, each beginning on a page of its own in print."""
    contents, bodies, styles = [(1, "top", TITLE)], [], []
    chapters = [Chapter(nbformat.read(path, as_version=4), path.name[:2], path.parent, depth=2) for path in notebooks]
    for chapter in [*chapters, glossary(depth=2)]:
        name = f"c{chapter.number}"
        bodies.append(f'<div class="chapter" style="page: {name}">{chapter.html(variant, name)}</div>')
        # Of the glossary's terms, a table of contents needs only the first one: its title.
        contents += chapter.contents if chapter in chapters else chapter.contents[:1]
        title = re.sub(r"<[^>]+>", "", chapter.contents[0][2])
        styles.append(f'@page {name} {{ @top-left {{ content: "{_css_text(title)}"; }} }}')
    kind = "with room for your answers" if variant == "blank" else "with all solutions"
    front = f'<h1 id="top">{TITLE}</h1>\n<p>All chapters, {kind}.</p>'
    _write(path, _page(TITLE, contents, "\n".join([front, *bodies]), "\n".join(styles)))


def glossary(depth: int = 1) -> Chapter:
    """The glossary, for a page of its own or at the end of a book."""
    page = chapters.ROOT / "docs" / f"{GLOSSARY}.md"
    cell = nbformat.v4.new_markdown_cell(page.read_text(encoding="utf-8"))
    return Chapter(nbformat.v4.new_notebook(cells=[cell]), GLOSSARY, page.parent, depth)


def write_glossary(folder: Path) -> None:
    """Write the glossary that the handouts in a folder link to."""
    page = glossary()
    body = page.html()
    files.write(folder / f"{GLOSSARY}.html", _page(f"{TITLE}: glossary", page.contents, body))


def select(only: str | None) -> list[Path]:
    """The notebooks of the chosen chapters, "05,07", or of all.

    Raises:
        ChapterError: no such chapter; the message lists those there are.
    """
    known = {path.name[:2]: path for path in chapters.notebook_paths()}
    return choose(only, known, "chapter")


def make(only: str | None = None, build: Path = chapters.ROOT / "build", *, pdf: bool = True) -> int:
    """Write handouts of the committed notebooks, both variants, to `build/handouts/`; with all chapters, also the book.

    Raises:
        ChapterError: no such chapter.
        WriteError: the folder cannot be written.
    """
    chapters, pages = select(only), []
    for variant in VARIANTS:
        for path in chapters:
            notebook = nbformat.read(path, as_version=4)
            known = re.search(r"^# (.+)$", notebook.cells[0].source, re.MULTILINE)
            pages.append(build / "handouts" / variant / f"{path.stem}.html")
            write_handout(notebook, known[1] if known else path.stem, path.parent, pages[-1], variant)
        write_glossary(build / "handouts" / variant)
        if not only:
            pages.append(build / "handouts" / f"book-{variant}.html")
            write_book(chapters, pages[-1], variant)
    print(f"{len(pages)} HTML files are in {build / 'handouts'}")
    if pdf:
        try:
            browser = find_chromium()
            print("Printing them as PDF files: seconds for a chapter, about half a minute for a book.", flush=True)
            for page in pages:
                write_pdf(page, browser, PDF_SECONDS)
            print(f"{len(pages)} PDF files stand beside them.")
        except BrowserError as error:
            print(f"PDF files are left out: {error}")
    return 0


# -------------------------------------------------------------------------------------------------------------- PDF


def find_chromium() -> str:
    """Path of an installed Chromium, Chrome or Edge; `COURSE_BROWSER` names another one.

    Raises:
        BrowserError: there is none.
    """
    named = os.environ.get("COURSE_BROWSER")
    for candidate in [named] if named else [*BROWSERS, *BROWSER_PLACES]:
        if found := shutil.which(candidate):
            return found
    if named:
        raise BrowserError(f"COURSE_BROWSER names {named}, which is no program here.")
    raise BrowserError("no Chromium or Chrome is installed. Install one, or name it in COURSE_BROWSER.")


def write_pdf(page: Path, browser: str, seconds: float = PDF_SECONDS) -> Path:
    """Print an HTML file as a PDF of the same name beside it, at one stroke.

    Raises:
        BrowserError: the browser failed, or took longer than `seconds`.
    """
    target = page.with_suffix(".pdf")
    draft = target.with_name(target.name + ".part")
    with tempfile.TemporaryDirectory(prefix="course-browser-", ignore_cleanup_errors=True) as profile:
        command = [browser, *QUIET, f"--user-data-dir={profile}", f"--print-to-pdf={draft.resolve()}"]
        if sys.platform == "linux" and os.geteuid() == 0:
            command.append("--no-sandbox")
        try:
            process = psutil.Popen(
                [*command, page.resolve().as_uri()], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            try:
                code_ = process.wait(seconds)
            finally:
                _end(process)
            if code_ or not draft.exists() or not draft.read_bytes().startswith(b"%PDF"):
                raise BrowserError(f"{browser} printed no {target.name} (exit code {code_}).")
            draft.replace(target)
        except psutil.TimeoutExpired:
            raise BrowserError(f"{browser} took longer than {seconds:g} s for {target.name}.") from None
        except OSError as error:
            raise BrowserError(f"{browser} cannot be run: {error.strerror}.") from None
        finally:
            draft.unlink(missing_ok=True)
    return target


def _end(process: psutil.Popen) -> None:
    """End a process and what it started."""
    try:
        for one in [*process.children(recursive=True), process]:
            one.kill()
    except psutil.NoSuchProcess:
        pass
    process.wait()
