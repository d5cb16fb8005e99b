"""The planner: its bytes against the calculators, its bounds against arithmetic by hand, and its errors."""

import itertools
import json
import math
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import CONFIG_MAPPING

from utils import __main__ as cli
from utils import architecture, catalog, deployments, planner
from utils.cards import parse_card, parse_hardware
from utils.errors import InputError
from utils.planner import HARDWARE, Hardware, plan

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
    ({"cache": "published"}, "no precision 'published'; there are fp8_ds_mla, float32, bfloat16, .*int4"),
    ({"hardware": "1000000000xH200"}, "number of cards must be at most 100,000; got 1,000,000,000"),
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
    with pytest.raises(InputError, match=message):
        plan(**{"model": "DeepSeek-V3", "hardware": "8xH200"} | changes)


@pytest.mark.parametrize("memory", [0, -1.0, None, math.inf, math.nan, "80", True])
def test_hardware_without_memory_is_refused(memory):
    with pytest.raises(InputError, match="mine needs its memory in bytes, more than 0"):
        Hardware("mine", memory, 1e12, {"bfloat16": 1e12}, "me")


def test_an_unknown_model_suggests_a_known_one():
    with pytest.raises(KeyError, match="no DeepSeek model is called 'DeepSeek-V9'"):
        plan("DeepSeek-V9", "H200")


def test_the_shell_prints_a_table_and_json(capsys):
    words = ["plan", "DeepSeek-V3", "--hardware", "8xH100", "--precision", "float8"]
    assert cli.main(words) == 0
    printed = capsys.readouterr().out
    assert "no split leaves room on every card; cards needed at least: 10" in printed
    assert "fullest card, expert split" in printed and "(an estimate: sums were 0.9" in printed
    assert cli.main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == asdict(plan("DeepSeek-V3", "8xH100", "float8"))
    assert cli.main(["plan", "DeepSeek-V3", "--hardware", "8xA100-80GB", "--precision", "float5"]) == 2
    assert "no precision 'float5'" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------- against the world

V3 = catalog.get("DeepSeek-V3").config
K2, AWQ = deployments.model("Kimi-K2"), deployments.model("DeepSeek-V3-AWQ")
DOCUMENTED = deployments.documented()


def test_enough_is_documented_with_a_source():
    assert (
        len(DOCUMENTED) >= 30
        and sum(run.miss is not None for run in DOCUMENTED) <= 1
        and sum(not run.runs for run in DOCUMENTED) >= 6
    )
    assert all(run.source for run in [*DOCUMENTED, *deployments.measured_memory(), *deployments.measured_speeds()])


@pytest.mark.parametrize("run", DOCUMENTED, ids=lambda run: f"{run.model} on {run.request['hardware']}")
def test_documented_deployments(run):
    assert (plan(**run.request).fits == run.runs) == (run.miss is None), run.source


def test_documented_speeds_stay_below_the_bounds():
    for run in deployments.measured_speeds():
        assert plan(**run.request).tokens_per_second > run.speed, run.source
    service = plan("DeepSeek-V3", "144xH800", context=4989, batch=144 * 64, split="data 144")
    assert 14_800 < service.tokens_per_second / 18 < 69_000  # open-infra-index, day 6: a node
    assert plan("DeepSeek-R1-Distill-Qwen-32B", "RTX4090", "int4", 131_072).cache == 34_359_738_368  # an error's words


def test_measured_memory_of_plain_code():
    runs = deployments.measured_memory()
    assert len(runs) == 50
    refused, ratios = [], []
    for run in runs:
        made, fitted = plan(**run.request), run.request["batch"] <= 4  # the planner's constants come from these
        if run.memory:
            ratios.append(made.fullest / run.memory)
            assert (0.97 if fitted else 1) < ratios[-1] < (1.11 if fitted else 1.24), run
        if made.fits != run.runs:
            refused.append((run.model.split("-")[2], made.batch, made.context))
    assert refused == [("7b", 8, 2048), ("7b", 16, 1024), ("67b", 16, 1024)]
    assert (round(min(ratios), 2), round(max(ratios), 2)) == planner.AGAINST_MEASURED


CARD = deployments.measured_on_a_card()


def test_peaks_measured_on_a_card_are_the_server_s_plan_and_the_logits():
    rows = [row for row in CARD["memory"] if row.get("attention") == "sdpa"]
    assert len(rows) == 18 and {row["model"] for row in rows} >= {"deepseek-llm-7b-base", "DeepSeek-V2-Lite"}
    for row in rows:
        need = planner.plan(row["model"], "H200", context=row["context"], batch=row["batch"]).fullest
        logits = 2 * row["batch"] * row["context"] * catalog.get(row["model"]).config["vocab_size"]
        assert 0.98 < (need + logits) / row["allocated"] < 1.03, row


def test_no_speed_measured_on_a_card_is_above_its_bound():
    formats = {"FP32": "float32", "BF16": "bfloat16", "FP8": "float8", "4 bits, torch": "int4"}
    rows = [row for row in CARD["decoding"] if row["route"] in formats and "milliseconds" in row]
    assert {row["way"] for row in rows} == {"library", "kernels", "graph"}
    for row in rows:
        most = planner.plan(row["model"], "H200", formats[row["route"]], context=512, batch=row["batch"])
        assert 1000 * row["batch"] / row["milliseconds"][0] < most.tokens_per_second, row


