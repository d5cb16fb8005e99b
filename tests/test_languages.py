"""Chinese beside English: the glossary, titles and objectives, the Chinese README, and translated chapters."""

import json
import re
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_markdown_cell, new_notebook

from tools import __main__ as cli
from tools import generated, languages, runner, translate
from utils import chapters, claims

NUMBERS = [chapter.number for chapter in chapters.all_chapters()]
VERDICTS = [verdict for path in chapters.notebook_paths() for verdict in claims.saved_verdicts(path)]
HAN = re.compile(r"[\u4e00-\u9fff]")
# Bold that ends with punctuation before a letter: Markdown does not read it as bold.
NOT_BOLD = re.compile(r"\*\*[^*\n]+[：。，；？！、）]\*\*(?=[^\s*])")


def objectives(number: str) -> int:
    """How many objectives a chapter has in English."""
    [path] = chapters.NOTEBOOKS.glob(f"{number}_*.ipynb")
    cells = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown"]
    return len(re.findall(r"^\d+\. ", languages.without_block(cells[1]), re.MULTILINE))


# ------------------------------------------------------------------------------------------------ the glossary


def test_the_glossary_is_large_sorted_and_unique():
    terms = languages.glossary()
    names = [term.term.casefold() for term in terms]
    assert len(terms) >= 120
    assert names == sorted(names) and len(names) == len(set(names))
    assert len({term.anchor for term in terms}) == len(terms)


@pytest.mark.parametrize("term", languages.glossary(), ids=lambda term: term.anchor)
def test_a_term_is_complete_in_both_languages(term: languages.Term):
    assert HAN.search(term.zh) and HAN.search(term.definition_zh)
    assert not HAN.search(term.term + term.definition)
    assert 3 <= len(term.definition.split()) <= 25 and len(term.definition_zh) <= 60
    assert term.definition.endswith(".") and term.definition_zh.endswith("。")
    assert re.fullmatch(r"[a-z0-9]+(-+[a-z0-9]+)*", term.anchor)
    assert term.chapters and set(term.chapters) <= set(NUMBERS)


def test_every_chapter_has_terms_of_its_own():
    firsts = {term.chapters[0] for term in languages.glossary()}
    assert firsts == set(NUMBERS)


