"""Plan a deployment on paper: does a model fit, where do its bytes go, and how fast can it be at the very best?

The bytes come from `utils.architecture`. The speed is a *roofline*: a step takes at least the time to read its bytes
from memory, and at least the time to do its arithmetic; whichever is longer is the bound (Williams et al. 2009). Real
systems stay below it, and links between cards are not counted.
"""

import re
from dataclasses import asdict, dataclass
from typing import Any

from utils import architecture, catalog
from utils.errors import CourseError

# Bytes of a weight inside the layers. Embedding, head, norms and router keep 16 bit, as DeepSeek-V3 (report, section
# 3.3.1) and bitsandbytes keep them.
PRECISIONS = {"bfloat16": 2.0, "float8": 1.0, "int8": 1.0, "int4": 0.5}
PREFILL_CHUNK = 4096  # tokens that are read at once; servers cut longer prompts
RESERVE = 0.05  # share of a card that driver and libraries take


class PlanError(CourseError, ValueError):
    """Something about the model, the hardware or the request does not fit; the message says what is allowed."""


@dataclass(frozen=True)
class Hardware:
    """One card.

    Attributes:
        name: "H100".
        memory: bytes.
        bandwidth: bytes a second from its memory.
        peak: dense arithmetic in FLOP/s (or integer operations), by precision that it supports.
        source: where the numbers come from.
    """

    name: str
    memory: float
    bandwidth: float
    peak: dict[str, float]
    source: str

    def __post_init__(self) -> None:
        for field in ("memory", "bandwidth"):
            value = getattr(self, field)
            if not isinstance(value, (int, float)) or not value > 0:
                raise PlanError(f"{self.name} needs its {field} in bytes, more than 0; got {value!r}")


_A100 = {"bfloat16": 312e12, "int8": 624e12, "int4": 312e12}  # 4-bit weights are multiplied in 16 bit
_HOPPER = {"bfloat16": 989e12, "float8": 1979e12, "int8": 1979e12, "int4": 989e12}
_ADA = {"bfloat16": 165e12, "float8": 330e12, "int8": 660e12, "int4": 165e12}
HARDWARE = {
    card.name: card
    for card in (
        Hardware("A100-40GB", 40e9, 1.555e12, _A100, "NVIDIA A100 data sheet"),
        Hardware("A100-80GB", 80e9, 2.039e12, _A100, "NVIDIA A100 data sheet, SXM"),
        Hardware("H100", 80e9, 3.35e12, _HOPPER, "NVIDIA H100 data sheet, SXM, without sparsity"),
        Hardware("H200", 141e9, 4.8e12, _HOPPER, "NVIDIA H200 data sheet, SXM, without sparsity"),
        Hardware("RTX4090", 24e9, 1.008e12, _ADA, "NVIDIA Ada architecture whitepaper, appendix A"),
        Hardware("laptop", 16e9, 50e9, {"bfloat16": 0.5e12, "int8": 1e12, "int4": 0.5e12}, "round numbers of ours"),
    )
}


@dataclass(frozen=True)
class Plan:
    """What a deployment needs, in bytes over all cards, and how fast it can be at the most.

    Attributes:
        weights, cache, activations: bytes over all cards.
        needed, memory: their sum, and what all cards offer after the reserve.
        fits: whether an even split fits.
        cards_needed: smallest number of such cards for an even split.
        prefill_seconds: least time to read all prompts; `prefill_bound` is "arithmetic" or "memory".
        step_seconds: least time of one decoding step for the whole batch, with its `step_bound`.
        tokens_per_second: batch over step_seconds.
        per_card: bytes that the fullest card holds under a tensor, pipeline and expert split (the last one only
            for mixtures of experts).
    """

    model: str
    hardware: str
    precision: str
    context: int
    batch: int
    weights: int
    cache: int
    activations: int
    needed: int
    memory: int
    fits: bool
    cards_needed: int
    prefill_seconds: float
    prefill_bound: str
    step_seconds: float
    step_bound: str
    tokens_per_second: float
    per_card: dict[str, int]

    def record(self) -> dict[str, Any]:
        """All fields as a dictionary for JSON."""
        return asdict(self)


