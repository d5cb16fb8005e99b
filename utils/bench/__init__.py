"""Side-by-side measurements for `make bench`, one module a topic.

Each module has a function `lines()` that yields what to print, line by line, as soon as it is measured.
"""

import importlib
import pkgutil

from utils.errors import CourseError


class BenchError(CourseError, ValueError):
    """There is no measurement of that name."""


def topics() -> list[str]:
    """Names of the topics, each a module of this package."""
    return sorted(info.name for info in pkgutil.iter_modules(__path__))


def run(only: str | None = None) -> int:
    """Print every topic's lines, or those of some topics, separated by commas; returns the exit code.

    Raises:
        BenchError: no such topic; the message lists them.
    """
    wanted = topics() if only is None else [name.strip() for name in only.split(",")]
    unknown = [name for name in wanted if name not in topics()]
    if unknown:
        raise BenchError(f"no topic {', '.join(map(repr, unknown))}; there are {', '.join(topics())}")
    print("Ratios of time, median of pairs with quartiles; above 1 the second way is faster.", flush=True)
    for name in wanted:
        print(f"\n{name}", flush=True)
        for line in importlib.import_module(f"{__name__}.{name}").lines():
            print(f"  {line}", flush=True)
    return 0
