"""The shipped pretraining loop against a plain float32 loop, on the same model and the same batches."""

from collections.abc import Callable, Iterator

import torch
from transformers import AutoModelForCausalLM

from tools import pretrain
from utils import architecture, corpus, measure, models

STEPS = 12
RECIPE = pretrain.Recipe(warmup=4)


OneStep = Callable[[torch.Tensor, int], float]
"""Trains on the tokens (windows, tokens) of a step with its number; returns the loss."""


def _plain() -> OneStep:
    """What one writes first: the library's class, float32, a new AdamW, nothing chosen for speed."""
    torch.manual_seed(RECIPE.seed)
    device = models.best_device()
    model = AutoModelForCausalLM.from_config(pretrain.CONFIGS["mini"]()).train().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=RECIPE.weight_decay)

    def one_step(ids: torch.Tensor, step: int) -> float:
        optimizer.param_groups[0]["lr"] = RECIPE.rate(step)
        loss = model(input_ids=ids.to(device), labels=ids.to(device), use_cache=False).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), RECIPE.clip)
        optimizer.step()
        return loss.item()

    return one_step


def _rate(dtype: torch.dtype) -> float:
    """FLOP a second of large matrix products on this machine."""
    a = torch.rand(2048, 2048, device=models.best_device(), dtype=dtype)
    once = measure.paired_ratio(lambda: a @ a, lambda: a @ a, pairs=5).first_seconds
    return 2 * len(a) ** 3 / once


def measured_lines() -> Iterator[str]:
    """The ratio of a step's time, tokens a second, the share of the machine, and the losses after the same batches."""
    texts = list(corpus.training_texts(tests=False).values())[:200]
    tokens = corpus.encode(texts, models.mini_tokenizer())
    plain, shipped = list[float](), list[float]()

    def loop(one_step: OneStep, losses: list[float]) -> Callable[[], None]:
        """One step on with each call, on the next batch."""

        def step() -> None:
            ids = corpus.batch(tokens, len(losses), RECIPE.batch, RECIPE.window, RECIPE.seed)
            losses.append(one_step(ids, len(losses)))

        return step

    training = pretrain.Training("mini", RECIPE)
    ratio = measure.paired_ratio(loop(_plain(), plain), loop(training.step, shipped), pairs=STEPS)
    size = RECIPE.batch * RECIPE.window
    yield f"training step: plain float32 / shipped loop   {ratio}"
    yield f"tokens a second: plain {size / ratio.first_seconds:,.0f}, shipped {size / ratio.second_seconds:,.0f}"
    # forward, and twice as much backward, with the weights; attention's own products come on top
    flops = 3 * size * architecture.flops_per_token(training.plain.config, 0).total
    for name, dtype, seconds in (
        ("plain", torch.float32, ratio.first_seconds),
        ("shipped", training.twin.computing.dtype, ratio.second_seconds),
    ):
        share = flops / seconds / _rate(dtype)
        yield f"{name}: {flops / seconds / 1e9:,.0f} GFLOP/s, {share:.0%} of large products in {str(dtype)[6:]}"
    yield f"loss after {len(plain)} steps: plain {plain[-1]:.3f}, shipped {shipped[-1]:.3f}"
