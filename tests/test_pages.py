"""Pages made of notebooks, without Sphinx: what is shown, how it prints, and PDF files from a browser."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from bs4 import BeautifulSoup
from markdown_it import MarkdownIt
from nbformat import v4

from tools import __main__ as cli
from tools import pages, templates
from tools.website import prints, slides, sources
from utils import chapters, exercises
from utils.claims import VERDICT_MIME

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
ALT = 'Loss falls from 4 to 2. The "second" half is flat & <b>short</b>.'
BADGE = "[![Open this chapter in Colab](images/open-in-colab.svg)](https://colab.research.google.com/x)"
FIRST = f"# 01 · One\n\n<!-- badge -->\n\n{BADGE}\n\n9 min to read\n\n<!-- /badge -->\n\nOn: [two](02_two.ipynb) "
FIRST += "([in Colab](https://colab.research.google.com/y)), $x^2$, [words](../docs/glossary.md#kv-cache)."


def stream(text):
    return v4.new_output("stream", name="stdout", text=text)


def code(source, *outputs, **metadata):
    return v4.new_code_cell(source, outputs=list(outputs), metadata=metadata)


def markdown(source):
    return v4.new_markdown_cell(source)


@pytest.fixture
def notebook():
    """A chapter with one of everything."""
    picture = v4.new_output("display_data", data={"image/png": PIXEL}, metadata={"image/png": {"alt": ALT}})
    widget = v4.new_output("display_data", data={pages.WIDGET_VIEW: {}, "text/plain": "IntSlider(value=1)"})
    card = v4.new_output("display_data", data={"text/html": "<div>C10 refuted</div>", VERDICT_MIME: {}})
    cells = [
        markdown(FIRST),
        code("%pip install secret", tags=["bootstrap"]),
        code("x = 1", stream("\x1b[31mred\x1b[0m <b>\n"), picture, widget),
        code("verdict()", stream("before"), card),
        code('answer = ...\ncheck("01.2", answer)', stream("01.2 is waiting for your answer (warm-up).\n")),
        code('check("01.2", 3)', stream("not yet")),
        code('solution("01.2")', stream("the solution")),
        code('quiz("01", "")', stream("1. Which is it?")),
    ]
    return v4.new_notebook(cells=cells)


def test_a_chapter_of_the_site_leaves_out_what_only_notebooks_use_and_gets_folded_answers(notebook):
    cells = sources.chapter(notebook).cells
    everything = "\n".join(str(cell) for cell in cells)
    assert not [word for word in ("secret", "olab", "IntSlider", "is waiting", VERDICT_MIME) if word in everything]
    assert "9 min to read" in cells[0].source and "[two](02_two.ipynb)" in cells[0].source
    [answers] = [cell.source for cell in cells if "{div} answers" in cell.source and "Hint" in cell.source]
    exercise = exercises.get("01.2")
    assert answers.count("{dropdown} Hint") == len(exercise.hints) and exercise.solution.strip() in answers
    assert cells.index(next(c for c in cells if c.source == answers)) == 4  # behind the first check alone
    assert next(c for c in cells if c.source.startswith("solution(")).metadata.tags == ["hide-output"]
    quiz = cells[-1].source
    assert all(templates.plain(question.text) in quiz for question in exercises.all_quizzes()["01"])
    assert quiz.count("{dropdown} Answer") == len(exercises.all_quizzes()["01"])


@pytest.mark.parametrize("text", ["2**(bits - 1) * x[0] < y_1", "a | b # `c` $d$ ~ {e} <b>f</b>", r"\frac & so on"])
def test_what_an_exercise_says_is_shown_as_it_is(text):
    shown = BeautifulSoup(MarkdownIt().render(templates.plain(text)), "html.parser")
    assert shown.get_text().strip() == text


def test_a_page_alone_needs_nothing_else(notebook, tmp_path):
    pages.write_page(notebook, "01 · <One>", tmp_path, tmp_path / "01.html")
    page = BeautifulSoup((tmp_path / "01.html").read_text("utf-8"), "html.parser")
    assert page.title.string == "01 · <One>" and page.math and [image["alt"] for image in page.find_all("img")] == [ALT]
    assert not page.find_all(["script", "link"]) and page.img["src"].startswith("data:")
    assert [link["href"] for link in page.find_all("a")] == ["02_two.html"]
    text = page.get_text()
    assert not [word for word in ("secret", "Colab", "IntSlider", "\x1b", "is waiting") if word in text]
    assert "red <b>" in text and "C10 refuted" in text


BODY = """<h1>05<a class="headerlink" href="#x">#</a></h1><h2 id="part">Part</h2>
<a class="reference internal" href="06_x.html#part">six</a><a href="#part">here</a><a href="https://x.org/#y">web</a>
<details lang="zh">中</details>
<div class="answers level-1"><details class="sd-card hint"><summary>H</summary>a hint</details>
<details class="sd-card solution"><summary>S</summary>the solution</details></div>"""


def test_a_print_keeps_its_links_inside_and_has_room_or_the_solution():
    part = prints._part_of_a_longer_page(BODY, "05_x")
    assert 'id="05_x--part"' in part and "headerlink" not in part
    assert [a["href"] for a in BeautifulSoup(part, "html.parser").find_all("a")] == [
        *("#06_x--part", "#05_x--part", "https://x.org/#y"),
    ]
    blank, filled = (BeautifulSoup(prints._variant(part, name), "html.parser") for name in ("blank", "filled"))
    assert blank.select_one(".answers").get_text(strip=True) == "" and "solution" not in blank.get_text()
    assert filled.select_one("details.solution[open]") and "a hint" not in filled.get_text()


def test_a_slide_shows_what_fits(notebook):
    long = "## 1. Sizes\n\n**The claim (C10):** small.\n\n" + "word " * 130 + "\n\n> **Predict.** How many?"
    shown = slides.slide(markdown(long)).source
    assert shown == "## 1. Sizes\n\n**The claim (C10):** small.\n\n> **Predict.** How many?"
    picture, verdict = (slides.slide(notebook.cells[place]) for place in (2, 3))
    assert [list(output.data) for output in picture.outputs] == [["image/png"]]
    assert verdict.metadata.jupyter.source_hidden and len(verdict.outputs) == 1
    short, longer, wide = (slides.slide(code(text, stream("42"))) for text in ("x", "x\n" * 15, "x" * 105))
    assert "jupyter" not in short.metadata and short.outputs
    assert longer.metadata.jupyter.source_hidden and wide.metadata.jupyter.source_hidden


# -------------------------------------------------------------------------------------------------------------- PDF


@pytest.fixture
def page(tmp_path):
    (tmp_path / "page.html").write_text("<title>t</title><p>new")
    return tmp_path / "page.html"


def program(folder: Path, script: str) -> str:
    """A stand-in for a browser: a shell script that finds the PDF's path in $pdf."""
    path = folder / "browser"
    find = 'for word in "$@"; do case "$word" in --print-to-pdf=*) pdf="${word#--print-to-pdf=}";; esac; done'
    path.write_text(f"#!/bin/sh\n{find}\n{script}\n")
    path.chmod(0o755)
    return str(path)


