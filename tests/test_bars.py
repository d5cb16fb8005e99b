"""The progress bar: shown while a loop runs, gone afterwards, in a terminal and in a notebook."""

import nbformat
import pytest
from nbclient import NotebookClient

from utils import bars

CELL = """
import time
from utils import bars
print("before")
for number in bars.bar(range(5), "counting"):
    time.sleep(0.2)
print("sum", sum(range(5)))
"""


def test_it_yields_every_item(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(bars.bar(range(5), "counting")) == [0, 1, 2, 3, 4]
    assert capsys.readouterr() == ("", "")


slow = [pytest.param(name, marks=pytest.mark.slow) for name in ("PYTEST_VERSION", "TQDM_DISABLE")]


@pytest.mark.parametrize("quiet", [*slow, None])
def test_a_notebook_keeps_what_it_printed_and_no_bar(quiet: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the bar is live, a front end that knows carriage returns, as all do, is left with the printed lines."""
    for name in ("PYTEST_VERSION", "TQDM_DISABLE"):
        monkeypatch.delenv(name, raising=False)
    if quiet:
        monkeypatch.setenv(quiet, "1")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
    shown = []
    client = NotebookClient(notebook, kernel_name="python3", timeout=60, coalesce_streams=quiet is None)
    original = client.process_message

    def watched(message: dict, cell: dict, index: int) -> object:
        shown.append(str(message["content"].get("text", "")))
        return original(message, cell, index)

    monkeypatch.setattr(client, "process_message", watched)
    client.execute()
    outputs = notebook.cells[0].outputs
    assert {output.name for output in outputs} == {"stdout"}
    assert "".join(output.text for output in outputs) == "before\nsum 10\n"
    assert any("counting" in text for text in shown) is (quiet is None)
