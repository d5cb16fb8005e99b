"""Each chapter's quiz: complete, even in form, and judged letter by letter."""

from collections import Counter
from pathlib import Path

import pytest

from utils import chapters
from utils.exercises import ExerciseError, Question, all_quizzes, quiz
from utils.exercises import _learner as learner

QUIZZES = all_quizzes()
EVERY = [
    (f"{chapter}.{number}", question) for chapter, group in QUIZZES.items() for number, question in enumerate(group)
]
by_chapter = pytest.mark.parametrize("chapter", QUIZZES)
by_question = pytest.mark.parametrize("question", [question for _, question in EVERY], ids=[name for name, _ in EVERY])


@pytest.fixture(autouse=True)
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty record for each test."""
    monkeypatch.setenv("COURSE_PROGRESS", str(tmp_path / "progress.json"))
    return tmp_path / "progress.json"


def right_letters(chapter: str) -> list[str]:
    return [question.right for question in QUIZZES[chapter]]


def wrong_letters(question: Question) -> list[str]:
    return [letter for letter in question.letters if letter != question.right]


def option_of(question: Question, letter: str) -> tuple[str, str]:
    return question.options[question.letters.index(letter)]


def test_every_chapter_has_a_quiz() -> None:
    assert list(QUIZZES) == [path.name[:2] for path in chapters.notebook_paths()]
    for chapter, questions in QUIZZES.items():
        assert 3 <= len(questions) <= 6, chapter


def test_no_question_stands_twice() -> None:
    assert len({question.text for _, question in EVERY}) == len(EVERY)


@by_question
def test_a_question_is_complete(question: Question) -> None:
    assert 3 <= len(question.options) <= 4
    assert question.right in question.letters and len(question.right) == 1
    assert len({option for option, _ in question.options}) == len(question.options)
    assert len({why for _, why in question.options}) == len(question.options)


@by_question
def test_a_question_is_short(question: Question) -> None:
    assert 5 <= len(question.text.split()) <= 45 and question.text.endswith("?")
    for option, why in question.options:
        assert 1 <= len(option) <= 60 and 4 <= len(why.split()) <= 35, option


@by_question
def test_the_options_are_of_similar_length(question: Question) -> None:
    lengths = [len(option) for option, _ in question.options]
    assert max(lengths) - min(lengths) <= 14, lengths


@by_question
def test_it_is_plain_text_and_ends_its_sentences(question: Question) -> None:
    for option, why in question.options:
        assert why[-1] in ".?" and option[-1] not in ".?"
    for line in [question.text, *(part for pair in question.options for part in pair)]:
        assert line == line.strip() and not set("`$\n\\*#") & set(line) and "  " not in line, line
        assert "of the above" not in line


def test_the_right_letters_are_balanced_and_the_length_tells_nothing() -> None:
    counted = Counter(question.right for _, question in EVERY)
    assert set(counted) >= set("abc") and max(counted.values()) <= 0.45 * len(EVERY), counted
    for chapter in QUIZZES:
        assert len(set(right_letters(chapter))) > 1, chapter
    longest = [
        len(option_of(question, question.right)[0])
        > max(len(option_of(question, letter)[0]) for letter in wrong_letters(question))
        for _, question in EVERY
    ]
    assert sum(longest) <= 0.45 * len(EVERY)


@by_chapter
def test_without_answers_it_shows_the_questions_and_gives_nothing_away(
    chapter: str, record: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quiz(chapter)
    shown = capsys.readouterr().out
    for number, question in enumerate(QUIZZES[chapter], 1):
        assert f"{number}. {question.text}\n" in shown
        for letter, (option, why) in zip(question.letters, question.options, strict=True):
            assert f"   {letter}) {option}\n" in shown and why not in shown
    example = shown.splitlines()[-1].split('"')[3]
    assert "✔" not in shown and not record.exists()
    quiz(chapter, example)  # the example of an answer is a valid one
    assert f" of {len(QUIZZES[chapter])} right." in capsys.readouterr().out


@by_chapter
def test_all_right_is_told_and_recorded(chapter: str, capsys: pytest.CaptureFixture[str]) -> None:
    quiz(chapter, " ".join(right_letters(chapter)))
    shown, count = capsys.readouterr().out, len(QUIZZES[chapter])
    assert shown.splitlines()[-1] == f"{count} of {count} right."
    assert shown.count("✔ right.") == count and "not yet." not in shown
    for question in QUIZZES[chapter]:
        assert option_of(question, question.right)[1] in shown
    assert learner.load()["quizzes"] == {chapter: count}


@by_chapter
def test_a_wrong_option_shows_its_own_why_and_not_the_right_one(
    chapter: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for place, question in enumerate(QUIZZES[chapter]):
        for letter in wrong_letters(question):
            answers = right_letters(chapter)
            answers[place] = letter
            quiz(chapter, " ".join(answers))
            shown = capsys.readouterr().out
            option, why = option_of(question, letter)
            assert f"{place + 1}. {question.text}\n   {letter}) {option}\n   not yet. {why}\n" in shown
            right_option, right_why = option_of(question, question.right)
            assert right_why not in shown and f"{question.right}) {right_option}" not in shown
            assert shown.endswith(f"{len(answers) - 1} of {len(answers)} right.\n")


def test_spaces_commas_and_capitals_do_not_matter(capsys: pytest.CaptureFixture[str]) -> None:
    letters = right_letters("05")
    shown = []
    for answers in ("".join(letters), ", ".join(letters).upper(), "  " + ",".join(letters) + "\n"):
        quiz("05", answers)
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1] == shown[2] and "4 of 4 right." in shown[0]
    quiz("05", "  ")
    assert 'Answer with one letter a question, for example quiz("05", "' in capsys.readouterr().out


@pytest.mark.parametrize(
    ("chapter", "answers", "words"),
    [
        ("05", "a b c", "the quiz has 4 questions; got 3 letters, 'abc'"),
        ("05", "a b c a b", "the quiz has 4 questions; got 5 letters, 'abcab'"),
        ("05", "a b z a", "question 3 has the options a, b, c; got 'z'"),
        ("05", "1 2 3 1", "question 1 has the options a, b, c; got '1'"),
        ("99", "", "no quiz '99'; there are 00, 01,"),
        ("99", "a", "no quiz '99'; there are 00, 01,"),
        (5, "a b c a", "no quiz 5; there are 00, 01,"),
    ],
)
def test_what_cannot_be_judged_is_refused_and_not_recorded(
    chapter: str, answers: str, words: str, record: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ExerciseError) as caught:
        quiz(chapter, answers)
    assert words in str(caught.value)
    assert capsys.readouterr().out == "" and not record.exists()
