"""The closed forms equal the library: parameters on the meta device, caches and FLOPs of tiny models."""

import json
import re
import subprocess
import sys
from collections import Counter
from importlib import resources

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, DeepseekV2Config
from transformers.modeling_layers import MtpModel
from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2Moe
from transformers.models.deepseek_v4.modeling_deepseek_v4 import DeepseekV4IndexerScorer

from utils import architecture, formats, shapes
from utils.architecture import count_parameters, flops_per_token, kv_cache_bytes, weight_bytes
from utils.errors import InputError

PUBLISHED = {
    record["name"]: record
    for record in json.loads(resources.files("utils").joinpath("data", "deepseek_models.json").read_text("utf-8"))
}
COUNTED = [name for name, record in PUBLISHED.items() if record["exact_total"] is not None]
BUILT = [name for name in COUNTED if PUBLISHED[name]["config"]["model_type"] in CONFIG_MAPPING]
V3 = PUBLISHED["DeepSeek-V3"]["config"]
FACT_GROUPS = {  # how the facts name the groups
    "embed": "embedding",
    "attn": "attention",
    "dense_mlp": "dense_ffn",
    "hc": "hyper_connections",
}


BODY = {"vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4}
DENSE = BODY | {"intermediate_size": 24, "num_key_value_heads": 2}
EXPERTS = {"moe_intermediate_size": 6, "n_routed_experts": 8, "num_experts_per_tok": 3}
MOE = DENSE | EXPERTS | {"n_shared_experts": 1, "first_k_dense_replace": 1}
LATENT = {"q_lora_rank": 10, "kv_lora_rank": 8, "qk_nope_head_dim": 6, "qk_rope_head_dim": 4, "v_head_dim": 6}
MLA = MOE | LATENT | {"num_key_value_heads": 4, "n_group": 4, "topk_group": 2}
INDEXER = {"index_n_heads": 2, "index_head_dim": 8, "index_topk": 4}
V4 = {"head_dim": 16, "qk_rope_head_dim": 4, "q_lora_rank": 10, "sliding_window": 8, "hc_mult": 2, "o_groups": 2}
V4 |= {"o_lora_rank": 4, "compress_ratios": [0, 4, 128, 0], "num_hash_layers": 1}
SMALL = {"llama": DENSE, "qwen2": DENSE, "qwen3": DENSE, "qwen3_moe": DENSE | EXPERTS, "deepseek": MOE}
SMALL |= {"deepseek_v2": MLA, "deepseek_v3": MLA, "deepseek_v32": MLA | INDEXER, "glm_moe_dsa": MLA | INDEXER}
SMALL |= {"deepseek_v4": BODY | EXPERTS | V4 | INDEXER}
SMALL = {family: {"model_type": family, **fields} for family, fields in SMALL.items()}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Tiny models are slower on several threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def many(examples: int):
    """Hypothesis settings with the same examples in every run."""
    return settings(max_examples=examples, derandomize=True, deadline=None, database=None)


# --------------------------------------------------------------------------------------- random small models


def some(draw, **ranges: tuple[int, int]) -> dict[str, int]:
    return {name: draw(st.integers(*ends)) for name, ends in ranges.items()}


def body(draw) -> dict:
    config = some(draw, vocab_size=(8, 40), intermediate_size=(1, 40), num_hidden_layers=(1, 4))
    return config | {"tie_word_embeddings": draw(st.booleans()), "pad_token_id": None}


def each_layer(draw, config: dict, *kinds: str) -> list[str]:
    size = config["num_hidden_layers"]
    return draw(st.lists(st.sampled_from(kinds), min_size=size, max_size=size))


@st.composite
def llama(draw, model_type: str = "llama"):
    kv_heads, per_kv = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    heads = kv_heads * per_kv
    config = body(draw) | {"model_type": model_type, "num_attention_heads": heads, "num_key_value_heads": kv_heads}
    config |= {"hidden_size": heads * 2 * draw(st.integers(1, 5))}
    if model_type != "deepseek" and draw(st.booleans()):
        config["head_dim"] = 2 * draw(st.integers(1, 4))
    if model_type != "qwen2":
        config["attention_bias"] = draw(st.booleans())
    if model_type == "llama":
        config["mlp_bias"] = draw(st.booleans())
    return config


@st.composite
def qwen2(draw):
    config = draw(llama("qwen2"))
    if draw(st.booleans()):
        config |= {"use_sliding_window": True, "sliding_window": draw(st.integers(2, 6))}
        config["layer_types"] = each_layer(draw, config, "full_attention", "sliding_attention")
    return config


@st.composite
def qwen3(draw):
    return draw(qwen2()) | {"model_type": "qwen3", "attention_bias": draw(st.booleans())}


@st.composite
def qwen3_moe(draw):
    config = draw(llama("qwen3_moe")) | {"head_dim": 2 * draw(st.integers(1, 4))}
    config |= some(draw, num_experts=(1, 8), moe_intermediate_size=(1, 12), decoder_sparse_step=(1, 3))
    config |= some(draw, num_experts_per_tok=(1, config["num_experts"]))
    layers = st.integers(0, config["num_hidden_layers"] - 1)
    return config | {"mlp_only_layers": draw(st.lists(layers, max_size=2))}


def moe_fields(draw, layers: int) -> dict[str, int]:
    per_group, groups = draw(st.integers(2, 4)), draw(st.integers(1, 3))
    fields = some(draw, moe_intermediate_size=(1, 12), n_shared_experts=(0, 3), num_experts_per_tok=(1, per_group))
    fields |= some(draw, first_k_dense_replace=(0, layers), topk_group=(1, groups))
    return fields | {"n_routed_experts": per_group * groups, "n_group": groups}


@st.composite
def deepseek(draw):
    config = draw(llama("deepseek"))
    return config | moe_fields(draw, config["num_hidden_layers"]) | some(draw, moe_layer_freq=(1, 3))


@st.composite
def mla(draw, model_type: str):
    heads, ranks = draw(st.integers(1, 4)), st.integers(1, 12)
    even = 2 if model_type == "deepseek_v2" else 1  # its RoPE views pairs as complex numbers, at even offsets only
    config = body(draw) | {
        "model_type": model_type,
        "hidden_size": heads * 2 * draw(st.integers(1, 5)),
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "q_lora_rank": draw(ranks if model_type in shapes.DSA else st.none() | ranks),
        "kv_lora_rank": even * draw(ranks),
        "qk_nope_head_dim": even * draw(st.integers(1, 6)),
        "qk_rope_head_dim": 2 * draw(st.integers(1, 3)),
        "v_head_dim": draw(st.integers(1, 8)),
        "attention_bias": draw(st.booleans()),
    }
    config |= moe_fields(draw, config["num_hidden_layers"])
    if model_type == "deepseek_v2":
        return config | {"mlp_bias": draw(st.booleans()), "topk_method": draw(st.sampled_from(V2_CHOICES))}
    return config | some(draw, num_nextn_predict_layers=(0, 2))


V2_CHOICES = ("greedy", "group_limited_greedy")


@st.composite
def deepseek_v32(draw, model_type: str = "deepseek_v32"):
    config = draw(mla(model_type))
    rope = config["qk_rope_head_dim"]
    config |= some(draw, index_n_heads=(1, 4), index_head_dim=(rope, rope + 6), index_topk=(1, 8))
    config |= {"mlp_bias": draw(st.booleans())}  # the class has the field and ignores it
    if draw(st.booleans()):
        config["mlp_layer_types"] = each_layer(draw, config, "dense", "sparse")
    return config


@st.composite
def glm_moe_dsa(draw):
    config = draw(deepseek_v32("glm_moe_dsa"))
    if draw(st.booleans()):
        config["indexer_types"] = ["full", *each_layer(draw, config, "full", "shared")[1:]]
    return config


@st.composite
def deepseek_v4(draw):
    rope, groups = 2 * draw(st.integers(1, 3)), draw(st.integers(1, 3))
    config = body(draw) | {
        "model_type": "deepseek_v4",
        "hidden_size": 2 * draw(st.integers(1, 16)),
        "num_attention_heads": groups * draw(st.integers(1, 3)),
        "num_key_value_heads": 1,
        "head_dim": rope * draw(st.sampled_from([1, 2, 4])),  # powers of two: the class divides and multiplies
        "qk_rope_head_dim": rope,
        "o_groups": groups,
        "mlp_bias": draw(st.booleans()),
        "n_shared_experts": draw(st.integers(1, 3)),  # ignored by the class
    }
    del config["intermediate_size"]
    layers = config["num_hidden_layers"]
    config |= some(draw, moe_intermediate_size=(1, 12), q_lora_rank=(1, 12), o_lora_rank=(1, 8), sliding_window=(2, 6))
    config |= some(draw, n_routed_experts=(1, 8), hc_mult=(1, 4), num_nextn_predict_layers=(0, 2))
    config |= some(draw, num_experts_per_tok=(1, config["n_routed_experts"]))
    config |= some(draw, index_n_heads=(1, 4), index_head_dim=(rope, rope + 6), index_topk=(1, 8))
    spelling = draw(st.sampled_from(["ratios", "types", "default"]))
    if spelling == "ratios":  # as published; the entry past the last layer is the MTP layer's
        ratios = st.sampled_from([0, 4, 128])
        config["compress_ratios"] = draw(st.lists(ratios, min_size=layers, max_size=layers + 1))
        config |= some(draw, compress_rate_csa=(1, 5), compress_rate_hca=(1, 7))
    elif spelling == "types":
        config["layer_types"] = each_layer(draw, config, shapes.WINDOW, shapes.CSA, shapes.HCA)
        config["compress_rates"] = some(draw, **{shapes.CSA: (1, 7), shapes.HCA: (1, 7)})
    if draw(st.booleans()):
        config |= some(draw, num_hash_layers=(0, layers + 1))
    elif draw(st.booleans()):
        config["mlp_layer_types"] = each_layer(draw, config, "moe", "hash_moe")
    return config


FAMILIES = {
    "llama": llama(),
    "qwen2": qwen2(),
    "qwen3": qwen3(),
    "qwen3_moe": qwen3_moe(),
    "deepseek_v2": mla("deepseek_v2"),
    "deepseek_v3": mla("deepseek_v3"),
    "deepseek_v32": deepseek_v32(),
    "glm_moe_dsa": glm_moe_dsa(),
    "deepseek_v4": deepseek_v4(),
}
RELATIVES = ("qwen3", "qwen3_moe", "glm_moe_dsa")  # families without a model of DeepSeek


def config_object(config: dict):
    return CONFIG_MAPPING[config["model_type"]](**{key: config[key] for key in config if key != "model_type"})


def on_meta(config: dict):
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config_object(config))


