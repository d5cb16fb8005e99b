"""Configurations read for arithmetic: which integers define a shape, and whether they fit together.

`read` completes a dict by the transformers class of its `model_type`, so that both see the same defaults. The families
and their fields are listed in `utils/data/families.json`.
"""

import json
from collections.abc import Iterator
from numbers import Integral
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from utils.errors import InputError
from utils.files import records

FAMILIES = records("families.json")
SYMBOLS: dict[str, str] = FAMILIES["symbols"]


class Shape(SimpleNamespace):
    """The fields of a configuration as `read` returns them, under the names of transformers and under `SYMBOLS`.

    A symbol of something that the model does not have is None.
    """

    def __getattr__(self, name: str) -> Any:
        if name not in SYMBOLS:
            raise AttributeError(name)
        return self.__dict__.get(SYMBOLS[name])


GQA = ("llama", "qwen2", "qwen3", "qwen3_moe", "deepseek")
MLA = ("deepseek_v2", "deepseek_v3", "deepseek_v32", "glm_moe_dsa")
DSA = ("deepseek_v32", "glm_moe_dsa")  # sparse attention by an indexer; GLM lets layers reuse a selection
MTP = ("deepseek_v3", "deepseek_v32", "deepseek_v4")
BIASED_ROUTER = (*MTP, "glm_moe_dsa")
FULL, WINDOW = "full_attention", "sliding_attention"  # kinds of attention, as transformers spells them
CSA, HCA = "compressed_sparse_attention", "heavily_compressed_attention"

REQUIRED: dict[str, list[str]] = FAMILIES["must"]
"""Integers that define the shape, by `model_type`: a dict must give them."""

_INTEGERS = {family: REQUIRED[family] + may for family, may in FAMILIES["may"].items()}
_MAY_BE_NULL = {"q_lora_rank"}.union(*FAMILIES["may"].values())  # where the class allows it
_MAY_BE_ZERO = ("n_shared_experts", "first_k_dense_replace", "num_nextn_predict_layers", "num_hash_layers")
_SWITCHES = ("tie_word_embeddings", "attention_bias", "mlp_bias")
_LATENT = {*REQUIRED["deepseek_v2"]} - {*REQUIRED["deepseek"]}  # what only latent attention needs
_STORAGE = ("torch_dtype", "dtype", "quantization_config")  # for `utils.formats`, with V4's expert_dtype
_NOT_READ = (*_STORAGE, "model_type", "rope_scaling", "rope_parameters")  # kept from the transformers class


def read(config: Any) -> Shape:
    """The fields of a configuration in any form that `of_the_course` understands, completed by its transformers class.

    Raises:
        InputError: one of the integers in `REQUIRED` is missing, or a field is malformed or contradicts another.
    """
    if isinstance(config, Shape):
        return config
    from huggingface_hub.errors import StrictDataclassError
    from transformers import CONFIG_MAPPING  # both here, since they take seconds to import

    given = of_the_course(config)
    family = given["model_type"]
    build = CONFIG_MAPPING["llama" if family == "deepseek" else family]  # DeepSeekMoE-16B has no class of its own
    _check_given(family, given, build.attribute_map)
    fields = {name: value for name, value in given.items() if name not in _NOT_READ}
    if family == "qwen3_moe" and "n_routed_experts" in fields:
        fields["num_experts"] = fields.pop("n_routed_experts")
    if family in MTP and "num_mtp_layers" not in fields:
        fields.setdefault("num_nextn_predict_layers", 0)  # the classes' default is one layer
    try:
        ready = build(**fields)
    except (StrictDataclassError, TypeError, ValueError) as error:
        reason = str(error).strip().splitlines()[-1].strip().removeprefix("ValueError: ")
        raise InputError(f"transformers refuses this {family} configuration: {reason}") from error
    fixed = {"model_type": family} | FAMILIES["fixed"][family]
    c = Shape(**dict.fromkeys((*_INTEGERS[family], *_SWITCHES, "head_dim")) | vars(ready) | fixed)
    if family == "qwen3_moe":
        c.n_routed_experts = ready.num_experts
    c.storage = {name: given.get(name) for name in (*_STORAGE, "expert_dtype")}
    for name, right, allowed in _relations(c):
        if not right:
            raise InputError(f"{name} {allowed}; got {getattr(c, name)!r}")
    return c


