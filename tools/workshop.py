"""Plans for a workshop: which chapters, and a timetable computed from their minutes."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from utils import exercises
from utils.chapters import Chapter
from utils.errors import CourseError


class AgendaError(CourseError, ValueError):
    """An agenda does not fit into its day."""


@dataclass(frozen=True)
class Session:
    """A chapter on a plan, with its exercises up to a level (0: none)."""

    chapter: str
    level: int = 2


@dataclass(frozen=True)
class Pause:
    """A break of so many minutes."""

    minutes: int
    name: str = "Break"


@dataclass(frozen=True)
class Day:
    """A day, or the part of one that a workshop fills: minutes in all, and what happens in order."""

    minutes: int
    agenda: tuple[Session | Pause, ...]


# Each plan's days. The choice is ours; all minutes but those of the pauses and of the whole are computed.
PLANS: dict[str, tuple[Day, ...]] = {
    "90-minutes": (Day(90, (Session("00", 0), Session("05", 1))),),
    "half-day": (
        Day(210, (Session("00", 0), Session("01", 1), Pause(15), Session("05"), Pause(10), Session("15", 1))),
    ),
    "two-days": (
        Day(
            420,
            (
                *(Session("00"), Session("01"), Pause(15), Session("02"), Pause(60, "Lunch")),
                *(Session("03"), Session("04"), Pause(15), Session("05", 1)),
            ),
        ),
        Day(
            420,
            (
                *(Session("06"), Pause(15), Session("07"), Pause(60, "Lunch")),
                *(Session("09"), Pause(15), Session("12", 1), Session("15")),
            ),
        ),
    ),
}


def timetable(day: Day, chapters: Sequence[Chapter], seconds: Mapping[str, float | None]) -> str:
    """A day as a Markdown table with the time since its start; `seconds` is how long each chapter runs.

    What is left after reading, running, exercises and pauses is time to talk, shared out by the chapters' length.

    Raises:
        AgendaError: the agenda takes longer than the day.
    """
    known = {chapter.number: chapter for chapter in chapters}
    work = [_work(item, known[item.chapter], seconds) if isinstance(item, Session) else (0, 0) for item in day.agenda]
    pauses = sum(pause.minutes for pause in day.agenda if isinstance(pause, Pause))
    busy = sum(map(sum, work))
    talk = day.minutes - pauses - busy
    if talk < 0:
        raise AgendaError(f"the agenda takes {busy + pauses} minutes, the day has {day.minutes}")
    rows = ["| from | what | read and run | exercises | talk |", "| --- | --- | --- | --- | --- |"]
    clock = done = shared = 0
    for item, (read, practise) in zip(day.agenda, work, strict=True):
        start = f"{clock // 60}:{clock % 60:02}"
        if isinstance(item, Pause):
            rows.append(f"| {start} | {item.name}, {item.minutes} min | | | |")
            clock += item.minutes
            continue
        done += read + practise
        share = talk * done // busy - shared
        shared += share
        chapter = known[item.chapter]
        names = [exercise.id for exercise in _exercises(item)]
        tasks = f"{practise} min ({', '.join(names)})" if names else "at home"
        rows.append(f"| {start} | {chapter.number} · {chapter.title} | {read} min | {tasks} | {share} min |")
        clock += read + practise + share
    return "\n".join([*rows, f"| {clock // 60}:{clock % 60:02} | End | | | |"])


def _exercises(session: Session) -> list[exercises.Exercise]:
    return [
        exercise
        for exercise in exercises.all_exercises().values()
        if exercise.id.startswith(session.chapter + ".") and exercise.level <= session.level
    ]


def _work(session: Session, chapter: Chapter, seconds: Mapping[str, float | None]) -> tuple[int, int]:
    """Minutes to read and run a chapter, and for its exercises."""
    run = math.ceil((seconds.get(chapter.number) or 0) / 60)
    return chapter.read_minutes + run, sum(exercise.minutes for exercise in _exercises(session))


def tables(chapters: Sequence[Chapter], seconds: Mapping[str, float | None]) -> dict[str, str]:
    """The timetable of every day of every plan, by name: "90-minutes", ..., "two-days-2"."""
    return {
        name if len(days) == 1 else f"{name}-{number}": timetable(day, chapters, seconds)
        for name, days in PLANS.items()
        for number, day in enumerate(days, 1)
    }
