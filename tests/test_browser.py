"""A real browser: JupyterLab as a learner meets it, and what axe-core says about the pages that the course writes.

Needs Chromium: `COURSE_BROWSER`, or chromium, chromium-browser or google-chrome on the PATH. Without it every test here
is skipped. Screenshots stay in build/screenshots/.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
import psutil
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from tools import report
from tools.report import ChapterResult, Failure
from tools.website import prints
from utils import chapters, exercises
from utils.exercises import _learner as learner

SCREENSHOTS = chapters.ROOT / "build" / "screenshots"
try:
    CHROMIUM = prints.find_chromium()
except prints.BrowserError:
    CHROMIUM = None
SWITCHES = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
SWITCHES += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
PATIENCE = 90_000  # milliseconds; a busy machine is slow
RUN_ALL = 300_000
CLOSED_SOCKET = re.compile(
    r"^Exception in callback .*\n(?:handle: .*\n)?Traceback .*\n(?: +.*\n)*"
    r"zmq\S+ZMQError: Socket operation on non-socket\n",
    re.MULTILINE,
)
expect.set_options(timeout=PATIENCE)

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=SWITCHES)
        yield chromium
        chromium.close()


@pytest.fixture(autouse=True)
def picture_of_a_failure(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that fails leaves a screenshot of every open page in build/screenshots/."""
    failed = request.session.testsfailed
    yield
    if request.session.testsfailed > failed and "browser" in request.fixturenames:
        pages = [page for context in request.getfixturevalue("browser").contexts for page in context.pages]
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        for number, page in enumerate(pages):
            name = re.sub(r"\W+", "-", request.node.name)
            page.screenshot(path=SCREENSHOTS / f"failed-{name}-{number}.png")


# JupyterLab


@dataclass
class Lab:
    """JupyterLab, as `make lab` starts it, on a copy of two chapters."""

    process: subprocess.Popen
    folder: Path
    port: int
    address: str  # as printed, with the token
    requests: list[str] = field(default_factory=list)  # what its pages ask for

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def printed(self) -> str:
        return (self.folder / "terminal.txt").read_text()

    def notebook(self, name: str) -> nbformat.NotebookNode:
        return nbformat.read(self.folder / "notebooks" / name, 4)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("lab with a space")
    shutil.copytree(chapters.NOTEBOOKS / "images", folder / "notebooks" / "images")
    for name in ("00_start_here.ipynb", "01_architecture_math.ipynb"):
        notebook = nbformat.read(chapters.NOTEBOOKS / name, 4)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None  # what is there later, this run made
        nbformat.write(notebook, folder / "notebooks" / name)
    own = {f"JUPYTER_{name.upper()}_DIR": str(folder / name) for name in ("data", "runtime")}
    (folder / "home").mkdir()
    own |= {"HOME": str(folder / "home"), "JUPYTER_CONFIG_DIR": str(chapters.ROOT / "tools" / "jupyter")}
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    command = [str(Path(sys.executable).with_name("jupyter")), "lab", f"--port={port}", "--no-browser"]
    environment = os.environ | own | {"PYTHONPATH": str(chapters.ROOT)}
    ours, theirs = os.openpty()  # people have a terminal: with one, the server itself answers Ctrl-C
    with (folder / "terminal.txt").open("w") as terminal:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdin=theirs, stdout=terminal, stderr=terminal)
    try:
        running = Lab(process, folder, port, "")
        end = time.monotonic() + PATIENCE / 1000
        while not (found := re.search(r"(http://127\S+)\s", running.printed())):
            assert process.poll() is None and time.monotonic() < end, running.printed()
            time.sleep(0.1)
        running.address = found[1]
        yield running
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(60)
        for end in (ours, theirs):
            os.close(end)


@pytest.fixture(scope="module")
def start(browser: Browser, lab: Lab) -> Page:
    """The page that opens first."""
    page = browser.new_context(viewport={"width": 1280, "height": 800}).new_page()
    page.set_default_timeout(PATIENCE)
    page.on("request", lambda request: lab.requests.append(request.url))
    page.goto(lab.address)
    heading(page, "What this course does").wait_for()
    return page


@pytest.fixture(scope="module")
def ran(start: Page, lab: Lab) -> Page:
    """Chapter 01, after "Restart Kernel and Run All Cells"."""
    start.goto(f"{lab.base}/lab/tree/01_architecture_math.ipynb")
    heading(start, "Exercise 01.1").wait_for()
    ready = ".jp-NotebookPanel:visible .jp-Notebook-ExecutionIndicator[data-status=idle]"
    start.locator(ready).wait_for(state="attached")  # Lab drops a restart that comes before the kernel is there
    start.get_by_role("menuitem", name="Run", exact=True).click()
    start.locator('.lm-Menu-item[data-command="runmenu:restart-and-run-all"]').click()
    start.locator(".jp-Dialog").get_by_role("button", name="Confirm Kernel Restart").click()
    cells = sum(cell.cell_type == "code" for cell in lab.notebook("01_architecture_math.ipynb").cells)
    expect(start.locator(ready)).to_contain_text(re.compile(rf"Executed {cells} cells"), timeout=RUN_ALL)
    return start


