"""A notebook in another language, of the texts that its page on the website has."""

import io
import re
from pathlib import Path

import nbformat
from babel.messages.pofile import read_po
from nbformat import NotebookNode

from tools.pages import OTHER_LANGUAGE
from tools.templates import SITE

# What stands before a text that fills a paragraph, a heading, an item of a list or a cell of a table.
_BEFORE = r"(^(?:> ?)*(?:#+ |\d+\. |[-*] )?|\| )"
_AFTER = r"(?=$| \|)"


def translated(path: Path, language: str) -> NotebookNode:
    """A saved notebook with the texts of `site/locale/LANGUAGE`; code, outputs and what has no text stay."""
    notebook = nbformat.read(path, as_version=4)
    catalog = SITE / "locale" / language / "LC_MESSAGES" / "notebooks" / f"{path.stem}.po"
    known = read_po(io.BytesIO(catalog.read_bytes())) if catalog.exists() else []
    messages = [(message.id, message.string) for message in known if message.id and message.string]
    for cell in notebook.cells:
        if cell.cell_type != "markdown":
            continue
        cell.source = OTHER_LANGUAGE.sub("", cell.source)
        for english, text in messages:
            words = r"\s+(?:> ?)*".join(map(re.escape, english.split()))
            cell.source = re.sub(
                _BEFORE + words + _AFTER, lambda found, text=text: found[1] + text, cell.source, flags=re.MULTILINE
            )
    return notebook
