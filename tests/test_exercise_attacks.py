"""Every exercise under attack: right answers in every dress pass, and every wrong one gets one fitting line."""

import copy
import itertools
import math
import sys
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from lifting import lift

from utils.exercises import Exercise, NotYet, _answers, _slips, all_exercises, check, get
from utils.exercises._commissions import FIELDS, Commission

EVERY = list(all_exercises().values())
COMMISSIONS = [exercise for exercise in EVERY if isinstance(exercise, Commission)]
FUNCTIONS = [exercise for exercise in EVERY if exercise.probes]
every = pytest.mark.parametrize("exercise", EVERY, ids=lambda exercise: exercise.id)
functions = pytest.mark.parametrize("exercise", FUNCTIONS, ids=lambda exercise: exercise.id)
commissions = pytest.mark.parametrize("exercise", COMMISSIONS, ids=lambda exercise: exercise.id)
# A commission has many right answers: another number may be right as well, and has no unit to be wrong in.
with_one_right_answer = pytest.mark.parametrize(
    "exercise", [exercise for exercise in EVERY if exercise not in COMMISSIONS], ids=lambda exercise: exercise.id
)
is_number = _answers.is_number


def is_right(exercise: Exercise, answer: Any, capsys: pytest.CaptureFixture[str]) -> bool:
    capsys.readouterr()
    check(exercise.id, answer)  # a wrong one raises
    return f"{exercise.id} ✔ right." in capsys.readouterr().out


def told(exercise: Exercise, answer: Any) -> str:
    """The one line that a wrong answer gets."""
    with pytest.raises(NotYet) as caught:
        check(exercise.id, answer)
    message = str(caught.value)
    assert message.startswith(f"{exercise.id}, not yet. ") and len(message) < 500 and "\n" not in message
    return message.removeprefix(f"{exercise.id}, not yet. ")


def changed(exercise: Exercise, change: Callable[[Any], Any], answer: Any = None) -> Any:
    """An answer, the solution's by default, whose value or results are changed."""
    answer = exercise.answer if answer is None else answer
    return (lambda *arguments: change(answer(*arguments))) if exercise.probes else change(answer)


