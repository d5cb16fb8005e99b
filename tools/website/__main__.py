"""`python -m tools.website` builds the website in build/site/html; `--pdf` prints its handouts, too."""

import argparse
import shutil
import sys
from pathlib import Path

from sphinx.cmd.build import main as sphinx_build

from tools.website import prints, slides, sources
from utils import course
from utils.errors import CourseError

BUILD = course.ROOT / "build" / "site"


def build(folder: Path = BUILD, *, pdf: bool = False, language: str = "en") -> int:
    """Build the website in `folder`/html; returns 0, or Sphinx's exit code: a warning is an error.

    Raises:
        BrowserError: PDF files are wanted, and no browser prints them.
    """
    browser = prints.find_chromium() if pdf else ""
    html = folder / ("html" if language == "en" else language)
    sources.write_sources(folder / "source", pdf=pdf)
    options = ["-q", "-W", "--keep-going", "-c", str(sources.SITE), "-d", str(folder / "doctrees")]
    if code := sphinx_build([*options, "-D", f"language={language}", str(folder / "source"), str(html)]):
        return code
    for notebook in course.notebook_paths():  # the download button gives what JupyterLab opens
        shutil.copy(notebook, html / "_sources" / "notebooks")
    for unused in html.rglob("*.map"):  # for those who develop the theme
        unused.unlink()
    slides.write_decks(html / "slides")
    print(f"The website is in {html}: open index.html.")
    if pdf:
        pages = sorted((html / "print").glob("*.html"))
        print("Printing handouts as PDF files: seconds for a chapter, about half a minute for a book.", flush=True)
        for page in pages:
            prints.write_pdf(page, browser)
        print(f"{len(pages)} PDF files stand in {html / 'print'}.")
    return 0


def main() -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.website", description="Build the website in build/site/html.")
    parser.add_argument("--pdf", action="store_true", help="print the handouts as PDF files, with an installed Chromium")
    parser.add_argument("--language", default="en", metavar="CODE", help="a language of site/locale, such as zh_CN")
    arguments = parser.parse_args()
    try:
        return build(pdf=arguments.pdf, language=arguments.language)
    except CourseError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
