"""The ledger of 33 claims and the cards that carry their verdicts.

A verdict is computed in a notebook cell and handed to `verdict`. It draws a card, and the same facts travel with
the cell's output (MIME type `VERDICT_MIME`), where the report and the README find them.
"""

import functools
import html
import json
import textwrap
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from IPython import get_ipython
from IPython.display import display

VERDICT_MIME = "application/vnd.course.verdict+json"

# Judged in this kernel: claim id -> the cell that judged it.
_judged: dict[str, str] = {}


class ClaimError(ValueError):
    """A claim id that the ledger does not have, a second verdict, or a verdict without its reasons."""


@dataclass(frozen=True)
class Claim:
    """One claim of the article, in the course's own words.

    Attributes:
        id: "C01" to "C33".
        section: section of the article, for example "1.2".
        chapter: the chapter that judges it, for example "01".
        claim: what the article says.
    """

    id: str
    section: str
    chapter: str
    claim: str


@dataclass(frozen=True)
class Verdict:
    """What a chapter found about a claim; `verdict` is "holds", "holds if ..." or "refuted"."""

    claim: str
    text: str
    chapter: str
    verdict: str
    measured: str
    because: str


@functools.cache
def ledger() -> dict[str, Claim]:
    """All 33 claims by id, in order."""
    text = resources.files("utils").joinpath("data", "claims.json").read_text(encoding="utf-8")
    return {record["id"]: Claim(**record) for record in json.loads(text)}


def claim(claim_id: str) -> Claim:
    """The claim with this id.

    Raises:
        ClaimError: the ledger has no such id.
    """
    try:
        return ledger()[claim_id]
    except KeyError:
        first, last = next(iter(ledger())), list(ledger())[-1]
        raise ClaimError(f"no claim {claim_id!r}: the ledger runs from {first} to {last}") from None


def verdict(claim_id: str, *, holds: bool, measured: str, because: str, condition: str = "") -> None:
    """Judge a claim: draw its card and record the verdict with the cell's output.

    Args:
        claim_id: "C01" to "C33".
        holds: the outcome, computed: a comparison of measured values, not a typed-in constant.
        measured: the number that decided, with its unit.
        because: one sentence that says why.
        condition: with `holds=True`, the condition under which it holds ("the model is mid-sized").

    Raises:
        ClaimError: unknown id, a second verdict on the same claim from another cell, or an empty reason.
        TypeError: `holds` is not a truth value.
    """
    judged = claim(claim_id)
    if not isinstance(holds, (bool, np.bool_)):
        raise TypeError(f"holds must be True or False, computed in the cell; got {holds!r}")
    for name, value in (("measured", measured), ("because", because)):
        if not str(value).strip():
            raise ClaimError(f"the verdict on {claim_id} needs {name}=...: a short text, not an empty one")
    cell = _current_cell()
    if _judged.setdefault(claim_id, cell) != cell:
        raise ClaimError(f"{claim_id} is already judged in another cell: a claim gets one verdict")
    word = "refuted" if not holds else f"holds if {condition}" if condition else "holds"
    found = Verdict(claim_id, judged.claim, judged.chapter, word, str(measured), str(because))
    display(
        {"text/plain": _card_text(found), "text/html": _card_html(found), VERDICT_MIME: asdict(found)},
        raw=True,
    )


def _current_cell() -> str:
    """Identity of the running cell, so that running a cell again may judge its claim again."""
    shell = get_ipython()
    if shell is None:
        return "outside a notebook"
    metadata = (getattr(shell.kernel, "get_parent", dict)() if hasattr(shell, "kernel") else {}).get("metadata", {})
    return metadata.get("cellId") or shell.user_ns["In"][-1]


def _card_text(found: Verdict) -> str:
    lines = [f"{found.claim}  {found.verdict.upper()}", f'The claim: "{found.text}"']
    lines += [f"Measured: {found.measured}", f"Because: {found.because}"]
    return "\n".join(textwrap.fill(line, 100, subsequent_indent="    ") for line in lines)


def _card_html(found: Verdict) -> str:
    sign, colour = {"refuted": ("✘", "#D55E00"), "holds": ("✔", "#009E73")}.get(found.verdict, ("◐", "#0072B2"))
    escaped = {key: html.escape(value) for key, value in asdict(found).items()}
    return (
        f'<div style="border:1px solid {colour};border-left:8px solid {colour};border-radius:4px;'
        f'padding:.6em 1em;margin:.6em 0;max-width:46em">'
        f"<strong>{escaped['claim']} {sign} {escaped['verdict']}</strong><br>"
        f"<em>“{escaped['text']}”</em><br>"
        f"<strong>Measured:</strong> {escaped['measured']}<br>"
        f"<strong>Because:</strong> {escaped['because']}</div>"
    )


def saved_verdicts(notebook: Path) -> list[Verdict]:
    """The verdicts that a saved notebook carries in its outputs, in order.

    Raises:
        FileNotFoundError: no such notebook.
    """
    cells: list[dict[str, Any]] = json.loads(Path(notebook).read_text(encoding="utf-8"))["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    return [Verdict(**output["data"][VERDICT_MIME]) for output in outputs if VERDICT_MIME in output.get("data", {})]


def scoreboard(verdicts: list[Verdict]) -> str:
    """A Markdown table of verdicts, and a line that counts the claims still waiting for their chapter."""
    rows = ["| claim | the article says | verdict | measured | chapter |", "|---|---|---|---|---|"]
    for found in sorted(verdicts, key=lambda found: found.claim):
        text, measured = (value.replace("|", "\\|") for value in (found.text, found.measured))
        rows.append(f"| {found.claim} | {text} | **{found.verdict}** | {measured} | {found.chapter} |")
    return "\n".join(rows) + f"\n\n{len(verdicts)} of {len(ledger())} claims are judged."
