"""Handouts: what a page holds in each variant, that it stands alone, and what happens where it cannot be written."""

import itertools
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbformat import v4

from tools import __main__ as cli
from utils import chapters, exercises, handouts
from utils.exercises import Question

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
ALT = 'Loss falls from 4 to 2. The "second" half is flat & <b>short</b>.'
BADGE = "[![Open this chapter in Colab](images/open-in-colab.svg)](https://colab.research.google.com/x)"
FIRST = f"# 01 · One\n\n**The question:** Why?\n\n<!-- badge -->\n\n{BADGE}\n\n9 min to read\n\n<!-- /badge -->"
TABLE = "#### Too deep\n\n| a | b |\n|---|---|\n| 1 | $x^2$ |\n\nSee [two](02_two.ipynb#part-b) and [below](#too-deep)."
TABLE += "\n\nAnd the [cache](../docs/glossary.md#kv-cache)."
QUIZ = (Question("Which is <right>?", (("The first", "No: it is late."), ("The & second", "Yes: it is early.")), "b"),)

try:
    BROWSER = handouts.find_chromium()
except handouts.BrowserError:
    BROWSER = ""


def code_cell(source, *outputs, **metadata):
    return v4.new_code_cell(source, outputs=list(outputs), metadata=metadata)


def stream(text):
    return v4.new_output("stream", name="stdout", text=text)


@pytest.fixture
def small(tmp_path, monkeypatch):
    """Two chapters in a folder of their own; the first has an exercise, a quiz and a figure."""
    folder = tmp_path / "notebooks"
    (folder / "images").mkdir(parents=True)
    picture = v4.new_output("display_data", data={"image/png": PIXEL}, metadata={"image/png": {"alt": ALT}})
    widget = v4.new_output("display_data", data={handouts.WIDGET_VIEW: {}, "text/plain": "IntSlider(value=1)"})
    one = [
        v4.new_markdown_cell(FIRST),
        code_cell("%pip install secret", tags=["bootstrap"]),
        v4.new_markdown_cell("## Part b\n\n## Part b\n\n# Part b"),
        code_cell("x = 1  # a comment", stream("\x1b[31mred\x1b[0m <b>\n"), picture, widget),
        v4.new_markdown_cell(TABLE),
        code_cell('answer = ...\ncheck("01.2", answer)', stream("01.2 is waiting for your answer (warm-up).\n")),
        code_cell('solution("01.2")', stream(exercises.get("01.2").solution)),
        code_cell('quiz("01")', stream("1. Which is it?")),
    ]
    two = [v4.new_markdown_cell("# 02 · Two\n\n## Part b\n\nBack to [one](01_one.ipynb).")]
    nbformat.write(v4.new_notebook(cells=one), folder / "01_one.ipynb")
    nbformat.write(v4.new_notebook(cells=two), folder / "02_two.ipynb")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "glossary.md").write_text("# Words\n\n### KV cache\n\nIn [one](../notebooks/01_one.ipynb).")
    monkeypatch.setattr(chapters, "ROOT", tmp_path)
    monkeypatch.setattr(chapters, "NOTEBOOKS", folder)
    monkeypatch.setattr(exercises, "all_quizzes", lambda: {"01": QUIZ})
    return tmp_path


@pytest.fixture
def pages(small):
    """All pages of the small course, by their path below `handouts`."""
    build = small / "build"
    assert handouts.make(build=build, pdf=False) == 0
    root = build / "handouts"
    return {
        path.relative_to(root).as_posix(): BeautifulSoup(path.read_text("utf-8"), "html.parser")
        for path in root.rglob("*.html")
    }


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """Both variants of the committed notebooks' book."""
    folder = tmp_path_factory.mktemp("book")
    books = {}
    for variant in handouts.VARIANTS:
        handouts.write_book(chapters.notebook_paths(), folder / f"{variant}.html", variant)
        books[variant] = BeautifulSoup((folder / f"{variant}.html").read_text("utf-8"), "html.parser")
    return books


@pytest.fixture(scope="module")
def texts(real):
    """What the real books say: the filled one's solutions, and all of the blank one."""
    return [box.get_text() for box in real["filled"].select(".solution")], real["blank"].get_text()


