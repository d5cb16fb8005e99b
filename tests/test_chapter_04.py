"""What chapter 04 builds in its cells: top-k activations, ways to skip work, balanced routers, and routed blocks."""

import itertools

import pytest
import torch
from accelerate import Accelerator
from hypothesis import given, settings
from hypothesis import strategies as st
from lifting import lift, notebook_path
from transformers import AutoModelForCausalLM, LlamaConfig

from tools import pretrain
from utils import claims

keep_top, sparse = lift("04", "keep_top", "sparse")
swiglu, masked, picked, block = lift("04", "swiglu", "masked", "picked", "block")
load_of, auxiliary_loss, move_bias, EXPERTS = lift("04", "load_of", "auxiliary_loss", "move_bias", "EXPERTS")
Reader, RoutedMLP, routed, swiglu_network = lift("04", "Reader", "RoutedMLP", "routed", "swiglu_network")
SEEN, CHANNELS, WIDTH, BLOCKS, TAKEN = lift("04", "SEEN", "CHANNELS", "WIDTH", "BLOCKS", "TAKEN")
both = lift("04", "both")
SEEDS = st.integers(0, 2**31)


def noise(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 4), st.integers(1, 12), st.data(), SEEDS)
def test_top_k_keeps_the_largest_and_zeroes_the_rest(rows, width, data, seed):
    k = data.draw(st.integers(1, width))
    h = noise(rows, width, seed=seed)
    kept = keep_top(h, k)
    for before, after in zip(h.tolist(), kept.tolist(), strict=True):
        largest = sorted(range(width), key=lambda i: -abs(before[i]))[:k]
        assert after == [value if i in largest else 0.0 for i, value in enumerate(before)]


@pytest.mark.parametrize("k", [0, -1, 9, 100])
def test_a_k_outside_the_width_is_refused(k: int):
    with pytest.raises(ValueError, match=rf"k must be from 1 to the width 8; got {k}"):
        keep_top(torch.zeros(2, 8), k)


def test_the_hooks_thin_every_layer_and_are_gone_afterwards():
    config = LlamaConfig(
        vocab_size=32, hidden_size=16, num_hidden_layers=3, intermediate_size=40, num_attention_heads=2,
        num_key_value_heads=2,
    )  # fmt: skip
    torch.manual_seed(0)
    model, ids, seen = AutoModelForCausalLM.from_config(config).eval(), torch.arange(10)[None], []
    with torch.no_grad():
        before = model(ids).logits
        with sparse(model, 0.25):
            # Hooks run in the order of their registration, so these see what the thinning ones leave.
            for layer in model.model.layers:
                layer.mlp.down_proj.register_forward_pre_hook(
                    lambda _, x: seen.append((x[0] != 0).sum(-1).unique().tolist())
                )
            thinned = model(ids).logits
        assert seen == [[10]] * 3
        assert not torch.allclose(thinned, before)
        assert torch.equal(model(ids).logits, before)
        with sparse(model, 1.0):
            assert torch.equal(model(ids).logits, before)
    with pytest.raises(ValueError, match="k must be from 1"), sparse(model, 0.0):
        model(ids)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 6), st.integers(2, 20), st.data(), SEEDS)
def test_the_ways_to_skip_agree_with_a_mask(hidden, width, data, seed):
    k = data.draw(st.integers(1, width))
    x, weights = noise(hidden, seed=seed), [noise(width, hidden, seed=seed + n) for n in (1, 2, 3)]
    torch.testing.assert_close(picked(x, *weights, k), masked(x, *weights, k), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(masked(x, *weights, width), swiglu(x, *weights), atol=1e-4, rtol=1e-4)
    start = data.draw(st.integers(0, width - k))
    outside = [w.clone() for w in weights]
    outside[2][:start], outside[2][start + k :] = 0, 0  # no other row of the down matrix reaches the result
    torch.testing.assert_close(block(x, *weights, k, start), swiglu(x, *outside), atol=1e-4, rtol=1e-4)


@given(st.lists(st.integers(0, EXPERTS - 1), min_size=1, max_size=60))
def test_load_is_the_count_over_the_mean_count(chosen):
    loads = load_of(torch.tensor(chosen)).tolist()
    assert loads == pytest.approx([chosen.count(e) * EXPERTS / len(chosen) for e in range(EXPERTS)])
    assert sum(loads) == pytest.approx(EXPERTS)


def test_the_auxiliary_loss_is_smallest_for_even_loads_and_scores():
    even = torch.arange(EXPERTS).repeat(2)
    scores = torch.full((len(even), EXPERTS), 0.5)
    assert float(auxiliary_loss(scores, even, 1.0)) == pytest.approx(1.0)
    crowded, preferring = torch.zeros_like(even), scores.clone()
    preferring[:, 0] = 0.9
    assert float(auxiliary_loss(preferring, crowded, 1.0)) > 1.5


def test_its_gradient_lowers_the_score_of_the_crowded_expert():
    scores = torch.full((8, EXPERTS), 0.5, requires_grad=True)
    auxiliary_loss(scores, torch.zeros(8, dtype=torch.long)).backward()
    assert (scores.grad[:, 0] > 0).all() and (scores.grad[:, 1:] < 0).all()


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 9), min_size=4, max_size=4).filter(sum), st.floats(1e-3, 0.5))
def test_the_bias_moves_as_in_the_shipped_pretraining(counts, speed):
    """Two independent codes of V3's rule: the chapter's, and the one that trained the mini DeepSeek."""
    router = torch.nn.Module()
    router.register_buffer("e_score_correction_bias", torch.zeros(4))
    balance = pretrain.RouterBalance(torch.nn.ModuleList([router]), speed)
    balance.loads[0] += torch.tensor(counts).float()
    balance.update(Accelerator(cpu=True))
    bias = torch.zeros(4)
    move_bias(bias, torch.tensor(counts).float(), speed)
    torch.testing.assert_close(bias, router.e_score_correction_bias)