def of_the_course(config: Any) -> dict[str, Any]:
    """A configuration from the wild in the words of one of the families in `REQUIRED`.

    Understands a transformers configuration, a dict, the path of a `config.json` or of its folder, a language model
    inside another model, relatives of another name, DeepSeek's inference format, numbers as text, and nulls that mean
    "none". `use_mla` false or a null `kv_lora_rank` in V2 is plain attention, as DeepSeekMoE has it.

    Raises:
        InputError: it is none of these.
    """
    if isinstance(config, (str, Path)) and Path(config).exists():
        config = load(config)
    given = dict(config if isinstance(config, dict) else _of_object(config))
    for inside in ("text_config", "language_config"):  # where models that also see keep their language model
        if isinstance(given.get(inside), dict):
            inherited = given.keys() & {"model_type", "tie_word_embeddings", *_STORAGE}
            return of_the_course({name: given[name] for name in inherited} | given[inside] | {"is_inside": True})
    if {"dim", "n_layers"} <= given.keys():
        given = _from_inference_code(given)
    family = given["model_type"] = _family(given)
    if family == "deepseek_v2" and (given.get("use_mla") is False or given.get("kv_lora_rank", 1) is None):
        given = {name: value for name, value in given.items() if name not in (*_LATENT, "head_dim")}
        family = given["model_type"] = "deepseek"
    given |= {name: null for name, null in FAMILIES["null"][family].items() if given.get(name, 0) is None}
    left_open = [name for name in (*_SWITCHES, "num_nextn_predict_layers") if given.get(name) is None]
    numbers = {name: _number(value) for name, value in given.items() if name in _INTEGERS[family]}
    return {name: value for name, value in (given | numbers).items() if name not in left_open}


def load(path: str | Path) -> dict[str, Any]:
    """The configuration in a `config.json`, or in a folder that has one. Raises InputError."""
    path = Path(path)
    path = path / "config.json" if path.is_dir() else path
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON: {str(error).splitlines()[0]}") from error
    if not isinstance(found, dict):
        raise InputError(f"{path} holds no configuration: it must be a JSON object")
    return found


def whole_number(name: str, value: Any, minimum: int = 1) -> int:
    """`value` as an int. Raises InputError if it is no integer (True and 2.0 are none) or below the minimum."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < minimum:
        raise InputError(f"{name} must be a whole number of at least {minimum}; got {value!r}")
    return int(value)


def _of_object(config: Any) -> dict[str, Any]:
    """A transformers configuration as a dict (anything else is empty); lists of kinds of layers end with the last."""
    fields = getattr(config, "to_dict", dict)()
    lists = {name: kinds for name, kinds in fields.items() if name.endswith("_types") and isinstance(kinds, list)}
    return fields | {name: kinds[: config.num_hidden_layers] for name, kinds in lists.items()}


def _from_inference_code(given: dict[str, Any]) -> dict[str, Any]:
    """The configuration of DeepSeek's own inference code in the words of transformers."""
    names = FAMILIES["inference_names"]
    given = FAMILIES["inference_defaults"] | {names.get(name, name): value for name, value in given.items()}
    family = "deepseek_v3" if given.get("score_func", "softmax") == "sigmoid" else "deepseek_v2"
    given["model_type"] = "deepseek_v32" if "index_topk" in given else family
    given["q_lora_rank"] = given.get("q_lora_rank") or None
    if given.get("dtype") == "fp8":
        given["quantization_config"] = {"quant_method": "fp8", "weight_block_size": (128, 128)}
    return given


def _family(given: dict[str, Any]) -> str:
    """The name in `REQUIRED` of the layers that a configuration describes."""
    model_type, architectures = given.get("model_type"), given.get("architectures")
    known = {name.replace("_", ""): name for name in REQUIRED} | FAMILIES["relatives"]
    for name in (model_type, *(architectures if isinstance(architectures, list) else [])):
        if family := known.get(str(name).removesuffix("ForCausalLM").replace("_", "").lower()):
            return family
    reason = FAMILIES["uncountable"].get(str(model_type), f"must be one of {', '.join(REQUIRED)}")
    raise InputError(f"model_type = {model_type!r}: {reason}")


