"""Slides: which cells become slides, in which order, and that a deck loads nothing but what stands beside it."""

import itertools
import re

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbformat import v4

from tools import __main__ as cli
from utils import chapters, slides
from utils.claims import VERDICT_MIME

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
FOUND = {
    "claim": "C10", "text": "32 layers", "chapter": "05", "verdict": "refuted", "measured": "2.5", "because": "counted",
}  # fmt: skip


def stream(text):
    return v4.new_output("stream", name="stdout", text=text)


@pytest.fixture
def chapter(tmp_path):
    """A chapter with one of everything."""
    card = v4.new_output("display_data", data={"text/html": "<div>C10 refuted</div>", VERDICT_MIME: FOUND})
    alt = {"image/png": {"alt": "Bars of four sizes. The last is longest."}}
    picture = v4.new_output("display_data", data={"image/png": PIXEL}, metadata=alt)
    long_code = "\n".join(f"line_{n} = {n}" for n in range(15))
    cells = [
        v4.new_markdown_cell("# 05 · Five\n\n**The question:** Why five?\n\n<!-- badge -->badge<!-- /badge -->"),
        v4.new_code_cell("setup = 1", metadata={"tags": ["bootstrap"]}),
        v4.new_markdown_cell(
            f"## 1. Sizes\n\n**The claim (C10):** small.\n\n{'word ' * 130}\n\n> **Predict.** How many?"
        ),
        v4.new_code_cell(long_code, outputs=[stream("only\ntwo lines\n")]),
        v4.new_code_cell("print(6 * 7)", outputs=[stream("42\n")]),
        v4.new_code_cell("print(8 * 8)", outputs=[stream("64\n")]),
        v4.new_code_cell("figure()", outputs=[picture]),
        v4.new_markdown_cell("Some prose in passing.\n\n> **Predict.** And then?"),
        v4.new_code_cell("verdict(...)", outputs=[card]),
        v4.new_markdown_cell("Prose.\n\n## 2. Long\n\nShort text.\n\n```python\n## no heading\n```"),
        v4.new_code_cell(long_code, outputs=[stream("one\ntwo\nthree\n")]),
        v4.new_code_cell("x", outputs=[stream("y" * 200)]),
        v4.new_markdown_cell("## Exercises\n\n### Exercise 05.1\n\nDo it."),
        v4.new_code_cell('check("05.1", ...)', outputs=[stream("waiting")]),
        v4.new_markdown_cell("## Recap\n\nYou have seen it."),
    ]
    path = tmp_path / "05_five.ipynb"
    nbformat.write(v4.new_notebook(cells=cells), path)
    return path


def test_cells_are_picked_by_rule_and_in_order(chapter):
    picked = list(slides.chapter_slides(chapter))
    kinds = [slide.metadata["slideshow"]["slide_type"] for slide in picked]
    texts = [" ".join(BeautifulSoup(slide.source, "html.parser").get_text(" ").split()) for slide in picked]
    where = "05 · 1. Sizes"
    assert list(zip(kinds, texts, strict=True)) == [
        ("slide", "05 · Five The question: Why five?"),
        ("subslide", "Claims on trial claim the article says C10 32 layers"),
        ("subslide", "1. Sizes The claim (C10): small. Predict. How many?"),
        ("subslide", where),
        ("-", "print ( 6 * 7 )"),
        ("fragment", "42"),
        ("subslide", f"{where} Bars of four sizes."),
        ("subslide", f"{where} Predict. And then?"),
        ("subslide", where),
        ("fragment", "C10 refuted"),
        ("subslide", "2. Long Short text."),
        ("subslide", "05 · 2. Long"),
        ("-", "one two three"),
        ("subslide", "Recap You have seen it."),
    ]


def test_two_verdicts_share_a_slide_and_a_third_opens_the_next(chapter):
    notebook = nbformat.read(chapter, as_version=4)
    notebook.cells[8].outputs *= 3
    nbformat.write(notebook, chapter)
    kinds = [slide.metadata["slideshow"]["slide_type"] for slide in slides.chapter_slides(chapter)]
    place = kinds.index("fragment", kinds.index("fragment") + 1)
    assert kinds[place - 1 : place + 4] == ["subslide", "fragment", "fragment", "subslide", "fragment"]


@pytest.fixture(scope="module")
def deck(tmp_path_factory):
    """The real deck of part 2, and its folder."""
    build = tmp_path_factory.mktemp("build")
    assert slides.make("2", build) == 0
    return BeautifulSoup((build / "slides" / "2_train_it.html").read_text("utf-8"), "html.parser"), build / "slides"


def test_a_deck_loads_only_what_stands_beside_it(deck):
    page, folder = deck
    sources = [tag.get("src") or tag.get("href") for tag in page.find_all(["script", "link", "img", "iframe"])]
    files = [source for source in sources if source and not source.startswith("data:")]
    assert files == ["reveal/dist/reveal.css", "reveal/dist/reveal.js"]
    assert all((folder / file).is_file() for file in files) and (folder / "reveal" / "LICENSE").is_file()
    styles = "".join(style.string for style in page.find_all("style"))
    assert not re.search(r"@import|url\((?!data:)", styles + (folder / "reveal/dist/reveal.css").read_text("utf-8"))
    assert not list(folder.rglob("*.part"))


def test_a_deck_has_lang_title_one_h1_no_skips_alt_and_unique_ids(deck):
    page, _ = deck
    levels = [int(heading.name[1]) for heading in page.find_all(re.compile("^h[1-6]$"))]
    assert page.html["lang"] == "en" and page.title.string == "Part 2: Train it. DeepSeek by the Numbers"
    assert levels[0] == 1 and levels.count(1) == 1 and levels.count(2) == len(chapters.PARTS["Train it"])
    assert all(b <= a + 1 for a, b in itertools.pairwise(levels))
    assert page.find_all("img") and all(image["alt"].strip() for image in page.find_all("img"))
    ids = [element["id"] for element in page.find_all(id=True)]
    assert len(ids) == len(set(ids))


def test_a_deck_has_its_chapters_claims_figures_and_no_exercise(deck):
    page, _ = deck
    columns = page.select(".slides > section")
    assert len(columns) == 1 + len(chapters.PARTS["Train it"])
    cards = page.select(".card")
    assert len(cards) == 3 and "C14" in cards[-1].get_text()
    assert all("fragment" in card.parent["class"] for card in cards)
    assert "Exercise 0" not in page.get_text() and "check(" not in page.get_text()
    for block in page.select("pre.code"):
        assert len(block.get_text().strip().splitlines()) <= slides.CODE_LINES


def test_the_parts_hold_every_chapter_once_in_order():
    numbers = [number for part in chapters.PARTS.values() for number in part]
    assert numbers == [chapter.number for chapter in chapters.all_chapters()]


def test_one_deck_is_one(tmp_path, capsys):
    slides.make("2", tmp_path)
    assert capsys.readouterr().out.startswith(f"1 deck is in {tmp_path / 'slides'}. ")


@pytest.mark.parametrize("only", ["6", "0,1", "x", ","])
def test_an_unknown_part_is_one_clear_line(only, capsys):
    assert cli.main(["slides", "--only", only]) == 2
    error = capsys.readouterr().err
    assert "no part" in error and "there are 1, 2, 3, 4, 5" in error and len(error.strip().splitlines()) == 1
