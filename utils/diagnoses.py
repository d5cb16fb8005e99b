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
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel as Model
from transformers import PreTrainedTokenizerBase as Tokenizer

from utils import measure
from utils.errors import InputError

WORDS = ("infection", "cancer", "blood", "hormones", "mental", "nerves", "eye", "ear", "heart", "lungs", "digestion",
         "skin", "bones", "kidney", "pregnancy", "newborn", "congenital", "symptoms", "injury", "accident",
         "health")  # fmt: skip
LABELS = dict(enumerate(WORDS, 1))  # chapter of ICD-10-CM: the word that stands for it
PROMPT = "{text}\nField:"
TEST_SHARE, VALIDATION_SHARE = 0.25, 0.10  # of the families of a chapter
EACH = {"test": 30, "validation": 10, "train": 300}  # rows of a chapter
Rows = Sequence["Diagnosis"]
Example = tuple[list[int], int]  # the tokens of a prompt, and its label as an index into `label_ids`
LONG = 24  # tokens: batches of longer texts hold fewer of them
WARM_UP = 0.1  # of the steps, in which the learning rate rises


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
class DataSplit:
    """Three sets that share no family and no text: training (300 a chapter), validation (10) and test (30)."""

    train: tuple[Diagnosis, ...]
    validation: tuple[Diagnosis, ...]
    test: tuple[Diagnosis, ...]


@dataclass(frozen=True)
class Score:
    """What a model got right: macro accuracy, the mean of the accuracies of the chapters.

    `low` and `high` are its 95 % bootstrap interval; whole families are drawn, because their members are alike.
    `predicted` holds the predicted chapter of each row.
    """

    accuracy: float
    low: float
    high: float
    by_chapter: dict[int, float]
    predicted: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.accuracy:.1%} (95 % interval {self.low:.1%} to {self.high:.1%})"


@functools.cache
def catalog() -> tuple[tuple[Diagnosis, ...], tuple[Diagnosis, ...]]:
    """About 74,700 diagnoses of the 21 chapters, and 12,500 other names that stand below a code ("Common migraine")."""
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
        del sys.modules[module]  # its own tree of the catalog is large
    return tuple(rows), tuple(names)


@functools.cache
def split() -> DataSplit:
    """The task's three sets.

    Test and validation hold diagnoses, 30 and 10 a chapter. Training rows, 300 a chapter, are diagnoses and other
    names. Each set takes the families of a chapter in turn, so that no family fills it.
    """
    diagnoses, all_names = _by_family(catalog()[0]), _by_family(itertools.chain(*catalog()))
    sets, taken = {}, set[str]()
    for name, size in EACH.items():  # test first: what it takes, no other set may hold
        rows, source = [], all_names if name == "train" else diagnoses
        for chapter in LABELS:
            families = sorted(diagnoses[chapter], key=_order)
            tests = round(TEST_SHARE * len(families))
            rest = tests + round(VALIDATION_SHARE * len(families))
            mine = {"test": families[:tests], "validation": families[tests:rest], "train": families[rest:]}[name]
            rows += _in_turn([source[chapter][family] for family in mine], size, taken)
        sets[name] = tuple(sorted(rows, key=lambda row: _order(row.text)))
    found = DataSplit(**sets)
    check_split(found.train, found.validation)
    check_split((*found.train, *found.validation), found.test)
    return found


def _order(key: str) -> bytes:
    """A fixed shuffle: the same on every machine, and not moved when other entries come or go."""
    return hashlib.sha256(key.encode()).digest()


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


def check_rows(rows: Rows) -> None:
    """Make sure that there are rows, and that each has words and a chapter; else an InputError names it."""
    if not rows:
        raise InputError("no diagnoses: at least one is needed")
    for place, row in enumerate(rows):
        if not row.text.strip():
            raise InputError(f"row {place} ({row.code}) has no text")
        if row.chapter not in LABELS:
            wrong = f"its chapter is {row.chapter!r}, allowed are 1 to {max(LABELS)}"
            raise InputError(f"row {place} ({row.code}, {row.text!r}) is not labeled: {wrong}")


