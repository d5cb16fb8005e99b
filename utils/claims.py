"""The ledger of claims, the one rule that judges them, and the cards that carry their verdicts.

The article makes 33 claims, C01 to C33. Claims of DeepSeek's own reports begin with D. One rule is for all:

1. A claim is read in the most favourable sense that its words allow. Where two readings are fair, both are judged.
2. It is judged on cases. Each case is measured or counted, and says True, False, or None where this machine's
   measurement does not separate. All True: the claim holds. All False: it is refuted. Some of each: it holds if the
   condition is met that tells them apart; so a condition is always measured on both sides. With a None, and not both
   True and False beside it, the claim cannot be told here.
3. "About", and an estimate, mean within 10 % (`about`). A number that the article states as exact is compared exactly.
4. "DeepSeek models" are counted by distinct shape (`catalog.distinct_shapes`): versions that differ only in their
   weights count once. What is said to be typical of them holds if it fits more than half.

A notebook cell computes the cases and hands them to `verdict`. It draws a card, and the same facts travel with the
cell's output (MIME type `VERDICT_MIME`), where the report and the README find them.
"""

import functools
import html
import json
import textwrap
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from IPython import get_ipython
from IPython.display import display
from jinja2 import Template

from utils.errors import CourseError
from utils.files import records

VERDICT_MIME = "application/vnd.course.verdict+json"
ABOUT = 0.10  # "about" and "an estimate" mean: within this share of the claimed number
UNTOLD = "cannot be told here"
FAMILIES = {"C": "the article", "D": "DeepSeek's reports"}  # who claims it, by the first letter of a claim's id
SIGNS = {True: "✔", False: "✘", None: "?"}
LOOKS = {"refuted": ("✘", "#D55E00"), "holds": ("✔", "#009E73"), UNTOLD: ("?", "#595959")}  # sign and colour of a card
CONDITIONAL = ("◐", "#0072B2")
CARD = Template("".join(map(str.strip, (Path(__file__).parent / "data/card.html").read_text("utf-8").splitlines())))

# Judged in this kernel: claim id -> the cell that judged it.
_judged: dict[str, str] = {}


class ClaimError(CourseError, ValueError):
    """A claim id that the ledger does not have, a second verdict, or a verdict without its reasons."""


@dataclass(frozen=True)
class Claim:
    """One claim: id ("C01"), section ("1.2"), judging chapter ("01"), wording; DeepSeek's report ("": the article)."""

    id: str
    section: str
    chapter: str
    claim: str
    report: str = ""


@dataclass(frozen=True)
class Case:
    """One case, or one reading, on which a claim is judged.

    Attributes:
        name: what the case is ("a dense model of 67 B", "read as: a quarter of each layer").
        holds: the outcome, computed: True, False, or None where the measurement does not separate.
        measured: the number that decided, with its unit.
    """

    name: str
    holds: bool | None
    measured: str


@dataclass(frozen=True)
class Verdict:
    """What a chapter found about a claim.

    Attributes:
        claim, text, chapter: id, wording and chapter of the claim.
        verdict: "holds", "holds if ...", "refuted" or "cannot be told here".
        measured: the cases with what was measured in each, as one text.
        because: one sentence that says why.
        cases: the cases as dictionaries of `Case`'s fields.
    """

    claim: str
    text: str
    chapter: str
    verdict: str
    measured: str
    because: str
    cases: tuple[dict[str, Any], ...] = ()


@functools.cache
def ledger() -> dict[str, Claim]:
    """All claims by id, in order: those of the article, then those of DeepSeek's reports."""
    return {record["id"]: Claim(**record) for record in records("claims.json")}


def claim(claim_id: str) -> Claim:
    """The claim with this id. Raises `ClaimError` if the ledger has none."""
    if claim_id not in ledger():
        known = [key for key in ledger() if key[0] == claim_id[:1]] or list(ledger())
        raise ClaimError(f"no claim {claim_id!r}: the ledger runs from {known[0]} to {known[-1]}")
    return ledger()[claim_id]


def by_family(verdicts: Iterable["Verdict"]) -> dict[str, list["Verdict"]]:
    """Verdicts in the order of their claims, by the key of `FAMILIES`; each family is there."""
    found = sorted(verdicts, key=lambda verdict: verdict.claim)
    return {family: [v for v in found if v.claim[0] == family] for family in FAMILIES}


def about(measured: float, claimed: float) -> bool:
    """Whether a number is "about" the claimed one: within 10 % of it."""
    return abs(measured - claimed) <= ABOUT * abs(claimed)


