"""What chapter 05 builds in its cells, against PyTorch, gguf, bitsandbytes and exact arithmetic."""

import math
import struct

import gguf
import nbformat
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lifting import lift
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from tools.bench import quantization as bench
from utils import catalog, chapters

absmax, zero_point, grouped, largest_integer = lift("05", "absmax", "zero_point", "grouped", "largest_integer")
decode_q4_1, Int8Linear, nf4_levels = lift("05", "decode_q4_1", "Int8Linear", "nf4_levels")
integer_product = lift("05", "integer_product")
e4m3, fp8_blocks, fp8_product, stored, megabytes = lift(
    "05", "e4m3", "fp8_blocks", "fp8_product", "stored", "megabytes"
)
planned_share, Simulated, turns = lift("05", "planned_share", "Simulated", "turns")
nearest_four_bits, gptq, awq = lift("05", "nearest_four_bits", "gptq", "awq")
SEEDS, SIZES, BITS = st.integers(0, 2**31), st.integers(1, 40), st.integers(2, 8)
many = settings(deadline=None, max_examples=40)


def numbers(seed: int, *shape: int, loudest: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(shape, generator=generator)
    values.flatten()[0] *= loudest
    return values


def same_up_to_ties(mine: torch.Tensor, theirs: torch.Tensor, x: torch.Tensor, scale: torch.Tensor) -> None:
    """Equal, where x / scale is not so near to a half that the order of operations decides the rounding."""
    place = (x / scale).double()
    clear = (place - place.floor() - 0.5).abs() > 1e-4
    torch.testing.assert_close(mine[clear], theirs[clear], rtol=1e-5, atol=1e-6)


@many
@given(SEEDS, SIZES, SIZES, BITS, st.floats(0.01, 1000))
def test_absmax_is_torchs(seed, rows, width, bits, loudest):
    x, top = numbers(seed, rows, width, loudest=loudest), 2 ** (bits - 1) - 1
    integers, scale = absmax(x, bits, dim=1)
    theirs = torch.fake_quantize_per_channel_affine(x, scale[:, 0], torch.zeros(rows), 0, -top, top)
    same_up_to_ties(integers * scale, theirs, x, scale.expand_as(x))
    assert integers.dtype == torch.int8 and (integers.int().abs().amax(1) == top).all()
    whole, one = absmax(x, bits)
    assert ((whole * one - x).abs() <= one * 0.5001).all()


@many
@given(SEEDS, SIZES, st.integers(2, 40), BITS, st.floats(-5, 5))
def test_the_zero_point_is_torchs_and_keeps_zero_exact(seed, rows, width, bits, shift):
    x = numbers(seed, rows, width) + shift
    integers, scale, zero = zero_point(x, bits, dim=1)
    steps = 2**bits - 1
    theirs = torch.fake_quantize_per_channel_affine(x, scale[:, 0], zero[:, 0], 0, 0, steps)
    same_up_to_ties((integers - zero) * scale, theirs, x, scale.expand_as(x))
    assert ((zero >= 0) & (zero <= steps)).all() and integers.max() <= steps
    padded, scale, zero = zero_point(torch.cat([x, torch.zeros(rows, 1)], dim=1), bits, dim=1)
    assert torch.equal(padded[:, -1].float(), zero[:, 0])


@pytest.mark.parametrize("bits", [0, 1, 9, 33, -8, 3.5, 8.0, True, "8", None])
def test_bits_that_make_no_sense_are_refused(bits):
    for function in (absmax, zero_point):
        with pytest.raises(ValueError, match=r"bits must be a whole number from 2 to 8; got"):
            function(torch.ones(2, 2), bits)


@pytest.mark.parametrize("size", [0, -1, 5, 100, 577])
def test_a_group_size_that_does_not_divide_the_width_is_refused(size):
    with pytest.raises(ValueError, match=rf"must divide the width 576; got {size}$"):
        grouped(torch.zeros(2, 576), size)


def test_rows_of_zeros_stay_zeros():
    for integers, scale, *zero in (absmax(torch.zeros(2, 3), dim=1), zero_point(torch.zeros(2, 3), dim=1)):
        assert torch.equal((integers - (zero[0] if zero else 0)) * scale, torch.zeros(2, 3))


@many
@given(st.binary(min_size=16, max_size=16), st.floats(-100, 100, width=16), st.floats(-100, 100, width=16))
def test_a_gguf_block_is_the_packages(integers, scale, minimum):
    block = struct.pack("<2e", scale, minimum) + integers
    theirs = gguf.dequantize(np.frombuffer(block, dtype=np.uint8)[None], gguf.GGMLQuantizationType.Q4_1)
    assert torch.equal(torch.tensor(decode_q4_1(block)), torch.from_numpy(theirs[0]))


@pytest.mark.parametrize("length", [0, 19, 21])
def test_a_block_of_another_length_is_refused(length):
    with pytest.raises(ValueError, match=f"a Q4_1 block has 20 bytes; got {length}"):
        decode_q4_1(bytes(length))


@many
@given(SEEDS, st.integers(1, 9), st.sampled_from([16, 64, 96]), st.sampled_from([8, 48]), st.booleans(), st.booleans())
def test_the_int8_layer_is_its_exact_sum_and_near_the_full_one(seed, tokens, inputs, outputs, bias, smoothed):
    torch.manual_seed(seed)
    full, x = nn.Linear(inputs, outputs, bias=bias), 3 * torch.randn(2, tokens, inputs)
    largest = x.abs().amax((0, 1)) if smoothed else None
    layer = Int8Linear(full, largest)
    with torch.no_grad():
        found, wanted = layer(x), full(x)
    scaled = x * layer.factor
    integers, scale = absmax(scaled, dim=-1)
    exact = (integers * scale.double()) @ (layer.weight * layer.scale.T.double()).T
    exact = exact + full.bias.double() if bias else exact
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-5)
    assert (found - wanted).norm() < 0.05 * wanted.norm()
    assert found.shape == wanted.shape and layer.weight.dtype == torch.int8