def dressed(
    value: Any, number: Callable = lambda n: n, sequence: Callable = list, whole: Callable | None = None
) -> Any:
    """A value with its numbers and lists in another type; `whole` takes a list or tuple of nothing but numbers."""
    if isinstance(value, dict):
        return {key: dressed(part, number, sequence, whole) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        parts = [dressed(part, number, sequence, whole) for part in value]
        return whole(value) if whole and parts and all(map(is_number, value)) else sequence(parts)
    return number(value) if is_number(value) else value


def numpy_of(real: type) -> Callable[[float], Any]:
    return lambda n: real(n) if isinstance(n, float) else np.int64(n)


def tensor_of(real: torch.dtype) -> Callable[[Any], torch.Tensor]:
    """Of numbers: a tensor of counts if there is no float among them."""

    def tensor(value: Any) -> torch.Tensor:
        parts = value if isinstance(value, (list, tuple)) else [value]
        return torch.tensor(value, dtype=real if any(isinstance(part, float) for part in parts) else torch.int64)

    return tensor


def one_by_one(parts: list) -> Iterator:
    yield from parts


DRESSES: dict[str, dict[str, Callable]] = {
    "tuples": {"sequence": tuple},
    "generators": {"sequence": one_by_one},
    "whole floats": {"number": float},
    "fractions": {"number": Fraction},
    "decimals": {"number": Decimal},
    "NumPy scalars": {"number": numpy_of(np.float64)},
    "NumPy float32": {"number": numpy_of(np.float32)},
    "NumPy arrays of no dimension": {"number": np.array},
    "NumPy arrays of one": {"number": lambda n: np.array([n])},
    "NumPy arrays": {"whole": np.array},
    "NumPy float32 arrays": {
        "whole": lambda v: np.array(v).astype(np.float32) if any(n % 1 for n in v) else np.array(v)
    },
    "tensors of no dimension": {"number": tensor_of(torch.float64)},
    "float32 tensors of no dimension": {"number": tensor_of(torch.float32)},
    "tensors of one": {"number": lambda n: tensor_of(torch.float32)([n])},
    "float32 tensors": {"whole": tensor_of(torch.float32)},
    "tensors with a gradient": {"whole": lambda v: torch.tensor(v, dtype=torch.float64, requires_grad=True)},
    "lists of one": {"number": lambda n: [n]},
}


@every
def test_the_solution_is_right_in_every_dress(exercise: Exercise, capsys: pytest.CaptureFixture[str]) -> None:
    for name, dress in DRESSES.items():
        assert is_right(exercise, changed(exercise, lambda value, dress=dress: dressed(value, **dress)), capsys), name


@every
def test_a_planted_mistake_gets_its_hint_in_another_dress(exercise: Exercise) -> None:
    for mistake in exercise.mistakes:
        for dress in ("NumPy float32", "tensors of no dimension", "tuples"):
            if dress == "NumPy float32" and not exercise.probes and isinstance(mistake.answer, int):
                continue
            answer = changed(exercise, lambda value, dress=dress: dressed(value, **DRESSES[dress]), mistake.answer)
            message = told(exercise, answer)
            # What a commission tells begins with the numbers of the case.
            assert message.endswith(mistake.hint) if exercise in COMMISSIONS else message == mistake.hint


@functions
def test_a_solution_that_computes_in_float32_is_right(exercise: Exercise, capsys: pytest.CaptureFixture[str]) -> None:
    def in_float32(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: in_float32(part) for key, part in value.items()}
        return dressed(value, lambda n: np.float32(n) if isinstance(n, float) else n, type(value))

    assert is_right(exercise, lambda *arguments: exercise.answer(*map(in_float32, arguments)), capsys)


def spoil(value: Any) -> None:
    """Make the arguments of a call useless, as far as they can be changed."""
    if isinstance(value, (list, dict)):
        for part in value.values() if isinstance(value, dict) else value:
            spoil(part)
        for place in value if isinstance(value, dict) else range(len(value)):
            value[place] = 0 if is_number(value[place]) else value[place]
        value.clear()


def spoiling(exercise: Exercise) -> Callable:
    """The solution, which then makes its arguments useless."""

    def answer(*arguments: Any) -> Any:
        result = copy.deepcopy(exercise.answer(*arguments))
        for argument in arguments:
            spoil(argument)
        return result

    return answer


def emptied(*arguments: Any) -> Any:
    """Its first argument with nothing left in it; the same as the right answer to arguments without anything."""
    for argument in arguments:
        spoil(argument)
    return arguments[0]


def survives_spoiling(exercise: Exercise, capsys: pytest.CaptureFixture[str]) -> None:
    assert is_right(exercise, spoiling(exercise), capsys)
    told(exercise, emptied)
    for mistake in exercise.mistakes:
        assert told(exercise, mistake.answer) == mistake.hint
    assert is_right(exercise, spoiling(exercise), capsys)
    assert is_right(exercise, exercise.answer, capsys)


@functions
def test_what_a_function_does_to_its_arguments_changes_no_verdict(
    exercise: Exercise, capsys: pytest.CaptureFixture[str]
) -> None:
    before = copy.deepcopy(exercise.probes)
    survives_spoiling(exercise, capsys)
    assert exercise.probes == before


def test_that_attack_finds_an_engine_that_does_not_copy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    uncopied = []
    for exercise in FUNCTIONS:
        if any(isinstance(argument, (list, dict)) for probe in exercise.probes for argument in probe):
            planted = Exercise(**{name: getattr(exercise, name) for name in Exercise.__dataclass_fields__})
            object.__setattr__(planted, "probes", copy.deepcopy(exercise.probes))
            uncopied.append(planted)
    assert len(uncopied) > 20
    monkeypatch.setattr(_answers.copy, "deepcopy", lambda value: value)
    monkeypatch.setattr("utils.exercises.get", {exercise.id: exercise for exercise in uncopied}.__getitem__)
    for exercise in uncopied:
        with pytest.raises((AssertionError, NotYet, _answers.Unreadable, pytest.fail.Exception)):
            survives_spoiling(exercise, capsys)


IN_PLACE = {
    "02.1": [lambda numbers: [numbers.__setitem__(i, 1.0) for i in range(len(numbers))] and numbers],
    "03.1": [lambda gradient, limit: [gradient.__setitem__(i, g * 0.01) for i, g in enumerate(gradient)] and gradient],
    "04.1": [lambda numbers, k: numbers.sort() or numbers],
    "07.2": [lambda lengths, budget: 0],
    "10.5": [lambda methods: sorted(methods)],
}


@pytest.mark.parametrize("key", IN_PLACE)
def test_wrong_answers_in_place_are_wrong_also_after_a_right_one(key: str, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        for answer in IN_PLACE[key]:
            told(get(key), answer)
        assert is_right(get(key), spoiling(get(key)), capsys)


def test_right_answers_in_place_are_right(capsys: pytest.CaptureFixture[str]) -> None:
    def new_bias(bias, counts, speed):
        while counts[-1] is not None:  # eats up both lists
            mean = sum(counts) / len(counts)
            bias[:] = [b + speed * ((c < mean) - (c > mean)) for b, c in zip(bias, counts, strict=True)]
            counts.append(None)
        return bias

    def leaves_at(confidences, depths, last, threshold):
        while confidences:
            confidence, depth = confidences.pop(0), depths.pop(0)
            if confidence >= threshold:
                return depth
        return last

    def merged(W, A, B, alpha):
        for i, row in enumerate(W):
            for j in range(len(row)):
                row[j] += alpha / len(A) * sum(B[i][k] * A[k][j] for k in range(len(A)))
        return W

    def pack(lengths, budget):
        lengths.sort()
        batches = 0
        while lengths:
            rows = 0
            while lengths and (rows + 1) * lengths[0] <= budget:
                rows, _ = rows + 1, lengths.pop(0)
            batches += 1
        return batches

    for key, answer in {"04.4": new_bias, "13.3": leaves_at, "09.4": merged, "07.2": pack}.items():
        for _ in range(2):
            assert is_right(get(key), answer, capsys)


@functions
def test_constants_and_echoes_are_wrong(exercise: Exercise) -> None:
    for result in (*exercise.expected, 0, 1, -1, True, False, 0.5, "", [], [0], (), {}, 10**9):
        told(exercise, lambda *arguments, result=result: result)
    for place in range(len(exercise.probes[0])):
        told(exercise, lambda *arguments, place=place: arguments[place])
    told(exercise, lambda *arguments: arguments)


def each_number(change: Callable[[float], float]) -> Callable[[Any], Any]:
    return lambda value: dressed(value, change, type(value))


UNITS = (100, 1000, 1000**2, 1000**3, 1024, 1024**2, 1024**3, 8, 2)


@with_one_right_answer
def test_a_wrong_unit_or_sign_is_named(exercise: Exercise) -> None:
    planted = {mistake.hint for mistake in exercise.mistakes}
    slips: dict[str, Callable[[float], float]] = {"sign is not": lambda n: -n}
    for factor in UNITS:
        slips[f"That is {factor:,} times too large."] = lambda n, factor=factor: n * factor
        slips[f"That is {factor:,} times too small."] = lambda n, factor=factor: n / factor
    for power, percent in ((1, "2.4 %"), (2, "4.9 %"), (3, "7.4 %")):
        slips[f"That is {percent} too large."] = lambda n, power=power: n * 1.024**power
        slips[f"That is {percent} too small."] = lambda n, power=power: n / 1.024**power
    for words, change in slips.items():
        if not any(map(is_number, flat(exercise.expected))):
            told(exercise, changed(exercise, lambda value: value[::-1] + value))  # texts have no unit
            continue
        message = told(exercise, changed(exercise, each_number(change)))
        fits = words in message or message in planted
        # [1, -1] with the other sign is the same list in another order; 1 is also half of 2, and one less.
        assert fits or ("sign" in words and "order is not" in message), f"{words} {message}"


def flat(value: Any) -> list:
    return [inner for part in value for inner in flat(part)] if isinstance(value, (list, tuple)) else [value]


@with_one_right_answer
def test_a_number_rounded_or_not_rounded_is_named(exercise: Exercise) -> None:
    planted = {mistake.hint for mistake in exercise.mistakes}
    numbers = [n for n in flat(exercise.expected) if is_number(n)]
    for round_it in (math.floor, math.ceil, round, int):
        if any(abs(round_it(n) - n) > max(exercise.tolerance * abs(n), _answers.ZERO) for n in numbers):
            message = told(exercise, changed(exercise, each_number(round_it)))
            # 0.5 rounded up is its double, 0.4 rounded down is a swapped row of 0 and 1, and so on.
            fitting = ("That is rounded.", "That is 2 times too", "inverse", "order is not")
            assert message in planted or any(words in message for words in fitting), message
    if numbers and all(isinstance(n, int) for n in numbers):
        for way, amount in (("down", 0.3), ("up", -0.3)):
            message = told(exercise, changed(exercise, each_number(lambda n, amount=amount: n + amount)))
            assert message in planted or f"Right before rounding. Round {way}." in message, message
        for told_so, step in (("many", 1), ("few", -1)):
            message = told(exercise, changed(exercise, each_number(lambda n, step=step: n + step)))
            fitting = (f"one too {told_so}", "That is 2 times too", "order is not", "sign is not")
            assert message in planted or any(words in message for words in fitting), message


@with_one_right_answer
def test_counts_are_exact_and_real_numbers_nearly_so(exercise: Exercise, capsys: pytest.CaptureFixture[str]) -> None:
    numbers = [n for n in flat(exercise.expected) if is_number(n)]
    if any(isinstance(n, int) and n for n in numbers):
        told(exercise, changed(exercise, each_number(lambda n: n + 1 if isinstance(n, int) and n else n)))
        large = each_number(lambda n: n * (1 + 1e-9) if isinstance(n, int) and n else n)
        told(exercise, changed(exercise, large))
    if any(isinstance(n, float) and n for n in numbers):
        off = 3 * exercise.tolerance
        for factor in (1 + off, 1 - off):
            told(
                exercise,
                changed(
                    exercise, each_number(lambda n, factor=factor: n * factor if isinstance(n, float) and n else n)
                ),
            )
        near = each_number(lambda n: n * (1 + exercise.tolerance / 2) if isinstance(n, float) else n)
        assert is_right(exercise, changed(exercise, near), capsys)


def endless() -> Iterator[int]:
    yield from itertools.count()


class Hostile:
    """Whatever is asked of it, it raises."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)

    def __repr__(self) -> str:
        raise RuntimeError("repr")

    __eq__ = __bool__ = __iter__ = __len__ = __float__ = __hash__ = __repr__


class Stubborn(int):
    """A number that cannot be compared."""

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no comparison")

    __hash__ = None


def in_itself() -> list:
    value: list = []
    value.append(value)
    return value


NASTY: dict[str, tuple[Callable[[], Any], str]] = {
    "NaN": (lambda: math.nan, "nan is not a number"),
    "NaN in an array": (lambda: np.array([1.0, np.nan]), "nan is not a number"),
    "NaN in a tensor": (lambda: torch.tensor(math.nan), "nan is not a number"),
    "infinity": (lambda: math.inf, "infinite"),
    "minus infinity in a list": (lambda: [-math.inf], "infinite"),
    "a number of 400 digits": (lambda: 10**400, "larger than any"),
    "a number of 9,000 digits": (lambda: 10**9000, "larger than any"),
    "a complex number": (lambda: (-1) ** 0.5, "is a complex number"),
    "complex numbers": (lambda: np.array([1j, 2]), "is a complex number"),
    "an endless iterator": (itertools.count, "there is no end to it"),
    "an endless generator": (endless, "there is no end to it"),
    "an endless repetition": (lambda: itertools.repeat([1]), "there is no end to it"),
    "an endless range": (lambda: range(10**15), "there is no end to it"),
    "a huge array": (lambda: np.broadcast_to(np.float32(1), (10**6, 10**6)), "there is no end to it"),
    "a list in itself": (in_itself, "there is no end to it"),
    "a hostile object": (Hostile, "RuntimeError"),
    "a list of hostile objects": (lambda: [Hostile()] * 3, "RuntimeError"),
    "an object": (object, ""),
    "a number that cannot be compared": (lambda: Stubborn(-7), ""),
    "a tensor on the meta device": (lambda: torch.empty(2, device="meta"), "raised"),
    "a text": (lambda: "thirteen\nor so", ""),
    "a long text": (lambda: "thirteen" * 1000, ""),
    "bytes": (lambda: b"13", ""),
    "a class": (lambda: list, ""),
    "a module": (lambda: math, ""),
    "a list of lists": (lambda: [[[]]], ""),
    "a dictionary": (lambda: {1: {2: 3}}, ""),
    "True": (lambda: True, ""),
}


@every
def test_what_cannot_be_an_answer_gets_one_clear_line(exercise: Exercise) -> None:
    for name, (make, words) in NASTY.items():
        if exercise.probes:
            assert words in told(exercise, lambda *arguments, make=make: make()), name
            message = told(exercise, make())
            assert callable(make()) or message.startswith("Pass the function itself, not "), name
        else:
            assert words in told(exercise, make()), name


@commissions
def test_what_cannot_be_a_part_of_a_deployment_is_named(exercise: Commission) -> None:
    for name, (make, words) in NASTY.items():
        for field in FIELDS:
            message = told(exercise, exercise.answer | {field: make()})
            assert words in message and (words or field in message), f"{name} {message}"


@commissions
@pytest.mark.parametrize("change", [lambda n: -n, lambda n: 0, lambda n: n + 0.5, lambda n: n * 1024**2, str])
def test_a_batch_that_is_no_batch_is_named(exercise: Commission, change: Callable[[int], Any]) -> None:
    assert told(exercise, exercise.answer | {"batch": change(exercise.answer["batch"])}).startswith("batch ")


def fails(*arguments: Any) -> Any:
    raise LookupError("two\nlines " * 100)


def ends(*arguments: Any) -> Any:
    sys.exit(3)


def calls_itself(*arguments: Any) -> Any:
    return calls_itself(*arguments)


def fails_late(*arguments: Any) -> Iterator[int]:
    yield 1
    raise KeyError("late")


class Fault(Exception):
    """An error that cannot even be printed."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


def fails_without_a_text(*arguments: Any) -> Any:
    raise Fault


@functions
def test_a_function_that_fails_or_only_prints_is_told_so(
    exercise: Exercise, capsys: pytest.CaptureFixture[str]
) -> None:
    for function, error in (
        (fails, "LookupError: two lines two"),
        (ends, "SystemExit: 3"),
        (calls_itself, "RecursionError"),
        (fails_late, "KeyError: 'late'"),
        (fails_without_a_text, "Fault"),
        (lambda: 1, "TypeError"),
    ):
        assert f"raised {error}" in told(exercise, function)
    assert "returns nothing (None)" in told(exercise, changed(exercise, print))
    calls = itertools.count()
    assert "returns nothing (None)" in told(
        exercise, lambda *arguments: exercise.answer(*arguments) if next(calls) % len(exercise.probes) else None
    )


@every
def test_none_and_printing_are_explained(exercise: Exercise, capsys: pytest.CaptureFixture[str]) -> None:
    check(exercise.id, print("a result"))
    waiting, explained = capsys.readouterr().out.splitlines()[1:]
    assert "is waiting" in waiting and "print only shows a value" in explained
    for untouched in (..., (..., ...), [(..., ...), ...]):
        check(exercise.id, changed(exercise, lambda value, untouched=untouched: untouched))
        assert capsys.readouterr().out.count("\n") == 1


numbers = st.integers() | st.floats() | st.complex_numbers() | st.fractions() | st.decimals() | st.booleans()
junk = st.recursive(
    numbers | st.none() | st.text() | st.binary() | st.just(...) | st.dates(),
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(), inner)
        | st.builds(iter, st.lists(inner))
        | st.builds(lambda parts: np.array(parts, dtype=object), st.lists(inner))
    ),
    max_leaves=8,
)


