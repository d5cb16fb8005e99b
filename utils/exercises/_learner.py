"""What a learner has solved: kept in one small file on this machine, across restarts, and nowhere else.

`check` and `quiz` record right answers here; `progress` shows them. `COURSE_PROGRESS` names another file (~ is the home
folder), for instance on a Drive that outlives a Colab session.
"""

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock
from platformdirs import user_data_path

from utils import files

EXERCISES = "exercises"  # in the file: exercise id -> when it was first solved
QUIZZES = "quizzes"  # chapter -> best number of right answers


def file() -> Path:
    """Where the record is kept."""
    named = os.environ.get("COURSE_PROGRESS")
    return Path(os.path.expanduser(named)) if named else user_data_path("deepseek-by-the-numbers") / "progress.json"


def _empty() -> dict[str, dict[str, Any]]:
    return {EXERCISES: {}, QUIZZES: {}}


def load() -> dict[str, dict[str, Any]]:
    """The record: {"exercises": {id: date}, "quizzes": {chapter: right answers}}.

    A file that is not such a record is kept aside under another name, and said so; the record then starts empty.
    """
    path = file()
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if not all(isinstance(record[part], dict) for part in (EXERCISES, QUIZZES)):
            raise ValueError("a part is not a table")
        if not all(isinstance(right, int) for right in record[QUIZZES].values()):
            raise ValueError("a number of right answers is no number")
        return record
    except FileNotFoundError:
        return _empty()
    except OSError as error:
        print(f"Your progress in {path} cannot be read ({error.strerror}). It is shown as empty.")
        return _empty()
    except (ValueError, KeyError, TypeError):  # not JSON, or not of this form
        aside = next(
            candidate
            for number in range(1, 10_000)
            if not (candidate := path.with_name(f"{path.stem}-damaged-{number}{path.suffix}")).exists()
        )
        try:
            path.replace(aside)
            print(f"The file of your progress is damaged. It is kept as {aside.name}, and a new one begins.")
        except OSError as error:
            print(f"The file of your progress, {path}, is damaged and cannot be moved aside ({error.strerror}).")
        return _empty()


def solved(exercise_id: str) -> None:
    """Keep that an exercise is solved; the first date stays."""
    _change(lambda record: record[EXERCISES].setdefault(exercise_id, datetime.now(UTC).date().isoformat()))


def answered(chapter: str, right: int) -> None:
    """Keep how many questions of a chapter's quiz were answered right; the best attempt stays."""
    _change(lambda record: record[QUIZZES].update({chapter: max(right, record[QUIZZES].get(chapter, 0))}))


def reset(chapter: str | None = None) -> bool:
    """Forget what was solved in a chapter, or in all of them. Returns whether that could be written."""

    def forget(record: dict[str, dict[str, Any]]) -> None:
        for part in (EXERCISES, QUIZZES):
            record[part] = {key: kept for key, kept in record[part].items() if chapter and key[:2] != chapter}

    return _change(forget)


def _change(change: Any) -> bool:
    """Read, change and write the record at one stroke; two notebooks may do so at the same time.

    An answer is worth more than its record: where the file cannot be written, this says so, goes on, and returns False.
    """
    path = file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(path.name + ".lock"), timeout=10):
            record = load()
            change(record)
            files.write(path, json.dumps(record, indent=1) + "\n")
        return True
    except OSError as error:
        reason = getattr(error.__cause__ or error, "strerror", None) or type(error).__name__
        print(f"Your progress cannot be kept in {path} ({reason}). COURSE_PROGRESS can name another file.")
        return False