def problems(page: BeautifulSoup) -> list[str]:
    """What keeps a page from standing alone, or a reader from finding their way."""
    ids = [element["id"] for element in page.find_all(id=True)]
    found = [f"id {name} twice" for name in set(ids) if ids.count(name) > 1]
    found += [f"no target {a['href']}" for a in page.find_all("a", href=re.compile("^#")) if a["href"][1:] not in ids]
    found += [f"loads {element['src'][:40]}" for element in page.find_all(src=True) if element["src"][:5] != "data:"]
    found += [f"loads {element}"[:60] for element in page.find_all(["link", "script", "iframe"])]
    found += ["style loads something" for style in page.find_all("style") if re.search(r"@import|url\(", style.string)]
    found += [f"no alt text: {str(image)[-60:]}" for image in page.find_all("img") if not image.get("alt", "").strip()]
    found += [
        "a figure without a caption" for figure in page.find_all("figure") if not figure.figcaption.string.strip()
    ]
    levels = [int(heading.name[1]) for heading in page.find_all(re.compile("^h[1-6]$"))]
    found += [] if levels.count(1) == 1 and levels[0] == 1 else [f"{levels.count(1)} h1"]
    found += [f"h{a} then h{b}" for a, b in itertools.pairwise(levels) if b > a + 1]
    scrolling = page.find_all("pre") + page.find_all(class_="wide")
    found += ["scrolls without the keyboard" for element in scrolling if element.get("tabindex") != "0"]
    found += ["a table that cannot scroll" for table in page.find_all("table") if "wide" not in table.parent["class"]]
    found += [] if page.html.get("lang") == "en" and page.main and page.title.string else ["no lang, main or title"]
    return found


def test_the_small_pages_and_the_real_books_stand_alone(pages, real):
    assert len(pages) == 8
    for name, page in [*pages.items(), *real.items()]:
        assert problems(page) == [], name


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('id="part-b"', 'id="c01"', "id c01 twice"),
        ("alt='Loss", "title='Loss", "no alt text"),
        ('src="data:', 'src="https://x.org/', "loads https://x.org"),
        ("</head>", '<script src="x.js"></script></head>', "loads <script"),
        ("<style>", "<style>@import 'x.css';", "style loads"),
        ("<h2", "<h3", "h1 then h3"),
        ("<h2", "<h1", "2 h1"),
        ('<pre class="code" tabindex="0">', "<pre>", "without the keyboard"),
        ('lang="en"', "", "no lang"),
        ('href="#part-b"', 'href="#elsewhere"', "no target #elsewhere"),
    ],
)
def test_each_of_these_problems_is_noticed(pages, old, new, problem):
    text = str(pages["blank/01_one.html"])
    assert old in text
    if old == "<h2":
        old, new = (found := re.search("<h2.*?</h2>", text)[0]), found.replace("h2", new[1:])
    changed = text.replace(old, new, 1)
    assert any(problem in found for found in problems(BeautifulSoup(changed, "html.parser")))


def test_a_page_leaves_out_set_up_badge_and_widgets_and_keeps_the_rest(pages):
    page = pages["blank/01_one.html"]
    text = page.get_text()
    for absent in ("secret", "Colab", "IntSlider", "\x1b", "is waiting"):
        assert absent not in text
    for present in ("9 min to read", "red <b>", "x = 1  # a comment", "Why?"):
        assert present in text
    assert page.math and page.title.string == "01 · One"
    assert [image["alt"] for image in page.find_all("img")] == [ALT]
    assert page.figure.figcaption.string == "Loss falls from 4 to 2."
    assert page.find(class_="wide", role="region")["aria-label"] == "Table 01.1"
    assert page.th["scope"] == "col"


def test_headings_get_unique_ids_and_one_h1(pages):
    page = pages["blank/01_one.html"]
    headings = [(h.name, h["id"]) for h in page.find_all(re.compile("^h[1-6]$"))]
    expected = [("h1", "c01"), ("h2", "part-b"), ("h2", "part-b-2"), ("h2", "part-b-3"), ("h3", "too-deep")]
    assert headings == expected
    assert [a["href"][1:] for a in page.nav.find_all("a")] == [name for _, name in expected[1:]]


def test_links_between_chapters_stay_inside_the_variant(pages):
    links = [a["href"] for a in pages["filled/01_one.html"].main.find_all("a")]
    assert links == ["02_two.html#part-b", "#too-deep", "glossary.html#kv-cache"]
    assert pages["filled/glossary.html"].find(id="kv-cache")
    assert pages["filled/glossary.html"].main.a["href"] == "01_one.html"
    assert pages["filled/02_two.html"].find(id="part-b")
    links = [a["href"] for a in pages["book-filled.html"].main.find_all("a")]
    assert links == ["#c02-part-b", "#c01-too-deep", "#cglossary-kv-cache", "#c01", "#c01"]


def test_blank_has_room_and_no_solution_and_filled_the_reverse(pages):
    exercise = exercises.get("01.2")
    for name in ("{}/01_one.html", "book-{}.html"):
        blank, filled = pages[name.format("blank")], pages[name.format("filled")]
        assert len(blank.select(".room hr")) == handouts.LINES[exercise.level] and not filled.select(".room")
        assert exercise.solution not in blank.get_text() and exercise.after not in blank.get_text()
        assert exercise.solution in filled.select_one(".solution pre").get_text()
        assert exercise.after in filled.select_one(".solution").get_text()


