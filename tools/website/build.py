"""Builds the website: sources, Sphinx, slides, and the handouts as PDF files."""

import shutil
from pathlib import Path

from sphinx.cmd.build import main as sphinx_build

from tools.choices import choose
from tools.website import prints, slides, sources
from utils import chapters

BUILD = chapters.ROOT / "build" / "site"


def build(folder: Path = BUILD, *, pdf: bool = False, only: str | None = None, language: str = "en") -> int:
    """Build the website in `folder`/html; returns 0, or Sphinx's exit code: a warning is an error.

    Raises:
        ChoiceError: no such chapter.
        BrowserError: PDF files are wanted, and no browser prints them.
    """
    browser = prints.find_chromium() if pdf else ""
    titles = sources.prints()
    printed = choose(only, {name[:2]: name for name in titles if name != "book"}, "chapter") if only else list(titles)
    html = folder / ("html" if language == "en" else language)
    sources.write_sources(folder / "source", printed if pdf else [])
    for older in html.rglob("*.pdf"):  # of pages that may have changed
        older.unlink()
    options = ["-q", "-a", "-W", "--keep-going", "-c", str(sources.SITE), "-d", str(folder / "doctrees")]
    if code := sphinx_build([*options, "-D", f"language={language}", str(folder / "source"), str(html)]):
        return code
    for notebook in chapters.notebook_paths():  # the download button gives what JupyterLab opens
        shutil.copy(notebook, html / "_sources" / "notebooks")
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