needs_sh = pytest.mark.skipif(os.name != "posix", reason="the stand-in browser is a shell script")


@pytest.mark.parametrize(("named", "message"), [("", "no Chromium or Chrome"), ("/nowhere/chrome", "/nowhere/chrome")])
def test_pdf_without_a_browser_is_one_clear_line_and_nothing_is_built(named, message, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(prints, "BROWSERS", ("chromium",))
    monkeypatch.setenv("COURSE_BROWSER", named)
    monkeypatch.setattr("tools.website.build.sources.write_sources", lambda *a, **k: pytest.fail("it built"))
    assert cli.main(["site", "--pdf"]) == 2
    error = capsys.readouterr().err
    assert message in error and "COURSE_BROWSER" in error and len(error.strip().splitlines()) == 1


@needs_sh
@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("exit 3", "exit code 3"),
        ("exit 0", "printed no page.pdf"),
        ('echo "half a page" > "$pdf"', "printed no page.pdf"),
        ('echo "%PDF-half" > "$pdf"; sleep 60 & sleep 60', "took longer than 0.5 s"),
    ],
)
def test_a_browser_that_fails_or_hangs_leaves_html_and_one_line(page, script, message):
    start = time.monotonic()
    with pytest.raises(prints.BrowserError, match=message):
        prints.write_pdf(page, program(page.parent, script), 0.5 if "sleep" in script else 20)
    assert time.monotonic() - start < 20
    assert {path.name for path in page.parent.iterdir()} == {"page.html", "browser"}


@needs_sh
def test_a_pdf_appears_at_one_stroke_beside_its_page(page):
    written = prints.write_pdf(page, program(page.parent, 'echo "%PDF-1.7" > "$pdf"'))
    assert written == page.with_suffix(".pdf") and written.exists() and not list(page.parent.glob("*.part"))


@needs_sh
def test_killed_on_the_way_it_leaves_the_old_file_whole(page):
    folder, pdf = page.parent, page.with_suffix(".pdf")
    pdf.write_text("%PDF-old")
    browser = program(folder, f'echo "%PDF-ha" > "$pdf"; touch {folder}/started; sleep 30')
    work = "import sys; from pathlib import Path; from tools.website import prints; "
    work += "prints.write_pdf(Path(sys.argv[1]), sys.argv[2])"
    command = [sys.executable, "-c", work, str(page), browser]
    process = subprocess.Popen(command, cwd=chapters.ROOT, start_new_session=True)
    while not (folder / "started").exists() and process.poll() is None:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert (folder / "started").exists() and pdf.read_text() == "%PDF-old"


def test_chromium_prints_a_page(page):
    try:
        browser = prints.find_chromium()
    except prints.BrowserError as error:
        pytest.skip(str(error))
    content = prints.write_pdf(page, browser).read_bytes()
    assert content.startswith(b"%PDF") and b"%%EOF" in content[-32:] and b"/StructTreeRoot" in content


def test_without_sphinx_the_site_is_one_clear_line(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "sphinx.cmd.build", None)
    assert cli.main(["site"]) == 2
    assert capsys.readouterr().err.strip() == 'the website needs the extra "site": python -m pip install ".[site]"'
