"""Plan a deployment on paper: does a model fit, on which split, where do its bytes go, and how fast at the very best?

Bytes come from `utils.architecture`. A model *fits* when a named split over the cards leaves every card with room.
Times are *rooflines* (Williams et al. 2009): a step takes at least the time to read what each card must read, and at
least the time of its arithmetic. Real systems stay below, unless they get several tokens from a step (multi-token
prediction). Two things are estimates: activations, and how many experts a batch touches (if all are chosen equally
often; with favourites it touches fewer, and `step_floor` says how fast a step is if all tokens choose the same ones).
"""

import functools
import itertools
import math
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from utils import architecture, catalog, shapes
from utils.architecture import cache_bytes
from utils.cards import (  # noqa: F401 - chapters take all of it from here
    HARDWARE,
    Hardware,
    PlanError,
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
class Plan:
    """What a deployment needs, and how fast it can be at the most.

    Attributes:
        weights, cache, activations: bytes, each counted once; a split keeps some on several cards.
        needed, memory: their sum, and what all cards offer after the reserve.
        fits, split: whether any split leaves room on every card, and the best: inside a machine, with the fastest step.
        fullest, room: bytes on its fullest card, and what a card offers.
        cards_needed: smallest number of such cards for which a split fits; None beyond 4,096.
        first_token_seconds, prefill_seconds: least time to read one prompt alone on the machine, and to read all;
            `prefill_bound` is "arithmetic", "memory" or "links".
        step_seconds: least time in which every sequence gets one token, with its `step_bound`, if experts are chosen
            equally often; `step_floor` if all tokens choose the same experts, below which no routing gets.
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
    return _Model(config, precision, "bfloat16").read_bytes(Split(1, 1, 1), tokens)


def open_model(model: Any) -> tuple[str, dict[str, Any]]:
    """Name and configuration of what `plan` takes as a model. Raises PlanError, UnknownModel or ConfigError."""
    if isinstance(model, Path) or (isinstance(model, str) and model and (".json" in model or Path(model).exists())):
        path = Path(model).resolve()
        name = path.parent.name if path.name == "config.json" else path.stem
        return name, shapes.of_the_course(shapes.load(path))
    if isinstance(model, str):
        found = catalog.get(model)
        return found.name, shapes.of_the_course(found.config)
    if isinstance(model, dict) or hasattr(model, "to_dict"):
        return "own model", shapes.of_the_course(model)
    raise PlanError(f"model must be a name, a config.json, its folder, a dict or a configuration; got {model!r}")


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
        hardware, cards: "8xH200", or "H200" or a `Hardware` of your own with the number of `cards`.
        precision, cache: formats of `formats.DTYPE_BITS`; or weights as published, a cache in `formats.PACKED_CACHE`.
        context, answer, batch: tokens of each sequence, those of them that are written, and sequences at a time.
        link, price: bytes a second that a card receives from others (None leaves links out); of a card for an hour.
        split: "tensor 8", "pipeline 2 x tensor 8", "data 8", ...; the best one without it.
        plain: plan for plain library code, which reads whole prompts and writes scores out, instead of a server.

    Raises:
        PlanError, UnknownModel, ConfigError: what cannot be planned, found or counted.
    """
    name, config = open_model(model)
    number, card = parse_hardware(hardware, cards)
    context, batch, answer = whole("context", context), whole("batch", batch), whole("answer", answer, least=0)
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
    m = _Model(config, precision, cache, plain)
    job = _Job(m, card, context, context - answer, batch, link)
    splits = _splits(m, number)
    bounds = {way: job.bounds(way) for way in (splits if split is None else [_named(split, splits, number)])}
    best = min(bounds, key=lambda way: _rank(way, bounds[way]))
    pure = {"tensor": Split(1, number, 1), "pipeline": Split(number, 1, 1)}
    pure["expert" if m.mixture else "data"] = Split(1, 1, number)
    weights, held = architecture.weight_bytes(m.c, precision), architecture.kv_cache_bytes(m.c, context, batch, cache)
    activations = int(m.activations(1, context, batch, last=True))
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
        room=int(card.room),
        cards_needed=job.cards_needed(weights + held),
        cost=None if price is None else 1e6 * price * number * job.seconds_per_token(best, answer) / 3600,
        per_card={label: job.fullest(way) for label, way in pure.items() if way in splits},
        **bounds[best],
    )


# ---------------------------------------------------------------------------------------------------- splits


