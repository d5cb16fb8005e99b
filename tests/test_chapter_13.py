"""What chapter 13 builds in its cells, against transformers and against exact values."""

import copy
import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lifting import lift, notebook_path
from tiny_v3 import TINY_V3
from transformers import AutoModelForCausalLM, DeepseekV3Config, LlamaConfig

from utils import architecture, claims, measure

chosen_experts, parameters_used = lift("13", "chosen_experts", "parameters_used")
first_layers, fit_shortcut, first_exit, self_speculate, speed_up = lift(
    "13", "first_layers", "fit_shortcut", "first_exit", "self_speculate", "speed_up"
)
nested, slice_out, use_width, SIZES, NestedMLP = lift("13", "nested", "slice_out", "use_width", "SIZES", "NestedMLP")
train, tiny = lift("13", "train", "tiny")
by_difficulty, works = lift("13", "by_difficulty", "works")
SEEDS = st.integers(0, 2**31)


def llama(layers: int = 5, width: int = 256, seed: int = 0):
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=97, hidden_size=32, num_hidden_layers=layers, intermediate_size=width, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, initializer_range=0.2, bos_token_id=None,
        eos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config).eval()


def mixture(seed: int, **changes):
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(
        DeepseekV3Config(**TINY_V3 | {"vocab_size": 97} | changes), experts_implementation="eager"
    ).eval()


# ------------------------------------------------------------------------------------------ what a token uses


@pytest.mark.parametrize("k", [2, 3, 4])
@pytest.mark.parametrize("length", [1, 5, 40])
def test_each_token_uses_what_the_formula_says_whatever_the_length(k: int, length: int):
    model = mixture(k, num_experts_per_tok=k)
    chosen = chosen_experts(model, torch.randint(97, (1, length)))
    expected = architecture.count_parameters(model.config).activated(include_embedding=True, include_head=True)
    assert list(chosen) == [1, 2] and all(rows.shape == (length, k) for rows in chosen.values())
    for token in range(length):
        assert parameters_used(model, {n: rows[token] for n, rows in chosen.items()}) == expected


def test_all_experts_together_are_the_whole_model_and_hooks_are_gone():
    model = mixture(0)
    every = {n: torch.arange(8) for n in (1, 2)}
    assert parameters_used(model, every) == sum(p.numel() for p in model.parameters())
    chosen_experts(model, torch.randint(97, (1, 4)))
    assert not any(module._forward_hooks for module in model.modules())


# ------------------------------------------------------------------------------------------------ early exits


def test_the_first_layers_give_the_librarys_hidden_states_and_come_back():
    model, ids = llama(), torch.randint(97, (1, 9))
    with torch.no_grad():
        hidden = model.model(ids, output_hidden_states=True).hidden_states
        for count in range(1, 6):
            with first_layers(model, count):
                cut = model.model(ids).last_hidden_state
            wanted = hidden[5] if count == 5 else model.model.norm(hidden[count])
            torch.testing.assert_close(cut, wanted)
    assert model.config.num_hidden_layers == 5


@pytest.mark.parametrize("count", [0, -1, 6, 2.5])
def test_an_exit_outside_the_model_is_an_error(count):
    model = llama()
    with pytest.raises(ValueError, match=rf"from 1 to the model's 5 layers; got {count}"), first_layers(model, count):
        pass
    with pytest.raises(ValueError, match="exit layer"):
        self_speculate(model, torch.randint(97, (1, 4)), 3, count)
    assert model.config.num_hidden_layers == 5


def test_the_layers_come_back_after_an_error():
    model = llama()
    with pytest.raises(KeyError), first_layers(model, 2):
        raise KeyError
    assert model.config.num_hidden_layers == 5


