"""A progress bar for loops that take more than a moment: live while they run, gone when they are done."""

import os
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

from IPython import get_ipython
from IPython.display import clear_output
from tqdm import tqdm

Item = TypeVar("Item")


def bar(items: Sequence[Item], text: str, *, every: float = 0.5) -> Iterator[Item]:
    """Yield the items, and draw how far the loop is, at most once every `every` seconds.

    In a notebook the bar is the output of its cell and is cleared at the end, so no saved notebook holds it. Print
    results after the loop: what the cell printed before is cleared too. Nothing is drawn where nobody looks: in a test,
    or when the error stream is not a terminal.
    """
    if get_ipython() is None:
        yield from tqdm(items, text, leave=False, disable=None)
        return
    if "PYTEST_VERSION" in os.environ:  # nbval compares every output and does not know of clearing
        yield from items
        return
    start = drawn = time.monotonic()
    try:
        for done, item in enumerate(items):
            now = time.monotonic()
            if now - drawn >= every:
                drawn = now
                clear_output(wait=True)
                print(tqdm.format_meter(done, len(items), now - start, ncols=80, prefix=text), flush=True)
            yield item
    finally:
        sys.stdout.flush()
        clear_output()
