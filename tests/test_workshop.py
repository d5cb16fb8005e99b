"""Workshop plans: their minutes add up, and an agenda that is too long is refused."""

import re

import pytest

from tools import workshop
from tools.generated import measured
from utils import chapters
from utils.chapters import Chapter

CHAPTERS = [
    Chapter("01", "01_x.ipynb", "One", "Why?", 20, 34),
    Chapter("02", "02_x.ipynb", "Two", "", 10, 0),
]
SECONDS = {"01": 61, "02": None}
RECORDED = {number: found.seconds for number, found in measured().items()}


def test_a_timetable_adds_up_and_shares_out_the_time_to_talk():
    rows = workshop.timetable(60, [("01", 1), ("Break", 5), ("02", 0)], CHAPTERS, SECONDS).splitlines()[2:]
    # 20 min and 61 s: 22 to read and run; 5 + 4 warm-ups; 60 - 5 - 22 - 9 - 10 = 14 to talk, 10 of them with chapter 01
    assert rows == [
        "| 0:00 | 01 · One | 22 min | 9 min (01.1, 01.2) | 10 min |",
        "| 0:41 | Break, 5 min | | | |",
        "| 0:46 | 02 · Two | 10 min | at home | 4 min |",
        "| 1:00 | End | | | |",
    ]


def test_a_chapter_may_stand_on_an_agenda_twice():
    once = workshop.timetable(60, [("02", 0)], CHAPTERS, SECONDS).splitlines()
    twice = workshop.timetable(60, [("02", 0), ("02", 0)], CHAPTERS, SECONDS).splitlines()
    assert once[-1] == twice[-1] == "| 1:00 | End | | | |"
    assert twice[2:4] == [
        "| 0:00 | 02 · Two | 10 min | at home | 20 min |",
        "| 0:30 | 02 · Two | 10 min | at home | 20 min |",
    ]


def test_an_agenda_that_is_too_long_says_by_how_much():
    with pytest.raises(ValueError, match="the agenda takes 46 minutes, the day has 45"):
        workshop.timetable(45, [("01", 1), ("Break", 5), ("02", 0)], CHAPTERS, SECONDS)


@pytest.mark.parametrize("day", workshop.days().values(), ids=workshop.days())
def test_every_plan_fills_its_time_and_leaves_some_to_talk(day):
    table = workshop.timetable(**day, chapters=chapters.all_chapters(), seconds=RECORDED)
    assert f"| {day['minutes'] // 60}:{day['minutes'] % 60:02} | End |" in table
    talk = sum(map(int, re.findall(r"(\d+) min \|$", table, re.MULTILINE)))
    assert talk >= 0.1 * day["minutes"]


def test_no_plan_needs_the_part_for_further_study():
    planned = {what for days in workshop.days().values() for what, _ in days["agenda"]}
    assert {"00", "15"} <= planned and not planned & set(chapters.PARTS[chapters.FURTHER])
    guide = (chapters.ROOT / "docs" / "workshop.md").read_text(encoding="utf-8")
    assert f"{chapters.FURTHER} (further study) |" in guide and guide.count("(further study)") == 1


def test_the_guide_has_a_place_for_every_table_and_the_readme_links_it():
    guide = (chapters.ROOT / "docs" / "workshop.md").read_text(encoding="utf-8")
    for name in ("parts", *workshop.tables(chapters.all_chapters(), RECORDED)):
        assert f"<!-- {name} -->" in guide and f"<!-- /{name} -->" in guide
    assert "(docs/workshop.md)" in (chapters.ROOT / "README.md").read_text(encoding="utf-8")