@settings(deadline=None, max_examples=20)
@given(SEEDS, st.integers(2, 12), st.integers(1, 5))
def test_the_shortcut_is_the_least_squares_solution(seed: int, inputs: int, outputs: int):
    torch.manual_seed(seed)
    x, y = torch.randn(60, inputs), torch.randn(60, outputs)
    shortcut = fit_shortcut(x, y, ridge=1e-9)
    wanted = torch.linalg.lstsq(torch.cat([x, torch.ones(60, 1)], 1).double(), y.double()).solution
    torch.testing.assert_close(shortcut.weight.T.double(), wanted[:-1], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(shortcut.bias.double(), wanted[-1], atol=1e-4, rtol=1e-4)


def test_the_shortcut_finds_a_linear_map_and_the_ridge_shrinks_it():
    torch.manual_seed(0)
    x, truth = torch.randn(200, 6), torch.nn.Linear(6, 4)
    y = truth(x).detach()
    torch.testing.assert_close(fit_shortcut(x, y, ridge=1e-6)(x), y, atol=1e-4, rtol=1e-4)
    assert fit_shortcut(x, y, ridge=1e3).weight.norm() < truth.weight.norm()


@settings(deadline=None, max_examples=50)
@given(SEEDS, st.integers(1, 6), st.integers(1, 9), st.floats(0.01, 1))
def test_a_token_takes_the_first_exit_that_is_sure_enough(seed: int, exits: int, tokens: int, threshold: float):
    torch.manual_seed(seed)
    confidence = torch.rand(exits + 1, tokens)
    rows = first_exit(confidence, threshold)
    for token, row in enumerate(rows.tolist()):
        sure = [r for r in range(exits) if confidence[r, token] >= threshold]
        assert row == (sure[0] if sure else exits)


@pytest.mark.parametrize("threshold", [0, -0.5, 1.01, math.nan])
def test_a_threshold_outside_its_range_is_an_error(threshold: float):
    with pytest.raises(ValueError, match=rf"above 0 and at most 1; got {threshold}"):
        first_exit(torch.rand(3, 2), threshold)


# ---------------------------------------------------------------------------------------- draft and verify


@pytest.mark.parametrize("drafts", [1, 2, 5])
@pytest.mark.parametrize("exit_layer", [1, 3, 5])
@pytest.mark.parametrize("seed", [0, 1])
def test_self_speculation_writes_the_tokens_of_plain_decoding(drafts: int, exit_layer: int, seed: int):
    model = llama(seed=seed)
    ids = torch.randint(97, (1, 7))
    plain = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=20, do_sample=False)
    tokens, accepted = self_speculate(model, ids, 20, exit_layer, drafts)
    assert torch.equal(tokens, plain) and 0 <= accepted <= 1
    assert accepted == 1.0 or exit_layer < 5  # the whole model as its own draft is always right


def test_a_shortcut_changes_the_draft_and_never_the_text():
    model, ids = llama(), torch.randint(97, (1, 7))
    broken = torch.nn.Linear(32, 32).requires_grad_(False)
    plain, full = self_speculate(model, ids, 16, 5)
    tokens, accepted = self_speculate(model, ids, 16, 5, shortcut=broken)
    assert torch.equal(tokens, plain) and accepted < full == 1.0


def test_the_speed_up_and_its_break_even():
    assert speed_up(0.85, 0.0, 1) == pytest.approx(1.85)
    assert speed_up(1.0, 0.1, 4) == pytest.approx(5 / 1.4)
    assert speed_up(0.0, 0.5, 2) == pytest.approx(0.5)
    for a in (0.1, 0.5, 0.9):
        assert speed_up(a, a, 1) == pytest.approx(1)
        assert all(speed_up(a, a + 0.01, n) < 1 for n in range(1, 20))
        assert speed_up(a, a - 0.01, 1) > 1


# ---------------------------------------------------------------------------------------------- nested sizes


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("width", SIZES)
def test_a_slice_equals_the_nested_model_and_is_really_smaller(width: int, seed: int):
    big = nested(llama(layers=2, seed=seed).config)
    small, ids = slice_out(big, width), torch.randint(97, (2, 11))
    torch.testing.assert_close(small(ids).logits, big(ids).logits, atol=1e-5, rtol=1e-5)
    assert not any(isinstance(module, NestedMLP) for module in small.modules())
    removed = 2 * 3 * 32 * (256 - width)
    assert sum(p.numel() for p in small.parameters()) == sum(p.numel() for p in big.parameters()) - removed
    assert architecture.count_parameters(small.config).total == sum(p.numel() for p in small.parameters())