def test_the_page_has_each_term_as_a_heading():
    page = (chapters.ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    assert re.findall(r"^### (.+)$", page, re.MULTILINE) == [term.term for term in languages.glossary()]
    links = re.findall(r"\]\(([^)#]+)\)", page)
    assert links and all((chapters.ROOT / "docs" / link).exists() for link in links)


# ------------------------------------------------------------------------- titles, objectives, claims, README


@pytest.mark.parametrize("number", NUMBERS)
def test_a_chapter_has_title_question_and_as_many_objectives(number: str):
    known = languages.chinese()["chapters"][number]
    assert len(known["objectives"]) == objectives(number)
    assert HAN.search(known["question"]) and known["question"].endswith("？")
    assert all(HAN.search(text) for text in known["objectives"])
    # "LoRA" is called so in Chinese too.
    assert HAN.search(known["title"]) or known["title"] == chapters.all_chapters()[int(number)].title


def test_every_claim_and_every_condition_is_there_in_chinese():
    known = languages.chinese()
    assert list(known["claims"]) == list(claims.ledger())
    conditions = {found.verdict.removeprefix("holds if ") for found in VERDICTS if found.verdict.startswith("holds if")}
    assert set(known["conditions"]) == conditions
    assert all(HAN.search(text) for text in [*known["claims"].values(), *known["conditions"].values()])


@pytest.mark.parametrize("number", NUMBERS)
def test_the_block_numbers_its_objectives_and_links_to_known_terms(number: str):
    block = languages.block(number)
    assert len(re.findall(r"^\d+\. ", block, re.MULTILINE)) == objectives(number)
    anchors = re.findall(rf"{re.escape(languages.GLOSSARY)}#([^)]+)\)", block)
    assert anchors and set(anchors) <= {term.anchor for term in languages.glossary()}
    assert not NOT_BOLD.search(block) and languages.without_block(f"a <!-- zh -->{block}<!-- /zh --> b") == "a  b"


def test_a_chapter_that_has_no_chinese_yet_still_links_to_the_glossary():
    assert languages.block("99") == "**Words:** [glossary](../docs/glossary.md), English and Chinese."


def test_refresh_writes_chinese_where_the_markers_are(tmp_path, monkeypatch):
    (tmp_path / "docs").mkdir()
    folder = tmp_path / "notebooks"
    folder.mkdir()
    first = "# 00 · Title\n\n**The question:** Why?"
    cells = [new_markdown_cell(first), new_markdown_cell("1. Do.\n\n<!-- zh --><!-- /zh -->")]
    nbformat.write(new_notebook(cells=cells), folder / "00_x.ipynb")
    (tmp_path / "README.zh-CN.md").write_text("<!-- map --><!-- /map --><!-- verdicts --><!-- /verdicts -->")
    (tmp_path / "docs" / "glossary.md").write_text("<!-- terms --><!-- /terms -->")
    (tmp_path / "address.json").write_text('{"repository": null, "tag": "v1"}')
    for name, path in (("NOTEBOOKS", folder), ("ROOT", tmp_path), ("DATA", tmp_path)):
        monkeypatch.setattr(chapters, name, path)
    changed = {path.name for path in generated.refresh()}
    assert changed == {"chapters.json", "00_x.ipynb", "README.zh-CN.md", "glossary.md"}
    assert languages.block("00") in nbformat.read(folder / "00_x.ipynb", as_version=4).cells[1].source
    readme = (tmp_path / "README.zh-CN.md").read_text(encoding="utf-8")
    assert "[00 · 从这里开始](notebooks/00_x.ipynb)" in readme and "33 条中 0 条已判定" in readme
    assert "[00](../notebooks/00_x.ipynb)" in (tmp_path / "docs" / "glossary.md").read_text(encoding="utf-8")
    assert generated.refresh() == []


def test_reading_time_does_not_count_the_block():
    path = chapters.notebook_paths()[1]
    notebook = nbformat.read(path, as_version=4)
    before = generated._describe(path, notebook)
    notebook.cells[1].source += f"\n\n<!-- zh -->\n\n{languages.block('01')} {'word ' * 2000}\n\n<!-- /zh -->"
    assert generated._describe(path, notebook) == before


def test_the_scoreboard_speaks_chinese_and_counts():
    table = languages.scoreboard(VERDICTS)
    outcomes = re.findall(r"\*\*(成立|有条件成立|不成立)\*\*", table)
    assert len(outcomes) == len(VERDICTS)
    assert f"不成立 {sum(found.verdict == 'refuted' for found in VERDICTS)} 条" in table
    assert "holds" not in table and "refuted" not in table


def test_a_condition_without_chinese_leaves_its_outcome():
    new = claims.Verdict("C07", "text", "01", "holds if something new is found", "1", "because")
    assert "| **有条件成立** | 01 |" in languages.scoreboard([new])


def test_the_two_readmes_link_to_each_other_in_their_first_line():
    english, chinese = ((chapters.ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh-CN.md"))
    assert "(README.zh-CN.md)" in english.splitlines()[0] and "(README.md)" in chinese.splitlines()[0]
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", english + chinese)
    assert all((chapters.ROOT / link).exists() for link in links if not link.startswith("http"))
    assert not NOT_BOLD.search(chinese)


def test_the_readmes_show_the_same_commands():
    blocks = [
        re.findall(r"^(?:make|\.venv)[^#\n]*", (chapters.ROOT / name).read_text(encoding="utf-8"), re.MULTILINE)
        for name in ("README.md", "README.zh-CN.md")
    ]
    english, chinese = ({line.strip() for line in block} for block in blocks)
    assert english <= chinese


# ------------------------------------------------------------------------------------- translated chapters


@pytest.fixture
def desk(tmp_path, monkeypatch) -> Path:
    """Translations and results in a folder of their own; the notebooks are the real ones."""
    monkeypatch.setattr(translate, "FOLDER", tmp_path / "translations")
    monkeypatch.setattr(translate, "BUILD", tmp_path / "build")
    return tmp_path / "translations" / "xx" / "05.json"


def change(file: Path, **entries: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | entries), encoding="utf-8")


def first_cell(file: Path) -> tuple[str, dict[str, str]]:
    return next(iter(json.loads(file.read_text(encoding="utf-8")).items()))


@pytest.mark.parametrize("path", chapters.notebook_paths(), ids=lambda path: path.name[:2])
def test_cells_have_stable_ids_and_storing_keeps_them(path: Path):
    notebook = nbformat.read(path, as_version=4)
    ids = [cell.id for cell in notebook.cells]
    assert (notebook.nbformat, notebook.nbformat_minor) >= (4, 5) and len(ids) == len(set(ids))
    again = nbformat.reads(nbformat.writes(runner.normalised(notebook)), as_version=4)
    assert [cell.id for cell in again.cells] == ids


def test_without_texts_only_links_change(desk):
    translate.extract("05", "xx")
    made, notes = translate.translate("05", "xx")
    source = next(chapters.NOTEBOOKS.glob("05_*.ipynb")).read_text(encoding="utf-8")
    assert made.read_text(encoding="utf-8").replace("../../notebooks/", "") == source
    assert "](../../notebooks/01_architecture_math.ipynb)" in made.read_text(encoding="utf-8")
    assert len(notes) == len(json.loads(desk.read_text(encoding="utf-8")))


def test_a_text_takes_its_place_and_code_stays_the_same(desk):
    translate.extract("05", "xx")
    cell_id, entry = first_cell(desk)
    change(desk, **{cell_id: entry | {"text": "# 五\n\n<!-- badge -->\n\n<!-- /badge -->"}})
    made, notes = translate.translate("05", "xx")
    old, new = (
        json.loads(path.read_text(encoding="utf-8")) for path in (next(chapters.NOTEBOOKS.glob("05_*.ipynb")), made)
    )
    text = "".join(new["cells"][0]["source"])
    assert text.startswith("# 五\n") and "min to read" in text
    assert not any(cell_id in note for note in notes)
    for before, after in zip(old["cells"], new["cells"], strict=True):
        if before["cell_type"] == "code":
            assert json.dumps(before) == json.dumps(after)
        assert {k: v for k, v in before.items() if k != "source"} == {k: v for k, v in after.items() if k != "source"}
    assert {k: v for k, v in old.items() if k != "cells"} == {k: v for k, v in new.items() if k != "cells"}


def test_a_stale_text_is_reported_and_kept_for_revision(desk):
    translate.extract("05", "xx")
    cell_id, entry = first_cell(desk)
    change(desk, **{cell_id: entry | {"text": "旧的译文", "hash": "0" * 16}})
    made, notes = translate.translate("05", "xx")
    assert f"{cell_id}: its English has changed" in notes and "旧的译文" not in made.read_text(encoding="utf-8")
    translate.extract("05", "xx")
    assert first_cell(desk)[1] == entry | {"before": "旧的译文"}
    translate.extract("05", "xx")
    assert first_cell(desk)[1]["before"] == "旧的译文"


def test_generated_parts_do_not_make_a_text_stale():
    cell = {"source": ["# Title\n", "<!-- badge -->\n", "\n", "9 min\n", "<!-- /badge -->"]}
    longer = {"source": ["# Title\n\n<!-- badge -->\n\n12 min, 3 GB\n\n<!-- /badge -->\n\n<!-- zh -->x<!-- /zh -->"]}
    assert translate._english(cell)["hash"] == translate._english(longer)["hash"]
    assert "min" not in translate._english(longer)["english"]
    assert translate._english(cell)["hash"] != translate._english({"source": ["# A title"]})["hash"]


def test_a_cell_that_is_gone_is_dropped_by_extract(desk):
    translate.extract("05", "xx")
    change(desk, gone={"text": "x", "hash": "y"})
    translate.extract("05", "xx")
    assert "gone" not in desk.read_text()


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"no-such-cell": {"text": "x", "hash": "y"}}, "'no-such-cell' is not in the notebook"),
        ({"c05-002": {"text": "x", "hash": "y"}}, "'c05-002' is a code cell"),
        ({"c05-003": {"hash": "y"}}, "no translation file: KeyError: 'text'"),
        ({"c05-003": {"text": 5}}, "no translation file: TypeError"),
        ({"c05-003": "text"}, "no translation file: TypeError"),
    ],
)
def test_an_entry_that_does_not_fit_is_an_error(desk, entries, message):
    translate.extract("05", "xx")
    change(desk, **entries)
    with pytest.raises(translate.TranslationError, match=re.escape(message)):
        translate.translate("05", "xx")


