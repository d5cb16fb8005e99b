"""The generated parts: map, badge, facts line, next link, recorded measurements, repository address."""

import pkgutil
import re

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

import utils
from utils import course

FIRST = "# {n} · Title {n}\n\n**The question:** Why {n}?\n\n<!-- badge -->\nold\n<!-- /badge -->"
PICTURE = "iVBORw0KGgo="
PARTS = ("map", "verdicts", "colab")
MALFORMED = ["", "ada", "ada/", "/x", "a/b/c", "a b/c", "ada/na me", "ada/x.git", "ada/..", "-a/x", "ada/x\n", 'ada/x"']
MALFORMED += ["https://github.com/ada/x", "git@github.com:ada/x"]


def test_the_package_s_map_names_every_module():
    named = re.findall(r"`(\w+)`", " ".join(line for line in utils.__doc__.splitlines() if line.startswith("- ")))
    assert sorted(named) == sorted(info.name for info in pkgutil.iter_modules(utils.__path__) if info.name[0] != "_")


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
    (tmp_path / "README.md").write_text("".join(f"<!-- {part} -->\n<!-- /{part} -->\n" for part in PARTS))
    (tmp_path / "course.json").write_text('{"repository": "OWNER/course", "tag": "v1", "chapters": {}}')
    monkeypatch.setattr(course, "NOTEBOOKS", folder)
    monkeypatch.setattr(course.notebook_paths, "__defaults__", (folder,))
    monkeypatch.setattr(course, "README", tmp_path / "README.md")
    monkeypatch.setattr(course, "DATA", tmp_path / "course.json")
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
    assert "[01 · Title 01](01_x.ipynb) ([in Colab](https://" in cell(small_course, "00_x.ipynb", 3).source
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
    with pytest.raises(course.ChapterError, match=r"01_x.ipynb: the first cell needs"):
        course.refresh()


def test_recorded_measurements_appear_on_the_map_rounded_up(small_course):
    course.refresh()
    chapters = [{"number": n, "status": "ok", "seconds": s, "peak_mb": 1234.5} for n, s in (("00", 20.2), ("01", 41))]
    course.record(chapters)
    course.refresh()
    assert "20 s | 1.3 GB" in course.course_map() and "45 s | 1.3 GB" in course.course_map()


def test_a_failed_chapter_records_nothing(small_course):
    course.refresh()
    before = course.DATA.read_text()
    with pytest.raises(course.ChapterError, match="chapter 00 did not run through"):
        course.record([{"number": "00", "status": "cell failed"}])
    assert course.DATA.read_text() == before


def test_publish_sets_the_address_everywhere_and_is_done_after_once(small_course):
    assert course.DATA in course.publish("ada/lovely-course", tag="main")
    there = "github/ada/lovely-course/blob/main/notebooks"
    assert f"]({course.COLAB.removesuffix('github')}{there}/01_x.ipynb)" in cell(small_course, "01_x.ipynb", 0).source
    assert "github.com/ada/lovely-course@main" in cell(small_course, "01_x.ipynb", 1).source
    following = cell(small_course, "00_x.ipynb", 3).source
    assert "[01 · Title 01](01_x.ipynb)" in following and f"{there}/01_x.ipynb)" in following
    assert f"{there}/00_x.ipynb)" in cell(small_course, "01_x.ipynb", 3).source
    assert f"{there}/00_x.ipynb)" in course.README.read_text()
    assert course.publish("ada/lovely-course") == []


def test_the_map_leads_to_colab_where_the_notebooks_are_not_at_hand(small_course, monkeypatch):
    course.refresh()
    assert "](01_x.ipynb)" in course.course_map()
    monkeypatch.setattr(course.colab, "CHECKOUT", False)
    assert (
        "](https://colab.research.google.com/github/OWNER/course/blob/v1/notebooks/01_x.ipynb)" in course.course_map()
    )


@pytest.mark.parametrize(
    ("repository", "tag", "message"),
    [(bad, None, "REPO must look like owner/name") for bad in MALFORMED]
    + [("ada/x", bad, "TAG must be") for bad in ("", "v 1", "-v1", "a/b", 'v1"', "v1@x", "..", "v1\n")],
)
def test_a_malformed_address_is_one_line_and_changes_nothing(small_course, repository, tag, message):
    before = {path: path.read_bytes() for path in small_course.rglob("*") if path.is_file()}
    with pytest.raises(course.ChapterError, match=message) as caught:
        course.publish(repository, tag)
    assert "\n" not in str(caught.value)
    assert {path: path.read_bytes() for path in small_course.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("repository", ["ada/x", "Ada-1/x.y_z-2", "ada/.github"])
def test_a_good_address_is_taken(small_course, repository):
    course.publish(repository, "v1.0-beta_2")
    assert course.settings()["repository"] == repository
