"""Chinese beside English: the glossary, and the chapters' titles, objectives and verdicts in both languages.

The texts lie in `site/glossary.json` and `site/zh.json`. `tools.generated` writes what this module makes
of them into the notebooks, `docs/glossary.md` and `README.zh-CN.md`.
"""

import functools
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from utils import chapters
from utils.chapters import Chapter
from utils.claims import Verdict, ledger

GLOSSARY = "../docs/glossary.md"  # as a chapter links to it
NOT_YET = ("not yet measured", "尚未测量")
OUTCOMES = {"holds": "成立", "holds if": "有条件成立", "refuted": "不成立", "cannot be told here": "此处无法判定"}


@dataclass(frozen=True)
class Term:
    """One term of the glossary.

    Attributes:
        term: in English; its place in the alphabet and its anchor come from it.
        zh: in Chinese.
        definition: one short sentence in English.
        definition_zh: the same in Chinese.
        chapters: where it matters, the chapter that explains it first.
    """

    term: str
    zh: str
    definition: str
    definition_zh: str
    chapters: list[str]

    @property
    def anchor(self) -> str:
        """The part of a link to it after '#'."""
        return anchor(self.term)


def anchor(heading: str) -> str:
    """What GitHub makes of a heading as the part of a link after '#'."""
    return re.sub(r"[^a-z0-9_ -]", "", heading.lower()).replace(" ", "-")


TEXTS = chapters.ROOT / "site"


def _data(name: str) -> Any:
    return json.loads((TEXTS / name).read_text(encoding="utf-8"))


@functools.cache
def glossary() -> list[Term]:
    """All terms, in English alphabetical order."""
    return [Term(**record) for record in _data("glossary.json")]


@functools.cache
def chinese() -> dict[str, dict[str, Any]]:
    """Contents of `site/zh.json`: `chapters` by number, `claims` by id, `conditions` by their English text."""
    return _data("zh.json")


def block(number: str) -> str:
    """A chapter's title, question, objectives and terms in Chinese, folded up, and a link to the glossary."""
    words = f"**Words:** [glossary]({GLOSSARY}), English and Chinese."
    known = chinese()["chapters"].get(number)
    if known is None:
        return words
    objectives = "\n".join(f"{place}. {text}" for place, text in enumerate(known["objectives"], 1))
    own = [term for term in glossary() if term.chapters[0] == number]
    terms = " · ".join(f"[{term.term}]({GLOSSARY}#{term.anchor}) {term.zh}" for term in own)
    inside = [
        '<details lang="zh-CN"><summary>中文：标题与目标</summary>',
        f"**{number} · {known['title']}**",
        f"**本章的问题**：{known['question']}",
        "学完本章，你能够：",
        objectives,
        f"**本章术语**：{terms}" if terms else "",
        "</details>",
        words,
    ]
    return "\n\n".join(filter(None, inside))


def glossary_terms(chapters: Iterable[Chapter]) -> str:
    """The terms as Markdown, under their first letters; each term is a heading and so an anchor."""
    files = {chapter.number: chapter.file for chapter in chapters}
    parts = []
    for letter, terms in itertools.groupby(glossary(), key=lambda term: term.term[0].upper()):
        parts.append(f"## {letter}")
        for term in terms:
            links = ", ".join(f"[{n}](../notebooks/{files[n]})" for n in term.chapters if n in files)
            parts.append(f"### {term.term}")
            parts.append(f"**{term.zh}** · {'chapters' if len(term.chapters) > 1 else 'chapter'} {links}")
            parts.append(f"{term.definition}<br>{term.definition_zh}")
    return "\n\n".join(parts)


def chapter_map(measured: Iterable[tuple[Chapter, str, str]], links: str = "notebooks/") -> str:
    """The chapters as a Markdown table in Chinese.

    Args:
        measured: each chapter with its running time and memory, written out.
        links: folder to put before each notebook's name in its link.
    """
    rows = [["章节", "要回答的问题", "阅读", "练习", "运行", "内存"], ["---"] * 6]
    for chapter, runs_in, memory in measured:
        known = chinese()["chapters"].get(chapter.number, {"title": chapter.title, "question": chapter.question})
        name = f"[{chapter.number} · {known['title']}]({links}{chapter.file})"
        times = [f"{chapter.read_minutes} 分钟", f"{chapter.exercise_minutes} 分钟"]
        rows.append(
            [name, known["question"], *times, runs_in.replace(" s", " 秒").replace(*NOT_YET), memory.replace(*NOT_YET)]
        )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def scoreboard(verdicts: Sequence[Verdict]) -> str:
    """The verdicts as a Markdown table in Chinese, and a line that counts them."""
    rows = ["| 编号 | 文章的说法 | 判定 | 章 |", "|---|---|---|---|"]
    for found in sorted(verdicts, key=lambda found: found.claim):
        condition = found.verdict.partition("holds if ")[2]
        outcome = _outcome(found)
        known = chinese()["conditions"].get(condition)
        text = chinese()["claims"].get(found.claim, found.text).replace("|", "\\|")
        rows.append(f"| {found.claim} | {text} | **{outcome}**{f'：{known}' if known else ''} | {found.chapter} |")
    return "\n".join(rows) + f"\n\n{chinese_tally(verdicts)}"


def _outcome(found: Verdict) -> str:
    kind, condition, _ = found.verdict.partition("holds if ")
    return OUTCOMES["holds if" if condition else kind]


def chinese_tally(verdicts: Sequence[Verdict]) -> str:
    """How many claims have which verdict, in one line."""
    outcomes = Counter(map(_outcome, verdicts))
    counts = "，".join(f"{outcome} {outcomes[outcome]} 条" for outcome in OUTCOMES.values() if outcomes[outcome])
    done = len(verdicts) == len(ledger())
    judged = f"{len(ledger())} 条均已判定" if done else f"{len(ledger())} 条中 {len(verdicts)} 条已判定"
    return f"{judged}：{counts}。"