@every
@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(value=junk)
def test_no_value_ever_ends_in_a_traceback(exercise: Exercise, value: Any) -> None:
    try:
        check(exercise.id, (lambda *arguments: value) if exercise.probes else value)
    except NotYet as message:
        assert len(str(message)) < 500 and "\n" not in str(message)


@commissions
@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(field=st.sampled_from(FIELDS), value=junk)
def test_no_part_of_a_deployment_ends_in_a_traceback(exercise: Commission, field: str, value: Any) -> None:
    try:
        check(exercise.id, exercise.answer | {field: value})
    except NotYet as message:
        assert len(str(message)) < 500 and "\n" not in str(message)


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@example(wanted=10**12, slip=1, tolerance=1e-5)
@given(
    wanted=st.floats(1e-6, 1e6) | st.integers(1, 10**12),
    slip=st.floats(-0.5, 0.5) | st.floats(-1e-4, 1e-4) | st.integers(-3, 3),
    tolerance=st.sampled_from([1e-5, 1e-3, 0.005]),
)
def test_a_number_is_right_within_its_tolerance_and_nowhere_else(wanted: float, slip: float, tolerance: float) -> None:
    given = wanted + slip if isinstance(slip, int) else wanted * (1 + slip)
    if isinstance(given, int):
        assert _answers.same(given, wanted, tolerance) == (given == wanted)
    elif isinstance(wanted, int):  # floats know a count to some 15 digits
        assert _answers.same(given, wanted, tolerance) == (abs(given - wanted) <= 1e-12 * max(wanted, given))
    elif abs(abs(given - wanted) / wanted - tolerance) > 1e-3 * tolerance:
        assert _answers.same(given, wanted, tolerance) == (abs(given - wanted) < tolerance * max(wanted, abs(given)))


