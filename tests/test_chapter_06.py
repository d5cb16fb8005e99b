"""What chapter 06 builds in its cells, against bitsandbytes, transformers and accelerate."""

import logging
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lifting import lift
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    DeepseekV3Config,
    LlamaConfig,
)

from utils import architecture, catalog, models

logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
import bitsandbytes  # noqa: E402

to_int8, llm_int8, library_layer = lift("06", "to_int8", "llm_int8", "library_layer")
eight_bit_bytes, room, budget, job = lift("06", "eight_bit_bytes", "room", "budget", "job")
written_out, bytes_per_token, inner_width, with_layers = lift(
    "06", "written_out", "bytes_per_token", "inner_width", "with_layers"
)
PUBLISHED, PUBLISHED_67B, LENGTHS, TABLE_1 = lift("06", "PUBLISHED", "PUBLISHED_67B", "LENGTHS", "TABLE_1")
fits, CARD = lift("06", "fits", "CARD")
SIZES, SEEDS = st.integers(1, 24), st.integers(0, 2**31)


def half(rows: int, columns: int, seed: int, outliers: int = 0, size: float = 40.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, columns, generator=generator)
    x[:, :outliers] += size * torch.randn(rows, outliers, generator=generator).sign()
    return x.half()


@settings(deadline=None, max_examples=60)
@given(SIZES, SIZES, st.integers(0, 2**31))
def test_codes_and_scales_are_bitsandbytes(rows, columns, seed):
    x = half(rows, columns, seed)
    codes, absmax = to_int8(x)
    theirs, their_absmax, _ = bitsandbytes.functional.int8_vectorwise_quant(x.clone())
    assert torch.equal(codes, theirs)
    assert torch.equal(absmax, their_absmax)


def test_a_row_of_zeros_has_codes_of_zero():
    codes, _ = to_int8(torch.zeros(2, 5).half())
    assert codes.tolist() == [[0] * 5] * 2


@settings(deadline=None, max_examples=60)
@given(
    SIZES, SIZES, st.integers(8, 64), st.integers(0, 6), st.sampled_from([0.0, 1.5, 6.0, 100.0]), st.integers(0, 2**31)
)
def test_own_llm_int8_is_bitsandbytes_layer(tokens, outputs, features, outliers, threshold, seed):
    x, weight = half(tokens, features, seed, outliers), half(outputs, features, seed + 1)
    ours = llm_int8(x, *to_int8(weight), threshold)
    theirs = library_layer(weight, threshold)(x).float()
    # float16 rounds the library's two parts apart; they may be large and cancel.
    size = (x.float().abs() @ weight.float().abs().T).max()
    assert (ours - theirs).abs().max() <= 1e-3 * size


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 16), st.integers(16, 48), st.integers(0, 2**31))
def test_the_split_brings_the_product_closer_to_the_exact_one(tokens, features, seed):
    x, (codes, absmax) = half(tokens, features, seed, outliers=2, size=200.0), to_int8(half(8, features, seed + 1))
    exact = x.float() @ (codes * (absmax / 127)[:, None]).T  # of the quantized weights, so that only inputs differ
    split, whole = (llm_int8(x, codes, absmax, threshold) for threshold in (6.0, 0.0))
    assert (split - exact).norm() < (whole - exact).norm() / 2


@pytest.mark.parametrize("threshold", [-6.0, -0.001])
def test_a_negative_threshold_is_an_error(threshold):
    with pytest.raises(ValueError, match=rf"threshold must be 0 .* got {threshold}"):
        llm_int8(torch.zeros(2, 4).half(), *to_int8(torch.zeros(3, 4).half()), threshold)


# ------------------------------------------------------------------------------------ sizes after 8-bit loading


def tiny(kind: str):
    common = {
        "vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 3, "intermediate_size": 48,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
    }  # fmt: skip
    if kind == "deepseek":
        return DeepseekV3Config(
            **common | {"num_key_value_heads": 4}, first_k_dense_replace=1, q_lora_rank=12, kv_lora_rank=16,
            qk_nope_head_dim=8, qk_rope_head_dim=8, v_head_dim=8, moe_intermediate_size=16, n_routed_experts=8,
            num_experts_per_tok=2, n_shared_experts=1, n_group=2, topk_group=1, num_mtp_layers=0,
        )  # fmt: skip
    return LlamaConfig(**common, tie_word_embeddings=kind == "tied llama")


@pytest.mark.parametrize("kind", ["llama", "tied llama", "deepseek"])
def test_planned_bytes_are_the_loaded_models(kind, tmp_path):
    AutoModelForCausalLM.from_config(tiny(kind)).half().save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(
        tmp_path,
        dtype=torch.float16,
        device_map="auto",
        local_files_only=True,
        quantization_config=BitsAndBytesConfig(load_in_8bit=True),
    )
    counted = sum(p.numel() * p.element_size() for p in loaded.parameters())
    assert eight_bit_bytes(loaded.config) == counted
    if kind == "deepseek":
        experts = [p.dtype for name, p in loaded.named_parameters() if job(name) == "routed experts"]
        assert experts and set(experts) == {torch.float16}
        assert eight_bit_bytes(loaded.config, fused_experts=False) < counted


