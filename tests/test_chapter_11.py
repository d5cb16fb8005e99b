"""What chapter 11 builds in its cells, against PyTorch, transformers and published numbers."""

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lifting import lift
from tiny_v3 import TINY_V3
from transformers import AutoModelForCausalLM, DeepseekV3Config
from transformers.integrations.finegrained_fp8 import Fp8Quantize
from transformers.models.bloom.modeling_bloom import build_alibi_tensor

RECIPES, state_bytes, zero_bytes, activation_numbers, saved_activations, loss_of = lift(
    "11", "RECIPES", "state_bytes", "zero_bytes", "activation_numbers", "saved_activations", "loss_of"
)
recomputing, share_layers, tiny = lift("11", "recomputing", "share_layers", "tiny")
alibi_slopes, Alibi, FORMATS, decode = lift("11", "alibi_slopes", "Alibi", "FORMATS", "decode")
scaled_backward, LossScale = lift("11", "scaled_backward", "LossScale")
to_blocks, from_blocks, pack, LowPrecisionLinear = lift("11", "to_blocks", "from_blocks", "pack", "LowPrecisionLinear")
mixed, short_sums, train, MIXES = lift("11", "mixed", "short_sums", "train", "MIXES")


def mini(**changes):
    """A random DeepSeek-V3 model, its attention and experts computed step by step."""
    torch.manual_seed(0)
    config = DeepseekV3Config(**TINY_V3 | {"vocab_size": 61} | changes)
    options = {"attn_implementation": "eager", "experts_implementation": "eager"}
    return AutoModelForCausalLM.from_config(config, **options).train()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"hidden_size": 64, "num_hidden_layers": 2},
        {"n_shared_experts": 2, "num_experts_per_tok": 2, "n_routed_experts": 16},
        {"num_attention_heads": 2, "num_key_value_heads": 2, "v_head_dim": 11, "kv_lora_rank": 24},
        {"first_k_dense_replace": 3, "intermediate_size": 96, "vocab_size": 500},
        {"qk_rope_head_dim": 16, "q_lora_rank": 48, "moe_intermediate_size": 48},
    ],
    ids=str,
)
@pytest.mark.parametrize(("batch", "window"), [(2, 32), (3, 40)])
def test_the_formula_predicts_what_autograd_saves_in_every_part(changes, batch, window):
    model = mini(**changes)
    ids = torch.randint(model.config.vocab_size, (batch, window))
    with saved_activations(model) as kept:
        loss_of(model, ids)
    predicted = activation_numbers(model.config, window)
    assert kept.keys() == predicted.keys()
    c = model.config
    for part, numbers in predicted.items():
        left_out = kept[part] / (4 * ids.numel()) - numbers  # numbers a token that the formula does not count
        allowed = 5 if part == "end" else 0  # the token numbers
        if part == "layer 0: attention":
            allowed = c.qk_rope_head_dim  # the table of angles, saved once
        elif part.endswith("feed-forward") and int(part.split()[1][:-1]) >= c.first_k_dense_replace:
            allowed = 40 + 3 * c.n_routed_experts  # the router's lists
        assert 0 <= left_out <= allowed, part


def test_hooks_are_gone_after_counting():
    model = mini()
    with saved_activations(model):
        loss_of(model, torch.zeros(1, 8, dtype=torch.long))
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_recomputing_saves_only_inputs_and_keeps_every_gradient():
    model, ids = mini(), torch.randint(61, (2, 24))
    loss_of(model, ids).backward()
    wanted = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    with recomputing(model):
        with saved_activations(model) as kept:
            loss = loss_of(model, ids)
        loss.backward()
    assert all(torch.equal(wanted[name], p.grad) for name, p in model.named_parameters())
    inputs = 4 * ids.numel() * 3 * 32
    end = 4 * ids.numel() * activation_numbers(model.config, 24)["end"]
    assert sum(kept.values()) == pytest.approx(inputs + end, rel=0.02)
    assert all("forward" not in vars(layer) for layer in model.model.layers)


def test_the_recipes_cost_what_the_papers_say():
    assert {name: sum(items.values()) for name, items in RECIPES.items()} == {
        "FP32": 16, "mixed 16-bit": 16, "DeepSeek-V3": 13, "V3 + FP32 means": 17,
    }  # fmt: skip
    published = [120.0, 31.4, 16.6, 1.9]  # ZeRO paper, figure 1
    assert [round(zero_bytes(7_500_000_000, 64, stage) / 1e9, 1) for stage in range(4)] == published
    assert zero_bytes(1000, 1, 3) == zero_bytes(1000, 1, 0) == 16_000


def test_bad_ledgers_are_refused():
    with pytest.raises(ValueError, match=r"recipe 'FP4'; it knows FP32, mixed 16-bit, DeepSeek-V3"):
        state_bytes(1, "FP4")
    for cards, stage in ((0, 1), (8, 4), (-1, 0)):
        with pytest.raises(ValueError, match=f"cards={cards}, stage={stage}"):
            zero_bytes(1, cards, stage)


