"""What the shell of an author or a teacher can do: `python -m tools --help` lists it."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from tools import choices, generated, runner
from utils import chapters
from utils.shell import commands, exit_code

app = commands("DeepSeek by the Numbers: what authors and teachers run.")

Only = Annotated[str | None, Option(metavar="05,07", help="some of them, separated by commas (default: all)")]
Record = Annotated[bool, Option("--record", help="keep seconds and memory for the course map")]


def _say_changed(paths: list[Path]) -> None:
    for path in paths:
        print(f"refreshed {path.relative_to(chapters.ROOT)}")


@app.command()
def run(
    only: Only = None,
    jobs: Annotated[int | None, Option(metavar="N", help="notebooks at the same time (default: 1 or 2)")] = None,
    record: Record = False,
) -> None:
    """Run every chapter; write handouts and a report to build/."""
    if jobs is None:  # times to keep are those of a chapter that runs alone
        jobs = 1 if record else runner.fitting_jobs()
    code, results = runner.run_course(only, jobs)
    if record and code == 0:
        generated.record(result.record() for result in results)
        _say_changed(generated.refresh())
    raise typer.Exit(code)


@app.command()
def save(
    numbers: Annotated[list[str], Argument(metavar="05 07 ...", help="chapter numbers")], record: Record = False
) -> None:
    """Run chapters and store them with their outputs; write the generated parts anew."""
    known = {path.name[:2]: path for path in chapters.notebook_paths()}
    chosen = choices.choose(",".join(numbers), known, "chapter")
    generated.refresh()  # chapter 00 shows the map of all chapters
    for number in chosen:
        result = runner.save(known[number])
        print(f"saved {known[number].name}")
        if record:
            generated.record([result.record()])
    _say_changed(generated.refresh())


@app.command()
def refresh() -> None:
    """Write the generated parts of notebooks, READMEs and docs anew."""
    _say_changed(generated.refresh())


@app.command()
def calculators(folder: Annotated[Path, Argument(help="where their environments are made and stay, 3 GB")]) -> None:
    """Ask the public memory calculators anew, for chapter 15."""
    from tools.calculators import write_answers

    write_answers(folder.resolve())


@app.command()
def publish(
    repository: Annotated[str, Argument(metavar="OWNER/NAME", help="where the course is hosted, on GitHub")],
    tag: Annotated[str | None, Option(metavar="v1.0", help="tag or branch that Colab opens and installs")] = None,
) -> None:
    """Set the address that badges, set-up cells and links point to."""
    _say_changed(generated.publish(repository, tag))
    there = chapters.address()
    print(f"Colab opens {there.repository} at {there.tag}: commit, tag the commit {there.tag}, and push both.")


@app.command()
def prepare() -> None:
    """Fetch and cache the language model."""
    from utils import models

    print(f"The language model is ready in {Path(models.prepare())}")


@app.command()
def pretrain(
    model: Annotated[str, Option(help='"mini" or "dense"')] = "mini",
    folder: Annotated[Path | None, Option(help="where the run is kept (default: build/pretrain/MODEL)")] = None,
    steps: Annotated[int | None, Option(metavar="N", help="optimizer steps")] = None,
    batch: Annotated[int | None, Option(metavar="N", help="windows a step, over all processes")] = None,
    window: Annotated[int | None, Option(metavar="N", help="tokens a window")] = None,
    learning_rate: Annotated[float | None, Option(metavar="X", help="the peak")] = None,
    warmup: Annotated[int | None, Option(metavar="N", help="steps until the peak")] = None,
    seed: Annotated[int | None, Option(metavar="N", help="of weights and batches")] = None,
) -> None:
    """Train the mini DeepSeek on Python's own source."""
    from tools import pretrain as pretraining

    given = {"steps": steps, "batch": batch, "window": window}
    given |= {"learning_rate": learning_rate, "warmup": warmup, "seed": seed}
    recipe = pretraining.Recipe(**{name: value for name, value in given.items() if value is not None})
    finished = pretraining.train(model, recipe, folder or chapters.ROOT / "build" / "pretrain" / model)
    print(f"The {model} model is in {finished}")


@app.command()
def bench(only: Only = None) -> None:
    """Measure and print side-by-side ratios."""
    from tools import bench as benches

    benches.print_ratios(only)


@app.command()
def steady(
    only: Only = None,
    conditions: Annotated[str | None, Option(metavar="quiet,busy", help="conditions (default: all)")] = None,
    python2: Annotated[str | None, Option(metavar="PATH", help="another Python that has the course's packages")] = None,
) -> None:
    """Compare the verdicts of several conditions: a busy core, one thread, AVX2, another seed."""
    from tools import steady as steadiness

    raise typer.Exit(steadiness.compare(only, conditions, python2))


@app.command()
def site(
    only: Only = None,
    pdf: Annotated[bool, Option("--pdf", help="print the handouts as PDF files, with an installed Chromium")] = False,
    language: Annotated[str, Option(metavar="CODE", help="a language of site/locale, such as zh_CN")] = "en",
) -> None:
    """Build the website, with handouts and slides, in build/site/."""
    from tools.website import build

    raise typer.Exit(build.build(pdf=pdf, only=only, language=language))


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    return exit_code(app, "python -m tools", arguments)


if __name__ == "__main__":
    sys.exit(main())