@many
@given(SEEDS, st.integers(1, 20), st.integers(1, 600), st.integers(1, 20))
def test_the_integer_product_is_exact_with_and_without_the_fast_instructions(seed, m, k, n):
    generator = torch.Generator().manual_seed(seed)
    q, p = (torch.randint(-127, 128, shape, generator=generator).to(torch.int8) for shape in ((m, k), (k, n)))
    for fast in (integer_product.__globals__["INT_MM_IS_EXACT"], False):
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(integer_product.__globals__, "INT_MM_IS_EXACT", fast)
            assert torch.equal(integer_product(q, p).long(), q.long() @ p.long())


def test_each_token_has_its_own_scale_and_smoothing_tames_a_loud_channel():
    torch.manual_seed(0)
    full, x = nn.Linear(256, 64, bias=False), torch.randn(8, 256)
    alone = Int8Linear(full)(x[1:])
    x[0] *= 10_000
    assert torch.equal(Int8Linear(full)(x)[1:], alone)
    x[:, 7] *= 100
    errors = [(Int8Linear(full, big)(x) - full(x)).norm(dim=1)[1:] for big in (None, x[1:].abs().amax(0))]
    assert (errors[1] < errors[0]).float().mean() > 0.9


def test_the_layer_of_the_bench_is_the_chapters():
    torch.manual_seed(1)
    full, x = nn.Linear(64, 32, bias=False), torch.randn(2, 5, 64)
    torch.testing.assert_close(bench.Int8Linear(full)(x), Int8Linear(full)(x), rtol=1e-5, atol=1e-6)


def test_nf4_has_the_published_levels():
    levels = nf4_levels()
    published = [-1.0, -0.6961928, -0.5250731, -0.3949175, -0.2844414, -0.1847734, -0.0910500, 0.0]
    published += [0.0795803, 0.1609302, 0.2461123, 0.3379152, 0.4407098, 0.5626170, 0.7229568, 1.0]
    assert levels.tolist() == pytest.approx(published, abs=1e-6)


def test_every_fp8_byte_is_torchs():
    theirs = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float().tolist()
    for byte, wanted in enumerate(theirs):
        found = e4m3(byte)
        assert math.isnan(found) == math.isnan(wanted)
        assert math.isnan(found) or (found == wanted and math.copysign(1, found) == math.copysign(1, wanted))