@pytest.mark.parametrize(("layers", "distinct"), [(4, 1), (4, 2), (6, 3), (4, 4)])
def test_sharing_leaves_distinct_layers_and_the_same_depth(layers, distinct):
    shared, fewer = share_layers(tiny(layers), distinct), tiny(distinct)
    assert len(shared.model.layers) == layers and len({id(layer) for layer in shared.model.layers}) == distinct
    assert sum(p.numel() for p in shared.parameters()) == sum(p.numel() for p in fewer.parameters())
    runs = [id(layer) for layer in shared.model.layers]
    assert all(len(set(runs[i : i + layers // distinct])) == 1 for i in range(0, layers, layers // distinct))


@pytest.mark.parametrize("distinct", [0, -1, 3, 5])
def test_layers_that_do_not_divide_are_refused(distinct):
    with pytest.raises(ValueError, match=rf"4 layers cannot be made of {distinct} distinct"):
        share_layers(tiny(4), distinct)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 40), st.integers(1, 24), st.integers(0, 1000))
def test_alibi_is_blooms(heads, tokens, seed):
    torch.manual_seed(seed)
    scores = torch.randn(2, heads, tokens, tokens)
    theirs = build_alibi_tensor(torch.ones(2, tokens), heads, torch.float32).view(2, heads, 1, tokens)
    causal = torch.full((tokens, tokens), float("-inf")).triu(1)
    torch.testing.assert_close(
        Alibi()(scores).softmax(-1), (scores + theirs + causal).softmax(-1), atol=1e-5, rtol=1e-4
    )


def test_alibi_has_the_published_slopes_and_no_parameters():
    assert alibi_slopes(8).tolist() == [2.0**-power for power in range(1, 9)]
    assert list(Alibi().parameters()) == list(Alibi().buffers()) == []
    with pytest.raises(ValueError, match="heads must be 1 or more; got 0"):
        alibi_slopes(0)


@pytest.mark.parametrize("name", FORMATS)
def test_decoding_is_exact_for_every_pattern(name):
    dtype, *rule = FORMATS[name]
    info = torch.finfo(dtype)
    patterns = torch.arange(2**info.bits)
    ours = decode(patterns, *rule)
    theirs = patterns.to(torch.uint16 if info.bits == 16 else torch.uint8).view(dtype).double()
    assert bool(((ours == theirs) | (ours.isnan() & theirs.isnan())).all())
    assert ours[ours.isfinite()].max() == info.max
    assert math.isclose(1 + info.eps, float(ours[ours > 1].min()))


@pytest.mark.parametrize("scale", [0, -1, float("nan"), float("inf")])
def test_a_loss_scale_that_cannot_work_is_refused(scale):
    weight = torch.nn.Parameter(torch.ones(1))
    with pytest.raises(ValueError, match=f"above 0; got {scale}"):
        scaled_backward(weight.sum(), scale)
    assert weight.grad is None


@settings(deadline=None, max_examples=30)
@given(st.lists(st.booleans(), max_size=25), st.integers(1, 4))
def test_the_loss_scale_moves_like_torchs(overflows, patience):
    ours = LossScale(2.0**10, patience)
    theirs = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=patience)
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=0.0)
    for overflow in overflows:
        ours.update(overflow)
        optimizer.zero_grad()
        theirs.scale((weight * (float("inf") if overflow else 1.0)).sum()).backward()
        theirs.step(optimizer)
        theirs.update()
        assert ours.scale == theirs.get_scale()


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 4),
    st.integers(1, 4),
    st.sampled_from([1, 2, 8, 16]),
    st.sampled_from([4, 16, 32]),
    st.integers(0, 99),
)
def test_blocks_are_transformers(down, across, rows, columns, seed):
    torch.manual_seed(seed)
    x = torch.randn(down * rows, across * columns) * 10.0 ** torch.randint(-6, 6, (down * rows, 1))
    x[:rows, :columns] = 0
    settings = SimpleNamespace(weight_block_size=(rows, columns), scale_fmt=None)
    theirs = Fp8Quantize(SimpleNamespace(quantization_config=settings)).convert({"a.weight": x})
    numbers, scales = to_blocks(x, (rows, columns))
    torch.testing.assert_close(scales, theirs["a.weight_scale_inv"], rtol=1e-6, atol=0)
    back = theirs["a.weight"].float() * scales.repeat_interleave(rows, 0).repeat_interleave(columns, 1)
    # Where a quotient lies on the edge of two numbers, the last bit of the scale decides.
    assert ((from_blocks(numbers, scales) - back).abs() <= 0.13 * back.abs() + 1e-30).all()
    assert (numbers.float() != theirs["a.weight"].float()).float().mean() < 0.01
    assert ((from_blocks(numbers, scales) - x).abs() <= x.abs() / 16 + scales.max() * 2.0**-10).all()


@pytest.mark.parametrize("block", [(0, 4), (4, 0), (3, 4), (4, 5), (-4, 4)])
def test_blocks_that_do_not_fit_are_refused(block):
    with pytest.raises(ValueError, match=rf"blocks of {block[0]} x {block[1]} do not divide a matrix of 8 x 16"):
        to_blocks(torch.zeros(8, 16), block)


