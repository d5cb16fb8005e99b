"""Plan a deployment on paper: does a model fit, on which split, where do its bytes go, and how fast at the very best?

Bytes come from `utils.architecture`. A model *fits* when a named split over the cards leaves every card with room.
Times are *rooflines* (Williams et al. 2009): a step takes at least the time to read what each card must read, and at
least the time of its arithmetic. Real systems stay below, unless they get several tokens from a step (multi-token
prediction). Two things are estimates: activations, and how many experts a batch touches (if all are chosen equally
often; with favourites it touches fewer, and `step_floor` says how fast a step is if all tokens choose the same ones).
"""

import itertools
import math
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from utils import architecture, catalog, shapes
from utils.cards import (  # noqa: F401 - chapters take all of it from here
    HARDWARE,
    RESERVE,
    Hardware,
    PlanError,
    how_many,
    parse_card,
    parse_hardware,
    positive,
    precision_name,
    whole,
)
from utils.formats import PACKED_CACHE, PUBLISHED, weight_formats

PREFILL_CHUNK = 4096  # tokens that are read at once; servers cut longer prompts
NODE = 8  # cards in one machine: tensor splits beyond it are chosen only if nothing else fits
_MOST_CARDS = 4096  # where the search for the number of cards ends


@dataclass(frozen=True)
class Split:
    """One way to put a model on cards, the product of three splits (chapter 08).

    Attributes:
        pipeline: stages of whole layers.
        tensor: cards that cut the matrices of a stage. Heads are dealt out as far as they go; MLA's latent, norms
            and routers are whole on each.
        data: groups of such cards in a stage that serve different sequences. Routed experts are dealt out over all
            cards of a stage then (`experts` of them), everything else is on every group.
        fullest: bytes on the fullest card: weights, cache and activations.
        fits: whether the fullest card has room for them.
        step_seconds, step_bound, step_floor, tokens_per_second, first_token_seconds, prefill_seconds, prefill_bound: as
            in `Plan`.
    """

    pipeline: int
    tensor: int
    data: int
    experts: int
    fullest: int
    fits: bool
    step_seconds: float
    step_bound: str
    step_floor: float
    tokens_per_second: float
    first_token_seconds: float
    prefill_seconds: float
    prefill_bound: str

    @property
    def name(self) -> str:
        """For example "pipeline 2 x tensor 8"."""
        parts = [f"{kind} {getattr(self, kind)}" for kind in ("pipeline", "data", "tensor") if getattr(self, kind) > 1]
        return (" x ".join(parts) or "one card") + (f", experts over {self.experts}" if self.experts > 1 else "")


@dataclass(frozen=True)
class Plan:
    """What a deployment needs, and how fast it can be at the most.

    Attributes:
        weights, cache, activations: bytes, each counted once; a split keeps some on several cards.
        needed, memory: their sum, and what all cards offer after the reserve.
        fits: whether the split `split` leaves room on every card.
        split: the best split: one that fits, inside a machine, with the fastest step.
        fullest, room: bytes on its fullest card, and what a card offers.
        cards_needed: smallest number of such cards for which a split fits; None beyond 4,096.
        first_token_seconds: least time to read one prompt alone on the machine.
        prefill_seconds: least time to read all prompts; `prefill_bound` is "arithmetic", "memory" or "links".
        step_seconds: least time in which every sequence gets one token, with its `step_bound`, if experts are chosen
            equally often; `step_floor` if all tokens choose the same experts, below which no routing gets.
        tokens_per_second: batch over step_seconds.
        cost: least price of a million tokens that are written, prompts included, if there is a price.
        per_card: bytes on the fullest card of each pure split that is possible: tensor, pipeline, expert (data
            parallel, with routed experts dealt out), data (whole copies of a model without experts).
    """

    model: str
    hardware: str
    precision: str
    cache_precision: str
    context: int
    answer: int
    batch: int
    weights: int
    cache: int
    activations: int
    needed: int
    memory: int
    fits: bool
    split: str
    fullest: int
    room: int
    cards_needed: int | None
    first_token_seconds: float
    prefill_seconds: float
    prefill_bound: str
    step_seconds: float
    step_bound: str
    step_floor: float
    tokens_per_second: float
    cost: float | None
    per_card: dict[str, int]

    def record(self) -> dict[str, Any]:
        """All fields as a dictionary for JSON."""
        return asdict(self)


