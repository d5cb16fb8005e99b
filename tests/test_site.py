"""The website, built once: chapters, links, folded answers, words with meanings, search, prints and slides."""

import itertools
import json
import re
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest
from bs4 import BeautifulSoup

from tools import languages
from tools.website import prints, sources
from utils import chapters, claims, exercises

pytestmark = pytest.mark.slow
VOID = re.compile(r"\s+")


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[str, BeautifulSoup]:
    """All pages but the books, by their path in the site."""
    return {
        path.relative_to(site).as_posix(): BeautifulSoup(path.read_text("utf-8"), "html.parser")
        for path in sorted(site.rglob("*.html"))
        if "_static" not in path.parts and not path.name.startswith("book-")
    }


def page(pages: dict[str, BeautifulSoup], file: str) -> BeautifulSoup:
    return pages[f"notebooks/{file.removesuffix('.ipynb')}.html"]


def words(text: str) -> str:
    return VOID.sub(" ", text).strip()


def test_every_chapter_is_there_with_the_way_to_its_neighbours_and_its_notebook(site, pages):
    known = chapters.all_chapters()
    for place, chapter in enumerate(known):
        shown = page(pages, chapter.file)
        assert shown.h1.get_text().startswith(f"{chapter.number} · {chapter.title}")
        near = [link["href"] for link in shown.select(".prev-next-footer a")]
        assert f"{known[place - 1].file.removesuffix('.ipynb')}.html" in near or place == 0
        assert place + 1 == len(known) or f"{known[place + 1].file.removesuffix('.ipynb')}.html" in near
        [download] = [a["href"] for a in shown.find_all("a", href=re.compile(r"_sources/.*\.ipynb$"))]
        saved = chapters.NOTEBOOKS / chapter.file
        assert (site / "notebooks" / download).resolve().read_bytes() == saved.read_bytes()


