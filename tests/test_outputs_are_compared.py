"""The comparison of notebook outputs (nbval) notices a changed number, a changed verdict, and a lost output."""

import subprocess
import sys
from pathlib import Path

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


def compare(path: Path) -> subprocess.CompletedProcess:
    """Run the project's comparison on one notebook, with the options of `make test`."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "figures",
        f"--rootdir={ROOT}",
    ]
    command += ["--nbval", "--nbval-current-env"]
    return subprocess.run(
        [*command, "-c", str(ROOT / "pyproject.toml"), str(path)], capture_output=True, text=True, timeout=120, cwd=ROOT
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("nbval") / "01_small.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell(CODE)]), path)
    runner.save(path)
    return path


def test_untouched_outputs_pass(saved):
    result = compare(saved)
    assert result.returncode == 0 and "1 passed" in result.stdout, result.stdout


@pytest.mark.parametrize(
    ("right", "planted"),
    [
        ("42\\n", "41\\n"),
        ('"verdict": "refuted"', '"verdict": "holds"'),
        ('"measured": "42"', '"measured": "43"'),
        ("“loss”: 8, 6, 5", "“loss”: 8, 6, 4"),  # another curve
        ("“loss”: 8, 6, 5", "“gain”: 8, 6, 5"),
    ],
)
def test_a_planted_change_is_caught(saved, tmp_path, right, planted):
    text = saved.read_text()
    assert right in text
    changed = tmp_path / saved.name
    changed.write_text(text.replace(right, planted))
    result = compare(changed)
    assert result.returncode == 1 and "1 failed" in result.stdout, result.stdout


def test_a_figure_may_differ_within_its_tolerance(saved, tmp_path):
    changed = tmp_path / saved.name
    changed.write_text(saved.read_text().replace("“loss”: 8, 6, 5", "“loss”: 8, 6.2, 5.3"))
    result = compare(changed)
    assert result.returncode == 0 and "1 passed" in result.stdout, result.stdout


def test_a_lost_output_is_caught(saved, tmp_path):
    notebook = nbformat.read(saved, as_version=4)
    notebook.cells[0].outputs = notebook.cells[0].outputs[:1]
    changed = tmp_path / saved.name
    nbformat.write(notebook, changed)
    assert compare(changed).returncode == 1
