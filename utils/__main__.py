"""What the shell can do: `python -m utils` with `lab`, `run`, `save`, `refresh`, `params`, `plan` and more."""

import argparse
import json
import sys
from pathlib import Path

from utils import __version__
from utils.errors import CourseError

PRETRAIN = {
    "steps": (int, "optimizer steps"),
    "batch": (int, "windows a step, over all processes"),
    "window": (int, "tokens a window"),
    "learning_rate": (float, "the peak"),
    "warmup": (int, "steps until the peak"),
    "seed": (int, "of weights and batches"),
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m utils", description="DeepSeek by the Numbers")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)

    lab = commands.add_parser("lab", help="open the course in JupyterLab, at chapter 00")
    lab.add_argument("notebooks", nargs="?", type=Path, help="folder of the chapters (default: the course's own)")
    lab.add_argument("--port", type=int, metavar="N", help="port on 127.0.0.1 (default: a free one from 8888 on)")
    lab.add_argument("--no-browser", action="store_true", help="print the address, open nothing")

    run = commands.add_parser("run", help="run chapters, write handouts and report to build/")
    run.add_argument("--only", metavar="05,07", help="chapters to run, separated by commas (default: all)")
    run.add_argument("--jobs", type=int, default=1, metavar="N", help="notebooks at the same time (default: 1)")
    run.add_argument("--record", action="store_true", help="keep seconds and memory for the course map")

    save = commands.add_parser("save", help="run chapters and store them with their outputs")
    save.add_argument("chapters", nargs="+", metavar="01", help="chapter numbers")
    save.add_argument("--record", action="store_true", help="keep seconds and memory for the course map")

    commands.add_parser("refresh", help="write the generated parts of notebooks and README anew")

    translate = commands.add_parser("translate", help="write a chapter in another language to build/")
    translate.add_argument("chapter", metavar="05", help="chapter number")
    translate.add_argument("--language", default="zh-CN", metavar="CODE", help="default: zh-CN")
    translate.add_argument("--extract", action="store_true", help="write or update the translation file instead")

    handouts = commands.add_parser("handouts", help="write handouts (HTML and PDF) of the saved notebooks to build/")
    handouts.add_argument("--only", metavar="05,07", help="chapters, separated by commas (default: all, and the book)")
    handouts.add_argument("--no-pdf", action="store_true", help="HTML only")

    slides = commands.add_parser("slides", help="write a deck of slides for each part of the course to build/")
    slides.add_argument("--only", metavar="1,3", help="parts, separated by commas (default: all)")

    publish = commands.add_parser("publish", help="set the repository that badges, set-up cells and links point to")
    publish.add_argument("repository", metavar="owner/name")
    publish.add_argument("--tag", metavar="v1.0", help="tag or branch that Colab opens and installs")

    params = commands.add_parser("params", help="parameters, memory and FLOPs of a DeepSeek model, or of a relative")
    params.add_argument("model", help='DeepSeek-V3, a config.json or its folder; "list" names all known')
    params.add_argument("--context", type=int, default=4096, metavar="TOKENS", help="context length (default: 4096)")
    params.add_argument("--batch", type=int, default=1, help="sequences in the KV cache (default: 1)")
    params.add_argument("--dtype", default="bfloat16", help='of the weights, or "published" (default: bfloat16)')
    params.add_argument("--cache-dtype", default="bfloat16", help="number format of the cache (default: bfloat16)")
    params.add_argument("--json", action="store_true", help="print JSON instead of a table")

    plan = commands.add_parser("plan", help="plan a deployment: does it fit, where do the bytes go, how fast at best")
    plan.add_argument("model", help="for example DeepSeek-V3, a config.json or its folder")
    plan.add_argument("--hardware", help="cards, for example 8xH200 (default) or A100-40GB")
    plan.add_argument("--card", metavar="name=…,memory=…,bandwidth=…,bf16=…", help="a card of your own, with --cards")
    plan.add_argument("--cards", type=int, metavar="N", help="number of cards, if --hardware does not say it")
    plan.add_argument("--precision", default="published", help="of the weights (default: as published)")
    plan.add_argument("--cache", default="bfloat16", help="of the cache, or fp8_ds_mla (default: bfloat16)")
    plan.add_argument("--context", type=int, default=4096, metavar="TOKENS", help="of a sequence (default: 4096)")
    plan.add_argument("--answer", type=int, default=0, metavar="TOKENS", help="of them written, for the cost")
    plan.add_argument("--batch", type=int, default=1, help="sequences at a time (default: 1)")
    plan.add_argument("--link", type=float, metavar="BYTES", help="a second from other cards (default: not counted)")
    plan.add_argument("--split", help='for example "tensor 8" or "pipeline 2 x tensor 4" (default: the best one)')
    plan.add_argument("--plain", action="store_true", help="plain library code in place of a server")
    plan.add_argument("--price", type=float, help="of a card for an hour, for the cost")
    plan.add_argument("--json", action="store_true", help="print JSON instead of a table")

    commands.add_parser("prepare", help="fetch and cache the language model")
    pretrain = commands.add_parser("pretrain", help="train the mini DeepSeek on Python's own source")
    pretrain.add_argument("--model", default="mini", choices=("mini", "dense"), help="default: mini")
    pretrain.add_argument("--folder", type=Path, help="where the run is kept (default: build/pretrain/MODEL)")
    for field, (kind, text) in PRETRAIN.items():
        pretrain.add_argument(f"--{field.replace('_', '-')}", type=kind, metavar="N", help=text)

    bench = commands.add_parser("bench", help="measure and print side-by-side ratios")
    bench.add_argument("--only", metavar="models", help="topics, separated by commas (default: all)")
    return parser


def _summary(config: dict, context: int, batch: int, dtype: str, cache_dtype: str) -> dict[str, int]:
    """Everything that the calculators say about a model, by label."""
    from utils import architecture

    count = architecture.count_parameters(config)
    work = architecture.flops_per_token(config, context)
    groups = {f"  {name.replace('_', ' ')}": size for name, size in count.groups().items() if size}
    return {
        "parameters": count.total,
        **groups,
        "not in the class: MTP layer": count.mtp,
        "not in the class: router bias": count.router_bias,
        "activated, without embedding and head": count.activated(),
        "activated, with head": count.activated(include_head=True),
        "activated, with both": count.activated(include_embedding=True, include_head=True),
        f"weights in {dtype}, bytes": architecture.weight_bytes(config, dtype),
        f"KV cache, {batch} x {context:,} tokens in {cache_dtype}, bytes": architecture.kv_cache_bytes(
            config, context, batch, cache_dtype
        ),
        f"FLOPs for one token at {context:,} tokens": work.total,
        "  of which products with weights": work.weights,
        "  of which attention": work.attention,
    }


def _params(arguments: argparse.Namespace) -> int:
    from utils import catalog, planner, shapes

    if arguments.model == "list":
        print("\n".join(model.name for model in catalog.models() if model.model_type in shapes.REQUIRED))
        return 0
    name, config = planner.open_model(arguments.model)
    summary = _summary(config, arguments.context, arguments.batch, arguments.dtype, arguments.cache_dtype)
    if arguments.json:
        print(json.dumps({"model": name, **{key.strip(): value for key, value in summary.items()}}, indent=1))
        return 0
    width = max(len(label) for label in summary)
    source = next((m.facts["config_source"] for m in catalog.models() if m.name == name), arguments.model)
    print(f"{name} ({config['model_type']}); source: {source}")
    for label, value in summary.items():
        print(f"  {label:<{width}}  {value:>23,}")
    return 0


def _plan(arguments: argparse.Namespace) -> int:
    from utils import planner

    own = arguments.card and planner.parse_card(arguments.card)
    if own and arguments.hardware:
        raise planner.PlanError("--card and --hardware both name cards; give one of them")
    made = planner.plan(
        arguments.model,
        own or arguments.hardware or ("8xH200" if arguments.cards is None else "H200"),
        arguments.precision,
        arguments.context,
        arguments.batch,
        arguments.cards,
        **{name: getattr(arguments, name) for name in ("cache", "answer", "link", "price", "split", "plain")},
    )
    if arguments.json:
        print(json.dumps(made.record(), indent=1))
        return 0
    formats = f"{made.precision}, cache in {made.cache_precision}"
    print(f"{made.model} ({formats}) on {made.hardware}, {made.batch} x {made.context:,} tokens")
    sizes = {name: getattr(made, name) for name in ("weights", "cache", "activations", "needed", "memory")}
    sizes |= {f"fullest card, {split} split": size for split, size in made.per_card.items()}
    sizes |= {f"fullest card, {made.split}": made.fullest, "room on a card": made.room}
    width = max(map(len, sizes))
    for name, size in sizes.items():
        about = "  (an estimate)" if name == "activations" else ""
        print(f"  {name:<{width}}{size / 1e9:>10,.1f} GB{about}")
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
    return 0


def _save(chapters: list[str], record: bool) -> int:
    from utils import course, runner

    known = {path.name[:2]: path for path in course.notebook_paths()}
    for number in chapters:
        if number not in known:
            raise course.ChapterError(f"no chapter {number!r}; there are {', '.join(known)}")
    course.refresh()  # chapter 00 shows the map of all chapters
    for number in chapters:
        result = runner.save(known[number])
        print(f"saved {known[number].name}")
        if record:
            course.record([result.record()])
    return _refresh()


def _refresh() -> int:
    from utils import course

    return _say_changed(course.refresh())


def _say_changed(paths: list[Path]) -> int:
    from utils import course

    for path in paths:
        print(f"refreshed {path.relative_to(course.ROOT)}")
    return 0


def _translate(arguments: argparse.Namespace) -> int:
    from utils import translate

    if arguments.extract:
        print(f"Fill in: {translate.extract(arguments.chapter, arguments.language)}")
        return 0
    made, notes = translate.translate(arguments.chapter, arguments.language)
    print("\n".join([*(f"stays English: {note}" for note in notes), f"Written: {made}"]))
    return 0


def _publish(repository: str, tag: str | None) -> int:
    from utils import course

    _say_changed(course.publish(repository, tag))
    data = course.settings()
    print(f"Colab opens {data['repository']} at {data['tag']}: commit, tag the commit {data['tag']}, and push both.")
    return 0


def _run(arguments: argparse.Namespace) -> int:
    from utils import course, runner

    code, results = runner.run_course(arguments.only, arguments.jobs)
    if arguments.record and code == 0:
        course.record(result.record() for result in results)
        _refresh()
    return code


def _pretrain(arguments: argparse.Namespace) -> int:
    from utils import course, pretrain

    numbers = {field: getattr(arguments, field) for field in PRETRAIN if getattr(arguments, field) is not None}
    folder = arguments.folder or course.ROOT / "build" / "pretrain" / arguments.model
    finished = pretrain.train(arguments.model, pretrain.Recipe(**numbers), folder)
    print(f"The {arguments.model} model is in {finished}")
    return 0


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns its exit code. A foreseen error is one clear line, and code 2."""
    arguments = _parser().parse_args(argv)
    try:
        match arguments.command:
            case "lab":
                from utils import lab

                return lab.run(arguments.notebooks, arguments.port, not arguments.no_browser)
            case "run":
                return _run(arguments)
            case "save":
                return _save(arguments.chapters, arguments.record)
            case "refresh":
                return _refresh()
            case "translate":
                return _translate(arguments)
            case "handouts":
                from utils import handouts

                return handouts.make(arguments.only, pdf=not arguments.no_pdf)
            case "slides":
                from utils import slides

                return slides.make(arguments.only)
            case "publish":
                return _publish(arguments.repository, arguments.tag)
            case "params":
                return _params(arguments)
            case "plan":
                return _plan(arguments)
            case "prepare":
                from utils import models

                print(f"The language model is ready in {Path(models.prepare())}")
                return 0
            case "pretrain":
                return _pretrain(arguments)
            case "bench":
                from utils import bench

                return bench.run(arguments.only)
    except CourseError as error:
        print(error, file=sys.stderr)
        return 2
    raise AssertionError(arguments.command)


if __name__ == "__main__":
    sys.exit(main())
