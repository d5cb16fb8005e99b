"""Exercises that answer back: `check`, `hint` and `solution`; a `quiz` for each chapter; and `progress`.

Each chapter's exercises stand in a module of this package (`chapter_01.py`, ...). An exercise is data: its solution
is a piece of code that assigns `answer`, and its typical mistakes are wrong answers, each with the hint that fits it.
A learner's answer is compared with the solution's, then with the mistakes'. A function is compared by what it does:
it is called on the exercise's probes. A wrong number that is no planted mistake is held against the usual slips.

A module may also hold the chapter's quiz, `QUIZ`: questions with lettered options, and why each is right or wrong.
"""

import functools
import importlib
import pkgutil
import textwrap
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple

from utils.errors import CourseError
from utils.exercises import _answers, _learner, _slips

LEVELS = {1: "warm-up", 2: "practice", 3: "challenge"}

# How many hints of each exercise this kernel has shown.
_hints_shown: dict[str, int] = {}


class NotYet(Exception):
    """A wrong answer. Shown as one short message, without a traceback."""

    def _render_traceback_(self) -> list[str]:  # IPython calls this instead of printing the traceback
        return textwrap.wrap(str(self), 88, break_long_words=False)


class ExerciseError(CourseError, ValueError):
    """There is no exercise or quiz of that id, or a quiz got letters that fit no option."""


@dataclass(frozen=True)
class Mistake:
    """A typical wrong answer (a value, or a function for a function exercise) and the hint that fits it."""

    answer: Any
    hint: str


class Judgement(NamedTuple):
    """Whether an answer is right, what is told about it in one line, and what is shown before that."""

    right: bool
    told: str
    report: str = ""


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
        tolerance: relative tolerance for real numbers, where the right one is a float. An int is met exactly.
    """

    id: str
    level: int
    minutes: int
    hints: tuple[str, ...]
    solution: str
    after: str
    mistakes: tuple[Mistake, ...]
    probes: tuple[tuple[Any, ...], ...] = ()
    tolerance: float = _answers.RELATIVE

    @functools.cached_property
    def answer(self) -> Any:
        """What the solution's code assigns to `answer`."""
        namespace: dict[str, Any] = {}
        exec(self.solution, namespace)
        return namespace["answer"]

    @functools.cached_property
    def expected(self) -> list:
        """The right results: of the solution on each probe, or the one right value."""
        return _answers.results(self.answer, self.probes)

    def results(self, answer: Any) -> list:
        """The results of another answer, in the form of the right ones.

        Raises:
            _answers.Unreadable: they cannot be compared; the message says why.
        """
        right = self.expected  # before the answer's own code runs
        return _answers.fitted(_answers.results(answer, self.probes), right)

    def agrees(self, given: Any, wanted: Any) -> bool:
        """Whether two results are the same within this exercise's tolerance."""
        return _answers.same(given, wanted, self.tolerance)

    def judge(self, given: list) -> Judgement:
        """Judge results that `results` has read."""
        if self.agrees(given, self.expected):
            return Judgement(True, self.after)
        return Judgement(False, _advice(given, self))


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
    for chapter in _chapters().values():
        found |= {exercise.id: exercise for exercise in chapter.EXERCISES}
    return found


@functools.cache
def all_quizzes() -> dict[str, tuple[Question, ...]]:
    """The quiz of every chapter that has one, by the chapter's number, in order."""
    quizzes = {number: getattr(chapter, "QUIZ", ()) for number, chapter in _chapters().items()}
    return {number: questions for number, questions in quizzes.items() if questions}


def _chapters() -> dict[str, ModuleType]:
    """The modules of the chapters by number, in order."""
    names = sorted(info.name for info in pkgutil.iter_modules(__path__) if info.name.startswith("chapter_"))
    return {name[-2:]: importlib.import_module(f"{__name__}.{name}") for name in names}


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

    Prints "waiting" for an untouched placeholder (`...`, `None`, or a function that returns `...`) and "right" for a
    right answer, in whatever dress: Python's, NumPy's and PyTorch's numbers, lists, tuples, arrays and tensors.

    Raises:
        NotYet: the answer is wrong; the message fits the mistake where it is a typical one.
        ExerciseError: no such exercise.
    """
    exercise = get(exercise_id)
    try:
        given = exercise.results(answer)
    except _answers.Unreadable as complaint:
        raise NotYet(f"{exercise.id}, not yet. {complaint}") from None
    if _answers.untouched(given) or given[0] is None:
        box = f"{LEVELS[exercise.level]}, about {exercise.minutes} min"
        print(f"{exercise.id} is waiting for your answer ({box}). Replace the ... and run the cell again.")
        if given[0] is None:
            print("It is None. That is what print(...) gives, and a function without return: print only shows a value.")
        return
    judgement = exercise.judge(given)
    if judgement.report:
        print(judgement.report)
    if not judgement.right:
        raise NotYet(f"{exercise.id}, not yet. {judgement.told}")
    _learner.solved(exercise.id)
    print(f"{exercise.id} ✔ right. {judgement.told}")


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
        _learner.answered(chapter, right)
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
        if _learner.reset(None if reset is True else reset):
            print("Forgotten: " + ("all chapters." if reset is True else f"chapter {reset}."))
    record = _learner.load()
    done = {key for key in record[_learner.EXERCISES] if key in all_exercises()}
    marks_width = max(len(group) for group in chapters.values()) + 2
    print(f"{'chapter':<9}{'exercises':<{marks_width + 6}}{'quiz':<6}still to do")
    quiz_right = quiz_questions = 0
    for chapter, group in chapters.items():
        marks = "".join("■" if exercise.id in done else "□" for exercise in group)
        questions = len(all_quizzes().get(chapter, ()))
        best = record[_learner.QUIZZES].get(chapter)  # None: not tried
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


def _advice(given: list, exercise: Exercise) -> str:
    """What to tell about results that are wrong."""
    for mistake in exercise.mistakes:
        if exercise.agrees(given, exercise.results(mistake.answer)):
            return mistake.hint
    place = next(i for i, right in enumerate(exercise.expected) if not exercise.agrees(given[i], right))
    got, wanted = given[place], exercise.expected[place]
    told = _slips.named(given, exercise.expected, exercise.tolerance) or _slips.mismatch(got, wanted)
    if exercise.probes:
        arguments = _answers.arguments(exercise.probes[place])
        return f"For the arguments {arguments} your function gives {_answers.short(got)}. {told or exercise.hints[0]}"
    if told:
        return told
    side = ("too high" if got > wanted else "too low") if _answers.is_number(wanted) else "not it"
    return f"{_answers.short(got)} is {side}. {exercise.hints[0]}"
