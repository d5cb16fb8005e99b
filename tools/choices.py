"""Picking some of what there is by its keys, as `ONLY=05,07` does."""

from collections.abc import Mapping
from typing import TypeVar

from utils.errors import CourseError

Item = TypeVar("Item")


class ChoiceError(CourseError, ValueError):
    """Somebody asked for what there is not; the message says what there is."""


def choose(only: str | None, known: Mapping[str, Item], what: str) -> list[Item]:
    """Those that `only` names by their keys, separated by commas, in the order of `known`; all where it is None.

    Raises:
        ChoiceError: a key that is not known.
    """
    wanted = list(known) if only is None else [key.strip() for key in only.split(",")]
    if unknown := [key for key in wanted if key not in known]:
        raise ChoiceError(f"--only: no {what} {', '.join(map(repr, unknown))}; there are {', '.join(known)}")
    return [item for key, item in known.items() if key in wanted]
