"""Verdicts are recorded with the cell, refuse what makes no sense, and appear on the scoreboard."""

from types import SimpleNamespace

import nbformat
import numpy as np
import pytest

from tools import generated
from utils import chapters, claims


@pytest.fixture(autouse=True)
def shown(monkeypatch):
    """Collects what `verdict` displays, as in a notebook; every test starts with nothing judged."""
    outputs = []
    monkeypatch.setattr(claims, "display", lambda data, raw: outputs.append(data))
    monkeypatch.setattr(claims, "get_ipython", SimpleNamespace)
    monkeypatch.setattr(claims, "_judged", {})
    return outputs


def test_the_ledger_has_the_article_s_33_claims_and_then_those_of_reports_in_order():
    article = [claim for claim in claims.ledger().values() if not claim.report]
    reports = [claim for claim in claims.ledger().values() if claim.report]
    assert [claim.id for claim in article] == [f"C{number:02d}" for number in range(1, 34)]
    assert [claim.id for claim in reports] == [f"D{number:02d}" for number in range(1, len(reports) + 1)]
    assert list(claims.ledger().values()) == article + reports
    further = set(chapters.PARTS[chapters.FURTHER])
    assert not further & {claim.chapter for claim in article} and {claim.chapter for claim in reports} <= further


@pytest.mark.parametrize(
    ("outcomes", "condition", "word"),
    [
        ([True], "", "holds"),
        ([True, True], "", "holds"),
        ([False], "", "refuted"),
        ([False, False], "", "refuted"),
        ([True, False], "it is small", "holds if it is small"),
        ([False, None, True], "it is small", "holds if it is small"),
        ([None], "", "cannot be told here"),
        ([True, None], "", "cannot be told here"),
        ([False, None], "", "cannot be told here"),
        ([np.bool_(False), np.bool_(True)], "it is small", "holds if it is small"),
    ],
)
def test_the_word_follows_from_the_cases(shown, outcomes, condition, word):
    assert claims.judge(outcomes, condition) == word
    cases = [claims.Case(f"case {n}", outcome, f"{n} B") for n, outcome in enumerate(outcomes)]
    claims.verdict("C10", *cases, because="arithmetic", condition=condition)
    (data,) = shown
    assert data[claims.VERDICT_MIME]["verdict"] == word
    assert word.upper() in data["text/plain"] and word in data["text/html"]
    for case in cases:
        sign = {True: "✔", False: "✘", None: "?"}[None if case.holds is None else bool(case.holds)]
        line = f"{sign} {case.name}: {case.measured}"
        assert line in data["text/plain"] and line in data["text/html"]
        assert f"{case.name}: {case.measured}" in data[claims.VERDICT_MIME]["measured"]


@pytest.mark.parametrize("outcomes", [[True], [False], [True, True]])
def test_a_condition_is_measured_on_both_sides(outcomes):
    with pytest.raises(claims.ClaimError, match="a case where it is met and one where it is not"):
        claims.judge(outcomes, "it is small")


def test_a_named_condition_shows_only_where_the_cases_fall_apart(shown):
    cases = [claims.Case("a", True, "1"), claims.Case("b", True, "2")]
    claims.verdict("C10", *cases, because="x", condition="it is small")
    assert shown[0][claims.VERDICT_MIME]["verdict"] == "holds"


def test_both_sides_need_a_condition_and_a_verdict_needs_a_case():
    with pytest.raises(claims.ClaimError, match="what tells them apart"):
        claims.judge([True, False])
    with pytest.raises(claims.ClaimError, match="at least one case"):
        claims.judge([])


@pytest.mark.parametrize(("measured", "holds"), [(24, True), (26.4, True), (21.6, True), (26.5, False), (2.7, False)])
def test_about_means_within_ten_per_cent(measured, holds):
    assert claims.about(measured, 24) is holds


def test_a_single_case_needs_no_name(shown):
    claims.verdict("C10", holds=2.5 > 12, measured="2.52 B", because="arithmetic")
    assert "Measured: 2.52 B" in shown[0]["text/plain"] and shown[0][claims.VERDICT_MIME]["verdict"] == "refuted"


