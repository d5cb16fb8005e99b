"""Closed-form arithmetic of model shapes: parameters, weight bytes, KV-cache bytes, FLOPs per token.

Nothing is built here: every number follows from a configuration, in the symbols of `shapes.SYMBOLS`. The formulas agree
with the classes of transformers 5.23.

Sources: DeepSeekMoE (arXiv 2401.06066) s.3; DeepSeek-V2 (2405.04434) s.2; DeepSeek-V3 (2412.19437) s.2;
DeepSeek-V3.2 report s.2; DeepSeek-V4 (2606.19348) s.2.
"""

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, make_dataclass, replace
from typing import Any, NamedTuple

from utils.errors import InputError
from utils.formats import DTYPE_BITS, GROUPS, PACKED_CACHE, PUBLISHED, format_name, weight_formats
from utils.shapes import BIASED_ROUTER, CSA, DSA, FULL, GQA, MLA, WINDOW, Shape, read, whole_number

REUSED = "reused_selection"  # a kind of attention beside those of `shapes`: sparse, without an indexer of its own


@dataclass(frozen=True)
class ParameterCount(make_dataclass("Groups", [(name, int) for name in GROUPS], frozen=True)):
    """Parameters of a model: a field for each of `formats.GROUPS`, which make up the transformers class, and more.

    Norms inside an indexer or a compressor count there.
    """

    mtp: int  # multi-token-prediction layers, which only the published files hold, without copies of embedding and head
    router_bias: int  # load-balancing biases, buffers in transformers
    hash_tables: int  # V4's frozen token-to-expert tables, buffers as well
    routed_experts_used: int | None  # by one token; None if the configuration leaves `num_experts_per_tok` open
    tied: bool  # whether embedding and head are one matrix

    def groups(self) -> dict[str, int]:
        """The groups of the transformers class, for tables."""
        return {name: getattr(self, name) for name in GROUPS}

    @property
    def total(self) -> int:
        """Parameters that the transformers class holds: no MTP layer, no buffer."""
        return sum(self.groups().values())

    def activated(self, include_embedding: bool = False, include_head: bool = False) -> int:
        """Parameters that one token uses; a tied pair counts if either is asked for. Raises InputError if open."""
        if self.routed_experts_used is None:
            raise InputError(_OPEN)
        body = self.total - self.embedding - self.lm_head - self.routed_experts + self.routed_experts_used
        include_embedding |= self.tied and include_head
        return body + include_embedding * self.embedding + include_head * self.lm_head


_OPEN = "num_experts_per_tok = None: what one token uses cannot be counted without it"


class FlopCount(NamedTuple):
    """FLOPs of one decode step, 2 per multiply-add: products with weights, and what grows with the context."""

    weights: int
    attention: int

    @property
    def total(self) -> int:
        """All FLOPs of the step."""
        return self.weights + self.attention


def count_parameters(config: Any) -> ParameterCount:
    """Parameters of the model that `config` (see `shapes.read`) describes, to the last one. Raises InputError.

    Fields that a class does not use count for nothing: `num_key_value_heads` under MLA and in V4, `n_shared_experts`
    in V4 (always one), `moe_layer_freq` outside "deepseek".
    """
    c = read(config)
    kinds = Counter(ffn for _, ffn in layer_kinds(c))
    biases = kinds["moe"] * c.E if c.model_type in BIASED_ROUTER else 0
    tables = kinds["hash_moe"] and kinds["hash_moe"] * c.V * c.k
    blocks = _model(c)
    used = _of_chosen(c, size(blocks["routed_experts"]))
    groups = [size(blocks[name]) for name in GROUPS]
    return ParameterCount(*groups, _mtp(c), biases, tables, used, c.tie_word_embeddings)


def _of_chosen(c: Shape, routed: int) -> int | None:
    """What one token uses of something that all routed experts have; None if the configuration leaves that open."""
    return 0 if c.E is None else c.k and routed // c.E * c.k