def test_a_busy_expert_becomes_less_attractive():
    bias = torch.zeros(3)
    for _ in range(2):
        move_bias(bias, torch.tensor([2.0, 1.0, 0.0]), speed=0.1)
    assert bias.tolist() == pytest.approx([-0.2, 0.0, 0.2])
    assert all(a < b for a, b in itertools.pairwise(bias.tolist()))


def test_a_load_may_count_other_numbers_of_experts():
    assert load_of(torch.tensor([[0, 0], [2, 2]]), 4).tolist() == [2.0, 0.0, 2.0, 0.0]


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 5), SEEDS)
def test_blocks_left_out_and_blocks_times_zero_give_the_same(tokens, seed):
    torch.manual_seed(seed)
    mlp, x = RoutedMLP(swiglu_network(WIDTH).config), torch.randn(tokens, SEEN * CHANNELS)
    mlp.bias += 0.1 * torch.randn(BLOCKS)
    parts = mlp.gate_proj.weight, mlp.up_proj.weight, mlp.down_proj.weight.T, mlp.router.weight, mlp.bias
    with torch.no_grad():
        expected = mlp(x)
        torch.testing.assert_close(torch.stack([routed(row, *parts) for row in x]), expected, atol=1e-4, rtol=1e-4)
        assert mlp.chosen.shape == (tokens, TAKEN)
        assert all(len(set(row)) == TAKEN for row in mlp.chosen.tolist())


def test_the_bias_decides_who_is_chosen_and_not_what_is_computed():
    torch.manual_seed(0)
    mlp, x = RoutedMLP(swiglu_network(WIDTH).config), torch.randn(6, SEEN * CHANNELS)
    mlp.bias[:TAKEN] = 100  # so these are chosen whatever the router says
    before = mlp(x)
    assert mlp.chosen.sort(-1).values.tolist() == [list(range(TAKEN))] * 6
    mlp.bias[:TAKEN] = 200
    torch.testing.assert_close(mlp(x), before)


def test_gradients_reach_the_router_and_the_chosen_blocks_alone():
    torch.manual_seed(0)
    mlp, x = RoutedMLP(swiglu_network(WIDTH).config), torch.randn(1, SEEN * CHANNELS)
    mlp(x).sum().backward()
    touched = mlp.gate_proj.weight.grad.abs().sum(1).view(BLOCKS, -1).sum(1).nonzero().flatten().tolist()
    assert touched == sorted(mlp.chosen[0].tolist())
    assert mlp.router.weight.grad.abs().sum() > 0


def test_thinning_reaches_the_small_reader_too():
    torch.manual_seed(0)
    reader, ids = Reader(swiglu_network(WIDTH)), torch.randint(256, (5, SEEN))
    seen = []
    with torch.no_grad(), sparse(reader, 0.2):
        reader.mlp.down_proj.register_forward_pre_hook(lambda _, h: seen.append((h[0] != 0).sum(-1).unique().tolist()))
        assert reader(ids).shape == (5, 256)
    assert seen == [[WIDTH // 5]]


@pytest.mark.parametrize(
    ("quality", "clock", "verdict"),
    [
        (False, [True], False),  # lost quality is enough for "no", whatever the clock says
        (False, [None], False),
        (True, [False, False], False),
        (True, [False, True], True),
        (True, [None, True], True),
        (True, [False, None], None),
    ],
)
def test_a_case_of_c14_needs_both_halves(quality: bool, clock: list, verdict: bool | None):
    assert both(quality, clock) is verdict


def test_no_case_of_the_real_model_supports_c14():
    found = claims.saved_verdicts(notebook_path("04"))[0]
    real = [case for case in found.cases if case["name"].startswith("SmolLM2")]
    assert found.claim == "C14" and found.verdict != "holds"
    assert len(real) == 2 and not any(case["holds"] for case in real)
    assert all("perplexity 1." in case["measured"] for case in real)
