"""What a learner's shell can do: `python -m utils` with `params` and `plan`."""

import json
import sys
from dataclasses import asdict
from typing import Annotated

from typer import Argument, Option

from utils import architecture, catalog, planner, shapes
from utils.cards import parse_card
from utils.errors import InputError
from utils.shell import commands, exit_code

app = commands("DeepSeek by the Numbers: counts of parameters, and plans of deployments.")

Context = Annotated[int, Option(metavar="TOKENS", help="context length")]
Batch = Annotated[int, Option(help="sequences at a time")]
Json = Annotated[bool, Option("--json", help="print JSON instead of a table")]


@app.command()
def params(
    model: Annotated[str, Argument(help='DeepSeek-V3, a config.json or its folder; "list" names all known')],
    context: Context = 4096,
    batch: Batch = 1,
    dtype: Annotated[str, Option(help='of the weights, or "published"')] = "bfloat16",
    cache_dtype: Annotated[str, Option(help="number format of the cache")] = "bfloat16",
    as_json: Json = False,
) -> None:
    """Parameters, memory and FLOPs of a DeepSeek model, or of a relative."""
    if model == "list":
        print("\n".join(known.name for known in catalog.models() if known.model_type in shapes.REQUIRED))
        return
    name, config = planner.open_model(model)
    count, work = architecture.count_parameters(config), architecture.flops_per_token(config, context)
    cache = f"KV cache, {batch} x {context:,} tokens in {cache_dtype}, bytes"
    summary = {
        "parameters": count.total,
        **{f"  {group.replace('_', ' ')}": size for group, size in count.groups().items() if size},
        "not in the class: MTP layer": count.mtp,
        "not in the class: router bias": count.router_bias,
        "activated, without embedding and head": count.activated(),
        "activated, with head": count.activated(include_head=True),
        "activated, with both": count.activated(include_embedding=True, include_head=True),
        f"weights in {dtype}, bytes": architecture.weight_bytes(config, dtype),
        cache: architecture.kv_cache_bytes(config, context, batch, cache_dtype),
        f"FLOPs for one token at {context:,} tokens": work.total,
        "  of which products with weights": work.weights,
        "  of which attention": work.attention,
    }
    if as_json:
        print(json.dumps({"model": name, **{label.strip(): value for label, value in summary.items()}}, indent=1))
        return
    source = next((known.facts["config_source"] for known in catalog.models() if known.name == name), model)
    print(f"{name} ({config['model_type']}); source: {source}")
    for label, value in summary.items():
        print(f"  {label:<{max(map(len, summary))}}  {value:>23,}")


@app.command()
def plan(
    model: Annotated[str, Argument(help="for example DeepSeek-V3, a config.json or its folder")],
    hardware: Annotated[str | None, Option(help="cards, for example 8xH200 (the default) or A100-40GB")] = None,
    card: Annotated[str | None, Option(metavar="name=…,memory=…,bandwidth=…,bf16=…", help="one of your own")] = None,
    cards: Annotated[int | None, Option(metavar="N", help="number of cards, if --hardware does not say it")] = None,
    precision: Annotated[str, Option(help="of the weights (default: as published)")] = "published",
    cache: Annotated[str, Option(help="number format of the cache, or fp8_ds_mla")] = "bfloat16",
    context: Context = 4096,
    answer: Annotated[int, Option(metavar="TOKENS", help="of them written, for the cost")] = 0,
    batch: Batch = 1,
    link: Annotated[float | None, Option(metavar="BYTES", help="a second from other cards")] = None,
    split: Annotated[str | None, Option(help='such as "pipeline 2 x tensor 4" (default: the best one)')] = None,
    plain: Annotated[bool, Option("--plain", help="plain library code in place of a server")] = False,
    price: Annotated[float | None, Option(help="of a card for an hour, for the cost")] = None,
    as_json: Json = False,
) -> None:
    """Plan a deployment: does it fit, where do the bytes go, how fast at best."""
    if card and hardware:
        raise InputError("--card and --hardware both name cards; give one of them")
    kind = parse_card(card) if card else hardware or ("8xH200" if cards is None else "H200")
    made = planner.plan(model, kind, precision, context, batch, cards, cache, answer, link, price, split, plain)
    if as_json:
        print(json.dumps(asdict(made), indent=1))
        return
    sizes = {name: getattr(made, name) for name in ("weights", "cache", "activations", "needed", "memory")}
    sizes |= {f"fullest card, {split} split": size for split, size in made.per_card.items()}
    sizes |= {f"fullest card, {made.split}": made.fullest, "room on a card": made.room}
    within = "{:.2f} to {:.2f}".format(*planner.AGAINST_MEASURED)
    about = {"activations": f"  (an estimate: sums were {within} times what was measured)"}
    formats = f"{made.precision}, cache in {made.cache_precision}"
    print(f"{made.model} ({formats}) on {made.hardware}, {made.batch} x {made.context:,} tokens")
    for name, size in sizes.items():
        print(f"  {name:<{max(map(len, sizes))}}{size / 1e9:>11,.2f} GB{about.get(name, '')}")
    fits = f"it fits: {made.split}" if made.fits else "it does not fit: no split leaves room on every card"
    print(f"  {fits}; cards needed at least: {made.cards_needed or 'more than can be told'}")
    print(f"  first token after at least {made.first_token_seconds:.3f} s, if one prompt is alone")
    print(f"  all prompts take at least {made.prefill_seconds:.2f} s (bound by {made.prefill_bound})")
    print(f"  a token for each takes at least {1e3 * made.step_seconds:.2f} ms (bound by {made.step_bound})")
    if made.step_floor < made.step_seconds:
        print(f"    if experts are chosen equally often; {1e3 * made.step_floor:.2f} ms if all choose the same")
    print(f"  at most {made.tokens_per_second:,.0f} tokens a second")
    if made.cost is not None:
        print(f"  a million written tokens cost at least {made.cost:,.3f}")


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    return exit_code(app, "python -m utils", arguments)


if __name__ == "__main__":
    sys.exit(main())