def test_a_slice_has_weights_of_its_own():
    big = nested(llama(layers=2).config)
    before = copy.deepcopy(big.state_dict())
    with torch.no_grad():
        for weight in slice_out(big, SIZES[0]).parameters():
            weight.zero_()
    assert all(torch.equal(weight, before[name]) for name, weight in big.state_dict().items())


def test_at_full_width_a_nested_model_is_a_llama():
    big, ids = nested(llama(layers=2).config), torch.randint(97, (2, 11))
    plain = AutoModelForCausalLM.from_config(big.config)
    plain.load_state_dict(big.state_dict())
    torch.testing.assert_close(big(ids).logits, plain(ids).logits)


def test_only_the_used_channels_are_trained():
    big = nested(llama(layers=2).config)
    use_width(big, 64)
    ids = torch.randint(97, (2, 11))
    big(input_ids=ids, labels=ids).loss.backward()
    for layer in big.model.layers:
        assert layer.mlp.gate_proj.weight.grad[:64].abs().sum() > 0 == layer.mlp.gate_proj.weight.grad[64:].abs().sum()
        assert layer.mlp.down_proj.weight.grad[:, 64:].abs().sum() == 0


@pytest.mark.parametrize("width", [0, 48, 257, 512])
def test_a_size_that_was_not_trained_is_an_error(width: int):
    big = nested(llama(layers=2).config)
    for refuse in (use_width, slice_out):
        with pytest.raises(ValueError, match=rf"trained sizes 32, 64, 128, 256; got {width}"):
            refuse(big, width)


def test_trainings_side_by_side_end_as_one_after_the_other():
    train.__globals__["bytes_seen"] = torch.arange(5000) % 251
    torch.manual_seed(0)
    start = nested(tiny(SIZES[-1]))
    alone, together = ([copy.deepcopy(start) for _ in range(4)] for _ in range(2))
    with measure.one_thread(), ThreadPoolExecutor(2) as pool:
        for seed, model in enumerate(alone):
            train(model, 4, seed, SIZES)
        list(pool.map(lambda model, seed: train(model, 4, seed, SIZES), together, range(4)))
    pairs = [zip(a.parameters(), b.parameters(), strict=True) for a, b in zip(alone, together, strict=True)]
    assert all(torch.equal(a, b) for both in pairs for a, b in both)
    assert not torch.equal(alone[0].lm_head.weight, alone[1].lm_head.weight)


# ------------------------------------------------------------------------------------------ who decides the size


def test_the_small_size_writes_where_it_is_sure_and_the_full_one_elsewhere():
    """Two places a text: at the first the small size is sure, at the second it is not."""
    torch.manual_seed(0)
    unseen = torch.randint(256, (3, 3))

    def probabilities(*of_truth: float) -> torch.Tensor:
        logs = torch.empty(3, 2, 256)
        for place, p in enumerate(of_truth):
            logs[:, place] = math.log((1 - p) / 255)
            logs[:, place].scatter_(1, unseen[:, place + 1, None], math.log(p))
        return logs

    logs = {}
    for seed in (0, 1, 2):
        logs["nested", SIZES[0], seed] = probabilities(0.5, 0.1)
        logs["nested", SIZES[-1], seed] = probabilities(0.25, 0.25)
    by_difficulty.__globals__.update(logs=logs, unseen=unseen)
    found = by_difficulty("nested")
    assert found["share"] == pytest.approx(0.5)
    assert found["bits"] == pytest.approx((1 + 2) / (2 + 2))  # bits: 1 from the small size, 2 from the full one


@pytest.mark.parametrize(
    ("share", "bits", "expected"), [(0.5, 1.01, True), (0.2, 1.01, False), (0.5, 1.05, False), (0.1, 1.2, False)]
)
def test_difficulty_decides_only_where_much_is_written_small_at_little_cost(share, bits, expected):
    assert works({"share": share, "bits": bits}) is expected


def test_c32_is_measured_on_both_sides_of_its_condition():
    found = claims.saved_verdicts(notebook_path("13"))[0]
    assert found.verdict.startswith("holds if ")
    by_length = [case["holds"] for case in found.cases if "length" in case["name"]]
    trained = [case["holds"] for case in found.cases if "trained" in case["name"]]
    cut = [case["holds"] for case in found.cases if "cut" in case["name"]]
    assert by_length == [False, False] and trained == [True, True] and cut == [False, False]
