"""The shipped pretraining loop against a plain float32 loop, on the same model and the same batches."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from transformers import AutoModelForCausalLM

from tools import pretrain
from utils import corpus, measure, models

STEPS = 12
RECIPE = pretrain.Recipe(warmup=4)


@dataclass
class _Loop:
    """A training that goes one step on with each call of `step`, and keeps its losses."""

    one_step: Callable[[torch.Tensor, int], float]
    tokens: torch.Tensor
    losses: list[float]

    def step(self) -> None:
        number = len(self.losses)
        ids = corpus.batch(self.tokens, number, RECIPE.batch, RECIPE.window, RECIPE.seed)  # (windows, tokens)
        self.losses.append(self.one_step(ids, number))


def _shipped(tokens: torch.Tensor) -> _Loop:
    accelerator = pretrain.new_accelerator()
    plain = pretrain.new_model("mini", RECIPE.seed)
    model, optimizer = accelerator.prepare(plain, pretrain.optimizer_for(plain, RECIPE))
    balance = pretrain.RouterBalance(plain, RECIPE.balance)
    model.train()

    def one_step(ids: torch.Tensor, step: int) -> float:
        return pretrain.training_step(accelerator, model, optimizer, balance, ids, RECIPE, step)

    return _Loop(one_step, tokens, [])


def _plain(tokens: torch.Tensor) -> _Loop:
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

    return _Loop(one_step, tokens, [])


def measured_lines() -> Iterator[str]:
    """The ratio of a step's time, tokens a second, and the losses of both loops after the same batches."""
    texts = list(corpus.training_texts(tests=False).values())[:200]
    tokens = corpus.encode(texts, models.mini_tokenizer())
    plain, shipped = _plain(tokens), _shipped(tokens)
    ratio = measure.paired_ratio(plain.step, shipped.step, pairs=STEPS)
    size = RECIPE.batch * RECIPE.window
    yield f"training step: plain float32 / shipped loop   {ratio}"
    yield f"tokens a second: plain {size / ratio.first_seconds:,.0f}, shipped {size / ratio.second_seconds:,.0f}"
    yield f"loss after {len(plain.losses)} steps: plain {plain.losses[-1]:.3f}, shipped {shipped.losses[-1]:.3f}"
