"""Closed-form arithmetic of model shapes: parameters, weight bytes, KV-cache bytes, FLOPs per token.

Nothing is built here: every number follows from a configuration. The formulas agree with the classes of
transformers 5.23. Symbols, and the configuration fields they stand for:

    V   vocab_size               h   hidden_size             L   num_hidden_layers
    H   num_attention_heads      K   num_key_value_heads     d   head_dim
    f   intermediate_size        fe  moe_intermediate_size   E   n_routed_experts
    k   num_experts_per_tok      rq  q_lora_rank             rc  kv_lora_rank
    dn  qk_nope_head_dim         dr  qk_rope_head_dim        dv  v_head_dim
    Hi  index_n_heads            di  index_head_dim          m   compression rate of a V4 layer
    n   hc_mult                  g   o_groups                ro  o_lora_rank

Sources: DeepSeekMoE (arXiv 2401.06066) s.3; DeepSeek-V2 (2405.04434) s.2; DeepSeek-V3 (2412.19437) s.2;
DeepSeek-V3.2 report s.2; DeepSeek-V4 (2606.19348) s.2.
"""

import operator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

DTYPE_BITS = {
    "float32": 32,
    "bfloat16": 16,
    "float16": 16,
    "float8": 8,
    "int8": 8,
    "float6": 6,
    "int6": 6,
    "float4": 4,
    "int4": 4,
}
"""Bits of one number, by name. torch dtypes such as `torch.float8_e4m3fn` are understood as well."""

_GQA = ("llama", "qwen2", "deepseek")
_MLA = ("deepseek_v2", "deepseek_v3", "deepseek_v32")
_MTP = ("deepseek_v3", "deepseek_v32", "deepseek_v4")  # the families whose routers have a bias, too
_MLP_BIAS = ("llama", "deepseek_v2", "deepseek_v4")  # V3.2's class has the field without using it
_FULL, _WINDOW = "full_attention", "sliding_attention"  # kinds of attention, as transformers spells them
_CSA, _HCA = "compressed_sparse_attention", "heavily_compressed_attention"


@dataclass(frozen=True)
class ParameterCount:
    """Parameters of a model, by group.

    The fields from `embedding` to `hyper_connections` are all that the transformers class holds, and `total`
    is their sum. The others stand beside it.

    Attributes:
        embedding: V h.
        attention: projections with their biases, attention sinks included.
        dense_ffn: feed-forward blocks of layers without experts.
        routed_experts, shared_experts, router: the parts of the MoE layers.
        norms: RMSNorm weights of the layers and the final one, norms of low-rank queries and keys included.
            Norms inside an indexer or a compressor count there.
        lm_head: V h, or 0 when it is tied to the embedding.
        indexer, compressor, hyper_connections: parts of V3.2 and V4.
        mtp: multi-token-prediction layers, which only the published files hold. Counted without copies of
            embedding and head, with the router bias. V4's use sliding-window attention and have a stream
            collapse of their own.
        router_bias: load-balancing biases (`e_score_correction_bias`), buffers in transformers.
        hash_tables: V4's frozen token-to-expert tables, V k integers in each hash layer, buffers as well.
        routed_experts_used: the part of `routed_experts` that one token passes through.
        tied: whether embedding and head are one matrix.
    """

    embedding: int
    attention: int
    dense_ffn: int
    routed_experts: int
    shared_experts: int
    router: int
    norms: int
    lm_head: int
    indexer: int = 0
    compressor: int = 0
    hyper_connections: int = 0
    mtp: int = 0
    router_bias: int = 0
    hash_tables: int = 0
    routed_experts_used: int = 0
    tied: bool = False

    def groups(self) -> dict[str, int]:
        """The groups in the order of the fields, for tables. Their sum is `total`."""
        return {name: getattr(self, name) for name in _GROUPS}

    @property
    def total(self) -> int:
        """Parameters that the transformers class holds: no MTP layer, no buffer."""
        return sum(self.groups().values())

    def activated(self, include_embedding: bool = False, include_head: bool = False) -> int:
        """Parameters that one token uses: k routed experts in each MoE layer, and everything else.

        Embedding and head count only when asked for. A tied pair is one matrix, counted once when either is.
        """
        body = self.total - self.embedding - self.lm_head - self.routed_experts + self.routed_experts_used
        if self.tied:
            return body + (self.embedding if include_embedding or include_head else 0)
        return body + (self.embedding if include_embedding else 0) + (self.lm_head if include_head else 0)


