"""The progress bar: shown while a loop runs, gone afterwards, in a terminal and in a notebook."""

import nbformat
import pytest
from nbclient import NotebookClient

from utils import bars

CELL = """
import time
from utils import bars
for number in bars.bar(range(5), "counting", every=0):
    time.sleep(0.01)
print("sum", sum(range(5)))
"""


def test_it_yields_every_item(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(bars.bar(range(5), "counting")) == [0, 1, 2, 3, 4]
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("tested", [True, False])
def test_a_saved_notebook_has_no_trace(tested: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not tested:
        monkeypatch.delenv("PYTEST_VERSION", raising=False)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
    shown = []
    client = NotebookClient(notebook, kernel_name="python3", timeout=60)
    original = client.process_message

    def watched(message: dict, cell: dict, index: int) -> object:
        shown.append(str(message["content"].get("text", "")))
        return original(message, cell, index)

    monkeypatch.setattr(client, "process_message", watched)
    client.execute()
    assert [output.text for output in notebook.cells[0].outputs] == ["sum 10\n"]
    assert any("counting" in text for text in shown) is not tested
