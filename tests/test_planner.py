"""The planner: its bytes against the calculators, its bounds against arithmetic by hand, and its errors."""

import itertools
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import CONFIG_MAPPING

from utils import __main__ as cli
from utils import architecture, catalog, planner
from utils.planner import HARDWARE, Hardware, PlanError, parse_hardware, plan

COUNTED = [model.name for model in catalog.models() if model.exact_total]


@pytest.mark.parametrize("name", COUNTED)
def test_sixteen_bit_weights_are_those_of_the_calculator(name: str):
    config = catalog.get(name).config
    made = plan(name, "8xH200", "bf16", context=1024, batch=2)
    assert made.weights == architecture.weight_bytes(config)
    assert made.cache == architecture.kv_cache_bytes(config, 1024, 2)
    assert made.needed == made.weights + made.cache + made.activations
    assert made.fits == (made.fullest <= made.room) and made.fullest * 8 >= made.weights + made.cache
    if made.fits:
        assert made.cards_needed <= 8 and made.needed <= made.memory


def test_eight_bit_halves_the_layers_and_nothing_else():
    count = architecture.count_parameters(catalog.get("DeepSeek-V3").config)
    kept = count.embedding + count.lm_head + count.norms + count.router
    assert plan("DeepSeek-V3", "H200", "float8").weights == count.total + kept


@given(st.integers(1, 300), st.data())
def test_touched_experts_lie_between_one_tokens_choice_and_all(experts, data):
    chosen, tokens = data.draw(st.integers(1, experts)), data.draw(st.integers(1, 500))
    touched = planner.touched_experts(experts, chosen, tokens)
    assert chosen - 1e-6 <= touched <= experts
    assert planner.touched_experts(experts, chosen, 1) == pytest.approx(chosen)


def test_one_token_reads_the_activated_parameters():
    for name in ("DeepSeek-V3", "DeepSeek-V2-Lite", "deepseek-llm-7b-base"):
        config = catalog.get(name).config
        count = architecture.count_parameters(config)
        assert planner.read_bytes(config, "bfloat16", 1) == pytest.approx(2 * count.activated(include_head=True))


def test_the_bounds_are_those_computed_by_hand():
    config, card = catalog.get("deepseek-llm-7b-base").config, HARDWARE["A100-40GB"]
    made = plan("deepseek-llm-7b-base", "A100-40GB", context=4096, batch=1)
    assert made.step_seconds == pytest.approx((planner.read_bytes(config, "bfloat16", 1) + made.cache) / card.bandwidth)
    assert (made.step_bound, made.prefill_bound) == ("memory", "arithmetic")
    steps = [architecture.flops_per_token(config, cached) for cached in range(4096)]
    head = 2 * config["hidden_size"] * config["vocab_size"]
    flops = sum(step.total for step in steps) - 4095 * head  # only the last token needs logits
    assert made.prefill_seconds == made.first_token_seconds == pytest.approx(flops / 312e12)
    assert made.tokens_per_second == pytest.approx(1 / made.step_seconds)


@pytest.mark.parametrize("name", ["DeepSeek-V3", "DeepSeek-V2-Lite", "DeepSeek-R1-Distill-Qwen-7B"])
def test_a_configuration_of_transformers_plans_as_its_file_does(name: str):
    published = catalog.get(name).config
    loaded = CONFIG_MAPPING[published["model_type"]].from_dict(published)
    assert plan(loaded, "8xH200", "float8", 4096, 8) == plan(published, "8xH200", "fp8", 4096, 8)


def test_short_names_of_formats_are_understood():
    assert plan("DeepSeek-V2", "8xH100", "bf16") == plan("DeepSeek-V2", "8xH100", "bfloat16")


def test_more_cards_are_never_slower_and_never_hold_more():
    plans = [plan("DeepSeek-V2", f"{cards}xH100", context=8192, batch=16) for cards in (1, 2, 4, 8)]
    for fewer, more in itertools.pairwise(plans):
        assert more.step_seconds < fewer.step_seconds
        assert all(more.per_card[split] <= fewer.per_card[split] for split in more.per_card)


