"""Exercises that answer back: `check`, `hint` and `solution`; a `quiz` for each chapter; and `progress`.

Each chapter's exercises stand in a module of this package (`chapter_01.py`, ...). An exercise is data: its solution
is a piece of code that assigns `answer`, and its typical mistakes are wrong answers, each with the hint that fits it.
A learner's answer is compared with the solution's, then with the mistakes'. A function is compared by what it does:
it is called on the exercise's probes.

A module may also hold the chapter's quiz, `QUIZ`: questions with lettered options, and why each is right or wrong.
"""

import functools
import importlib
import math
import numbers
import pkgutil
import textwrap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from utils import learner

LEVELS = {1: "warm-up", 2: "practice", 3: "challenge"}

# How many hints of each exercise this kernel has shown.
_hints_shown: dict[str, int] = {}


class NotYet(Exception):
    """A wrong answer. Shown as one short message, without a traceback."""

    def _render_traceback_(self) -> list[str]:  # IPython calls this instead of printing the traceback
        return textwrap.wrap(str(self), 88, break_long_words=False)


class ExerciseError(ValueError):
    """There is no exercise or quiz of that id, or a quiz got letters that fit no option."""


@dataclass(frozen=True)
class Mistake:
    """A typical wrong answer (a value, or a function for a function exercise) and the hint that fits it."""

    answer: Any
    hint: str


@dataclass(frozen=True)
class Exercise:
    """One exercise.

    Attributes:
        id: chapter and number, for example "01.2".
        level: 1 warm-up, 2 practice, 3 challenge.
        minutes: time box.
        hints: general hints, shown one after the other by `hint`.
        solution: code that assigns the right answer to `answer`.
        after: what a right answer is told: the point of the exercise.
        mistakes: typical wrong answers, each with its own hint.
        probes: for a function exercise, the argument lists on which functions are compared.
        tolerance: relative tolerance for numbers.
    """

    id: str
    level: int
    minutes: int
    hints: tuple[str, ...]
    solution: str
    after: str
    mistakes: tuple[Mistake, ...]
    probes: tuple[tuple[Any, ...], ...] = ()
    tolerance: float = 1e-9

    @functools.cached_property
    def answer(self) -> Any:
        """What the solution's code assigns to `answer`."""
        namespace: dict[str, Any] = {}
        exec(self.solution, namespace)
        return namespace["answer"]


@dataclass(frozen=True)
class Question:
    """One question of a quiz.

    Attributes:
        text: the question.
        options: pairs of what an option says and why it is right or wrong; lettered a, b, c, ...
        right: letter of the one right option.
    """

    text: str
    options: tuple[tuple[str, str], ...]
    right: str

    @property
    def letters(self) -> str:
        """The options' letters, "abc" for three."""
        return "abcdefgh"[: len(self.options)]


@functools.cache
def all_exercises() -> dict[str, Exercise]:
    """Every exercise of every chapter, by id, in order."""
    found: dict[str, Exercise] = {}
    for module in sorted(info.name for info in pkgutil.iter_modules(__path__)):
        for exercise in importlib.import_module(f"{__name__}.{module}").EXERCISES:
            found[exercise.id] = exercise
    return found


@functools.cache
def all_quizzes() -> dict[str, tuple[Question, ...]]:
    """The quiz of every chapter that has one, by the chapter's number, in order."""
    modules = sorted(info.name for info in pkgutil.iter_modules(__path__))
    quizzes = {name[-2:]: getattr(importlib.import_module(f"{__name__}.{name}"), "QUIZ", ()) for name in modules}
    return {chapter: questions for chapter, questions in quizzes.items() if questions}


def get(exercise_id: str) -> Exercise:
    """The exercise with this id.

    Raises:
        ExerciseError: no such exercise; the message lists those of the chapter, or all.
    """
    known = all_exercises()
    if exercise_id in known:
        return known[exercise_id]
    chapter = str(exercise_id).split(".")[0]
    near = [key for key in known if key.startswith(chapter + ".")] or list(known)
    raise ExerciseError(f"no exercise {exercise_id!r}; there are {', '.join(near)}")