def touched_experts(experts: int, chosen: int, tokens: float) -> float:
    """How many different experts of a layer `tokens` tokens use, on average, if all are chosen equally often."""
    return experts * (1 - (1 - chosen / experts) ** tokens)


def read_bytes(config: dict[str, Any], precision: str, tokens: int) -> float:
    """Bytes of weights that one pass of `tokens` tokens must read on one card: a mixture leaves unchosen experts alone.

    The embedding is looked up row by row and is not counted, unless it serves as the head as well.
    """
    return _Model(config, precision, "bfloat16").read_bytes(1, 1, tokens)


def activation_bytes(config: dict[str, Any], tokens: int, batch: int) -> int:
    """Bytes of the widest moment of a pass over `tokens` tokens, in 16 bit, and of the logits of `batch` last tokens.

    Gate, up and their product in the feed-forward network, and four vectors of the hidden size; an estimate.
    """
    return int(_activations(shapes.read(config), tokens, batch, 1))


def _activations(c: shapes.Shape, tokens: float, batch: float, tensor: int) -> float:
    width = getattr(c, "intermediate_size", None) or c.moe_intermediate_size
    if "n_routed_experts" in shapes.REQUIRED[c.model_type]:
        shared = 1 if c.model_type == "deepseek_v4" else c.n_shared_experts
        width = max(width, (c.num_experts_per_tok + shared) * c.moe_intermediate_size)
    return 2 * tokens * (3 * width / tensor + 4 * c.hidden_size) + 4 * batch * c.vocab_size / tensor


