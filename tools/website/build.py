"""Builds the website: sources, Sphinx, slides, and the handouts as PDF files."""

import shutil
from pathlib import Path

import nbformat

from tools.choices import choose
from tools.templates import SITE
from tools.website import prints, slides, sources, translate
from utils import chapters, files
from utils.errors import CourseError

BUILD = chapters.ROOT / "build" / "site"


class SiteError(CourseError, ValueError):
    """A language that the website does not have, or Sphinx is not installed."""


def build(folder: Path = BUILD, *, pdf: bool = False, only: str | None = None, language: str = "en") -> int:
    """Build the website in `folder`/html, another language in `folder`/LANGUAGE. A warning of Sphinx is an error.

    Returns 0, or Sphinx's exit code.

    Raises:
        ChoiceError: no such chapter.
        SiteError: no such language, or no Sphinx.
        BrowserError: PDF files are wanted, and no browser prints them.
    """
    try:
        from sphinx.cmd.build import main as sphinx_build
    except ImportError:
        raise SiteError('the website needs the extra "site": python -m pip install ".[site]"') from None
    languages = ["en", *sorted(path.name for path in (SITE / "locale").iterdir())]
    if language not in languages:
        raise SiteError(f"no language {language!r}; there are {', '.join(languages)}")
    browser = prints.find_chromium() if pdf else ""
    titles = sources.prints()
    known = {name[:2]: name for name in titles if name != "book"}
    printed = [known[number] for number in choose(only, known, "chapter")] if only else list(titles)
    html = folder / ("html" if language == "en" else language)
    sources.write_sources(folder / "source", printed if pdf else [], language)
    for older in html.rglob("*.pdf"):  # of pages that may have changed
        older.unlink()
    options = ["-q", "-a", "-W", "--keep-going", "-c", str(SITE), "-d", str(folder / "doctrees" / language)]
    if code := sphinx_build([*options, "-D", f"language={language}", str(folder / "source"), str(html)]):
        return code
    for path in chapters.notebook_paths():  # the download button gives what JupyterLab opens
        target = html / "_sources" / "notebooks" / path.name
        if language == "en":
            shutil.copy(path, target)
        else:
            files.write(target, nbformat.writes(translate.translated(path, language)) + "\n")
    for unused in html.rglob("*.map"):  # for those who develop the theme
        unused.unlink()
    slides.write_decks(html / "slides")
    print(f"The website is in {html}: open index.html.")
    if pdf:
        pages = [html / "print" / f"{name}-{variant}.html" for name in printed for variant in sources.VARIANTS]
        print("Printing handouts as PDF files: seconds for a chapter, about half a minute for a book.", flush=True)
        for page in pages:
            prints.write_pdf(page, browser)
        print(f"{len(pages)} PDF files stand in {html / 'print'}.")
    return 0