_GROUPS = tuple(ParameterCount.__dataclass_fields__)[:11]  # embedding ... hyper_connections


@dataclass(frozen=True)
class FlopCount:
    """FLOPs of one decode step, 2 per multiply-add.

    Attributes:
        weights: products of the new token with weights, the same at every context length.
        attention: what grows with the context: scores, weighted values, the indexer's scores, and MLA's
            expansion of the cached latents.
    """

    weights: int
    attention: int

    @property
    def total(self) -> int:
        """All FLOPs of the step."""
        return self.weights + self.attention


def count_parameters(config: Any) -> ParameterCount:
    """Parameters of the model that `config` describes, to the last one.

    Args:
        config: a transformers configuration, or a dict with `model_type` as in a `config.json`. A dict must
            give the integers that define the shape. The rest has the defaults of the transformers class, and
            unknown keys are ignored. Fields that a class does not use count for nothing:
            `num_key_value_heads` under MLA and in V4, `n_shared_experts` in V4 (always one),
            `moe_layer_freq` outside "deepseek".

    Raises:
        ValueError: a field is missing, malformed or contradicts another, or the model type is unknown.
    """
    c = _read(config)
    ffn_kinds = [ffn for _, ffn in _layer_kinds(c)]
    routers, tables = ffn_kinds.count("moe"), ffn_kinds.count("hash_moe")
    return ParameterCount(
        **dict.fromkeys(_GROUPS, 0) | {name: block.size for name, block in _model(c).items()},
        mtp=_mtp(c),
        router_bias=routers * c.n_routed_experts if c.model_type in _MTP else 0,
        hash_tables=tables * c.vocab_size * c.num_experts_per_tok if tables else 0,
        routed_experts_used=_used_experts(c).size,
        tied=c.tie_word_embeddings,
    )


def weight_bytes(config: Any, dtype: Any = "bfloat16") -> int:
    """Bytes of all parameters (`total`) in `dtype`, a key of `DTYPE_BITS` or a torch dtype, rounded up.

    Raises:
        ValueError: as `count_parameters`, or the dtype is unknown.
    """
    return _bytes(count_parameters(config).total, dtype)


def kv_cache_bytes(config: Any, tokens: int, batch: int = 1, dtype: Any = "bfloat16") -> int:
    """Bytes that the cache must hold after `tokens` tokens so that decoding can go on, for `batch` sequences.

    Numbers for each layer and sequence, with t = tokens:

    - MHA, GQA: 2 K d t. A sliding window of w keeps min(t, w - 1) tokens: the next token also sees itself.
    - MLA: (rc + dr) t, the latent and one RoPE key for all heads. V3.2 adds di t for the indexer's keys.
    - V4: d min(t, w - 1), keys and values being one tensor. Compressed layers add d floor(t / m) entries, and
      2 d (t mod m) for tokens that wait for theirs, as an entry and a gate each. CSA layers compress two
      overlapping series: 4 d (t mod m) wait, and 2 d m stay of the last complete entry. Their indexer has
      all of that again, with di for d.

    The cache of transformers holds exactly this, with two exceptions: V4's layers without compression hold
    their one tensor twice, as keys and as values, and a window of 1 never drops a token. The same dtype is taken
    for everything; DeepSeek serves V4 with a mix (RoPE part BF16, rest FP8, indexer FP4).

    Raises:
        ValueError: as `count_parameters`; tokens below 0 or batch below 1; not integers; unknown dtype.
    """
    c = _read(config)
    tokens, batch = _integer("tokens", tokens, 0), _integer("batch", batch, 1)
    return _bytes(
        batch * sum(_cache_numbers(c, attention, tokens) for attention, _ in _layer_kinds(c)), dtype
    )