@many
@given(SEEDS, st.integers(1, 4), st.integers(1, 4), st.sampled_from([1, 3, 8]), st.sampled_from([1, 16]))
def test_fp8_blocks_are_quantized_one_by_one(seed, down, across, rows, columns):
    x = numbers(seed, down * rows, across * columns, loudest=500.0)
    found, scales = fp8_blocks(x, rows, columns)
    assert found.shape == x.shape and scales.shape == (down, across)
    for i in range(down):
        for j in range(across):
            place = slice(i * rows, (i + 1) * rows), slice(j * columns, (j + 1) * columns)
            scale = x[place].abs().max() / 448
            assert scales[i, j] == pytest.approx(float(scale), rel=1e-6)
            assert torch.equal(found[place].float(), (x[place] / scale).to(torch.float8_e4m3fn).float())


@many
@given(SEEDS, st.integers(1, 5), st.integers(1, 3), st.integers(1, 2))
def test_v3s_product_is_the_product_of_what_is_stored(seed, tokens, inner, outer):
    x, w = numbers(seed, tokens, 128 * inner), numbers(seed + 1, 128 * outer, 128 * inner)
    (a, s_x), (b, s_w) = fp8_blocks(x, 1, 128), fp8_blocks(w, 128, 128)
    restored_x = a.double() * s_x.double().repeat_interleave(128, 1)
    restored_w = b.double() * s_w.double().repeat_interleave(128, 0).repeat_interleave(128, 1)
    torch.testing.assert_close(fp8_product(x, w).double(), restored_x @ restored_w.T, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("rows", "columns"), [(1, 100), (3, 128), (0, 128), (1, -128)])
def test_blocks_that_do_not_fit_are_refused(rows, columns):
    with pytest.raises(ValueError, match=rf"blocks of {rows} x {columns} do not divide a matrix of 4 x 256"):
        fp8_blocks(torch.zeros(4, 256), rows, columns)


def test_stored_counts_a_tied_matrix_once_and_integers_as_bytes():
    model = nn.ModuleDict({"embed": nn.Embedding(10, 4), "head": nn.Linear(4, 10, bias=False)})
    model["head"].weight = model["embed"].weight
    assert megabytes(stored(model)) == 160 / 1e6
    model["head"] = Int8Linear(model["head"])
    assert megabytes(stored(model), "head.weight") == 40 / 1e6
    assert megabytes(stored(model)) == (160 + 40 + 4 * 10 + 4 * 4) / 1e6  # ... and 10 scales, 4 factors
    dynamic = bench.dynamic(nn.Sequential(nn.Linear(4, 10, bias=False)))
    assert megabytes(stored(dynamic), "weight") == 40 / 1e6
    assert bench.tensor_bytes(dynamic) == 40


def tiny(tied: bool) -> nn.Module:
    model = nn.ModuleDict({"embed": nn.Embedding(20, 8), "body": nn.Linear(8, 8, bias=False)})
    model["head"] = nn.Linear(8, 20, bias=False)
    if tied:
        model["head"].weight = model["embed"].weight
    model["experts"] = nn.ParameterList([torch.zeros(4, 8, 8)])  # fused: no Linear
    return model


@pytest.mark.parametrize("tied", [False, True])
def test_the_planned_share_is_what_quantize_dynamic_leaves(tied):
    model = tiny(tied)
    before, planned = bench.tensor_bytes(model), planned_share(model)
    assert planned == pytest.approx(bench.tensor_bytes(bench.dynamic(model)) / before)
    with torch.device("meta"):
        assert planned_share(tiny(tied)) == planned


def test_the_call_skips_the_fused_experts_of_a_real_mixture_and_shrinks_a_large_dense_model():
    for name, left in (("DeepSeek-V3", 0.982), ("DeepSeek-V2-Lite", 0.948), ("deepseek-llm-67b-base", 0.259)):
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**catalog.get(name).config))
        assert planned_share(model) == pytest.approx(left, abs=0.001)


@settings(deadline=None, max_examples=20)
@given(SEEDS, st.integers(1, 30), st.sampled_from([16, 200]), st.booleans())
def test_seven_bits_and_one_scale_each_are_torchs_dynamic_layer_and_eight_are_not(seed, tokens, inputs, bias):
    torch.manual_seed(seed)
    full, x = nn.Linear(inputs, 24, bias=bias), torch.randn(tokens, inputs)
    theirs = bench.dynamic(nn.Sequential(full))[0]
    with torch.no_grad():
        wanted = theirs(x)
        apart = [(Simulated(full, bits, False, False)(x) - wanted).norm() / wanted.norm() for bits in (7, 8)]
    assert apart[0] < 0.005 and apart[1] > apart[0]


