"""Text to train on that every Python has: the source of its standard library, and the language reference."""

import sysconfig
from collections.abc import Iterable
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

# No training reads these modules or their tests, so that a model can be judged on code that it has never seen.
HELD_OUT = (
    "bisect",
    "calendar",
    "colorsys",
    "fractions",
    "graphlib",
    "heapq",
    "queue",
    "shlex",
    "statistics",
    "textwrap",
)
LEFT_OUT = ("site-packages", "dist-packages", "encodings", "__pycache__")  # other people's code, and tables of bytes
TEST_FOLDERS = ("test", "tests", "idle_test")


class CorpusError(RuntimeError):
    """A part of the standard library that the course reads is not there; the message names it."""


def library_folder() -> Path:
    """Folder of the standard library's source."""
    return Path(sysconfig.get_path("stdlib"))


def held_out(folder: Path | None = None) -> dict[str, str]:
    """Source of the ten held-out modules, by name: about 200,000 bytes.

    Raises:
        CorpusError: a module is missing.
    """
    folder = folder or library_folder()
    texts = {}
    for name in HELD_OUT:
        path = folder / f"{name}.py"
        if not path.is_file():
            raise CorpusError(f"the held-out file {path.name} is missing from Python's standard library in {folder}")
        texts[name] = path.read_text(encoding="utf-8")
    return texts


def training_texts(*, tests: bool = True, folder: Path | None = None) -> dict[str, str]:
    """Source files of the standard library but the held-out ones, and the language reference, by name.

    Args:
        tests: with the library's own tests, where this Python has them; they are more than half of its source.
        folder: where the library is.

    Raises:
        CorpusError: there is no source.
    """
    folder = folder or library_folder()
    texts = {}
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder).parts
        name = path.stem.removeprefix("test_")
        skipped = set(parts) & set(LEFT_OUT) or name in HELD_OUT or path.name == "topics.py"
        if skipped or (not tests and set(parts) & set(TEST_FOLDERS)):
            continue
        try:
            texts["/".join(parts)] = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:  # the library tests its parser with files in other encodings
            continue
    if not texts:
        raise CorpusError(f"no Python source in {folder}: install a Python with its standard library's source")
    return texts | reference()


def reference() -> dict[str, str]:
    """The language reference as `help()` shows it, by topic."""
    from pydoc_data.topics import topics

    return {f"reference/{name}": text for name, text in sorted(topics.items())}


def encode(texts: Iterable[str], tokenizer: PreTrainedTokenizerBase) -> torch.Tensor:
    """All texts as one row of token ids, each text closed by the end token. Shape: (tokens,)."""
    rows = tokenizer(list(texts), verbose=False)["input_ids"]
    return torch.tensor([i for row in rows for i in [*row, tokenizer.eos_token_id]])


def batch(tokens: torch.Tensor, step: int, size: int, window: int, seed: int = 0) -> torch.Tensor:
    """Windows of text at random places. The same seed and step give the same batch, whatever came before.

    Args:
        tokens: (tokens,) from `encode`.
        step: number of the training step.
        size: windows a batch.
        window: tokens a window.
        seed: chooses the order.

    Returns:
        Token ids of shape (size, window).

    Raises:
        ValueError: the text is shorter than one window.
    """
    if len(tokens) < window:
        raise ValueError(f"a window of {window} tokens needs a text of at least as many; got {len(tokens)}")
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
    starts = torch.randint(len(tokens) - window + 1, (size,), generator=generator)
    return torch.stack([tokens[start : start + window] for start in starts])