class _Model:
    """A configuration with its formats, ready to be split; all sizes in bytes."""

    def __init__(self, config: Any, precision: str, cache: str, plain: bool = False) -> None:
        config = shapes.of_the_course(config)
        self.c, self.cache, self.plain = shapes.read(config), cache, plain
        self.formats = weight_formats(config, precision)
        self.layers = architecture.layer_kinds(self.c)
        self.blocks = {kind: architecture.layer_blocks(self.c, *kind) for kind in set(self.layers)}
        self.ends = architecture.end_blocks(self.c)
        self.mixture = any(kind != "dense" for _, kind in self.layers)
        self.multiply_adds = architecture.products(self.c)
        latent = self.c.model_type not in shapes.GQA
        self.key_heads = 1 if latent else self.c.num_key_value_heads  # into how many pieces a cache can be cut
        self._sizes: dict[Any, float] = {}

    def layer_bytes(self, kind: Any, tensor: int, stage: int, tokens: float | None = None) -> float:
        """Weights of one layer on one of the `stage` cards of its stage; with tokens, what they make it read."""
        if (key := (kind, tensor, stage, tokens)) not in self._sizes:
            blocks = self.blocks[kind]
            size = sum(self.formats[g].bits(b, tensor) for g, b in blocks.items() if g != "routed_experts") / 8
            if routed := blocks.get("routed_experts"):
                experts = self.c.n_routed_experts
                if tokens is None:
                    share = 1 / stage if self._slices(stage) and tensor == stage else -(-experts // stage) / experts
                else:  # the average card: the fullest reads no less
                    share = touched_experts(experts, self.c.num_experts_per_tok, tokens) / experts / stage
                size += share * self.formats["routed_experts"].bits(routed) / 8
            self._sizes[key] = size
        return self._sizes[key]

    def _slices(self, cards: int) -> bool:
        """Whether each expert can be cut, in whole blocks of scales."""
        rows = (self.formats["routed_experts"].block or (1, 1))[0] or 1
        return self.c.moe_intermediate_size % (cards * rows) == 0

    def end_bytes(self, tensor: int, names: tuple[str, ...]) -> float:
        return sum(self.formats[g].bits(b, tensor) for g, b in self.ends.items() if g in names) / 8

    def read_bytes(self, tensor: int, stage: int, tokens: float) -> float:
        """Weights that a card of a stage reads for a pass of `tokens` tokens through all stages, added up."""
        return sum(self.layer_bytes(kind, tensor, stage, tokens) for kind in self.layers) + self.head_bytes(tensor)

    def head_bytes(self, tensor: int) -> float:
        """What turns the last layer's output into logits; a tied embedding does."""
        head = "embedding" if self.c.tie_word_embeddings else "lm_head"
        return self.end_bytes(tensor, (head, "norms", "hyper_connections"))

    def cache_bytes(self, kind: Any, tokens: int, reading: bool = False) -> int:
        """Cache of one sequence in one layer; with `reading`, what a step reads of it."""
        if (key := (kind[0], tokens, reading)) not in self._sizes:
            numbers = architecture.read_numbers if reading else architecture.cache_numbers
            self._sizes[key] = architecture.cache_bytes(self.c, numbers(self.c, kind[0], tokens), self.cache)
        return self._sizes[key]

    def allows(self, pipeline: int, tensor: int) -> bool:
        """Whether there are layers for the stages, and heads and columns for the tensor split."""
        heads, keys = self.c.num_attention_heads, self.key_heads
        widths = [self.c.intermediate_size] if getattr(self.c, "intermediate_size", None) else []
        cut = heads % tensor == 0 and (keys % tensor == 0 or tensor % keys == 0)
        return pipeline <= len(self.layers) and cut and all(width % tensor == 0 for width in widths)

    def fullest(self, pipeline: int, tensor: int, data: int, context: int, batch: int) -> float:
        """Bytes on the fullest card; the last stages have the head, the first the embedding and no extra layer."""
        sequences, keys = -(-batch // data), -(-self.key_heads // tensor) / self.key_heads
        weights = self._sums(lambda kind: self.layer_bytes(kind, tensor, tensor * data), ("weights", tensor, data))
        cache = self._sums(lambda kind: self.cache_bytes(kind, context), ("cache", context))
        each, extra = divmod(len(self.layers), pipeline)
        found, start = [], 0
        for stage in range(pipeline):
            end = start + each + (1 <= stage <= extra)
            size = weights[end] - weights[start] + keys * sequences * (cache[end] - cache[start])
            first, last = stage == 0, stage == pipeline - 1
            size += self.end_bytes(tensor, ("embedding",)) if first or (last and self.c.tie_word_embeddings) else 0
            size += self.end_bytes(tensor, ("lm_head", "norms", "hyper_connections")) if last else 0
            found.append(size + self.activations(tensor, context, sequences, last))
            start = end
        return max(found)

    def activations(self, tensor: int, context: int, sequences: int, last: bool) -> float:
        """An estimate of what a card holds besides weights and cache; `last` cards have the logits.

        Plain library code reads whole prompts and writes out logits of all tokens and scores of all pairs, with
        copies in 32 bit: 12 and 16 bytes each, fitted to the memory tables in the README of DeepSeek LLM.
        """
        if not self.plain:
            tokens = min(PREFILL_CHUNK, sequences * context)
            return _activations(self.c, tokens, sequences if last else 0, tensor)
        logits = 12 * self.c.vocab_size * sequences * context if last else 0
        return max(logits, 16 * self.c.num_attention_heads * sequences * context**2) / tensor

    def _sums(self, size: Callable[[Any], float], key: Any) -> list[float]:
        """Sums over the first 0, 1, ... layers, kept under a key."""
        if key not in self._sizes:
            self._sizes[key] = list(itertools.accumulate(map(size, self.layers), initial=0))
        return self._sizes[key]

    def arithmetic(self, card: Hardware, shared: float, routed: float, heads: float) -> float:
        """Seconds of one card for products with weights: tokens it takes through shared weights, experts, the head."""
        tokens = dict.fromkeys(self.multiply_adds, shared) | {"routed_experts": routed, "lm_head": heads}
        return sum(2 * n * tokens[g] / card.speed(self.formats[g].name) for g, n in self.multiply_adds.items())

    def attention_flops(self, tokens: int, prompt: bool = False) -> int:
        """FLOPs of attention for one sequence: a whole prompt, or one token after so many."""
        if (key := ("attention", tokens, prompt)) not in self._sizes:
            one = architecture.flops_per_token(self.c, 0 if prompt else tokens).attention
            self._sizes[key] = architecture.prompt_attention_flops(self.c, tokens) if prompt else one
        return self._sizes[key]

    def attention_speed(self, card: Hardware) -> float:
        """FLOP/s of attention: in 16 bit, as V3 computes it (report, section 3.3.1), or in the cache's format."""
        return card.speed("bfloat16" if self.cache == PACKED_CACHE else self.cache)

    def links(self, tensor: int, data: int, tokens: float) -> float:
        """Bytes that a card receives for `tokens` tokens of its group: twice a layer a sum over the tensor split, and
        what comes to its experts (8 bit) and back from others' (16 bit)."""
        h, stage = self.c.hidden_size, tensor * data
        moe = sum(kind != "dense" for _, kind in self.layers)
        received = 2 * len(self.layers) * 2 * h * tokens if tensor > 1 else 0
        if moe and data > 1:
            away = touched_experts(stage, 1, self.c.num_experts_per_tok) * (stage - 1) / stage
            received += moe * 3 * h * away * tokens / tensor
        return received


def plan(
    model: Any,
    hardware: str | Hardware,
    precision: str = PUBLISHED,
    context: int = 4096,
    batch: int = 1,
    cards: int | None = None,
    cache: str = "bfloat16",
    answer: int = 0,
    link: float | None = None,
    price: float | None = None,
    split: str | None = None,
    plain: bool = False,
) -> Plan:
    """Plan to serve a model: bytes, a split that fits, and the bounds of reading prompts and of writing.

    Args:
        model: a name of the catalog, a `config.json`, its folder, a dict, or a configuration of transformers.
        hardware: "8xH200", or a `Hardware` of your own with `cards`.
        precision: of the weights: as published, or a format of `formats.DTYPE_BITS` such as fp8.
        context: tokens of each sequence, prompt and answer.
        batch: sequences at a time.
        cards: number of cards, if `hardware` does not say it.
        cache: format of the cache, or `formats.PACKED_CACHE`.
        answer: tokens of the context that are written; the rest is the prompt.
        link: bytes a second that a card receives from others; None leaves links out.
        price: of a card for an hour.
        split: "tensor 8", "pipeline 2 x tensor 8", "data 8", ...; the best one without it. Data parallel groups share
            the routed experts of a mixture.
        plain: plan for plain library code, which reads whole prompts and writes scores out, instead of a server.

    Raises:
        PlanError: unknown hardware or format, contradicting numbers of cards, a context beyond the model's, or a
            number out of its range.
        KeyError: a name that the catalog does not have.
        ConfigError: a configuration that cannot be counted.
    """
    name, config = open_model(model)
    number, card = how_many(hardware, cards)
    context, batch = whole("context", context), whole("batch", batch)
    answer = whole("answer", answer, least=0)
    if answer >= context:
        raise PlanError(f"answer is {answer:,} tokens of a context of {context:,}; that leaves no prompt")
    limit = config.get("max_position_embeddings")
    if isinstance(limit, int) and context > limit:
        raise PlanError(f"context is {context:,} tokens; {name} reads at most {limit:,}")
    for label, value in (("link", link), ("price", price)):
        if value is not None and not positive(value):
            raise PlanError(f"{label} must be a number above 0; got {value!r}")
    precision = precision if precision == PUBLISHED else precision_name(precision)
    cache = cache if cache == PACKED_CACHE else precision_name(cache)
    ready = _Model(config, precision, cache, plain)

    def split_as(way: tuple[int, int, int]) -> Split:
        return _split(ready, card, way, context, answer, batch, link)

    ways = _ways(ready, number)
    best = min(map(split_as, ways if split is None else [_way(split, ways, number)]), key=_rank)
    pure = {"tensor": (1, number, 1), "pipeline": (number, 1, 1), "expert" if ready.mixture else "data": (1, 1, number)}
    weights = architecture.weight_bytes(config, precision)
    held = architecture.kv_cache_bytes(config, context, batch, cache)
    activations = int(ready.activations(1, context, batch, last=True))
    cost = None
    if price is not None:
        seconds = best.step_seconds / batch
        if answer:  # no step is faster than the first
            first, _ = _step(ready, card, (best.pipeline, best.tensor, best.data), context - answer, batch, link)
            seconds = (best.prefill_seconds / answer + first) / batch
        cost = 1e6 * price * number * seconds / 3600
    return Plan(
        model=name,
        hardware=f"{number}x{card.name}",
        precision=precision,
        cache_precision=cache,
        context=context,
        answer=answer,
        batch=batch,
        weights=weights,
        cache=held,
        activations=activations,
        needed=weights + held + activations,
        memory=int(number * card.room),
        fits=best.fits,
        split=best.name,
        fullest=best.fullest,
        room=int(card.room),
        cards_needed=_cards_needed(ready, card, context, batch, weights + held),
        first_token_seconds=best.first_token_seconds,
        prefill_seconds=best.prefill_seconds,
        prefill_bound=best.prefill_bound,
        step_seconds=best.step_seconds,
        step_bound=best.step_bound,
        step_floor=best.step_floor,
        tokens_per_second=best.tokens_per_second,
        cost=cost,
        per_card={label: split_as(way).fullest for label, way in pure.items() if way in ways},
    )


def _split(
    m: _Model, card: Hardware, way: tuple[int, int, int], context: int, answer: int, batch: int, link: float | None
) -> Split:
    _, tensor, data = way
    fullest = math.ceil(m.fullest(*way, context, batch))
    step, step_bound = _step(m, card, way, context, batch, link)
    prefill, prefill_bound = _prefill(m, card, way, context - answer, batch, link)
    return Split(
        *way,
        experts=tensor * data if m.mixture and data > 1 else 0,
        fullest=fullest,
        fits=fullest <= card.room,
        step_seconds=step,
        step_bound=step_bound,
        step_floor=_step(m, card, way, context, batch, link, same_experts=True)[0],
        tokens_per_second=batch / step,
        first_token_seconds=_prefill(m, card, way, context - answer, 1, link)[0],
        prefill_seconds=prefill,
        prefill_bound=prefill_bound,
    )


def _step(
    m: _Model,
    card: Hardware,
    way: tuple[int, int, int],
    context: int,
    batch: int,
    link: float | None,
    same_experts: bool = False,
) -> tuple[float, str]:
    """Least seconds in which each of `batch` sequences of `context` tokens gets one more, and what bounds them.

    Stages of a pipeline work at the same time if the batch is cut into as many parts; a part passes them one by one,
    so the times of all layers add up for it, and no stage is idle. Everything is for the average card.
    """
    pipeline, tensor, data = way
    parts = min(pipeline, batch)
    part = batch / parts
    own = max(1, part / data)  # sequences of one group in a part
    keys = -(-m.key_heads // tensor) / m.key_heads
    read = m.read_bytes(tensor, tensor * data, 1 if same_experts else part)
    read += own * keys * sum(m.cache_bytes(kind, context, reading=True) for kind in m.layers)
    arithmetic = m.arithmetic(card, own / tensor, part / (tensor * data), own / tensor)
    arithmetic += own / tensor * m.attention_flops(context) / m.attention_speed(card)
    return _roofline(arithmetic, read / card.bandwidth, m.links(tensor, data, own) / link if link else 0)


def _prefill(
    m: _Model, card: Hardware, way: tuple[int, int, int], prompt: int, batch: int, link: float | None
) -> tuple[float, str]:
    """Least seconds to read `batch` prompts, in passes of at most `PREFILL_CHUNK` tokens, and what bounds them."""
    pipeline, tensor, data = way
    own = -(-batch // data)  # prompts of the fullest group
    cards = tensor * pipeline
    arithmetic = m.arithmetic(card, own * prompt / cards, batch * prompt / (cards * data), own / cards)
    arithmetic += own / cards * m.attention_flops(prompt, prompt=True) / m.attention_speed(card)
    chunk = own * prompt if m.plain else min(PREFILL_CHUNK, own * prompt)
    passes, tokens = -(-own * prompt // chunk), chunk * min(data, batch)
    layers = m.read_bytes(tensor, tensor * data, tokens) - m.head_bytes(tensor)
    read = layers * max(passes / pipeline, 1) + m.head_bytes(tensor) / pipeline
    moved = m.links(tensor, data, own * prompt) / pipeline
    return _roofline(arithmetic, read / card.bandwidth, moved / link if link else 0)


def _roofline(arithmetic: float, memory: float, links: float) -> tuple[float, str]:
    times = {"arithmetic": arithmetic, "memory": memory, "links": links}
    bound = max(times, key=times.get)
    return times[bound], bound


def _ways(m: _Model, cards: int) -> list[tuple[int, int, int]]:
    """All splits (pipeline, tensor, data) over so many cards that the model allows."""
    pairs = [(p, t) for p in _divisors(cards) for t in _divisors(cards // p) if m.allows(p, t)]
    return [(p, t, cards // p // t) for p, t in pairs]


def _way(text: Any, ways: list[tuple[int, int, int]], cards: int) -> tuple[int, int, int]:
    """The split that a text such as "pipeline 2 x tensor 8" means, one of `ways`."""
    parts = re.findall(r"(pipeline|tensor|data|expert)\D*(\d+)", str(text).lower().partition(",")[0])
    said = {kind.replace("expert", "data"): int(size) for kind, size in parts}
    way = tuple(said.get(kind, 1) for kind in ("pipeline", "tensor", "data"))
    if (not parts and cards > 1) or math.prod(way) != cards:
        raise PlanError(f'split must look like "tensor {cards}", its product being {cards} cards; got {text!r}')
    if way not in ways:
        raise PlanError(f"split {text!r} does not divide the model's layers, heads or columns")
    return way


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


def _rank(split: Split) -> tuple[Any, ...]:
    """The best split comes first: one that fits, inside a machine, fast; else the one that lacks least."""
    if not split.fits:
        return (True, split.fullest)
    return (False, split.tensor > NODE, split.step_seconds, split.pipeline, split.fullest)


def _cards_needed(m: _Model, card: Hardware, context: int, batch: int, least: float) -> int | None:
    """Smallest number of cards for which a split fits, from the number that holds `least` bytes on."""
    start = max(1, math.ceil(least / card.room))
    most_cut = (len(m.layers), max(t for t in _divisors(m.c.num_attention_heads) if m.allows(1, t)), batch)
    if m.fullest(*most_cut, context, batch) > card.room:
        return None
    for cards in range(start, _MOST_CARDS + 1):
        if any(m.fullest(*way, context, batch) <= card.room for way in _ways(m, cards)):
            return cards
    return None


def open_model(model: Any) -> tuple[str, dict[str, Any]]:
    """Name and configuration of what `plan` takes as a model.

    Raises:
        PlanError: it is nothing of that kind.
        KeyError: no file is there, and the catalog does not have the name.
        ConfigError: a configuration that cannot be read.
    """
    if isinstance(model, Path) or (isinstance(model, str) and model and (".json" in model or Path(model).exists())):
        path = Path(model).resolve()
        name = path.parent.name if path.name == "config.json" else path.stem
        return name, shapes.of_the_course(shapes.load(path))
    if isinstance(model, str):
        found = catalog.get(model)
        return found.name, shapes.of_the_course(found.config)
    if isinstance(model, dict) or hasattr(model, "to_dict"):
        config = model if isinstance(model, dict) else model.to_dict()
        return "own model", shapes.of_the_course(config)
    raise PlanError(f"model must be a name, a config.json, its folder, a dict or a configuration; got {model!r}")
