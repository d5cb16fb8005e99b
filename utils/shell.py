"""How commands end: what the course foresees is one clear line and code 2, anything else keeps its traceback."""

import sys

import typer

from utils.errors import CourseError


def commands(about: str) -> typer.Typer:
    """An empty set of commands; `about` is its help. A pipe that is closed early, as by `head`, ends them silently."""
    return typer.Typer(help=about, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def exit_code(app: typer.Typer, program: str, arguments: list[str] | None = None) -> int:
    """Run one command of `program`, such as "python -m utils" (default: what the shell gave); returns its exit code."""
    try:
        app(arguments, prog_name=program)
    except SystemExit as end:
        return int(end.code or 0)
    except CourseError as error:
        print(error, file=sys.stderr)
    return 2