def tiny(config: dict, dtype: torch.dtype = torch.float32):
    torch.manual_seed(0)
    choices = {"attn_implementation": "eager", "experts_implementation": "eager"}
    return AutoModelForCausalLM.from_config(config_object(config), dtype=dtype, **choices).eval()


def group_of(parameter: str) -> str:
    """Where a parameter of a transformers class belongs, by its name."""
    for pattern, group in [
        ("embed_tokens", "embedding"),
        ("lm_head", "lm_head"),
        ("indexer", "indexer"),
        ("compressor", "compressor"),
        (r"attn_hc|ffn_hc|hc_head", "hyper_connections"),
        ("norm", "norms"),
        ("self_attn", "attention"),
        ("shared_experts", "shared_experts"),
        (r"mlp\.experts", "routed_experts"),
        (r"mlp\.gate\.", "router"),
        (r"mlp\.", "dense_ffn"),
    ]:
        if re.search(pattern, parameter):
            return group
    raise AssertionError(f"no group for {parameter}")


def counted_groups(model) -> Counter:
    groups = Counter()
    for name, parameter in model.named_parameters():  # a tied matrix comes once, as the embedding
        groups[group_of(name)] += parameter.numel()
    return groups


def assert_same_parameters(count: architecture.ParameterCount, model) -> None:
    assert {name: size for name, size in count.groups().items() if size} == {
        name: size for name, size in counted_groups(model).items() if size
    }
    assert count.total == sum(parameter.numel() for parameter in model.parameters())
    buffers = Counter()
    for name, buffer in model.named_buffers():
        buffers[name.rpartition(".")[2]] += buffer.numel()
    assert count.router_bias == buffers["e_score_correction_bias"]
    assert count.hash_tables == buffers["tid2eid"]


# ------------------------------------------------------------------------------------------------ parameters


@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_equal_the_meta_device(family):
    @many(60)
    @given(FAMILIES[family])
    def check(config):
        count = count_parameters(config)
        assert_same_parameters(count, on_meta(config))
        ready = config_object(config)
        assert count == count_parameters(ready)
        if not config.get("n_shared_experts") or family != "deepseek_v4":
            assert count == count_parameters(ready.to_dict())

    check()


