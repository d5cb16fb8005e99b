"""Commissions: somebody asks for a deployment, and `utils.planner` judges what a learner hands in.

An answer is a dictionary with the `FIELDS`, which are arguments of `planner.plan`. Many answers are right. The
planner's times are lower bounds: a deployment is refused where even the bound misses what is asked, and passes where
the bound allows it. The cheapest is found by trying all deployments within the ranges that a `Request` states.
"""

import contextlib
import functools
import itertools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from utils import catalog, planner, shapes
from utils.errors import CourseError
from utils.exercises import Exercise, Judgement, _answers

FIELDS = ("model", "precision", "hardware", "split", "batch")
BATCHES = tuple(2**n for n in range(10))  # what the search tries where no number of users sets the batch
MOST = 4096  # the largest batch that is judged

# What is told about the traps, after the numbers of the case.
PHANTOM = "The name comes from an article; no model of that size exists (chapter 06)."
FUSED = "The experts are stored fused, and bitsandbytes leaves them in 16 bits without a word (chapter 06)."
LATENT = (
    "A tensor split cuts heads. MLA's latent and V4's one entry belong to all of them: every card keeps them whole "
    "(chapter 08)."
)
REACH = "A model reads no further than its positions reach, however few places it looks at (chapter 16)."
SPLIT = "Another split of the same cards leaves room on each."
HEADS = "Plain multi-head attention keeps keys and values of every head (chapter 01). Others keep far less."
CACHE = "Fewer bits for the weights, larger cards, or more of them make room for it."
BATCH = "Each further conversation takes its own cache (chapter 07). How many fit beside the weights?"
WEIGHTS = "Fewer bits, larger cards, or more of them are needed before there is any cache."
QUEUE = "All who ask at the same time need a place in the batch."
GROUPS = "Each group of a data split reads its prompts alone; tensor and pipeline splits share a prompt."
PREFILL = "The whole prompt is read before the first word. That is arithmetic: FLOP/s count here, not memory."
STEP = "Each step reads weights and cache. Cut them over more cards, or take faster memory."
THROUGHPUT = "A step reads the weights once for the whole batch (chapter 07): a larger one writes more in that time."
PROMPTS = (
    "Reading the prompts alone takes that long, whatever the batch. More arithmetic is needed, or a smaller model."
)
DEAR = "Something cheaper meets everything."


@dataclass(frozen=True)
class Request:
    """What somebody asks for.

    Attributes:
        models, precisions: what may be used. Weights as published may be as well.
        cards: price of an hour of each card to be had, in dollars.
        counts: how many of a card can be rented.
        context, answer: tokens of a conversation, and how many of them are written.
        first_token, each_token: seconds that are allowed until the first token of a prompt that comes alone, and for
            each further one.
        budget: dollars an hour.
        users: how many ask at the same time; 0 where nobody waits.
        per_hour: answers that are needed in an hour; 0 where only the times count.
        bitsandbytes: weights in 8 bits are loaded by bitsandbytes, not by a server that knows all formats.
    """

    models: tuple[str, ...]
    precisions: tuple[str, ...]
    cards: dict[str, float]
    counts: tuple[int, ...]
    context: int
    answer: int
    first_token: float
    each_token: float
    budget: float
    users: int = 0
    per_hour: int = 0
    bitsandbytes: bool = False

    @property
    def batches(self) -> tuple[int, ...]:
        """The batches that a search tries."""
        return (self.users,) if self.users else BATCHES


class _Refused(Exception):
    """What was handed in cannot be planned, or is not what is asked for; the message is one line."""


@dataclass(frozen=True)
class _Point:
    """One thing that is asked for: what the plan gives, what is wanted, and whether that is met."""

    name: str
    got: str
    wanted: str
    met: bool