def weight_bytes(config: Any, dtype: Any = "bfloat16") -> int:
    """Bytes of all parameters (`total`), rounded up, in the formats of `formats.weight_formats`. Raises InputError.

    With `PUBLISHED`, scales and router biases (32 bit) are included.
    """
    c = read(config)
    formats = weight_formats(c, dtype)
    bits = sum(formats[name].bits(block) for name, block in _model(c).items())
    return -(-bits // 8) + (4 * count_parameters(c).router_bias if dtype == PUBLISHED else 0)


def kv_cache_bytes(config: Any, tokens: int, batch: int = 1, dtype: Any = "bfloat16") -> int:
    """Bytes that the cache must hold after `tokens` tokens so that decoding can go on, for `batch` sequences.

    The cache of transformers holds exactly this, with two exceptions: V4's layers without compression hold their one
    tensor twice, and a window of 1 never drops a token. In `PACKED_CACHE`, the RoPE part has 16 bit, the rest 8 with
    scales, 656 bytes an entry in V3.2 and 584 in V4; the indexer's keys have 8 bit and a scale, in V4 4 bit.

    Raises:
        InputError: also for tokens below 0, a batch below 1, an unknown dtype.
    """
    c = read(config)
    tokens, batch = whole_number("tokens", tokens, 0), whole_number("batch", batch)
    return sum(cache_bytes(c, layer, layer.held(tokens), dtype, batch) for layer in attentions(c))


def flops_per_token(config: Any, context: int, absorbed: bool = True) -> FlopCount:
    """FLOPs to decode one token when the cache holds `context` tokens, so that context + 1 are attended.

    Matrix products only, an indexer's sum over its heads among them; the embedding lookup is free. For MLA in V2 and V3
    there are two equivalent ways. Absorbed, as serving kernels do it: attention runs on the cached latents. Not
    absorbed, as transformers does it: every latent is turned into keys and values again. V3.2 and V4 get what they ask
    for: the indexer scores all, attention covers the `index_topk` best, in V3.2 absorbed. transformers computes all
    scores, masks them, and expands V3.2's latents.

    Raises:
        InputError: also for a context below 0.
    """
    c = read(config)
    context = whole_number("context", context, 0)
    return FlopCount(2 * sum(products(c).values()), 2 * sum(layer.step(context, absorbed) for layer in attentions(c)))


def products(c: Shape) -> dict[str, int]:
    """Multiply-adds of one token with the weights, by group; the embedding is looked up, the head multiplies."""
    groups = {name: size(block, vectors=False) for name, block in _model(c).items()}
    groups |= {"embedding": 0, "lm_head": c.V * c.h, "routed_experts": _of_chosen(c, groups.get("routed_experts", 0))}
    if groups["routed_experts"] is None:
        raise InputError(_OPEN)
    if c.model_type == "deepseek_v4":  # its n streams mix around attention and around the experts
        groups["hyper_connections"] += 2 * c.L * c.n**2 * c.h
    return groups


# ----------------------------------------------------------------------- what a layer caches and attends to


@dataclass(frozen=True)
class Attention:
    """What one layer's attention costs. It covers the newest tokens, and all as entries that may be selected."""

    width: int  # numbers of an entry in the cache: keys and values 2 K d, MLA's latent and RoPE key, V4's one tensor
    pair: int  # multiply-adds for one query and one entry, over all heads; MLA's absorbed
    window: float = math.inf  # newest tokens that it covers, the query's own included
    rate: int = 0  # tokens that make an entry of the selected or compressed kind; 0 without such entries
    selected: float = math.inf  # how many of those it covers at most
    index_width: int = 0  # the same as width and pair for the indexer, which looks at all of those
    index_pair: int = 0
    overlap: bool = False  # whether two overlapping series are compressed, as in CSA
    expanded: int = 0  # `pair` for MLA's expanded keys and values
    expansion: int = 0  # multiply-adds to expand an entry

    def held(self, tokens: int) -> tuple[int, int]:
        """Entries that are cached after `tokens` tokens for the next one: keys and values, and the indexer's keys.

        A window of w keeps w - 1 tokens: the next token also sees itself. Tokens that wait to be compressed are kept
        as an entry and a gate each; with two series that is twice as much, and the last complete entry stays in parts.
        """
        entries, waiting = divmod(tokens, self.rate) if self.rate else (0, 0)
        entries += 4 * waiting + (2 * self.rate if entries else 0) if self.overlap else 2 * waiting
        return self._newest(tokens) + entries, entries if self.index_width else 0

    def read(self, tokens: int) -> tuple[int, int]:
        """Entries of `held` that decoding one token must read: what is selected, and the indexer's keys."""
        entries = tokens // self.rate if self.rate else 0
        return self._newest(tokens) + min(entries, self.selected), entries if self.index_width else 0

    def _newest(self, tokens: int) -> int:
        return min(tokens, max(self.window - 1, 0))

    def step(self, context: int, absorbed: bool = True) -> int:
        """Multiply-adds for one token after `context` others."""
        if self.expansion and not absorbed:
            return self.expansion * context + self.expanded * (context + 1)
        entries = (context + 1) // self.rate if self.rate else 0
        return self.pair * (min(context + 1, self.window) + min(entries, self.selected)) + self.index_pair * entries

    def prompt(self, tokens: int) -> int:
        """Multiply-adds for a prompt: `step` summed over its tokens; MLA takes the cheaper of its two forms."""
        entries = _sum_of_least(tokens, self.rate, math.inf)
        covered = _sum_of_least(tokens, 1, self.window) + _sum_of_least(tokens, self.rate, self.selected)
        return min(self.pair, self.expanded or self.pair) * covered + self.index_pair * entries


def _sum_of_least(tokens: int, rate: int, most: float) -> int:
    """The sum of min(p // rate, most) over p = 1 ... tokens; 0 without a rate."""
    whole, rest = divmod(tokens + 1, rate) if rate else (0, 0)  # p // rate has each value below `whole` `rate` times
    most = min(most, whole)
    return rate * (most * (most - 1) // 2 + most * (whole - most)) + rest * most


def attentions(c: Shape) -> list[Attention]:
    """The attention of every layer."""
    return [_attention(c, kind) for kind, _ in layer_kinds(c)]


def _attention(c: Shape, kind: str) -> Attention:
    if c.model_type in MLA:
        latent = Attention(c.rc + c.dr, c.H * (2 * c.rc + c.dr), expanded=c.H * (c.dn + c.dr + c.dv))
        if c.model_type not in DSA:
            return replace(latent, expansion=c.rc * c.H * (c.dn + c.dv))
        return replace(latent, window=0, rate=1, selected=c.index_topk, **({} if kind == REUSED else _indexer(c)))
    window = math.inf if kind == FULL else c.sliding_window
    if c.model_type in GQA:
        return Attention(2 * c.K * c.d, 2 * c.H * c.d, window)
    shared = Attention(c.d, 2 * c.H * c.d, window, rate=0 if kind == WINDOW else c.compress_rates[kind])
    if kind != CSA:
        return shared
    return replace(shared, selected=c.index_topk, overlap=True, **_indexer(c))


def _indexer(c: Shape) -> dict[str, int]:
    return {"index_width": c.di, "index_pair": c.Hi * (c.di + 1)}  # + 1: the weighted sum over its heads


def cache_bytes(c: Shape, layer: Attention, entries: tuple[int, int], dtype: Any, batch: int = 1) -> int:
    """Bytes of `batch` times so many entries of a layer and of its indexer, see `kv_cache_bytes`."""
    if dtype != PACKED_CACHE:
        numbers = batch * (entries[0] * layer.width + entries[1] * layer.index_width)
        return -(-numbers * DTYPE_BITS[format_name(dtype)] // 8)
    if c.model_type in GQA:
        raise InputError(f"{PACKED_CACHE} is a layout of latents; {c.model_type} caches keys and values")
    rest, scales, index = layer.width - c.dr, 4 * -(-(layer.width - c.dr) // 128), layer.index_width + 4
    if c.model_type == "deepseek_v4":  # scales of one byte for 64 numbers, padded by one
        scales, index = -(-rest // 64) + 1, layer.index_width // 2 + -(-layer.index_width // 32)
    return batch * (entries[0] * (rest + 2 * c.dr + scales) + entries[1] * index)


# ------------------------------------------------------------------------------------- the blocks of a model

Block = Counter[tuple[int, int, int]]
"""How often a matrix occurs, by (inputs, outputs, pieces). A tensor split can cut it into `pieces`; with 1 it is whole
on every card. Vectors (norm weights, biases) have one input and 0 pieces: they multiply nothing."""


def size(block: Block, vectors: bool = True) -> int:
    """Parameters of a block; without vectors, the multiply-adds that a token costs."""
    return sum(times * inputs * outputs for (inputs, outputs, pieces), times in block.items() if vectors or pieces)


def _vector(width: int, times: int = 1) -> Block:
    return Counter({(1, width, 0): times})


def _linear(inputs: int, outputs: int, pieces: int = 1, bias: bool = False, times: int = 1) -> Block:
    matrix = Counter({(inputs, outputs, pieces): times if inputs * outputs else 0})
    return matrix + _vector(outputs, times if bias else 0)


def _swiglu(h: int, width: int, bias: bool = False, times: int = 1) -> Block:
    """Gate and up h -> width, down width -> h."""
    return _linear(h, width, width, bias, 2 * times) + _linear(width, h, width, bias, times)


def _gqa_layer(c: Shape) -> Iterator[tuple[str, Block]]:
    """Queries, keys and values, output. Qwen2 has biases on all but the output; Qwen3 normalizes queries and keys."""
    qkv_bias, out_bias = (True, False) if c.model_type == "qwen2" else (c.attention_bias, c.attention_bias)
    yield "attention", _linear(c.h, c.H * c.d, c.H, qkv_bias) + _linear(c.h, c.K * c.d, c.K, qkv_bias, times=2)
    yield "attention", _linear(c.H * c.d, c.h, c.H, out_bias)
    yield "norms", _vector(c.d, times=2 if c.model_type.startswith("qwen3") else 0)


def _mla_layer(c: Shape, kind: str) -> Iterator[tuple[str, Block]]:
    """Queries, with or without a rank; latent and RoPE key; keys and values from the latent; output."""
    if c.rq:
        yield "attention", _linear(c.h, c.rq, bias=c.attention_bias)
        yield "norms", _vector(c.rq)
    yield "attention", _linear(c.rq or c.h, c.H * (c.dn + c.dr), c.H)
    yield "attention", _linear(c.h, c.rc + c.dr, bias=c.attention_bias) + _linear(c.rc, c.H * (c.dn + c.dv), c.H)
    yield "attention", _linear(c.H * c.dv, c.h, c.H, c.attention_bias)
    yield "norms", _vector(c.rc)
    if c.model_type in DSA and kind != REUSED:  # queries, one key with a LayerNorm, weights of the heads
        yield "indexer", _linear(c.rq, c.Hi * c.di) + _linear(c.h, c.di) + _vector(c.di, 2) + _linear(c.h, c.Hi)


def _v4_layer(c: Shape, kind: str) -> Iterator[tuple[str, Block]]:
    """Queries, one key that is also the value, output in g groups of heads and from them; a sink for each head."""
    yield "attention", _linear(c.h, c.rq) + _linear(c.rq, c.H * c.d, c.H) + _linear(c.h, c.d) + _vector(c.H)
    yield "attention", _linear(c.H * c.d // c.g, c.ro, c.g, times=c.g) + _linear(c.g * c.ro, c.h, c.g)
    yield "norms", _vector(c.rq) + _vector(c.d)
    # around attention and around experts: n weights in, n out, n x n to mix
    yield "hyper_connections", _linear(c.n * c.h, (2 + c.n) * c.n, bias=True, times=2) + _vector(3, times=2)
    if kind != WINDOW:
        yield "compressor", _compressor(c, kind, c.d)
    if kind == CSA:  # keys, queries, weights of the heads
        yield "indexer", _compressor(c, CSA, c.di) + _linear(c.rq, c.Hi * c.di) + _linear(c.h, c.Hi)


def _compressor(c: Shape, kind: str, width: int) -> Block:
    """Entries and gates h -> s width, a bias for each of m positions, a norm. CSA has s = 2 series, HCA 1."""
    all_series = 2 * width if kind == CSA else width
    return _linear(c.h, all_series, times=2) + _vector(all_series, times=c.compress_rates[kind]) + _vector(width)


def _ffn(c: Shape, ffn: str) -> Iterator[tuple[str, Block]]:
    if ffn == "dense":
        yield "dense_ffn", _swiglu(c.h, c.intermediate_size, c.mlp_bias)
        return
    yield "router", _linear(c.h, c.E)
    yield "routed_experts", _swiglu(c.h, c.fe, times=c.E)
    yield "shared_experts", _swiglu(c.h, c.n_shared_experts * c.fe, c.mlp_bias)  # all as one SwiGLU


def layer_blocks(c: Shape, kind: str, ffn: str) -> dict[str, Block]:
    """One decoder layer by group; `kind` and `ffn` as in `layer_kinds`."""
    attention = _gqa_layer(c) if c.model_type in GQA else (_mla_layer if c.model_type in MLA else _v4_layer)(c, kind)
    groups: dict[str, Block] = defaultdict(Counter, norms=_vector(c.h, times=2))
    for name, block in itertools.chain(attention, _ffn(c, ffn)):
        groups[name] += block
    return groups


def end_blocks(c: Shape) -> dict[str, Block]:
    """What is before and after the layers, by group."""
    head = {} if c.tie_word_embeddings else {"lm_head": _linear(c.h, c.V, c.V)}
    # the n streams collapse into one
    collapse = _linear(c.n * c.h, c.n, bias=True) + _vector(1) if c.model_type == "deepseek_v4" else Counter()
    return {"embedding": _linear(c.h, c.V, c.V), "norms": _vector(c.h), **head, "hyper_connections": collapse}


def layer_kinds(c: Shape) -> list[tuple[str, str]]:
    """(attention, feed-forward) of every layer; the feed-forward is "dense", "moe" or "hash_moe"."""
    kinds, is_moe = [FULL] * c.L, [False] * c.L
    match c.model_type:
        case "deepseek_v4":
            return list(zip(c.layer_types, c.mlp_layer_types, strict=True))
        case "deepseek_v32" | "glm_moe_dsa":
            kinds = [REUSED if kind == "shared" else FULL for kind in getattr(c, "indexer_types", None) or kinds]
            is_moe = [ffn == "sparse" for ffn in c.mlp_layer_types]
        case "qwen2" | "qwen3" if c.sliding_window is not None:
            kinds = c.layer_types
        case "qwen3_moe":
            kinds = kinds if c.sliding_window is None else [WINDOW] * c.L
            is_moe = [(i + 1) % c.decoder_sparse_step == 0 and i not in c.mlp_only_layers for i in range(c.L)]
        case "deepseek" | "deepseek_v2" | "deepseek_v3":
            every = (c.moe_layer_freq or 1) if c.model_type == "deepseek" else 1
            is_moe = [i >= c.first_k_dense_replace and i % every == 0 for i in range(c.L)]
    return [(kind, "moe" if moe else "dense") for kind, moe in zip(kinds, is_moe, strict=True)]


def _model(c: Shape) -> dict[str, Block]:
    """The whole model by group."""
    groups = defaultdict(Counter, end_blocks(c))
    for kinds, layers in Counter(layer_kinds(c)).items():
        for name, block in layer_blocks(c, *kinds).items():
            groups[name] += Counter({matrix: layers * times for matrix, times in block.items()})
    return groups


def _mtp(c: Shape) -> int:
    """Each extra layer: 2 h -> h, three norms, one MoE layer and its router bias; V4's slide, and collapse streams."""
    if not c.num_nextn_predict_layers:
        return 0
    layer = layer_blocks(c, WINDOW if c.model_type == "deepseek_v4" else FULL, "moe")
    more = _linear(2 * c.h, c.h) + _vector(c.h, times=3) + _vector(c.E) + end_blocks(c)["hyper_connections"]
    return c.num_nextn_predict_layers * (sum(map(size, layer.values())) + size(more))
