"""Configurations read for arithmetic: which integers define a shape, and whether they fit together.

`utils.architecture` computes with what `read` returns. A dict is completed by the transformers class of its
`model_type`, so that both see the same defaults.
"""

import json
import operator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from utils.errors import CourseError

Shape = SimpleNamespace
"""The fields of a configuration under the names of transformers, as `read` returns them."""


class ConfigError(CourseError, ValueError):
    """A configuration or a number that no model can have; the message names the field, its value, what is allowed."""


GQA = ("llama", "qwen2", "qwen3", "qwen3_moe", "deepseek")
MLA = ("deepseek_v2", "deepseek_v3", "deepseek_v32", "glm_moe_dsa")
DSA = ("deepseek_v32", "glm_moe_dsa")  # sparse attention by an indexer; GLM lets layers reuse a selection
MTP = ("deepseek_v3", "deepseek_v32", "deepseek_v4")
BIASED_ROUTER = (*MTP, "glm_moe_dsa")
_MLP_BIAS = ("llama", "deepseek_v2", "deepseek_v4")  # V3.2's class has the field without using it
FULL, WINDOW = "full_attention", "sliding_attention"  # kinds of attention, as transformers spells them
REUSED = "reused_selection"  # sparse attention without an indexer of its own
CSA, HCA = "compressed_sparse_attention", "heavily_compressed_attention"

