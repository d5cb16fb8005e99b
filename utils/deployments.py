"""What is documented to run, to run out of memory, and to be measured: to check the planner against.

The records lie in `utils/data/deployments.json`, each with its source.
"""

from dataclasses import dataclass
from typing import Any

from utils import catalog
from utils.files import records

_DATA = records("deployments.json")


@dataclass(frozen=True)
class Run:
    """A deployment, and what is documented about it."""

    model: str
    request: dict[str, Any]  # the arguments for `planner.plan`
    runs: bool  # False means out of memory
    memory: float | None  # measured bytes on a card, if documented
    speed: float | None  # measured tokens a second, if documented
    source: str
    miss: str | None  # how the planner errs about whether it runs, where it does


def model(name: str) -> Any:
    """What `planner.plan` takes as the model: a name of the catalog, or the configuration of one that is not in it."""
    own = _DATA["models"].get(name)
    return name if own is None else catalog.get(own["like"]).config | own["changes"]


def documented() -> list[Run]:
    """What is documented to run, or to run out of memory."""
    return [_run(record) for record in _DATA["runs"]]


def measured_memory() -> list[Run]:
    """Memory that plain library code took, and where it ran out of it."""
    return [
        _run(table | {"context": context, "batch": int(batch), "plain": True, "runs": gib is not None, "GiB": gib})
        for table in _DATA["memory"]
        for batch, row in table["measured"].items()
        for context, gib in zip(table["contexts"], row, strict=True)
    ]


def measured_speeds() -> list[Run]:
    """Tokens a second that were measured."""
    return [_run(record | {"runs": True}) for record in _DATA["speeds"]]


def calculators() -> list[dict[str, Any]]:
    """What public calculators answer: `name`, what was `installed`, how it was `fed`, and `answers` by model.

    An answer has bytes of the `weights`, of a token in the `cache`, and of that on one of 8 cards (`cache_of_8`), or
    None, and what the calculator `says` instead. `python -m tools calculators` makes them.
    """
    return records("calculators.json")["calculators"]


def _run(record: dict[str, Any]) -> Run:
    known = ("hardware", "precision", "context", "batch", "split", "plain")
    request = {"model": model(record["model"])} | {key: record[key] for key in known if key in record}
    memory = record["GiB"] * 2**30 if record.get("GiB") else None
    speed, miss = record.get("tokens_per_second"), record.get("miss")
    return Run(record["model"], request, record["runs"], memory, speed, record["source"], miss)