@dataclass(frozen=True)
class Commission(Exercise):
    """An exercise whose answer is a deployment for a request.

    `mistakes` are deployments that fall into its traps, and what each is told after its numbers.
    """

    request: Request = field(kw_only=True)

    def results(self, answer: Any) -> list:
        """The deployment in a list of one; `...` if nothing is filled in."""
        [given] = _answers.results(answer, ())
        if isinstance(given, _answers.Unordered) and given and all(_is_field(part) for part in given):
            fields = [[key, _answers.fitted(value, 0)] for key, value in given]
            return [...] if all(value is ... for _, value in fields) else [_answers.Unordered(fields)]
        return [given]

    def judge(self, given: list) -> Judgement:
        """Whether a deployment meets the request, a table of what it gives, and what to tell."""
        try:
            made = self._planned(self._allowed(self._read(given[0])))
        except _Refused as refusal:
            return Judgement(False, str(refusal))
        points, times = self._points(made), self._hourly(made) / self.cheapest
        rows = [(p.name, f"{p.got}, {p.wanted}", "✔" if p.met else "✘") for p in points]
        dearer = "as much" if math.isclose(times, 1) else f"{times:.2g} times as much"
        if all(point.met for point in points):
            rows.append(("a million tokens", f"${self._cost(made):,.2f} at the least, prompts included", ""))
            rows.append(("the cheapest", f"${self.cheapest:,.2f} an hour; this one costs {dearer}", ""))
        head = f"{made.model} ({made.precision}) on {made.hardware}: {made.split}; batch {made.batch:,}"
        report = "\n".join([head, *(f"  {name:<17}{told:<55}{mark}".rstrip() for name, told, mark in rows)])
        for point in points:
            if not point.met:
                bound = "" if point.name in ("each card", "the price") else "Even the bound misses that. "
                told = f"{point.name}: {point.got}, {point.wanted}. {bound}{self._why(point.name, made)}"
                return Judgement(False, told[0].upper() + told[1:], report)
        rival = "Nothing cheaper does it." if dearer == "as much" else f"The cheapest is ${self.cheapest:,.2f} an hour."
        return Judgement(True, f"Each card has room, and the bounds allow the rest. {rival} {self.after}", report)

    @functools.cached_property
    def cheapest(self) -> float:
        """Dollars an hour of the cheapest deployment that meets everything."""
        return next(self.right_ones())[0]

    def right_ones(self) -> Iterator[tuple[float, dict[str, Any]]]:
        """All deployments that meet everything, with their dollars an hour, the cheapest first.

        All models, precisions, cards, numbers of cards and splits of the request, with its `batches`.
        """
        r = self.request
        models = [m.name for m in catalog.distinct_shapes(map(catalog.get, r.models)) if self._reads(m.name)]
        offers = sorted((n * price, n, card) for card, price in r.cards.items() for n in r.counts)
        least = {}  # bytes of weights and cache, which all cards together must hold
        for model, precision in itertools.product(models, r.precisions):
            one = (model, precision, f"1x{min(r.cards)}", "one card", r.batches[0])
            made = self._planned(dict(zip(FIELDS, one, strict=True)))
            least[model, precision] = made.weights + made.cache
        for (hourly, number, card), (model, precision) in itertools.product(offers, least):
            if hourly > r.budget or least[model, precision] > number * planner.HARDWARE[card].room:
                continue
            for split, batch in itertools.product(splits(number), r.batches):
                deployment = dict(zip(FIELDS, (model, precision, f"{number}x{card}", split, batch), strict=True))
                with contextlib.suppress(_Refused):  # the model cannot be split so
                    if all(point.met for point in self._points(self._planned(deployment))):
                        yield hourly, deployment

    def _read(self, given: Any) -> dict[str, Any]:
        """The fields of a deployment: texts, and a batch that is a whole number."""
        form = "{" + ", ".join(f'"{name}": ...' for name in FIELDS) + "}"
        if not isinstance(given, _answers.Unordered) or not given or not all(map(_is_field, given)):
            raise _Refused(f"Hand in a deployment, {form}; got {_answers.short(given)}.")
        fields = dict(map(tuple, given))
        if extra := [name for name in fields if name not in FIELDS]:
            raise _Refused(f"A deployment is {form}; got {_answers.short(extra[0])} as well.")
        if missing := [name for name in FIELDS if fields.get(name, ...) is ...]:
            raise _Refused(f"Still open: {', '.join(missing)}.")
        for name in FIELDS[:-1]:
            if not isinstance(fields[name], str):
                raise _Refused(f"{name} must be a text; got {_answers.short(fields[name])}.")
            fields[name] = fields[name].strip()[:60]
        batch = fields["batch"]
        if not _answers.is_number(batch) or batch != int(batch) or not 1 <= batch <= MOST:
            raise _Refused(f"batch must be a whole number from 1 to {MOST:,}; got {_answers.short(batch)}.")
        return fields | {"batch": int(batch)}

    def _allowed(self, deployment: dict[str, Any]) -> dict[str, Any]:
        """The same deployment, if the request allows all of it, with the name of the model as in the catalog."""
        r, (given, precision, hardware, split, batch) = self.request, (deployment[name] for name in FIELDS)
        try:
            model = catalog.get(given).name
        except catalog.UnknownModel:
            phantom = re.search(r"deepseek\W*(13|24)b", given.lower())
            told = PHANTOM if phantom else f"{_either(r.models)} can be used."
            raise _Refused(f"model: there is no {given!r}. {told}") from None
        if model not in r.models:
            raise _Refused(f"model: {model} was not tried. {_either(r.models)} can be used.")
        if not self._reads(model):
            limit = catalog.get(model).config["max_position_embeddings"]
            raise _Refused(f"model: {model} reads {limit:,} tokens at most, {r.context:,} are asked. {REACH}")
        said = re.match(r"-?\d+", hardware)
        if said and int(said[0]) not in r.counts:  # before planning: with thousands of cards, that takes long
            raise _Refused(f"hardware: {_either(map(str, r.counts))} of a card can be rented; got {hardware!r}.")
        try:
            whole = self._plan(model, precision, {"hardware": hardware, "split": None, "batch": 1})
        except CourseError as error:
            raise _Refused(f"{error}.") from None
        number, card = _rented(whole)
        if card not in r.cards:
            raise _Refused(f"hardware: {card} is not to be had; {_either(r.cards)} is.")
        if number not in r.counts:
            raise _Refused(f"hardware: {_either(map(str, r.counts))} of a card can be rented; got {hardware!r}.")
        if whole.precision not in (formats := dict.fromkeys(("published", *r.precisions))):
            raise _Refused(f"precision: {whole.precision} is not allowed here; {_either(formats)} is.")
        ways = _ways(split.partition(",")[0].lower().replace("expert", "data"))
        if math.prod(ways.values()) != number or not (ways or split.lower() == "one card"):
            example = "one card" if number == 1 else f"data {number}"
            raise _Refused(f"split must be for {whole.hardware}, for example {example!r}; got {split!r}.")
        if ways.get("tensor", 1) > planner.NODE:
            raise _Refused(f"split: a tensor split stays within a machine of {planner.NODE} cards; got {split!r}.")
        if batch < r.users:
            raise _Refused(f"batch: {batch} at a time, {r.users} ask at the same time. {QUEUE}")
        return deployment | {"model": model}

    def _planned(self, deployment: dict[str, Any]) -> planner.Plan:
        """The plan of a deployment that is allowed. Raises _Refused if the model cannot be split so."""
        try:
            made = self._plan(deployment["model"], deployment["precision"], deployment)
        except CourseError as error:
            raise _Refused(f"{error}.") from None
        if self._fused(made):
            quantized = {"quant_method": "bitsandbytes", "load_in_8bit": True, "modules_to_not_convert": ["experts"]}
            config = catalog.get(made.model).config | {"quantization_config": quantized}
            names = {"model": made.model, "precision": made.precision}
            made = replace(self._plan(config, "published", deployment), **names)
        return made

    def _plan(self, model: Any, precision: str, deployment: dict[str, Any]) -> planner.Plan:
        hardware, split, batch = (deployment[name] for name in ("hardware", "split", "batch"))
        r = self.request
        return planner.plan(model, hardware, precision, r.context, batch, answer=r.answer, split=split, price=1)

    def _reads(self, model: str) -> bool:
        """Whether the model's positions reach as far as a conversation."""
        return self.request.context <= catalog.get(model).config["max_position_embeddings"]

    def _fused(self, made: planner.Plan) -> bool:
        """Whether experts stay in 16 bits although 8 are asked for."""
        mixture = "n_routed_experts" in catalog.get(made.model).config
        return self.request.bitsandbytes and mixture and made.precision == "int8"

    def _hourly(self, made: planner.Plan) -> float:
        number, card = _rented(made)
        return number * self.request.cards[card]

    def _cost(self, made: planner.Plan) -> float:
        """Least dollars for a million written tokens: with the answers that are asked for, or with every user busy."""
        return self._hourly(made) / (min(self._answers(made), self.request.per_hour or math.inf) * made.answer / 1e6)

    def _answers(self, made: planner.Plan) -> float:
        """How many answers an hour allows at the most. The plan's cost is for cards at a dollar an hour each."""
        busy = min(1, self.request.users / made.batch) if self.request.users else 1
        return busy * _rented(made)[0] / (made.cost * made.answer / 1e6)

    def _points(self, made: planner.Plan) -> list[_Point]:
        """What is asked for, in the order in which it is judged."""
        r, hourly = self.request, self._hourly(made)
        first, each, answers = made.first_token_seconds, made.step_seconds, self._answers(made)
        points = [
            _Point("each card", _gb(made.fullest) + " on the fullest", _gb(made.room) + " of room", made.fits),
            _Point(
                "the first token", f"{first:.3g} s at the least", f"{r.first_token} s asked", first <= r.first_token
            ),
            _Point("each token", f"{each:.3g} s at the least", f"{r.each_token} s asked", each <= r.each_token),
        ]
        if r.per_hour:
            wanted = f"{r.per_hour:,} asked"
            points.append(_Point("answers an hour", f"{answers:,.0f} at the most", wanted, answers >= r.per_hour))
        price = f"${hourly:,.2f} an hour"
        return [*points, _Point("the price", price, f"${r.budget:,.2f} to spend", hourly <= r.budget)]

    def _why(self, name: str, made: planner.Plan) -> str:
        """The hint that fits what is not met."""
        match name:
            case "each card":
                return self._why_full(made)
            case "the first token":
                return GROUPS if "data" in made.split else PREFILL
            case "each token":
                return STEP
            case "answers an hour":
                return PROMPTS if 3600 * made.batch < self.request.per_hour * made.prefill_seconds else THROUGHPUT
        return DEAR

    def _why_full(self, made: planner.Plan) -> str:
        """Why the fullest card has no room: the first cause without which it had."""
        config, ways = catalog.get(made.model).config, {"pipeline": 1, "data": 1, "tensor": 1} | _ways(made.split)
        deployment = {name: getattr(made, name) for name in FIELDS}
        share = made.cache / (ways["pipeline"] * ways["data"])  # of the cache, on a card that cuts no heads
        latent = config["model_type"] not in shapes.GQA  # one entry for all heads
        if self._fused(made) and (planned := self._plan(made.model, "int8", deployment)).fits:
            return f"The weights take {_gb(made.weights)}, not {_gb(planned.weights)}. {FUSED}"
        if latent and made.fullest - share * (1 - 1 / ways["tensor"]) <= made.room:
            return f"{_gb(share)} of that are cache. {LATENT}"
        if self._planned(deployment | {"split": None}).fits:
            return SPLIT
        if made.fullest - share / (1 if latent else ways["tensor"]) > made.room:
            return f"The weights take {_gb(made.weights)}. {WEIGHTS}"
        users = self.request.users
        if made.batch > users > 0 and self._planned(deployment | {"batch": users}).fits:
            return f"No more than {users} ask at the same time: a smaller batch has room."
        plain = not latent and config["num_key_value_heads"] == config["num_attention_heads"]
        told = HEADS if plain else CACHE if users else BATCH
        return f"The cache takes {_gb(made.cache)}, {_gb(made.cache / made.batch)} a conversation. {told}"


def splits(cards: int) -> Iterator[str]:
    """All splits over so many cards, as `planner.plan` reads them; tensor splits stay within a machine."""
    for pipeline in range(1, cards + 1):
        for tensor in range(1, planner.NODE + 1):
            data, rest = divmod(cards, pipeline * tensor)
            if not rest:
                ways = {"pipeline": pipeline, "data": data, "tensor": tensor}
                yield " x ".join(f"{kind} {size}" for kind, size in ways.items() if size > 1) or "one card"


def _ways(split: str) -> dict[str, int]:
    """The parts of a split by name: {"pipeline": 2, "tensor": 4}."""
    return {kind: int(size) for kind, size in re.findall(r"(pipeline|data|tensor)\D*(\d+)", split.partition(",")[0])}


def _rented(made: planner.Plan) -> tuple[int, str]:
    """Number and name of a plan's cards."""
    number, _, card = made.hardware.partition("x")
    return int(number), card


def _is_field(part: Any) -> bool:
    return isinstance(part, list) and len(part) == 2 and isinstance(part[0], str)


def _either(names: Any) -> str:
    *most, last = names
    return f"{', '.join(most)} or {last}" if most else last


def _gb(size: float) -> str:
    return f"{size / 1e9:,.1f} GB"