def test_no_number_becomes_nan_or_infinite_in_fp8():
    x = torch.tensor([[1e30, -1e30, 1e-30, 0.0]])
    for precision in ("FP8, one scale", "FP8, no scale"):
        assert from_blocks(*pack(x, "row", precision)).isfinite().all()


def test_an_unknown_precision_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"'FP7' is not known; known are FP32, BF16, FP8, no scale, FP8, one scale"):
        pack(torch.zeros(128, 128), "row", "FP7")


@pytest.mark.parametrize(("precision", "error"), [("FP32", 1e-5), ("BF16", 0.01), ("FP8 in blocks", 0.08)])
def test_the_layer_is_torchs_within_its_precision(precision, error):
    torch.manual_seed(0)
    x, weight = torch.randn(256, 128, requires_grad=True), torch.randn(384, 128, requires_grad=True)
    direction = torch.randn(256, 384)
    ours, theirs = LowPrecisionLinear.apply(x, weight, precision), x @ weight.T
    found = torch.autograd.grad(ours, [x, weight], direction)
    wanted = torch.autograd.grad(theirs, [x, weight], direction)
    for a, b in zip([ours, *found], [theirs, *wanted], strict=True):
        assert (a - b).norm() / b.norm() < error


def test_fp8_saves_a_quarter_of_fp32_and_the_scales():
    x, weight = torch.randn(256, 512, requires_grad=True), torch.randn(128, 512, requires_grad=True)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        LowPrecisionLinear.apply(x, weight, "FP8 in blocks")
    sizes = [t.numel() * t.element_size() for t in saved if t is not weight]
    assert sorted(sizes) == [4 * 256 * 4, 256 * 512]


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
def test_blocks_use_the_whole_range_of_their_format(dtype):
    torch.manual_seed(0)
    x = torch.randn(64, 64) * 1e-6
    numbers, scales = to_blocks(x, (1, 64), dtype)
    assert numbers.dtype == dtype and bool((numbers.float().abs().amax(1) == torch.finfo(dtype).max).all())
    bits = {torch.float8_e4m3fn: 3, torch.float8_e5m2: 2}[dtype]
    error = (from_blocks(numbers, scales) - x).norm() / x.norm()
    assert 2.0 ** -(bits + 3) < error < 2.0 ** -(bits + 1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("precision", ["FP8 in blocks", "FP8, one scale", "BF16"])
def test_a_mixed_model_keeps_its_type_between_the_layers_forward_and_backward(dtype, precision):
    torch.manual_seed(0)
    model = mixed(tiny(layers=2, hidden=256, inner=512), dtype, precision)
    ids = torch.randint(256, (2, 64))
    output = model(input_ids=ids, labels=ids, output_hidden_states=True)
    gradients = torch.autograd.grad(output.loss, output.hidden_states[1:], retain_graph=True)
    assert {t.dtype for t in (*output.hidden_states, *gradients)} == {dtype}
    output.loss.backward()
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in model.parameters()), "master weights, FP32 gradients"


def test_every_matrix_of_the_trained_models_has_several_blocks():
    model = tiny(layers=2, hidden=256, inner=512)
    shapes = [tuple(p.shape) for name, p in model.named_parameters() if "_proj" in name]
    assert shapes and all(rows >= 256 and columns >= 256 for rows, columns in shapes)
    assert {"FP16 + FP8 in blocks", "FP16 + FP8, no scale at all"} <= MIXES.keys()


class _Overflows:
    """A loss scale that says what it was told."""

    def __init__(self, scale):
        self.scale, self.told = scale, []

    def update(self, overflow):
        self.told.append(overflow)


def test_training_divides_by_the_loss_scale_and_skips_what_overflows():
    class Line(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.w = torch.nn.Parameter(torch.ones(1))

        def forward(self, input_ids, **_):
            return SimpleNamespace(loss=(self.w * input_ids.float().mean()).sum())

    def trained(scaler):
        model = Line()
        train.__globals__["bytes_seen"] = torch.arange(1000) % 250
        losses = train(model, 3, 0, 1e-2, scaler)
        return losses, model.w.item()

    plain, scaled, endless = trained(None), trained(_Overflows(2.0**12)), trained(_Overflows(1e38))
    assert plain == scaled
    assert endless[1] == 1.0, "no step was made"


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 4), st.integers(0, 99))
def test_short_sums_of_many_bits_are_the_product_and_promotion_helps_those_of_few(blocks, seed):
    torch.manual_seed(seed)
    a, b = torch.rand(3, 1024 * blocks), torch.rand(5, 1024 * blocks)
    exact = a.double() @ b.double().T

    def error(bits, every):
        return float(((short_sums(a, b, bits, every) - exact) / exact).abs().max())

    assert error(24, 128) < 1e-5
    assert error(14, 1024 * blocks) > 3 * error(14, 128)
    assert bool((short_sums(a, b, 14, 1024) <= exact * (1 + 1e-6)).all()), "bits are cut off, not rounded"