def test_quiz_has_its_questions_in_both_variants_and_the_answer_in_one(pages):
    blank, filled = (pages[f"{variant}/01_one.html"].select_one(".quiz").get_text() for variant in handouts.VARIANTS)
    assert "Which is <right>?" in blank and "The & second" in blank and "early" not in blank and "late" not in blank
    assert "b) Yes: it is early." in filled and "late" not in filled


@pytest.mark.parametrize("exercise", exercises.all_exercises().values(), ids=lambda exercise: exercise.id)
def test_every_exercise_has_its_solution_in_filled_only(exercise, texts):
    boxes, blank = texts
    [box] = [box for box in boxes if f"Solution of {exercise.id}" in box]
    assert exercise.solution.strip() in box and exercise.after in box
    assert exercise.solution.strip() not in blank and exercise.after not in blank


def test_every_exercise_has_room_in_blank(real):
    assert len(real["blank"].select(".room")) == len(exercises.all_exercises())
    assert not real["blank"].select(".solution") and not real["filled"].select(".room")


def test_the_real_book_has_every_chapter_and_all_its_figures(real):
    page = real["blank"]
    titles = [heading.get_text() for heading in page.find_all("h2")]
    assert titles == [
        *(f"{chapter.number} · {chapter.title}" for chapter in chapters.all_chapters()),
        "Glossary · 术语表",
    ]
    pictures = [
        output
        for path in chapters.notebook_paths()
        for cell in nbformat.read(path, as_version=4).cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    assert len(page.find_all("figure")) == len(pictures) > 50
    assert not [a["href"] for a in page.find_all("a", href=re.compile(r"^(?!https:).*\.ipynb"))]


def luminance(colour: str) -> float:
    colour = "".join(2 * c for c in colour) if len(colour) == 3 else colour
    channels = [int(colour[place : place + 2], 16) / 255 for place in (0, 2, 4)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_text_and_code_have_contrast_in_light_and_dark_mode():
    assert contrast("777777", "ffffff") < 4.5 < contrast("767676", "ffffff")
    sheet = handouts.style("pages", "handout")
    light, dark = re.findall(r"--paper: #(\w+); --ink: #(\w+); --soft: #(\w+);.*?--link: #(\w+);", sheet)
    grounds = re.findall(r"--code: #(\w+); --tint: #(\w+)", sheet)
    code = sheet.split("@media", 2)[:2]
    for (paper, *inks), (ground, tint), tokens in zip((light, dark), grounds, code, strict=True):
        colours = re.findall(r"[ {]color: #(\w+)", tokens.split(":root")[0])
        assert len(colours) > 20
        for colour in inks:
            assert min(contrast(colour, paper), contrast(colour, tint)) >= 4.5, colour
        shown = re.findall(r"\.code \.(?!err|g\w|w\b|l)\w+ \{ color: #(\w+)", tokens)
        assert len(shown) > 15 and all(contrast(colour, ground) >= 4.5 for colour in shown)


def test_only_some_chapters_and_no_book(small):
    assert handouts.make("02, 02", small / "build", pdf=False) == 0
    written = sorted(path.relative_to(small / "build").as_posix() for path in (small / "build").rglob("*.html"))
    assert [name for name in written if "glossary" not in name] == [
        "handouts/blank/02_two.html",
        "handouts/filled/02_two.html",
    ]


@pytest.mark.parametrize("only", ["77", "01,x", ","])
def test_an_unknown_chapter_is_one_clear_line(only, capsys):
    assert cli.main(["handouts", "--only", only]) == 2
    error = capsys.readouterr().err
    assert "no chapter" in error and "there are 00, 01" in error and len(error.strip().splitlines()) == 1


@pytest.mark.parametrize("command", ["handouts", "slides"])
def test_a_build_folder_that_cannot_be_written_is_one_clear_line(command, tmp_path, monkeypatch, capsys):
    (tmp_path / "build").write_text("a file stands where the folder should be")
    make = __import__("utils." + command, fromlist=["make"]).make
    monkeypatch.setattr(f"utils.{command}.make", lambda only, **more: make("01" if more else "1", tmp_path / "build"))
    assert cli.main([command, *(["--no-pdf"] if command == "handouts" else [])]) == 2
    error = capsys.readouterr().err
    assert str(tmp_path / "build") in error and "cannot be written" in error and len(error.strip().splitlines()) == 1
    assert (tmp_path / "build").read_text().startswith("a file")


# -------------------------------------------------------------------------------------------------------------- PDF


def program(folder: Path, script: str) -> str:
    """A stand-in for a browser: a shell script that finds the PDF's path in $pdf."""
    path = folder / "browser"
    find = 'for word in "$@"; do case "$word" in --print-to-pdf=*) pdf="${word#--print-to-pdf=}";; esac; done'
    path.write_text(f"#!/bin/sh\n{find}\n{script}\n")
    path.chmod(0o755)
    return str(path)


needs_sh = pytest.mark.skipif(os.name != "posix", reason="the stand-in browser is a shell script")


def test_without_a_browser_there_is_html_and_one_line_that_says_so(small, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(small))
    monkeypatch.setattr(handouts, "BROWSER_PLACES", ())
    monkeypatch.delenv("COURSE_BROWSER", raising=False)
    assert handouts.make(build=small / "build") == 0
    lines = capsys.readouterr().out.strip().splitlines()
    assert len(lines) == 2 and "no Chromium or Chrome is installed" in lines[1] and "COURSE_BROWSER" in lines[1]
    assert len(list((small / "build").rglob("*.html"))) == 8 and not list((small / "build").rglob("*.pdf*"))


def test_a_named_browser_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setenv("COURSE_BROWSER", "/nowhere/chrome")
    with pytest.raises(handouts.BrowserError, match="COURSE_BROWSER names /nowhere/chrome"):
        handouts.find_chromium()


@needs_sh
@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("exit 3", "exit code 3"),
        ("exit 0", "printed no 01_one.pdf"),
        ('echo "half a page" > "$pdf"', "printed no 01_one.pdf"),
        ('echo "%PDF-half" > "$pdf"; sleep 60 & sleep 60', "took longer than 0.5 s"),
    ],
)
def test_a_browser_that_fails_or_hangs_leaves_html_and_one_line(small, monkeypatch, capsys, script, message):
    monkeypatch.setenv("COURSE_BROWSER", program(small, script))
    monkeypatch.setattr(handouts, "PDF_SECONDS", 0.5 if "sleep" in script else 20)
    start = time.monotonic()
    assert handouts.make("01", small / "build") == 0
    assert time.monotonic() - start < 20
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert last.startswith("PDF files are left out:") and message in last
    assert {path.suffix for path in (small / "build").rglob("*.*")} == {".html"}


