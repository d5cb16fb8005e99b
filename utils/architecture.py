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

from dataclasses import dataclass
from typing import Any

from utils.shapes import CSA, FULL, GQA, HCA, MLA, MTP, WINDOW, ConfigError, Shape, read, whole_number

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

SHORT_NAMES = {"bf16": "bfloat16"} | {f"fp{bits}": f"float{bits}" for bits in (32, 16, 8, 6, 4)}
"""What data sheets and model cards call them."""


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
        routed_experts_used: the part of `routed_experts` that one token passes through; None where the
            configuration leaves `num_experts_per_tok` open.
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
    routed_experts_used: int | None = 0
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

        Raises:
            ConfigError: the configuration leaves `num_experts_per_tok` open.
        """
        if self.routed_experts_used is None:
            raise ConfigError(_OPEN)
        body = self.total - self.embedding - self.lm_head - self.routed_experts + self.routed_experts_used
        if self.tied:
            return body + (self.embedding if include_embedding or include_head else 0)
        return body + (self.embedding if include_embedding else 0) + (self.lm_head if include_head else 0)


_OPEN = "num_experts_per_tok = None: what one token uses cannot be counted without it"
_GROUPS = tuple(ParameterCount.__dataclass_fields__)[:11]  # embedding ... hyper_connections


@dataclass(frozen=True)
class FlopCount:
    """FLOPs of one decode step, 2 per multiply-add.

    Attributes:
        weights: products of the new token with weights, the same at every context length.
        attention: what grows with the context: scores, weighted values, the indexer's scores, and expanded MLA's
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
        ConfigError: a field is missing, malformed or contradicts another, or the model type is unknown.
    """
    c = read(config)
    ffn_kinds = [ffn for _, ffn in _layer_kinds(c)]
    routers, tables = ffn_kinds.count("moe"), ffn_kinds.count("hash_moe")
    return ParameterCount(
        **dict.fromkeys(_GROUPS, 0) | {name: block.size for name, block in _model(c).items()},
        mtp=_mtp(c),
        router_bias=routers * c.n_routed_experts if c.model_type in MTP else 0,
        hash_tables=tables * c.vocab_size * c.num_experts_per_tok if tables else 0,
        routed_experts_used=None if getattr(c, "num_experts_per_tok", 0) is None else _used_experts(c).size,
        tied=c.tie_word_embeddings,
    )


def weight_bytes(config: Any, dtype: Any = "bfloat16") -> int:
    """Bytes of all parameters (`total`) in `dtype`, a key of `DTYPE_BITS` or a torch dtype, rounded up.

    Raises:
        ConfigError: as `count_parameters`, or the dtype is unknown.
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
    their one tensor twice, as keys and as values, and a window of 1 never drops a token. One dtype is taken
    for everything; DeepSeek serves V4 with a mix (RoPE part BF16, rest FP8, indexer FP4).

    Raises:
        ConfigError: as `count_parameters`; tokens below 0 or batch below 1; not integers; unknown dtype.
    """
    c = read(config)
    tokens, batch = whole_number("tokens", tokens, 0), whole_number("batch", batch, 1)
    return _bytes(batch * sum(_cache_numbers(c, attention, tokens) for attention, _ in _layer_kinds(c)), dtype)


def flops_per_token(config: Any, context: int, absorbed: bool = True) -> FlopCount:
    """FLOPs to decode one token when the cache holds `context` tokens, so that context + 1 are attended.

    Matrix products only. The head is included, the embedding lookup is free.

    - llama, qwen2, deepseek: what transformers computes with eager attention.
    - V2, V3: MLA, in one of two equivalent ways. Absorbed, as serving kernels do it: the up projection of the new
      token works on its query and output, and attention runs on the cached latents, 2 H (2 rc + dr) FLOPs for
      each cached token and layer. Expanded, as transformers does it: every cached latent is turned into keys and
      values again, another 2 rc H (dn + dv) FLOPs for each.
    - V3.2, V4: what the architecture asks for. The indexer scores every token or entry, attention covers the
      `index_topk` best, and V3.2 attends to latents (always absorbed, as its report describes). transformers
      computes all scores, masks them, and expands V3.2's latents, so it needs more. For V4 the two agree as
      long as the index selects everything.

    Args:
        config: as for `count_parameters`.
        context: tokens in the cache.
        absorbed: how V2 and V3 compute MLA; without meaning for the others.

    Raises:
        ConfigError: as `count_parameters`; context below 0 or not an integer.
    """
    c = read(config)
    context = whole_number("context", context, 0)
    groups = _model(c) | {"routed_experts": _used_experts(c)}
    products = sum(block.matrix for name, block in groups.items() if name not in ("embedding", "lm_head"))
    products += c.vocab_size * c.hidden_size  # the head multiplies, tied or not
    if c.model_type == "deepseek_v4":  # its n streams mix around attention and around the experts
        products += 2 * c.num_hidden_layers * c.hc_mult**2 * c.hidden_size
    attention = sum(_attention_products(c, attention, context, absorbed) for attention, _ in _layer_kinds(c))
    return FlopCount(weights=2 * products, attention=2 * attention)


# ------------------------------------------------------------------------------------- the blocks of a model


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


def _gqa_attention(c: Shape) -> _Block:
    """Queries h -> H d, keys and values h -> K d, output H d -> h. Qwen2 has biases on all but the output."""
    h, heads, kv_heads = c.hidden_size, c.num_attention_heads, c.num_key_value_heads
    qkv_bias, out_bias = (True, False) if c.model_type == "qwen2" else (c.attention_bias, c.attention_bias)
    query, output = _linear(h, heads * c.head_dim, qkv_bias), _linear(heads * c.head_dim, h, out_bias)
    return query + 2 * _linear(h, kv_heads * c.head_dim, qkv_bias) + output


def _mla_attention(c: Shape) -> _Block:
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


def _v32_indexer(c: Shape) -> _Block:
    """Queries rq -> Hi di, one key h -> di with a LayerNorm (weight and bias), head weights h -> Hi."""
    h, heads, width = c.hidden_size, c.index_n_heads, c.index_head_dim
    return _linear(c.q_lora_rank, heads * width) + _linear(h, width) + _norm(width, width) + _linear(h, heads)


def _v4_attention(c: Shape) -> _Block:
    """Queries h -> rq -> H d, one key that is also the value h -> d, output in g groups of heads
    H d / g -> ro each, then g ro -> h; a sink for each head."""
    h, query_width = c.hidden_size, c.num_attention_heads * c.head_dim
    query = _linear(h, c.q_lora_rank) + _linear(c.q_lora_rank, query_width)
    output = c.o_groups * _linear(query_width // c.o_groups, c.o_lora_rank)
    output += _linear(c.o_groups * c.o_lora_rank, h)
    return query + _linear(h, c.head_dim) + output + _Block(vector=c.num_attention_heads)


def _v4_compressor(c: Shape, attention: str, width: int) -> _Block:
    """Entries and gates h -> s width, a bias for each of m positions, a norm. CSA has s = 2 series, HCA 1."""
    all_series = 2 * width if attention == CSA else width
    position_bias = _Block(vector=c.compress_rates[attention] * all_series)
    return 2 * _linear(c.hidden_size, all_series) + position_bias + _norm(width)


def _v4_indexer(c: Shape) -> _Block:
    """A compressor of width di, queries rq -> Hi di, head weights h -> Hi."""
    query = _linear(c.q_lora_rank, c.index_n_heads * c.index_head_dim)
    return _v4_compressor(c, CSA, c.index_head_dim) + query + _linear(c.hidden_size, c.index_n_heads)


def _hyper_connection(c: Shape) -> _Block:
    """From the n streams (n h) to n weights in, n weights out and n x n mixing weights; 3 scales."""
    return _linear(c.hc_mult * c.hidden_size, (2 + c.hc_mult) * c.hc_mult, bias=True) + _Block(vector=3)


def _hyper_head(c: Shape) -> _Block:
    """The final collapse of the n streams into one: n h -> n, 1 scale."""
    return _linear(c.hc_mult * c.hidden_size, c.hc_mult, bias=True) + _Block(vector=1)


def _swiglu(h: int, width: int, bias: bool = False) -> _Block:
    """Gate and up h -> width, down width -> h."""
    return 2 * _linear(h, width, bias) + _linear(width, h, bias)


def _moe(c: Shape) -> dict[str, _Block]:
    """Router h -> E, E routed experts of width fe, and the shared experts as one SwiGLU."""
    shared = 1 if c.model_type == "deepseek_v4" else c.n_shared_experts
    return {
        "router": _linear(c.hidden_size, c.n_routed_experts),
        "routed_experts": c.n_routed_experts * _swiglu(c.hidden_size, c.moe_intermediate_size),
        "shared_experts": _swiglu(c.hidden_size, shared * c.moe_intermediate_size, c.mlp_bias),
    }


def _layer(c: Shape, attention: str, ffn: str) -> dict[str, _Block]:
    """One decoder layer by group; `attention` and `ffn` are kinds as in `_layer_kinds`."""
    norms = _norm(c.hidden_size, c.hidden_size)
    if c.model_type in GQA:
        groups = {"attention": _gqa_attention(c), "norms": norms}
    elif c.model_type in MLA:
        groups = {"attention": _mla_attention(c), "norms": norms + _norm(c.q_lora_rank or 0, c.kv_lora_rank)}
        if c.model_type == "deepseek_v32":
            groups["indexer"] = _v32_indexer(c)
    else:
        groups = {"attention": _v4_attention(c), "norms": norms + _norm(c.q_lora_rank, c.head_dim)}
        groups["hyper_connections"] = 2 * _hyper_connection(c)
        if attention != WINDOW:
            groups["compressor"] = _v4_compressor(c, attention, c.head_dim)
        if attention == CSA:
            groups["indexer"] = _v4_indexer(c)
    if ffn == "dense":
        return groups | {"dense_ffn": _swiglu(c.hidden_size, c.intermediate_size, c.mlp_bias)}
    return groups | _moe(c)


def _layer_kinds(c: Shape) -> list[tuple[str, str]]:
    """(attention, feed-forward) of every layer; the feed-forward is "dense", "moe" or "hash_moe"."""
    if c.model_type == "deepseek_v4":
        return list(zip(c.layer_types, c.mlp_layer_types, strict=True))
    if c.model_type == "deepseek_v32":
        return [(FULL, "moe" if ffn == "sparse" else "dense") for ffn in c.mlp_layer_types]
    if c.model_type == "qwen2":
        return [(FULL if c.sliding_window is None else attention, "dense") for attention in c.layer_types]
    if c.model_type == "llama":
        return [(FULL, "dense")] * c.num_hidden_layers
    every = (c.moe_layer_freq or 1) if c.model_type == "deepseek" else 1
    is_moe = [i >= c.first_k_dense_replace and i % every == 0 for i in range(c.num_hidden_layers)]
    return [(FULL, "moe" if moe else "dense") for moe in is_moe]


def _model(c: Shape) -> dict[str, _Block]:
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


def _used_experts(c: Shape) -> _Block:
    """The routed experts that one token passes through, over all layers. Raises ConfigError if they are not said."""
    moe_layers = sum(ffn != "dense" for _, ffn in _layer_kinds(c))
    if not moe_layers:
        return _Block()
    if c.num_experts_per_tok is None:
        raise ConfigError(_OPEN)
    return moe_layers * c.num_experts_per_tok * _swiglu(c.hidden_size, c.moe_intermediate_size)


def _mtp(c: Shape) -> int:
    """Each extra layer: 2 h -> h, three norms, one MoE layer and its router bias; in V4 a stream collapse."""
    if not c.num_nextn_predict_layers:
        return 0
    attention, collapse = (WINDOW, _hyper_head(c)) if c.model_type == "deepseek_v4" else (FULL, _Block())
    layer = sum(_layer(c, attention, "moe").values(), start=_norm(c.n_routed_experts) + collapse)
    layer += _linear(2 * c.hidden_size, c.hidden_size) + 3 * _norm(c.hidden_size)
    return c.num_nextn_predict_layers * layer.size


def _cache_numbers(c: Shape, attention: str, tokens: int) -> int:
    """Numbers that one layer caches for one sequence, see `kv_cache_bytes`."""
    if c.model_type in MLA:
        index_key = c.index_head_dim if c.model_type == "deepseek_v32" else 0
        return (c.kv_lora_rank + c.qk_rope_head_dim + index_key) * tokens
    kept = tokens if attention == FULL else min(tokens, c.sliding_window - 1)
    if c.model_type in GQA:
        return 2 * c.num_key_value_heads * c.head_dim * kept
    if attention == WINDOW:
        return c.head_dim * kept
    m = c.compress_rates[attention]
    entries, waiting = divmod(tokens, m)
    if attention == HCA:
        return c.head_dim * (kept + entries + 2 * waiting)
    overlap = 2 * m if entries else 0
    return c.head_dim * kept + (c.head_dim + c.index_head_dim) * (entries + 4 * waiting + overlap)


def _attention_products(c: Shape, attention: str, context: int, absorbed: bool) -> int:
    """Multiply-adds of one layer that depend on the context, see `flops_per_token`."""
    heads, keys = c.num_attention_heads, context + 1
    if c.model_type == "deepseek_v32":
        index = c.index_n_heads * (c.index_head_dim + 1) * keys  # + 1 for the weighted sum over its heads
        return index + heads * (2 * c.kv_lora_rank + c.qk_rope_head_dim) * min(keys, c.index_topk)
    if c.model_type in MLA and absorbed:
        return heads * (2 * c.kv_lora_rank + c.qk_rope_head_dim) * keys
    if c.model_type in MLA:
        expansion = c.kv_lora_rank * heads * (c.qk_nope_head_dim + c.v_head_dim) * context
        return expansion + heads * (c.qk_nope_head_dim + c.qk_rope_head_dim + c.v_head_dim) * keys
    attended = keys if attention == FULL else min(keys, c.sliding_window)
    index = 0
    if attention in (CSA, HCA):
        entries = keys // c.compress_rates[attention]
        attended += min(entries, c.index_topk) if attention == CSA else entries
        index = c.index_n_heads * c.index_head_dim * entries if attention == CSA else 0
    return 2 * heads * c.head_dim * attended + index


def _bytes(numbers: int, dtype: Any) -> int:
    name = str(dtype).removeprefix("torch.")
    name = SHORT_NAMES.get(name, name)
    if name.startswith(("float8_", "float4_")):  # torch adds the layout, as in float8_e4m3fn
        name = name.partition("_")[0]
    if name not in DTYPE_BITS:
        raise ConfigError(f"dtype = {dtype!r}: must be one of {', '.join(DTYPE_BITS)}")
    return -(-numbers * DTYPE_BITS[name] // 8)