@pytest.mark.parametrize("text", ["{", "[]", "5", ""])
def test_a_broken_file_is_an_error_and_extract_leaves_it(desk, text):
    desk.parent.mkdir(parents=True)
    desk.write_text(text)
    for act in (translate.translate, translate.extract):
        with pytest.raises(translate.TranslationError, match=r"05\.json is no translation file"):
            act("05", "xx")
    assert desk.read_text() == text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["translate", "77"], "no chapter '77'; there are 00, 01"),
        (["translate", "05", "--language", "xy"], "no xy translation of 05 (there are: zh-CN 00"),
        (["translate", "05", "--language", "../x", "--extract"], "unknown language '../x'"),
    ],
)
def test_bad_input_is_one_clear_line(arguments, message, capsys):
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.strip().splitlines()) == 1


def test_the_shell_extracts_and_translates(desk, capsys):
    assert cli.main(["translate", "05", "--language", "xx", "--extract"]) == 0
    assert cli.main(["translate", "05", "--language", "xx"]) == 0
    printed = capsys.readouterr().out
    assert "stays English: c05-000: not translated yet" in printed and "05_quantization.ipynb" in printed


def test_the_shipped_translations_are_complete_and_current(tmp_path, monkeypatch):
    monkeypatch.setattr(translate, "BUILD", tmp_path)
    files = sorted(translate.FOLDER.glob("*/*.json"))
    assert files
    for file in files:
        made, notes = translate.translate(file.stem, file.parent.name)
        assert notes == []
        texts = [entry["text"] for entry in json.loads(file.read_text(encoding="utf-8")).values()]
        assert all(HAN.search(text) and not NOT_BOLD.search(text) for text in texts)
        nbformat.validate(nbformat.read(made, as_version=4))
