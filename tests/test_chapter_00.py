"""Chapter 00 states the rule of judgement as `utils.claims` applies it."""

import nbformat
from lifting import notebook_path

from utils import catalog, claims, measure

NOTEBOOK = nbformat.read(notebook_path("00"), as_version=4)
PROSE = "\n".join(cell.source for cell in NOTEBOOK.cells if cell.cell_type == "markdown")
PRINTED = "\n".join(
    output.get("text", "") for cell in NOTEBOOK.cells if cell.cell_type == "code" for output in cell.outputs
)


def test_the_table_has_the_four_cards():
    rows = [line for line in PROSE.splitlines() if line.startswith("| ") and "**" in line]
    words = [claims.judge([True]), claims.judge([True, False], "…"), claims.judge([False]), claims.judge([None])]
    assert [row.split("**")[1] for row in rows] == words
    assert [row[2] for row in rows] == [claims.SIGNS[True], "◐", claims.SIGNS[False], claims.SIGNS[None]]


def test_the_rule_names_the_numbers_that_the_code_uses():
    assert f'"About" means within {claims.ABOUT:.0%}'.replace("%", " %") in PROSE
    assert f"{measure.SURE:.0%} confidence".replace("%", " %") in PROSE
    assert f"The catalog holds {len(catalog.models())} models" in PROSE
    assert f"{len(catalog.models())} models, {len(catalog.distinct_shapes())} distinct shapes" in PRINTED


def test_all_four_outcomes_are_shown():
    for word in ("holds\n", "holds if the model is dense\n", "refuted\n", claims.UNTOLD + "\n"):
        assert f"->  {word}" in PRINTED


def test_the_report_says_what_is_needed_not_what_was_found():
    assert "free memory: at least 4 GB" in PRINTED and "free disk: at least 1 GB" in PRINTED