def check_split(train: Rows, test: Rows) -> None:
    """Make sure that two labeled sets share no code, no family and no text; else an InputError names an example."""
    check_rows(train)
    check_rows(test)
    keys = {"code": lambda row: row.code, "family": lambda row: row.family, "text": lambda row: row.text.casefold()}
    for what, key in keys.items():
        seen = {key(row) for row in train}
        if shared := [row for row in test if key(row) in seen]:
            leak = f"share their {what} with the training set, such as {shared[0].code} ({shared[0].text!r})"
            raise InputError(f"{len(shared)} test rows {leak}: remove them from training, or the score means nothing")


def label_ids(tokenizer: Tokenizer) -> torch.Tensor:
    """Token id of each chapter's word with a space before it. Shape: (21,). InputError if a word is several tokens."""
    ids = {word: tokenizer(f" {word}", add_special_tokens=False)["input_ids"] for word in WORDS}
    if long := [word for word, tokens in ids.items() if len(tokens) != 1]:
        raise InputError(f"each label must be one token; for this tokenizer these are more: {', '.join(long)}")
    return torch.tensor([tokens[0] for tokens in ids.values()])


def encode(rows: Rows, tokenizer: Tokenizer, prompt: str = PROMPT) -> list[Example]:
    """Token ids of each labeled row's prompt, and its label as an index into `label_ids` (0 for chapter 1).

    Raises InputError as `check_rows`, and for a prompt without a place for the text.
    """
    check_rows(rows)
    if "{text}" not in prompt:
        raise InputError(f"the prompt needs a place {{text}} for the diagnosis; got {prompt!r}")
    ids = tokenizer([prompt.replace("{text}", row.text) for row in rows], verbose=False)["input_ids"]
    return [(tokens, row.chapter - 1) for tokens, row in zip(ids, rows, strict=True)]


def batches(examples: Sequence[Example], size: int, seed: int | None = None) -> Iterator[tuple[torch.Tensor, ...]]:
    """Batches of examples of nearly the same length, so that hardly anything is padding.

    A batch has `size` examples, 1 or more (else InputError), but fewer if they are longer than 24 tokens, which bounds
    the memory of a step. Yields ids (batch, tokens), padded with 0 on the right, where a causal model cannot see it;
    lengths (batch,); and labels (batch,). With a seed, every batch draws from its own length and the batches come in
    random order; without one, the shortest come first.
    """
    if size < 1:
        raise InputError(f"a batch holds 1 or more examples; got {size}")
    shuffled = (lambda n: np.random.default_rng(seed).permutation(n)) if seed is not None else range
    order = sorted(shuffled(len(examples)), key=lambda i: len(examples[i][0]))  # stable: equal lengths stay shuffled
    groups: list[list[int]] = []
    for i in order:
        if not groups or len(groups[-1]) == size or (len(groups[-1]) + 1) * len(examples[i][0]) > size * LONG:
            groups.append([])
        groups[-1].append(i)
    for group in (groups[i] for i in shuffled(len(groups))):
        rows = [torch.tensor(examples[i][0]) for i in group]
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        yield ids, torch.tensor([len(row) for row in rows]), torch.tensor([examples[i][1] for i in group])