@pytest.mark.parametrize(
    ("given", "wanted", "alike"),
    [
        (True, True, True),
        (np.bool_(True), True, True),
        (torch.tensor(True), True, True),
        (np.array(False), True, False),
        (1, True, False),
        (True, 1, False),
        (torch.tensor([True, False]), [True, False], True),
        ([1, 0], [True, False], False),
        ({"a": 1, "b": 2.0}, {"b": np.float32(2), "a": torch.tensor(1)}, True),
        ({"a": 1}.items(), {"a": 1}, True),
        ({"a": 1}, {"a": 2}, False),
        ({"a": 1, "b": 1}, {"a": 1}, False),
        ({3, 1, 2}, {1, 2, 3}, True),
        ([3, 1, 2], {1, 2, 3}, True),
        ([1, 1, 2], {1, 2}, False),
        ({1, 2, 3}, [1, 2, 3], False),
        (range(3), [0, 1, 2], True),
        (np.str_(" Disk"), "disk", True),
        (0.1 * 30, 3, True),
        (np.float32(0.1), 0.1, True),
        (4e-7, 0.0, True),
        (4e-7, 0, False),
        (1e-6, 0.0, False),
        (-0.0, 0, True),
    ],
)
def test_what_is_the_same(given: Any, wanted: Any, alike: bool) -> None:
    assert _answers.same(_answers.plain(given), _answers.plain(wanted)) is alike