def test_a_layer_on_a_card_uses_as_many_experts_as_expected():
    for row in CARD["experts"]:
        assert row["used"] == pytest.approx(planner.touched_experts(256, 8, row["tokens"]), rel=0.03)


# --------------------------------------------------------------------------------------------- splits and bounds

REQUESTS = st.tuples(
    st.sampled_from(["DeepSeek-V3", "DeepSeek-V3.2", "DeepSeek-V4-Flash", "DeepSeek-V2-Lite", "deepseek-llm-67b-base"]),
    st.sampled_from([1, 2, 6, 8, 16, 24]),
    st.sampled_from([512, 4096, 60_000]),
    st.integers(1, 200),
)


@settings(max_examples=25, derandomize=True, deadline=None, database=None)
@given(REQUESTS)
def test_every_split_holds_all_and_none_is_faster_than_all_cards_together(request):
    name, cards, context, batch = request
    model = planner.open_model(name)[1]
    context = min(context, model["max_position_embeddings"])
    best = plan(name, f"{cards}xH200", context=context, batch=batch)
    ready = planner._Job(model, "published", "bfloat16", HARDWARE["H200"], context, context, batch)
    assert best.split in map(ready.name, ready.splits(cards))
    whole = architecture.weight_bytes(model, "published") - 4 * architecture.count_parameters(model).router_bias
    for split in ready.splits(cards):
        step, floor = (ready.step(split, context, same_experts=same)[0] for same in (False, True))
        assert math.prod(split) == cards
        assert ready.fullest(split) * cards >= whole * 0.999 + best.cache
        if ready.fullest(split) <= best.room:
            assert best.fits and (best.step_seconds <= step or split.tensor > 8)
        used = ready.read_bytes(planner.Split(1, 1, 1), 1) / (cards * 4.8e12)
        assert step >= floor >= used * 0.999
        assert ready.prefill(split, batch)[0] >= ready.prefill(split, 1)[0] * 0.999
    if best.cards_needed is not None and best.fits:
        assert best.cards_needed <= cards


def test_what_fits_is_one_card_more_than_what_does_not():
    for request_, options in (
        (("DeepSeek-V3", "H100", "float8"), {"context": 65_536, "batch": 32}),
        (("deepseek-llm-67b-base", "A100-40GB"), {}),
    ):
        needed = plan(*request_, **options).cards_needed
        assert plan(*request_, cards=needed, **options).fits
        assert not plan(*request_, cards=needed - 1, **options).fits


def test_expert_parallel_cards_read_the_rest_each():
    made = plan("DeepSeek-V3", "320xH100", "float8", context=4096, batch=320 * 32, split="expert 320")
    count = architecture.count_parameters(V3)
    experts = 58 * 3 * 7168 * 2048 * 256 * (1 - (1 - 8 / 256) ** (320 * 32)) / 320
    rest = architecture.weight_bytes(V3, "float8") - count.routed_experts - 2 * count.embedding
    cache = 32 * architecture.kv_cache_bytes(V3, 4096)
    assert made.step_seconds == pytest.approx((experts + rest + cache) / 3.35e12)
    assert made.split == "data 320, experts over 320"


def test_a_sparse_step_reads_index_keys_and_what_they_select():
    made = plan("DeepSeek-V3.2", "8xH200", context=131_072, batch=32, split="data 8", cache="fp8_ds_mla")
    dense = plan("DeepSeek-V3", "8xH200", context=131_072, batch=32, split="data 8")
    read = 61 * (2048 * 656 + 131_072 * 132) * 4 / 4.8e12
    longer = plan("DeepSeek-V3.2", "8xH200", context=65_536, batch=32, split="data 8", cache="fp8_ds_mla")
    assert made.step_seconds - longer.step_seconds == pytest.approx(61 * 65_536 * 132 * 4 / 4.8e12)
    assert read < made.step_seconds < dense.step_seconds


def test_prompts_take_the_cheaper_form_of_mla():
    made = plan("DeepSeek-V3", "8xH200", "float8", context=131_072)
    absorbed = 131_072 * architecture.flops_per_token(V3, 65_536).total / (8 * 1979e12)
    assert made.first_token_seconds < absorbed
    assert made.prefill_bound == "arithmetic"


@pytest.mark.parametrize(("quantization", "share"), [({}, 1 / 3), ({"quant_method": "fp8"}, 1 / 3), (None, 22 / 64)])
def test_a_tensor_split_cuts_experts_in_whole_blocks_of_scales_or_deals_them_out(quantization, share):
    if quantization is None:  # 1,440 columns are no three times 128
        quantization = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    shape = {"hidden_size": 3072, "num_attention_heads": 12, "num_key_value_heads": 12, "moe_intermediate_size": 1440}
    config = catalog.get("DeepSeek-V2-Lite").config | shape | {"quantization_config": quantization}
    job, kinds = planner._Job(config, "published"), ("full_attention", "moe")
    routed = job.formats["routed_experts"].bits(job.blocks[kinds]["routed_experts"]) / 8
    tensor_only, over_six = job.layer_bytes(kinds, 3, 3), job.layer_bytes(kinds, 3, 6)  # the rest is cut alike
    assert tensor_only - over_six == pytest.approx(routed * (share - 11 / 64))


