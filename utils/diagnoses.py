"""A medical task for adapting a language model: which part of medicine does a diagnosis belong to?

ICD-10-CM, the American catalog of diagnoses (public domain, in the package ``simple-icd-10-cm``), sorts about 75,000
codes into 22 chapters. The task: from the words of a diagnosis, name its chapter. Each chapter is answered by one
word that is one token, so that a causal language model answers with the logits of its last position.

The split is strict. Codes with the same first three characters (a *family*, such as E11, type 2 diabetes) describe
variants of one disease. All of a family goes to one side, so a model cannot score by recalling a near copy.
Chapter 22 has three diagnoses in two families; it cannot be split fairly and is left out: 21 chapters remain.
"""

import contextlib
import functools
import hashlib
import itertools
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

LABELS = {  # chapter of ICD-10-CM: the word that stands for it
    1: "infection",
    2: "cancer",
    3: "blood",
    4: "hormones",
    5: "mental",
    6: "nerves",
    7: "eye",
    8: "ear",
    9: "heart",
    10: "lungs",
    11: "digestion",
    12: "skin",
    13: "bones",
    14: "kidney",
    15: "pregnancy",
    16: "newborn",
    17: "congenital",
    18: "symptoms",
    19: "injury",
    20: "accident",
    21: "health",
}
PROMPT = "{text}\nField:"
TEST_SHARE, VALIDATION_SHARE = 0.25, 0.10  # of the families of a chapter
TEST_EACH, VALIDATION_EACH = 30, 10  # diagnoses of a chapter
LONG = 24  # tokens: batches of longer texts hold fewer of them
WARM_UP = 0.1  # of the budget, in which the learning rate rises


@dataclass(frozen=True)
class Diagnosis:
    """One diagnosis: its code ("E11.9"), its words, and its chapter (1 to 21; None if nobody has labeled it)."""

    code: str
    text: str
    chapter: int | None

    @property
    def family(self) -> str:
        """The first three characters of the code: one disease, or one kind of injury."""
        return self.code[:3]


@dataclass(frozen=True)
class Split:
    """Three sets that share no family and no text: training, validation (10 a chapter) and test (30 a chapter)."""

    train: tuple[Diagnosis, ...]
    validation: tuple[Diagnosis, ...]
    test: tuple[Diagnosis, ...]


@dataclass(frozen=True)
class Score:
    """What a model got right.

    Attributes:
        accuracy: macro accuracy: the mean of the accuracies of the chapters.
        low, high: 95 % bootstrap interval; whole families are drawn, because their members are alike.
        by_chapter: accuracy of each chapter.
        predicted: the predicted chapter of each row.
    """

    accuracy: float
    low: float
    high: float
    by_chapter: dict[int, float]
    predicted: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.accuracy:.1%} (95 % interval {self.low:.1%} to {self.high:.1%})"


def _order(key: str) -> bytes:
    """A fixed shuffle: the same on every machine, and not moved when other entries come or go."""
    return hashlib.sha256(key.encode()).digest()


@functools.cache
def chapters() -> dict[int, str]:
    """Official title of each of the 21 chapters, by number."""
    import simple_icd_10_cm as icd

    return {number: icd.get_description(str(number)) for number in LABELS}


def everything() -> tuple[Diagnosis, ...]:
    """All diagnoses of the 21 chapters, in the order of the catalog, about 74,700; read once in a process."""
    return _catalog()[0]


def synonyms() -> tuple[Diagnosis, ...]:
    """Other names that the catalog lists below its codes, such as "Common migraine" below G43.0; about 12,500."""
    return _catalog()[1]


@functools.cache
def _catalog() -> tuple[tuple[Diagnosis, ...], tuple[Diagnosis, ...]]:
    """Diagnoses and synonyms. The package's own tree of the catalog is large, and not kept."""
    import simple_icd_10_cm as icd  # takes about two seconds: it parses the whole catalog

    rows, names, chapter = [], [], None
    for code in icd.get_all_codes():
        if icd.is_chapter(code):
            chapter = int(code)
        elif chapter in LABELS and not icd.is_block(code):
            names += [Diagnosis(code, text, chapter) for text in icd.get_inclusion_term(code)]
            if icd.is_leaf(code):
                rows.append(Diagnosis(code, icd.get_description(code), chapter))
    for module in [name for name in sys.modules if name.partition(".")[0] == icd.__name__]:
        del sys.modules[module]
    return tuple(rows), tuple(names)


