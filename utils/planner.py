"""Plan a deployment on paper: does a model fit, on which split, where do its bytes go, and how fast at the very best?

A model *fits* when a named split over the cards leaves every card with room. Times are *rooflines* (Williams et al.
2009): a step takes at least the time to read what each card must read, and at least the time of its arithmetic. Real
systems stay below, unless they get several tokens from a step (multi-token prediction). Two things are estimates:
activations, and how many experts a batch touches (if all are chosen equally often; with favourites it touches fewer,
and `step_floor` says how fast a step is if all tokens choose the same ones).
"""

import functools
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from utils import architecture, catalog, shapes
from utils.architecture import cache_bytes
from utils.cards import HARDWARE, Hardware, parse_hardware, positive
from utils.errors import InputError
from utils.formats import PACKED_CACHE, PUBLISHED, format_name, weight_formats
from utils.shapes import whole_number

PREFILL_CHUNK = 4096  # tokens that are read at once; servers cut longer prompts
NODE = 8  # cards in one machine: tensor splits beyond it are chosen only if nothing else fits
AGAINST_MEASURED = (0.98, 1.23)  # what `fullest` is of the measured peaks in `deployments`: the range of the estimate
_MOST_CARDS = 4096  # where the search for the number of cards ends


@dataclass(frozen=True)
class Plan:
    """What a deployment needs, and how fast it can be at the most: bytes, and least times in seconds."""

    model: str
    hardware: str
    precision: str
    cache_precision: str
    context: int
    answer: int
    batch: int
    weights: int  # these three are counted once; a split keeps some of them on several cards
    cache: int
    activations: int
    needed: int  # their sum
    memory: int  # what all cards offer after the reserve
    fits: bool  # whether a split leaves room on every card
    split: str  # the best: one that fits, inside a machine, with the fastest step
    fullest: int  # on its fullest card
    room: int  # what a card offers
    cards_needed: int | None  # smallest number of such cards for which a split fits; None beyond 4,096
    first_token_seconds: float  # to read one prompt alone on the machine
    prefill_seconds: float  # to read all prompts
    prefill_bound: str  # "arithmetic", "memory" or "links"
    step_seconds: float  # until every sequence gets one token, if experts are chosen equally often
    step_bound: str
    step_floor: float  # the same if all tokens choose the same experts: no routing gets below it
    tokens_per_second: float  # at the most
    cost: float | None  # least price of a million written tokens, prompts included
    per_card: dict[str, int]  # on the fullest card of each pure split: tensor, pipeline, expert (or data: whole copies)


def touched_experts(experts: int, chosen: int, tokens: float) -> float:
    """How many different experts of a layer `tokens` tokens use, on average, if all are chosen equally often."""
    return experts * (1 - (1 - chosen / experts) ** tokens)


def read_bytes(config: dict[str, Any], precision: str, tokens: int) -> float:
    """Bytes of weights that one pass of `tokens` tokens must read on one card: a mixture leaves unchosen experts alone.

    The embedding is looked up row by row and is not counted, unless it serves as the head as well.
    """
    return _Job(config, precision).read_bytes(Split(1, 1, 1), tokens)


def open_model(model: Any) -> tuple[str, dict[str, Any]]:
    """Name and configuration of what `plan` takes as a model. Raises InputError or UnknownModel."""
    if isinstance(model, Path) or (isinstance(model, str) and model and (".json" in model or Path(model).exists())):
        path = Path(model).resolve()
        name = path.parent.name if path.name == "config.json" else path.stem
        return name, shapes.of_the_course(shapes.load(path))
    if isinstance(model, str):
        found = catalog.get(model)
        return found.name, shapes.of_the_course(found.config)
    if isinstance(model, dict) or hasattr(model, "to_dict"):
        return "own model", shapes.of_the_course(model)
    raise InputError(f"model must be a name, a config.json, its folder, a dict or a configuration; got {model!r}")


