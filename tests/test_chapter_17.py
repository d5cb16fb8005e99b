"""What chapter 17 builds in its cells, against transformers, gguf and exact values."""

import math

import gguf
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lifting import lift, notebook_path
from torch import nn
from transformers import DeepseekV4Config
from transformers.models.deepseek_v4.modeling_deepseek_v4 import (
    DeepseekV4HashRouter,
    DeepseekV4HyperConnection,
    DeepseekV4HyperHead,
    DeepseekV4TopKRouter,
)

from utils import claims
from utils.exercises import NotYet, check

gains, sinkhorn, HyperConnection, StreamHead, connect = lift(
    "17", "gains", "sinkhorn", "HyperConnection", "StreamHead", "connect"
)
v4_config, TinyModel, size_of, maps_of, train = lift("17", "v4_config", "TinyModel", "size_of", "maps_of", "train")
traffic, kept_by_pencil, kept_numbers = lift("17", "traffic", "kept_by_pencil", "kept_numbers")
gate, routing, with_experts, balancer = lift("17", "gate", "routing", "with_experts", "balancer")
mxfp4, int4, block_scale, survives, cost, LEVELS = lift(
    "17", "mxfp4", "int4", "block_scale", "survives", "cost", "LEVELS"
)
through_fp8 = lift("17", "through_fp8")
SEEDS = st.integers(0, 2**31)


def with_weights(module: nn.Module, size: float) -> nn.Module:
    for weight in module.parameters():
        nn.init.normal_(weight, std=size)
    return module


# --------------------------------------------------------------------------------------------- maps and gains


@settings(deadline=None, max_examples=30)
@given(SEEDS, st.integers(1, 6), st.floats(0.1, 2))
def test_sinkhorn_makes_rows_and_columns_sum_to_1(seed: int, n: int, size: float):
    torch.manual_seed(seed)
    found = sinkhorn((size * torch.randn(3, 5, n, n)).exp(), 200)
    assert found.shape == (3, 5, n, n) and (found >= 0).all()
    torch.testing.assert_close(found.sum(-1), torch.ones(3, 5, n), atol=1e-3, rtol=0)
    torch.testing.assert_close(found.sum(-2), torch.ones(3, 5, n), atol=1e-5, rtol=0)


def test_one_round_divides_rows_and_then_columns():
    rows = torch.tensor([[0.25, 0.75], [0.5, 0.5]])
    torch.testing.assert_close(sinkhorn(torch.tensor([[1.0, 3.0], [1.0, 1.0]]), 1), rows / rows.sum(0))


@pytest.mark.parametrize(("epsilon", "right"), [(0.0, True), (1e-6, True), (1e-3, False)])
def test_a_round_with_v4s_epsilon_is_right_and_one_that_shows_is_not(epsilon: float, right: bool):
    def one_round(matrix):
        rows = [[entry / (sum(row) + epsilon) for entry in row] for row in matrix]
        sums = [sum(column) + epsilon for column in zip(*rows, strict=True)]
        return [[entry / total for entry, total in zip(row, sums, strict=True)] for row in rows]

    if right:
        check("17.2", one_round)
    else:
        with pytest.raises(NotYet):
            check("17.2", one_round)


def test_a_matrix_that_is_doubly_stochastic_stays_as_it_is():
    matrix = torch.tensor([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [0.25, 0.25, 0.5]])
    torch.testing.assert_close(sinkhorn(matrix), matrix, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("matrix", "complaint"),
    [
        (torch.zeros(2, 2), "finite and above 0; got 0"),
        (torch.tensor([[1.0, -2.0], [1.0, 1.0]]), "finite and above 0; got -2"),
        (torch.tensor([[1.0, math.nan], [1.0, 1.0]]), "finite and above 0; got nan"),
        (torch.tensor([[1.0, math.inf], [1.0, 1.0]]), "finite and above 0; got inf"),
        (torch.ones(2, 3), r"square; got \(2, 3\)"),
        (torch.ones(3), r"square; got \(3,\)"),
    ],
)
def test_sinkhorn_refuses_what_it_cannot_scale(matrix, complaint):
    with pytest.raises(ValueError, match=complaint):
        sinkhorn(matrix)


@pytest.mark.parametrize("rounds", [0, -1])
def test_no_round_is_an_error(rounds: int):
    with pytest.raises(ValueError, match=f"1 or more; got {rounds}"):
        sinkhorn(torch.ones(2, 2), rounds)


