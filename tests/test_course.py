"""The generated parts: map, badge, facts line, next link, recorded measurements, repository address."""

import json

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from packaging.utils import canonicalize_name

from utils import course

FIRST = "# {n} · Title {n}\n\n**The question:** Why {n}?\n\n<!-- badge -->\nold\n<!-- /badge -->"
PICTURE = "iVBORw0KGgo="


@pytest.fixture
def small_course(tmp_path, monkeypatch):
    """Two chapters, a README and settings in a folder of their own."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    for number in ("00", "01"):
        figure = new_output("display_data", data={"image/png": PICTURE}, metadata={"image/png": {"alt": "x" * 50}})
        cells = [
            new_markdown_cell(FIRST.format(n=number)),
            new_code_cell("old", metadata={"tags": ["bootstrap"]}),
            new_code_cell("1", metadata={"tags": ["readme-figure"]}, outputs=[figure]),
            new_markdown_cell("<!-- next -->\n<!-- /next -->"),
        ]
        nbformat.write(new_notebook(cells=cells), folder / f"{number}_x.ipynb")
    (tmp_path / "README.md").write_text("<!-- map -->\n<!-- /map -->\n<!-- verdicts -->\n<!-- /verdicts -->\n")
    (tmp_path / "course.json").write_text('{"repository": "OWNER/course", "tag": "v1", "chapters": {}}')
    monkeypatch.setattr(course, "NOTEBOOKS", folder)
    monkeypatch.setattr(course.notebook_paths, "__defaults__", (folder,))
    monkeypatch.setattr(course, "README", tmp_path / "README.md")
    monkeypatch.setattr(course, "DATA", tmp_path / "course.json")
    monkeypatch.setattr(course, "WORKSHOP", tmp_path / "docs" / "workshop.md")
    monkeypatch.setattr(course, "README_FIGURE", tmp_path / "docs" / "figure.png")
    return tmp_path


def cell(folder, name, place):
    return nbformat.read(folder / "notebooks" / name, as_version=4).cells[place]


def test_refresh_fills_every_generated_part_and_is_done_after_once(small_course):
    changed = {path.name for path in course.refresh()}
    assert changed == {"course.json", "00_x.ipynb", "01_x.ipynb", "figure.png", "README.md"}
    assert "blob/v1/notebooks/00_x.ipynb" in cell(small_course, "00_x.ipynb", 0).source
    assert "old" not in cell(small_course, "00_x.ipynb", 0).source
    assert cell(small_course, "00_x.ipynb", 1).source == course.bootstrap("OWNER/course", "v1")
    assert "[01 · Title 01](01_x.ipynb). Why 01?" in cell(small_course, "00_x.ipynb", 3).source
    assert "Back to the map" in cell(small_course, "01_x.ipynb", 3).source
    readme = course.README.read_text()
    assert "[00 · Title 00](notebooks/00_x.ipynb) | Why 00?" in readme and "0 of 33 claims" in readme
    assert course.README_FIGURE.read_bytes().startswith(b"\x89PNG")
    assert course.refresh() == []


def test_a_first_cell_without_question_is_an_error(small_course):
    path = small_course / "notebooks" / "01_x.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[0].source = "# A title"
    nbformat.write(notebook, path)
    with pytest.raises(course.CourseError, match=r"01_x.ipynb: the first cell needs"):
        course.refresh()


def test_recorded_measurements_appear_on_the_map_rounded_up(small_course):
    course.refresh()
    report = small_course / "report.json"
    chapters = [{"number": n, "status": "ok", "seconds": s, "peak_mb": 1234.5} for n, s in (("00", 20.2), ("01", 41))]
    report.write_text(json.dumps({"chapters": chapters}))
    course.record(report)
    course.refresh()
    assert "20 s | 1.3 GB" in course.course_map() and "45 s | 1.3 GB" in course.course_map()


def test_a_failed_chapter_records_nothing(small_course):
    course.refresh()
    before = course.DATA.read_text()
    report = small_course / "report.json"
    report.write_text(json.dumps({"chapters": [{"number": "00", "status": "cell failed"}]}))
    with pytest.raises(course.CourseError, match="chapter 00 did not run through"):
        course.record(report)
    assert course.DATA.read_text() == before


def test_publish_sets_the_address_everywhere(small_course):
    course.publish("ada/lovely-course", tag="main")
    assert "github/ada/lovely-course/blob/main/notebooks/01_x.ipynb" in cell(small_course, "01_x.ipynb", 0).source
    assert "github.com/ada/lovely-course@main" in cell(small_course, "01_x.ipynb", 1).source


@pytest.mark.parametrize("address", ["ada", "ada/", "/x", "a b/c", "https://github.com/ada/x", "ada/x/y", ""])
def test_a_malformed_address_is_refused(small_course, address):
    with pytest.raises(course.CourseError, match="owner/name"):
        course.publish(address)


def test_the_packages_for_colab_are_the_locked_ones():
    lines = (course.ROOT / "requirements.lock").read_text().splitlines()
    locked = {canonicalize_name(line.split("==")[0]): line.split("==")[1] for line in lines if "==" in line[:40]}
    pinned = dict(package.split("==") for package in course.COLAB_PACKAGES.split() if "==" in package)
    assert pinned and all(locked[canonicalize_name(name)] == version for name, version in pinned.items())
    assert "torch" not in course.COLAB_PACKAGES.split("==")[0]
