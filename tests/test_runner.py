"""The runner on tiny notebooks: what it executes, reports, writes, and leaves behind."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import nbformat
import psutil
import pytest
from bs4 import BeautifulSoup
from nbformat import v4
from rich.console import Console

from tools import execute, generated, pages, runner
from utils import chapters, files

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
ALT = 'A line rises from 1 to 2; "loss" < 3 & <b>bold</b>'
SHOW = f"""from IPython.display import display
display({{"image/png": {PIXEL!r}}}, metadata={{"image/png": {{"alt": {ALT!r}}}}}, raw=True)
display({{"image/png": {PIXEL!r}}}, metadata={{"alt": "the other form"}}, raw=True)"""
VERDICT = """from utils import claims
claims.verdict("C10", holds=1 > 2, measured="1 < 2", because="<b>one</b> is less")"""
TEXT = r"""# 00 · The good one

Inline $a_i < \frac{1}{2}$ and

$$\begin{aligned} a &= b \\ c &= d \end{aligned}$$

and $\unknowncommand{x}$. Next: [chapter 05](05_late.ipynb#part), [other](notes.ipynb).

![The word good in green](images/good.svg)"""


def write(folder: Path, name: str, *cells: str) -> Path:
    """A notebook; a cell that starts with "#" and a space is text, the others are code."""
    make = [v4.new_markdown_cell(c) if c.startswith("# ") else v4.new_code_cell(c) for c in cells]
    for place, cell in enumerate(make):
        cell.id = f"named-{place}"
    folder.mkdir(exist_ok=True)
    nbformat.write(v4.new_notebook(cells=make), folder / name)
    return folder / name


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def quiet() -> Console:
    return Console(file=StringIO())


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory):
    """A course of which half the chapters fail, run once; returns its results by number, and its folders."""
    base = tmp_path_factory.mktemp("course with a space")
    notebooks, build = base / "notebooks", base / "build"
    (notebooks / "images").mkdir(parents=True)
    (notebooks / "images" / "good.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
    write(notebooks, "00_good.ipynb", TEXT, "print(1)", SHOW, VERDICT, "import ipywidgets as w; w.IntSlider()")
    write(notebooks, "01_bad.ipynb", "# 01 · Bad", "def f():\n    return 1 / 0", "y = 2\n\nf()  # here\nz = 3")
    write(notebooks, "02_syntax.ipynb", "x = 1", "# text", "y = 2\nx = = 1")
    write(notebooks, "03_dead.ipynb", "# 03 · Dead", "import os", "os.kill(os.getpid(), 9)")
    write(notebooks, "04_slow.ipynb", "# 04 · Slow", "import time", "time.sleep(100)")
    write(notebooks, "05_late.ipynb", "# 05 · Runs after those that failed", "print('late')")
    results = runner.run_notebooks(jobs=3, notebooks=notebooks, build=build, cell_timeout=6, console=quiet())
    return {result.number: result for result in results}, notebooks, build


def test_a_failing_chapter_does_not_stop_the_others(ran):
    results, _, _ = ran
    statuses = [(result.number, result.status) for result in results.values()]
    assert statuses == [
        ("00", "ok"),
        ("01", "cell failed"),
        ("02", "cell failed"),
        ("03", "kernel died"),
        ("04", "timed out"),
        ("05", "ok"),
    ]
    assert [result.title for result in results.values()][:3] == ["The good one", "Bad", "text"]


@pytest.mark.parametrize(
    ("number", "cell", "code_cell", "line", "source", "error"),
    [
        ("01", 3, 2, 3, "f()  # here", "ZeroDivisionError: division by zero"),
        ("02", 3, 2, 2, "x = = 1", "SyntaxError: invalid syntax"),
        ("03", 3, 2, None, "os.kill(os.getpid(), 9)", "The kernel was ended by SIGKILL"),
        ("04", 3, 2, None, "time.sleep(100)", "The cell ran longer than 6 s."),
    ],
)
def test_a_failure_names_cell_line_and_error(ran, number, cell, code_cell, line, source, error):
    failure = ran[0][number].failure
    assert (failure.cell, failure.code_cell, failure.line, failure.source) == (cell, code_cell, line, source)
    assert error in failure.error.splitlines()[-1]
    assert "\x1b" not in failure.error
    assert len(failure.error.splitlines()) <= execute.ERROR_LINES


def test_verdicts_come_from_the_outputs(ran):
    [verdict] = ran[0]["00"].verdicts
    assert (verdict["claim"], verdict["verdict"], verdict["measured"]) == ("C10", "refuted", "1 < 2")
    assert ran[0]["05"].verdicts == []


def test_handout_has_alt_text_formulas_and_nothing_from_the_network(ran):
    page = BeautifulSoup((ran[2] / "handouts" / "00_good.html").read_text(encoding="utf-8"), "html.parser")
    assert [image["alt"] for image in page.find_all("img")] == ["The word good in green", ALT, "the other form"]
    assert page.title.string == "00 · The good one"
    assert [formula["display"] for formula in page.find_all("math")] == ["inline", "block"]
    assert len(page.find_all("mtr")) == 2
    assert r"\unknowncommand{x}" in [code.string for code in page.find_all("code")]
    assert [link["href"] for link in page.find_all("a")] == ["05_late.html"]
    assert not page.find_all("script") and not page.find_all("link")
    for element in page.find_all(src=True):
        assert element["src"].startswith("data:")
    assert not page.find_all(class_="jupyter-widgets")
    assert "IntSlider(value" not in page.get_text()


def test_handouts_of_failed_chapters_show_the_error(ran):
    assert "ZeroDivisionError" in (ran[2] / "handouts" / "01_bad.html").read_text(encoding="utf-8")
    assert len(list((ran[2] / "handouts").glob("0*.html"))) == 6


def test_report_html_is_accessible_and_escaped(ran):
    text = (ran[2] / "report.html").read_text(encoding="utf-8")
    page = BeautifulSoup(text, "html.parser")
    for table in page.find_all("table"):
        assert table.caption.get_text(strip=True)
        assert all(header.get("scope") in ("row", "col") for header in table.find_all("th"))
    assert page.html["lang"] == "en" and "prefers-color-scheme" in text
    assert "<b>one</b> is less" in page.get_text() and "<b>one</b>" not in text
    for link in page.find_all("a"):
        assert (ran[2] / link["href"]).exists()
    assert not page.find_all("script")
    assert "Cell 3 (code cell 2), line 3:" in " ".join(page.get_text().split())


def test_report_json_has_chapters_totals_and_machine(ran):
    facts = json.loads((ran[2] / "report.json").read_text(encoding="utf-8"))
    assert [chapter["status"] for chapter in facts["chapters"]] == [r.status for r in ran[0].values()]
    assert facts["chapters"][1]["failure"]["line"] == 3
    totals = facts["totals"]
    assert (totals["chapters_in_course"], totals["chapters_run"], totals["chapters_ok"]) == (6, 6, 2)
    assert totals["verdicts"] == 1
    assert totals["peak_mb"] == max(chapter["peak_mb"] for chapter in facts["chapters"]) > 20
    assert set(facts["versions"]) == {"python", "torch", "transformers"}
    assert facts["machine"]["cpu"] and facts["machine"]["cores"] >= 1
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", facts["date"])


def test_the_notebooks_stay_as_they_are_and_nothing_is_half_written(ran):
    _, notebooks, build = ran
    for path in notebooks.glob("*.ipynb"):
        cells = nbformat.read(path, as_version=4).cells
        assert all(not cell.get("outputs") for cell in cells)
    assert not list(build.rglob("*.part"))


@pytest.mark.slow
def test_peak_memory_counts_what_was_freed_and_what_children_use(tmp_path):
    child = "bytearray(300_000_000); import time; time.sleep(1.5)"
    write(tmp_path, "00_plain.ipynb", "print(1)")
    write(tmp_path, "01_freed.ipynb", "block = bytearray(300_000_000); del block")
    write(
        tmp_path,
        "02_child.ipynb",
        f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'x = {child}'])",
    )
    results = runner.run_notebooks(notebooks=tmp_path, build=tmp_path / "build", console=quiet())
    plain, freed, with_child = (result.peak_mb for result in results)
    assert 20 < plain < 250
    if sys.platform != "darwin":  # without a high-water mark, a short peak can fall between two looks
        assert 290 < freed - plain < 400
    assert 290 < with_child - plain < 450


@pytest.mark.slow
def test_each_kernel_is_fresh_stands_in_the_folder_and_ignores_the_users_settings(tmp_path, monkeypatch):
    startup = tmp_path / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "00.py").write_text("leaked = 1")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.setenv("COURSE_MODEL", "kept")
    notebooks = tmp_path / "notebooks"
    check = f"""import os, sys, pathlib, utils
assert pathlib.Path.cwd() == pathlib.Path({str(notebooks)!r}), os.getcwd()
assert sys.executable == {sys.executable!r}, sys.executable
assert "inline" in os.environ["MPLBACKEND"], os.environ["MPLBACKEND"]
assert pathlib.Path(utils.__file__).parent == pathlib.Path({str(chapters.ROOT)!r}, "utils"), utils.__file__
assert os.environ["COURSE_MODEL"] == "kept"
assert "leaked" not in globals()
leaked = 1"""
    write(notebooks, "00_a.ipynb", check)
    write(notebooks, "01_b.ipynb", check)
    results = runner.run_notebooks(notebooks=notebooks, build=tmp_path / "build", console=quiet())
    assert [result.failure for result in results] == [None, None]


@pytest.mark.slow
def test_a_kernel_of_another_python_under_the_same_name_is_not_taken(tmp_path, monkeypatch):
    foreign = tmp_path / "share" / "kernels" / "python3"
    foreign.mkdir(parents=True)
    (foreign / "kernel.json").write_text('{"argv": ["no-such-python"], "display_name": "x", "language": "python"}')
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "share"))
    write(tmp_path / "notebooks", "00_x.ipynb", f"import sys\nassert sys.executable == {sys.executable!r}")
    [result] = runner.run_notebooks(notebooks=tmp_path / "notebooks", build=tmp_path / "build", console=quiet())
    assert result.failure is None


@pytest.mark.slow
def test_only_runs_the_chosen_chapters_in_the_courses_order(tmp_path):
    for number in ("01", "02", "03"):
        write(tmp_path, f"{number}_x.ipynb", "1")
    results = runner.run_notebooks("03, 01", notebooks=tmp_path, build=tmp_path / "build", console=quiet())
    assert [result.number for result in results] == ["01", "03"]
    assert not (tmp_path / "build" / "handouts" / "02_x.html").exists()


@pytest.mark.slow
def test_of_several_at_once_the_longest_start_first_and_the_report_keeps_the_order(tmp_path, monkeypatch):
    seconds = {"01": 5.0, "02": 9.0, "03": None}  # whoever was never timed may be long
    monkeypatch.setattr(runner, "measured", lambda: {n: SimpleNamespace(seconds=s) for n, s in seconds.items()})
    for number in seconds:
        write(tmp_path, f"{number}_x.ipynb", "# X", "1")
    for jobs, order in ((2, ["03", "02", "01"]), (1, ["01", "02", "03"])):
        console = quiet()
        results = runner.run_notebooks(None, jobs, notebooks=tmp_path, build=tmp_path / "build", console=console)
        assert re.findall(r"^(\d\d) X: starts", console.file.getvalue(), re.M) == order
        assert [result.number for result in results] == ["01", "02", "03"]


def test_bad_arguments_get_one_clear_error_before_anything_runs(tmp_path):
    write(tmp_path, "01_x.ipynb", "1")
    write(tmp_path, "02_x.ipynb", "1")
    folders = {"notebooks": tmp_path, "build": tmp_path / "build", "console": quiet()}
    with pytest.raises(ValueError, match="no chapter '99', '5'; there are 01, 02"):
        runner.run_notebooks("99,01,5", **folders)
    with pytest.raises(ValueError, match="--jobs must be 1 or more; got 0"):
        runner.run_notebooks(None, 0, **folders)
    with pytest.raises(ValueError, match="no notebooks"):
        runner.run_notebooks(notebooks=tmp_path / "empty", build=tmp_path / "build")
    (tmp_path / "02_x.ipynb").write_text("{ half a file")
    with pytest.raises(ValueError, match=r"02_x\.ipynb is not a notebook"):
        runner.run_notebooks(**folders)
    assert not (tmp_path / "build").exists()


@pytest.mark.slow
def test_progress_has_bars_on_a_terminal_and_lines_elsewhere(tmp_path):
    write(tmp_path, "01_x.ipynb", "# 01 · A title", "1", "import time; time.sleep(0.5)")
    terminal, plain = StringIO(), StringIO()
    for file, console in (
        (terminal, Console(file=terminal, force_terminal=True, width=120)),
        (plain, Console(file=plain, width=120)),
    ):
        runner.run_notebooks(notebooks=tmp_path, build=tmp_path / "build", console=console)
        assert re.search(r"01 A title: ok, \d+ s, \d+ MB", file.getvalue())
    assert "cell 3/3" in terminal.getvalue() and "chapters 0/1" in terminal.getvalue()
    assert "01 A title: starts, 3 cells" in plain.getvalue() and "\x1b" not in plain.getvalue()


def test_time_left_comes_from_an_earlier_run_or_from_the_cells_that_are_done(tmp_path, monkeypatch):
    path = write(tmp_path, "01_x.ipynb", "1", "2", "3", "4")
    monkeypatch.setattr(runner, "measured", lambda: {"01": generated.Measured(40, 1)})
    chapter = runner._Job(path)
    monkeypatch.setattr(time, "monotonic", lambda: 110.0)
    assert chapter.seconds_left() == 40
    chapter.started = 100.0
    assert chapter.seconds_left() == 30
    chapter.started = 50.0
    assert chapter.seconds_left() == 0
    chapter.expected = None
    assert chapter.seconds_left() is None
    chapter.cell = 1
    assert chapter.seconds_left() == 180  # a quarter took 60 s


def test_run_course_returns_exit_codes_and_prints_table_and_failures(ran, monkeypatch, capsys):
    results = list(ran[0].values())
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(runner, "run_notebooks", lambda only, jobs, console: results)
    assert runner.run_course() == (1, results)
    text = capsys.readouterr().out
    assert "chapter 01: cell failed\n01_bad.ipynb, cell 3 (code cell 2), line 3: f()  # here" in text
    row = next(line for line in text.splitlines() if "The good one" in line)
    assert "C10" in row and f"{results[0].seconds:.1f}" in row and f"{results[0].peak_mb:.0f}" in row
    monkeypatch.setattr(runner, "run_notebooks", lambda only, jobs, console: [results[0], results[5]])
    assert runner.run_course("00,05") == (0, [results[0], results[5]])

    def interrupted(only, jobs, console):
        assert only == "00,05"
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "run_notebooks", interrupted)
    assert runner.run_course("00,05") == (130, [])


@pytest.mark.slow
@pytest.mark.parametrize(("blow", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)], ids=["Ctrl-C", "killed"])
def test_the_end_of_the_run_ends_kernels_and_their_children_and_leaves_nothing_half_written(tmp_path, blow, code):
    spawn = """import os, pathlib, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"], start_new_session=True)
time.sleep(1)
pathlib.Path(f"{NAME}.draft").write_text(f"{os.getpid()} {child.pid}")
os.rename(f"{NAME}.draft", f"{NAME}.pids")
time.sleep(100)"""
    notebooks, build = tmp_path / "notebooks", tmp_path / "build"
    write(notebooks, "00_quick.ipynb", "1")
    write(notebooks, "01_a.ipynb", "NAME = 'a'", spawn)
    write(notebooks, "02_b.ipynb", "NAME = 'b'", spawn)
    program = f"""import sys, pathlib
from tools import pages, runner
try:
    runner.run_notebooks(jobs=3, notebooks=pathlib.Path({str(notebooks)!r}), build=pathlib.Path({str(build)!r}))
except KeyboardInterrupt:
    sys.exit(130)"""
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=chapters.ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    wanted = [notebooks / "a.pids", notebooks / "b.pids", build / "handouts" / "00_quick.html"]
    deadline = time.monotonic() + 60
    while not all(path.exists() for path in wanted) and time.monotonic() < deadline:
        time.sleep(0.1)
    pids = [int(pid) for path in wanted[:2] for pid in path.read_text().split()]
    assert all(alive(pid) for pid in pids)
    os.killpg(process.pid, blow)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == code, output
    assert "Traceback" not in output and "Task" not in output, output
    deadline = time.monotonic() + 10  # until the system has taken note of the dead
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [pid for pid in pids if alive(pid)]
    assert [path.name for path in build.rglob("*") if path.is_file()] == ["00_quick.html"]


def test_save_stores_outputs_with_ids_and_normalised_metadata(tmp_path):
    pieces = "import time\nfor i in range(3):\n    print(i, flush=True)\n    time.sleep(0.1)"
    path = write(tmp_path, "01_x.ipynb", "# 01 · Text", pieces, "import ipywidgets as w; w.IntSlider(3)", "6 * 7")
    draft = json.loads(path.read_text())
    draft["metadata"] = {
        "kernelspec": {"name": "python3", "display_name": "mine"},
        "colab": {"provenance": []},
    }
    draft["cells"][1]["metadata"] = {"execution": {"iopub.status.busy": "2020"}, "tags": ["kept"]}
    path.write_text(json.dumps(draft))
    result = runner.save(path, console=quiet())
    assert result.ok and result.seconds > 0
    first = path.read_text(encoding="utf-8")
    assert first.endswith("}\n") and not first.endswith("\n\n")
    stored = nbformat.reads(first, as_version=4)
    nbformat.validate(stored)
    assert [cell.id for cell in stored.cells] == [f"named-{place}" for place in range(4)]
    assert stored.cells[1].outputs == [{"name": "stdout", "output_type": "stream", "text": "0\n1\n2\n"}]
    assert stored.cells[1].metadata == {"tags": ["kept"]}
    assert stored.cells[3].outputs[0]["data"] == {"text/plain": "42"}
    assert [cell.execution_count for cell in stored.cells[1:]] == [1, 2, 3]
    assert stored.metadata.colab == {"provenance": []}
    assert stored.metadata.kernelspec.name == "python3" and "mine" not in first
    assert stored.metadata.language_info.pygments_lexer == "ipython3"
    assert "version" not in stored.metadata.language_info
    view = stored.cells[2].outputs[0]["data"]["application/vnd.jupyter.widget-view+json"]["model_id"]
    state = stored.metadata.widgets[execute.WIDGET_STATE].state
    assert state[view].state.value == 3 and all(re.fullmatch(r"widget-\d{3}", name) for name in state)
    runner.save(path, console=quiet())
    assert path.read_text(encoding="utf-8") == first
    assert list(tmp_path.iterdir()) == [path]


def test_save_refuses_a_failing_notebook_and_writes_nothing(tmp_path):
    path = write(tmp_path, "01_x.ipynb", "print(1)", "1 / 0", "print(2)")
    before = path.read_bytes()
    with pytest.raises(runner.NotebookFailed, match=r"01_x\.ipynb is not saved: cell failed, cell 2 .*: 1 / 0"):
        runner.save(path, console=quiet())
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


@pytest.mark.slow
def test_a_handout_that_cannot_be_written_is_one_plain_error(tmp_path):
    write(tmp_path, "01_x.ipynb", "1")
    (tmp_path / "build").write_text("a file stands where the folder should be")
    with pytest.raises(OSError, match="build"):
        runner.run_notebooks(notebooks=tmp_path, build=tmp_path / "build", console=quiet())


@pytest.mark.parametrize(
    ("latex", "shown"),
    [
        (r"W + \tfrac{\alpha}{r} BA", True),
        (r"\mathrm{softmax}\!\left(\frac{QK^\top}{\sqrt{d_h}}\right)V", True),
        (r"\begin{aligned} a &= b \\ c &= d \end{aligned}", True),
        (r"\begin{cases} 1 & x > 0 \\ 0 & \text{else} \end{cases}", True),
        (r"\bigl\lfloor x \bigr\rfloor", False),
        (r"\text{a & b}", False),
        (r"\frac{1}{", False),
    ],
)
def test_a_formula_is_mathml_or_its_own_source_never_half_read(latex, shown):
    html = pages.formula(latex, "block")
    assert html.startswith("<math" if shown else "<code>")
    if not shown:
        assert BeautifulSoup(html, "html.parser").get_text() == latex


def test_write_text_leaves_the_old_file_when_it_fails(tmp_path, monkeypatch):
    path = tmp_path / "a" / "b.txt"
    files.write(path, "old")
    with pytest.raises(UnicodeEncodeError):
        files.write(path, "new \ud800")
    assert path.read_text() == "old"


@pytest.mark.parametrize(("jobs", "cores", "own", "threads"), [(2, 8, None, "4"), (3, 2, None, "1"), (2, 8, "7", "7")])
def test_notebooks_that_run_at_once_share_the_cores(jobs, cores, own, threads, monkeypatch, tmp_path):
    seen, ended = [], runner.ChapterResult("00", "x", "00_x.ipynb", "ok", 1.0, 1.0, [], None)
    monkeypatch.setattr(runner._Job, "start", lambda job, timeout, environment: seen.append(environment))
    monkeypatch.setattr(runner._Job, "look", lambda job: setattr(job, "result", ended) or True)
    monkeypatch.setattr(runner.os, "cpu_count", lambda: cores)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if own:
        monkeypatch.setenv("OMP_NUM_THREADS", own)
    write(tmp_path, "00_x.ipynb", "print(1)")
    for some in (jobs, 1):
        list(runner._run_all([runner._Job(tmp_path / "00_x.ipynb")], some, 1, quiet()))
    assert [environment.get("OMP_NUM_THREADS") for environment in seen] == [threads, own]


@pytest.mark.parametrize(("cores", "gigabytes", "jobs"), [(1, 64, 1), (2, 6, 1), (2, 9, 2), (16, 64, 2), (None, 64, 1)])
def test_two_notebooks_run_at_once_where_there_is_room(cores, gigabytes, jobs, monkeypatch):
    monkeypatch.setattr(runner.os, "cpu_count", lambda: cores)
    memory = SimpleNamespace(available=gigabytes * 1e9)
    monkeypatch.setattr(runner.psutil, "virtual_memory", lambda: memory)
    assert runner.fitting_jobs() == jobs


@pytest.mark.skipif(os.name == "nt", reason="there kernels keep to TCP")
def test_kernels_that_start_at_once_cannot_choose_the_same_port(tmp_path):
    ask = "from ipykernel.connect import get_connection_info\nprint(get_connection_info(unpack=True)['transport'])"
    for number in range(4):
        write(tmp_path, f"0{number}_x.ipynb", ask)
    build = tmp_path / "build"
    results = runner.run_notebooks(jobs=4, notebooks=tmp_path, build=build, console=quiet())
    assert all(result.ok for result in results)
    assert all(">ipc\n" in page.read_text() for page in (build / "handouts").glob("*.html"))