def test_the_mini_deepseek_is_planned_to_the_byte():
    config = AutoConfig.from_pretrained(models.MINI, local_files_only=True)
    count = architecture.count_parameters(config)
    kept = count.embedding + count.lm_head + count.norms + count.router + count.routed_experts
    assert eight_bit_bytes(config) == count.total + kept


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.embed_tokens.weight", "embedding"),
        ("lm_head.weight", "head"),
        ("model.layers.3.mlp.experts.gate_up_proj", "routed experts"),
        ("model.layers.3.mlp.gate.weight", "router"),
        ("model.layers.3.mlp.gate_proj.weight", "projections"),
        ("model.layers.3.mlp.shared_experts.gate_proj.weight", "projections"),
        ("model.layers.3.self_attn.kv_a_layernorm.weight", "norms"),
    ],
)
def test_every_parameter_has_its_job(name, expected):
    assert job(name) == expected


# ---------------------------------------------------------------------------------------------------- plans


def test_the_published_measurements_are_met():
    config = catalog.get("deepseek-llm-7b-base").config
    cases = [(b, t, seen) for b, row in PUBLISHED.items() for t, seen in zip(LENGTHS, row, strict=True)]
    assert len(cases) == 25 and sum(seen is None for *_, seen in cases) == 4
    for batch, context, seen in cases:
        planned = written_out(config, context, batch) / 2**30
        assert planned > 40 if seen is None else planned == pytest.approx(seen, rel=0.10)


def test_the_held_out_measurements_are_met_within_fifteen_percent_and_every_failure_foretold():
    config = catalog.get("deepseek-llm-67b-base").config
    cases = [(b, t, seen) for b, row in PUBLISHED_67B.items() for t, seen in zip(LENGTHS, row, strict=True)]
    assert len(cases) == 25 and sum(seen is None for *_, seen in cases) == 6
    for batch, context, seen in cases:
        planned = written_out(config, context, batch, cards=8) / 2**30
        assert planned > 40 if seen is None else planned == pytest.approx(seen, rel=0.15)


def test_cards_share_weights_and_cache_but_not_the_scores():
    config = catalog.get("deepseek-llm-7b-base").config
    kept = architecture.weight_bytes(config) + architecture.kv_cache_bytes(config, 512, 4)
    assert written_out(config, 512, 4) - written_out(config, 512, 4, cards=8) == pytest.approx(kept * 7 / 8)


def test_a_plan_that_hangs_on_the_estimate_cannot_be_told(monkeypatch):
    shape = with_layers("DeepSeek-R1-Distill-Qwen-32B")
    monkeypatch.setitem(fits.__globals__, "shapes", {"GQA": shape})
    left = CARD - eight_bit_bytes(shape)
    surely, perhaps = (int(left / bytes_per_token(shape, safety)) for safety in (2, 1))
    assert surely < perhaps
    answers = [fits("GQA", tokens) for tokens in (1, surely, surely + 1, perhaps, perhaps + 1)]
    assert answers == [True, True, None, None, False]
    assert [fits("GQA", batch * 4096) for batch in (1, 8, 32)] == [True, None, False]


def test_the_papers_table_tells_a_scale_for_a_matrix_from_vector_wise_scales():
    assert TABLE_1["absmax"][-1] == 19.08 and TABLE_1["vector-wise"][-1] == 16.48
    assert TABLE_1["absmax"][0] == 87.76 and TABLE_1["32-bit float"] == (25.65, 15.91, 14.43, 13.30, 12.45)


def test_what_does_not_fit_says_what_is_missing():
    assert room(30e9, 40e9) == 10e9
    assert room(40e9, 40e9) == 0
    with pytest.raises(ValueError, match=r"673\.0 GB do not fit into 640\.0 GB: 33\.0 GB are missing"):
        room(673e9, 640e9)
    for memory in (0, -1e9):
        with pytest.raises(ValueError, match=r"more than 0 GB of memory; got"):
            room(1, memory)


@pytest.mark.parametrize("megabytes", [0, -5])
def test_a_budget_of_nothing_is_an_error(megabytes):
    with pytest.raises(ValueError, match=rf"more than 0 MB; got {megabytes} MB"):
        budget(megabytes)


def test_a_budget_names_this_machines_devices():
    assert sum(budget(300).values()) == 300_000_000


def test_a_model_that_nobody_published_is_an_error():
    for name in ("deepseek/deepseek-13b", "deepseek/deepseek-24b"):
        with pytest.raises(KeyError, match=f"no DeepSeek model is called '{name}'"):
            catalog.get(name)


def test_the_24_b_shapes_are_near_24_billion_and_differ_in_layers_alone():
    for name in ("DeepSeek-R1-Distill-Qwen-32B", "DeepSeek-V2-Lite"):
        config = with_layers(name)
        assert architecture.count_parameters(config).total == pytest.approx(24e9, rel=0.03)
        changed = {key for key, value in config.items() if value != catalog.get(name).config[key]}
        assert changed == {"num_hidden_layers"}


def test_every_token_costs_its_cache_and_its_activations():
    config = catalog.get("deepseek-llm-7b-base").config
    cache = architecture.kv_cache_bytes(config, 1)
    assert bytes_per_token(config) == cache + 8 * 11008 + 5 * 4096
    assert bytes_per_token(config, safety=2) - cache == 2 * (bytes_per_token(config) - cache)
    assert inner_width(catalog.get("DeepSeek-V2-Lite").config) == (6 + 2) * 1408
    assert math.isclose(inner_width(config), 11008)
