"""Each function exercise tells its natural variants apart: a solution with one piece changed is not right.

The variants are made from the solution's own code: < for <=, floor for ceil, a + for a -, one more or one less, an
unsorted list, a missing abs, one operand left out, and so on. Whoever adds an exercise gets this test for nothing; what
it finds is mended by a probe, or stands in EQUIVALENT with the reason why it is right after all.
"""

import ast
import copy
import itertools
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

from utils.exercises import Exercise, _answers, all_exercises

FUNCTIONS = [exercise for exercise in all_exercises().values() if exercise.probes]
# Lines that differ from the solution's and are right nevertheless.
EQUIVALENT = {
    "01.1": {"head_dim = hidden / heads"},  # a whole number all the same
    "03.1": {"factor = max_norm / norm if norm >= max_norm else 1.0"},  # the factor 1 either way
    # Each row has as many features.
    "06.3": {"return [f for f in range(len(rows[-1])) if any((abs(row[f]) >= threshold for row in rows))]"},
    # After the last card, nothing asks what is left.
    "06.5": {
        "while card <= len(cards) and size > left:",
        "left = cards[card] if card < len(cards) else 1",
        "left = cards[card] if card < len(cards) else -1",
    },
    "08.1": {  # whole numbers all the same
        "return ((out / ranks, inp), (out, inp // ranks))",
        "return ((out // ranks, inp), (out, inp / ranks))",
    },
    "12.2": {"return head // (heads / key_heads)"},  # a whole number all the same
    "17.5": {"return (-level if x <= 0 else level) * scale"},  # minus zero is zero
}
STEPS = 20_000  # lines that a variant may run; one that never ends is cut off there

COMPARISONS = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
OPERATORS = {
    ast.Add: [ast.Sub], ast.Sub: [ast.Add], ast.Mult: [ast.Div], ast.Div: [ast.Mult, ast.FloorDiv],
    ast.FloorDiv: [ast.Div, ast.Mod], ast.Mod: [ast.FloorDiv], ast.Pow: [ast.Mult],
}  # fmt: skip
ROUNDINGS = ["round", "int", "math.floor", "math.ceil"]
OPPOSITES = {"min": "max", "max": "min", "any": "all", "all": "any"}


def variants(node: ast.AST) -> Iterator[ast.expr]:
    """What somebody could have written in place of an expression."""
    if isinstance(node, ast.Compare):
        for place, operator in enumerate(node.ops):
            if type(operator) in COMPARISONS:
                ops = [*node.ops[:place], COMPARISONS[type(operator)](), *node.ops[place + 1 :]]
                yield ast.Compare(node.left, ops, node.comparators)
    elif isinstance(node, ast.BinOp):
        yield from (ast.BinOp(node.left, operator(), node.right) for operator in OPERATORS.get(type(node.op), []))
        yield from (node.left, node.right)
    elif isinstance(node, ast.Constant) and type(node.value) in (int, float):
        yield from (ast.Constant(node.value + step) for step in (1, -1))
    elif isinstance(node, ast.UnaryOp):
        yield node.operand
    elif isinstance(node, ast.BoolOp):
        yield from node.values
    elif isinstance(node, ast.IfExp):
        yield from (node.body, node.orelse)
    elif isinstance(node, ast.Call):
        name = ast.unparse(node.func)
        others = [other for other in ROUNDINGS if other != name] if name in ROUNDINGS else []
        others += [OPPOSITES[name]] if name in OPPOSITES else []
        yield from (ast.Call(ast.parse(other, mode="eval").body, node.args, node.keywords) for other in others)
        if name in (*ROUNDINGS, "abs", "sorted", "set") and len(node.args) == 1:
            yield node.args[0]


class Replaced(ast.NodeTransformer):
    """A tree with one node replaced."""

    def __init__(self, old: ast.AST, new: ast.AST) -> None:
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> Any:
        return self.new if node is self.old else super().visit(node)


def mutants(code: str) -> set[str]:
    """The code with one expression changed, in every way."""
    found = set()
    for place, node in enumerate(ast.walk(ast.parse(code))):
        for number, _ in enumerate(variants(node)):
            tree = ast.parse(code)
            old = next(itertools.islice(ast.walk(tree), place, None))
            new = copy.deepcopy(next(itertools.islice(variants(old), number, None)))
            found.add(ast.unparse(ast.fix_missing_locations(Replaced(old, new).visit(tree))))
    return found - {ast.unparse(ast.parse(code))}


def limited(function: Callable) -> Callable:
    """A function that gives up after STEPS lines."""

    def run(*arguments: Any) -> Any:
        steps, before = itertools.count(), sys.gettrace()

        def trace(frame: FrameType, event: str, argument: Any) -> Any:
            if next(steps) > STEPS:
                raise TimeoutError
            return trace

        sys.settrace(trace)
        try:
            return function(*arguments)
        finally:
            sys.settrace(before)

    return run


def is_right(exercise: Exercise, code: str) -> bool:
    namespace: dict[str, Any] = {}
    try:
        exec("import math\n" + code, namespace)
        return exercise.agrees(exercise.results(limited(namespace["answer"])), exercise.expected)
    except (_answers.Unreadable, TypeError):
        return False


@pytest.mark.parametrize("exercise", FUNCTIONS, ids=lambda exercise: exercise.id)
def test_a_solution_with_one_piece_changed_is_wrong(exercise: Exercise) -> None:
    lines = ast.unparse(ast.parse(exercise.solution)).splitlines()
    assert is_right(exercise, exercise.solution)
    accepted = {
        line.strip()
        for code in mutants(exercise.solution)
        if is_right(exercise, code)
        for line in code.splitlines()
        if line not in lines
    }
    assert accepted == EQUIVALENT.get(exercise.id, set())


def test_there_are_many_variants() -> None:
    code = "def answer(a, b):\n    return sorted(n for n in a if abs(n) <= b + 1)\n"
    assert {line.strip() for text in mutants(code) for line in text.splitlines()[1:]} >= {
        "return (n for n in a if abs(n) <= b + 1)",
        "return sorted((n for n in a if n <= b + 1))",
        "return sorted((n for n in a if abs(n) < b + 1))",
        "return sorted((n for n in a if abs(n) <= b - 1))",
        "return sorted((n for n in a if abs(n) <= b))",
        "return sorted((n for n in a if abs(n) <= b + 2))",
    }
    assert sum(len(mutants(exercise.solution)) for exercise in FUNCTIONS) > 500
