"""Side-by-side measurements for `make bench`, one module a topic.

Each module has a function `measured_lines()` that yields what to print, line by line, as soon as it is measured.
"""

import importlib
import pkgutil

from tools.choices import choose


def topics() -> list[str]:
    """Names of the topics, each a module of this package."""
    return sorted(info.name for info in pkgutil.iter_modules(__path__))


def print_ratios(only: str | None = None) -> None:
    """Print every topic's lines, or those of some topics, separated by commas.

    Raises:
        ChoiceError: no such topic; the message lists them.
    """
    wanted = choose(only, topics(), "topic")
    print("Ratios of time, median of pairs with quartiles; above 1 the second way is faster.", flush=True)
    for name in wanted:
        print(f"\n{name}", flush=True)
        for line in importlib.import_module(f"{__name__}.{name}").measured_lines():
            print(f"  {line}", flush=True)
