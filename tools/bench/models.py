"""Counting, forward passes and decoding of the language model."""

from collections.abc import Callable, Iterator

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from utils import architecture, catalog, measure, models


def _counting() -> measure.Ratio:
    ready = AutoConfig.for_model(**catalog.get("DeepSeek-V3").config)

    def on_meta() -> None:
        with torch.device("meta"):
            AutoModelForCausalLM.from_config(ready)

    return measure.paired_ratio(on_meta, lambda: architecture.count_parameters(ready))


def _forward(first: dict[str, str], second: dict[str, str]) -> measure.Ratio:
    """One pass over 256 tokens, with a model loaded in two ways."""

    def reading(options: dict[str, str]) -> Callable[[], object]:
        model = models.load_language_model(**options)
        tokens = (torch.arange(256) + 1000)[None].to(model.device)  # (1, 256)
        return lambda: model(tokens)

    with torch.no_grad():
        return measure.paired_ratio(reading(first), reading(second))


def _decoding() -> measure.Ratio:
    model = models.load_language_model()
    prompt = torch.arange(64, device=model.device)[None] + 1000  # (1, 64)

    def generate(use_cache: bool) -> Callable[[], object]:
        options = {"max_new_tokens": 24, "min_new_tokens": 24, "do_sample": False, "use_cache": use_cache}
        return lambda: model.generate(prompt, attention_mask=torch.ones_like(prompt), **options)

    return measure.paired_ratio(generate(False), generate(True), pairs=5)


def measured_lines() -> Iterator[str]:
    """Each ratio with its spread."""
    yield f"count V3: meta device / closed form           {_counting()}"
    yield f"forward, 256 tokens: eager / sdpa attention   {_forward({'attention': 'eager'}, {})}"
    yield f"forward, 256 tokens: float32 / bfloat16       {_forward({}, {'precision': 'bfloat16'})}"
    yield f"24 new tokens: without / with KV cache        {_decoding()}"