def check(exercise_id: str, answer: Any = ...) -> None:
    """Say whether an answer is right.

    Prints "waiting" for an untouched placeholder (`...`, `None`, or a function that returns one of them) and "right"
    for a right answer.

    Raises:
        NotYet: the answer is wrong; the message fits the mistake where it is a typical one.
        ExerciseError: no such exercise.
    """
    exercise = get(exercise_id)
    given = _Given(answer, exercise)
    if given.is_placeholder:
        box = f"{LEVELS[exercise.level]}, about {exercise.minutes} min"
        print(f"{exercise.id} is waiting for your answer ({box}). Replace the ... and run the cell again.")
        return
    if given.equals(exercise.answer):
        learner.solved(exercise.id)
        print(f"{exercise.id} ✔ right. {exercise.after}")
        return
    raise NotYet(f"{exercise.id}, not yet. {_advice(given, exercise)}")


def hint(exercise_id: str) -> None:
    """Print the next general hint of an exercise; after the last one, start again."""
    exercise = get(exercise_id)
    shown = _hints_shown.get(exercise_id, 0) % len(exercise.hints)
    _hints_shown[exercise_id] = shown + 1
    print(f"{exercise_id}, hint {shown + 1} of {len(exercise.hints)}: {exercise.hints[shown]}")


def solution(exercise_id: str) -> None:
    """Print the code of an exercise's solution."""
    print(get(exercise_id).solution.strip())


def quiz(chapter: str, answers: str = "") -> None:
    """Show the quiz of a chapter, or judge answers to it.

    Args:
        chapter: its number, "05".
        answers: one letter a question, as in "b a c"; spaces and capitals do not matter. Empty: the questions.

    Raises:
        ExerciseError: no such quiz, or the letters do not fit the questions.
    """
    if chapter not in all_quizzes():
        raise ExerciseError(f"no quiz {chapter!r}; there are {', '.join(all_quizzes())}")
    questions = all_quizzes()[chapter]
    given = "".join(str(answers).casefold().replace(",", " ").split())
    if given and len(given) != len(questions):
        raise ExerciseError(f"the quiz has {len(questions)} questions; got {len(given)} letters, {given!r}")
    for number, (letter, question) in enumerate(zip(given, questions, strict=False), 1):
        if letter not in question.letters:
            raise ExerciseError(f"question {number} has the options {', '.join(question.letters)}; got {letter!r}")
    for number, question in enumerate(questions, 1):
        print(f"{number}. {question.text}")
        if not given:
            for letter, (option, _) in zip(question.letters, question.options, strict=True):
                print(f"   {letter}) {option}")
            continue
        letter = given[number - 1]
        option, why = question.options[question.letters.index(letter)]
        mark = "✔ right." if letter == question.right else "not yet."
        print(f"   {letter}) {option}\n   {mark} {why}")
    if given:
        right = sum(letter == question.right for letter, question in zip(given, questions, strict=True))
        learner.answered(chapter, right)
        print(f"{right} of {len(questions)} right.")
    else:
        example = " ".join("abcabc"[: len(questions)])
        print(f'Answer with one letter a question, for example quiz("{chapter}", "{example}").')


def progress(*, reset: bool | str = False) -> None:
    """Show what is solved: a line for each chapter, and where to go on.

    Args:
        reset: True forgets everything, "05" forgets one chapter.

    Raises:
        ExerciseError: `reset` names no chapter.
    """
    chapters: dict[str, list[Exercise]] = {}
    for exercise in all_exercises().values():
        chapters.setdefault(exercise.id[:2], []).append(exercise)
    if reset:
        if reset is not True and reset not in chapters:
            raise ExerciseError(f"reset must be True or a chapter; got {reset!r}; there are {', '.join(chapters)}")
        if learner.reset(None if reset is True else reset):
            print("Forgotten: " + ("all chapters." if reset is True else f"chapter {reset}."))
    record = learner.load()
    done = {key for key in record[learner.EXERCISES] if key in all_exercises()}
    marks_width = max(len(group) for group in chapters.values()) + 2
    print(f"{'chapter':<9}{'exercises':<{marks_width + 6}}{'quiz':<6}still to do")
    quiz_right = quiz_questions = 0
    for chapter, group in chapters.items():
        marks = "".join("■" if exercise.id in done else "□" for exercise in group)
        questions = len(all_quizzes().get(chapter, ()))
        best = record[learner.QUIZZES].get(chapter)  # None: not tried
        right = min(best or 0, questions)
        left = [exercise for exercise in group if exercise.id not in done]
        todo = [f"{', '.join(e.id for e in left)} (about {sum(e.minutes for e in left)} min)"] if left else []
        todo += ["quiz"] if right < questions else []
        solved, score = f"{len(group) - len(left)}/{len(group)}", f"{'-' if best is None else right}/{questions}"
        print(f"{chapter:<9}{marks:<{marks_width}}{solved:<6}{score:<6}{', '.join(todo) or 'all done'}")
        quiz_right, quiz_questions = quiz_right + right, quiz_questions + questions
    counts = [f"{sum(all_exercises()[key].level == level for key in done)} of "
              f"{sum(e.level == level for e in all_exercises().values())} {name}"
              for level, name in LEVELS.items()]  # fmt: skip
    print(f"{len(done)} of {len(all_exercises())} exercises solved: {', '.join(counts)}.")
    print(f"{quiz_right} of {quiz_questions} quiz questions right.")
    following = next((key for key in all_exercises() if key not in done), None)
    if following:
        print(f"Go on with exercise {following}.")


