"""Plans for a workshop: the timetable of each of their days, computed from the chapters' minutes.

The choice is ours and lies in `workshop.json`: how long a day is, and its agenda in order. An entry is a chapter with
the highest level of its exercises that fit (0: none), or a pause with its minutes.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from utils import exercises
from utils.chapters import Chapter
from utils.errors import CourseError


class AgendaError(CourseError, ValueError):
    """An agenda does not fit into its day."""


def days() -> dict[str, dict[str, Any]]:
    """The days of all plans by name: "90-minutes", ..., "two-days-2", each with its `minutes` and its `agenda`."""
    return json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))


def timetable(
    minutes: int, agenda: Sequence[tuple[str, int]], chapters: Sequence[Chapter], seconds: Mapping[str, float | None]
) -> str:
    """A day as a Markdown table with the time since its start; `seconds` is how long each chapter runs.

    What is left after reading, running, exercises and pauses is time to talk, shared out by the chapters' length.

    Raises:
        AgendaError: the agenda takes longer than the day.
    """
    known = {chapter.number: chapter for chapter in chapters}
    run = {number: math.ceil((seconds.get(number) or 0) / 60) for number in known}
    tasks = [
        [task for task in exercises.all_exercises().values() if task.id.startswith(f"{name}.") and task.level <= level]
        for name, level in agenda
    ]
    read = [known[name].read_minutes + run[name] if name.isdigit() else 0 for name, _ in agenda]
    practise = [sum(task.minutes for task in some) for some in tasks]
    busy = sum(read) + sum(practise)
    talk = minutes - busy - sum(length for name, length in agenda if not name.isdigit())
    if talk < 0:
        raise AgendaError(f"the agenda takes {minutes - talk} minutes, the day has {minutes}")
    rows = ["| from | what | read and run | exercises | talk |", "| --- | --- | --- | --- | --- |"]
    clock = done = shared = 0
    for place, (name, length) in enumerate(agenda):
        start = f"{clock // 60}:{clock % 60:02}"
        if not name.isdigit():
            rows.append(f"| {start} | {name}, {length} min | | | |")
            clock += length
            continue
        work = read[place] + practise[place]
        done += work
        share = talk * done // busy - shared
        shared += share
        ids = ", ".join(task.id for task in tasks[place])
        home = f"{practise[place]} min ({ids})" if ids else "at home"
        rows.append(f"| {start} | {name} · {known[name].title} | {read[place]} min | {home} | {share} min |")
        clock += work + share
    return "\n".join([*rows, f"| {clock // 60}:{clock % 60:02} | End | | | |"])


def tables(chapters: Sequence[Chapter], seconds: Mapping[str, float | None]) -> dict[str, str]:
    """The timetable of each day, by its name."""
    return {name: timetable(**day, chapters=chapters, seconds=seconds) for name, day in days().items()}