def parse_hardware(text: str) -> tuple[int, Hardware]:
    """Number of cards and card from "8xH200", "4*A100-80GB" or "2 x RTX 4090", or one card from "H200".

    Raises:
        PlanError: not of that form, no card, or an unknown one; the message lists the known ones.
    """
    found = re.fullmatch(r"(?:(-?\d+)\s*[x×*])?\s*([A-Za-z][\w -]*)", text.strip())
    if found is None:
        raise PlanError(f"hardware must look like H200 or 8xH200; got {text!r}")
    known, name = {_plain(name): card for name, card in HARDWARE.items()}, _plain(found[2])
    if name not in known:
        raise PlanError(f"no hardware {found[2]!r}; there are {', '.join(HARDWARE)}")
    return _whole("number of cards", int(found[1] or 1)), known[name]


def _plain(name: str) -> str:
    """A card's name without what people spell differently: case, spaces and dashes."""
    return re.sub(r"[\s_-]", "", name).lower()


def weight_bytes(config: Any, precision: str) -> int:
    """Bytes of all weights: the layers' matrices in the precision, embedding, head, norms and router in 16 bit.

    Raises:
        PlanError: an unknown precision.
    """
    if precision not in PRECISIONS:
        raise PlanError(f"no precision {precision!r}; there are {', '.join(PRECISIONS)}")
    count = architecture.count_parameters(config)
    kept = count.embedding + count.lm_head + count.norms + count.router
    return int(2 * kept + PRECISIONS[precision] * (count.total - kept))


def touched_experts(experts: int, chosen: int, tokens: int) -> float:
    """How many different experts of a layer `tokens` tokens use, on average, if all are chosen equally often."""
    return experts * (1 - (1 - chosen / experts) ** tokens)


def read_bytes(config: dict[str, Any], precision: str, tokens: int) -> float:
    """Bytes of weights that one pass of `tokens` tokens must read: a mixture leaves unchosen experts alone.

    The embedding is looked up row by row and is not counted, unless it serves as the head as well.
    """
    count = architecture.count_parameters(config)
    total = float(weight_bytes(config, precision) - (0 if count.tied else 2 * count.embedding))
    experts = config.get("n_routed_experts")
    if count.routed_experts:
        used = touched_experts(experts, config["num_experts_per_tok"], tokens) / experts
        total -= PRECISIONS[precision] * count.routed_experts * (1 - used)
    return total


def activation_bytes(config: dict[str, Any], tokens: int, batch: int) -> int:
    """Bytes of the widest moment of a pass over `tokens` tokens, in 16 bit, and of the logits of `batch` last tokens.

    Gate, up and their product in the feed-forward network, and four vectors of the hidden size; an estimate.
    """
    width = config.get("intermediate_size") or config["moe_intermediate_size"]
    if "num_experts_per_tok" in config:
        shared = config.get("n_shared_experts") or 0
        width = max(width, (config["num_experts_per_tok"] + shared) * config["moe_intermediate_size"])
    return 2 * tokens * (3 * width + 4 * config["hidden_size"]) + 4 * batch * config["vocab_size"]