def test_a_single_value_is_taken_out_of_its_container() -> None:
    assert _answers.fitted([[[3]]], 3) == 3 and _answers.fitted([[2], [[5]]], [2, 5]) == [2, 5]
    assert _answers.fitted([2, 5], 2) == [2, 5] and _answers.fitted(2, [2]) == 2 and _answers.fitted([], 2) == []


@pytest.mark.parametrize(
    ("key", "answer", "words"),
    [
        ("01.2", 58 * 9 * 3 * 7168 * 2048, "all 58 MoE layers"),
        ("01.3", 9.2e9, "Very near"),
        ("01.3", 9.21, "1,000,000,000 times too small"),
        ("01.3", 8.58, "1,073,741,824 times too small"),
        ("01.4", 9128.709, "That is the exact width"),
        ("05.3", 25.02, "Per cent or a fraction"),
        ("05.3", 0.25, "the norms"),
        ("06.4", 10e9 / 245_760, "Round down"),
        ("07.5", 69.46, "Round down"),
        ("07.5", 70, "one too many"),
        ("12.3", 58e9, "Very near"),
        ("00.1", np.float32(134_515_008 * 2 + 1), "right"),
        ("08.2", 95 * 2 * 8192 * 2 * 2, "handed over once"),
    ],
)
def test_known_slips_get_their_hint(key: str, answer: Any, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    if words == "right":
        assert is_right(get(key), answer, capsys)
    else:
        assert words in told(get(key), answer)


def test_near_answers_that_a_chapter_itself_suggests(capsys: pytest.CaptureFixture[str]) -> None:
    assert is_right(get("05.3"), 0.2502, capsys)
    assert is_right(get("11.2"), lift("11", "alibi_slopes"), capsys)
    assert is_right(get("10.2"), lambda layers, trained: np.float32((layers + 2 * trained) / (3 * layers)), capsys)
    assert is_right(
        get("03.4"),
        lambda step, steps, warmup, peak: (
            peak * (step + 1) / warmup
            if step < warmup
            else peak * math.cos(math.pi / 2 * (step + 1 - warmup) / (steps - warmup)) ** 2
        ),
        capsys,
    )


def _score(weights: list, n: int) -> torch.Tensor:
    rows = torch.arange(n + 1, 2 * n + 1)
    return torch.tensor(weights)[rows, rows - n + 1].mean()


def _rollout(first: list, second: list, q: int) -> torch.Tensor:
    one = torch.eye(len(first))
    return ((torch.tensor(second) + one) @ (torch.tensor(first) + one) / 4)[q]


def _clipped(gradient: list, max_norm: float) -> torch.Tensor:
    weight = torch.nn.Parameter(torch.zeros(len(gradient)))
    weight.grad = torch.tensor(gradient)
    torch.nn.utils.clip_grad_norm_([weight], max_norm)
    return weight.grad


def _row(scores: list, q: int) -> torch.Tensor:
    mask = torch.arange(len(scores)) > q
    return torch.tensor(scores).masked_fill(mask, -torch.inf).softmax(0)


WITH_TORCH = {  # in float32, as PyTorch computes unless told otherwise
    "02.1": lambda numbers: torch.nn.functional.rms_norm(torch.tensor(numbers), (len(numbers),), eps=0),
    "03.1": _clipped,
    "03.5": lambda parts: (
        torch.tensor([a * b for a, b in parts]).sum() / torch.tensor([float(b) for _, b in parts]).sum()
    ),
    "04.4": lambda bias, counts, speed: (
        torch.tensor(bias) + speed * torch.sign(torch.tensor(counts).float().mean() - torch.tensor(counts))
    ),
    "05.1": lambda numbers, bits: (torch.tensor(numbers) * ((2 ** (bits - 1) - 1) / max(map(abs, numbers)))).round(),
    "07.1": lambda lengths: 1 - torch.tensor(lengths).float().mean() / max(lengths),
    "09.4": lambda W, A, B, alpha: torch.tensor(W) + alpha / len(A) * torch.tensor(B) @ torch.tensor(A),
    "12.1": _row,
    "12.4": _score,
    "12.5": _rollout,
    "14.3": lambda a, b: torch.tensor(a) @ torch.tensor(b) / len(a),
}


@pytest.mark.parametrize("key", WITH_TORCH)
def test_right_answers_written_with_torch_are_right(key: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert is_right(get(key), WITH_TORCH[key], capsys)


def test_an_order_is_named() -> None:
    exercise = get("05.4")
    assert "The parts are right, their order is not." in told(exercise, changed(exercise, lambda pair: pair[::-1]))
    exercise = get("10.5")
    assert "which has no order" in told(exercise, changed(exercise, set))


def test_slips_are_told_apart() -> None:
    assert len({text for text, _ in _slips.SLIPS}) == len(_slips.SLIPS)


@pytest.mark.parametrize(
    ("key", "variant"),
    [
        ("06.3", lambda rows, limit: [f for row in rows for f, x in enumerate(row) if abs(x) >= limit]),
        ("09.6", lambda train, test: sorted(get("09.6").answer(train, test))),
        ("15.2", lambda peak, bandwidth: round(peak / bandwidth)),
        ("15.2", lambda peak, bandwidth: round(peak / bandwidth + 0.5)),
    ],
)
def test_natural_variants_are_wrong(key: str, variant: Callable) -> None:
    told(get(key), variant)
