"""One decoding step of multi-head latent attention in three forms, by context length, with V3's proportions.

Rebuilding expands the cached latents anew at every step; the expanded cache keeps keys and values of all heads;
absorbing moves the expansion into the query (DeepSeek-V2 report, section 2.1; chapter 02 explains it).
"""

from collections.abc import Iterator

import torch

from utils import measure, models

HEADS, NOPE, ROPE, VALUE, LATENT = 16, 64, 32, 64, 256
CONTEXTS = (256, 1024, 4096, 16384)


def _attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """query (..., d), key (tokens, d) and value (tokens, v), or a key and a value for each head -> (..., v)"""
    return (query @ key.mT / (NOPE + ROPE) ** 0.5).softmax(-1) @ value


def forms(context: int) -> dict[str, object]:
    device = models.best_device()
    latent = torch.randn(1, context, LATENT, device=device)
    position = torch.randn(1, context, ROPE, device=device)  # the RoPE key that all heads share
    up_key = torch.randn(HEADS, NOPE, LATENT, device=device) / LATENT**0.5
    up_value = torch.randn(HEADS, VALUE, LATENT, device=device) / LATENT**0.5
    query, turned = torch.randn(HEADS, 1, NOPE, device=device), torch.randn(HEADS, 1, ROPE, device=device)

    def expand() -> tuple[torch.Tensor, torch.Tensor]:
        key = torch.cat([latent @ up_key.mT, position.expand(HEADS, -1, -1)], dim=-1)
        return key, latent @ up_value.mT

    def absorbed() -> torch.Tensor:
        # All heads read the same latents, so that they are the rows of one matrix here.
        rows = torch.cat([query @ up_key, turned], dim=-1)[:, 0]
        return _attend(rows, both[0], latent[0])[:, None] @ up_value.mT

    kept, whole_query = expand(), torch.cat([query, turned], dim=-1)
    both = torch.cat([latent, position], dim=-1)  # what the cache of MLA holds
    ways = {"rebuilt": lambda: _attend(whole_query, *expand()), "expanded cache": lambda: _attend(whole_query, *kept)}
    ways |= {"absorbed": absorbed}
    wanted = ways["rebuilt"]()
    for name, form in ways.items():
        if not torch.allclose(form(), wanted, atol=1e-3):
            raise AssertionError(f"{name} attention gives another result")
    return ways


@torch.no_grad()
def measured_lines() -> Iterator[str]:
    """Ratios for each context; the last column is what the expanded cache holds over what the latent one holds."""
    larger = HEADS * (NOPE + ROPE + VALUE) / (LATENT + ROPE)
    for context in CONTEXTS:
        ways = forms(context)
        rebuilt = measure.paired_ratio(ways["rebuilt"], ways["absorbed"], pairs=15, warmup=3)
        expanded = measure.paired_ratio(ways["expanded cache"], ways["absorbed"], pairs=15, warmup=3)
        yield f"{context:>6,} tokens: rebuilt / absorbed   {rebuilt}"
        yield f"{'':>6}         expanded / absorbed  {expanded}; its cache is {larger:.1f} times as large"