@many(40)
@given(deepseek())
def test_deepseek_moe_16b_is_llama_attention_with_v2_experts(config):
    count = count_parameters(config)
    experts = {**config, "model_type": "deepseek_v2", "kv_lora_rank": 1, "q_lora_rank": 1, "mlp_bias": False}
    plain = {name: value for name, value in config.items() if name != "head_dim"}
    model = on_meta({**plain, "model_type": "llama"})
    with torch.device("meta"):
        for i, layer in enumerate(model.model.layers):
            if i >= config["first_k_dense_replace"] and i % config["moe_layer_freq"] == 0:
                layer.mlp = DeepseekV2Moe(config_object(experts))
    assert_same_parameters(count, model)


@pytest.mark.parametrize("name", COUNTED)
def test_published_models(name):
    record = PUBLISHED[name]
    count = count_parameters(record["config"])
    assert count.total == record["exact_total"]
    if record["param_groups"]:
        expected = {FACT_GROUPS.get(group, group): size for group, size in record["param_groups"].items()}
        assert {group: size for group, size in count.groups().items() if size} == expected
    if record.get("activated_computed"):
        assert record["activated_computed"] == {
            "non_embedding": count.activated(),
            "with_lm_head": count.activated(include_head=True),
            "with_both": count.activated(include_embedding=True, include_head=True),
        }
    if record.get("mtp_unique"):
        assert count.mtp == record["mtp_unique"]


@pytest.mark.parametrize("name", BUILT)
def test_published_models_on_the_meta_device(name):
    config = PUBLISHED[name]["config"]
    model = on_meta(config)
    assert_same_parameters(count_parameters(config), model)
    assert count_parameters(model.config) == count_parameters(config)


def test_the_catalog_covers_every_type_but_the_one_nobody_builds():
    assert len(COUNTED) == 26 and len(BUILT) == 25
    assert {PUBLISHED[name]["config"]["model_type"] for name in COUNTED} == set(FAMILIES) - set(RELATIVES) | {
        "deepseek"
    }


def test_hub_totals_are_the_sum_of_their_pieces():
    v3 = count_parameters(V3)
    copies, scales = v3.embedding + v3.lm_head, 41_540_496
    assert (v3.total, v3.router_bias, v3.mtp) == (671_026_404_352, 58 * 256, 11_610_068_224)
    assert v3.mtp + copies == PUBLISHED["DeepSeek-V3"]["mtp_stored"]
    assert v3.total + v3.router_bias + v3.mtp + copies + scales == 684_531_386_000
    v32 = count_parameters(PUBLISHED["DeepSeek-V3.2"]["config"])
    assert v32.total + v32.router_bias + v32.mtp + copies == 685_355_329_792
    for name in ("DeepSeek-V4-Flash", "DeepSeek-V4-Pro"):
        v4 = count_parameters(PUBLISHED[name]["config"])
        assert v4.total + v4.router_bias + v4.hash_tables + v4.mtp == PUBLISHED[name]["hub_safetensors_total"]


@many(25)
@given(mla("deepseek_v3"))
def test_mtp_equals_the_librarys_mtp_model(config):
    model = on_meta(config)
    with torch.device("meta"):
        layers = MtpModel(model, config["num_nextn_predict_layers"]).layers
    stored = [*layers.parameters(), *(b for name, b in layers.named_buffers() if "e_score_correction_bias" in name)]
    assert count_parameters(config).mtp == sum(tensor.numel() for tensor in stored)


def test_a_tied_matrix_counts_once_when_either_end_is_asked_for():
    shape = {**SMALL["llama"], "tie_word_embeddings": True}
    count = count_parameters(shape)
    assert count.lm_head == 0 and count.embedding == 32 * 16
    body = count.total - count.embedding
    answers = [count.activated(a, b) for a, b in [(False, False), (True, False), (False, True), (True, True)]]
    assert answers == [body, count.total, count.total, count.total]


def test_activated_counts_the_chosen_experts_of_a_small_model():
    count = count_parameters(SMALL["deepseek_v3"])  # 2 MoE layers, 3 of 8 experts, each 3 x 16 x 6
    assert count.routed_experts - count.routed_experts_used == 2 * (8 - 3) * 3 * 16 * 6
    assert count.activated(True, True) == count.total - 2 * (8 - 3) * 3 * 16 * 6


def test_a_shortened_configuration_object_needs_no_shorter_lists():
    for name, layers in [("DeepSeek-V3.2", 5), ("DeepSeek-V4-Flash", 7), ("DeepSeek-R1-Distill-Qwen-7B", 3)]:
        config = config_object(PUBLISHED[name]["config"])
        config.num_hidden_layers = layers
        with torch.device("meta"):
            assert_same_parameters(count_parameters(config), AutoModelForCausalLM.from_config(config))


def test_other_spellings_and_unknown_keys_of_a_dict():
    v4 = SMALL["deepseek_v4"]
    renamed = {key: value for key, value in v4.items() if key not in ("n_routed_experts", "moe_intermediate_size")}
    renamed |= {"num_local_experts": v4["n_routed_experts"], "intermediate_size": v4["moe_intermediate_size"]}
    assert count_parameters(renamed) == count_parameters(v4)
    extras = {"transformers_version": "4.33.1", "auto_map": {}, "rope_scaling": {"type": "?"}, "moe_layer_freq": 9}
    v3 = SMALL["deepseek_v3"]
    assert count_parameters(v3 | extras | {"mlp_bias": True, "mlp_layer_types": ["dense"]}) == count_parameters(v3)
    with_mtp = {**v3, "num_mtp_layers": 2}
    assert count_parameters(with_mtp).mtp == 2 * count_parameters({**v3, "num_nextn_predict_layers": 1}).mtp > 0


@pytest.mark.parametrize("family", ["deepseek_v3", "deepseek_v4"])
def test_a_file_that_names_no_layer_for_multi_token_prediction_has_none(family):
    config = {key: value for key, value in SMALL[family].items() if key != "num_nextn_predict_layers"}
    assert count_parameters(config).mtp == 0 < count_parameters({**config, "num_nextn_predict_layers": 1}).mtp


@pytest.mark.parametrize("family", ["deepseek_v2", "deepseek_v3", "deepseek_v32"])
def test_more_dense_layers_than_there_are_leave_no_mixture(family):
    config = {**SMALL[family], "first_k_dense_replace": SMALL[family]["num_hidden_layers"] + 1}
    assert_same_parameters(count_parameters(config), on_meta(config))
    assert count_parameters(config).routed_experts == 0


def test_two_layers_of_v3_are_dense():
    v3 = PUBLISHED["DeepSeek-V3"]["config"]
    assert count_parameters({**v3, "num_hidden_layers": 2, "first_k_dense_replace": 3}).total == 3_020_332_032


