"""What is documented to run, to run out of memory, and to be measured: to check the planner against.

The records lie in `utils/data/deployments.json`, each with its source.
"""

from dataclasses import dataclass
from typing import Any

from utils import catalog
from utils.files import records

_DATA = records("deployments.json")


def model(name: str) -> Any:
    """What `planner.plan` takes as the model: a name of the catalog, or the configuration of one that is not in it."""
    own = _DATA["models"].get(name)
    return name if own is None else catalog.get(own["like"]).config | own["changes"]


@dataclass(frozen=True)
class Run:
    """A deployment, and what is documented about it."""

    model: str
    asked: dict[str, Any]
    source: str
    runs: bool = True  # False means out of memory
    memory: float | None = None  # measured bytes on a card, if documented
    speed: float | None = None  # measured tokens a second, if documented
    miss: str | None = None  # how the planner errs about whether it runs, where it does

    @property
    def request(self) -> dict[str, Any]:
        """The arguments for `planner.plan`."""
        return {"model": model(self.model)} | self.asked


def documented() -> list[Run]:
    """What is documented to run, or to run out of memory."""
    return [Run(**record) for record in _DATA["runs"]]


def measured_memory() -> list[Run]:
    """Memory that plain library code took, and where it ran out of it."""
    found = []
    for table in _DATA["memory"]:
        for batch, row in table["measured"].items():
            for context, gib in zip(table["contexts"], row, strict=True):
                asked = table["asked"] | {"context": context, "batch": int(batch), "plain": True}
                found.append(Run(table["model"], asked, table["source"], gib is not None, gib and gib * 2**30))
    return found


def measured_speeds() -> list[Run]:
    """Tokens a second that were measured."""
    return [Run(**record) for record in _DATA["speeds"]]


def measured_on_a_card() -> dict[str, Any]:
    """What `make bench ONLY=gpu` measured on one card: its name, versions, and records by topic.

    Times are milliseconds (median, and the 95 % interval of the median), peaks of memory bytes.
    """
    return records("gpu.json")


def calculators() -> list[dict[str, Any]]:
    """What public calculators answer: `name`, what was `installed`, how it was `fed`, and `answers` by model.

    An answer has bytes of the `weights`, of a token in the `cache`, and of that on one of 8 cards (`cache_of_8`), or
    None, and what the calculator `says` instead. `python -m tools calculators` makes them.
    """
    return records("calculators.json")["calculators"]
