"""A progress bar for loops that take more than a moment: live while they run, gone when they are done."""

import os
import sys
from collections.abc import Sequence
from typing import TypeVar

from IPython import get_ipython
from tqdm import tqdm

Item = TypeVar("Item")


def bar(items: Sequence[Item], text: str) -> "tqdm[Item]":
    """tqdm's bar over items, in the output of the cell; what was printed before it stays.

    Nothing is drawn where nobody looks: in a test, in a run that sets TQDM_DISABLE to keep its outputs, or in a script
    whose output is no terminal.
    """
    unseen = get_ipython() is None and not sys.stdout.isatty()
    quiet = unseen or not {"PYTEST_VERSION", "TQDM_DISABLE"}.isdisjoint(os.environ)
    return tqdm(items, text, leave=False, file=sys.stdout, mininterval=0.5, ncols=80, disable=quiet)