def flops_per_token(config: Any, context: int) -> FlopCount:
    """FLOPs to decode one token when the cache holds `context` tokens, so that context + 1 are attended.

    Matrix products only. The head is included, the embedding lookup is free.

    - llama, qwen2, deepseek, V2, V3: what transformers computes with eager attention. Its MLA expands every
      cached latent to keys and values in each step, 2 rc H (dn + dv) FLOPs per cached token and layer.
      Serving kernels avoid that: they absorb the expansion into query and output.
    - V3.2, V4: what the architecture asks for. The indexer scores every token or entry, attention covers the
      `index_topk` best, and V3.2 attends to latents (absorbed MLA, as its report describes). transformers
      computes all scores, masks them, and expands V3.2's latents, so it needs more. For V4 the two agree as
      long as the index selects everything.

    Raises:
        ValueError: as `count_parameters`; context below 0 or not an integer.
    """
    c = _read(config)
    context = _integer("context", context, 0)
    groups = _model(c) | {"routed_experts": _used_experts(c)}
    products = sum(block.matrix for name, block in groups.items() if name not in ("embedding", "lm_head"))
    products += c.vocab_size * c.hidden_size  # the head multiplies, tied or not
    if c.model_type == "deepseek_v4":  # its n streams mix around attention and around the experts
        products += 2 * c.num_hidden_layers * c.hc_mult**2 * c.hidden_size
    attention = sum(_attention_products(c, attention, context) for attention, _ in _layer_kinds(c))
    return FlopCount(weights=2 * products, attention=2 * attention)


def summary(
    config: Any, context: int, batch: int = 1, dtype: Any = "bfloat16", cache_dtype: Any = "bfloat16"
) -> dict[str, int]:
    """Everything above about one model, by name and in reading order.

    Args:
        config: as for `count_parameters`.
        context: tokens in each sequence.
        batch: sequences in the cache.
        dtype, cache_dtype: number formats of weights and cache.

    Raises:
        ValueError: as the functions above.
    """
    count, flops = count_parameters(config), flops_per_token(config, context)
    return {
        **count.groups(),
        "total": count.total,
        "activated": count.activated(),
        "activated_with_head": count.activated(include_head=True),
        "activated_with_both": count.activated(include_embedding=True, include_head=True),
        "mtp": count.mtp,
        "router_bias": count.router_bias,
        "hash_tables": count.hash_tables,
        "weight_bytes": weight_bytes(config, dtype),
        "kv_cache_bytes": kv_cache_bytes(config, context, batch, cache_dtype),
        "flops_weights": flops.weights,
        "flops_attention": flops.attention,
        "flops_per_token": flops.total,
    }


# ------------------------------------------------------------------------------------ the blocks of a model


@dataclass(frozen=True)
class _Block:
    """Parameters of a block. A matrix entry costs one multiply-add per token, a norm weight or bias none."""

    matrix: int = 0
    vector: int = 0

    @property
    def size(self) -> int:
        return self.matrix + self.vector

    def __add__(self, other: "_Block") -> "_Block":
        return _Block(self.matrix + other.matrix, self.vector + other.vector)

    def __rmul__(self, times: int) -> "_Block":
        return _Block(times * self.matrix, times * self.vector)


def _linear(inputs: int, outputs: int, bias: bool = False) -> _Block:
    return _Block(inputs * outputs, outputs if bias else 0)


def _norm(*widths: int) -> _Block:
    return _Block(vector=sum(widths))


def _gqa_attention(c: SimpleNamespace) -> _Block:
    """Queries h -> H d, keys and values h -> K d, output H d -> h. Qwen2 has biases on all but the output."""
    h, heads, kv_heads = c.hidden_size, c.num_attention_heads, c.num_key_value_heads
    qkv_bias, out_bias = (True, False) if c.model_type == "qwen2" else (c.attention_bias, c.attention_bias)
    query, output = _linear(h, heads * c.head_dim, qkv_bias), _linear(heads * c.head_dim, h, out_bias)
    return query + 2 * _linear(h, kv_heads * c.head_dim, qkv_bias) + output


def _mla_attention(c: SimpleNamespace) -> _Block:
    """Queries h -> rq -> H (dn + dr), or without rq; latent and RoPE key h -> rc + dr; keys and values
    rc -> H (dn + dv); output H dv -> h."""
    h, heads, bias = c.hidden_size, c.num_attention_heads, c.attention_bias
    query_width = heads * (c.qk_nope_head_dim + c.qk_rope_head_dim)
    if c.q_lora_rank is None:
        query = _linear(h, query_width)
    else:
        query = _linear(h, c.q_lora_rank, bias) + _linear(c.q_lora_rank, query_width)
    latent = _linear(h, c.kv_lora_rank + c.qk_rope_head_dim, bias)
    keys_and_values = _linear(c.kv_lora_rank, heads * (c.qk_nope_head_dim + c.v_head_dim))
    return query + latent + keys_and_values + _linear(heads * c.v_head_dim, h, bias)


