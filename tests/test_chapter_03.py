"""What chapter 03 builds in its cells, against PyTorch and against exact values."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lifting import lift
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

from utils import catalog

OwnAdamW, clip_norm, clip_value = lift("03", "OwnAdamW", "clip_norm", "clip_value")
constant, warmup_cosine, sgdr, multi_step, v3_schedule = lift(
    "03", "constant", "warmup_cosine", "sgdr", "multi_step", "v3_schedule"
)
fact, parts = lift("03", "fact", "parts")
SHAPES = st.lists(st.lists(st.integers(1, 5), min_size=0, max_size=3), min_size=1, max_size=4)
SEEDS = st.integers(0, 2**31)


def parameters(shapes: list[list[int]], seed: int) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64)) for shape in shapes]


def set_gradients(mine: list, theirs: list, size: float) -> None:
    for a, b in zip(mine, theirs, strict=True):
        a.grad = size * torch.randn_like(a)
        b.grad = a.grad.clone()


@settings(deadline=None, max_examples=40)
@given(
    SHAPES, SEEDS, st.floats(1e-5, 0.5), st.floats(0, 0.99), st.floats(0, 0.999), st.floats(0, 1),
    st.sampled_from([1e-8, 1e-3]),
)  # fmt: skip
def test_own_adamw_is_torchs(shapes, seed, lr, beta1, beta2, weight_decay, eps):
    mine, theirs = parameters(shapes, seed), parameters(shapes, seed)
    options = {"lr": lr, "betas": (beta1, beta2), "eps": eps, "weight_decay": weight_decay}
    own, library = OwnAdamW(mine, **options), torch.optim.AdamW(theirs, **options)
    torch.manual_seed(seed)
    for _ in range(6):
        set_gradients(mine, theirs, 1.0)
        own.step()
        library.step()
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_own_adamw_leaves_a_parameter_without_gradient_alone():
    (weight,) = parameters([[3]], 0)
    before = weight.detach().clone()
    OwnAdamW([weight], lr=0.1).step()
    assert torch.equal(weight, before)


@settings(deadline=None, max_examples=40)
@given(SHAPES, SEEDS, st.floats(1e-3, 1e3), st.floats(1e-2, 10))
def test_own_clipping_is_torchs(shapes, seed, size, limit):
    for own, library in ((clip_norm, clip_grad_norm_), (clip_value, clip_grad_value_)):
        mine, theirs = parameters(shapes, seed), parameters(shapes, seed)
        torch.manual_seed(seed)
        set_gradients(mine, theirs, size)
        norm, expected = own(mine, limit), library(theirs, limit)
        assert norm == (None if expected is None else pytest.approx(float(expected), rel=1e-9))
        for a, b in zip(mine, theirs, strict=True):
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_own_clipping_meets_infinity_and_nan_as_torchs_does(bad: float):
    mine, theirs = parameters([[3], [2, 2]], 0), parameters([[3], [2, 2]], 0)
    torch.manual_seed(0)
    set_gradients(mine, theirs, 0.01)  # shorter than the limit, but for the bad number
    mine[0].grad[1] = theirs[0].grad[1] = bad
    norm, expected = clip_norm(mine, 1.0), clip_grad_norm_(theirs, 1.0)
    assert norm == pytest.approx(float(expected), nan_ok=True)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad, equal_nan=True)
    assert not any(p.grad.isfinite().all() for p in mine) or not math.isnan(bad)


def test_the_claims_recipe_is_asked_for_part_by_part():
    assert parts("cosine", 1e-4, 0.05) == [True, True, True]
    assert parts("steps", 1.1e-4, 0.02) == [False, False, False]
    assert parts("cosine", 1e-4, None) == [True, True, False]


def test_the_facts_that_the_verdict_on_schedules_rests_on_were_read():
    for model, topic in (("DeepSeek-Coder", "lr/batch"), ("DeepSeek-V4", "schedule"), ("DeepSeek-R1", "distillation")):
        (found,) = catalog.training_facts(model, topic)
        assert found.status == "seen_primary"
    assert fact("DeepSeek-R1", "distillation")["initial"]["Qwen-1.5B"] == 1e-4
    assert fact("DeepSeek-V4", "schedule")["Pro"]["peak"] == 2.0e-4
    assert fact("DeepSeek-Coder", "lr/batch")["1.3B"] == [1024, 5.3e-4]


def test_one_infinite_number_spoils_a_clipped_step():
    one_bad_number = lift("03", "one_bad_number")
    one_bad_number.__globals__["tokens"] = torch.randint(256, (4096,), generator=torch.Generator().manual_seed(0))
    weights, loss = one_bad_number(1e6)
    assert weights == 0
    assert math.isfinite(loss)
    assert [one_bad_number(bad)[0] for bad in (math.inf, math.nan)] == [1, 129_408]


def test_clipping_keeps_the_direction_and_leaves_short_gradients_alone():
    for size, expected in ((0.01, 0.01), (30.0, 1.0)):
        (weight,) = parameters([[4]], 0)
        weight.grad = torch.full((4,), size / 2, dtype=torch.float64)
        clip_norm([weight], 1.0)
        assert weight.grad.tolist() == pytest.approx([expected / 2] * 4, rel=1e-6)


def torch_rates(make, steps: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler, rates = make(optimizer), []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize(("steps", "warmup"), [(20, 4), (280, 14), (101, 1), (50, 49)])
def test_warm_up_and_cosine_are_torchs_linear_and_cosine(steps: int, warmup: int):
    rates = [warmup_cosine(step, steps, warmup) for step in range(steps)]
    assert rates[:warmup] == pytest.approx([(step + 1) / warmup for step in range(warmup)])
    falling = torch_rates(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=steps - warmup), steps)
    assert rates[warmup - 1 :] == pytest.approx(falling[: steps - warmup + 1], abs=1e-12)


@pytest.mark.parametrize("schedule", [constant, warmup_cosine, multi_step, v3_schedule])
@pytest.mark.parametrize(("steps", "warmup"), [(20, 4), (280, 14), (1000, 20)])
def test_the_peak_is_one_and_stands_where_the_warm_up_ends(schedule, steps: int, warmup: int):
    rates = [schedule(step, steps, warmup) for step in range(steps)]
    assert max(rates) == 1.0
    assert rates.index(1.0) == warmup - 1
    assert rates[0] == pytest.approx(1 / warmup)
    assert all(a >= b for a, b in zip(rates[warmup - 1 :], rates[warmup:], strict=False))


def test_sgdr_is_torchs_and_restarts_twice():
    make = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts
    rates = [sgdr(step, 280) for step in range(280)]
    assert rates == pytest.approx(torch_rates(lambda o: make(o, T_0=40, T_mult=2), 280), abs=1e-12)
    assert [step for step in range(280) if rates[step] == 1.0] == [0, 40, 120]


def test_the_multi_step_schedule_has_the_documented_factors():
    rates = [multi_step(step, 1000, 10) for step in range(1000)]
    assert [rates[step] for step in (9, 799, 800, 899, 900, 999)] == [1.0, 1.0, 0.316, 0.316, 0.1, 0.1]


def test_v3_has_the_documented_parts():
    steps = 148_000  # one step for 100 million tokens, so that the corners fall on whole steps
    rates = {
        step: v3_schedule(step, steps, 2000) for step in (1999, 99_999, 121_500, 143_000, 146_329, 146_330, 147_999)
    }
    assert [rates[step] for step in (1999, 99_999)] == [1.0, 1.0]
    assert rates[121_500] == pytest.approx((1 + 0.1) / 2)  # half of the cosine
    assert [rates[143_000], rates[146_329]] == pytest.approx([0.1, 0.1])
    assert [rates[146_330], rates[147_999]] == pytest.approx([7.3e-6 / 2.2e-4] * 2)


@pytest.mark.parametrize("schedule", [constant, warmup_cosine, multi_step, v3_schedule])
@pytest.mark.parametrize("warmup", [-1, 100, 2000])
def test_a_warm_up_that_does_not_fit_the_run_is_an_error(schedule, warmup: int):
    with pytest.raises(ValueError, match=rf"less than the 100 steps of the run; got {warmup}"):
        schedule(0, 100, warmup)


def test_lifting_names_what_is_missing():
    with pytest.raises(LookupError, match=r"03_.* does not define NoSuchThing"):
        lift("03", "NoSuchThing")
    with pytest.raises(LookupError, match="begins with '99'"):
        lift("99", "anything")
    assert math.isclose(lift("03", "cosine")(0.5), 0.5)
