"""The course's data files, and files that are whole or not there: written at one stroke."""

import json
import secrets
from importlib import resources
from pathlib import Path
from typing import Any

from utils.errors import CourseError


def records(name: str) -> Any:
    """What a JSON file of `utils/data` holds."""
    return json.loads(resources.files("utils").joinpath("data", name).read_text(encoding="utf-8"))


class WriteError(CourseError, OSError):
    """A file cannot be written; the message says which and why."""


def write(path: Path, content: str | bytes) -> bool:
    """Write a file (text as UTF-8) if its content changes; says whether it did. Raises `WriteError`.

    Whoever reads `path` sees the old file or the whole new one. Several may write it at the same time: the last wins.
    """
    content = content.encode() if isinstance(content, str) else content
    draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}.part")  # a name that no other writer uses
    try:
        if path.exists() and path.read_bytes() == content:
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            draft.write_bytes(content)
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise WriteError(f"{path} cannot be written: {error.strerror}") from error
    return True