def plan(
    model: Any, hardware: str | Hardware, precision: str = PUBLISHED, context: int = 4096, batch: int = 1,
    cards: int | None = None, cache: str = "bfloat16", answer: int = 0, link: float | None = None,
    price: float | None = None, split: str | None = None, plain: bool = False,
) -> Plan:  # fmt: skip
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
        InputError, UnknownModel: what cannot be planned or counted, or is not found.
    """
    name, config = open_model(model)
    number, card = parse_hardware(hardware, cards)
    context, batch = whole_number("context", context), whole_number("batch", batch)
    answer = whole_number("answer", answer, 0)
    if answer >= context:
        raise InputError(f"answer is {answer:,} tokens of a context of {context:,}; that leaves no prompt")
    limit = config.get("max_position_embeddings")
    if isinstance(limit, int) and context > limit:
        raise InputError(f"context is {context:,} tokens; {name} reads at most {limit:,}")
    for label, value in (("link", link), ("price", price)):
        if value is not None and not positive(value):
            raise InputError(f"{label} must be a number above 0; got {value!r}")
    precision, cache = format_name(precision, PUBLISHED), format_name(cache, PACKED_CACHE)
    job = _Job(config, precision, cache, card, context, context - answer, batch, link, plain)
    splits = job.splits(number)
    best = min(splits if split is None else [_named(split, splits, number)], key=job.rank)
    pure = {"tensor": Split(1, number, 1), "pipeline": Split(number, 1, 1)}
    pure["expert" if job.mixtures else "data"] = Split(1, 1, number)
    weights, fullest = architecture.weight_bytes(job.c, precision), job.fullest(best)
    held, activations = architecture.kv_cache_bytes(job.c, context, batch, cache), int(job.activations(1, batch, True))
    (step, step_bound), (prefill, prefill_bound) = job.step(best, context), job.prefill(best, batch)
    return Plan(
        model=name, hardware=f"{number}x{card.name}", precision=precision, cache_precision=cache,
        context=context, answer=answer, batch=batch, weights=weights, cache=held, activations=activations,
        needed=weights + held + activations, memory=int(number * card.room), room=int(card.room),
        cards_needed=job.cards_needed(weights + held), tokens_per_second=batch / step,
        split=job.name(best), fullest=fullest, fits=fullest <= card.room,
        per_card={label: job.fullest(way) for label, way in pure.items() if way in splits},
        first_token_seconds=job.prefill(best, 1)[0], prefill_seconds=prefill, prefill_bound=prefill_bound,
        step_seconds=step, step_bound=step_bound, step_floor=job.step(best, context, same_experts=True)[0],
        cost=None if price is None else 1e6 * price * number * job.seconds_per_token(best, answer) / 3600,
    )  # fmt: skip


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


def _named(text: Any, splits: list[Split], cards: int) -> Split:
    """The split that a text such as "pipeline 2 x tensor 8" means, one of `splits`."""
    parts = re.findall(r"(pipeline|tensor|data|expert)\D*(\d+)", str(text).lower().partition(",")[0])
    said = Split(1, 1, 1)._replace(**{kind.replace("expert", "data"): int(size) for kind, size in parts})
    if (not parts and cards > 1) or math.prod(said) != cards:
        raise InputError(f'split must look like "tensor {cards}", its product being {cards} cards; got {text!r}')
    if said not in splits:
        raise InputError(f"split {text!r} does not divide the model's layers, heads or columns")
    return said


class _Job:
    """Sequences of a model on cards of one kind; sizes are in bytes, times in seconds of the average card."""

    def __init__(
        self, config: Any, precision: str, cache: str = "bfloat16", card: Hardware = HARDWARE["H200"],
        context: int = 1, prompt: int = 1, batch: int = 1, link: float | None = None, plain: bool = False,
    ) -> None:  # fmt: skip
        self.c, self.cache_format, self.plain = shapes.read(config), cache, plain
        self.card, self.context, self.prompt, self.batch, self.link = card, context, prompt, batch, link
        self.formats = weight_formats(self.c, precision)
        self.layers = architecture.layer_kinds(self.c)
        self.attention = architecture.attentions(self.c)
        self.blocks = {kinds: architecture.layer_blocks(self.c, *kinds) for kinds in set(self.layers)}
        self.ends = architecture.end_blocks(self.c)
        self.mixtures = sum(ffn != "dense" for _, ffn in self.layers)
        self.multiply_adds = architecture.products(self.c)
        # into how many pieces a cache can be cut, and into how many the matrices
        self.key_heads = keys = self.c.num_key_value_heads if self.c.model_type in shapes.GQA else 1
        cuts = (n for n in range(1, self.c.H + 1) if self.c.H % n == 0 and (self.c.f or 0) % n == 0)
        self.cuts = [n for n in cuts if keys % n == 0 or n % keys == 0]
        self.cache = [cache_bytes(self.c, layer, layer.held(context), cache) for layer in self.attention]
        self.layer_bytes = functools.cache(self.layer_bytes)

    def splits(self, cards: int) -> list[Split]:
        """All splits that leave layers for the stages, and heads and columns for the tensor split."""
        stages = range(1, len(self.layers) + 1)
        return [Split(p, t, cards // p // t) for p in stages for t in self.cuts if cards % (p * t) == 0]

    def name(self, split: Split) -> str:
        """For example "pipeline 2 x tensor 8"."""
        parts = [f"{kind} {size}" for kind in ("pipeline", "data", "tensor") if (size := getattr(split, kind)) > 1]
        experts = f", experts over {split.stage}" if self.mixtures and split.data > 1 else ""
        return (" x ".join(parts) or "one card") + experts

    def rank(self, split: Split) -> tuple[Any, ...]:
        """The best split comes first: one that fits, inside a machine, fast; else the one that lacks least."""
        fullest = self.fullest(split)
        if fullest > self.card.room:
            return (True, fullest)
        return (False, split.tensor > NODE, self.step(split, self.context)[0], split.pipeline, fullest)

    # ------------------------------------------------------------------------------------------------ bytes

    def fullest(self, split: Split) -> int:
        """On the fullest card; the last stages have the head, the first the embedding and no extra layer."""
        tensor, keys = split.tensor, self.share_of_keys(split.tensor)
        sequences = -(-self.batch // split.data)
        weights = [self.layer_bytes(kinds, tensor, split.stage) for kinds in self.layers]
        each, extra = divmod(len(self.layers), split.pipeline)
        found, start = [], 0
        for stage in range(split.pipeline):
            end, last = start + each + (1 <= stage <= extra), stage == split.pipeline - 1
            size = sum(weights[start:end]) + keys * sequences * sum(self.cache[start:end])
            size += self.end_bytes(tensor, "embedding") if stage == 0 or (last and self.c.tie_word_embeddings) else 0
            size += self.end_bytes(tensor, "lm_head", "norms", "hyper_connections") if last else 0
            found.append(size + self.activations(tensor, sequences, last))
            start = end
        return math.ceil(max(found))

    def cards_needed(self, least: float) -> int | None:
        """Smallest number of cards for which a split fits, from the number that holds `least` bytes on."""
        room = self.card.room
        if self.fullest(Split(len(self.layers), max(self.cuts), self.batch)) > room:
            return None
        numbers = range(max(1, math.ceil(least / room)), _MOST_CARDS + 1)
        return next((n for n in numbers if any(self.fullest(split) <= room for split in self.splits(n))), None)

    def share_of_keys(self, tensor: int) -> float:
        """The part of a sequence's cache on one of `tensor` cards: whole key heads, and a latent counts as one."""
        return -(-self.key_heads // tensor) / self.key_heads

    def layer_bytes(self, kinds: tuple[str, str], tensor: int, stage: int, tokens: float | None = None) -> float:
        """Weights of one layer on one of the `stage` cards of its stage; with tokens, what they make it read."""
        rest = {name: block for name, block in self.blocks[kinds].items() if name != "routed_experts"}
        size = sum(self.formats[name].bits(block, tensor) for name, block in rest.items()) / 8
        if kinds[1] == "dense":
            return size
        experts, stored = self.c.n_routed_experts, self.formats["routed_experts"]
        if tokens is not None:  # the average card: the fullest reads no less
            share = touched_experts(experts, self.c.num_experts_per_tok, tokens) / experts / stage
        elif tensor == stage and self.c.moe_intermediate_size % (stage * (stored.block[0] or 1)) == 0:
            share = 1 / stage  # each expert is cut, in whole blocks of scales
        else:
            share = -(-experts // stage) / experts
        return size + share * stored.bits(self.blocks[kinds]["routed_experts"]) / 8

    def end_bytes(self, tensor: int, *names: str) -> float:
        return sum(self.formats[name].bits(block, tensor) for name, block in self.ends.items() if name in names) / 8

    def head_bytes(self, tensor: int) -> float:
        """What turns the last layer's output into logits; a tied embedding does."""
        head = "embedding" if self.c.tie_word_embeddings else "lm_head"
        return self.end_bytes(tensor, head, "norms", "hyper_connections")

    def read_bytes(self, split: Split, tokens: float) -> float:
        """Weights that a card reads for a pass of `tokens` tokens through all stages, added up."""
        layers = sum(self.layer_bytes(kinds, split.tensor, split.stage, tokens) for kinds in self.layers)
        return layers + self.head_bytes(split.tensor)

    def activations(self, tensor: int, sequences: float, last: bool) -> float:
        """An estimate of what a card holds besides weights and cache; `last` cards have the logits.

        A server: gate, up and their product in the widest feed-forward network, and four vectors of the hidden size,
        for a piece of a prompt, in 16 bit. Plain code writes out logits of all tokens and scores of all pairs, with
        copies in 32 bit: 12 and 16 bytes each, fitted to the memory tables in the README of DeepSeek LLM.
        """
        c, tokens = self.c, sequences * self.context
        if self.plain:
            return max(12 * c.vocab_size * tokens * last, 16 * c.num_attention_heads * tokens * self.context) / tensor
        width = max(c.f or 0, (c.k + c.n_shared_experts) * c.fe if c.E else 0)
        widest = 2 * min(PREFILL_CHUNK, tokens) * (3 * width / tensor + 4 * c.hidden_size)
        return widest + (4 * sequences * c.vocab_size / tensor if last else 0)

    def links(self, split: Split, tokens: float) -> float:
        """What a card receives for `tokens` tokens of its group: twice a layer a sum over the tensor split, and what
        comes to its experts (8 bit) and back from others' (16 bit)."""
        h, stage = self.c.hidden_size, split.stage
        received = 2 * len(self.layers) * 2 * h * tokens if split.tensor > 1 else 0
        if self.mixtures and split.data > 1:
            away = touched_experts(stage, 1, self.c.num_experts_per_tok) * (stage - 1) / stage
            received += self.mixtures * 3 * h * away * tokens / split.tensor
        return received

    # ------------------------------------------------------------------------------------------------- time

    def step(self, split: Split, tokens: int, same_experts: bool = False) -> tuple[float, str]:
        """Each sequence gets one more token after `tokens` of them; and what bounds that.

        Stages of a pipeline work at the same time if the batch is cut into as many parts; a part passes them one by
        one, so the times of all layers add up for it, and no stage is idle.
        """
        part = self.batch / min(split.pipeline, self.batch)
        own = max(1, part / split.data)  # sequences of one group in a part
        read = self.read_bytes(split, 1 if same_experts else part)
        cache = sum(cache_bytes(self.c, layer, layer.read(tokens), self.cache_format) for layer in self.attention)
        read += own * self.share_of_keys(split.tensor) * cache
        attention = 2 * sum(layer.step(tokens) for layer in self.attention)
        share = own / split.tensor
        arithmetic = self.arithmetic(share, part / split.stage, share, share * attention)
        return self.roofline(arithmetic, read, self.links(split, own))

    def prefill(self, split: Split, batch: int) -> tuple[float, str]:
        """`batch` prompts are read, in passes of at most `PREFILL_CHUNK` tokens; and what bounds that."""
        own = -(-batch // split.data)  # prompts of the fullest group
        tokens, cards = own * self.prompt, split.tensor * split.pipeline
        attention = 2 * sum(layer.prompt(self.prompt) for layer in self.attention)
        routed, share = batch * self.prompt / (cards * split.data), own / cards
        arithmetic = self.arithmetic(tokens / cards, routed, share, share * attention)
        chunk = tokens if self.plain else min(PREFILL_CHUNK, tokens)
        head, passes = self.head_bytes(split.tensor), -(-tokens // chunk)
        layers = self.read_bytes(split, chunk * min(split.data, batch)) - head
        read = layers * max(passes / split.pipeline, 1) + head / split.pipeline
        return self.roofline(arithmetic, read, self.links(split, tokens) / split.pipeline)

    def arithmetic(self, shared: float, routed: float, heads: float, attention: float) -> float:
        """One card's: tokens that it takes through shared weights, experts, the head; and FLOPs of attention.

        Attention runs in 16 bit, as V3 computes it (report, section 3.3.1), or in the cache's format.
        """
        tokens, speed = {"routed_experts": routed, "lm_head": heads}, self.card.speed
        work = ((2 * n * tokens.get(g, shared), self.formats[g].name) for g, n in self.multiply_adds.items())
        products = sum(flops / speed(name) for flops, name in work)
        return products + attention / speed("bfloat16" if self.cache_format == PACKED_CACHE else self.cache_format)

    def roofline(self, arithmetic: float, read: float, received: float) -> tuple[float, str]:
        """The longest of three times that overlap, and its name."""
        links = received / (self.link or math.inf)
        times = (arithmetic, "arithmetic"), (read / self.card.bandwidth, "memory"), (links, "links")
        return max(times, key=lambda time: time[0])

    def seconds_per_token(self, split: Split, answer: int) -> float:
        """All cards write one token, their share of reading prompts included."""
        if not answer:
            return self.step(split, self.context)[0] / self.batch
        first_step = self.step(split, self.prompt)[0]  # no step is faster than the first
        return (self.prefill(split, self.batch)[0] / answer + first_step) / self.batch