def test_links_only_slow_down():
    free = plan("DeepSeek-V3", "8xH200", batch=64)
    slow = plan("DeepSeek-V3", "8xH200", batch=64, link=1e9)
    assert slow.step_bound == slow.prefill_bound == "links" and slow.step_seconds > free.step_seconds
    assert plan("DeepSeek-V3", "H200", link=1e9).step_bound == "memory"


def test_cost_is_cards_times_price_times_time():
    made = plan("deepseek-llm-7b-base", "A100-40GB", batch=4, price=2.0)
    assert made.cost == pytest.approx(2.0 / 3600 * 1e6 / made.tokens_per_second)
    whole = plan("deepseek-llm-7b-base", "A100-40GB", batch=4, price=2.0, answer=512)
    assert whole.cost > whole.prefill_seconds / (4 * 512) * 2.0 / 3600 * 1e6
    assert plan("deepseek-llm-7b-base", "A100-40GB").cost is None


@pytest.mark.parametrize("text", ["tensor 4", "tensor 3 x data 2", "everything", "tensor 16", 8])
def test_a_split_must_be_one_of_the_cards_and_the_model(text):
    with pytest.raises(InputError, match="split"):
        plan("DeepSeek-V3", "8xH200", split=text)


# -------------------------------------------------------------------------------------------------------- cards


def test_every_card_has_a_source_and_numbers_in_order():
    wanted = "A100-40GB A100-80GB H100 H800 H20 H200 B200 L40S L4 T4 RTX4090 RTX5090 MI300X laptop"
    assert set(wanted.split()) <= set(HARDWARE)
    for card in HARDWARE.values():
        assert card.source and card.room < card.memory
        assert card.status in ("seen_primary", "seen_secondary", "derived", "memory_unverified")
        assert 1 < card.speed("bfloat16") / card.bandwidth < 700
        assert card.speed("int4") == card.speed("bfloat16") == card.speed("float16")


def test_weights_run_in_the_next_wider_arithmetic():
    a100, b200, t4 = (HARDWARE[name] for name in ("A100-80GB", "B200", "T4"))
    assert a100.speed("float8") == 312e12 and a100.speed("int8") == 624e12  # W8A16
    assert b200.speed("float4") == 9e15 and HARDWARE["H100"].speed("float4") == 1979e12
    assert t4.speed("bfloat16") == 65e12
    assert plan("DeepSeek-V3", "16xA100-80GB", "float8").fits


def test_a_card_of_ones_own(capsys):
    card = parse_card("name=mine,memory=24e9,bandwidth=1e12,bf16=1e14,fp8=2e14")
    assert card == Hardware("mine", 24e9, 1e12, {"bfloat16": 1e14, "float8": 2e14})
    words = ["plan", "DeepSeek-V2-Lite", "--card", "name=mine,memory=24e9,bandwidth=1e12,bf16=1e14", "--cards", "2"]
    assert cli.main(words) == 0 and "2xmine" in capsys.readouterr().out
    assert cli.main([*words, "--hardware", "H200"]) == 2
    assert "both name cards" in capsys.readouterr().err
    for bad in ("memory=24e9", "memory=24,bandwidth=1,bf16=x", "24", "memory=24e9,bandwidth=1e12", "memory=1,x=2"):
        assert cli.main(["plan", "DeepSeek-V2-Lite", "--card", bad]) == 2
        assert len(capsys.readouterr().err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "peak", [{}, None, {"bfloat16": 0}, {"bfloat16": -1.0}, {"bfloat16": "fast"}, {"fp5": 1}, {"int8": 1}]
)
def test_hardware_without_arithmetic_is_refused(peak):
    with pytest.raises(InputError, match=r"mine needs (its|a) peak|no precision 'fp5'"):
        Hardware("mine", 1e9, 1e9, peak)


def test_numbers_of_numpy_and_files_are_welcome(tmp_path):
    assert plan("DeepSeek-V3", "8xH200", context=np.int64(4096), batch=np.int32(2)).batch == 2
    folder = tmp_path / "Kimi"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(K2), encoding="utf-8")
    made = plan(folder, "16xH200")
    assert made == plan(str(folder / "config.json"), "16xH200") and made.model == "Kimi"
    json.dumps(asdict(made))


def test_the_published_form_is_planned_from_the_shell(capsys):
    assert cli.main(["plan", "DeepSeek-V4-Pro", "--hardware", "8xH200", "--price", "2"]) == 0
    printed = capsys.readouterr().out
    assert all(text in printed for text in ("it fits: tensor 8", "850.43 GB", " 0.05 GB", "cost at least"))
    assert cli.main(["params", "DeepSeek-V4-Pro", "--dtype", "published"]) == 0
    assert "850,433," in capsys.readouterr().out
