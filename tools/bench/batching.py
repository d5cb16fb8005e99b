"""Serving 32 mixed requests: one by one, in static batches, by a token budget, and with continuous batching."""

import random
from collections.abc import Callable, Iterator

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig, PreTrainedModel

from utils import measure, models

ROWS, BUDGET, NEW = 16, 512, 8  # rows of a fixed batch; positions of a prefill; tokens that each request orders
LENGTHS = [min(192, max(4, round(16 * random.Random(n).lognormvariate(0, 1.2)))) for n in range(32)]


def in_order(lengths: list[int], rows: int) -> list[list[int]]:
    """Batches of so many requests, as they come; a batch lists the places of its requests."""
    return [list(range(start, min(start + rows, len(lengths)))) for start in range(0, len(lengths), rows)]


def within_budget(lengths: list[int], budget: int) -> list[list[int]]:
    """Batches of similar lengths, with rows times longest within the budget.

    Raises:
        ValueError: a request alone is longer than the budget.
    """
    if max(lengths) > budget:
        raise ValueError(f"a request of {max(lengths)} tokens does not fit a budget of {budget}")
    batches: list[list[int]] = []
    for place in sorted(range(len(lengths)), key=lengths.__getitem__):
        if not batches or (len(batches[-1]) + 1) * lengths[place] > budget:
            batches.append([])
        batches[-1].append(place)
    return batches


def padding(lengths: list[int], batches: list[list[int]]) -> float:
    """Share of the prefills' positions that are padding."""
    return 1 - sum(lengths) / sum(len(batch) * max(lengths[place] for place in batch) for batch in batches)


def _static(model: PreTrainedModel, prompts: list[list[int]], batches: list[list[int]]) -> Callable[[], None]:
    def run() -> None:
        for batch in batches:
            longest = max(len(prompts[place]) for place in batch)
            rows = [[0] * (longest - len(prompts[place])) + prompts[place] for place in batch]
            mask = [[0] * (longest - len(prompts[place])) + [1] * len(prompts[place]) for place in batch]
            model.generate(
                torch.tensor(rows, device=model.device),  # (rows, longest), padded on the left
                attention_mask=torch.tensor(mask, device=model.device),
                max_new_tokens=NEW,
            )

    return run


def _continuous(model: PreTrainedModel, prompts: list[list[int]]) -> Callable[[], object]:
    settings = GenerationConfig(do_sample=False, eos_token_id=-1, max_new_tokens=NEW)
    blocks = sum(-(-(len(prompt) + NEW) // 16) for prompt in prompts) + 64
    limits = ContinuousBatchingConfig(
        page_size=16,
        num_blocks=blocks,
        max_batch_tokens=256,
        max_requests_per_batch=32,
        allow_block_sharing=False,
        auto_switch_to_flash=False,
    )
    return lambda: model.generate_batch(prompts, settings, limits, warmup=False)


def _prompts() -> list[list[int]]:
    return [[1000 + (31 * n + k) % 40_000 for k in range(length)] for n, length in enumerate(LENGTHS)]


def lines() -> Iterator[str]:
    """Padding shares, then each ratio with its spread."""
    model = models.load_language_model()
    model.generation_config.eos_token_id = None  # every answer has the ordered length
    prompts = _prompts()
    ordered, budgeted = in_order(LENGTHS, ROWS), within_budget(LENGTHS, BUDGET)
    shares = [f"{padding(LENGTHS, batches):.0%}" for batches in (ordered, budgeted)]
    yield f"padding: {shares[0]} with {ROWS} in order, {shares[1]} with a token budget"
    one_by_one = _static(model, prompts, in_order(LENGTHS, 1))
    fixed, budget, engine = (
        _static(model, prompts, ordered),
        _static(model, prompts, budgeted),
        _continuous(model, prompts),
    )
    name = f"{len(LENGTHS)} requests"
    yield f"{name}: one by one / {ROWS} in order              {measure.paired_ratio(one_by_one, fixed, pairs=3)}"
    yield f"{name}: {ROWS} in order / token budget            {measure.paired_ratio(fixed, budget, pairs=3)}"
    yield f"{name}: {ROWS} in order / continuous batching     {measure.paired_ratio(fixed, engine, pairs=3)}"
    yield f"{name}: token budget / continuous batching   {measure.paired_ratio(budget, engine, pairs=3)}"