def _number(value: Any) -> Any:
    """A whole number that is spelled as text or as a float; anything else as it is."""
    if isinstance(value, str) and value.strip().isdecimal():
        return int(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _check_given(family: str, given: dict[str, Any], other_names: dict[str, str]) -> None:
    """Whether a dict gives the whole shape, in whole numbers."""
    experts = dict.fromkeys(("num_experts", "num_local_experts"), "n_routed_experts")
    names = other_names | (experts if family != "deepseek" else {})
    needed = set(REQUIRED[family])
    if family in DSA and given.get("mlp_layer_types") is not None:  # it names the kind of each layer
        needed.remove("first_k_dense_replace")
    if family == "llama" and "is_inside" in given:  # such files leave out what the class has anyway
        needed.clear()
    for name in _INTEGERS[family]:
        found = [key for key in given if name in (key, names.get(key))]
        if not found and name in needed:
            raise InputError(f"{name} is missing: a {family} configuration must give {', '.join(REQUIRED[family])}")
        open_in_v2 = family == "deepseek_v2" and name == "num_experts_per_tok"  # so it is in the class's own default
        for key in found:
            if given[key] is not None or not (open_in_v2 or name in _MAY_BE_NULL):
                whole_number(key, given[key], 0 if name in _MAY_BE_ZERO else 1)
    for name in _SWITCHES:
        if not isinstance(given.get(name, False), bool):
            raise InputError(f"{name} must be true or false; got {given[name]!r}")
    ratios, known = given.get("compress_ratios") or [], (0, 4, 128)  # window, CSA, HCA, as V4's files spell them
    if not isinstance(ratios, list | tuple) or not all(ratio in known for ratio in ratios):
        raise InputError(f"compress_ratios must be a list of {known}; got {ratios!r}")


def _relations(c: Shape) -> Iterator[tuple[str, bool, str]]:
    """Whether fields fit together: (a field, whether it is right, what is allowed)."""
    heads, rope, is_v2, is_v4 = c.H, c.dr, c.model_type == "deepseek_v2", c.model_type == "deepseek_v4"
    for name, kinds in FAMILIES["lists"].get(c.model_type, {}).items():
        setattr(c, name, list(getattr(c, name))[: c.L])  # entries past the last layer mean nothing here
        yield name, len(getattr(c, name)) == c.L, f"must have num_hidden_layers = {c.L} entries"
        yield name, set(getattr(c, name)) <= set(kinds), f"entries must be of {tuple(kinds)}"
    if c.model_type in GQA and not c.head_dim:
        yield "hidden_size", c.h % heads == 0, f"must be a multiple of num_attention_heads = {heads}"
        c.head_dim = c.h // heads
    rotated = "head_dim" if c.model_type in GQA else "qk_rope_head_dim"
    yield rotated, getattr(c, rotated) % 2 == 0 < getattr(c, rotated), "must be positive and even: RoPE rotates pairs"
    if is_v4:
        for kind in sorted({CSA, HCA} & set(c.layer_types)):
            whole_number(f"compress_rates[{kind!r}]", c.compress_rates.get(kind))
        yield "o_groups", heads * c.d % c.g == 0, f"must divide the width of all heads, {heads * c.d}"
        yield "qk_rope_head_dim", rope <= c.d, f"must be at most head_dim = {c.d}"
    else:
        c.num_key_value_heads = c.num_key_value_heads or heads
        # MLA never reads it, and its classes keep their default of 128 beside fewer heads
        fits = (c.model_type in MLA and heads < c.K) or heads % c.K == 0
        yield "num_key_value_heads", fits, f"must divide num_attention_heads = {heads}"
    if c.model_type in DSA or (is_v4 and CSA in c.layer_types):
        yield "index_head_dim", c.di >= rope, f"must be at least qk_rope_head_dim = {rope}"
    if c.E is not None:
        yield "num_experts_per_tok", c.k is None or c.k <= c.E, f"must be at most n_routed_experts = {c.E}"
    by_group = is_v2 and (c.n_group is not None or c.topk_method == "group_limited_greedy")
    if by_group or c.model_type in ("deepseek_v3", *DSA):
        whole_number("n_group", c.n_group)
        whole_number("topk_group", c.topk_group)
        yield "n_group", c.E % c.n_group == 0, f"must divide n_routed_experts = {c.E}"
        enough = is_v2 or c.E // c.n_group > 1  # V3 ranks a group by its best two
        yield "n_group", enough, f"must leave two of n_routed_experts = {c.E} in each group"
        yield "topk_group", c.topk_group <= c.n_group, f"must be at most n_group = {c.n_group}"
