"""Picking some of what there is by its keys, as `ONLY=05,07` does."""

from collections.abc import Collection

from utils.errors import CourseError


class ChoiceError(CourseError, ValueError):
    """Somebody asked for what there is not; the message says what there is."""


def choose(only: str | None, known: Collection[str], what: str) -> list[str]:
    """The keys that `only` names, separated by commas, in the order of `known`; all where it is None.

    Raises:
        ChoiceError: a key that is not known.
    """
    wanted = list(known) if only is None else [key.strip() for key in only.split(",")]
    if unknown := [key for key in wanted if key not in known]:
        raise ChoiceError(f"--only: no {what} {', '.join(map(repr, unknown))}; there are {', '.join(known)}")
    return [key for key in known if key in wanted]
