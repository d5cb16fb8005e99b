"""The generated parts: map, badge, facts line, next link, recorded measurements, address."""

import pkgutil
import re

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

import utils
from tools import generated
from utils import chapters
from utils.chapters import Address

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
    (tmp_path / "address.json").write_text('{"repository": "owner/course", "tag": "v1"}')
    for name, path in (("ROOT", tmp_path), ("DATA", tmp_path), ("NOTEBOOKS", folder)):
        monkeypatch.setattr(chapters, name, path)
    monkeypatch.setattr(generated, "MEASURED", tmp_path / "measured.json")
    return tmp_path


def cell(folder, name, place):
    return nbformat.read(folder / "notebooks" / name, as_version=4).cells[place]


def test_refresh_fills_every_generated_part_and_is_done_after_once(small_course):
    changed = {path.name for path in generated.refresh()}
    assert changed == {"chapters.json", "00_x.ipynb", "01_x.ipynb", generated.FIGURE.name, "README.md"}
    assert "blob/v1/notebooks/00_x.ipynb" in cell(small_course, "00_x.ipynb", 0).source
    assert "old" not in cell(small_course, "00_x.ipynb", 0).source
    assert cell(small_course, "00_x.ipynb", 1).source == generated.set_up_cell(Address("owner/course", "v1"))
    assert "[01 · Title 01](01_x.ipynb) ([in Colab](https://" in cell(small_course, "00_x.ipynb", 3).source
    assert "Back to the map" in cell(small_course, "01_x.ipynb", 3).source
    readme = (small_course / "README.md").read_text()
    assert "[00 · Title 00](notebooks/00_x.ipynb) | Why 00?" in readme and "0 of 33 claims of the article" in readme
    assert (small_course / generated.FIGURE).read_bytes().startswith(b"\x89PNG")
    assert generated.refresh() == []


def test_a_first_cell_without_question_is_an_error(small_course):
    path = small_course / "notebooks" / "01_x.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[0].source = "# A title"
    nbformat.write(notebook, path)
    with pytest.raises(generated.GenerateError, match=r"01_x.ipynb: the first cell needs"):
        generated.refresh()


def test_recorded_measurements_appear_on_the_map_rounded_up(small_course):
    generated.refresh()
    ran = [{"number": n, "status": "ok", "seconds": s, "peak_mb": 1234.5} for n, s in (("00", 20.2), ("01", 41))]
    generated.record(ran)
    generated.refresh()
    assert "runs in 20 s on 2 cores · 1.3 GB of memory" in cell(small_course, "00_x.ipynb", 0).source
    assert "runs in 45 s on 2 cores · 1.3 GB of memory" in cell(small_course, "01_x.ipynb", 0).source


def test_a_failed_chapter_records_nothing(small_course):
    generated.refresh()
    before = sorted(small_course.iterdir())
    with pytest.raises(generated.GenerateError, match="chapter 00 did not run through"):
        generated.record([{"number": "00", "status": "cell failed"}])
    assert sorted(small_course.iterdir()) == before


def test_publish_sets_the_address_everywhere_and_is_done_after_once(small_course):
    assert small_course / "address.json" in generated.publish("ada/lovely-course", tag="main")
    there = "github/ada/lovely-course/blob/main/notebooks"
    assert f"]({chapters.COLAB.removesuffix('github')}{there}/01_x.ipynb)" in cell(small_course, "01_x.ipynb", 0).source
    assert "github.com/ada/lovely-course@main" in cell(small_course, "01_x.ipynb", 1).source
    following = cell(small_course, "00_x.ipynb", 3).source
    assert "[01 · Title 01](01_x.ipynb)" in following and f"{there}/01_x.ipynb)" in following
    assert f"{there}/00_x.ipynb)" in cell(small_course, "01_x.ipynb", 3).source
    assert f"{there}/00_x.ipynb)" in (small_course / "README.md").read_text()
    assert generated.publish("ada/lovely-course") == []


def test_the_map_leads_to_colab_where_the_notebooks_are_not_at_hand(small_course, monkeypatch):
    generated.refresh()
    assert "](01_x.ipynb)" in chapters.course_map()
    monkeypatch.setattr(chapters.colab, "CHECKOUT", False)
    assert (
        "](https://colab.research.google.com/github/owner/course/blob/v1/notebooks/01_x.ipynb)" in chapters.course_map()
    )


@pytest.mark.parametrize(
    ("repository", "tag", "message"),
    [(bad, None, "REPO must look like owner/name") for bad in MALFORMED]
    + [("ada/x", bad, "TAG must be") for bad in ("", "v 1", "-v1", "a/b", 'v1"', "v1@x", "..", "v1\n")],
)
def test_a_malformed_address_is_one_line_and_changes_nothing(small_course, repository, tag, message):
    before = {path: path.read_bytes() for path in small_course.rglob("*") if path.is_file()}
    with pytest.raises(generated.GenerateError, match=message) as caught:
        generated.publish(repository, tag)
    assert "\n" not in str(caught.value)
    assert {path: path.read_bytes() for path in small_course.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("repository", ["ada/x", "Ada-1/x.y_z-2", "ada/.github"])
def test_a_good_address_is_taken(small_course, repository):
    generated.publish(repository, "v1.0-beta_2")
    assert chapters.address() == Address(repository, "v1.0-beta_2")


def test_without_an_address_nothing_leads_into_nothing(small_course):
    (small_course / "address.json").write_text('{"repository": null, "tag": "v1"}')
    generated.refresh()
    for name in ("00_x.ipynb", "01_x.ipynb"):
        text = (small_course / "notebooks" / name).read_text()
        assert "in colab" not in text.lower() and "github" not in text and "min to read" in text
    assert "https://" not in (small_course / "README.md").read_text()


def test_the_map_of_a_package_alone_without_an_address_has_no_links(small_course, monkeypatch):
    (small_course / "address.json").write_text('{"repository": null, "tag": "v1"}')
    generated.refresh()
    monkeypatch.setattr(chapters.colab, "CHECKOUT", False)
    assert "| 01 · Title 01 | Why 01? |" in chapters.course_map() and "](" not in chapters.course_map()