def test_gains_are_row_and_column_sums_of_the_product_in_order():
    first = torch.tensor([[[1.0, 2.0], [0.0, 1.0]]])
    second = torch.tensor([[[1.0, 0.0], [-3.0, -1.0]]])
    forward, backward = gains([first, second])
    assert forward == [3.0, 10.0] and backward == [3.0, 5.0]  # second @ first = [[1, 2], [-3, -7]]


def test_permutations_neither_grow_nor_shrink():
    turn = torch.eye(4)[[1, 2, 3, 0]].expand(3, 4, 4)
    assert gains([turn] * 9) == ([1.0] * 9, [1.0] * 9)


# ---------------------------------------------------------------------------------------- the library's classes


@pytest.mark.parametrize("size", [0.02, 0.5, 3.0])
@pytest.mark.parametrize(("hidden", "streams"), [(64, 4), (32, 4), (48, 2), (24, 8), (16, 1)])
def test_connection_and_head_equal_the_library(hidden: int, streams: int, size: float):
    config = v4_config(hidden, streams)
    for seed in range(3):
        torch.manual_seed(seed)
        theirs = with_weights(DeepseekV4HyperConnection(config), size)
        ours = HyperConnection(hidden, streams)
        ours.load_state_dict(theirs.state_dict())
        head, own_head = with_weights(DeepseekV4HyperHead(config), size), StreamHead(hidden, streams)
        own_head.load_state_dict(head.state_dict())
        x, seen = torch.randn(2, 5, streams, hidden), []
        write, mix, collapsed = theirs(x)

        def layer(y, seen=seen):
            seen.append(y)
            return y.sin()

        # how DeepseekV4DecoderLayer joins them
        wanted = write.unsqueeze(-1) * collapsed.sin().unsqueeze(-2) + mix.transpose(-1, -2) @ x
        torch.testing.assert_close(connect(ours, layer, x), wanted, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(seen[0], collapsed, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(own_head(x), head(x), atol=1e-5, rtol=1e-5)


def test_a_new_connection_starts_where_the_library_starts():
    theirs, ours = DeepseekV4HyperConnection(v4_config(16, 4)), HyperConnection(16, 4)
    assert {k: v.shape for k, v in theirs.state_dict().items()} == {k: v.shape for k, v in ours.state_dict().items()}
    assert (ours.base == 0).all() and (ours.scale == 1).all()


@pytest.mark.parametrize("place", range(5))
def test_free_connections_begin_as_residual_ones(place: int):
    connection = HyperConnection(16, 4, constrained=False, place=place)
    connection.scale.data.zero_()  # without the small dynamic part
    x = torch.randn(2, 3, 4, 16)
    wanted = x + x[..., place % 4, :].sin().unsqueeze(-2)
    torch.testing.assert_close(connect(connection, torch.sin, x), wanted)


@pytest.mark.parametrize("streams", [0, -1])
def test_less_than_one_stream_is_an_error(streams: int):
    with pytest.raises(ValueError, match=f"streams must be 1 or more; got {streams}"):
        HyperConnection(16, streams)


# --------------------------------------------------------------------------------------------- the small model


@pytest.mark.parametrize("kind", ["residual", "free", "constrained"])
def test_the_small_model_does_not_look_ahead(kind: str):
    torch.manual_seed(0)
    model, ids = TinyModel(kind).eval(), torch.randint(256, (2, 12))
    other = ids.clone()
    other[:, 8:] = 255 - other[:, 8:]
    with torch.no_grad():
        before, after = model(ids), model(other)
    torch.testing.assert_close(before[:, :8], after[:, :8])
    assert not torch.allclose(before[:, 8:], after[:, 8:])


def test_only_the_connections_differ_between_the_kinds():
    one, four = size_of(TinyModel("residual")), size_of(TinyModel("constrained"))
    assert four - one == 8 * (24 * 4 * 64 + 24 + 3) + (4 * 4 * 64 + 4 + 1) and size_of(TinyModel("free")) == four


def test_a_step_trains_every_parameter_and_maps_are_noted_for_each_sublayer():
    torch.manual_seed(0)
    data = torch.randint(256, (1000,))
    train.__globals__.update(bytes_seen=data)
    maps_of.__globals__.update(unseen=data[:640].view(10, 64))
    for kind in ("free", "constrained"):
        model = TinyModel(kind)
        before = [p.clone() for p in model.parameters()]
        train(model, 2, seed=0)
        assert all(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
        maps = maps_of(model)
        assert len(maps) == 8 and maps[0].shape == (640, 4, 4)
        assert not any(part._forward_hooks for part in model.connections)
        if kind == "constrained":
            torch.testing.assert_close(maps[3].sum(-1), torch.ones(640, 4), atol=1e-4, rtol=0)


# ------------------------------------------------------------------------------------------------------- costs


@pytest.mark.parametrize("n", [1, 2, 4, 8])
def test_traffic_is_that_of_the_paper_s_table(n: int):
    assert traffic(n, fused=False) == (5 * n + 1) + (3 * n + 1)  # Table 2, in vectors of C
    saved = ((3 * n + 1) + 3 * n) - ((n + 1) + n)  # section 4.3.1
    assert traffic(n, fused=True) == traffic(n, fused=False) - saved


@pytest.mark.parametrize(("hidden", "streams"), [(64, 2), (64, 4), (96, 3), (512, 8)])
def test_the_pencil_counts_what_autograd_keeps(hidden: int, streams: int):
    assert kept_numbers(hidden, streams) == kept_by_pencil(hidden, streams)


# ----------------------------------------------------------------------------------------------------- routing


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("experts", "k", "scaling"), [(8, 2, 1.5), (16, 6, 2.5), (4, 1, 1.0)])
def test_both_routers_equal_the_library(seed: int, experts: int, k: int, scaling: float):
    torch.manual_seed(seed)
    config = DeepseekV4Config(
        vocab_size=50, hidden_size=12, num_hidden_layers=1, n_routed_experts=experts, num_experts_per_tok=k,
        routed_scaling_factor=scaling, layer_types=["sliding_attention"], mlp_layer_types=["moe"],
    )  # fmt: skip
    learned, hashed = with_weights(DeepseekV4TopKRouter(config), 1.0), with_weights(DeepseekV4HashRouter(config), 1.0)
    learned.e_score_correction_bias.normal_()
    table = torch.stack([torch.randperm(experts)[:k] for _ in range(50)])
    hashed.tid2eid.copy_(table)
    x, ids = torch.randn(40, 12), torch.randint(50, (40,))
    _, weights, numbers = learned(x)
    own, chosen = gate(x, learned.weight, bias=learned.e_score_correction_bias, k=k, scaling=scaling)
    assert torch.equal(chosen.sort().values, numbers.sort().values)
    torch.testing.assert_close(own.sum(-1), weights.sum(-1))
    torch.testing.assert_close(own.sort().values, weights.sort().values, atol=1e-5, rtol=1e-5)
    _, weights, numbers = hashed(x, ids)
    own, chosen = gate(x, hashed.weight, table[ids], k=k, scaling=scaling)
    assert torch.equal(chosen, numbers)
    torch.testing.assert_close(own, weights, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("first", ["learned", "hash", "dense"])
def test_the_first_two_layers_differ_and_all_use_as_much_for_a_token(first: str):
    torch.manual_seed(0)
    model = with_experts(first)
    kinds = [type(getattr(layer.mlp, "gate", layer.mlp)).__name__ for layer in model.layers]
    names = {"learned": "DeepseekV4TopKRouter", "hash": "DeepseekV4HashRouter", "dense": "DeepseekV4MLP"}
    assert kinds == [names[first]] * 2 + ["DeepseekV4TopKRouter"] * 2
    assert model(torch.randint(256, (2, 9))).shape == (2, 9, 256)
    if first == "hash":
        table = model.layers[0].mlp.gate.tid2eid
        assert table.shape == (256, 2) and (table[:, 0] != table[:, 1]).all() and len(table.unique()) == 8
    if first == "dense":
        used = sum(p.numel() for p in model.layers[2].mlp.shared_experts.parameters()) * 3  # 2 chosen, 1 shared
        assert size_of(model.layers[0].mlp) == used


def test_the_balancer_moves_busy_experts_down_and_idle_ones_up():
    torch.manual_seed(0)
    model = with_experts("learned")
    move, router = balancer(model), model.layers[0].mlp.gate
    router.weight.data.zero_()
    router.e_score_correction_bias[0] = 1.0  # every token takes it
    model(torch.randint(256, (4, 16)))
    before = router.e_score_correction_bias.clone()
    move()
    change = router.e_score_correction_bias - before
    assert change[0] == pytest.approx(-0.001, rel=1e-3) and change.max() == pytest.approx(0.001, rel=1e-3)


# ------------------------------------------------------------------------------------------------- four bits


def library(weight: torch.Tensor) -> torch.Tensor:
    kind = gguf.GGMLQuantizationType.MXFP4
    return torch.from_numpy(gguf.quants.dequantize(gguf.quants.quantize(weight.numpy(), kind), kind))


@settings(deadline=None, max_examples=30)
@given(SEEDS, st.integers(1, 4), st.floats(-30, 30))
def test_mxfp4_equals_the_library(seed: int, blocks: int, power: float):
    torch.manual_seed(seed)
    weight = torch.randn(5, 32 * blocks) * 2.0**power
    weight[0, :32] = 0
    weight[1] *= torch.exp(2 * torch.randn(32 * blocks))
    assert torch.equal(mxfp4(weight), library(weight))


def test_ties_go_to_the_smaller_level_and_what_is_too_large_is_cut():
    block = torch.zeros(1, 32)
    block[0, :10] = torch.tensor([7.9, -5.0, 3.5, -2.5, 1.75, 1.25, 0.75, -0.25, 0.26, 6.0])
    wanted = torch.tensor([6.0, -4.0, 3.0, -2.0, 1.5, 1.0, 0.5, 0.0, 0.5, 6.0])
    assert torch.equal(mxfp4(block)[0, :10], wanted) and torch.equal(library(block)[0, :10], wanted)


def test_what_mxfp4_has_made_stays_as_it_is():
    torch.manual_seed(0)
    once = mxfp4(torch.randn(50, 64))
    assert torch.equal(mxfp4(once), once)


@pytest.mark.parametrize(
    ("weight", "complaint"),
    [
        (torch.ones(2, 33), "blocks of 32; got 33"),
        (torch.full((2, 32), math.nan), "finite"),
        (torch.full((2, 32), math.inf), "finite"),
    ],
)
def test_mxfp4_refuses_what_it_cannot_hold(weight, complaint):
    with pytest.raises(ValueError, match=complaint):
        mxfp4(weight)


def test_int4_is_off_by_half_a_step_at_most():
    torch.manual_seed(0)
    weight = torch.randn(20, 64)
    step = weight.unflatten(-1, (-1, 32)).abs().amax(-1, keepdim=True) / 7
    off = (int4(weight) - weight).unflatten(-1, (-1, 32)).abs()
    assert (off <= 0.505 * step).all() and (off > 0.4 * step).any()


def test_fp8_holds_fp4_over_fourteen_powers_of_two():
    exact = [power for power in range(-20, 20) if survives(power)]
    assert exact == list(range(-8, 7))


@pytest.mark.parametrize(("power", "lossless"), [(0, True), (10, True), (18, False)])
def test_scales_that_lie_too_far_apart_lose_weights_in_fp8(power: int, lossless: bool):
    torch.manual_seed(0)
    through_fp8.__globals__["exact"] = list(range(-8, 7))
    weight = torch.randn(130, 160)
    weight[:, :32] *= 2.0**power
    same, spread = through_fp8(weight)
    assert same is lossless and spread >= power - 3


def test_the_cost_of_a_change_leaves_the_model_as_it_was():
    from transformers import AutoModelForCausalLM, LlamaConfig

    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=1,
                         num_attention_heads=2, num_key_value_heads=2)  # fmt: skip
    model, ids = AutoModelForCausalLM.from_config(config).eval(), torch.randint(64, (2, 10))
    kept = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    plain = cost(model, ids, kept, mxfp4, lambda name: False)
    changed = cost(model, ids, kept, torch.zeros_like, lambda name: "mlp" in name)
    assert changed != plain == cost(model, ids, kept, mxfp4, lambda name: False)
    assert all(torch.equal(weight, kept[name]) for name, weight in model.named_parameters())


# --------------------------------------------------------------------------------------------------- verdicts


def test_the_verdicts_are_those_of_the_saved_run():
    found = {verdict.claim: verdict for verdict in claims.saved_verdicts(notebook_path("17"))}
    words = {claim: verdict.verdict.split(" if ")[0] for claim, verdict in found.items()}
    assert words == {
        "D06": "holds", "D07": "holds", "D08": claims.UNTOLD, "D09": "holds", "D10": "holds", "D11": "holds",
    }  # fmt: skip
    assert [case["holds"] for case in found["D07"].cases] == [True, False]
    assert [case["holds"] for case in found["D10"].cases] == [True, False]
    assert [case["holds"] for case in found["D11"].cases] == [True, True, False, False]
    assert found["D10"].verdict.endswith("at most 2^14")
