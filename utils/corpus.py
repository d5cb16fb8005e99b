"""Text to train on that is the same for everyone: the source of Python 3.11.7's library, and the language reference.

The archives in `utils/data/python` hold it, so that no result depends on the Python that runs the course.
"""

import functools
import tarfile
from collections.abc import Iterable
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from utils.errors import InputError

# No training reads these modules or their tests, so that a model can be judged on code that it has never seen.
HELD_OUT = ("bisect", "calendar", "colorsys", "fractions", "graphlib",
            "heapq", "queue", "shlex", "statistics", "textwrap")  # fmt: skip


@functools.cache
def _archive(name: str) -> dict[str, str]:
    """Texts of an archive in `utils/data/python`, by name, in order."""
    with tarfile.open(Path(__file__).parent / "data" / "python" / name) as tar:
        return {member.name: tar.extractfile(member).read().decode() for member in tar}


def held_out() -> dict[str, str]:
    """Source of the ten held-out modules, by name: about 200,000 bytes."""
    return {name: _archive("library.tar.xz")[f"{name}.py"] for name in HELD_OUT}


def training_texts(*, tests: bool = True) -> dict[str, str]:
    """Source files of the library but the held-out ones, and the language reference, by name.

    `tests`: with the library's own tests, which are more than half of its source.
    """
    files = _archive("library.tar.xz") | (_archive("tests.tar.xz") if tests else {})
    unseen = {f"{name}.py" for name in HELD_OUT}
    names = sorted(files.keys() - unseen - reference().keys(), key=lambda name: name.split("/"))
    return {name: files[name] for name in names} | reference()


def reference() -> dict[str, str]:
    """The language reference as `help()` shows it, by topic."""
    return {name: text for name, text in _archive("library.tar.xz").items() if name.startswith("reference/")}


def encode(texts: Iterable[str], tokenizer: PreTrainedTokenizerBase) -> torch.Tensor:
    """All texts as one row of token ids, each text closed by the end token. Shape: (tokens,)."""
    rows = tokenizer(list(texts), verbose=False)["input_ids"]
    return torch.tensor([i for row in rows for i in [*row, tokenizer.eos_token_id]])


def batch(tokens: torch.Tensor, step: int, size: int, window: int, seed: int = 0) -> torch.Tensor:
    """Windows of text at random places. Shape: (size, window), from (tokens,).

    The same seed and step give the same batch, whatever came before. Raises InputError if no window fits the text.
    """
    if len(tokens) < window:
        raise InputError(f"a window of {window} tokens needs a text of at least as many; got {len(tokens)}")
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
    starts = torch.randint(len(tokens) - window + 1, (size,), generator=generator)
    return torch.stack([tokens[start : start + window] for start in starts])