def test_outside_of_a_notebook_a_card_is_plain_text(monkeypatch, capsys, shown):
    monkeypatch.setattr(claims, "get_ipython", lambda: None)
    claims.verdict("C10", holds=2.5 > 12, measured="2.52 B", because="arithmetic")
    assert "C10  REFUTED" in capsys.readouterr().out and not shown


def test_text_in_a_card_is_escaped(shown):
    claims.verdict("C10", holds=False, measured="1 < 2 & 3", because="<b>")
    assert "1 &lt; 2 &amp; 3" in shown[0]["text/html"] and "<b>" not in shown[0]["text/html"]


@pytest.mark.parametrize(("unknown", "known"), [("C99", "C01 to C33"), ("D99", "D01 to D"), ("", "C01 to D")])
def test_an_unknown_claim_is_an_error(unknown, known):
    with pytest.raises(claims.ClaimError, match=f"'{unknown}'.*{known}"):
        claims.verdict(unknown, holds=True, measured="1", because="x")


@pytest.mark.parametrize("holds", ["yes", 1, 0.5])
def test_holds_must_be_a_truth_value(holds):
    with pytest.raises(TypeError, match="True, False or None"):
        claims.verdict("C10", holds=holds, measured="1", because="x")


@pytest.mark.parametrize("missing", ["measured", "because"])
def test_a_verdict_needs_its_reasons(missing):
    texts = {"measured": "1", "because": "x", missing: " "}
    with pytest.raises(claims.ClaimError, match=missing):
        claims.verdict("C10", holds=True, **texts)


def in_cell(name, monkeypatch):
    """As if the kernel ran a cell; None: the front end does not say which."""
    parent = {"metadata": {"cellId": name} if name else {}}
    shell = SimpleNamespace(kernel=SimpleNamespace(get_parent=lambda: parent))
    monkeypatch.setattr(claims, "get_ipython", lambda: shell)


def test_a_second_verdict_from_another_cell_is_an_error_and_the_same_cell_may_run_again(monkeypatch):
    for cell in ("one", "one"):
        in_cell(cell, monkeypatch)
        claims.verdict("C10", holds=2 > 3, measured="1", because="x")
    in_cell("two", monkeypatch)
    with pytest.raises(claims.ClaimError, match="C10 is already judged in another cell"):
        claims.verdict("C10", holds=2 > 3, measured="1", because="x")


def test_an_edited_cell_may_judge_again_where_the_front_end_names_no_cells(monkeypatch, shown):
    in_cell(None, monkeypatch)
    for measured in ("1", "2"):
        claims.verdict("C10", holds=2 > 3, measured=measured, because="x")
    assert len(shown) == 2


def test_saved_verdicts_are_read_from_a_notebook(tmp_path, shown):
    claims.verdict("C09", holds=False, measured="4.9 %", because="units")
    cell = nbformat.v4.new_code_cell("", outputs=[nbformat.v4.new_output("display_data", data=shown[0])])
    path = tmp_path / "01_x.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    (found,) = claims.saved_verdicts(path)
    assert (found.claim, found.verdict, found.measured, found.chapter) == ("C09", "refuted", "4.9 %", "01")
    article, reports = generated.tally([found]).split("\n\n")
    assert article == "1 of 33 claims of the article are judged: **1 are refuted**."
    assert reports.startswith("0 of ") and reports.endswith("claims of DeepSeek's reports are judged: none.")


def test_families_are_told_apart_and_sorted():
    found = [claims.Verdict(name, "text", "01", "holds", "1", "x") for name in ("D01", "C02", "C01")]
    families = {family: [v.claim for v in verdicts] for family, verdicts in claims.by_family(found).items()}
    assert families == {"C": ["C01", "C02"], "D": ["D01"]} and list(families) == list(claims.FAMILIES)
    assert all(key[0] in claims.FAMILIES for key in claims.ledger())
