"""Pages to print, from what Sphinx made of the chapters: blank with room for answers, filled with the solutions."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import psutil

from tools.website.sources import GLOSSARY, VARIANTS, prints
from utils import files
from utils.errors import CourseError

PDF_SECONDS = 180  # what the browser may take for one file
BROWSERS, QUIET = json.loads(Path(__file__).with_name("chromium.json").read_text(encoding="utf-8")).values()
Values = dict[str, Any]


class BrowserError(CourseError, RuntimeError):
    """No Chromium is installed, or it did not print a page."""


# ------------------------------------------------------------------------------------------------------------ HTML


def keep_body(app: Any, pagename: str, templatename: str, context: Values, doctree: Any) -> None:
    """Keep what Sphinx (`app`) wrote of a chapter or the glossary, until all are there."""
    if doctree is not None and (pagename.startswith("notebooks/") or pagename == GLOSSARY):
        vars(app).setdefault("course_bodies", {})[pagename] = context["body"]


def write_pages(app: Any, exception: Exception | None) -> None:
    """Write the pages to print, when Sphinx is done: each chapter and the book, in both variants."""
    bodies = vars(app).get("course_bodies", {})
    book: dict[str, list[Values]] = {variant: [] for variant in VARIANTS}
    titles = prints()

    def write(name: str, title: str, variant: str, sections: list[Values]) -> None:
        values = {"title": title, "variant": variant, "sections": sections, "language": app.config.language}
        page = app.builder.templates.render("print.html", values)
        files.write(Path(app.outdir, "print", f"{name}-{variant}.html"), page)  # Sphinx has paths of its own kind

    for name in sorted(bodies, key=lambda name: (name == GLOSSARY, name)):
        stem = name.rpartition("/")[2]
        body = _part_of_a_longer_page(bodies[name], stem)
        for variant, sections in book.items():
            printed = _variant(body, variant)
            sections.append({"id": f"c-{stem[:2]}", "title": titles.get(stem, "Glossary"), "body": printed})
            if stem in titles:  # a chapter also stands alone; there, links to others lead nowhere
                alone = re.sub(rf'<a [^>]*href="#(?!{stem}--)[^>]*>(.*?)</a>', r"\1", printed, flags=re.DOTALL)
                write(stem, titles[stem], variant, [sections[-1] | {"body": alone}])
    for variant, sections in book.items():
        write("book", app.config.project, variant, sections)


# Attributes are the only places where these patterns meet a quotation mark: Sphinx writes those of texts as &quot;.


def _part_of_a_longer_page(body: str, stem: str) -> str:
    """A page's ids as its own, and its links as links within the longer page."""

    def link(found: re.Match[str]) -> str:
        page, _, part = found[1].partition("#")
        target = Path(page).stem or stem
        return f'href="#{target}--{part}"' if part else f'href="#c-{target[:2]}"'

    body = re.sub(r'<a class="headerlink".*?</a>|<svg .*?</svg>', "", body, flags=re.DOTALL)
    body = re.sub(r'\bid="', f'id="{stem}--', body)
    return re.sub(r'href="(?!\w+:)([^"]*)"', link, body)


def _variant(body: str, variant: str) -> str:
    """A page without its hints; filled, its solutions are open, and blank, they are left out as well."""
    out = "(?:hint|solution|hide)" if variant == "blank" else "hint"
    body = re.sub(rf'<details class="[^"]*\b{out}\b.*?</details>', "", body, flags=re.DOTALL)
    return re.sub(r"<details(?! lang)", "<details open", body) if variant == "filled" else body


# -------------------------------------------------------------------------------------------------------------- PDF


def find_chromium() -> str:
    """Path of an installed Chromium, Chrome or Edge; `COURSE_BROWSER` names another one.

    Raises:
        BrowserError: there is none.
    """
    named = os.environ.get("COURSE_BROWSER")
    found = list(filter(None, map(shutil.which, [named] if named else BROWSERS)))
    if found:
        return found[0]
    none = "no Chromium or Chrome is installed. Install one, or name it in COURSE_BROWSER."
    raise BrowserError(f"COURSE_BROWSER names {named}, which is no program here." if named else none)


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
        command.append(page.resolve().as_uri())
        try:
            process = psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                code = process.wait(seconds)
            finally:
                _end(process)
            if code or not draft.exists() or not draft.read_bytes().startswith(b"%PDF"):
                raise BrowserError(f"{browser} printed no {target.name} (exit code {code}).")
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
    with contextlib.suppress(psutil.NoSuchProcess):
        for one in [*process.children(recursive=True), process]:
            one.kill()
    process.wait()