class Split(NamedTuple):
    """One way to put a model on cards, the product of three splits (chapter 08).

    Pipeline: stages of whole layers. Tensor: cards that cut the matrices of a stage; heads are dealt out as far as they
    go, MLA's latent, norms and routers are whole on each. Data: groups of such cards in a stage that serve different
    sequences; routed experts are dealt out over all cards of a stage then, everything else is on every group.
    """

    pipeline: int
    tensor: int
    data: int

    @property
    def stage(self) -> int:  # cards of a stage
        return self.tensor * self.data

    def name(self, mixture: bool) -> str:
        """For example "pipeline 2 x tensor 8"."""
        parts = [f"{kind} {getattr(self, kind)}" for kind in ("pipeline", "data", "tensor") if getattr(self, kind) > 1]
        experts = f", experts over {self.stage}" if mixture and self.data > 1 else ""
        return (" x ".join(parts) or "one card") + experts


def _splits(m: "_Model", cards: int) -> list[Split]:
    """All splits over so many cards that the model allows."""
    return [
        Split(pipeline, tensor, cards // pipeline // tensor)
        for pipeline in _divisors(cards)
        for tensor in _divisors(cards // pipeline)
        if m.allows(pipeline, tensor)
    ]


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


def _named(text: Any, splits: list[Split], cards: int) -> Split:
    """The split that a text such as "pipeline 2 x tensor 8" means, one of `splits`."""
    parts = re.findall(r"(pipeline|tensor|data|expert)\D*(\d+)", str(text).lower().partition(",")[0])
    said = Split(1, 1, 1)._replace(**{kind.replace("expert", "data"): int(size) for kind, size in parts})
    if (not parts and cards > 1) or math.prod(said) != cards:
        raise PlanError(f'split must look like "tensor {cards}", its product being {cards} cards; got {text!r}')
    if said not in splits:
        raise PlanError(f"split {text!r} does not divide the model's layers, heads or columns")
    return said


def _rank(split: Split, bounds: dict[str, Any]) -> tuple[Any, ...]:
    """The best split comes first: one that fits, inside a machine, fast; else the one that lacks least."""
    if not bounds["fits"]:
        return (True, bounds["fullest"])
    return (False, split.tensor > NODE, bounds["step_seconds"], split.pipeline, bounds["fullest"])


# ------------------------------------------------------------------------------------------- bytes and seconds


class _Model:
    """A configuration with its formats, ready to be split; all sizes in bytes."""

    def __init__(self, config: Any, precision: str, cache: str, plain: bool = False) -> None:
        self.c, self.cache, self.plain = shapes.read(config), cache, plain
        self.formats = weight_formats(self.c, precision)
        self.layers = list(zip(architecture.layer_kinds(self.c), architecture.attentions(self.c), strict=True))
        self.blocks = {kind: architecture.layer_blocks(self.c, *kind) for kind, _ in self.layers}
        self.ends = architecture.end_blocks(self.c)
        self.mixture_layers = sum(ffn != "dense" for (_, ffn), _ in self.layers)
        self.mixture = self.mixture_layers > 0
        self.multiply_adds = architecture.products(self.c)
        # into how many pieces a cache can be cut
        self.key_heads = self.c.num_key_value_heads if self.c.model_type in shapes.GQA else 1
        self.layer_bytes, self.sums = functools.cache(self.layer_bytes), functools.cache(self.sums)

    def layer_bytes(self, kind: Any, tensor: int, stage: int, tokens: float | None = None) -> float:
        """Weights of one layer on one of the `stage` cards of its stage; with tokens, what they make it read."""
        blocks, experts = dict(self.blocks[kind]), self.c.n_routed_experts if kind[1] != "dense" else 0
        routed = blocks.pop("routed_experts", None)
        size = sum(self.formats[group].bits(block, tensor) for group, block in blocks.items()) / 8
        if not routed:
            return size
        if tokens is None:
            rows = (self.formats["routed_experts"].block or (1, 1))[0] or 1  # experts are cut in whole blocks of scales
            slices = tensor == stage and self.c.moe_intermediate_size % (stage * rows) == 0
            share = 1 / stage if slices else -(-experts // stage) / experts
        else:  # the average card: the fullest reads no less
            share = touched_experts(experts, self.c.num_experts_per_tok, tokens) / experts / stage
        return size + share * self.formats["routed_experts"].bits(routed) / 8

    def end_bytes(self, tensor: int, *names: str) -> float:
        return sum(self.formats[group].bits(block, tensor) for group, block in self.ends.items() if group in names) / 8

    def head_bytes(self, tensor: int) -> float:
        """What turns the last layer's output into logits; a tied embedding does."""
        head = "embedding" if self.c.tie_word_embeddings else "lm_head"
        return self.end_bytes(tensor, head, "norms", "hyper_connections")

    def read_bytes(self, split: Split, tokens: float) -> float:
        """Weights that a card reads for a pass of `tokens` tokens through all stages, added up."""
        layers = sum(self.layer_bytes(kind, split.tensor, split.stage, tokens) for kind, _ in self.layers)
        return layers + self.head_bytes(split.tensor)

    def allows(self, pipeline: int, tensor: int) -> bool:
        """Whether there are layers for the stages, and heads and columns for the tensor split."""
        heads, keys = self.c.num_attention_heads, self.key_heads
        width = getattr(self.c, "intermediate_size", None) or 0
        cut = heads % tensor == 0 and (keys % tensor == 0 or tensor % keys == 0) and width % tensor == 0
        return pipeline <= len(self.layers) and cut

    def sums(self, tensor: int, stage: int, context: int) -> tuple[list[float], list[float]]:
        """Weights on a card, and cache of one sequence, of the first 0, 1, ... layers."""
        weights = (self.layer_bytes(kind, tensor, stage) for kind, _ in self.layers)
        cache = (cache_bytes(self.c, layer, layer.held(context), self.cache) for _, layer in self.layers)
        return list(itertools.accumulate(weights, initial=0)), list(itertools.accumulate(cache, initial=0))

    def activations(self, tensor: int, context: int, sequences: float, last: bool) -> float:
        """An estimate of what a card holds besides weights and cache; `last` cards have the logits.

        A server: gate, up and their product in the widest feed-forward network, and four vectors of the hidden size,
        for a piece of a prompt, in 16 bit. Plain code writes out logits of all tokens and scores of all pairs, with
        copies in 32 bit: 12 and 16 bytes each, fitted to the memory tables in the README of DeepSeek LLM.
        """
        c = self.c
        if self.plain:
            logits = 12 * c.vocab_size * sequences * context if last else 0
            return max(logits, 16 * c.num_attention_heads * sequences * context**2) / tensor
        width = getattr(c, "intermediate_size", None) or c.moe_intermediate_size
        if "n_routed_experts" in shapes.REQUIRED[c.model_type]:
            shared = 1 if c.model_type == "deepseek_v4" else c.n_shared_experts
            width = max(width, (c.num_experts_per_tok + shared) * c.moe_intermediate_size)
        logits = 4 * sequences * c.vocab_size / tensor if last else 0
        return 2 * min(PREFILL_CHUNK, sequences * context) * (3 * width / tensor + 4 * c.hidden_size) + logits

    def links(self, split: Split, tokens: float) -> float:
        """Bytes that a card receives for `tokens` tokens of its group: twice a layer a sum over the tensor split, and
        what comes to its experts (8 bit) and back from others' (16 bit)."""
        h, stage = self.c.hidden_size, split.stage
        received = 2 * len(self.layers) * 2 * h * tokens if split.tensor > 1 else 0
        if self.mixture and split.data > 1:
            away = touched_experts(stage, 1, self.c.num_experts_per_tok) * (stage - 1) / stage
            received += self.mixture_layers * 3 * h * away * tokens / split.tensor
        return received


@dataclass(frozen=True)
class _Job:
    """Sequences of `context` tokens, `prompt` of them read, on cards of one kind; times are for the average card."""

    m: _Model
    card: Hardware
    context: int
    prompt: int
    batch: int
    link: float | None

    def bounds(self, split: Split) -> dict[str, Any]:
        """What `Plan` says of a split."""
        step, step_bound = self.step(split, self.context)
        prefill, prefill_bound = self.prefill(split, self.batch)
        return {
            "split": split.name(self.m.mixture),
            "fullest": self.fullest(split),
            "fits": self.fullest(split) <= self.card.room,
            "step_seconds": step,
            "step_bound": step_bound,
            "step_floor": self.step(split, self.context, same_experts=True)[0],
            "tokens_per_second": self.batch / step,
            "first_token_seconds": self.prefill(split, 1)[0],
            "prefill_seconds": prefill,
            "prefill_bound": prefill_bound,
        }

    def fullest(self, split: Split) -> int:
        """Bytes on the fullest card; the last stages have the head, the first the embedding and no extra layer."""
        m, tensor = self.m, split.tensor
        sequences, keys = -(-self.batch // split.data), -(-m.key_heads // tensor) / m.key_heads
        weights, cache = m.sums(tensor, split.stage, self.context)
        each, extra = divmod(len(m.layers), split.pipeline)
        found, start = [], 0
        for stage in range(split.pipeline):
            end = start + each + (1 <= stage <= extra)
            size = weights[end] - weights[start] + keys * sequences * (cache[end] - cache[start])
            last = stage == split.pipeline - 1
            size += m.end_bytes(tensor, "embedding") if stage == 0 or (last and m.c.tie_word_embeddings) else 0
            size += m.end_bytes(tensor, "lm_head", "norms", "hyper_connections") if last else 0
            found.append(size + m.activations(tensor, self.context, sequences, last))
            start = end
        return math.ceil(max(found))

    def cards_needed(self, least: float) -> int | None:
        """Smallest number of cards for which a split fits, from the number that holds `least` bytes on."""
        m, room = self.m, self.card.room
        tensor = max(t for t in _divisors(m.c.num_attention_heads) if m.allows(1, t))
        if self.fullest(Split(len(m.layers), tensor, self.batch)) > room:  # cut as far as it goes
            return None
        numbers = range(max(1, math.ceil(least / room)), _MOST_CARDS + 1)
        return next((n for n in numbers if any(self.fullest(split) <= room for split in _splits(m, n))), None)

    def step(self, split: Split, tokens: int, same_experts: bool = False) -> tuple[float, str]:
        """Least seconds in which each sequence gets one more token after `tokens` of them, and what bounds them.

        Stages of a pipeline work at the same time if the batch is cut into as many parts; a part passes them one by
        one, so the times of all layers add up for it, and no stage is idle.
        """
        m = self.m
        part = self.batch / min(split.pipeline, self.batch)
        own = max(1, part / split.data)  # sequences of one group in a part
        keys = -(-m.key_heads // split.tensor) / m.key_heads
        read = m.read_bytes(split, 1 if same_experts else part)
        read += own * keys * sum(cache_bytes(m.c, layer, layer.read(tokens), m.cache) for _, layer in m.layers)
        attention = 2 * sum(layer.step(tokens) for _, layer in m.layers)
        arithmetic = self._products(own / split.tensor, part / split.stage, own / split.tensor)
        arithmetic += own / split.tensor * attention / self._attention_speed()
        return self._roofline(arithmetic, read, m.links(split, own))

    def prefill(self, split: Split, batch: int) -> tuple[float, str]:
        """Least seconds to read `batch` prompts, in passes of at most `PREFILL_CHUNK` tokens, and what bounds them."""
        m, pipeline, prompt = self.m, split.pipeline, self.prompt
        own = -(-batch // split.data)  # prompts of the fullest group
        cards = split.tensor * pipeline
        attention = 2 * sum(layer.prompt(prompt) for _, layer in m.layers)
        arithmetic = self._products(own * prompt / cards, batch * prompt / (cards * split.data), own / cards)
        arithmetic += own / cards * attention / self._attention_speed()
        chunk = own * prompt if m.plain else min(PREFILL_CHUNK, own * prompt)
        passes, tokens = -(-own * prompt // chunk), chunk * min(split.data, batch)
        head = m.head_bytes(split.tensor)
        read = (m.read_bytes(split, tokens) - head) * max(passes / pipeline, 1) + head / pipeline
        return self._roofline(arithmetic, read, m.links(split, own * prompt) / pipeline)

    def _products(self, shared: float, routed: float, heads: float) -> float:
        """Seconds of one card for products with weights: tokens it takes through shared weights, experts, the head."""
        tokens = dict.fromkeys(self.m.multiply_adds, shared) | {"routed_experts": routed, "lm_head": heads}
        speed = {group: self.card.speed(self.m.formats[group].name) for group in tokens}
        return sum(2 * n * tokens[group] / speed[group] for group, n in self.m.multiply_adds.items())

    def _attention_speed(self) -> float:
        """FLOP/s of attention: in 16 bit, as V3 computes it (report, section 3.3.1), or in the cache's format."""
        return self.card.speed("bfloat16" if self.m.cache == PACKED_CACHE else self.m.cache)

    def _roofline(self, arithmetic: float, read: float, received: float) -> tuple[float, str]:
        """The longest of three times that overlap, and its name."""
        links = received / self.link if self.link else 0
        times = {"arithmetic": arithmetic, "memory": read / self.card.bandwidth, "links": links}
        bound = max(times, key=times.get)
        return times[bound], bound

    def seconds_per_token(self, split: Split, answer: int) -> float:
        """Seconds in which all cards write one token, their share of reading prompts included."""
        if not answer:
            return self.step(split, self.context)[0] / self.batch
        first_step = self.step(split, self.prompt)[0]  # no step is faster than the first
        return (self.prefill(split, self.batch)[0] / answer + first_step) / self.batch