@functools.cache
def split(train_each: int = 300) -> Split:
    """The task's three sets. Validation and test never change; `train_each` only lengthens the training set.

    Test and validation hold diagnoses, 30 and 10 a chapter. Training rows are diagnoses and synonyms. Each set takes
    the families of a chapter in turn, so that no family fills it, and is as balanced as the catalog allows: small
    chapters may have fewer than `train_each` rows.

    Raises:
        ValueError: `train_each` is below 1.
    """
    if train_each < 1:
        raise ValueError(f"train_each must be 1 or more diagnoses a chapter; got {train_each}")
    diagnoses, all_names = _by_family(everything()), _by_family((*everything(), *synonyms()))
    sides: dict[str, list[Diagnosis]] = {"test": [], "validation": [], "train": []}
    taken: set[str] = set()
    for side in sides:  # test first: what it takes, no other set may hold
        for chapter in LABELS:
            families = sorted(diagnoses[chapter], key=_order)
            tests = round(TEST_SHARE * len(families))
            rest = tests + round(VALIDATION_SHARE * len(families))
            names, size, source = {
                "test": (families[:tests], TEST_EACH, diagnoses),
                "validation": (families[tests:rest], VALIDATION_EACH, diagnoses),
                "train": (families[rest:], train_each, all_names),
            }[side]
            sides[side] += _in_turn([source[chapter][name] for name in names], size, taken)
    found = Split(**{name: tuple(sorted(rows, key=lambda row: _order(row.text))) for name, rows in sides.items()})
    check_split(found.train, found.validation)
    check_split((*found.train, *found.validation), found.test)
    return found