def test_v2_s_default_configuration_is_counted_but_for_what_one_token_uses():
    config = DeepseekV2Config()  # it leaves num_experts_per_tok open
    with torch.device("meta"):
        assert_same_parameters(count_parameters(config), AutoModelForCausalLM.from_config(config))
    assert count_parameters(config.to_dict()) == count_parameters(config)
    for needs_it in (lambda: count_parameters(config).activated(), lambda: flops_per_token(config, 1)):
        with pytest.raises(InputError, match=r"^num_experts_per_tok = None: what one token uses"):
            needs_it()


def test_short_names_of_number_formats_are_understood():
    config = SMALL["llama"]
    for short, name in (("bf16", "bfloat16"), ("fp8", "float8"), ("fp32", "float32")):
        assert weight_bytes(config, short) == weight_bytes(config, name)


# -------------------------------------------------------------------------------- bytes of weights and cache


def cached_numbers(cache) -> int:
    """Floating-point numbers in a cache object; a tensor that stands in two places counts once."""
    tensors = {}
    for layer in cache.layers:
        for value in vars(layer).values():
            for tensor in value.values() if isinstance(value, dict) else [value]:
                if isinstance(tensor, torch.Tensor) and tensor.is_floating_point():
                    tensors[id(tensor)] = tensor.numel()
    return sum(tensors.values())


@pytest.mark.parametrize("family", FAMILIES)
def test_the_cache_holds_what_the_formula_says(family):
    @many(10)
    @given(FAMILIES[family], st.integers(1, 24), st.integers(1, 2))
    def check(config, tokens, batch):
        model, ready = tiny(config), config_object(config)
        twice = 0  # layers of V4 without compression hold keys and values as two copies of one tensor
        if family == "deepseek_v4":
            twice = ready.layer_types.count("sliding_attention") * ready.head_dim * batch
        ids = torch.arange(batch * tokens).view(batch, tokens) % config["vocab_size"]
        with torch.no_grad():
            cache = model(ids, use_cache=True).past_key_values
            copies = twice * min(tokens, ready.sliding_window - 1) if twice else 0
            assert 4 * (cached_numbers(cache) - copies) == kv_cache_bytes(config, tokens, batch, "float32")
            cache = model(ids[:, :1], past_key_values=cache).past_key_values
            copies = twice * min(tokens + 1, ready.sliding_window - 1) if twice else 0
            assert 4 * (cached_numbers(cache) - copies) == kv_cache_bytes(ready, tokens + 1, batch, "float32")

    check()


def test_the_cache_of_a_model_in_bfloat16_takes_two_bytes_a_number():
    model = tiny(SMALL["deepseek_v3"], torch.bfloat16)
    with torch.no_grad():
        layers = model(torch.arange(7)[None], use_cache=True).past_key_values.layers
    stored = sum(tensor.numel() * tensor.element_size() for layer in layers for tensor in (layer.keys, layer.values))
    assert stored == kv_cache_bytes(SMALL["deepseek_v3"], 7) == 2 * 3 * (8 + 4) * 7


def test_published_cache_sizes():
    def size(name, tokens=1, dtype="bfloat16"):
        return kv_cache_bytes(PUBLISHED[name]["config"], tokens, dtype=dtype)

    assert size("DeepSeek-V3") == 61 * (512 + 64) * 2 == 70_272
    assert size("deepseek-llm-67b-base") == 2 * 194_560
    assert size("deepseek-moe-16b-base") == 2 * 28 * 16 * 128 * 2
    assert size("DeepSeek-V3.2") == 61 * (512 + 64 + 128) * 2
    # DeepSeek-V2's 93.3 % compare BF16 with 6 bits; at equal precision it is 82.2 %
    assert round(100 * (1 - size("DeepSeek-V2", dtype="int6") / size("deepseek-llm-67b-base")), 1) == 93.3
    assert round(100 * (1 - size("DeepSeek-V2") / size("deepseek-llm-67b-base")), 1) == 82.2
    million = 1_000_000
    # V4 s.2.3.4 and abstract: about 2 % of a BF16 GQA cache with 8 heads of 128, about 10 % of V3.2's
    gqa = 61 * 2 * 8 * 128 * 2 * million
    assert round(100 * size("DeepSeek-V4-Pro", million, "float8") / gqa) == 2
    assert 0.10 < size("DeepSeek-V4-Pro", million) / size("DeepSeek-V3.2", million) < 0.12


def test_an_empty_cache_and_two_sequences():
    for config in SMALL.values():
        assert kv_cache_bytes(config, 0) == 0
        assert kv_cache_bytes(config, 13, batch=3) == 3 * kv_cache_bytes(config, 13)


