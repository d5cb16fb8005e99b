"""The real DeepSeek models: configurations, parameter counts and training facts, each with its source.

The numbers live in `utils/data/deepseek_models.json` and `utils/data/deepseek_training.json`. Every record says
where it comes from and how sure it is: `seen_primary` (the paper, repository or configuration itself was read),
`seen_secondary` (somebody else's notes), `derived` (our arithmetic), `memory_unverified` (never quoted in a chapter).
"""

import difflib
import functools
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from utils.errors import CourseError
from utils.files import records


class UnknownModel(CourseError, KeyError):
    """The catalog has no model of that name."""

    __str__ = Exception.__str__  # KeyError would show the message in quotes


@dataclass(frozen=True)
class Model:
    """One published model."""

    name: str  # "DeepSeek-V3"
    hub_id: str  # "deepseek-ai/DeepSeek-V3"
    config: dict[str, Any]  # as in its `config.json`
    exact_total: int | None  # parameters of the main model, counted; None where nobody can build it yet
    published_total: str | None  # what the authors print
    published_activated: str | None
    hub_total: int | None  # elements in the published weight files, where known
    activated: dict[str, int]  # parameters by convention ("non_embedding", "with_lm_head", "with_both")
    facts: dict[str, Any] = field(repr=False)  # the whole record, with its sources

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


@functools.cache
def models() -> tuple[Model, ...]:
    """All models of the catalog, oldest family first."""
    same = ("name", "hub_id", "config", "exact_total", "published_total", "published_activated")
    return tuple(
        Model(*map(fact.get, same), fact["hub_safetensors_total"], fact.get("activated_computed") or {}, fact)
        for fact in records("deepseek_models.json")
    )


def get(name: str) -> Model:
    """The model with this name or hub id, in any case. Raises UnknownModel (a KeyError) with the nearest names."""
    known = {key.lower(): model for model in models() for key in (model.name, model.hub_id)}
    wanted = str(name).strip().lower()
    if wanted in known:
        return known[wanted]
    near = dict.fromkeys(known[key].name for key in difflib.get_close_matches(wanted, known, n=3, cutoff=0.6))
    hint = f"Did you mean {', '.join(near)}?" if near else f"Known: {', '.join(m.name for m in models())}."
    raise UnknownModel(f"no DeepSeek model is called {name!r}. {hint}")


def distinct_shapes(chosen: Iterable[Model] | None = None) -> tuple[Model, ...]:
    """One model for each distinct shape, the first of the catalog: versions that differ only in weights count once.

    Two models have one shape when architecture class, parameters, vocabulary, layers, widths and heads agree.
    """
    fields = ("vocab_size", "num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads")
    shapes: dict[tuple[Any, ...], Model] = {}
    for model in models() if chosen is None else chosen:
        shapes.setdefault((model.model_type, model.exact_total, *map(model.config.get, fields)), model)
    return tuple(shapes.values())


def training_facts(model: str | None = None, topic: str | None = None) -> tuple[TrainingFact, ...]:
    """Documented training and serving facts, of a model (UnknownModel if it has none) or with a word in the topic."""
    facts = [TrainingFact(**record) for record in records("deepseek_training.json")]
    names = dict.fromkeys(fact.model for fact in facts)
    if model is not None and model not in names:
        raise UnknownModel(f"no training facts for {model!r}. Known: {', '.join(names)}.")
    wanted = (topic or "").lower()
    return tuple(fact for fact in facts if model in (None, fact.model) and wanted in fact.topic.lower())