def heading(page: Page, text: str) -> Locator:
    """An entry of the table of contents."""
    return page.locator(".jp-tocItem-heading:visible", has_text=text).first


def picture(page: Page, name: str) -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png")


def test_only_this_machine_with_the_token_gets_in(lab: Lab, start: Page):
    server = psutil.Process(lab.process.pid)
    sockets = [each for process in [server, *server.children(recursive=True)] for each in process.net_connections()]
    listening = {each.laddr for each in sockets if each.status == psutil.CONN_LISTEN}
    assert {ip for ip, _ in listening} == {"127.0.0.1"} and lab.port in {port for _, port in listening}
    token = re.search(r"token=(\w{32,})$", lab.address)[1]
    assert token not in " ".join(server.cmdline())
    with urllib.request.urlopen(f"{lab.base}/api/contents?token={token}", timeout=30) as answer:
        assert answer.status == 200
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(f"{lab.base}/api/contents", timeout=30)
    # A foreign page in the learner's browser has the cookie of the session, and still reads and changes nothing.
    foreign = {"Origin": "http://elsewhere.example"}
    read = start.context.request.get(f"{lab.base}/api/contents", headers=foreign)
    assert "access-control-allow-origin" not in read.headers
    made = start.context.request.post(f"{lab.base}/api/contents", headers=foreign)
    assert made.status in (403, 404), made.status  # 201 would be a new file


def test_chapter_00_opens_with_its_table_of_contents_and_asks_nothing(start: Page, lab: Lab):
    assert start.url == f"{lab.base}/lab/tree/00_start_here.ipynb"
    expect(start.locator(".jp-NotebookPanel:visible h1")).to_contain_text("00 · Start here")
    markdown = [cell.source for cell in lab.notebook("00_start_here.ipynb").cells if cell.cell_type == "markdown"]
    for text in re.findall(r"^#+ (.+)$", "\n".join(markdown), re.M):
        expect(heading(start, text)).to_be_visible()
    expect(start.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]")).to_be_attached()
    assert start.locator(".jp-Dialog, .jp-toast-button").count() == 0
    picture(start, "lab-00")