def test_no_link_leads_into_nothing_and_nothing_is_loaded_from_a_network(site, pages):
    ids = {name: {tag["id"] for tag in found.find_all(id=True)} for name, found in pages.items()}
    wrong = []
    for name, found in pages.items():
        here = (site / name).parent
        for tag in found.find_all(["a", "link", "script", "img", "iframe", "source"]):
            target = tag.get("href") or tag.get("src") or ""
            if target.startswith("data:") or (tag.name == "a" and re.match(r"https?:|mailto:", target)):
                continue
            path, _, part = unquote(target).partition("#")
            path = (here / path.partition("?")[0]).resolve() if path else (site / name)
            there = path.relative_to(site).as_posix() if path.is_relative_to(site) else ""
            if "//" in target or not path.is_file() or (part and part not in ids.get(there, {part, ""})):
                wrong.append((name, target))
    assert not wrong
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?https?:|@import ['\"]?https?:", sheet.read_text("utf-8")), sheet


def test_hints_and_solutions_are_there_and_folded(pages):
    for exercise in exercises.all_exercises().values():
        [chapter] = [c for c in chapters.all_chapters() if c.number == exercise.id[:2]]
        boxes = page(pages, chapter.file).select("details.solution")
        [solution] = [box for box in boxes if f"Solution of {exercise.id}" in box.summary.get_text()]
        assert not solution.has_attr("open")
        assert exercise.solution.strip() in solution.get_text()
        hints = [words(box.div.get_text()) for box in solution.parent.select("details.hint:not([open])")]
        assert len(hints) == len(exercise.hints)
    assert not [name for name, found in pages.items() if "print/" not in name and found.select("details[open]")]


def test_title_and_objectives_in_chinese_are_folded_up(pages):
    for chapter in chapters.all_chapters():
        [box] = page(pages, chapter.file).select("details[lang=zh-CN]:not([open])")
        known = languages.chinese()["chapters"][chapter.number]
        assert known["title"] in box.get_text() and len(box.find_all("li")) == len(known["objectives"])
        assert "**" not in box.get_text()


def test_quizzes_have_their_questions_and_folded_answers(pages):
    for number, questions in exercises.all_quizzes().items():
        [chapter] = [c for c in chapters.all_chapters() if c.number == number]
        shown = page(pages, chapter.file)
        answers = [words(box.div.get_text()) for box in shown.select("details.solution") if "Answer to" in box.text]
        assert len(answers) == len(questions)
        assert all(answer.startswith(f"{q.right})") for answer, q in zip(answers, questions, strict=True))


def test_words_of_the_glossary_show_their_meaning(pages):
    terms = {term.anchor: term for term in languages.glossary()}
    for chapter in chapters.all_chapters():
        marked = page(pages, chapter.file).select("abbr[title] > a")
        assert len(marked) >= 3, chapter.file
        for link in marked:
            assert link.parent["title"] in {term.definition for term in terms.values()}
            assert link["href"].startswith("../docs/glossary.html#")
        assert len({link["href"] for link in marked if not link.find_parent("details")}) >= 3


def test_pictures_have_their_words(pages):
    shown = [image for found in pages.values() for image in found.select("article img, main img")]
    pictures = sum(
        "image/png" in output.get("data", {})
        for path in chapters.notebook_paths()
        for cell in nbformat.read(path, as_version=4).cells
        for output in cell.get("outputs", [])
    )
    assert len(shown) > 3 * pictures > 150  # pages, and two prints of each
    assert all(image.get("alt", "").strip() for image in shown)


def test_columns_of_tables_have_names_and_headings_skip_no_level(pages):
    for name, found in pages.items():
        assert not [head for head in found.select("article th") if not head.get_text(strip=True)], name
        levels = [int(heading.name[1]) for heading in found.select("article :is(h1, h2, h3, h4, h5, h6)")]
        assert all(after <= before + 1 for before, after in itertools.pairwise(levels)), name


def test_the_scoreboard_has_every_verdict_and_its_chapter(pages):
    rows = pages["verdicts.html"].select("tbody tr")
    verdicts = {v.claim: v for path in chapters.notebook_paths() for v in claims.saved_verdicts(path)}
    assert [row.td.get_text() for row in rows] == sorted(verdicts) == list(claims.ledger())
    for row in rows:
        found = verdicts[row.td.get_text()]
        told = words(row.get_text(" "))
        assert words(found.measured) in told and found.verdict in told
        assert row.a["href"].startswith(f"notebooks/{found.chapter}_")
    front = pages["index.html"]
    assert front.find("img", alt=re.compile("DeepSeek-V3")) and len(front.select("tbody tr")) == len(
        [*chapters.all_chapters(), *claims.ledger()]
    )


def test_search_knows_the_words_of_chapters(site):
    index = json.loads(re.fullmatch(r"Search\.setIndex\((.*)\)", (site / "searchindex.js").read_text("utf-8"))[1])
    assert {f"notebooks/{path.stem}" for path in chapters.notebook_paths()} <= set(index["docnames"])
    assert {"perplex", "router", "quantiz"} <= set(index["terms"])


def test_prints_are_blank_or_filled(site, pages):
    assert {name.removeprefix("print/") for name in pages if name.startswith("print/")} == {
        f"{name}-{variant}.html" for name in prints.prints() if name != "book" for variant in sources.VARIANTS
    }
    for variant in sources.VARIANTS:
        book = (site / "print" / f"book-{variant}.html").read_text("utf-8")
        assert book.count("<article") == len(chapters.all_chapters()) + 1
        ids = re.findall(r' id="([^"]+)"', book)
        assert len(ids) == len(set(ids))
        assert set(re.findall(r'href="#([^"]+)"', book)) <= set(ids)
    for exercise in exercises.all_exercises().values():
        [chapter] = [c for c in chapters.all_chapters() if c.number == exercise.id[:2]]
        name = f"print/{chapter.file.removesuffix('.ipynb')}"
        blank, filled = (pages[f"{name}-{variant}.html"] for variant in sources.VARIANTS)
        assert exercise.solution.strip() in filled.get_text() and exercise.solution.strip() not in blank.get_text()
        assert all(box.has_attr("open") for box in filled.select("details.solution"))
        assert not blank.select("details.solution, details.hint")
    room, blanks = ".answers[class*=level-]", [found for name, found in pages.items() if "-blank" in name]
    rooms = [box for found in blanks for box in found.select(room)]
    assert len(rooms) == len(exercises.all_exercises()) and not any(room.get_text(strip=True) for room in rooms)


def test_slides_have_a_deck_for_each_part(pages):
    for name, title in sources.decks().items():
        deck = pages[f"slides/{name}.html"]
        assert deck.h1.get_text() == title and len(deck.select("section section")) > 20
        assert not deck.select("[src^=http], link[href^=http]")
    everything = " ".join(pages[f"slides/{name}.html"].get_text() for name in sources.decks())
    assert all(f"{chapter.number} · {chapter.title}" in everything for chapter in chapters.all_chapters())
    assert all(claim in everything for claim in claims.ledger()) and "Exercise 05.1" not in everything
