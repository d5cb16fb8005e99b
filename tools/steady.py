"""Do verdicts stand? Runs the chapters that time or train under several conditions, and compares their verdicts.

    make steady                                  all conditions, all chapters that time or train
    make steady ONLY=05 CONDITIONS=quiet,busy    some of them
    make steady PYTHON2=path/to/python           also on another Python that has the course's packages

"Cannot be told here" contradicts nothing. Two verdicts that hold under conditions do not contradict each other either:
a condition may name the hardware. Any other difference is a contradiction, and so is a chapter that fails.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tools.choices import choose
from utils import claims
from utils.chapters import ROOT

CHAPTERS = "03,04,05,06,07,09,10,11,13,14,16,17,18"
# Each condition: what is set in the environment of the run.
CONDITIONS: dict[str, dict[str, str]] = {
    "quiet": {},
    "busy": {},
    "one thread": {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
    "AVX2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
    "seed": {"COURSE_SEED_SHIFT": "1000", "PYTHONSTARTUP": str(Path(__file__).with_name("other_seed.py"))},
}
RUN = "import sys, pathlib, tools.runner as run; run.run_notebooks(sys.argv[2], build=pathlib.Path(sys.argv[1]))"


def verdicts_under(condition: str, chapters: str, python: str = sys.executable) -> dict[str, str]:
    """Run chapters under a condition; returns claim -> verdict, and "chapter NN" -> what went wrong."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="steady-"))
        if condition == "busy":  # another program keeps one core busy, as a browser may
            stack.callback(subprocess.Popen([sys.executable, "-c", "while True: pass"]).kill)
        own = {"PYTHONPATH": str(ROOT)} | CONDITIONS.get(condition, {})
        subprocess.run([python, "-c", RUN, folder, chapters], env=os.environ | own, check=True)
        report = json.loads((Path(folder) / "report.json").read_text(encoding="utf-8"))
    found = {verdict["claim"]: verdict["verdict"] for chapter in report["chapters"] for verdict in chapter["verdicts"]}
    for chapter in report["chapters"]:
        if chapter["failure"]:
            last = chapter["failure"]["error"].splitlines()[-1]
            found[f"chapter {chapter['number']}"] = f"{chapter['status']}: {last[:60]}"
    return found


def contradicts(*verdicts: str) -> bool:
    """Whether verdicts on one claim cannot all be right."""
    kinds = {"holds if" if verdict.startswith("holds if ") else verdict for verdict in verdicts}
    return len(kinds - {claims.UNTOLD}) > 1


def contradictions(table: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Claims on which conditions contradict each other, and chapters that failed; `table` is condition -> verdicts."""
    words = {claim: [verdicts[claim] for verdicts in table.values() if claim in verdicts] for claim in _claims(table)}
    return [claim for claim, found in words.items() if claim.startswith("chapter") or contradicts(*found)]


def _claims(table: Mapping[str, Mapping[str, str]]) -> list[str]:
    return sorted({claim for verdicts in table.values() for claim in verdicts})


def markdown(table: Mapping[str, Mapping[str, str]]) -> str:
    """The table of verdicts: a row a claim, a column a condition. What equals the first column is "the same"."""
    names = list(table)
    rows = [f"| claim | {' | '.join(names)} |", f"|{'---|' * (len(names) + 1)}"]
    for claim in _claims(table):
        first, *others = (table[name].get(claim, "–") for name in names)
        cells = [first, *("the same" if word == first != "–" else word for word in others)]
        rows.append(f"| {claim} | {' | '.join(cells)} |")
    return "\n".join(rows)


def compare(only: str | None = None, conditions: str | None = None, python2: str | None = None) -> int:
    """Run, compare and print; returns the exit code: 1 where verdicts contradict each other or a chapter failed.

    Args:
        only: chapters separated by commas; None for all that time or train.
        conditions: names from `CONDITIONS` separated by commas; None for all.
        python2: another Python that has the course's packages, for one more condition.
    """
    table = {}
    for name in choose(conditions, CONDITIONS, "condition") + (["other Python"] if python2 else []):
        print(f"--- {name}", flush=True)
        table[name] = verdicts_under(name, only or CHAPTERS, sys.executable if name in CONDITIONS else python2)
    found = contradictions(table)
    print(f"\n{markdown(table)}\n")
    print(f"Contradictions: {', '.join(found)}." if found else "No verdict contradicts another.")
    return 1 if found else 0
