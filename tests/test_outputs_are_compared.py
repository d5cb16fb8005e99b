"""The comparison of notebook outputs (nbval) notices a changed number, a changed verdict, and a lost output."""

import json
import re
import subprocess
import sys

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from tools import runner
from utils import chapters

ROOT = chapters.ROOT
CODE = (
    "from utils.claims import verdict\n"
    "print(6 * 7)\n"
    "verdict('C10', holds=6 * 7 > 50, measured='42', because='arithmetic')\n"
    "from utils import plots\n"
    "axes = plots.panels()\n"
    "plots.lines(axes, {'loss': [8, 6, 5]})\n"
    "plots.show(axes, 'A curve that falls from left to right, as losses do.', within=0.05)"
)
# What is changed in the saved outputs of a cell, and whether it may be. None: the last outputs are lost.
CHANGES = {
    "a printed number": ("42\\n", "41\\n", "FAILED"),
    "a verdict": ('"verdict": "refuted"', '"verdict": "holds"', "FAILED"),
    "what was measured": ('"measured": "42"', '"measured": "43"', "FAILED"),
    "a figure within its tolerance": ("“loss”: 8, 6, 5", "“loss”: 8, 6.2, 5.3", "PASSED"),
    "a curve": ("“loss”: 8, 6, 5", "“loss”: 8, 6, 4", "FAILED"),
    "its name": ("“loss”: 8, 6, 5", "“gain”: 8, 6, 5", "FAILED"),
    "lost outputs": (None, None, "FAILED"),
    "nothing": ("", "", "PASSED"),
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory) -> dict[str, str]:
    """What the project's comparison, with the options of `make test`, says of a cell for each change."""
    path = tmp_path_factory.mktemp("nbval") / "01_small.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell(CODE) for _ in CHANGES]), path)
    runner.save(path)
    notebook = nbformat.read(path, as_version=4)
    for cell, (right, planted, _) in zip(notebook.cells, CHANGES.values(), strict=True):
        saved = json.dumps(cell.outputs, ensure_ascii=False)
        assert right is None or right in saved
        cell.outputs = nbformat.from_dict(json.loads(saved.replace(right, planted)) if right else cell.outputs)
        if right is None:
            cell.outputs = cell.outputs[:1]
    nbformat.write(notebook, path)
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "-p", "figures", f"--rootdir={ROOT}"]
    command += ["--nbval", "--nbval-current-env", "-c", str(ROOT / "pyproject.toml"), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT)
    found = re.findall(r"::Cell \d+ (PASSED|FAILED)", done.stdout)
    assert len(found) == len(CHANGES) and done.returncode == 1, done.stdout
    return dict(zip(CHANGES, found, strict=True))


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_caught_unless_it_is_within_its_tolerance(outcomes, change):
    assert outcomes[change] == CHANGES[change][2]