def judge(outcomes: Iterable[bool | None], condition: str = "") -> str:
    """The word of the rule for the outcomes of a claim's cases.

    Raises:
        ClaimError: there is no outcome, a condition that the outcomes do not show on both sides, or none where they do.
    """
    found = {None if outcome is None else bool(outcome) for outcome in outcomes}
    if not found:
        raise ClaimError("a verdict needs at least one case")
    if {True, False} <= found:
        if not condition.strip():
            raise ClaimError("cases that hold and cases that do not need condition=...: what tells them apart")
        return f"holds if {condition}"
    if None in found:
        return UNTOLD
    if condition.strip():
        raise ClaimError(f"the condition {condition!r} needs a case where it is met and one where it is not")
    return "holds" if found == {True} else "refuted"


def verdict(
    claim_id: str, *cases: Case, because: str, holds: bool | None = None, measured: str = "", condition: str = ""
) -> None:
    """Judge a claim by the rule of this module: draw its card and record the verdict with the cell's output.

    Args:
        claim_id: "C01" to "C33", or "D01" and so on.
        cases: what the claim is judged on; or, for a single case, `holds` and `measured` as in `Case`.
        because: one sentence that says why.
        condition: what tells cases that hold from those that do not ("the model is dense"). It shows only when the
            cases fall on both sides, so a cell may name it before it knows.

    Raises:
        ClaimError: unknown id, a second verdict on the same claim from another cell, an empty reason, or outcomes that
            do not fit the rule.
        TypeError: an outcome is neither a truth value nor None.
    """
    judged, cases = claim(claim_id), cases or (Case("", holds, measured),)
    for case in cases:
        if case.holds is not None and not isinstance(case.holds, (bool, np.bool_)):
            raise TypeError(f"holds must be True, False or None, computed in the cell; got {case.holds!r}")
    for name, texts in (("measured", [str(case.measured) for case in cases]), ("because", [because])):
        if not all(map(str.strip, texts)):
            raise ClaimError(f"the verdict on {claim_id} needs {name}=...: a short text, not an empty one")
    cell = _current_cell()
    if _judged.setdefault(claim_id, cell) != cell:
        raise ClaimError(f"{claim_id} is already judged in another cell: a claim gets one verdict")
    kept = tuple(asdict(case) | {"holds": None if case.holds is None else bool(case.holds)} for case in cases)
    outcomes = {case["holds"] for case in kept}
    word = judge(outcomes, condition if {True, False} <= outcomes else "")
    told = "; ".join(f"{case.name}: {case.measured}" if case.name else case.measured for case in cases)
    found = Verdict(claim_id, judged.claim, judged.chapter, word, told, because, kept)
    if get_ipython() is None:
        print(_card_text(found))
    else:
        card = {"text/plain": _card_text(found), "text/html": _card_html(found), VERDICT_MIME: asdict(found)}
        display(card, raw=True)


def _current_cell() -> str:
    """Identity of the running cell, so that running a cell again may judge its claim again, edited or not.

    Where the front end does not name its cells, every cell counts as the same one: no edit of a cell can then be
    mistaken for a second verdict.
    """
    kernel = getattr(get_ipython(), "kernel", None)
    metadata = (getattr(kernel, "get_parent", dict)() or {}).get("metadata", {})
    return metadata.get("cellId") or "a cell without a name"


def _case_lines(found: Verdict) -> list[str]:
    return [f"{SIGNS[case['holds']]} {case['name']}: {case['measured']}" for case in found.cases if case["name"]]


def _card_text(found: Verdict) -> str:
    lines = [f"{found.claim}  {found.verdict.upper()}", f'The claim: "{found.text}"']
    lines += _case_lines(found) or [f"Measured: {found.measured}"]
    lines += [f"Because: {found.because}"]
    return "\n".join(textwrap.fill(line, 100, subsequent_indent="    ") for line in lines)


def _card_html(found: Verdict) -> str:
    sign, colour = LOOKS.get(found.verdict, CONDITIONAL)
    return CARD.render(verdict=found, sign=sign, colour=colour, lines=_case_lines(found), escape=html.escape)


def saved_verdicts(notebook: Path) -> list[Verdict]:
    """The verdicts that a saved notebook carries in its outputs, in order."""
    cells: list[dict[str, Any]] = json.loads(Path(notebook).read_text(encoding="utf-8"))["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    return [Verdict(**output["data"][VERDICT_MIME]) for output in outputs if VERDICT_MIME in output.get("data", {})]