def plan(
    model: Any,
    hardware: str | Hardware,
    precision: str = "bfloat16",
    context: int = 4096,
    batch: int = 1,
    cards: int | None = None,
) -> Plan:
    """Plan to serve a model: bytes, fit, and the roofline bounds of reading prompts and of writing.

    Args:
        model: a name of the catalog, or a configuration: a dict as in a `config.json`, or one of transformers.
        hardware: "8xH200", or a `Hardware` of your own with `cards`.
        precision: of the weights, a key of `PRECISIONS` or its short form, such as fp8; the cache is in bfloat16.
        context: tokens of each sequence, prompt and answer.
        batch: sequences at a time.
        cards: number of cards, if `hardware` does not say it.

    Raises:
        PlanError: unknown hardware or precision, one that the hardware lacks, a context beyond the model's, or a
            context, batch or number of cards below 1.
        KeyError: a name that the catalog does not have.
    """
    name, config = (model, catalog.get(model).config) if isinstance(model, str) else ("own model", model)
    config = config if isinstance(config, dict) else config.to_dict()
    precision = architecture.SHORT_NAMES.get(precision, precision)
    number, card = parse_hardware(hardware) if isinstance(hardware, str) else (1, hardware)
    number = _whole("number of cards", number if cards is None else cards)
    context, batch = _whole("context", context), _whole("batch", batch)
    limit = config.get("max_position_embeddings")
    if limit and context > limit:
        raise PlanError(f"context is {context:,} tokens; {name} reads at most {limit:,}")
    weights = weight_bytes(config, precision)
    if precision not in card.peak:
        raise PlanError(f"{card.name} does not compute in {precision}; it has {', '.join(card.peak)}")
    cache = architecture.kv_cache_bytes(config, context, batch)
    activations = activation_bytes(config, min(PREFILL_CHUNK, batch * context), batch)
    needed, room = weights + cache + activations, card.memory * (1 - RESERVE)
    arithmetic = batch * context * architecture.flops_per_token(config, context // 2).total
    passes = -(-batch * context // PREFILL_CHUNK)
    reading = passes * read_bytes(config, precision, min(PREFILL_CHUNK, batch * context))
    prefill, prefill_bound = _roofline(arithmetic, reading, card, precision, number)
    step, step_bound = _roofline(
        batch * architecture.flops_per_token(config, context).total,
        read_bytes(config, precision, batch) + cache,
        card,
        precision,
        number,
    )
    return Plan(
        model=name,
        hardware=f"{number}x{card.name}",
        precision=precision,
        context=context,
        batch=batch,
        weights=weights,
        cache=cache,
        activations=activations,
        needed=needed,
        memory=int(number * room),
        fits=needed <= number * room,
        cards_needed=int(-(-needed // room)),
        prefill_seconds=prefill,
        prefill_bound=prefill_bound,
        step_seconds=step,
        step_bound=step_bound,
        tokens_per_second=batch / step,
        per_card=splits(config, precision, context, batch, number),
    )


def splits(config: dict[str, Any], precision: str, context: int, batch: int, cards: int) -> dict[str, int]:
    """Weights and cache of the fullest card, in bytes, for three ways to split a model (chapter 08).

    - tensor: every card has a slice of every matrix. Key-value heads are dealt out as far as they go; MLA's latent
      belongs to all heads, so every card keeps all of it.
    - pipeline: every card has whole layers; the fullest has the larger half of a remainder, and embedding or head.
    - expert: routed experts are dealt out, all other weights are on every card, and each card serves its share of the
      sequences.
    """
    count, weights = architecture.count_parameters(config), weight_bytes(config, precision)
    cache, layers = architecture.kv_cache_bytes(config, context, batch), config["num_hidden_layers"]
    heads = 1 if "kv_lora_rank" in config else config.get("num_key_value_heads") or config["num_attention_heads"]
    outside = 2 * max(count.embedding, count.lm_head)
    inside = weights - 2 * (count.embedding + count.lm_head)
    most_layers = -(-layers // cards) / layers
    found = {
        "tensor": weights / cards + cache / min(cards, heads),
        "pipeline": most_layers * (inside + cache) + outside,
    }
    if count.routed_experts:
        routed = PRECISIONS[precision] * count.routed_experts
        most_experts = -(-config["n_routed_experts"] // cards) / config["n_routed_experts"]
        found["expert"] = weights - routed + most_experts * routed + cache * -(-batch // cards) / batch
    return {name: int(size) for name, size in found.items()}


def _roofline(flops: float, read: float, card: Hardware, precision: str, cards: int) -> tuple[float, str]:
    arithmetic, memory = flops / (cards * card.peak[precision]), read / (cards * card.bandwidth)
    return max(arithmetic, memory), "arithmetic" if arithmetic > memory else "memory"


def _whole(name: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise PlanError(f"{name} must be a whole number of at least 1; got {value!r}")
    return value
