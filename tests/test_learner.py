"""The learner's record: kept across processes, mended when damaged, and never in the way of an answer."""

import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest

from utils.exercises import ExerciseError, NotYet, all_exercises, all_quizzes, check, get, progress, quiz
from utils.exercises import _learner as learner

COURSE = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this test's record is kept; nothing is there yet."""
    path = tmp_path / "kept here" / "progress.json"
    monkeypatch.setenv("COURSE_PROGRESS", str(path))
    return path


def started(code: str, *arguments: str) -> subprocess.Popen[str]:
    """Another Python process, which keeps its record in the same place."""
    command = [sys.executable, "-c", code, *arguments]
    environment = os.environ | {"PYTHONPATH": str(COURSE), "PYTHONIOENCODING": "utf-8"}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8"
    )


def finished(process: subprocess.Popen[str]) -> str:
    """What a process has printed; it must have ended well."""
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return output


def solve(exercise_id: str) -> None:
    check(exercise_id, get(exercise_id).answer)


def all_right(chapter: str) -> str:
    return " ".join(question.right for question in all_quizzes()[chapter])


def shown_row(output: str, chapter: str) -> str:
    (row,) = [line for line in output.splitlines() if line.startswith(f"{chapter} ")]
    return row


def test_it_is_kept_in_the_users_folder_unless_told_otherwise(record: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert learner.file() == record
    monkeypatch.delenv("COURSE_PROGRESS")
    assert learner.file().name == "progress.json" and learner.file().parent.name == "deepseek-by-the-numbers"
    assert learner.file().is_absolute()


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("COURSE_PROGRESS", "~/a folder/progress.json")
    solve("00.1")
    assert learner.file() == tmp_path / "a folder" / "progress.json"
    assert json.loads(learner.file().read_text(encoding="utf-8"))["exercises"].keys() == {"00.1"}
    monkeypatch.setenv("COURSE_PROGRESS", "~nobody of that name/progress.json")
    assert learner.file() == Path("~nobody of that name/progress.json")


def test_at_first_it_is_empty_and_looking_writes_nothing(record: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert learner.load() == {"exercises": {}, "quizzes": {}}
    progress()
    assert f"0 of {len(all_exercises())} exercises solved" in capsys.readouterr().out
    assert not record.parent.exists()


def test_it_survives_a_restart(capsys: pytest.CaptureFixture[str]) -> None:
    writes = (
        "from utils.exercises import check, get, quiz\n"
        "check('05.2', get('05.2').answer)\n"
        f"quiz('05', {all_right('05')!r})\n"
    )
    assert "05.2 ✔ right." in finished(started(writes))
    progress()
    here = capsys.readouterr().out
    there = finished(started("from utils.exercises import progress\nprogress()\n"))
    assert here == there
    assert "□■□□□□  1/6" in shown_row(here, "05") and " 4/4 " in shown_row(here, "05")


def test_the_first_date_is_kept(record: Path) -> None:
    solve("00.1")
    assert abs((date.today() - date.fromisoformat(learner.load()["exercises"]["00.1"])).days) <= 1
    record.write_text(json.dumps({"exercises": {"00.1": "2020-02-29"}, "quizzes": {}}), encoding="utf-8")
    solve("00.1")
    solve("00.2")
    kept = learner.load()["exercises"]
    assert kept["00.1"] == "2020-02-29" and kept["00.2"] > "2020-02-29"


def test_the_best_quiz_is_kept() -> None:
    wrong = ["b" if question.right == "a" else "a" for question in all_quizzes()["05"]]
    right = all_right("05").split()
    best = []
    for answers in (wrong, [*right[:2], *wrong[2:]], wrong, right, [*right[:3], wrong[3]]):
        quiz("05", "".join(answers))
        best.append(learner.load()["quizzes"]["05"])
    assert best == [0, 2, 2, 4, 4]


def test_only_a_right_answer_is_recorded(record: Path) -> None:
    with pytest.raises(NotYet):
        check("00.1", 17)
    check("00.1", ...)
    assert not record.exists()
    solve("00.1")
    before = record.read_bytes()
    with pytest.raises(NotYet):
        check("00.2", 17)
    with pytest.raises(NotYet):
        check("00.1", 17)
    assert record.read_bytes() == before


def test_progress_shows_what_is_done_and_where_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    for exercise_id in ("00.1", "00.2", "00.3", "02.2"):
        solve(exercise_id)
    quiz("00", all_right("00"))
    quiz("01", "c" * len(all_quizzes()["01"]))
    right = sum(question.right == "c" for question in all_quizzes()["01"])
    first, second = len(all_quizzes()["00"]), len(all_quizzes()["01"])
    capsys.readouterr()
    progress()
    output = capsys.readouterr().out
    assert shown_row(output, "00").split() == ["00", "■■■", "3/3", f"{first}/{first}", "all", "done"]
    assert shown_row(output, "01").split()[:4] == ["01", "□□□□□□", "0/6", f"{right}/{second}"]
    assert shown_row(output, "02").endswith("-/4   02.1, 02.3, 02.4, 02.5 (about 27 min), quiz")
    warm_up = sum(exercise.level == 1 for exercise in all_exercises().values())
    assert f"4 of {len(all_exercises())} exercises solved: 4 of {warm_up} warm-up, 0 of " in output
    assert f"{first + right} of {sum(map(len, all_quizzes().values()))} quiz questions right." in output
    assert output.splitlines()[-1] == "Go on with exercise 01.1."


def test_progress_is_a_table_of_moderate_width(capsys: pytest.CaptureFixture[str]) -> None:
    solve("09.2")
    quiz("13", all_right("13"))
    capsys.readouterr()
    progress()
    head, *rows = capsys.readouterr().out.splitlines()
    assert max(map(len, [head, *rows])) <= 100
    rows = rows[: len(all_quizzes())]
    for name in ("exercises", "quiz", "still to do"):
        place = head.index(name)
        assert all(row[place - 1] == " " != row[place] for row in [head, *rows]), name


def test_when_all_is_done_it_says_so(record: Path, capsys: pytest.CaptureFixture[str]) -> None:
    full = {
        "exercises": dict.fromkeys(all_exercises(), "2026-01-01"),
        "quizzes": {chapter: len(questions) for chapter, questions in all_quizzes().items()},
    }
    record.parent.mkdir()
    record.write_text(json.dumps(full), encoding="utf-8")
    progress()
    output = capsys.readouterr().out
    assert output.count("all done") == len(all_quizzes()) and "Go on" not in output and "□" not in output


def test_what_the_course_no_longer_has_is_ignored(record: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = {
        "exercises": {"00.1": "2026-01-01", "05.99": "2026-01-01", "99.1": "2026-01-01"},
        "quizzes": {"99": 3, "05": 40},
    }
    record.parent.mkdir()
    record.write_text(json.dumps(old), encoding="utf-8")
    progress()
    output = capsys.readouterr().out
    assert f"1 of {len(all_exercises())} exercises solved" in output and "99" not in output
    assert " 0/6 " in shown_row(output, "05") and " 4/4 " in shown_row(output, "05")
    solve("00.2")
    assert learner.load()["exercises"].keys() == {"00.1", "00.2", "05.99", "99.1"}  # it may come back


def test_one_chapter_can_be_forgotten(capsys: pytest.CaptureFixture[str]) -> None:
    for exercise_id in ("00.1", "05.2", "05.3"):
        solve(exercise_id)
    quiz("05", all_right("05"))
    quiz("06", all_right("06"))
    capsys.readouterr()
    progress(reset="05")
    output = capsys.readouterr().out
    assert output.startswith("Forgotten: chapter 05.\n") and " 0/6 " in shown_row(output, "05")
    kept = learner.load()
    assert kept["exercises"].keys() == {"00.1"} and kept["quizzes"] == {"06": 4}


def test_everything_can_be_forgotten(capsys: pytest.CaptureFixture[str]) -> None:
    solve("00.1")
    solve("05.2")
    quiz("05", all_right("05"))
    capsys.readouterr()
    progress(reset=True)
    assert capsys.readouterr().out.startswith("Forgotten: all chapters.\n")
    assert learner.load() == {"exercises": {}, "quizzes": {}}


@pytest.mark.parametrize("unknown", ["99", "5", "05.2", "all", 5])
def test_an_unknown_chapter_is_not_forgotten(unknown: str, record: Path, capsys: pytest.CaptureFixture[str]) -> None:
    solve("05.2")
    before = record.read_bytes()
    capsys.readouterr()
    with pytest.raises(ExerciseError, match=r"reset must be True or a chapter; got .*; there are 00, 01,"):
        progress(reset=unknown)
    assert record.read_bytes() == before and capsys.readouterr().out == ""


DAMAGED = {
    "broken JSON": b'{"exercises": {"00.1": "2026-01-',
    "empty": b"",
    "a list": b'[["00.1", "2026-01-01"]]',
    "a list in place of a table": b'{"exercises": ["00.1"], "quizzes": {}}',
    "a part is missing": b'{"exercises": {"00.1": "2026-01-01"}}',
    "a number of right answers is a word": b'{"exercises": {}, "quizzes": {"05": "all"}}',
    "no text": b"\xff\xfe\x00\x81",
}


@pytest.mark.parametrize("damaged", DAMAGED.values(), ids=DAMAGED)
@pytest.mark.parametrize("touch", [lambda: solve("00.2"), progress], ids=["solve", "progress"])
def test_a_damaged_file_is_kept_aside(
    damaged: bytes, touch: Callable[[], None], record: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record.parent.mkdir()
    record.write_bytes(damaged)
    touch()
    output = capsys.readouterr().out
    assert (
        "The file of your progress is damaged. It is kept as progress-damaged-1.json, and a new one begins.\n" in output
    )
    assert record.with_name("progress-damaged-1.json").read_bytes() == damaged
    solve("00.3")
    assert "00.3" in learner.load()["exercises"]


def test_a_second_damaged_file_does_not_replace_the_first(record: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record.parent.mkdir()
    for number, damaged in enumerate((b"first", b"second"), 1):
        record.write_bytes(damaged)
        solve("00.1")
        assert f"It is kept as progress-damaged-{number}.json" in capsys.readouterr().out
    assert record.with_name("progress-damaged-1.json").read_bytes() == b"first"
    assert record.with_name("progress-damaged-2.json").read_bytes() == b"second"
    assert learner.load()["exercises"].keys() == {"00.1"}


def test_a_place_that_cannot_be_written_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a file").write_text("no folder", encoding="utf-8")
    monkeypatch.setenv("COURSE_PROGRESS", str(tmp_path / "a file" / "progress.json"))
    solve("00.1")
    told, right = capsys.readouterr().out.splitlines()
    assert told.startswith("Your progress cannot be kept in ") and "COURSE_PROGRESS can name another file." in told
    assert right.startswith("00.1 ✔ right.")
    quiz("00", all_right("00"))
    lines = capsys.readouterr().out.splitlines()
    assert (
        lines[-1] == f"{len(all_quizzes()['00'])} of {len(all_quizzes()['00'])} right."
        and sum("cannot be kept" in line for line in lines) == 1
    )
    progress(reset=True)
    output = capsys.readouterr().out
    assert "cannot be kept" in output and "Forgotten" not in output
    assert f"0 of {len(all_exercises())} exercises solved" in output


def test_a_write_that_fails_names_its_reason(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(self: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    solve("00.1")
    assert "(No space left on device)" in capsys.readouterr().out
    assert learner.load() == {"exercises": {}, "quizzes": {}}


def test_two_processes_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    writes = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from utils.exercises import _learner as learner\n"
        "name, folder = sys.argv[1], Path(sys.argv[2])\n"
        "(folder / f'ready {name}').touch()\n"
        "while not (folder / 'go').exists():\n"
        "    time.sleep(0.001)\n"
        "for number in range(60):\n"
        "    learner.solved(f'{name}.{number}')\n"
        "    learner.answered(f'{name}{number}', number)\n"
    )
    processes = [started(writes, name, str(tmp_path)) for name in "xy"]
    until = time.monotonic() + 60
    while not all((tmp_path / f"ready {name}").exists() for name in "xy"):
        assert time.monotonic() < until, [process.poll() for process in processes]
        time.sleep(0.01)
    (tmp_path / "go").touch()
    assert [finished(process) for process in processes] == ["", ""]
    kept = learner.load()
    assert kept["exercises"].keys() == {f"{name}.{number}" for name in "xy" for number in range(60)}
    assert kept["quizzes"] == {f"{name}{number}": number for name in "xy" for number in range(60)}
