"""The real DeepSeek models: configurations, parameter counts and training facts, each with its source.

The numbers live in `utils/data/deepseek_models.json` and `utils/data/deepseek_training.json`. Every record says
where it comes from and how sure it is: `seen_primary` (the paper, repository or configuration itself was read),
`seen_secondary` (somebody else's notes), `derived` (our arithmetic), `memory_unverified` (never quoted in a chapter).
"""

import difflib
import functools
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

from utils.errors import CourseError

SHAPE_FIELDS = ("vocab_size", "num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads")


@dataclass(frozen=True)
class Model:
    """One published model.

    Attributes:
        name: name in this catalog, for example "DeepSeek-V3".
        hub_id: repository on the model hub, for example "deepseek-ai/DeepSeek-V3".
        family: architecture family, for example "mla-moe-v3".
        config: the published configuration (layers, widths, ...), as in its `config.json`.
        exact_total: parameters of the main model, counted; None where nobody can build it yet.
        published_total, published_activated: what the authors print, as text.
        hub_total: elements in the published weight files, where known.
        param_groups: parameters by group, where counted by building the model.
        activated: activated parameters by convention ("non_embedding", "with_lm_head", "with_both").
        sources: where the facts come from.
        facts: the whole record, for everything else.
    """

    name: str
    hub_id: str
    family: str
    config: dict[str, Any]
    exact_total: int | None
    published_total: str | None
    published_activated: str | None
    hub_total: int | None
    param_groups: dict[str, int]
    activated: dict[str, int]
    sources: tuple[str, ...]
    facts: dict[str, Any] = field(repr=False)

    @property
    def model_type(self) -> str:
        """The architecture class that the configuration names, for example "deepseek_v3"."""
        return self.config["model_type"]


@dataclass(frozen=True)
class TrainingFact:
    """One documented fact about how a model is trained or served, with its source and how sure it is."""

    model: str
    topic: str
    fact: str
    value: Any
    source: str
    where: str
    status: str
    note: str = ""


def _read(name: str) -> list[dict[str, Any]]:
    return json.loads(resources.files("utils").joinpath("data", name).read_text(encoding="utf-8"))


@functools.cache
def models() -> tuple[Model, ...]:
    """All models of the catalog, oldest family first.

    Source: `utils/data/deepseek_models.json`; each record carries its own sources.
    """
    return tuple(
        Model(
            name=record["name"],
            hub_id=record["hub_id"],
            family=record["family"],
            config=record["config"],
            exact_total=record["exact_total"],
            published_total=record["published_total"],
            published_activated=record["published_activated"],
            hub_total=record["hub_safetensors_total"],
            param_groups=record["param_groups"] or {},
            activated=record.get("activated_computed") or {},
            sources=tuple(record["sources"]),
            facts=record,
        )
        for record in _read("deepseek_models.json")
    )


def get(name: str) -> Model:
    """The model with this name or hub id; case does not matter.

    Raises:
        KeyError: no such model; the message suggests the nearest names.
    """
    known = {model.name.lower(): model for model in models()}
    known |= {model.hub_id.lower(): model for model in models()}
    wanted = str(name).strip().lower()
    if wanted in known:
        return known[wanted]
    near = dict.fromkeys(known[key].name for key in difflib.get_close_matches(wanted, known, n=3, cutoff=0.6))
    hint = f"Did you mean {', '.join(near)}?" if near else f"Known: {', '.join(m.name for m in models())}."
    raise UnknownModel(f"no DeepSeek model is called {name!r}. {hint}")


class UnknownModel(CourseError, KeyError):
    """The catalog has no model of that name."""

    def __str__(self) -> str:  # KeyError would show the message in quotes
        return self.args[0]


def distinct_shapes(chosen: Iterable[Model] | None = None) -> tuple[Model, ...]:
    """One model for each distinct shape, the first of the catalog: versions that differ only in weights count once.

    Two models have one shape when architecture class, parameters, vocabulary, layers, widths and heads agree.

    Args:
        chosen: models to choose from; all of the catalog without it.
    """
    shapes: dict[tuple[Any, ...], Model] = {}
    for model in models() if chosen is None else chosen:
        widths = (model.config.get(name) for name in SHAPE_FIELDS)
        shapes.setdefault((model.model_type, model.exact_total, *widths), model)
    return tuple(shapes.values())


def training_facts(model: str | None = None, topic: str | None = None) -> tuple[TrainingFact, ...]:
    """Documented training and serving facts, filtered by exact model name and by a word in the topic.

    Raises:
        KeyError: no fact is filed under that model; the message names those that exist.
    """
    facts = tuple(TrainingFact(**record) for record in _read("deepseek_training.json"))
    if model is not None:
        names = dict.fromkeys(fact.model for fact in facts)
        if model not in names:
            raise UnknownModel(f"no training facts for {model!r}. Known: {', '.join(names)}.")
        facts = tuple(fact for fact in facts if fact.model == model)
    if topic is not None:
        facts = tuple(fact for fact in facts if topic.lower() in fact.topic.lower())
    return facts
