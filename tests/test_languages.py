"""Chinese beside English: the glossary, titles and objectives, the Chinese README, and translated chapters."""

import re
from pathlib import Path

import nbformat
import pytest
from babel.messages.pofile import read_po
from nbformat.v4 import new_markdown_cell, new_notebook

from tools import __main__ as cli
from tools import execute, generated, languages, templates
from tools.templates import SITE
from tools.website import translate
from utils import chapters, claims

NUMBERS = [chapter.number for chapter in chapters.all_chapters()]
VERDICTS = [verdict for path in chapters.notebook_paths() for verdict in claims.saved_verdicts(path)]
HAN = re.compile(r"[\u4e00-\u9fff]")
# Bold that ends with punctuation before a letter: Markdown does not read it as bold.
NOT_BOLD = re.compile(r"\*\*[^*\n]+[：。，；？！、）]\*\*(?=[^\s*])")
LINK = re.compile(r"\]\([^)]*\)|\$[^$]+\$")


def objectives(number: str) -> int:
    """How many objectives a chapter has in English."""
    [path] = chapters.NOTEBOOKS.glob(f"{number}_*.ipynb")
    cells = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown"]
    return len(re.findall(r"^\d+\. ", generated.by_hand(cells[1]), re.MULTILINE))


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
    assert not NOT_BOLD.search(block) and generated.by_hand(f"a <!-- zh -->{block}<!-- /zh --> b") == "a  b"


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
    outcomes = re.findall(rf"\*\*({'|'.join(languages.OUTCOMES.values())})\*\*", table)
    assert len(outcomes) == len(VERDICTS)
    assert f"不成立 {sum(found.verdict == 'refuted' for found in VERDICTS)} 条" in table
    assert "holds" not in table and "refuted" not in table
    assert table.index("文章的说法 |") < table.index("| C01 ") < table.index("报告的说法 |")


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


# ------------------------------------------------------------------------------------- the website's catalogs

LOCALE = SITE / "locale" / "zh_CN" / "LC_MESSAGES"


def texts(name: str) -> dict[str, str]:
    """English and Chinese of one page's catalog."""
    with (LOCALE / f"{name}.po").open("rb") as file:
        return {message.id: message.string for message in read_po(file) if message.id}


@pytest.mark.parametrize("path", chapters.notebook_paths(), ids=lambda path: path.name[:2])
def test_cells_have_stable_ids_and_storing_keeps_them(path: Path):
    notebook = nbformat.read(path, as_version=4)
    ids = [cell.id for cell in notebook.cells]
    assert (notebook.nbformat, notebook.nbformat_minor) >= (4, 5) and len(ids) == len(set(ids))
    again = nbformat.reads(nbformat.writes(execute.normalised(notebook)), as_version=4)
    assert [cell.id for cell in again.cells] == ids


@pytest.mark.parametrize("path", sorted(LOCALE.rglob("*.po")), ids=lambda path: path.stem)
def test_a_catalog_is_chinese_and_keeps_links_and_formulas(path: Path):
    for english, text in texts(path.relative_to(LOCALE).with_suffix("").as_posix()).items():
        assert HAN.search(text) and not NOT_BOLD.search(text), english
        assert sorted(LINK.findall(text)) == sorted(LINK.findall(english)), english


@pytest.mark.parametrize("chapter", chapters.all_chapters(), ids=lambda chapter: chapter.number)
def test_pages_and_notebooks_say_the_same_in_chinese(chapter: chapters.Chapter):
    known, page = languages.chinese()["chapters"][chapter.number], texts(f"notebooks/{Path(chapter.file).stem}")
    title = f"{chapter.number} · {chapter.title}"
    assert page.get(title, title) == f"{chapter.number} · {known['title']}"  # a name stays as it is
    assert page[f"**The question:** {chapter.question}"] == f"**本章的问题**：{known['question']}"
    assert set(known["objectives"]) <= set(page.values())
    board = texts("verdicts")
    mine = [claim for claim in claims.ledger().values() if claim.chapter == chapter.number]
    assert all(board[templates.plain(claim.claim)] == languages.chinese()["claims"][claim.id] for claim in mine)


def test_chapter_00_is_chinese_throughout_and_its_code_is_the_same():
    path = next(chapters.NOTEBOOKS.glob("00_*.ipynb"))
    old, new = nbformat.read(path, as_version=4), translate.translated(path, "zh_CN")
    assert [cell for cell in new.cells if cell.cell_type == "code"] == [c for c in old.cells if c.cell_type == "code"]
    for before, after in zip(old.cells, new.cells, strict=True):
        if before.cell_type == "markdown":
            blocks = [block for block in after.source.split("\n\n") if re.search("[a-z]{3}", block)]
            assert not [block for block in blocks if not HAN.search(block) and "<!--" not in block], blocks
            assert before.source.count("\n\n") - after.source.count("\n\n") in range(12)
    nbformat.validate(new)


def test_a_text_takes_its_place_only_where_it_is_the_whole(tmp_path, monkeypatch):
    source = "# holds\n\n> It holds\n> well.\n\n| holds | a |\n|---|---|\n| b | holds |\n\n1. holds\n\nIt holds."
    nbformat.write(new_notebook(cells=[new_markdown_cell(source)]), tmp_path / "05_x.ipynb")
    catalog = tmp_path / "locale" / "xx" / "LC_MESSAGES" / "notebooks" / "05_x.po"
    catalog.parent.mkdir(parents=True)
    catalog.write_text('msgid "holds"\nmsgstr "YES"\n\nmsgid "It holds well."\nmsgstr "GOOD"\n')
    monkeypatch.setattr(translate, "SITE", tmp_path)
    [cell] = translate.translated(tmp_path / "05_x.ipynb", "xx").cells
    assert cell.source == "# YES\n\n> GOOD\n\n| YES | a |\n|---|---|\n| b | YES |\n\n1. YES\n\nIt holds."


def test_an_unknown_language_is_one_clear_line(capsys):
    assert cli.main(["site", "--language", "xy"]) == 2
    assert capsys.readouterr().err.strip() == "no language 'xy'; there are en, zh_CN"
