"""What is documented to run, to run out of memory, and to be measured: to check the planner against.

The records lie in `utils/data/deployments.json`, each with its source.
"""

import functools
import json
from dataclasses import dataclass
from importlib import resources
from typing import Any

from utils import catalog


@dataclass(frozen=True)
class Run:
    """A deployment, and what is documented about it.

    Attributes:
        model: its name.
        request: the arguments for `planner.plan`.
        runs: whether it runs; False means out of memory.
        memory: measured bytes on a card, if documented.
        speed: measured tokens a second, if documented.
        source: where it is documented.
        miss: how the planner errs about whether it runs, where it does.
    """

    model: str
    request: dict[str, Any]
    runs: bool
    memory: float | None
    speed: float | None
    source: str
    miss: str | None = None


@functools.cache
def _data() -> dict[str, Any]:
    return json.loads(resources.files("utils").joinpath("data", "deployments.json").read_text(encoding="utf-8"))


def model(name: str) -> Any:
    """What `planner.plan` takes as the model: a name of the catalog, or the configuration of one that is not in it."""
    own = _data()["models"].get(name)
    return name if own is None else catalog.get(own["like"]).config | own["changes"]


def documented() -> list[Run]:
    """What is documented to run, or to run out of memory."""
    return [_run(record) for record in _data()["runs"]]


def measured_memory() -> list[Run]:
    """Memory that plain library code took, and where it ran out of it."""
    return [
        _run(table | {"context": context, "batch": int(batch), "plain": True, "runs": gib is not None, "GiB": gib})
        for table in _data()["memory"]
        for batch, row in table["measured"].items()
        for context, gib in zip(table["contexts"], row, strict=True)
    ]


def measured_speeds() -> list[Run]:
    """Tokens a second that were measured."""
    return [_run(record | {"runs": True}) for record in _data()["speeds"]]


def _run(record: dict[str, Any]) -> Run:
    known = ("hardware", "precision", "context", "batch", "split", "plain")
    request = {"model": model(record["model"])} | {key: record[key] for key in known if key in record}
    gib = record.get("GiB")
    memory, speed = gib and gib * 2**30, record.get("tokens_per_second")
    return Run(record["model"], request, record["runs"], memory, speed, record["source"], record.get("miss"))
