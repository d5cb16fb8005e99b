"""The twin computes what the library's model computes: loss, every gradient, and the course of a training."""

import math

import pytest
import torch
from transformers import AutoModelForCausalLM

from tools import pretrain, twin
from utils import corpus, measure, models

IDS = torch.randint(1, pretrain.VOCABULARY, (3, 70), generator=torch.Generator().manual_seed(0))


def new_model(kind: str, dtype: torch.dtype = torch.float32, **changes: int) -> torch.nn.Module:
    """A model with weights far from their start, whose router is uneven: some experts get few tokens or none."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(pretrain.CONFIGS[kind](**changes)).train()
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.02 * torch.randn_like(weight)
        for name, buffer in model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                buffer.normal_(std=0.5)
    return model.to(dtype)


def distance(model: torch.nn.Module, computing: twin.Twin) -> tuple[float, dict[str, float]]:
    """Of the twin from the library: of the loss, and of each gradient as a share of its length."""
    loss = model(input_ids=IDS, labels=IDS, use_cache=False).loss
    loss.backward()
    wanted = {name: weight.grad for name, weight in model.named_parameters()}
    model.zero_grad()
    found = computing(IDS)
    found.backward()
    computing.hand_over()
    pairs = {name: (weight.grad, wanted[name]) for name, weight in model.named_parameters()}
    return abs(found.item() - loss.item()), {n: float((a - b).norm() / b.norm()) for n, (a, b) in pairs.items()}


@pytest.mark.parametrize(("kind", "changes"), [("mini", {}), ("dense", {"num_key_value_heads": 2}), ("dense", {})])
def test_in_float32_loss_and_gradients_are_the_librarys(kind: str, changes: dict) -> None:
    model = new_model(kind, **changes)
    computing = twin.Twin(model, torch.float32)
    assert all(a is b for a, b in zip(model.parameters(), computing.computing.parameters(), strict=True))
    loss, gradients = distance(model, computing)
    assert loss < 1e-5 and max(gradients.values()) < 1e-5


def test_in_bfloat16_both_are_within_its_rounding() -> None:
    model = new_model("dense")
    loss, gradients = distance(model, twin.Twin(model, torch.bfloat16))
    assert loss < 0.005 and 0 < max(gradients.values()) < 0.05
    model = new_model("mini")  # here a token near a tie may go to another expert
    loss, gradients = distance(model, twin.Twin(model, torch.bfloat16))
    assert loss < 0.01 and max(gradients.values()) < 0.4 and sorted(gradients.values())[len(gradients) // 2] < 0.1


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("_experts", lambda right: lambda self, x, chosen, shares: right(self, x, chosen.flip(1), shares)),
        ("_attention", lambda right: lambda *inputs, scaling, **rest: right(*inputs, scaling=1.1 * scaling, **rest)),
    ],
)
def test_a_wrong_part_is_seen(name: str, wrong, monkeypatch: pytest.MonkeyPatch) -> None:
    interface = twin.ExpertsInterface if name == "_experts" else twin.AttentionInterface
    monkeypatch.setitem(interface._global_mapping, twin.FEW, wrong(getattr(twin, name)))
    model = new_model("mini")
    loss, gradients = distance(model, twin.Twin(model, torch.float32))
    assert loss > 1e-4 and max(gradients.values()) > 1e-3


def test_weights_are_the_models_and_the_twin_follows() -> None:
    model = new_model("mini")
    computing = twin.Twin(model, torch.bfloat16)
    before = computing(IDS).item()
    with torch.no_grad():
        model.lm_head.weight *= 2
    assert computing(IDS).item() == before
    computing.refresh()
    assert computing(IDS).item() != before
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    bias = model.model.layers[1].mlp.gate.e_score_correction_bias
    assert computing.computing.model.layers[1].mlp.gate.e_score_correction_bias is bias and bias.dtype == torch.float32


@pytest.mark.parametrize("half", [True, False])
def test_a_training_ends_where_the_librarys_ends(half: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "has_fast_bfloat16", lambda *_: half)
    recipe = pretrain.Recipe(steps=24, batch=4, window=64, warmup=4)
    tokens = corpus.encode([corpus.held_out()["statistics"]], models.mini_tokenizer())
    training = pretrain.Training("dense", recipe)
    model = AutoModelForCausalLM.from_config(pretrain.CONFIGS["dense"]()).train()
    model.load_state_dict(training.plain.state_dict())
    matrices = [weight for weight in model.parameters() if weight.ndim > 1]
    groups = [{"params": matrices}, {"params": [w for w in model.parameters() if w.ndim <= 1], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=recipe.weight_decay)
    ours, theirs = [], []
    for step in range(recipe.steps):
        ids = corpus.batch(tokens, step, recipe.batch, recipe.window)
        ours.append(training.step(ids, step))
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate(step)
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        optimizer.step()
        theirs.append(loss.item())
    assert ours == pytest.approx(theirs, abs=0.02 if half else 1e-3)
    assert theirs[-1] < theirs[0] - 1.5


def test_two_halves_of_a_batch_are_a_step_on_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three windows: halves of different size; and the experts of both are counted."""
    monkeypatch.setattr(measure, "has_fast_bfloat16", lambda *_: False)
    before, ends = torch.get_num_threads(), []
    ids = torch.randint(5, 2000, (3, 40), generator=torch.Generator().manual_seed(0))
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            training = pretrain.Training("mini", pretrain.Recipe(steps=4, batch=3, window=40, warmup=1))
            losses = [training.step(ids, step) for step in range(3)]
            biases = [router.e_score_correction_bias.clone() for router in training.balance.routers]
            ends.append((losses, biases, training.plain.lm_head.weight.detach().clone()))
    finally:
        torch.set_num_threads(before)
    (whole, biases, weight), (halves, their_biases, their_weight) = ends
    assert halves == pytest.approx(whole, abs=1e-4) and whole[-1] < whole[0]
    assert all(map(torch.equal, biases, their_biases)) and biases[0].any()
    assert torch.allclose(weight, their_weight, atol=1e-4)


@pytest.mark.parametrize(("kind", "threads"), [("dense", 1), ("mini", 2)])
@pytest.mark.parametrize("half", [True, False])
def test_a_loss_that_is_no_number_changes_nothing(kind: str, threads: int, half: bool, monkeypatch) -> None:
    monkeypatch.setattr(measure, "has_fast_bfloat16", lambda *_: half)
    before = torch.get_num_threads()
    training = pretrain.Training(kind, pretrain.Recipe(steps=4, batch=4, window=64, warmup=1))
    with torch.no_grad():
        training.plain.lm_head.weight[0, 0] = math.nan
    training.twin.refresh()
    weights = [weight.detach().clone() for weight in training.plain.parameters()]
    torch.set_num_threads(threads)
    try:
        assert math.isnan(training.step(IDS, 0))
    finally:
        torch.set_num_threads(before)
    for weight, kept in zip(training.plain.parameters(), weights, strict=True):
        assert torch.equal(weight.nan_to_num(), kept.nan_to_num()) and weight.grad is None
    assert all(weight.grad is None for weight in training.twin.computing.parameters())
    assert not any(load.any() for load in training.balance.loads)