_BODY = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")
_EXPERTS = ("moe_intermediate_size", "n_routed_experts", "num_experts_per_tok")
_MOE = ("intermediate_size", *_EXPERTS, "n_shared_experts", "first_k_dense_replace")
_LATENT = ("q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
_INDEXER = ("index_n_heads", "index_head_dim", "index_topk")
_V4 = ("head_dim", "q_lora_rank", "sliding_window", "hc_mult", "o_groups", "o_lora_rank", *_INDEXER)

REQUIRED = {  # integers that define the shape: a dict must give them
    "llama": (*_BODY, "intermediate_size"),
    "qwen2": (*_BODY, "intermediate_size", "num_key_value_heads"),
    "qwen3": (*_BODY, "intermediate_size"),
    "qwen3_moe": (*_BODY, *_EXPERTS, "intermediate_size"),
    "deepseek": (*_BODY, *_MOE),
    "deepseek_v2": (*_BODY, *_MOE, *_LATENT),
    "deepseek_v3": (*_BODY, *_MOE, *_LATENT),
    "deepseek_v32": (*_BODY, *_MOE, *_LATENT, *_INDEXER),
    "glm_moe_dsa": (*_BODY, *_MOE, *_LATENT, *_INDEXER),
    "deepseek_v4": (*_BODY, *_EXPERTS, *_V4),
}
_OPTIONAL = {  # integers that may be absent or null
    "llama": ("num_key_value_heads", "head_dim"),
    "qwen2": ("head_dim", "sliding_window"),
    "qwen3": ("num_key_value_heads", "head_dim", "sliding_window"),
    "qwen3_moe": ("num_key_value_heads", "head_dim", "sliding_window", "decoder_sparse_step"),
    "deepseek": ("num_key_value_heads", "moe_layer_freq"),
    "deepseek_v2": ("num_key_value_heads", "n_group", "topk_group"),
    "deepseek_v3": ("num_key_value_heads", "n_group", "topk_group", "num_nextn_predict_layers"),
    "deepseek_v32": ("num_key_value_heads", "n_group", "topk_group", "num_nextn_predict_layers"),
    "glm_moe_dsa": ("num_key_value_heads", "n_group", "topk_group"),
    "deepseek_v4": ("num_nextn_predict_layers", "qk_rope_head_dim"),
}
_MAY_BE_NULL = ("q_lora_rank", *sorted(set().union(*_OPTIONAL.values())))  # where the class allows it
_MAY_BE_ZERO = ("n_shared_experts", "first_k_dense_replace", "num_nextn_predict_layers")
_NULL_IS_NONE = ("tie_word_embeddings", "attention_bias", "mlp_bias", "num_nextn_predict_layers")
_SWITCHES = {"tie_word_embeddings": False, "attention_bias": False, "mlp_bias": False}
_KINDS = {  # what a list with one entry per layer may hold
    ("qwen2", "layer_types"): (FULL, WINDOW),
    ("qwen3", "layer_types"): (FULL, WINDOW),
    ("deepseek_v32", "mlp_layer_types"): ("dense", "sparse"),
    ("glm_moe_dsa", "mlp_layer_types"): ("dense", "sparse"),
    ("glm_moe_dsa", "indexer_types"): ("full", "shared"),
    ("deepseek_v4", "layer_types"): (WINDOW, CSA, HCA),
    ("deepseek_v4", "mlp_layer_types"): ("moe", "hash_moe"),
}
_COMPRESS_RATIOS = (0, 4, 128)  # window, CSA, HCA, as the published V4 configurations spell them
_NOT_READ = ("model_type", "torch_dtype", "dtype", "rope_scaling", "rope_parameters", "quantization_config")


def read(config: Any) -> Shape:
    """The fields of a configuration, completed and checked.

    Args:
        config: a transformers configuration, or a dict as in a `config.json`, or the path of one; see
            `of_the_course`. A dict must give every integer that defines the shape (`REQUIRED`); the rest has the
            defaults of the transformers class.

    Raises:
        ConfigError: a field is missing, malformed or contradicts another. The message names the field, its
            value and what is allowed.
    """
    if isinstance(config, Shape):
        return config
    config = of_the_course(config)
    is_dict = isinstance(config, dict)
    model_type = config["model_type"] if is_dict else config.model_type
    fields = _fields_of_dict(model_type, config) if is_dict else vars(config)
    if model_type == "qwen3_moe":  # the class calls them local experts
        experts = fields["num_local_experts"] if "num_local_experts" in fields else fields["num_experts"]
        fields = {**fields, "n_shared_experts": 0, "n_routed_experts": experts}
    c = SimpleNamespace(**_SWITCHES | fields | {"model_type": model_type})
    for name in (*REQUIRED[model_type], *_OPTIONAL[model_type]):
        setattr(c, name, _field(model_type, name, getattr(c, name, None)))
    c.mlp_bias = c.mlp_bias and model_type in _MLP_BIAS
    c.num_nextn_predict_layers = (c.num_nextn_predict_layers or 0) if model_type in MTP else 0
    _check_layers(c)
    _check_attention(c)
    if "n_routed_experts" in REQUIRED[model_type]:
        _check_experts(c)
    return c


RELATIVES = {"kimik2": "deepseek_v3", "deepseekvlv2": "deepseek_v2"}
"""Families of models with another name: Kimi-K2; VL2 and OCR. Names are without case, underscores and ForCausalLM."""
_INSIDE = ("text_config", "language_config")  # where models that also see keep their language model
_INHERITED = (
    "model_type",
    "tie_word_embeddings",
    "quantization_config",
    "torch_dtype",
    "dtype",
)  # what it has from around it
_INFERENCE = {  # DeepSeek's own inference code: its names and ours
    "dim": "hidden_size",
    "inter_dim": "intermediate_size",
    "moe_inter_dim": "moe_intermediate_size",
    "n_layers": "num_hidden_layers",
    "n_dense_layers": "first_k_dense_replace",
    "n_heads": "num_attention_heads",
    "n_activated_experts": "num_experts_per_tok",
    "n_expert_groups": "n_group",
    "n_limited_groups": "topk_group",
}
_INFERENCE_DEFAULTS = {"n_group": 1, "topk_group": 1, "n_shared_experts": 2, "n_dense_layers": 1}


def of_the_course(config: Any) -> Any:
    """A configuration from the wild in the words of one of the families in `REQUIRED`.

    Understands a path of a `config.json` or of its folder, a language model inside another model, relatives of
    another name, DeepSeek's inference format, numbers as text, and nulls that mean "none". `use_mla` false or a
    null `kv_lora_rank` in V2 is plain attention, as DeepSeekMoE has it.

    Raises:
        ConfigError: it is none of these; the message is one line.
    """
    if isinstance(config, (str, Path)) and Path(config).exists():
        config = load(config)
    if not isinstance(config, dict):
        if getattr(config, "model_type", None) in REQUIRED:
            return config
        if not hasattr(config, "to_dict"):
            raise ConfigError(f"model_type = None: must be one of {', '.join(REQUIRED)}")
        config = config.to_dict()
    given = {name: value for name, value in config.items() if value is not None or name not in _NULL_IS_NONE}
    for inside in _INSIDE:
        if isinstance(given.get(inside), dict):
            around = {name: given[name] for name in _INHERITED if name in given}
            return of_the_course({**around, **given[inside], "is_inside": True})
    if {"dim", "n_layers"} <= given.keys():
        given = {**_INFERENCE_DEFAULTS, **{_INFERENCE.get(name, name): value for name, value in given.items()}}
        kind = "deepseek_v3" if given.get("score_func", "softmax") == "sigmoid" else "deepseek_v2"
        given |= {"model_type": "deepseek_v32" if "index_topk" in given else kind}
        given |= {"q_lora_rank": given.get("q_lora_rank") or None}
        if given.get("dtype") == "fp8":
            given["quantization_config"] = {"quant_method": "fp8", "weight_block_size": (128, 128)}
    given["model_type"] = _family(given)
    if given["model_type"] == "deepseek_v2" and (given.get("use_mla") is False or _no_latent(given)):
        given = {name: value for name, value in given.items() if name not in (*_LATENT, "head_dim")}
        given |= {"model_type": "deepseek", "n_group": None, "topk_group": None}
    if given["model_type"] in ("deepseek_v3", *DSA):
        given |= {name: 1 for name in ("n_group", "topk_group") if name in given and given[name] is None}
    if "n_shared_experts" in given and given["n_shared_experts"] is None:
        given["n_shared_experts"] = 0
    if given.get("is_inside") and given["model_type"] == "llama":  # such files leave out what the class has anyway
        from transformers import LlamaConfig

        given = {**{name: getattr(LlamaConfig(), name) for name in REQUIRED["llama"]}, **given}
    names = {*REQUIRED[given["model_type"]], *_OPTIONAL[given["model_type"]]}
    return {name: _number(value) if name in names else value for name, value in given.items()}


def load(path: str | Path) -> dict[str, Any]:
    """The configuration in a `config.json`, or in a folder that has one.

    Raises:
        ConfigError: the file is not there or no JSON object.
    """
    path = Path(path)
    path = path / "config.json" if path.is_dir() else path
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as JSON: {str(error).splitlines()[0]}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{path} holds no configuration: it must be a JSON object")
    return found


def _family(given: dict[str, Any]) -> str:
    """The name in `REQUIRED` of the layers that a configuration describes."""
    model_type = given.get("model_type")
    architectures = given.get("architectures")
    known = {name.replace("_", ""): name for name in REQUIRED} | RELATIVES
    for name in (model_type, *(architectures if isinstance(architectures, list) else [])):
        plain = str(name).removesuffix("ForCausalLM").replace("_", "").lower()
        if isinstance(name, str) and plain in known:
            return known[plain]
    if model_type == "deepseek_v41":
        raise ConfigError(
            "model_type = 'deepseek_v41': no field gives the shapes of its Engram and of the projections between "
            "engram_layer_ids and kv_source_layer_ids, so it cannot be counted"
        )
    raise ConfigError(f"model_type = {model_type!r}: must be one of {', '.join(REQUIRED)}")


def _no_latent(given: dict[str, Any]) -> bool:
    return "kv_lora_rank" in given and given["kv_lora_rank"] is None


def _number(value: Any) -> Any:
    """A whole number that is spelled as text or as a float; anything else as it is."""
    if isinstance(value, str) and value.strip().isdecimal():
        return int(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _fields_of_dict(model_type: str, given: dict[str, Any]) -> dict[str, Any]:
    """What the transformers class makes of a dict, once the dict is known to give the whole shape."""
    aliases = {}
    if model_type != "deepseek":  # DeepSeekMoE-16B has no class in transformers
        from huggingface_hub.errors import StrictDataclassError
        from transformers import CONFIG_MAPPING  # both here, since they take seconds to import

        experts = dict.fromkeys(("num_experts", "num_local_experts"), "n_routed_experts")
        aliases = {**CONFIG_MAPPING[model_type].attribute_map, **experts}
    c = SimpleNamespace(**_SWITCHES | {"head_dim": None} | given)
    for name in (*REQUIRED[model_type], *_OPTIONAL[model_type]):
        found = [key for key in given if name in (key, aliases.get(key))]
        listed = name == "first_k_dense_replace" and _lists_dense_layers(c)
        if not found and name in REQUIRED[model_type] and not listed:
            needed = ", ".join(REQUIRED[model_type])
            raise ConfigError(f"{name} is missing: a {model_type} configuration must give {needed}")
        for key in found:
            _field(model_type, name, given[key], spelling=key)
    for name in _SWITCHES:
        _need(c, name, isinstance(getattr(c, name), bool), "must be true or false")
    _check_widths(c)
    if model_type == "deepseek":
        return given
    ratios = given.get("compress_ratios") or []
    if not isinstance(ratios, list | tuple) or not all(ratio in _COMPRESS_RATIOS for ratio in ratios):
        raise ConfigError(f"compress_ratios = {ratios!r}: must be a list of {_COMPRESS_RATIOS}")
    if given.get("num_hash_layers") is not None:
        whole_number("num_hash_layers", given["num_hash_layers"], 0)
    fields = {key: given[key] for key in given if key not in _NOT_READ}
    if model_type == "qwen3_moe" and "n_routed_experts" in fields:
        fields["num_experts"] = fields.pop("n_routed_experts")
    if model_type in MTP and not {"num_nextn_predict_layers", "num_mtp_layers"} & fields.keys():
        fields["num_nextn_predict_layers"] = 0  # the classes' default is one layer, a file that names none has none
    try:
        return vars(CONFIG_MAPPING[model_type](**fields))
    except (StrictDataclassError, TypeError, ValueError) as error:
        reason = str(error).strip().splitlines()[-1].strip().removeprefix("ValueError: ")
        raise ConfigError(f"transformers refuses this {model_type} configuration: {reason}") from error


def _lists_dense_layers(c: Shape) -> bool:
    """V3.2 and GLM may name the kind of each layer instead of counting the dense ones."""
    return c.model_type in DSA and getattr(c, "mlp_layer_types", None) is not None


def _check_widths(c: Shape) -> None:
    """What can be said before the transformers class has completed a dict."""
    if c.model_type in ("llama", "deepseek", "deepseek_v2") or (c.model_type.startswith("qwen") and not c.head_dim):
        allowed = f"must be a multiple of num_attention_heads = {c.num_attention_heads}"
        _need(c, "hidden_size", c.hidden_size % c.num_attention_heads == 0, allowed)
    if c.model_type in GQA:
        c.head_dim = c.head_dim or c.hidden_size // c.num_attention_heads
        _check_rotary(c, "head_dim")


def _check_layers(c: Shape) -> None:
    """Lists cover every layer with kinds that exist; entries past the last layer are dropped."""
    for (model_type, name), kinds in _KINDS.items():
        if c.model_type == model_type:
            setattr(c, name, list(getattr(c, name))[: c.num_hidden_layers])
            complete = len(getattr(c, name)) == c.num_hidden_layers
            _need(c, name, complete, f"must have num_hidden_layers = {c.num_hidden_layers} entries")
            _need(c, name, set(getattr(c, name)) <= set(kinds), f"entries must be of {kinds}")
    if c.model_type == "deepseek_v4":
        for kind in sorted({CSA, HCA} & set(c.layer_types)):
            whole_number(f"compress_rates[{kind!r}]", c.compress_rates.get(kind), 1)


def _check_attention(c: Shape) -> None:
    """Heads, groups and rotary dimensions fit together."""
    heads = c.num_attention_heads
    c.head_dim = getattr(c, "head_dim", None)
    _check_widths(c)
    if c.model_type not in GQA:
        _check_rotary(c, "qk_rope_head_dim")
    if c.model_type != "deepseek_v4":
        c.num_key_value_heads = c.num_key_value_heads or heads
        # MLA never reads it, and its classes keep their default of 128 beside fewer heads
        unread = c.model_type in MLA and c.num_key_value_heads > heads
        fits = unread or heads % c.num_key_value_heads == 0
        _need(c, "num_key_value_heads", fits, f"must divide num_attention_heads = {heads}")
    else:
        width = heads * c.head_dim
        _need(c, "o_groups", width % c.o_groups == 0, f"must divide the width of all heads, {width}")
        fits = c.qk_rope_head_dim <= c.head_dim
        _need(c, "qk_rope_head_dim", fits, f"must be at most head_dim = {c.head_dim}")
    if c.model_type in DSA or (c.model_type == "deepseek_v4" and CSA in c.layer_types):
        fits = c.index_head_dim >= c.qk_rope_head_dim
        _need(c, "index_head_dim", fits, f"must be at least qk_rope_head_dim = {c.qk_rope_head_dim}")


def _check_rotary(c: Shape, name: str) -> None:
    size = getattr(c, name)
    _need(c, name, size > 0 and size % 2 == 0, "must be positive and even: RoPE rotates pairs")


def _check_experts(c: Shape) -> None:
    """A token can choose its experts, and the groups to choose them from."""
    experts = c.n_routed_experts
    allowed = f"must be at most n_routed_experts = {experts}"
    _need(c, "num_experts_per_tok", c.num_experts_per_tok is None or c.num_experts_per_tok <= experts, allowed)
    chooses_groups = c.model_type in ("deepseek_v3", *DSA)
    if c.model_type == "deepseek_v2":
        chooses_groups = c.n_group is not None or c.topk_method == "group_limited_greedy"
    if chooses_groups:
        whole_number("n_group", c.n_group, 1)
        whole_number("topk_group", c.topk_group, 1)
        _need(c, "n_group", experts % c.n_group == 0, f"must divide n_routed_experts = {experts}")
        enough = c.model_type == "deepseek_v2" or experts // c.n_group > 1  # V3 ranks a group by its best two
        _need(c, "n_group", enough, f"must leave two of n_routed_experts = {experts} in each group")
        _need(c, "topk_group", c.topk_group <= c.n_group, f"must be at most n_group = {c.n_group}")


def _field(model_type: str, name: str, value: Any, spelling: str | None = None) -> int | None:
    """The value of an integer field; `spelling` is its key in a dict, where that differs from the name."""
    open_in_v2 = model_type == "deepseek_v2" and name == "num_experts_per_tok"  # so it is in the class's own default
    if value is None and (name in _MAY_BE_NULL or open_in_v2):
        return None
    return whole_number(spelling or name, value, 0 if name in _MAY_BE_ZERO else 1)


def whole_number(name: str, value: Any, minimum: int) -> int:
    """`value` as an int.

    Raises:
        ConfigError: it is no integer (True and 2.0 are none) or below the minimum; the message calls it `name`.
    """
    try:
        number = minimum - 1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = minimum - 1
    if number < minimum:
        raise ConfigError(f"{name} = {value!r}: must be an integer of at least {minimum}")
    return number


def _need(c: Shape, name: str, holds: bool, allowed: str) -> None:
    if not holds:
        raise ConfigError(f"{name} = {getattr(c, name)!r}: {allowed}")
