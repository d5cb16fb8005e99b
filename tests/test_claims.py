"""Verdicts are recorded with the cell, refuse what makes no sense, and appear on the scoreboard."""

import nbformat
import numpy as np
import pytest

from utils import claims


@pytest.fixture(autouse=True)
def shown(monkeypatch):
    """Collects what `verdict` displays; every test starts with nothing judged."""
    outputs = []
    monkeypatch.setattr(claims, "display", lambda data, raw: outputs.append(data))
    monkeypatch.setattr(claims, "_judged", {})
    return outputs


def test_the_ledger_has_33_claims_in_order():
    assert list(claims.ledger()) == [f"C{number:02d}" for number in range(1, 34)]
    assert {claim.chapter for claim in claims.ledger().values()} <= {f"{n:02d}" for n in range(16)}


@pytest.mark.parametrize(
    ("holds", "condition", "expected"),
    [
        (True, "", "holds"),
        (False, "", "refuted"),
        (False, "it is small", "refuted"),
        (True, "it is small", "holds if it is small"),
        (np.bool_(False), "", "refuted"),
    ],
)
def test_the_word_follows_from_the_comparison(shown, holds, condition, expected):
    claims.verdict("C10", holds=holds, measured="2.52 B", because="arithmetic", condition=condition)
    (data,) = shown
    assert data[claims.VERDICT_MIME]["verdict"] == expected
    assert expected.upper() in data["text/plain"] and expected in data["text/html"]


def test_text_in_a_card_is_escaped(shown):
    claims.verdict("C10", holds=False, measured="1 < 2 & 3", because="<b>")
    assert "1 &lt; 2 &amp; 3" in shown[0]["text/html"] and "<b>" not in shown[0]["text/html"]


def test_an_unknown_claim_is_an_error():
    with pytest.raises(claims.ClaimError, match=r"'C99'.*C01 to C33"):
        claims.verdict("C99", holds=True, measured="1", because="x")


@pytest.mark.parametrize("holds", ["yes", 1, None])
def test_holds_must_be_a_truth_value(holds):
    with pytest.raises(TypeError, match="True or False"):
        claims.verdict("C10", holds=holds, measured="1", because="x")


@pytest.mark.parametrize("missing", ["measured", "because"])
def test_a_verdict_needs_its_reasons(missing):
    texts = {"measured": "1", "because": "x", missing: " "}
    with pytest.raises(claims.ClaimError, match=missing):
        claims.verdict("C10", holds=True, **texts)


def test_a_second_verdict_from_another_cell_is_an_error_and_the_same_cell_may_run_again(monkeypatch):
    def judge(cell):
        monkeypatch.setattr(claims, "_current_cell", lambda: cell)
        claims.verdict("C10", holds=False, measured="1", because="x")

    judge("cell one")
    judge("cell one")
    with pytest.raises(claims.ClaimError, match="C10 is already judged in another cell"):
        judge("cell two")


def test_saved_verdicts_are_read_from_a_notebook(tmp_path, shown):
    claims.verdict("C09", holds=False, measured="4.9 %", because="units")
    cell = nbformat.v4.new_code_cell("", outputs=[nbformat.v4.new_output("display_data", data=shown[0])])
    path = tmp_path / "01_x.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    (found,) = claims.saved_verdicts(path)
    assert (found.claim, found.verdict, found.measured, found.chapter) == ("C09", "refuted", "4.9 %", "01")
    board = claims.scoreboard([found])
    assert "| C09 |" in board and "1 of 33 claims are judged" in board
