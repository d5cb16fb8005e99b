"""Number formats: how many bits a number takes, and how published files store the weights of each group."""

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from utils.errors import InputError
from utils.shapes import FAMILIES, read, whole_number

DTYPE_BITS = {"float32": 32, "bfloat16": 16, "float16": 16, "float8": 8, "int8": 8}
DTYPE_BITS |= {"float6": 6, "int6": 6, "float4": 4, "int4": 4}
"""Bits of one number, by name: the one vocabulary of formats. torch dtypes such as `torch.float8_e4m3fn`, and what data
sheets, engines and model cards call them (`SHORT_NAMES`), are understood as well, in any case."""

SHORT_NAMES = {"bf16": "bfloat16", "half": "float16", "w8a8": "int8", "w8a16": "int8", "w4a16": "int4"}
SHORT_NAMES |= {f"{short}{bits}": f"float{bits}" for bits in (32, 16, 8, 6, 4) for short in ("fp", "f")}

PUBLISHED = "published"  # in place of a format: what `quantization_config` says, else the configuration's own dtype
PACKED_CACHE = "fp8_ds_mla"  # the cache layout of DeepSeek's kernels, see `architecture.kv_cache_bytes`

GROUPS: list[str] = FAMILIES["groups"]
"""The groups of parameters: embedding, attention, dense_ffn, routed_experts, shared_experts, router, norms, lm_head,
indexer, compressor, hyper_connections. They are the fields of `architecture.ParameterCount`."""

KEPT = ("embedding", "lm_head", "norms", "router")
"""Groups that stay in 16 bit when the layers are stored in less, as DeepSeek-V3 (report, section 3.3.1) keeps them."""


def format_name(dtype: Any, *special: str) -> str:
    """The key of `DTYPE_BITS` that a dtype means, or a special name. Raises InputError if it is neither."""
    if dtype in special:
        return dtype
    name = str(dtype).lower().removeprefix("torch.")
    name = re.sub(r"^(float[84])_.*", r"\1", SHORT_NAMES.get(name, name))  # torch adds the layout, as in float8_e4m3fn
    if name not in DTYPE_BITS:
        raise InputError(f"no precision {dtype!r}; there are {', '.join([*special, *DTYPE_BITS])}")
    return name


@dataclass(frozen=True)
class Format:
    """How the matrices of a group are stored."""

    name: str  # a key of `DTYPE_BITS`, for the arithmetic
    block: tuple[int, int] = (0, 0)  # outputs and inputs that share a scale (0: all of them)
    scale_bits: int = 0  # what each block adds: a scale, and a zero point where there is one
    input_bits: int = 0  # what each input adds, such as GPTQ's group indices

    def bits(self, block: Mapping[tuple[int, int, int], int], tensor: int = 1) -> float:
        """Bits of a block (as in `architecture`) on one of `tensor` cards that cut its matrices as far as they go."""
        total = 0
        for (inputs, outputs, pieces), times in block.items():
            if pieces == 0:  # vectors keep 16 bit
                total += times * outputs * max(16, DTYPE_BITS[self.name])
                continue
            one = inputs * outputs * DTYPE_BITS[self.name] + inputs * self.input_bits
            rows, columns = self.block[0] or outputs, self.block[1] or inputs
            one += -(-outputs // rows) * -(-inputs // columns) * self.scale_bits
            total += times * one if tensor == 1 else times * one * -(-pieces // tensor) / pieces
        return total


def weight_formats(config: Any, dtype: Any = PUBLISHED) -> dict[str, Format]:
    """The format of each group in `GROUPS`: `dtype` in the layers, 16 bit for what is `KEPT`.

    With `PUBLISHED`, what `quantization_config` says: FP8 with its blocks, AWQ and GPTQ with their groups,
    compressed-tensors, bitsandbytes, and V4's `expert_dtype`. Modules that it names as unconverted stay in 16 bit.

    Raises:
        InputError: an unknown dtype or method of quantization, or a configuration that cannot be read.
    """
    stored = read(config).storage
    q = (stored["quantization_config"] or {}) if dtype == PUBLISHED else {}
    q = q if isinstance(q, dict) else q.to_dict()
    own = stored["torch_dtype"] or stored["dtype"] or "bfloat16"
    method = _quantized(q) if q else Format(format_name(own if dtype == PUBLISHED else dtype))
    high = Format(method.name if DTYPE_BITS[method.name] >= 16 else "bfloat16")
    lists = (q.get(name) or [] for name in ("modules_to_not_convert", "ignored_layers", "ignore"))
    unconverted = list(itertools.chain(*lists))
    kept = {group for group, module in FAMILIES["modules"].items() if any(_names(item, module) for item in unconverted)}
    formats = {group: high if group in kept.union(KEPT) else method for group in GROUPS}
    if dtype == PUBLISHED and "fp4" in (stored["expert_dtype"], q.get("expert_dtype")):
        # V4: all scales are 8-bit exponents, an expert has one for 32 numbers
        formats = {group: replace(each, scale_bits=8) if each.scale_bits else each for group, each in formats.items()}
        formats |= {"routed_experts": Format("float4", (1, 32), 8), "compressor": high, "hyper_connections": high}
    return formats


def _names(item: str, module: str) -> bool:
    """Whether an entry of a list of unconverted modules names this one: a regular expression, or a part of its path."""
    return re.match(item[3:], module) is not None if item.startswith("re:") else f".{item}." in f".{module}."


def _quantized(q: dict[str, Any]) -> Format:
    """The format of matrices that a `quantization_config` means."""
    match method := q.get("quant_method"):
        case "fp8":
            return Format("float8", tuple(q.get("weight_block_size") or (0, 0)), 32)
        case "awq" | "gptq":
            bits = whole_number("quantization_config.bits", q.get("bits", q.get("w_bit", 4)))
            group = max(q.get("group_size") or q.get("q_group_size") or 128, 0)  # -1 is one group for all inputs
            if f"int{bits}" in DTYPE_BITS:
                return Format(f"int{bits}", (1, group), 16 + bits, 32 if method == "gptq" else 0)
        case "bitsandbytes":
            if q.get("load_in_8bit") or q.get("_load_in_8bit"):
                return Format("int8", (1, 0), 32)
            return Format("int4", (1, 64), 8 if q.get("bnb_4bit_use_double_quant") else 32)
        case "compressed-tensors":
            weights = [group.get("weights") for group in (q.get("config_groups") or {}).values()]
            w = (weights[0] if len(weights) == 1 else None) or {}
            if (name := f"{w.get('type')}{w.get('num_bits')}") in DTYPE_BITS:
                return Format(name, tuple(w.get("block_structure") or (1, w.get("group_size") or 0)), 16)
    known = "fp8, bitsandbytes, awq, gptq (4 or 8 bits) or compressed-tensors with one group"
    raise InputError(f"quantization_config with quant_method = {method!r}: must be {known}")
