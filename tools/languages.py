"""Chinese beside English: the glossary, and the chapters' titles, objectives and verdicts in both languages.

The texts lie in `site/glossary.json` and `site/zh.json`. `tools.generated` writes what this module makes
of them into the notebooks, `docs/glossary.md` and `README.zh-CN.md`.
"""

import functools
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tools.templates import SITE, rendered
from utils.claims import Verdict, by_family, ledger

GLOSSARY = "../docs/glossary.md"  # as a chapter links to it
SOURCES = {"C": "文章", "D": "DeepSeek 报告"}  # who claims it, see `claims.FAMILIES`
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
        """The part of a link to it after '#', as GitHub makes it of its heading."""
        return re.sub(r"[^a-z0-9_ -]", "", self.term.lower()).replace(" ", "-")


@functools.cache
def glossary() -> list[Term]:
    """All terms, in English alphabetical order."""
    return [Term(**record) for record in json.loads((SITE / "glossary.json").read_text(encoding="utf-8"))]


@functools.cache
def chinese() -> dict[str, dict[str, Any]]:
    """Contents of `site/zh.json`: `chapters` by number, `claims` by id, `conditions` by their English text."""
    return json.loads((SITE / "zh.json").read_text(encoding="utf-8"))


def block(number: str) -> str:
    """A chapter's title, question, objectives and terms in Chinese, folded up, and a link to the glossary."""
    own = [term for term in glossary() if term.chapters[0] == number]
    known = chinese()["chapters"].get(number)
    return rendered("templates/chapter.zh.md.j2", number=number, known=known, terms=own, glossary=GLOSSARY)


def scoreboard(verdicts: Sequence[Verdict]) -> str:
    """The verdicts as Markdown tables in Chinese, one for each family of claims, and lines that count them."""
    values = {"families": by_family(verdicts), "sources": SOURCES, "tally": chinese_tally(verdicts)}
    return rendered("templates/verdicts.zh.md.j2", **chinese(), **values, outcome=_outcome)


def _outcome(found: Verdict) -> str:
    kind, condition, _ = found.verdict.partition("holds if ")
    return OUTCOMES["holds if" if condition else kind]


def chinese_tally(verdicts: Sequence[Verdict]) -> str:
    """How many claims have which verdict: a paragraph for each family of claims."""
    return "\n\n".join(_tally(family, found) for family, found in by_family(verdicts).items())


def _tally(family: str, verdicts: Sequence[Verdict]) -> str:
    outcomes = Counter(map(_outcome, verdicts))
    counts = "，".join(f"{outcome} {outcomes[outcome]} 条" for outcome in OUTCOMES.values() if outcomes[outcome])
    known = sum(key[0] == family for key in ledger())
    judged = f"{known} 条均已判定" if len(verdicts) == known else f"{known} 条中 {len(verdicts)} 条已判定"
    return f"{SOURCES[family]}的说法，{judged}：{counts or '无'}。"
