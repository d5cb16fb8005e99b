"""Each exercise: its solution passes, its placeholder waits, and each planted mistake gets its own hint."""

import builtins
import itertools

import pytest

from utils import exercises
from utils.exercises import NotYet, all_exercises, check, hint, solution

EVERY = list(all_exercises().values())
by_id = pytest.mark.parametrize("exercise", EVERY, ids=lambda exercise: exercise.id)


@by_id
def test_the_solution_passes(exercise, capsys):
    check(exercise.id, exercise.answer)
    assert f"{exercise.id} ✔ right." in capsys.readouterr().out


@by_id
def test_the_placeholder_waits(exercise, capsys):
    placeholders = [..., None] + ([lambda *arguments: ...] if exercise.probes else [])
    for placeholder in placeholders:
        check(exercise.id, placeholder)
        assert "is waiting" in capsys.readouterr().out
    check(exercise.id)
    assert "is waiting" in capsys.readouterr().out


@by_id
def test_every_planted_mistake_gets_its_own_hint(exercise):
    assert len(exercise.mistakes) >= 2
    for mistake in exercise.mistakes:
        with pytest.raises(NotYet) as caught:
            check(exercise.id, mistake.answer)
        assert mistake.hint in str(caught.value)
    assert len({mistake.hint for mistake in exercise.mistakes}) >= 2


@by_id
def test_other_wrong_answers_fail_kindly(exercise):
    for wrong in ("thirteen", -1, [], 0.5, object(), lambda: 1, lambda *arguments: 10**30):
        with pytest.raises(NotYet) as caught:
            check(exercise.id, wrong)
        message = str(caught.value)
        assert message.startswith(f"{exercise.id}, not yet.") and len(message) < 500


@by_id
def test_it_is_complete(exercise):
    assert exercise.level in exercises.LEVELS and 1 <= exercise.minutes <= 30
    assert len(exercise.hints) >= 2 and exercise.after


def test_ids_count_up_within_a_chapter():
    for chapter, group in itertools.groupby(EVERY, key=lambda exercise: exercise.id[:2]):
        numbers = [int(exercise.id[3:]) for exercise in group]
        assert numbers == list(range(1, len(numbers) + 1)), chapter


def test_two_mistakes_never_collide():
    """A mistake that equals another one, or the solution, could never show its hint."""
    for exercise in EVERY:
        seen = [exercise.expected, *(exercise.results(mistake.answer) for mistake in exercise.mistakes)]
        for a, b in itertools.combinations(seen, 2):
            assert not exercise.agrees(a, b), exercise.id


def test_a_function_that_raises_is_told_so():
    def broken(parameters):
        return parameters / 0

    with pytest.raises(NotYet, match=r"Calling broken\(2800000000\) raised ZeroDivisionError"):
        check("00.3", broken)


def test_too_high_and_too_low_are_told():
    with pytest.raises(NotYet, match="too high"):
        check("00.1", 10**12)
    with pytest.raises(NotYet, match="too low"):
        check("00.1", 5)


def test_hints_come_one_after_the_other_and_start_again(capsys):
    exercises._hints_shown.clear()
    texts = all_exercises()["00.3"].hints
    for expected in (*texts, texts[0]):
        hint("00.3")
        assert expected in capsys.readouterr().out


def test_solution_prints_code_that_runs(capsys):
    solution("01.5")
    code = capsys.readouterr().out
    namespace = {}
    builtins.exec(code, namespace)
    assert namespace["answer"](7168, 128, 1536, 512, 128, 64, 128) == 187_105_280


def test_an_unknown_exercise_lists_those_of_its_chapter():
    with pytest.raises(exercises.ExerciseError, match=r"'01.99'; there are 01.1, 01.2"):
        check("01.99", 1)


def test_a_wrong_answer_shows_no_traceback():
    assert NotYet("not yet")._render_traceback_() == ["not yet"]
    lines = NotYet("a longer word " * 20)._render_traceback_()
    assert len(lines) > 1 and all(len(line) <= 88 and line.endswith(("a", "longer", "word")) for line in lines)