class _Given:
    """A learner's answer, seen through an exercise: as a value, or as what a function returns on the probes."""

    def __init__(self, answer: Any, exercise: Exercise) -> None:
        self.exercise = exercise
        self.complaint = ""
        self.value = self._observe(answer)

    def _observe(self, answer: Any) -> Any:
        if not self.exercise.probes:
            return answer
        if answer is ... or answer is None:
            return ...
        if not isinstance(answer, Callable):
            self.complaint = f"Pass the function itself, not {_short(answer)}."
            return answer
        results = []
        for arguments in self.exercise.probes:
            try:
                results.append(answer(*arguments))
            except Exception as error:  # any error of the learner's function is worth telling
                call = f"{getattr(answer, '__name__', 'your function')}({', '.join(map(repr, arguments))})"
                self.complaint = f"Calling {call} raised {type(error).__name__}: {error}"
                return answer
        return results

    @property
    def is_placeholder(self) -> bool:
        if self.complaint:
            return False
        if self.exercise.probes and isinstance(self.value, list):
            return all(result is None or result is ... for result in self.value)
        return self.value is None or self.value is ...

    def equals(self, other: Any) -> bool:
        """Whether it is the same as another answer (the solution's, or a mistake's)."""
        if self.complaint:
            return False
        return _same(self.value, _Given(other, self.exercise).value, self.exercise.tolerance)


def _advice(given: _Given, exercise: Exercise) -> str:
    if given.complaint:
        return given.complaint
    for mistake in exercise.mistakes:
        if given.equals(mistake.answer):
            return mistake.hint
    right = _Given(exercise.answer, exercise).value
    if exercise.probes:
        for arguments, got, wanted in zip(exercise.probes, given.value, right, strict=True):
            if not _same(got, wanted, exercise.tolerance):
                call = f"({', '.join(map(repr, arguments))})"
                return f"For the arguments {call} your function gives {_short(got)}. {exercise.hints[0]}"
    if isinstance(right, numbers.Number) != isinstance(given.value, numbers.Number):
        wanted = "a number" if isinstance(right, numbers.Number) else f"a {type(right).__name__}"
        return f"Expected {wanted}, got {_short(given.value)}, a {type(given.value).__name__}."
    if isinstance(right, numbers.Real) and not isinstance(right, bool) and isinstance(given.value, numbers.Real):
        side = "too high" if given.value > right else "too low"
        return f"{_short(given.value)} is {side}. {exercise.hints[0]}"
    return f"{_short(given.value)} is not it. {exercise.hints[0]}"


def _same(given: Any, wanted: Any, tolerance: float) -> bool:
    if isinstance(wanted, bool) or isinstance(given, bool):
        return given is wanted
    if isinstance(wanted, numbers.Number):
        return isinstance(given, numbers.Number) and math.isclose(given, wanted, rel_tol=tolerance)
    if isinstance(wanted, str):
        return isinstance(given, str) and given.strip().casefold() == wanted.strip().casefold()
    if isinstance(wanted, (set, frozenset)):
        return isinstance(given, (set, frozenset, list, tuple)) and set(given) == wanted
    if isinstance(wanted, Mapping):
        return (
            isinstance(given, Mapping)
            and given.keys() == wanted.keys()
            and all(_same(given[key], wanted[key], tolerance) for key in wanted)
        )
    if isinstance(wanted, Iterable):
        if not isinstance(given, Iterable) or isinstance(given, str):
            return False
        given, wanted = list(given), list(wanted)
        return len(given) == len(wanted) and all(map(_same, given, wanted, [tolerance] * len(wanted)))
    return given == wanted


def _short(value: Any) -> str:
    text = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
