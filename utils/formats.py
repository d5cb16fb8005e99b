"""Number formats: how many bits a number takes, and how published files store the weights of each group."""

import re
from dataclasses import dataclass
from typing import Any

from utils.shapes import ConfigError, of_the_course, whole_number

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
"""Bits of one number, by name: the one vocabulary of formats. torch dtypes such as `torch.float8_e4m3fn` and the
names in `SHORT_NAMES` are understood as well, in any case."""

SHORT_NAMES = {"bf16": "bfloat16", "half": "float16", "w8a8": "int8", "w8a16": "int8", "w4a16": "int4"}
SHORT_NAMES |= {f"{short}{bits}": f"float{bits}" for bits in (32, 16, 8, 6, 4) for short in ("fp", "f")}
"""What data sheets, engines and model cards call them."""

PUBLISHED = "published"
"""In place of a format: what `quantization_config` says, else the configuration's own dtype."""

PACKED_CACHE = "fp8_ds_mla"
"""The cache layout of DeepSeek's kernels: 8 bit with scales, the RoPE part in 16 bit, see `kv_cache_bytes`."""

KEPT = ("embedding", "lm_head", "norms", "router")
"""Groups that stay in 16 bit when the layers are stored in less, as DeepSeek-V3 (report, section 3.3.1) keeps them."""

GROUPS = (
    *("embedding", "attention", "dense_ffn", "routed_experts", "shared_experts", "router", "norms", "lm_head"),
    *("indexer", "compressor", "hyper_connections"),
)
"""The groups of parameters, as `utils.architecture.ParameterCount` names them."""


@dataclass(frozen=True)
class Format:
    """How the matrices of a group are stored.

    Attributes:
        name: a key of `DTYPE_BITS`, for the arithmetic.
        block: outputs and inputs that share a scale (0: all of them); None without scales.
        scale_bits: what each block adds: a scale, and a zero point where there is one.
        input_bits: what each input adds, such as GPTQ's group indices.
    """

    name: str
    block: tuple[int, int] | None = None
    scale_bits: int = 0
    input_bits: int = 0

    def bits(self, block: Any, tensor: int = 1) -> float:
        """Bits of a block on one of `tensor` cards that cut its matrices as far as they go; vectors keep 16 bit."""
        total = block.vector * max(16, DTYPE_BITS[self.name])
        for (inputs, outputs, pieces), times in block.matrices.items():
            one = inputs * outputs * DTYPE_BITS[self.name] + inputs * self.input_bits
            if self.block:
                rows, columns = self.block[0] or outputs, self.block[1] or inputs
                one += -(-outputs // rows) * -(-inputs // columns) * self.scale_bits
            total += times * one if tensor == 1 else times * one * -(-pieces // tensor) / pieces
        return total


def weight_formats(config: Any, dtype: Any = PUBLISHED) -> dict[str, Format]:
    """The format of each group of `ParameterCount`: `dtype` in the layers, 16 bit for what is `KEPT`.

    With `PUBLISHED`, what `quantization_config` says: FP8 with its blocks, AWQ and GPTQ with their groups,
    compressed-tensors, bitsandbytes, and V4's `expert_dtype`. Modules that it names as unconverted stay in 16 bit.

    Raises:
        ConfigError: an unknown dtype or method of quantization.
    """
    config = of_the_course(config)
    fields = config if isinstance(config, dict) else config.to_dict()
    found, unconverted = _quantization(fields.get("quantization_config") or {}) if dtype == PUBLISHED else (None, [])
    own = (fields.get("torch_dtype") or fields.get("dtype") or "bfloat16") if dtype == PUBLISHED else dtype
    method = found or Format(format_name(own))
    high = Format(method.name if DTYPE_BITS[method.name] >= 16 else "bfloat16")
    kept = [*KEPT, *(group for group, module in _MODULES.items() if any(_names(item, module) for item in unconverted))]
    formats = {group: high if group in kept else method for group in GROUPS}
    experts = fields.get("expert_dtype") or (fields.get("quantization_config") or {}).get("expert_dtype")
    if dtype == PUBLISHED and experts == "fp4":  # V4: all scales are 8-bit exponents, an expert has one for 32 numbers
        formats = {group: Format(each.name, each.block, 8) if each.block else each for group, each in formats.items()}
        formats |= {"routed_experts": Format("float4", (1, 32), 8), "compressor": high, "hyper_connections": high}
    return formats


_MODULES = {  # the name of one module of each group, as lists of unconverted modules name them
    "attention": "model.layers.9.self_attn.o_proj",
    "dense_ffn": "model.layers.0.mlp.down_proj",
    "routed_experts": "model.layers.9.mlp.experts.9.down_proj",
    "shared_experts": "model.layers.9.mlp.shared_experts.down_proj",
    "indexer": "model.layers.9.self_attn.indexer.wk",
}


def _names(item: str, module: str) -> bool:
    """Whether an entry of a list of unconverted modules names this one: a regular expression, or a part of its path."""
    if item.startswith("re:"):
        return re.match(item[3:], module) is not None
    return f".{item}." in f".{module}."


def _quantization(q: dict[str, Any]) -> tuple[Format | None, list[str]]:
    """Format of the quantized matrices (None: not quantized) and names of modules that are not."""
    q = q if isinstance(q, dict) else q.to_dict()
    unconverted = [*(q.get("modules_to_not_convert") or []), *(q.get("ignored_layers") or []), *(q.get("ignore") or [])]
    match method := q.get("quant_method"):
        case None if not q:
            return None, []
        case "fp8":
            return Format("float8", tuple(q.get("weight_block_size") or (0, 0)), 32), unconverted
        case "awq" | "gptq":
            bits = whole_number("quantization_config.bits", q.get("bits", q.get("w_bit", 4)), 1)
            group = max(q.get("group_size") or q.get("q_group_size") or 128, 0)  # -1 is one group for all inputs
            if f"int{bits}" in DTYPE_BITS:
                return Format(f"int{bits}", (1, group), 16 + bits, 32 if method == "gptq" else 0), unconverted
        case "bitsandbytes":
            if q.get("load_in_8bit") or q.get("_load_in_8bit"):
                return Format("int8", (1, 0), 32), unconverted
            return Format("int4", (1, 64), 8 if q.get("bnb_4bit_use_double_quant") else 32), unconverted
        case "compressed-tensors":
            groups = [group.get("weights") for group in (q.get("config_groups") or {}).values()]
            if len(groups) == 1 and groups[0] and f"{groups[0].get('type')}{groups[0].get('num_bits')}" in DTYPE_BITS:
                w = groups[0]
                block = tuple(w.get("block_structure") or (1, w.get("group_size") or 0))
                return Format(f"{w['type']}{w['num_bits']}", block, 16), unconverted
    raise ConfigError(
        f"quantization_config with quant_method = {method!r}: must be fp8, bitsandbytes, awq, gptq (4 or 8 bits) or "
        "compressed-tensors with one group"
    )


def format_name(dtype: Any) -> str:
    """The key of `DTYPE_BITS` that a dtype means."""
    name = str(dtype).lower().removeprefix("torch.")
    name = SHORT_NAMES.get(name, name)
    if name.startswith(("float8_", "float4_")):  # torch adds the layout, as in float8_e4m3fn
        name = name.partition("_")[0]
    if name not in DTYPE_BITS:
        raise ConfigError(f"dtype = {dtype!r}: must be one of {', '.join(DTYPE_BITS)}")
    return name
