"""Files that are whole or not there: written at one stroke."""

import os
from pathlib import Path


def write(path: Path, content: str | bytes) -> bool:
    """Write a file (text as UTF-8) if its content changes; says whether it did.

    Whoever reads `path` sees the old file or the whole new one.

    Raises:
        OSError: it cannot be written.
    """
    content = content.encode() if isinstance(content, str) else content
    draft = path.with_name(path.name + ".part")
    try:
        if path.exists() and path.read_bytes() == content:
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(content)
        os.replace(draft, path)
    except OSError as error:
        raise OSError(f"{path} cannot be written: {error.strerror}") from error
    return True
