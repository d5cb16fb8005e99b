"""The comparison of verdicts under several conditions: what contradicts, and that another seed reaches a kernel."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from tools import runner, steady
from utils import chapters, claims

HOLDS, REFUTED, UNTOLD = "holds", "refuted", "cannot be told here"
WIDE, VNNI = "holds if the layers are wide", "holds if the processor has VNNI"


@pytest.mark.parametrize(
    ("one", "other", "contradiction"),
    [
        (HOLDS, HOLDS, False),
        (HOLDS, REFUTED, True),
        (HOLDS, WIDE, True),
        (REFUTED, WIDE, True),
        (WIDE, VNNI, False),
        (HOLDS, UNTOLD, False),
        (UNTOLD, REFUTED, False),
        (UNTOLD, WIDE, False),
    ],
)
def test_what_contradicts(one, other, contradiction):
    assert steady.contradicts(one, other) is steady.contradicts(other, one) is contradiction


def test_each_pair_of_conditions_is_compared_and_a_failed_chapter_counts():
    table = {
        "quiet": {"C16": UNTOLD, "C17": REFUTED},
        "busy": {"C16": HOLDS, "C17": REFUTED},
        "seed": {"C16": REFUTED, "C17": REFUTED, "chapter 09": "cell failed: ValueError"},
    }
    assert steady.contradictions(table) == ["C16", "chapter 09"]
    rows = steady.markdown(table).splitlines()
    assert rows[0] == "| claim | quiet | busy | seed |"
    assert rows[3] == "| C17 | refuted | the same | the same |" and rows[4].startswith(
        "| chapter 09 | – | – | cell failed"
    )


SEEDS = """
import random, numpy, torch
for again in range(2):
    torch.manual_seed(1)
    print(torch.rand(1).item(), torch.rand(1, generator=torch.Generator().manual_seed(1)).item())
    print(numpy.random.default_rng(1).random(), random.Random(1).random())
assert random.Random | None  # a class, as libraries' annotations take it
"""


def test_another_seed_reaches_the_kernel_and_every_generator(tmp_path, monkeypatch, capsys):
    exec(SEEDS, {})
    before = capsys.readouterr().out.split()
    for name, value in steady.CONDITIONS["seed"].items():
        monkeypatch.setenv(name, value)
    nbformat.write(new_notebook(cells=[new_code_cell(SEEDS)]), tmp_path / "01_seeds.ipynb")
    runner.save(tmp_path / "01_seeds.ipynb")
    after = nbformat.read(tmp_path / "01_seeds.ipynb", as_version=4).cells[0].outputs[0].text.split()
    assert len(before) == len(after) == 8 and not set(before) & set(after)
    assert after[:4] == after[4:] and before[:4] == before[4:]


def test_the_table_in_the_docs_is_of_the_saved_verdicts_and_has_no_contradiction():
    text = (chapters.ROOT / "docs" / "steady.md").read_text(encoding="utf-8")
    lines = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    head, _, *rows = [[cell.strip() for cell in line] for line in lines]
    table = {name: {} for name in head[1:]}
    for claim, first, *others in rows:
        for name, word in zip(head[1:], (first, *others), strict=True):
            if word != "–":
                table[name][claim] = first if word == "the same" else word
    assert steady.contradictions(table) == []
    saved = {v.claim: v.verdict for path in chapters.notebook_paths() for v in claims.saved_verdicts(path)}
    assert table["quiet"] == {name: saved[name] for name in table["quiet"]}
    tried = {record.id for record in claims.ledger().values() if record.chapter in steady.CHAPTERS.split(",")}
    assert set(table["quiet"]) == tried