@pytest.mark.parametrize(
    ("dtype", "bits"),
    [
        *architecture.DTYPE_BITS.items(),
        (torch.float32, 32),
        (torch.bfloat16, 16),
        (torch.float16, 16),
        (torch.int8, 8),
        (torch.float8_e4m3fn, 8),
        (torch.float4_e2m1fn_x2, 4),
    ],
)
def test_number_formats(dtype, bits):
    count = count_parameters(SMALL["llama"])
    kept = count.embedding + count.lm_head + count.norms
    assert weight_bytes(SMALL["llama"], dtype) == -(-((count.total - kept) * bits + kept * max(bits, 16)) // 8)
    assert kv_cache_bytes(SMALL["llama"], 5, dtype=dtype) == -(-3 * 2 * 2 * 4 * 5 * bits // 8)


def test_odd_counts_of_half_bytes_are_rounded_up():
    config = {**SMALL["llama"], "vocab_size": 33, "hidden_size": 3, "intermediate_size": 2, "num_hidden_layers": 1}
    config |= {"num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 2}
    assert count_parameters(config).total == 249
    assert weight_bytes(config, "int4") == 2 * (2 * 33 * 3 + 9) + 21  # 42 numbers in the layer's matrices
    assert weight_bytes(config, "int6") == 2 * (2 * 33 * 3 + 9) + 32


# ----------------------------------------------------------------------------------------------------- FLOPs


def counted_flops(config: dict, context: int) -> int:
    """What the library computes in one decode step after `context` tokens, with eager attention."""
    model, cache = tiny(config), None
    ids = torch.arange(context + 1)[None] % config["vocab_size"]
    with torch.no_grad():
        if context:
            cache = model(ids[:, :-1], use_cache=True).past_key_values
        with FlopCounterMode(display=False) as counter:
            model(ids[:, -1:], past_key_values=cache, use_cache=True)
    return counter.get_total_flops()


@pytest.mark.parametrize("family", ["llama", "qwen2", "deepseek_v2", "deepseek_v3"])
def test_flops_equal_the_librarys(family):
    @many(10)
    @given(FAMILIES[family], st.integers(0, 20))
    def check(config, context):
        assert flops_per_token(config, context, absorbed=False).total == counted_flops(config, context)

    check()


@pytest.mark.parametrize("context", [0, 1, 37])
def test_absorbed_mla_gives_the_same_output_for_the_counted_flops(context):
    """One layer's attention, both ways, from random tensors: equal results, and the FLOPs that the formula says."""
    heads, rank, nope, rope, value, keys = 4, 8, 6, 2, 5, context + 1
    config = SMALL["deepseek_v3"] | {
        "num_hidden_layers": 1, "num_attention_heads": heads, "kv_lora_rank": rank,
        "qk_nope_head_dim": nope, "qk_rope_head_dim": rope, "v_head_dim": value,
    }  # fmt: skip
    torch.manual_seed(0)
    query, query_rope = torch.randn(heads, 1, nope).double(), torch.randn(heads, 1, rope).double()
    latent, key_rope = torch.randn(keys, rank).double(), torch.randn(keys, rope).double()
    up_key, up_value = torch.randn(heads, rank, nope).double(), torch.randn(heads, rank, value).double()

    expanded_key, expanded_value = latent @ up_key, latent @ up_value  # (heads, keys, nope), (heads, keys, value)
    scores = query @ expanded_key.mT + query_rope @ key_rope.mT
    expanded = scores.softmax(-1) @ expanded_value

    with FlopCounterMode(display=False) as counter:
        into_latent = query @ up_key.mT  # (heads, 1, rank)
        shared = torch.cat([latent, key_rope], dim=-1).expand(heads, keys, rank + rope)
        scores = torch.cat([into_latent, query_rope], dim=-1) @ shared.mT
        absorbed = (scores.softmax(-1) @ latent.expand(heads, keys, rank)) @ up_value  # (heads, 1, value)
    assert torch.allclose(absorbed, expanded)
    up_projection = 2 * rank * heads * (nope + value)  # counted among the weights: it works on the new token
    assert counter.get_total_flops() == flops_per_token(config, context).attention + up_projection
    assert flops_per_token(config, context).weights == flops_per_token(config, context, absorbed=False).weights


def _sum_of_heads_as_a_product(self, q, compressed_kv, hidden_states):
    """V4's indexer scores with the sum over its heads as a matrix product, as the library writes it in V3.2."""
    hits = torch.relu(q @ compressed_kv.mT.unsqueeze(1)) * self.softmax_scale  # (b, t, heads, entries)
    weights = self.weights_proj(hidden_states) * self.weights_scaling
    return (weights.unsqueeze(-2) @ hits).squeeze(-2)


def test_v4s_indexer_scores_are_the_same_as_a_product_that_torch_counts():
    scorer = DeepseekV4IndexerScorer(tiny(SMALL["deepseek_v4"]).config)
    q, keys, x = torch.randn(2, 3, 2, 8), torch.randn(2, 5, 8), torch.randn(2, 3, 16)
    given = q, keys, x
    torch.testing.assert_close(_sum_of_heads_as_a_product(scorer, *given), scorer(*given))


@many(12)
@given(deepseek_v4(), st.integers(0, 20))
def test_flops_of_v4_equal_the_librarys_while_the_indexer_selects_everything(config, context):
    config |= {"index_topk": 64}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(DeepseekV4IndexerScorer, "forward", _sum_of_heads_as_a_product)
        assert flops_per_token(config, context).total == counted_flops(config, context)


@many(10)
@given(deepseek_v32(), st.integers(0, 20))
def test_flops_of_v32_are_the_librarys_with_dense_mla_exchanged_for_sparse_absorbed_mla(config, context):
    heads, rc, dr = config["num_attention_heads"], config["kv_lora_rank"], config["qk_rope_head_dim"]
    dn, dv = config["qk_nope_head_dim"], config["v_head_dim"]
    keys = context + 1
    dense = heads * (dn + dr + dv) * keys + heads * rc * (dn + dv) * context
    sparse = heads * (rc + dr + rc) * min(keys, config["index_topk"])
    difference = 2 * config["num_hidden_layers"] * (dense - sparse)
    assert flops_per_token(config, context).total == counted_flops(config, context) - difference


def test_the_indexers_selection_bounds_attention():
    for family in ("deepseek_v32", "deepseek_v4"):
        config = {**SMALL[family], "index_topk": 4}
        selected, everything = (flops_per_token(config, 1000), flops_per_token({**config, "index_topk": 9999}, 1000))
        assert selected.weights == everything.weights
        assert selected.attention < everything.attention


def test_weights_are_two_flops_for_each_activated_matrix_entry():
    count, flops = count_parameters(V3), flops_per_token(V3, 1000)
    assert flops.weights == 2 * (count.activated(include_head=True) - count.norms)
    assert flops.total == flops.weights + flops.attention
    assert flops_per_token(V3, 0).weights == flops.weights
    moe = flops_per_token(PUBLISHED["deepseek-moe-16b-base"]["config"], 9)
    count = count_parameters(PUBLISHED["deepseek-moe-16b-base"]["config"])
    assert moe.weights == 2 * (count.activated(include_head=True) - count.norms)
    assert moe.attention == 2 * 28 * 16 * 128 * 2 * 10


def test_published_saving_of_v4_in_flops():
    # DeepSeek-V4 abstract: at a million tokens V4-Pro needs 27 % of V3.2's FLOPs for a token
    v4, v32 = (flops_per_token(PUBLISHED[name]["config"], 1_000_000) for name in ("DeepSeek-V4-Pro", "DeepSeek-V3.2"))
    assert v4.total / v32.total == pytest.approx(0.27, abs=0.01)


# ------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("family", SMALL)
def test_a_missing_or_malformed_field_is_named_with_its_value(family):
    config = SMALL[family]
    required = shapes.REQUIRED[family]
    assert count_parameters(config).total > 0
    for name in required:
        with pytest.raises(ValueError, match=rf"^{name} is missing: a {family} configuration must give .*{name}"):
            count_parameters({key: value for key, value in config.items() if key != name})
        for bad in (-1, 2.5, "three", True, [4]):
            with pytest.raises(ValueError, match=rf"^{name} must be a whole number .*; got {re.escape(repr(bad))}$"):
                count_parameters({**config, name: bad})
        if name not in ("n_shared_experts", "first_k_dense_replace"):
            with pytest.raises(ValueError, match=f"^{name} must be a whole number of at least 1; got 0"):
                count_parameters({**config, name: 0})
        if (family, name) not in {
            ("qwen2", "num_key_value_heads"),
            ("deepseek_v2", "q_lora_rank"),
            ("deepseek_v2", "kv_lora_rank"),  # plain attention
            *((family, "n_shared_experts") for family in SMALL),  # none
            ("deepseek_v2", "num_experts_per_tok"),
            ("deepseek_v3", "q_lora_rank"),
        }:
            with pytest.raises(ValueError, match=rf"{name}\b.*None"):
                count_parameters({**config, name: None})


TOO_MANY = "num_experts_per_tok must be at most n_routed_experts = 8; got 9"
NO_MULTIPLE = r"refuses this .* config.*hidden size \(18\) is not a multiple .* heads \(4\)"
CONTRADICTIONS = [  # families, a change to their small configurations, and what is said
    (
        "llama qwen2 qwen3 deepseek deepseek_v3",
        {"num_key_value_heads": 3},
        "num_key_value_heads must divide num_a.*; got 3",
    ),
    ("llama qwen2", {"num_key_value_heads": 8}, "num_key_value_heads must divide num_attention_heads = 4; got 8"),
    ("llama", {"num_key_value_heads": 0}, "num_key_value_heads must be a whole number of at least 1; got 0"),
    ("llama", {"num_key_value_heads": "two"}, "num_key_value_heads must be a whole number .*; got 'two'"),
    ("llama deepseek deepseek_v2", {"hidden_size": 18}, NO_MULTIPLE),
    ("qwen2", {"hidden_size": 18}, "hidden_size must be a multiple of num_attention_heads = 4; got 18"),
    ("llama deepseek", {"hidden_size": 20}, "even rotary dimension, but got `head_dim`=5"),
    ("llama", {"head_dim": 7}, "even rotary dimension, but got `head_dim`=7"),
    ("llama", {"head_dim": -2}, "head_dim must be a whole number of at least 1; got -2"),
    ("deepseek_v3 deepseek_v4", {"qk_rope_head_dim": 3}, "qk_rope_head_dim must be positive and even.*; got 3"),
    *((" ".join(SMALL), {name: 1}, f"{name} must be true or false; got 1") for name in ("mlp_bias", "attention_bias")),
    (" ".join(SMALL), {"tie_word_embeddings": "no"}, "tie_word_embeddings must be true or false; got 'no'"),
    ("llama", {"rms_norm_eps": "small"}, "transformers refuses this llama config.*rms_norm_eps.*'small'"),
    ("qwen2 qwen3", {"layer_types": ["full_attention"]}, r"`num_hidden_layers` \(3\) must .* `layer_types` \(1\)"),
    (
        "qwen2",
        {"layer_types": ["chunked_attention"] * 3},
        r"layer_types entries must be of \('full_attention'.*; got \['ch",
    ),
    ("deepseek", {"moe_layer_freq": 0}, "moe_layer_freq must be a whole number of at least 1; got 0"),
    ("qwen3_moe deepseek deepseek_v2 deepseek_v3 deepseek_v4", {"num_experts_per_tok": 9}, TOO_MANY),
    ("deepseek_v2 deepseek_v3 deepseek_v32", {"n_group": 3}, "n_group must divide n_routed_experts = 8; got 3"),
    (
        "deepseek_v2",
        {"n_group": None, "topk_method": "group_limited_greedy"},
        "n_group must be a whole number of at least 1; got None",
    ),
    ("deepseek_v3", {"n_group": 8}, "n_group must leave two of n_routed_experts = 8 in each group; got 8"),
    ("deepseek_v3", {"n_group": 0}, "n_group must be a whole number of at least 1; got 0"),
    ("deepseek_v2 deepseek_v3", {"topk_group": 5}, "topk_group must be at most n_group = 4; got 5"),
    ("deepseek_v3", {"topk_group": 0}, "topk_group must be a whole number of at least 1; got 0"),
    (
        "deepseek_v3",
        {"num_nextn_predict_layers": -1},
        "num_nextn_predict_layers must be a whole number of at least 0; got -1",
    ),
    ("deepseek_v32 glm_moe_dsa", {"index_head_dim": 2}, "index_head_dim must be at least qk_rope_head_dim = 4; got 2"),
    ("deepseek_v32", {"mlp_layer_types": ["dense", "x", "sparse"]}, "`mlp_layer_types` entries must be in"),
    ("deepseek_v32", {"mlp_layer_types": ["dense"]}, "num_hidden_layers.*mlp_layer_types"),
    (
        "glm_moe_dsa",
        {"indexer_types": ["full"]},
        r"indexer_types must have num_hidden_layers = 3 entries; got \['full'\]",
    ),
    (
        "deepseek_v4",
        {"compress_ratios": [0, 7, 4]},
        r"compress_ratios must be a list of \(0, 4, 128\); got \[0, 7, 4\]",
    ),
    ("deepseek_v4", {"compress_ratios": 4}, r"compress_ratios must be a list of \(0, 4, 128\); got 4"),
    ("deepseek_v4", {"compress_ratios": [0, 4]}, r"`num_hidden_layers` \(3\) must equal `len\(layer_types\)` \(2\)"),
    ("deepseek_v4", {"layer_types": ["full_attention"] * 3}, "layer_types.*full_attention"),
    ("deepseek_v4", {"num_hash_layers": -1}, "num_hash_layers must be a whole number of at least 0; got -1"),
    (
        "deepseek_v4",
        {"compress_rate_csa": 0},
        r"compress_rates\['compressed_sparse_attention'\] must be a whole number .*; got 0",
    ),
    (
        "deepseek_v4",
        {"compress_rates": {"compressed_sparse_attention": 4}},
        r"s\['heavily_.*'\] must be a whole number .*; got None",
    ),
    ("deepseek_v4", {"o_groups": 3}, "o_groups must divide the width of all heads, 64; got 3"),
    ("deepseek_v4", {"qk_rope_head_dim": 32}, "qk_rope_head_dim must be at most head_dim = 16; got 32"),
    ("deepseek_v4", {"qk_rope_head_dim": 12}, "index_head_dim must be at least qk_rope_head_dim = 12; got 8"),
    ("deepseek_v4", {"mlp_layer_types": ["dense"] * 3}, "mlp_layer_types.*dense"),
]


@pytest.mark.parametrize(
    ("family", "change", "message"),
    [(family, *case) for families, *case in CONTRADICTIONS for family in families.split()],
)
def test_contradictions_are_named(family, change, message):
    with pytest.raises(InputError, match=message) as raised:
        count_parameters({**SMALL[family], **change})
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("config", "value"),
    [
        ({"model_type": "gpt2"}, "'gpt2'"),
        ({}, "None"),
        ({"model_type": ["llama"]}, "['llama']"),
        ("llama", "None"),
        (3, "None"),
    ],
)
def test_an_unknown_model_type_names_the_known_ones(config, value):
    known = "llama, qwen2, qwen3, qwen3_moe, deepseek, deepseek_v2, deepseek_v3, deepseek_v32, glm_moe_dsa, deepseek_v4"
    with pytest.raises(ValueError, match=re.escape(f"model_type = {value}: must be one of {known}")):
        count_parameters(config)


def test_a_configuration_object_is_checked_as_well():
    for change in ({"n_group": 3}, {"num_experts_per_tok": 9}, {"qk_rope_head_dim": 3}, {"hidden_size": -16}):
        config = config_object({**SMALL["deepseek_v3"], **change})
        (name, value), *_ = change.items()
        with pytest.raises(ValueError, match=f"^{name} must .*; got {value}$"):
            count_parameters(config)


@pytest.mark.parametrize("bad", [-1, 1.5, "2", None, True])
def test_lengths_must_be_counts(bad):
    config, shown = SMALL["llama"], re.escape(repr(bad))
    with pytest.raises(ValueError, match=f"^tokens must be a whole number of at least 0; got {shown}"):
        kv_cache_bytes(config, bad)
    with pytest.raises(ValueError, match=f"^batch must be a whole number of at least 1; got {shown}"):
        kv_cache_bytes(config, 1, batch=bad)
    with pytest.raises(ValueError, match=f"^context must be a whole number of at least 0; got {shown}"):
        flops_per_token(config, bad)
    with pytest.raises(ValueError, match=r"^batch must be a whole number of at least 1; got 0"):
        kv_cache_bytes(config, 1, batch=0)


@pytest.mark.parametrize("bad", ["float12", "BF17", 16, None, torch.complex64])
def test_an_unknown_number_format_names_the_known_ones(bad):
    for function in (lambda: weight_bytes(SMALL["llama"], bad), lambda: kv_cache_bytes(SMALL["llama"], 1, dtype=bad)):
        with pytest.raises(ValueError, match=rf"^no precision {re.escape(repr(bad))}; there are float32, .*int4"):
            function()


# ------------------------------------------------------------------------------------------------- the whole


def test_importing_the_module_is_light():
    code = "import sys, utils.architecture; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


# ---------------------------------------------------------------------------------- configurations from the wild

LLAMA, V2, V3_SMALL, GLM = (SMALL[name] for name in ("llama", "deepseek_v2", "deepseek_v3", "glm_moe_dsa"))
PLAIN = {**SMALL["deepseek"], "num_key_value_heads": 4}
OCR = {name: value for name, value in V2.items() if name != "model_type"} | {"use_mla": False, "v_head_dim": 0}
OCR |= {"kv_lora_rank": None, "q_lora_rank": None}
JANUS = {"model_type": "llama", "num_hidden_layers": 30}
LLAMA_CLASS = {"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32}
RENAMED = {"num_local_experts" if name == "n_routed_experts" else name: value for name, value in GLM.items()}
WILD = {  # a configuration as people have it, and the same in the words of its family
    "a relative": (V3_SMALL | {"model_type": "kimi_k2"}, V3_SMALL),
    "only architectures": (V3_SMALL | {"model_type": None, "architectures": ["DeepseekV3ForCausalLM"]}, V3_SMALL),
    "text_config": ({"model_type": "kimi_k25", "text_config": V3_SMALL | {"model_type": "kimi_k2"}}, V3_SMALL),
    "language_config": (
        {"model_type": "deepseek_vl_v2", "tie_word_embeddings": True, "language_config": V2},
        V2 | {"tie_word_embeddings": True},
    ),
    "OCR, without a type inside": ({"model_type": "deepseek_vl_v2", "language_config": OCR}, PLAIN),
    "what the class has anyway is left out": (
        {"model_type": "multi_modality", "language_config": JANUS},
        JANUS | LLAMA_CLASS,
    ),
    "no latent": (V2 | {"kv_lora_rank": None, "qk_rope_head_dim": 0, "v_head_dim": 0}, PLAIN),
    "use_mla is false": (V2 | {"use_mla": False}, PLAIN),
    "no groups": (V3_SMALL | {"n_group": None, "topk_group": None}, V3_SMALL),
    "no shared experts": (V3_SMALL | {"n_shared_experts": None}, V3_SMALL | {"n_shared_experts": 0}),
    "switches left open": (LLAMA | {"tie_word_embeddings": None, "attention_bias": None}, LLAMA),
    "numbers as text": (LLAMA | {"hidden_size": "16", "num_hidden_layers": 3.0}, LLAMA),
    "GLM's experts of another name": (RENAMED, GLM),
}


@pytest.mark.parametrize("case", WILD)
def test_configurations_from_the_wild_are_those_of_their_family(case):
    wild, plain = WILD[case]
    assert count_parameters(wild) == count_parameters(plain)
    assert kv_cache_bytes(wild, 9) == kv_cache_bytes(plain, 9)


def test_relatives_have_their_published_totals():
    glm = CONFIG_MAPPING["glm_moe_dsa"]()  # its defaults are GLM-5's shape, published as 744B
    assert round(count_parameters(glm).total / 1e9) == 744
    eight = SMALL["qwen3"] | {"vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 12288, "head_dim": 128}
    eight |= {"num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8}
    assert count_parameters(eight).total == 8_190_735_360  # Qwen3-8B on the hub


def test_deepseeks_own_inference_format():
    same = ("vocab_size", "n_routed_experts", "n_shared_experts", *LATENT)
    names = dict(zip(same, same, strict=True)) | {"dim": "hidden_size", "inter_dim": "intermediate_size"}
    names |= {
        "moe_inter_dim": "moe_intermediate_size",
        "n_layers": "num_hidden_layers",
        "n_heads": "num_attention_heads",
    }
    names |= {"n_dense_layers": "first_k_dense_replace", "n_activated_experts": "num_experts_per_tok"}
    own = {short: V3[name] for short, name in names.items()} | {"score_func": "sigmoid", "dtype": "fp8"}
    own |= {"n_expert_groups": 8, "n_limited_groups": 4}
    assert count_parameters(own) == count_parameters(V3 | {"num_nextn_predict_layers": 0})
    assert weight_bytes(own, "published") == weight_bytes(V3, "published")
    lite = PUBLISHED["DeepSeek-V2-Lite"]["config"]
    own = {short: lite[name] for short, name in names.items()} | {"q_lora_rank": 0}
    assert count_parameters(own).total == PUBLISHED["DeepSeek-V2-Lite"]["exact_total"]


def test_a_path_is_a_configuration(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(SMALL["deepseek_v3"]), encoding="utf-8")
    for path in (tmp_path, str(tmp_path), tmp_path / "config.json", str(tmp_path / "config.json")):
        assert count_parameters(path) == count_parameters(SMALL["deepseek_v3"])
    (tmp_path / "list.json").write_text("[1]", encoding="utf-8")
    (tmp_path / "half.json").write_text("{", encoding="utf-8")
    for name, message in (("list.json", "must be a JSON object"), ("half.json", "cannot be read as JSON")):
        with pytest.raises(ValueError, match=message) as raised:
            count_parameters(tmp_path / name)
        assert "\n" not in str(raised.value)


def test_a_configuration_object_around_a_language_model(tmp_path):
    outer = CONFIG_MAPPING["kimi_k25"](text_config=config_object(SMALL["deepseek_v3"]).to_dict())
    assert count_parameters(outer).total == count_parameters(SMALL["deepseek_v3"]).total


def test_what_no_field_tells_is_named():
    with pytest.raises(ValueError, match="'deepseek_v41': no field gives the shapes of its Engram"):
        count_parameters(PUBLISHED["DeepSeek-V4.1-Flash"]["config"])


# -------------------------------------------------------------------------------------- published number formats


def test_published_bytes_of_v3_are_those_of_its_files():
    scales = (weight_bytes(V3, "published") - weight_bytes(V3, "float8") - 4 * 58 * 256) / 4
    mtp = 256 * 3 * 56 * 16 + 3 * 56 * 16 + (672 + 2304 + 280 + 1024 + 7168)  # experts, shared, attention
    assert scales + mtp == 41_540_496  # the F32 elements of the published files, see the hub totals above
    pro, flash = (weight_bytes(PUBLISHED[f"DeepSeek-V4-{name}"]["config"], "published") for name in ("Pro", "Flash"))
    assert 850e9 < pro < 851e9 and 155e9 < flash < 157e9  # FP4 experts with a byte for 32, the rest in FP8
    assert weight_bytes(PUBLISHED["deepseek-llm-7b-base"]["config"], "published") == 2 * 6_910_365_696


@pytest.mark.parametrize(
    ("quantization", "bits"),
    [
        ({"quant_method": "awq", "bits": 4, "group_size": 8}, lambda i, o: 4 * i * o + 20 * o * -(-i // 8)),
        ({"quant_method": "gptq", "bits": 8, "group_size": -1}, lambda i, o: 8 * i * o + 24 * o + 32 * i),
        ({"quant_method": "fp8"}, lambda i, o: 8 * i * o + 32),
        ({"quant_method": "fp8", "weight_block_size": [8, 4]}, lambda i, o: 8 * i * o + 32 * -(-o // 8) * -(-i // 4)),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, lambda i, o: 8 * i * o + 32 * o),
        ({}, lambda i, o: 16 * i * o),
    ],
)
def test_quantized_bytes_of_a_small_model_by_hand(quantization, bits):
    config = {**SMALL["llama"], "quantization_config": quantization}
    matrices = [(16, 16), (16, 8), (16, 8), (16, 16), (16, 24), (16, 24), (24, 16)]  # (inputs, outputs)
    kept = 16 * (2 * 32 * 16 + 7 * 16)
    assert weight_bytes(config, "published") == -(-(kept + 3 * sum(bits(i, o) for i, o in matrices)) // 8)


def test_modules_that_are_named_stay_in_16_bit():
    int4 = {"weights": {"num_bits": 4, "type": "int", "group_size": 8, "strategy": "group"}}
    kept = ["lm_head", "re:.*self_attn.*", "re:.*shared_experts.*", r"re:.*mlp\.(gate|up|gate_up|down)_proj.*"]
    for quantization in (
        {"quant_method": "compressed-tensors", "config_groups": {"group_0": int4}, "ignore": kept},
        {"quant_method": "awq", "bits": 4, "group_size": 8, "modules_to_not_convert": ["self_attn", "shared_experts"]},
    ):
        found = formats.weight_formats({**SMALL["deepseek_v3"], "quantization_config": quantization})
        assert found["routed_experts"].name == "int4"
        assert found["attention"].name == found["shared_experts"].name == found["router"].name == "bfloat16"
    assert found["dense_ffn"].name == "int4"
    with pytest.raises(ValueError, match="quant_method = 'aqlm': must be fp8, bitsandbytes, awq"):
        weight_bytes({**SMALL["llama"], "quantization_config": {"quant_method": "aqlm"}}, "published")


def test_the_packed_cache_has_the_bytes_of_deepseeks_kernels():
    v32, flash = PUBLISHED["DeepSeek-V3.2"]["config"], PUBLISHED["DeepSeek-V4-Flash"]["config"]
    assert kv_cache_bytes(V3, 1, dtype="fp8_ds_mla") == 61 * 656
    assert kv_cache_bytes(v32, 1, dtype="fp8_ds_mla") == 61 * (656 + 132)
    assert 3.4e9 < kv_cache_bytes(flash, 1_000_000, dtype="fp8_ds_mla") < 3.6e9 < kv_cache_bytes(flash, 1_000_000) / 1.9
    with pytest.raises(ValueError, match="fp8_ds_mla is a layout of latents; llama caches keys and values"):
        kv_cache_bytes(SMALL["llama"], 1, dtype="fp8_ds_mla")


# ------------------------------------------------------------------------------------------------------- prompts


@pytest.mark.parametrize("family", FAMILIES)
def test_a_prompt_costs_the_sum_of_its_tokens_or_less(family):
    @many(15)
    @given(FAMILIES[family], st.integers(1, 40))
    def check(config, tokens):
        steps = [flops_per_token(config, cached).attention for cached in range(tokens)]
        prompt = 2 * sum(layer.prompt(tokens) for layer in architecture.attentions(shapes.read(config)))
        assert prompt <= sum(steps)
        if family not in shapes.MLA:  # MLA expands once what decoding absorbs anew
            assert prompt == sum(steps)

    check()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_reads_what_it_caches_or_what_its_indexer_selects(family):
    @many(15)
    @given(FAMILIES[family], st.integers(0, 60))
    def check(config, tokens):
        for layer in architecture.attentions(shapes.read(config)):
            read, held = layer.read(tokens), layer.held(tokens)
            assert read[0] <= held[0] and read[1] <= held[1]
            if family not in (*shapes.DSA, "deepseek_v4"):
                assert read == held

    check()