def test_on_one_card_every_split_holds_all():
    for name in ("DeepSeek-V2-Lite", "deepseek-llm-67b-base"):
        made = plan(name, "H200", context=2048, batch=4)
        assert made.split == "one card" and len(made.per_card) == 3
        assert set(made.per_card.values()) == {made.fullest} and abs(made.fullest - made.needed) <= 1


def test_a_tensor_split_cannot_deal_out_the_latent():
    few, many = (plan("DeepSeek-V3", "8xH200", "float8", batch=batch) for batch in (1, 64))
    assert many.per_card["tensor"] - few.per_card["tensor"] > many.cache - few.cache
    dense = [plan("deepseek-llm-67b-base", "8xH200", batch=batch) for batch in (1, 65)]
    assert dense[1].per_card["tensor"] - dense[0].per_card["tensor"] < (dense[1].cache - dense[0].cache) / 7


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *[
            ("H200", (1, "H200")),
            ("8xh200", (8, "H200")),
            ("16 x H100", (16, "H100")),
            ("2×A100-40GB", (2, "A100-40GB")),
        ],
        *[("RTX 4090", (1, "RTX4090")), ("2x rtx-4090", (2, "RTX4090")), ("4*A100-80GB", (4, "A100-80GB"))],
        ("8x A100 40GB", (8, "A100-40GB")),
    ],
)
def test_hardware_is_read(text, expected):
    number, card = parse_hardware(text)
    assert (number, card.name) == expected


BAD = [
    ({"hardware": "8xH900"}, r"no hardware 'H900'; there are A100-40GB, .*laptop"),
    ({"hardware": "8 of H100"}, "hardware must look like H200 or 8xH200"),
    ({"hardware": "0xH100"}, "number of cards must be a whole number of at least 1; got 0"),
    ({"cards": -2}, "number of cards must be a whole number of at least 1; got -2"),
    ({"precision": "fp5"}, "no precision 'fp5'; there are published, float32, bfloat16, .*int4"),
    ({"precision": None}, "no precision None; there are published"),
    ({"cache": "fp5"}, "no precision 'fp5'"),
    ({"model": None}, "model must be a name, a config.json, .*; got None"),
    ({"hardware": None}, "hardware must be text such as 8xH200, or a Hardware; got None"),
    ({"cards": 4}, "number of cards is 8 in '8xH200' and 4 beside it"),
    ({"answer": 4096}, "answer is 4,096 tokens of a context of 4,096"),
    ({"link": 0}, "link must be a number above 0; got 0"),
    ({"price": "2"}, "price must be a number above 0; got '2'"),
    ({"context": 10**9}, "context is 1,000,000,000 tokens; DeepSeek-V3 reads at most"),
    ({"context": 0}, "context must be a whole number of at least 1; got 0"),
    ({"batch": 0}, "batch must be a whole number of at least 1; got 0"),
    ({"batch": 2.5}, "batch must be a whole number of at least 1; got 2.5"),
]


@pytest.mark.parametrize(("changes", "message"), BAD)
def test_bad_input_names_what_is_allowed(changes, message):
    with pytest.raises(PlanError, match=message):
        plan(**{"model": "DeepSeek-V3", "hardware": "8xH200"} | changes)


@pytest.mark.parametrize("memory", [0, -1.0, None, math.inf, math.nan, "80", True])
def test_hardware_without_memory_is_refused(memory):
    with pytest.raises(PlanError, match="mine needs its memory in bytes, more than 0"):
        Hardware("mine", memory, 1e12, {"bfloat16": 1e12}, "me")


def test_an_unknown_model_suggests_a_known_one():
    with pytest.raises(KeyError, match="no DeepSeek model is called 'DeepSeek-V9'"):
        plan("DeepSeek-V9", "H200")


def test_the_shell_prints_a_table_and_json(capsys):
    words = ["plan", "DeepSeek-V3", "--hardware", "8xH100", "--precision", "float8"]
    assert cli.main(words) == 0
    printed = capsys.readouterr().out
    assert "no split leaves room on every card; cards needed at least: 10" in printed
    assert "fullest card, expert split" in printed and "(an estimate)" in printed
    assert cli.main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == plan("DeepSeek-V3", "8xH100", "float8").record()
    assert cli.main(["plan", "DeepSeek-V3", "--hardware", "8xA100-80GB", "--precision", "float5"]) == 2
    assert "no precision 'float5'" in capsys.readouterr().err