def test_every_cell_of_chapter_01_ran(ran: Page, lab: Lab):
    expect(ran.locator(".jp-Dialog")).to_have_count(0)
    ran.locator(".jp-NotebookPanel:visible").get_by_role("button", name=re.compile("^Save")).click()
    expect(ran.locator(".lm-DockPanel .lm-mod-current.jp-mod-dirty")).to_have_count(0)
    cells = [cell for cell in lab.notebook("01_architecture_math.ipynb").cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    may_fail = [cell for cell in cells if "raises-exception" in cell.metadata.get("tags", [])]
    assert not [
        cell.source for cell in cells if cell not in may_fail and any(o.output_type == "error" for o in cell.outputs)
    ]


def slider(page: Page) -> tuple[Locator, Locator]:
    """The handle of the slider for layers, and the text below the sliders."""
    heading(page, "11. The inverse problem").click()
    box = page.locator(".jp-NotebookPanel:visible .widget-vbox", has=page.get_by_role("slider"))
    row = box.locator(".widget-slider", has_text="layers")
    row.scroll_into_view_if_needed()
    return row.get_by_role("slider"), box.locator(".jupyter-widgets-output-area, .widget-output").last


def test_the_slider_moves_by_keyboard(ran: Page):
    handle, text = slider(ran)
    cell = ran.locator(".jp-NotebookPanel:visible .jp-CodeCell", has=ran.get_by_role("slider"))
    cell.locator(".jp-InputPrompt").click()
    for _ in range(30):  # a learner without a mouse gets there with Tab
        if handle.evaluate("handle => handle === document.activeElement"):
            break
        ran.keyboard.press("Tab")
    expect(handle).to_be_focused()
    before = int(handle.get_attribute("aria-valuetext"))
    expect(text).to_contain_text(f"{before} layers, hidden size 2560")
    for _ in range(3):
        ran.keyboard.press("ArrowRight")
    expect(text).to_contain_text(f"{before + 3} layers, hidden size 2560")
    ran.keyboard.press("ArrowLeft")
    expect(text).to_contain_text(f"{before + 2} layers, hidden size 2560")
    assert handle.get_attribute("aria-valuetext") == str(before + 2)
    picture(ran, "lab-01-slider")


def test_the_slider_moves_by_mouse(ran: Page):
    handle, text = slider(ran)
    before = text.inner_text()
    place = handle.bounding_box()
    x, y = place["x"] + place["width"] / 2, place["y"] + place["height"] / 2
    ran.mouse.move(x, y)
    ran.mouse.down()
    ran.mouse.move(x + 40, y, steps=4)
    ran.mouse.up()
    expect(text).not_to_have_text(before)
    assert int(re.match(r"\d+", text.inner_text())[0]) > int(re.match(r"\d+", before)[0])


def test_a_wrong_answer_gets_its_hint_and_a_right_one_is_kept(ran: Page):
    heading(ran, "Exercise 01.1").click()
    cell = ran.locator(".jp-NotebookPanel:visible .jp-CodeCell", has_text='check("01.1", layer_parameters)')
    output = cell.locator(".jp-OutputArea-output")
    expect(output).to_contain_text("01.1 is waiting for your answer")

    def answer(formula: str) -> None:
        cell.locator(".cm-line", has_text="return").click()
        for key in ("End", "Shift+Home"):
            ran.keyboard.press(key)
        ran.keyboard.type(f"return {formula}")
        ran.keyboard.press("Control+Enter")

    answer("4 * hidden * hidden + 3 * hidden * intermediate")  # plain multi-head attention
    [fitting] = [mistake.hint for mistake in exercises.get("01.1").mistakes if "plain multi-head" in mistake.hint]
    expect(output).to_contain_text(fitting)
    assert "01.1" not in learner.load()[learner.EXERCISES]
    picture(ran, "lab-01-wrong")

    answer("2 * hidden * hidden + 2 * hidden * kv_heads * hidden // heads + 3 * hidden * intermediate")
    expect(output).to_contain_text("01.1 ✔ right. " + exercises.get("01.1").after)
    assert "01.1" in learner.load()[learner.EXERCISES]
    picture(ran, "lab-01-right")


def test_nothing_is_asked_from_the_network_and_the_terminal_is_quiet(ran: Page, lab: Lab):
    asked = {url for url in lab.requests if not url.startswith(("data:", "blob:"))}
    assert len(asked) > 20 and not {url for url in asked if not url.startswith(lab.base + "/")}
    # A kernel that is told to restart may report its own closed socket, once in many runs, and the chapter runs on.
    printed = CLOSED_SOCKET.sub("", lab.printed())
    assert "Warning" not in printed and "Error" not in printed and len(printed.splitlines()) < 9


def test_ctrl_c_ends_it_at_once_with_its_kernels(lab: Lab):
    kernels = psutil.Process(lab.process.pid).children(recursive=True)
    lab.process.send_signal(signal.SIGINT)
    assert lab.process.wait(30) == 0
    assert not psutil.wait_procs(kernels, timeout=30)[1]


# What axe-core says about the pages that the course writes

PHONE, DESKTOP = 390, 1280
LOOKS = [(scheme, width) for scheme in ("light", "dark") for width in (DESKTOP, PHONE)]


def complaints(browser: Browser, path: Path, scheme: str, width: int, shot: str = "") -> set[str]:
    """What is wrong with a page for somebody who cannot see it well, has a small screen, or likes it dark.

    Each complaint is the name of axe's rule and the start of the element, or one of the two things that axe leaves
    out: a page that scrolls sideways, and a picture without words.
    """
    context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
    try:
        page = context.new_page()
        page.goto(path.as_uri())
        # A page that turns dark passes through colours in between; those are not what a reader sees.
        page.evaluate("document.getAnimations().forEach(one => one instanceof CSSTransition && one.finish())")
        result = Axe().run(page).response
        assert len(result["passes"]) > 5  # axe has really looked
        found = {f"{rule['id']}: {rule['nodes'][0]['html'][:200]}" for rule in result["violations"]}
        root = "document.documentElement"
        if page.evaluate(f"{root}.scrollWidth > {root}.clientWidth"):
            found.add("scrolls sideways")
        if page.evaluate("[...document.images].some(image => !image.alt.trim())"):
            found.add("picture without words")
        if shot:
            picture(page, shot)
        return found
    finally:
        context.close()


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build folder with the report of three chapters, one of which failed, with everything that a report can show."""
    texts = {
        "text": "DeepSeek is an encoder–decoder Transformer.",
        "measured": "0 modules",
        "because": "it is a decoder",
    }
    judged = [{"claim": f"C0{place}", "verdict": verdict} | texts for place, verdict in enumerate(
        ("holds", "refuted", "holds if the model is dense"), 1
    )]  # fmt: skip
    failure = Failure(7, 3, 2, f"answer = {'a_long_name' * 20}", "ValueError: " + "no_space_in_here" * 20)
    results = [
        ChapterResult("00", "Start here", "00_start_here.ipynb", "ok", 12.3, 1039.0, [], None),
        ChapterResult("01", "Architecture math", "01_architecture_math.ipynb", "ok", 32.1, 612.0, judged, None),
        ChapterResult("02", "A mini DeepSeek", "02_x.ipynb", "cell failed", 5.0, 900.0, [], failure),
    ]
    folder = tmp_path_factory.mktemp("build")
    report.write_report(report.summary(results, 16, 50.0), folder)
    return folder


@pytest.mark.parametrize(("scheme", "width"), LOOKS)
def test_the_report_is_for_everybody(browser: Browser, build: Path, scheme: str, width: int):
    shot = f"report-{scheme}-{'phone' if width == PHONE else 'desktop'}"
    assert complaints(browser, build / "report.html", scheme, width, shot) == set()


PAGES = ["index.html", "verdicts.html", "docs/glossary.html", "notebooks/05_quantization.html"]
PAGES += ["print/05_quantization-filled.html", "slides/3_run_it.html"]


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize(("scheme", "width"), LOOKS)
def test_the_site_is_for_everybody(browser: Browser, site: Path, page: str, scheme: str, width: int):
    shot = f"{Path(page).stem}-{scheme}-{'phone' if width == PHONE else 'desktop'}"
    assert complaints(browser, site / page, scheme, width, shot) == set()


def test_a_word_shows_its_meaning_to_the_keyboard_and_nothing_is_asked_from_a_network(browser: Browser, site: Path):
    page, asked = browser.new_context(viewport={"width": DESKTOP, "height": 800}).new_page(), []
    page.on("request", lambda request: asked.append(request.url))
    page.goto((site / "notebooks" / "05_quantization.html").as_uri())
    word = page.locator("abbr[title] > a:visible").first  # others are folded up with the Chinese terms
    meaning = word.locator("..").get_attribute("title")
    shown = "node => getComputedStyle(node.parentNode, '::after').content"
    assert word.evaluate(shown) == "none"
    word.focus()
    assert meaning in word.evaluate(shown)
    assert asked and not [url for url in asked if not url.startswith(("file:", "data:"))]


def test_a_reader_searches_and_opens_a_hint(browser: Browser, site: Path):
    page = browser.new_context(viewport={"width": DESKTOP, "height": 800}).new_page()
    page.goto((site / "search.html").as_uri() + "?q=perplexity")
    expect(page.locator("#search-results a", has_text="05 · Quantization").first).to_be_visible()
    page.goto((site / "notebooks" / "05_quantization.html").as_uri())
    hint = page.locator("details.hint").first
    expect(hint.locator(".sd-card-body")).to_be_hidden()
    hint.locator("summary").focus()
    page.keyboard.press("Enter")
    expect(hint.locator(".sd-card-body")).to_be_visible()


GOOD = '<h1>A page</h1><p>Some words and <a href="#x">a link</a>.</p><img src="data:," alt="nothing">'


@pytest.mark.parametrize(
    ("good", "bad", "complaint"),
    [
        ("", "", ""),
        (' alt="nothing"', "", "image-alt: "),
        (' alt="nothing"', ' alt=""', "picture without words"),
        ("<p>", '<p style="color: #999">', "color-contrast: "),
        ("<p>", "<h3>Deep</h3><p>", "heading-order: "),
        ('<html lang="en">', "<html>", "html-has-lang: "),
        ("a link</a>", "</a>", "link-name: "),
        ("<p>", '<p style="width: 2000px">', "scrolls sideways"),
        ("<p>", "<table><tr><th></th></tr></table><p>", "empty-table-header: "),
        ("<p>", '<input type="range"><p>', "label: "),
    ],
)
def test_a_planted_mistake_is_noticed(browser: Browser, tmp_path: Path, good: str, bad: str, complaint: str):
    page = f'<!DOCTYPE html><html lang="en"><head><title>t</title></head><body><main>{GOOD}</main></body></html>'
    assert good in page
    (tmp_path / "page.html").write_text(page.replace(good, bad, 1) if good else page)
    found = complaints(browser, tmp_path / "page.html", "light", DESKTOP)
    assert any(each.startswith(complaint) for each in found) if complaint else not found, found


def test_dark_letters_on_a_dark_page_are_noticed(browser: Browser, tmp_path: Path):
    dark = "<style>@media (prefers-color-scheme: dark) { body { background: #222; } }</style>"
    page = f'<!DOCTYPE html><html lang="en"><head><title>t</title>{dark}</head><body><main>{GOOD}</main></body></html>'
    (tmp_path / "page.html").write_text(page)
    assert not complaints(browser, tmp_path / "page.html", "light", PHONE)
    assert any("color-contrast" in each for each in complaints(browser, tmp_path / "page.html", "dark", PHONE))