def _by_family(rows: Iterable[Diagnosis]) -> dict[int, dict[str, list[Diagnosis]]]:
    found: dict[int, dict[str, list[Diagnosis]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        found[row.chapter][row.family].append(row)
    return found


def _in_turn(families: list[list[Diagnosis]], size: int, taken: set[str]) -> list[Diagnosis]:
    """Up to `size` rows, one from each family in turn; a text is taken once."""
    queues = [sorted(family, key=lambda row: _order(row.text), reverse=True) for family in families]
    chosen: list[Diagnosis] = []
    while len(chosen) < size and any(queues):
        for queue in queues:
            while queue and len(chosen) < size:
                row = queue.pop()
                if row.text.casefold() not in taken:
                    taken.add(row.text.casefold())
                    chosen.append(row)
                    break
    return chosen


def check_rows(rows: Sequence[Diagnosis]) -> None:
    """Make sure that there are rows, and that each has words and a chapter.

    Raises:
        ValueError: there is none, a row without text, or one without one of the 21 chapters; the message names it.
    """
    if not rows:
        raise ValueError("no diagnoses: at least one is needed")
    for place, row in enumerate(rows):
        if not row.text.strip():
            raise ValueError(f"row {place} ({row.code}) has no text")
        if row.chapter not in LABELS:
            raise ValueError(
                f"row {place} ({row.code}, {row.text!r}) is not labeled: its chapter is {row.chapter!r}, "
                f"allowed are 1 to {max(LABELS)}"
            )


def check_split(train: Sequence[Diagnosis], test: Sequence[Diagnosis]) -> None:
    """Make sure that two sets share no code, no family and no text.

    Raises:
        ValueError: they do, or a row is not labeled; the message names one example.
    """
    check_rows(train)
    check_rows(test)
    for what, key in (
        ("code", lambda row: row.code),
        ("family", lambda row: row.family),
        ("text", lambda row: row.text.casefold()),
    ):
        seen = {key(row) for row in train}
        shared = [row for row in test if key(row) in seen]
        if shared:
            raise ValueError(
                f"{len(shared)} test rows share their {what} with the training set, such as {shared[0].code} "
                f"({shared[0].text!r}): remove them from training, or the score means nothing"
            )


def label_ids(tokenizer: PreTrainedTokenizerBase) -> torch.Tensor:
    """Token id of each chapter's word with a space before it. Shape: (21,).

    Raises:
        ValueError: a word is more than one token for this tokenizer.
    """
    ids = {word: tokenizer(f" {word}", add_special_tokens=False)["input_ids"] for word in LABELS.values()}
    if long := [word for word, tokens in ids.items() if len(tokens) != 1]:
        raise ValueError(f"each label must be one token; for this tokenizer these are more: {', '.join(long)}")
    return torch.tensor([tokens[0] for tokens in ids.values()])


def encode(
    rows: Sequence[Diagnosis], tokenizer: PreTrainedTokenizerBase, prompt: str = PROMPT
) -> list[tuple[list[int], int]]:
    """Token ids of each row's prompt, and its label as an index into `label_ids` (0 for chapter 1).

    Raises:
        ValueError: a row is not labeled, or the prompt has no place for the text.
    """
    check_rows(rows)
    if "{text}" not in prompt:
        raise ValueError(f"the prompt needs a place {{text}} for the diagnosis; got {prompt!r}")
    ids = tokenizer([prompt.replace("{text}", row.text) for row in rows], verbose=False)["input_ids"]
    return [(tokens, row.chapter - 1) for tokens, row in zip(ids, rows, strict=True)]


def batches(
    examples: Sequence[tuple[list[int], int]], size: int, seed: int | None = None
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Batches of examples of nearly the same length, so that hardly anything is padding.

    A batch has `size` examples, or fewer if they are longer than 24 tokens, which bounds the memory of a step.
    Yields ids (batch, tokens), padded with 0 on the right, where a causal model cannot see it; lengths (batch,); and
    labels (batch,). With a seed, every batch draws from its own length and the batches come in random order; without
    one, the shortest come first.

    Raises:
        ValueError: `size` is below 1.
    """
    if size < 1:
        raise ValueError(f"a batch holds 1 or more examples; got {size}")
    order = np.random.default_rng(seed).permutation(len(examples)) if seed is not None else range(len(examples))
    order = sorted(order, key=lambda i: len(examples[i][0]))  # stable: equal lengths stay shuffled
    groups: list[list[int]] = []
    for i in order:
        if not groups or len(groups[-1]) == size or (len(groups[-1]) + 1) * len(examples[i][0]) > size * LONG:
            groups.append([])
        groups[-1].append(i)
    if seed is not None:
        groups = [groups[i] for i in np.random.default_rng(seed).permutation(len(groups))]
    for group in groups:
        rows = [torch.tensor(examples[i][0]) for i in group]
        yield (
            torch.nn.utils.rnn.pad_sequence(rows, batch_first=True),
            torch.tensor([len(row) for row in rows]),
            torch.tensor([examples[i][1] for i in group]),
        )


def label_logits(
    model: PreTrainedModel, ids: torch.Tensor, lengths: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    """Logits of the label tokens where each prompt ends; the head computes no other position.

    A bfloat16 model is run under autocast, so that adapters may keep float32 weights. Any other model is run as it is.

    Args:
        model: a causal language model, with or without adapters.
        ids: (batch, tokens), padded on the right.
        lengths: (batch,) tokens of each prompt.
        labels: (21,) from `label_ids`.

    Returns:
        Float32 logits of shape (batch, 21).
    """
    ids, rows, ends = (t.to(model.device) for t in (ids, torch.arange(len(ids)), lengths - 1))
    half = model.dtype == torch.bfloat16
    # The head would compute every position; before it runs, only the last hidden state of each prompt is kept.
    last = model.get_output_embeddings().register_forward_pre_hook(lambda _, inputs: (inputs[0][rows, ends],))
    try:
        with torch.autocast(ids.device.type, torch.bfloat16) if half else contextlib.nullcontext():
            logits = model(input_ids=ids, use_cache=False).logits  # (batch, vocabulary)
    finally:
        last.remove()
    return logits[:, labels.to(model.device)].float()


def training(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Diagnosis],
    *,
    steps: int | None = None,
    seconds: float | None = None,
    size: int = 32,
    rate: float = 1e-3,
    seed: int = 0,
) -> Iterator[float]:
    """Train what is trainable in a model, one step each time the next loss is asked for.

    The loss is the cross entropy over the 21 label tokens. AdamW without weight decay; the rate rises during the
    first tenth of the budget and falls on a line to zero, which it reaches when the budget ends: after `steps`, or
    after `seconds` of training, in which the caller's own work between two steps does not count.

    Raises:
        ValueError: not exactly one budget, a budget that is not positive, nothing to train, or as `encode`.
    """
    budget = steps if seconds is None else seconds
    if (steps is None) == (seconds is None) or not budget > 0:
        raise ValueError(f"one budget is needed, steps or seconds, above 0; got steps={steps}, seconds={seconds}")
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError("the model has no trainable parameters: add adapters, or let some layers require gradients")
    labels, examples = label_ids(tokenizer), encode(rows, tokenizer)
    return _training(model, parameters, labels, examples, steps, seconds, size, rate, seed)


def _training(model, parameters, labels, examples, steps, seconds, size, rate, seed):
    optimizer = torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    epochs = (batches(examples, size, seed + epoch) for epoch in itertools.count())
    spent = 0.0
    for step, (ids, lengths, answers) in enumerate(itertools.chain.from_iterable(epochs)):
        start, done = time.perf_counter(), step / steps if steps else spent / seconds
        if done >= 1:
            break
        share = (step + 1) / steps if steps else max(done, 0.01)  # a first step of rate zero would be lost
        optimizer.param_groups[0]["lr"] = rate * min(1, share / WARM_UP) * (1 - done)
        model.train()
        logits = label_logits(model, ids, lengths, labels)
        loss = torch.nn.functional.cross_entropy(logits, answers.to(logits.device))
        optimizer.zero_grad(set_to_none=False)  # gradients keep their place, so the heap gets fewer holes
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        value = loss.item()
        model.eval()  # whenever the caller has it, and however early the caller stops
        spent += time.perf_counter() - start
        yield value


def predict(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Diagnosis],
    prompt: str = PROMPT,
    size: int = 64,
    watch: Callable[[list], Iterable] = iter,
) -> list[int]:
    """The chapter that a model gives each row: that of the label with the largest logit.

    `watch` may wrap the list of batches to show progress.

    Raises:
        ValueError: as `encode` and `label_ids`.
    """
    labels, examples = label_ids(tokenizer), encode(rows, tokenizer, prompt)
    order = sorted(range(len(examples)), key=lambda i: len(examples[i][0]))  # as `batches` without a seed
    found: list[int] = []
    training = model.training
    model.eval()
    with torch.no_grad():
        for ids, lengths, _ in watch(list(batches(examples, size))):
            found += (label_logits(model, ids, lengths, labels).argmax(-1) + 1).tolist()
    model.train(training)
    return [chapter for _, chapter in sorted(zip(order, found, strict=True))]


def score(rows: Sequence[Diagnosis], predicted: Sequence[int], draws: int = 1000, seed: int = 0) -> Score:
    """Macro accuracy of predicted chapters, with a bootstrap interval over families within each chapter.

    Raises:
        ValueError: a row is not labeled, or there are not as many predictions as rows.
    """
    check_rows(rows)
    if len(predicted) != len(rows):
        raise ValueError(f"{len(rows)} rows need as many predictions; got {len(predicted)}")
    hits: dict[int, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for row, chapter in zip(rows, predicted, strict=True):
        hits[row.chapter][row.family].append(chapter == row.chapter)
    generator, by_chapter, drawn = np.random.default_rng(seed), {}, []
    for chapter, families in sorted(hits.items()):
        right = np.array([sum(family) for family in families.values()])
        total = np.array([len(family) for family in families.values()])
        by_chapter[chapter] = float(right.sum() / total.sum())
        picks = generator.integers(len(right), size=(draws, len(right)))
        drawn.append(right[picks].sum(1) / total[picks].sum(1))
    low, high = np.quantile(np.mean(drawn, axis=0), [0.025, 0.975])
    return Score(float(np.mean(list(by_chapter.values()))), float(low), float(high), by_chapter, tuple(predicted))


def majority(train: Sequence[Diagnosis], test: Sequence[Diagnosis]) -> Score:
    """Score of always answering the chapter that is most frequent in training (the lowest number, if several are)."""
    check_rows(train)
    counts = Counter(row.chapter for row in train)
    most = min(counts, key=lambda chapter: (-counts[chapter], chapter))
    return score(test, [most] * len(test))
