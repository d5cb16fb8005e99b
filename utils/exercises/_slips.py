"""The usual slips, whatever the exercise: a wrong unit, sign, order or rounding, and what each is told."""

import functools
import math
from collections.abc import Callable
from typing import Any

from utils.exercises._answers import ZERO, Unordered, is_number, same, same_in_any_order, short

NEAR = 5e-3  # a slip is named although its number is rounded: 9.2 for 9.21e9
ROUNDINGS = {"down": math.floor, "up": math.ceil, "to the nearest whole number": round, "towards zero": math.trunc}

Fits = Callable[[float, float], bool]  # whether a given number is what a slip makes of the right one


def _near(given: float, wanted: float, within: float = NEAR) -> bool:
    return math.isclose(given, wanted, rel_tol=within, abs_tol=0 if wanted else ZERO)


def _times(factor: float, question: str, name: str = "", within: float = NEAR) -> list[tuple[str, Fits]]:
    name = name or f"{factor:,} times"
    return [
        (f"That is {name} too large. {question}", lambda given, right: _near(given, right * factor, within)),
        (f"That is {name} too small. {question}", lambda given, right: _near(given, right / factor, within)),
    ]


def _of_counts(fits: Fits) -> Fits:
    """A slip that only counts can have; real numbers beside them are right."""
    return lambda given, right: fits(given, right) if isinstance(right, int) else same(given, right)


def _is_rounded(given: float, right: float) -> bool:
    """Whether a real number is rounded to a few decimals; counts beside it are right."""
    ways = ((places, cut) for places in range(7) for cut in ROUNDINGS.values())
    if isinstance(right, int):
        return same(given, right)
    return any(math.isclose(given, cut(right * 10**places) / 10**places, abs_tol=1e-12) for places, cut in ways)


# The usual slips: what is told, and how to tell. The first that explains all wrong numbers of an answer is named.
SLIPS: tuple[tuple[str, Fits], ...] = (
    *_times(100, "Per cent or a fraction: which is asked?"),
    *_times(1000, "In which unit is it asked?"),
    *_times(1000**2, "In which unit is it asked?"),
    *_times(1000**3, "In which unit is it asked?"),
    *_times(1024, "Bytes or KiB: which are asked?"),
    *_times(1024**2, "Bytes or MiB: which are asked?"),
    *_times(1024**3, "Bytes or GiB: which are asked?"),
    *_times(8, "Bits or bytes: which are asked?"),
    *_times(2, "Is something counted twice, or left out?"),
    ("That is rounded. Give the number with its decimals.", _is_rounded),
    *_times(1.024, "Is a thousand taken as 1,024, or the reverse?", "2.4 %", 3e-4),
    *_times(1.024**2, "Is a million taken as 1,024 squared, or the reverse?", "4.9 %", 1e-3),
    *_times(1.024**3, "Is a GB, 1,000**3 bytes, taken as a GiB, 1,024**3 bytes, or the reverse?", "7.4 %", 1e-3),
    ("The size is right, the sign is not.", lambda given, right: _near(given, -right)),
    ("That is the inverse: divide the other way round.", lambda given, right: _near(given * right, 1)),
    *(
        (f"Right before rounding. Round {way}.", _of_counts(lambda given, right, cut=cut: cut(given) == right))
        for way, cut in ROUNDINGS.items()
    ),
    *(
        (
            f"That is one too {told}. Where does the count begin and end, and which way is it rounded?",
            _of_counts(lambda given, right, step=step: given - right in (0, step)),
        )
        for told, step in (("many", 1), ("few", -1))
    ),
    ("Very near, but not the same. Give all the digits, or look for a small part that is missing.", _near),
)


def named(given: list, wanted: list, tolerance: float) -> str:
    """What is told about results of which some are wrong, if one usual slip explains them; else an empty string."""

    def explained(fits: Callable[[Any, Any], bool]) -> bool:
        return all(same(g, w, tolerance) or fits(g, w) for g, w in zip(given, wanted, strict=True))

    if explained(lambda g, w: type(g) is type(w) is list and same_in_any_order(g, w, tolerance)):
        return "The parts are right, their order is not."
    return next((told for told, fits in SLIPS if explained(functools.partial(_each_number, fits))), "")


def _each_number(fits: Fits, given: Any, wanted: Any) -> bool:
    """Whether two values have the same form, and each pair of numbers in them fits; what is no number is the same."""
    if isinstance(wanted, list):
        alike = type(given) is type(wanted) and len(given) == len(wanted)
        return alike and all(map(functools.partial(_each_number, fits), given, wanted))
    return fits(given, wanted) if is_number(given) and is_number(wanted) else same(given, wanted)


def mismatch(given: Any, wanted: Any) -> str:
    """What is told about a value of another kind or length than the wanted one; else an empty string."""
    if _kind(given) != _kind(wanted):
        return f"Expected {_kind(wanted)}, got {_kind(given)}: {short(given)}."
    if isinstance(wanted, list) and len(given) != len(wanted):
        return f"Expected a list of {len(wanted)}, got one of {len(given)}."
    return ""


def _kind(value: Any) -> str:
    kinds = {bool: "True or False", int: "a number", float: "a number", str: "a text", list: "a list"}
    kinds |= {Unordered: "a set or dictionary, which has no order", type(...): "a ... that is left over"}
    return kinds.get(type(value), f"an object of the type {type(value).__name__}")