@needs_sh
def test_a_pdf_appears_at_one_stroke_beside_its_page(small, monkeypatch):
    monkeypatch.setenv("COURSE_BROWSER", program(small, 'echo "%PDF-1.7" > "$pdf"'))
    assert handouts.make(build=small / "build") == 0
    assert len(list((small / "build").rglob("*.pdf"))) == 6 and not list((small / "build").rglob("*.part"))


@needs_sh
def test_no_older_pdf_stays_beside_a_page_that_changed(small, monkeypatch, capsys):
    monkeypatch.setenv("COURSE_BROWSER", program(small, 'echo "%PDF-1.7" > "$pdf"'))
    assert handouts.make("01", small / "build") == 0
    page = small / "build" / "handouts" / "blank" / "01_one.html"
    assert handouts.make("01", small / "build", pdf=False) == 0 and page.with_suffix(".pdf").exists()
    page.write_text("an older page")
    monkeypatch.setenv("COURSE_BROWSER", program(small, "exit 3"))
    assert handouts.make("01", small / "build") == 0 and "PDF files are left out" in capsys.readouterr().out
    assert not page.with_suffix(".pdf").exists()


@needs_sh
def test_killed_on_the_way_it_leaves_the_old_file_whole(small):
    page, pdf = small / "page.html", small / "page.pdf"
    page.write_text("<p>new")
    pdf.write_text("%PDF-old")
    browser = program(small, f'echo "%PDF-ha" > "$pdf"; touch {small}/started; sleep 30')
    work = f"from pathlib import Path; from utils import handouts; handouts.write_pdf(Path({str(page)!r}), {browser!r})"
    process = subprocess.Popen([sys.executable, "-c", work], cwd=chapters.ROOT, start_new_session=True)
    while not (small / "started").exists() and process.poll() is None:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert (small / "started").exists() and pdf.read_text() == "%PDF-old"


@pytest.mark.skipif(not BROWSER, reason="no Chromium or Chrome is installed: PDF printing is not tested")
def test_chromium_prints_a_page(small):
    handouts.make("01", small / "build", pdf=False)
    written = handouts.write_pdf(small / "build" / "handouts" / "filled" / "01_one.html", BROWSER)
    content = written.read_bytes()
    assert content.startswith(b"%PDF") and b"%%EOF" in content[-32:] and b"/StructTreeRoot" in content
    assert not list(written.parent.glob("*.part"))