def _v32_indexer(c: SimpleNamespace) -> _Block:
    """Queries rq -> Hi di, one key h -> di with a LayerNorm (weight and bias), head weights h -> Hi."""
    h, heads, width = c.hidden_size, c.index_n_heads, c.index_head_dim
    return _linear(c.q_lora_rank, heads * width) + _linear(h, width) + _norm(width, width) + _linear(h, heads)


def _v4_attention(c: SimpleNamespace) -> _Block:
    """Queries h -> rq -> H d, one key that is also the value h -> d, output in g groups of heads
    H d / g -> ro each, then g ro -> h; a sink for each head."""
    h, query_width = c.hidden_size, c.num_attention_heads * c.head_dim
    query = _linear(h, c.q_lora_rank) + _linear(c.q_lora_rank, query_width)
    output = c.o_groups * _linear(query_width // c.o_groups, c.o_lora_rank)
    output += _linear(c.o_groups * c.o_lora_rank, h)
    return query + _linear(h, c.head_dim) + output + _Block(vector=c.num_attention_heads)


def _v4_compressor(c: SimpleNamespace, attention: str, width: int) -> _Block:
    """Entries and gates h -> s width, a bias for each of m positions, a norm. CSA has s = 2 series, HCA 1."""
    all_series = 2 * width if attention == _CSA else width
    position_bias = _Block(vector=c.compress_rates[attention] * all_series)
    return 2 * _linear(c.hidden_size, all_series) + position_bias + _norm(width)


def _v4_indexer(c: SimpleNamespace) -> _Block:
    """A compressor of width di, queries rq -> Hi di, head weights h -> Hi."""
    query = _linear(c.q_lora_rank, c.index_n_heads * c.index_head_dim)
    return _v4_compressor(c, _CSA, c.index_head_dim) + query + _linear(c.hidden_size, c.index_n_heads)


def _hyper_connection(c: SimpleNamespace) -> _Block:
    """From the n streams (n h) to n weights in, n weights out and n x n mixing weights; 3 scales."""
    return _linear(c.hc_mult * c.hidden_size, (2 + c.hc_mult) * c.hc_mult, bias=True) + _Block(vector=3)


def _hyper_head(c: SimpleNamespace) -> _Block:
    """The final collapse of the n streams into one: n h -> n, 1 scale."""
    return _linear(c.hc_mult * c.hidden_size, c.hc_mult, bias=True) + _Block(vector=1)


def _swiglu(h: int, width: int, bias: bool = False) -> _Block:
    """Gate and up h -> width, down width -> h."""
    return 2 * _linear(h, width, bias) + _linear(width, h, bias)


def _moe(c: SimpleNamespace) -> dict[str, _Block]:
    """Router h -> E, E routed experts of width fe, and the shared experts as one SwiGLU."""
    shared = 1 if c.model_type == "deepseek_v4" else c.n_shared_experts
    return {
        "router": _linear(c.hidden_size, c.n_routed_experts),
        "routed_experts": c.n_routed_experts * _swiglu(c.hidden_size, c.moe_intermediate_size),
        "shared_experts": _swiglu(c.hidden_size, shared * c.moe_intermediate_size, c.mlp_bias),
    }


def _layer(c: SimpleNamespace, attention: str, ffn: str) -> dict[str, _Block]:
    """One decoder layer by group; `attention` and `ffn` are kinds as in `_layer_kinds`."""
    norms = _norm(c.hidden_size, c.hidden_size)
    if c.model_type in _GQA:
        groups = {"attention": _gqa_attention(c), "norms": norms}
    elif c.model_type in _MLA:
        groups = {"attention": _mla_attention(c), "norms": norms + _norm(c.q_lora_rank or 0, c.kv_lora_rank)}
        if c.model_type == "deepseek_v32":
            groups["indexer"] = _v32_indexer(c)
    else:
        groups = {"attention": _v4_attention(c), "norms": norms + _norm(c.q_lora_rank, c.head_dim)}
        groups["hyper_connections"] = 2 * _hyper_connection(c)
        if attention != _WINDOW:
            groups["compressor"] = _v4_compressor(c, attention, c.head_dim)
        if attention == _CSA:
            groups["indexer"] = _v4_indexer(c)
    if ffn == "dense":
        return groups | {"dense_ffn": _swiglu(c.hidden_size, c.intermediate_size, c.mlp_bias)}
    return groups | _moe(c)


def _layer_kinds(c: SimpleNamespace) -> list[tuple[str, str]]:
    """(attention, feed-forward) of every layer; the feed-forward is "dense", "moe" or "hash_moe"."""
    if c.model_type == "deepseek_v4":
        return list(zip(c.layer_types, c.mlp_layer_types, strict=True))
    if c.model_type == "deepseek_v32":
        return [(_FULL, "moe" if ffn == "sparse" else "dense") for ffn in c.mlp_layer_types]
    if c.model_type == "qwen2":
        return [(_FULL if c.sliding_window is None else attention, "dense") for attention in c.layer_types]
    if c.model_type == "llama":
        return [(_FULL, "dense")] * c.num_hidden_layers
    every = (c.moe_layer_freq or 1) if c.model_type == "deepseek" else 1
    is_moe = [i >= c.first_k_dense_replace and i % every == 0 for i in range(c.num_hidden_layers)]
    return [(_FULL, "moe" if moe else "dense") for moe in is_moe]


def _model(c: SimpleNamespace) -> dict[str, _Block]:
    """The whole model by group."""
    matrix = _linear(c.vocab_size, c.hidden_size)
    groups = {"embedding": matrix, "norms": _norm(c.hidden_size)}
    if not c.tie_word_embeddings:
        groups["lm_head"] = matrix
    if c.model_type == "deepseek_v4":
        groups["hyper_connections"] = _hyper_head(c)
    for attention, ffn in _layer_kinds(c):
        for name, block in _layer(c, attention, ffn).items():
            groups[name] = groups.get(name, _Block()) + block
    return groups


def _used_experts(c: SimpleNamespace) -> _Block:
    """The routed experts that one token passes through, over all layers."""
    moe_layers = sum(ffn != "dense" for _, ffn in _layer_kinds(c))
    if not moe_layers:
        return _Block()
    return moe_layers * c.num_experts_per_tok * _swiglu(c.hidden_size, c.moe_intermediate_size)


def _mtp(c: SimpleNamespace) -> int:
    """Each extra layer: 2 h -> h, three norms, one MoE layer and its router bias; in V4 a stream collapse."""
    if not c.num_nextn_predict_layers:
        return 0
    attention, collapse = (_WINDOW, _hyper_head(c)) if c.model_type == "deepseek_v4" else (_FULL, _Block())
    layer = sum(_layer(c, attention, "moe").values(), start=_norm(c.n_routed_experts) + collapse)
    layer += _linear(2 * c.hidden_size, c.hidden_size) + 3 * _norm(c.hidden_size)
    return c.num_nextn_predict_layers * layer.size


def _cache_numbers(c: SimpleNamespace, attention: str, tokens: int) -> int:
    """Numbers that one layer caches for one sequence, see `kv_cache_bytes`."""
    if c.model_type in _MLA:
        index_key = c.index_head_dim if c.model_type == "deepseek_v32" else 0
        return (c.kv_lora_rank + c.qk_rope_head_dim + index_key) * tokens
    kept = tokens if attention == _FULL else min(tokens, c.sliding_window - 1)
    if c.model_type in _GQA:
        return 2 * c.num_key_value_heads * c.head_dim * kept
    if attention == _WINDOW:
        return c.head_dim * kept
    m = c.compress_rates[attention]
    entries, waiting = divmod(tokens, m)
    if attention == _HCA:
        return c.head_dim * (kept + entries + 2 * waiting)
    overlap = 2 * m if entries else 0
    return c.head_dim * kept + (c.head_dim + c.index_head_dim) * (entries + 4 * waiting + overlap)


def _attention_products(c: SimpleNamespace, attention: str, context: int) -> int:
    """Multiply-adds of one layer that depend on the context, see `flops_per_token`."""
    heads, keys = c.num_attention_heads, context + 1
    if c.model_type == "deepseek_v32":
        index = c.index_n_heads * (c.index_head_dim + 1) * keys  # + 1 for the weighted sum over its heads
        return index + heads * (2 * c.kv_lora_rank + c.qk_rope_head_dim) * min(keys, c.index_topk)
    if c.model_type in _MLA:
        expansion = c.kv_lora_rank * heads * (c.qk_nope_head_dim + c.v_head_dim) * context
        return expansion + heads * (c.qk_nope_head_dim + c.qk_rope_head_dim + c.v_head_dim) * keys
    attended = keys if attention == _FULL else min(keys, c.sliding_window)
    index = 0
    if attention in (_CSA, _HCA):
        entries = keys // c.compress_rates[attention]
        attended += min(entries, c.index_topk) if attention == _CSA else entries
        index = c.index_n_heads * c.index_head_dim * entries if attention == _CSA else 0
    return 2 * heads * c.head_dim * attended + index


# -------------------------------------------------------------------------------- reading a configuration

_BODY = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")
_EXPERTS = ("moe_intermediate_size", "n_routed_experts", "num_experts_per_tok")
_MOE = ("intermediate_size", *_EXPERTS, "n_shared_experts", "first_k_dense_replace")
_LATENT = ("q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
_INDEXER = ("index_n_heads", "index_head_dim", "index_topk")
_V4 = ("head_dim", "q_lora_rank", "sliding_window", "hc_mult", "o_groups", "o_lora_rank", *_INDEXER)

_REQUIRED = {  # integers that define the shape: a dict must give them
    "llama": (*_BODY, "intermediate_size"),
    "qwen2": (*_BODY, "intermediate_size", "num_key_value_heads"),
    "deepseek": (*_BODY, *_MOE),
    "deepseek_v2": (*_BODY, *_MOE, *_LATENT),
    "deepseek_v3": (*_BODY, *_MOE, *_LATENT),
    "deepseek_v32": (*_BODY, *_MOE, *_LATENT, *_INDEXER),
    "deepseek_v4": (*_BODY, *_EXPERTS, *_V4),
}
_OPTIONAL = {  # integers that may be absent or null
    "llama": ("num_key_value_heads", "head_dim"),
    "qwen2": ("head_dim", "sliding_window"),
    "deepseek": ("num_key_value_heads", "moe_layer_freq"),
    "deepseek_v2": ("num_key_value_heads", "n_group", "topk_group"),
    "deepseek_v3": ("num_key_value_heads", "n_group", "topk_group", "num_nextn_predict_layers"),
    "deepseek_v32": ("num_key_value_heads", "n_group", "topk_group", "num_nextn_predict_layers"),
    "deepseek_v4": ("num_nextn_predict_layers", "qk_rope_head_dim"),
}
_MAY_BE_NULL = ("q_lora_rank", *sorted(set().union(*_OPTIONAL.values())))  # where the class allows it
_MAY_BE_ZERO = ("n_shared_experts", "first_k_dense_replace", "num_nextn_predict_layers")
_SWITCHES = {"tie_word_embeddings": False, "attention_bias": False, "mlp_bias": False}
_KINDS = {  # what a list with one entry per layer may hold
    ("qwen2", "layer_types"): (_FULL, _WINDOW),
    ("deepseek_v32", "mlp_layer_types"): ("dense", "sparse"),
    ("deepseek_v4", "layer_types"): (_WINDOW, _CSA, _HCA),
    ("deepseek_v4", "mlp_layer_types"): ("moe", "hash_moe"),
}
_COMPRESS_RATIOS = (0, 4, 128)  # window, CSA, HCA, as the published V4 configurations spell them
_NOT_READ = ("model_type", "rope_scaling", "rope_parameters", "quantization_config")


def _read(config: Any) -> SimpleNamespace:
    """The fields of a configuration, completed and checked."""
    is_dict = isinstance(config, dict)
    model_type = config.get("model_type") if is_dict else getattr(config, "model_type", None)
    if not isinstance(model_type, str) or model_type not in _REQUIRED:
        raise ValueError(f"model_type = {model_type!r}: must be one of {', '.join(_REQUIRED)}")
    fields = _fields_of_dict(model_type, config) if is_dict else vars(config)
    c = SimpleNamespace(**_SWITCHES | fields | {"model_type": model_type})
    for name in (*_REQUIRED[model_type], *_OPTIONAL[model_type]):
        setattr(c, name, _field(name, getattr(c, name, None)))
    c.mlp_bias = c.mlp_bias and model_type in _MLP_BIAS
    c.num_nextn_predict_layers = (c.num_nextn_predict_layers or 0) if model_type in _MTP else 0
    _check_layers(c)
    _check_attention(c)
    if model_type not in ("llama", "qwen2"):
        _check_experts(c)
    return c


def _fields_of_dict(model_type: str, given: dict[str, Any]) -> dict[str, Any]:
    """What the transformers class makes of a dict, once the dict is known to give the whole shape."""
    aliases = {}
    if model_type != "deepseek":  # DeepSeekMoE-16B has no class in transformers
        from huggingface_hub.errors import StrictDataclassError
        from transformers import CONFIG_MAPPING  # both here, since they take seconds to import

        aliases = {**CONFIG_MAPPING[model_type].attribute_map, "num_experts": "n_routed_experts"}
    c = SimpleNamespace(**_SWITCHES | {"head_dim": None} | given)
    for name in (*_REQUIRED[model_type], *_OPTIONAL[model_type]):
        found = [key for key in given if name in (key, aliases.get(key))]
        listed = name == "first_k_dense_replace" and _lists_dense_layers(c)
        if not found and name in _REQUIRED[model_type] and not listed:
            needed = ", ".join(_REQUIRED[model_type])
            raise ValueError(f"{name} is missing: a {model_type} configuration must give {needed}")
        for key in found:
            _field(name, given[key], spelling=key)
    for name in _SWITCHES:
        _need(c, name, isinstance(getattr(c, name), bool), "must be true or false")
    _check_widths(c)
    if model_type == "deepseek":
        return given
    for ratio in given.get("compress_ratios") or ():
        _need(c, "compress_ratios", ratio in _COMPRESS_RATIOS, f"entries must be of {_COMPRESS_RATIOS}")
    if given.get("num_hash_layers") is not None:
        _integer("num_hash_layers", given["num_hash_layers"], 0)
    try:
        return vars(CONFIG_MAPPING[model_type](**{key: given[key] for key in given if key not in _NOT_READ}))
    except (StrictDataclassError, TypeError, ValueError) as error:
        reason = str(error).strip().splitlines()[-1].strip().removeprefix("ValueError: ")
        raise ValueError(f"transformers refuses this {model_type} configuration: {reason}") from error


def _lists_dense_layers(c: SimpleNamespace) -> bool:
    """V3.2 may name the kind of each layer instead of counting the dense ones."""
    return c.model_type == "deepseek_v32" and getattr(c, "mlp_layer_types", None) is not None


def _check_widths(c: SimpleNamespace) -> None:
    """What can be said before the transformers class has completed a dict."""
    if c.model_type in ("llama", "deepseek", "deepseek_v2") or (c.model_type == "qwen2" and not c.head_dim):
        allowed = f"must be a multiple of num_attention_heads = {c.num_attention_heads}"
        _need(c, "hidden_size", c.hidden_size % c.num_attention_heads == 0, allowed)
    if c.model_type in _GQA:
        c.head_dim = c.head_dim or c.hidden_size // c.num_attention_heads
        _check_rotary(c, "head_dim")
    if "first_k_dense_replace" in _REQUIRED[c.model_type] and not _lists_dense_layers(c):
        allowed = f"must be at most num_hidden_layers = {c.num_hidden_layers}"
        _need(c, "first_k_dense_replace", c.first_k_dense_replace <= c.num_hidden_layers, allowed)


def _check_layers(c: SimpleNamespace) -> None:
    """Lists cover every layer with kinds that exist; entries past the last layer are dropped."""
    for (model_type, name), kinds in _KINDS.items():
        if c.model_type == model_type:
            setattr(c, name, list(getattr(c, name))[: c.num_hidden_layers])
            complete = len(getattr(c, name)) == c.num_hidden_layers
            _need(c, name, complete, f"must have num_hidden_layers = {c.num_hidden_layers} entries")
            _need(c, name, set(getattr(c, name)) <= set(kinds), f"entries must be of {kinds}")
    if c.model_type == "deepseek_v4":
        for kind in sorted({_CSA, _HCA} & set(c.layer_types)):
            _integer(f"compress_rates[{kind!r}]", c.compress_rates.get(kind), 1)


def _check_attention(c: SimpleNamespace) -> None:
    """Heads, groups and rotary dimensions fit together."""
    heads = c.num_attention_heads
    c.head_dim = getattr(c, "head_dim", None)
    _check_widths(c)
    if c.model_type not in _GQA:
        _check_rotary(c, "qk_rope_head_dim")
    if c.model_type != "deepseek_v4":
        c.num_key_value_heads = c.num_key_value_heads or heads
        # MLA never reads it, and its classes keep their default of 128 beside fewer heads
        unread = c.model_type in _MLA and c.num_key_value_heads > heads
        fits = unread or heads % c.num_key_value_heads == 0
        _need(c, "num_key_value_heads", fits, f"must divide num_attention_heads = {heads}")
    else:
        width = heads * c.head_dim
        _need(c, "o_groups", width % c.o_groups == 0, f"must divide the width of all heads, {width}")
        fits = c.qk_rope_head_dim <= c.head_dim
        _need(c, "qk_rope_head_dim", fits, f"must be at most head_dim = {c.head_dim}")
    if c.model_type == "deepseek_v32" or (c.model_type == "deepseek_v4" and _CSA in c.layer_types):
        fits = c.index_head_dim >= c.qk_rope_head_dim
        _need(c, "index_head_dim", fits, f"must be at least qk_rope_head_dim = {c.qk_rope_head_dim}")


def _check_rotary(c: SimpleNamespace, name: str) -> None:
    size = getattr(c, name)
    _need(c, name, size > 0 and size % 2 == 0, "must be positive and even: RoPE rotates pairs")


def _check_experts(c: SimpleNamespace) -> None:
    """A token can choose its experts, and the groups to choose them from."""
    experts = c.n_routed_experts
    allowed = f"must be at most n_routed_experts = {experts}"
    _need(c, "num_experts_per_tok", c.num_experts_per_tok <= experts, allowed)
    chooses_groups = c.model_type in ("deepseek_v3", "deepseek_v32")
    if c.model_type == "deepseek_v2":
        chooses_groups = c.n_group is not None or c.topk_method == "group_limited_greedy"
    if chooses_groups:
        _integer("n_group", c.n_group, 1)
        _integer("topk_group", c.topk_group, 1)
        _need(c, "n_group", experts % c.n_group == 0, f"must divide n_routed_experts = {experts}")
        enough = c.model_type == "deepseek_v2" or experts // c.n_group > 1  # V3 ranks a group by its best two
        _need(c, "n_group", enough, f"must leave two of n_routed_experts = {experts} in each group")
        _need(c, "topk_group", c.topk_group <= c.n_group, f"must be at most n_group = {c.n_group}")


def _field(name: str, value: Any, spelling: str | None = None) -> int | None:
    """The value of an integer field; `spelling` is its key in a dict, where that differs from the name."""
    if value is None and name in _MAY_BE_NULL:
        return None
    return _integer(spelling or name, value, 0 if name in _MAY_BE_ZERO else 1)


def _integer(name: str, value: Any, minimum: int) -> int:
    try:
        number = minimum - 1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = minimum - 1
    if number < minimum:
        raise ValueError(f"{name} = {value!r}: must be an integer of at least {minimum}")
    return number


def _need(c: SimpleNamespace, name: str, holds: bool, allowed: str) -> None:
    if not holds:
        raise ValueError(f"{name} = {getattr(c, name)!r}: {allowed}")


def _bytes(numbers: int, dtype: Any) -> int:
    name = str(dtype).removeprefix("torch.")
    if name.startswith(("float8_", "float4_")):  # torch adds the layout, as in float8_e4m3fn
        name = name.partition("_")[0]
    if name not in DTYPE_BITS:
        raise ValueError(f"dtype = {dtype!r}: must be one of {', '.join(DTYPE_BITS)}")
    return -(-numbers * DTYPE_BITS[name] // 8)
