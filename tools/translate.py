"""A chapter in another language: its Markdown cells from `translations/LANGUAGE/NN.json`, all else as it is."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from tools import generated
from utils import chapters, files
from utils.errors import CourseError

FOLDER, BUILD = chapters.ROOT / "translations", chapters.ROOT / "build"
_GENERATED = re.compile(r"<!-- (\w+) -->(.*?)<!-- /\1 -->", re.DOTALL)
_NEAR_LINK = re.compile(r"(?<=\]\()(?!https?:|#)[^)#\s]+")  # from build/LANGUAGE, it is a longer way


class TranslationError(CourseError, ValueError):
    """No such chapter or language, or a translation file that does not fit its notebook."""


def _chapter(number: str, language: str) -> tuple[Path, dict[str, Any], Path]:
    known = {path.name[:2]: path for path in chapters.notebook_paths()}
    if number not in known:
        raise TranslationError(f"no chapter {number!r}; there are {', '.join(known)}")
    if not re.fullmatch(r"[a-z]{2,3}(-[A-Z][A-Za-z]+)?", language):
        raise TranslationError(f"unknown language {language!r}: a code such as zh-CN or de")
    return known[number], json.loads(known[number].read_text(encoding="utf-8")), FOLDER / language / f"{number}.json"


def _english(cell: dict[str, Any]) -> dict[str, str]:
    """What there is to translate in a cell, and a hash of it; generated parts and line breaks do not count."""
    words = " ".join(_GENERATED.sub("", "".join(cell["source"])).split())
    text = _GENERATED.sub(r"<!-- \1 -->\n\n<!-- /\1 -->", "".join(cell["source"]))
    return {"english": text, "hash": hashlib.sha256(words.encode()).hexdigest()[:16]}


def _read(file: Path) -> dict[str, dict[str, str]]:
    try:
        return {key: entry | {"text": entry["text"] + ""} for key, entry in json.loads(file.read_text("utf-8")).items()}
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise TranslationError(f"{file} is no translation file: {type(error).__name__}: {error}") from None


def extract(number: str, language: str) -> Path:
    """Write or update a chapter's translation file; a text whose English has changed moves to `before`."""
    _, notebook, file = _chapter(number, language)
    old, entries = _read(file) if file.exists() else {}, {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            entry, known = _english(cell), old.get(cell["id"], {"text": ""})
            if known.get("hash") == entry["hash"]:
                entry = known | entry
            elif before := known["text"] or known.get("before"):
                entry["before"] = before
            entries[cell["id"]] = {"text": ""} | entry
    files.write(file, json.dumps(entries, ensure_ascii=False, indent=1) + "\n")
    return file


def translate(number: str, language: str) -> tuple[Path, list[str]]:
    """Write `build/LANGUAGE/NN_name.ipynb`; returns its path, and a note on each cell that stays English."""
    path, notebook, file = _chapter(number, language)
    if not file.exists():
        there = ", ".join(sorted(f"{found.parent.name} {found.stem}" for found in FOLDER.glob("*/*.json")))
        raise TranslationError(f"no {language} translation of {number} (there are: {there}); --extract begins one")
    entries, notes = _read(file), []
    kinds = {cell["id"]: cell["cell_type"] for cell in notebook["cells"]}
    for cell_id in entries:
        if kinds.get(cell_id) != "markdown":
            found = f"a {kinds[cell_id]} cell" if cell_id in kinds else "not in the notebook"
            raise TranslationError(f"{language}/{file.name}: {cell_id!r} is {found}, so it cannot be translated")
    for cell in (cell for cell in notebook["cells"] if cell["cell_type"] == "markdown"):
        source, entry = "".join(cell["source"]), entries.get(cell["id"], {"text": ""})
        if not entry["text"] or entry.get("hash") != _english(cell)["hash"]:
            notes.append(f"{cell['id']}: {'its English has changed' if entry['text'] else 'not translated yet'}")
            entry = {"text": source}
        text = generated.fill(entry["text"], {name: part.strip() for name, part in _GENERATED.findall(source)})
        text = _NEAR_LINK.sub(lambda m: "../../notebooks/" * (chapters.NOTEBOOKS / m[0]).exists() + m[0], text)
        cell["source"] = text.splitlines(keepends=True)
    files.write(made := BUILD / language / path.name, json.dumps(notebook, ensure_ascii=False, indent=1) + "\n")
    return made, notes