def test_a_simulated_layer_with_token_scales_keeps_quiet_tokens_apart_from_a_loud_one():
    torch.manual_seed(0)
    full, x = nn.Linear(64, 16, bias=False), torch.randn(8, 64)
    x[0] *= 1000
    with torch.no_grad():
        wanted = full(x)[1:]
        one, each = ((Simulated(full, 8, True, tokens)(x)[1:] - wanted).norm() for tokens in (False, True))
    assert each < 0.02 * wanted.norm() < 0.5 * one


def test_turns_goes_round_all_layers():
    called = []
    step = turns([lambda x, n=n: called.append((n, x)) for n in range(3)], "x", 2)
    step(), step()
    assert called == [(0, "x"), (1, "x"), (2, "x"), (0, "x")]


@settings(deadline=None, max_examples=10)
@given(SEEDS, st.sampled_from([32, 96]))
def test_gptq_and_awq_are_plain_rounding_where_inputs_say_nothing(seed, width):
    weight = numbers(seed, 5, width)
    plain = nearest_four_bits(weight)
    torch.testing.assert_close(gptq(weight, torch.eye(width)), plain, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(awq(weight, torch.ones(3, width), 0.5), plain, rtol=1e-4, atol=1e-5)
    assert torch.equal(awq(weight, numbers(seed, 3, width), 0.0), plain)


def test_gptq_and_awq_lose_less_of_the_output_than_plain_rounding():
    torch.manual_seed(0)
    weight, loud = torch.randn(48, 128), torch.ones(128)
    loud[::32] = 30.0
    x = (torch.randn(500, 20) @ torch.randn(20, 128) + 0.1 * torch.randn(500, 128)) * loud
    errors = [((found - weight) @ x.T).norm() for found in (nearest_four_bits(weight), gptq(weight, x))]
    best = min(((awq(weight, x, share) - weight) @ x.T).norm() for share in (0.2, 0.5, 0.8))
    assert errors[1] < 0.6 * errors[0] and best < 0.8 * errors[0]
    levels = grouped(gptq(weight, x), 32)
    assert max(len(group.unique()) for group in levels.flatten(0, 1)) <= 15


def test_the_bench_says_what_is_missing(monkeypatch):
    monkeypatch.setattr(bench.importlib.util, "find_spec", lambda name: None)
    assert bench.lacks("torchao") == "torchao is not installed"
    assert bench.lacks("quantize_dynamic") == ""
    monkeypatch.setattr(bench.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(bench.shutil, "which", lambda name: None)
    assert bench.lacks("torchao, compiled") == "there is no C++ compiler"
    assert bench.lacks("torchao") == ""
    monkeypatch.setattr(bench, "int_mm_is_exact", lambda: False)
    assert bench.lacks("from scratch") == "torch._int_mm overflows on this processor"


@pytest.mark.parametrize("runs", [True, False])
def test_the_check_of_fp8_also_ends_on_a_processor_without_that_product(runs, monkeypatch, capsys):
    def refuses(*_, **__):
        raise RuntimeError("could not create a primitive descriptor for the matmul primitive")

    if not runs:
        monkeypatch.setattr(torch, "_scaled_mm", refuses)
    notebook = nbformat.read(next(chapters.NOTEBOOKS.glob("05_*.ipynb")), as_version=4)
    [cell] = [cell.source for cell in notebook.cells if cell.cell_type == "code" and "torch._scaled_mm" in cell.source]
    exec(cell, {"torch": torch, "fp8_blocks": lift("05", "fp8_blocks")})
    assert "equal to torch's FP8 product, where that runs: True" in capsys.readouterr().out


def test_the_roofline_is_the_slower_of_reading_and_multiplying(monkeypatch):
    roofline = lift("05", "roofline")
    rates = {"bytes": 10.0, "float32": 100.0, "bfloat16": 1000.0}
    costs = {"BF16": (2, "bfloat16"), "four bits": (0.625, "float32")}
    for name, found in {"rates": rates, "costs": costs}.items():
        monkeypatch.setitem(roofline.__globals__, name, found)
    assert roofline("four bits", 1) == 0.0625 and roofline("BF16", 1) == 0.2  # bytes
    assert roofline("four bits", 20) == 0.4 and roofline("BF16", 200) == 0.4  # arithmetic
    turn = rates["float32"] / rates["bytes"]  # where the arithmetic of four bits takes as long as BF16's bytes
    assert roofline("four bits", turn) == roofline("BF16", turn)
