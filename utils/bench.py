"""Side-by-side ratios for `make bench`: each line times two ways of doing one thing, pair by pair."""

import sys
from collections.abc import Callable, Iterator

from utils import measure


def _counting() -> tuple[str, measure.Ratio]:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from utils import architecture, catalog

    config = dict(catalog.get("DeepSeek-V3").config)
    ready = AutoConfig.for_model(**config)

    def on_meta() -> None:
        with torch.device("meta"):
            AutoModelForCausalLM.from_config(ready)

    return "count V3: meta device / closed form", measure.paired_ratio(
        on_meta, lambda: architecture.count_parameters(ready)
    )


def _forward_passes() -> Iterator[tuple[str, measure.Ratio]]:
    import torch

    from utils import models

    tokens = torch.arange(256)[None] + 1000  # (1, 256)
    plain = models.load_language_model()
    variants = {
        "forward, 256 tokens: eager / sdpa attention": (models.load_language_model(attention="eager"), plain),
        "forward, 256 tokens: float32 / bfloat16": (plain, models.load_language_model(precision="bfloat16")),
    }
    for name, (first, second) in variants.items():
        with torch.no_grad():
            yield (
                name,
                measure.paired_ratio(
                    lambda first=first: first(tokens.to(first.device)),
                    lambda second=second: second(tokens.to(second.device)),
                ),
            )


def _decoding() -> tuple[str, measure.Ratio]:
    import torch

    from utils import models

    model = models.load_language_model()
    prompt = torch.arange(64, device=model.device)[None] + 1000  # (1, 64)

    def generate(use_cache: bool) -> Callable[[], object]:
        return lambda: model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=24,
            min_new_tokens=24,
            do_sample=False,
            use_cache=use_cache,
        )

    return "24 new tokens: without / with KV cache", measure.paired_ratio(generate(False), generate(True), pairs=5)


def run() -> int:
    """Print every ratio with its spread; above 1 means that the second way is faster."""
    print("Ratios of time, median of pairs with quartiles; above 1 the second way is faster.", flush=True)
    results: list[Callable[[], Iterator[tuple[str, measure.Ratio]]]] = [
        lambda: iter([_counting()]),
        _forward_passes,
        lambda: iter([_decoding()]),
    ]
    for result in results:
        for name, ratio in result():
            print(f"  {name:<48} {ratio}", flush=True)
            sys.stdout.flush()
    return 0
