"""Answers as plain Python values: read in any dress, and compared.

A *dress* is the type that a value comes in: 3, 3.0, numpy.float32(3) and torch.tensor([3]) all say 3.
"""

import copy
import decimal
import itertools
import math
import numbers
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import FunctionType
from typing import Any

LIMIT = 10_000  # parts of an answer; the longest right one has some dozens
RELATIVE = 1e-5  # two real numbers are the same: float32 has seven digits and loses one or two on the way
ZERO = 5e-7  # so near to it is zero


class Unreadable(Exception):
    """An answer that cannot be compared, in one line."""


class Unordered(list):
    """The parts of a set, or the (key, value) pairs of a dictionary: in no order."""


def plain(value: Any) -> Any:
    """A value as bool, int, float, str, or a list of them; what is none of these, as it is.

    Raises:
        Unreadable: NaN, infinity, a complex number, or more than LIMIT parts.
        Exception: whatever the value's own code raises.
    """
    parts = itertools.count(1)

    def read(value: Any, depth: int) -> Any:
        if next(parts) > LIMIT or depth > 20 or math.prod(getattr(value, "shape", ())) > LIMIT:
            raise Unreadable(f"there is no end to it. An answer has at most {LIMIT:,} parts.")
        if value is None or value is ... or isinstance(value, bool):
            return value
        if isinstance(value, str):
            return str(value)
        if isinstance(value, (numbers.Real, decimal.Decimal)):
            number = int(value) if isinstance(value, numbers.Integral) else float(value)
            if number != number:  # only NaN is not itself
                raise Unreadable("nan is not a number. Is there 0 / 0, or inf - inf?")
            if abs(number) > 1e200:
                raise Unreadable("a number is infinite, or larger than any that is asked. What grew so large?")
            return number
        if isinstance(value, numbers.Complex):
            raise Unreadable(f"{short(value)} is a complex number. Was a root of a negative number taken?")
        if hasattr(value, "tolist"):  # NumPy's and PyTorch's; what has no dimension becomes a number
            return read(value.tolist(), depth + 1)
        if isinstance(value, Mapping):
            return Unordered(read(pair, depth + 1) for pair in value.items())
        if isinstance(value, (set, frozenset)):
            return Unordered(read(part, depth + 1) for part in value)
        if isinstance(value, Iterable) and not isinstance(value, type):
            return [read(part, depth + 1) for part in value]
        return value

    return read(value, 0)


def results(answer: Any, probes: Sequence[tuple]) -> list:
    """What a function returns on each probe, as plain values; without probes, the answer itself in a list of one.

    Each call gets its own copy of its arguments: what one does to them, no other sees.

    Raises:
        Unreadable: it is no function where one is asked, raises, returns None, or something that cannot be read.
    """
    if not probes or answer is ... or answer is None:
        return [_observed("Reading your answer", lambda: answer)]
    if not callable(answer):
        raise Unreadable(f"Pass the function itself, not {short(answer)}.")
    return [_called(answer, probe) for probe in probes]


def _called(function: Callable, probe: tuple) -> Any:
    name = function.__name__ if type(function) is FunctionType else "your function"
    call = name + arguments(probe)
    value = _observed(f"Calling {call}", lambda: function(*copy.deepcopy(probe)))
    if value is None:
        raise Unreadable(f"{call} returns nothing (None). print only shows a value: end with return.")
    return value


def _observed(what: str, get: Callable[[], Any]) -> Any:
    try:
        return plain(get())
    except Unreadable as error:
        raise Unreadable(f"{what}: {error}") from None
    except (Exception, SystemExit) as error:  # any error of the learner's code is worth telling
        raise Unreadable(f"{what} raised {_told(error)}") from None


def arguments(probe: tuple) -> str:
    """The arguments of a call as they are written, cut where they are long."""
    text = ", ".join(map(repr, probe))
    return f"({text})" if len(text) <= 160 else f"({text[:157]}...)"


def short(value: Any) -> str:
    """A value in one line of at most 60 characters, whatever its own code does."""
    try:
        text = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else repr(value)
    except Exception:  # its own __repr__ raises, or the number has more digits than Python prints
        return f"an object of the type {type(value).__name__}"
    text = " ".join(text.split())
    return text if len(text) <= 60 else text[:57] + "..."


def _told(error: BaseException) -> str:
    try:
        text = " ".join(str(error).split())[:160]
    except Exception:
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def untouched(value: Any) -> bool:
    """Whether it is `...`, or consists of nothing else."""
    return value is ... or (isinstance(value, list) and bool(value) and all(map(untouched, value)))


def fitted(given: Any, wanted: Any) -> Any:
    """A given value, taken out of a container of one where a single value is wanted."""
    if isinstance(wanted, list):
        if type(given) is list and len(given) == len(wanted):
            return list(map(fitted, given, wanted))
        return given
    while type(given) is list and len(given) == 1:
        given = given[0]
    return given


def is_number(value: Any) -> bool:
    """Whether a plain value is a number; True and False are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def same(given: Any, wanted: Any, tolerance: float = RELATIVE) -> bool:
    """Whether two plain values are the same.

    A whole number (int) is a count and must be met exactly, be it as 3 or as 3.0; a float within the relative
    tolerance. Letters' case and outer spaces do not matter. The order does, unless an unordered value is wanted.
    """
    if is_number(wanted) and is_number(given):
        if isinstance(wanted, int):
            return given == wanted or (isinstance(given, float) and math.isclose(given, wanted, rel_tol=1e-12))
        return math.isclose(given, wanted, rel_tol=tolerance, abs_tol=0 if wanted else ZERO)
    if isinstance(wanted, str) and isinstance(given, str):
        return given.strip().casefold() == wanted.strip().casefold()
    if isinstance(wanted, Unordered) and isinstance(given, list):
        return same_in_any_order(given, wanted, tolerance)
    if isinstance(wanted, list) and type(given) is list:
        return len(given) == len(wanted) and all(map(same, given, wanted, itertools.repeat(tolerance)))
    return given is wanted


def same_in_any_order(given: list, wanted: list, tolerance: float = RELATIVE) -> bool:
    """Whether two lists have the same parts, each as often."""
    left = list(given)
    for part in wanted:
        place = next((i for i, other in enumerate(left) if same(other, part, tolerance)), None)
        if place is None:
            return False
        del left[place]
    return not left