def label_logits(model: Model, ids: torch.Tensor, lengths: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Float32 logits (batch, 21) of the label tokens where each prompt ends; the head computes no place without an end.

    Takes a causal language model, with or without adapters; ids (batch, tokens), padded on the right; lengths (batch,);
    and labels (21,) from `label_ids`. A bfloat16 model is run under autocast: adapters may keep float32 weights.
    """
    ends, place = (lengths - 1).unique(return_inverse=True)  # few, as the prompts of a batch are alike in length
    ids, ends, place, labels = (t.to(model.device) for t in (ids, ends, place, labels))
    # Without autocast's cache: within a caller's autocast it would outlive a step, and weights change.
    half = torch.autocast(ids.device.type, torch.bfloat16, cache_enabled=False)
    with half if model.dtype == torch.bfloat16 else contextlib.nullcontext():
        logits = model(input_ids=ids, use_cache=False, logits_to_keep=ends).logits  # (batch, ends, vocabulary)
    return logits[torch.arange(len(ids), device=ids.device), place][:, labels].float()


def training(
    model: Model, tokenizer: Tokenizer, rows: Rows, *, steps: int, size: int = 32, rate: float = 1e-3, seed: int = 0
) -> Iterator[float]:
    """Train what is trainable in a model, one step each time the next loss is asked for.

    The loss is the cross entropy over the 21 label tokens. AdamW without weight decay; the rate rises during the
    first tenth of the steps and falls on a line to zero. Raises InputError, when the first loss is asked for, for less
    than one step, nothing to train, or as `encode`.
    """
    if steps < 1:
        raise InputError(f"a training has 1 or more steps; got {steps}")
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise InputError("the model has no trainable parameters: add adapters, or let some layers require gradients")
    # A trained embedding has a gradient as large as itself, and two halves of a batch would hold it twice.
    large = any(p.requires_grad for p in model.get_input_embeddings().parameters())
    labels, examples = label_ids(tokenizer), encode(rows, tokenizer)
    optimizer = torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    epochs = (batches(examples, size, seed + epoch) for epoch in itertools.count())
    for step, (ids, lengths, answers) in zip(range(steps), itertools.chain.from_iterable(epochs), strict=False):
        optimizer.param_groups[0]["lr"] = rate * min(1, (step + 1) / steps / WARM_UP) * (1 - step / steps)
        model.train()
        optimizer.zero_grad()

        def backward(ids: torch.Tensor, lengths: torch.Tensor, answers: torch.Tensor, rows: int = len(ids)) -> float:
            logits = label_logits(model, ids, lengths, labels)
            loss = torch.nn.functional.cross_entropy(logits, answers.to(logits.device), reduction="sum") / rows
            loss.backward()  # adds to what the other half of the batch has left; of two, the order does not matter
            return loss.item()

        batch = ids, lengths, answers
        value = backward(*batch) if large else sum(measure.in_halves(backward, *batch))
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        model.eval()  # whenever the caller has it, and however early the caller stops
        yield value


@torch.no_grad()
def predict(model: Model, tokenizer: Tokenizer, rows: Rows, prompt: str = PROMPT) -> list[int]:
    """The chapter that a model gives each row: that of the label with the largest logit. InputError as `encode`."""
    labels, found = label_ids(tokenizer), torch.zeros(len(rows), dtype=torch.long)
    examples = [(tokens, place) for place, (tokens, _) in enumerate(encode(rows, tokenizer, prompt))]
    was_training = model.training

    def answer(batch: tuple[torch.Tensor, ...]) -> None:
        found[batch[2]] = label_logits(model, *batch[:2], labels).argmax(-1).cpu() + 1

    model.eval()
    measure.two_at_a_time(answer, batches(examples, 64))
    model.train(was_training)
    return found.tolist()


def score(rows: Rows, predicted: Sequence[int]) -> Score:
    """Macro accuracy of predicted chapters, with a bootstrap interval over families within each chapter.

    Raises InputError as `check_rows`, and where there are not as many predictions as rows.
    """
    check_rows(rows)
    if len(predicted) != len(rows):
        raise InputError(f"{len(rows)} rows need as many predictions; got {len(predicted)}")
    hits: dict[int, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for row, chapter in zip(rows, predicted, strict=True):
        hits[row.chapter][row.family].append(chapter == row.chapter)
    generator, by_chapter, drawn = np.random.default_rng(0), {}, []
    for chapter, families in sorted(hits.items()):
        right, total = np.array([(sum(family), len(family)) for family in families.values()]).T
        by_chapter[chapter] = float(right.sum() / total.sum())
        picks = generator.integers(len(right), size=(1000, len(right)))
        drawn.append(right[picks].sum(1) / total[picks].sum(1))
    low, high = np.quantile(np.mean(drawn, axis=0), [0.025, 0.975])
    return Score(float(np.mean(list(by_chapter.values()))), float(low), float(high), by_chapter, tuple(predicted))
