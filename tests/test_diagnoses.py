"""The medical task: its split, its checks, its batches, and its way to read an answer off a model."""

import copy
import dataclasses
import itertools
import threading
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, LlamaConfig

from utils import diagnoses, models
from utils.diagnoses import Diagnosis
from utils.errors import InputError

CHOLERA = Diagnosis("A00.9", "Cholera, unspecified", 1)
ASTHMA = Diagnosis("J45.909", "Unspecified asthma, uncomplicated", 10)
EXAMPLES = st.lists(st.tuples(st.lists(st.integers(1, 99), min_size=1, max_size=12), st.integers(0, 20)), min_size=1)


@pytest.fixture(scope="module")
def tokenizer():
    return models.deepseek_tokenizer()


@pytest.fixture(scope="module")
def model(tokenizer):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=2,
        intermediate_size=32,
        num_attention_heads=2,
        initializer_range=0.5,
    )
    return AutoModelForCausalLM.from_config(config).eval()


def test_every_chapter_but_the_last_has_a_word():
    import simple_icd_10_cm as icd

    assert list(diagnoses.LABELS) == list(range(1, 22))
    assert icd.get_description("9").startswith("Diseases of the circulatory system") and diagnoses.LABELS[9] == "heart"
    assert len(set(diagnoses.LABELS.values())) == 21


def test_the_catalog_is_read_as_it_is():
    import simple_icd_10_cm as icd

    rows, names = diagnoses.catalog()
    assert len(rows) > 70_000 and len({row.code for row in rows}) == len(rows)
    assert Diagnosis("A00.9", "Cholera, unspecified", 1) in rows
    assert Diagnosis("G43.0", "Common migraine", 6) in names
    for row in (*rows[::997], *names[::97]):
        assert icd.get_ancestors(row.code)[-1] == str(row.chapter)


def test_test_and_validation_are_balanced_and_large_enough():
    found = diagnoses.split()
    assert Counter(row.chapter for row in found.test) == dict.fromkeys(range(1, 22), 30)
    assert Counter(row.chapter for row in found.validation) == dict.fromkeys(range(1, 22), 10)
    assert Counter(row.chapter for row in found.train) == dict.fromkeys(range(1, 22), 300)


def test_no_family_code_or_text_stands_on_two_sides():
    found = diagnoses.split()
    for key in (lambda row: row.family, lambda row: row.code, lambda row: row.text.casefold()):
        train, validation, test = ({key(row) for row in side} for side in (found.train, found.validation, found.test))
        assert not train & validation and not train & test and not validation & test
    assert len({row.text.casefold() for row in found.train}) == len(found.train)


def test_the_split_is_the_same_in_every_process():
    """The order comes from a hash of the text, not from Python's, which changes from process to process."""
    assert [row.code for row in diagnoses.split().test[:3]] == ["O35.12X0", "Q52.79", "O36.5119"]


def test_a_family_does_not_fill_a_set():
    for rows, most in ((diagnoses.split().test, 5), (diagnoses.split().train, 26)):
        assert max(Counter(row.family for row in rows).values()) <= most


@pytest.mark.parametrize("chapter", [None, 0, 22, "1"])
def test_an_unlabeled_row_is_named(chapter, tokenizer):
    rows = [ASTHMA, dataclasses.replace(CHOLERA, chapter=chapter)]
    calls = (
        lambda: diagnoses.check_rows(rows),
        lambda: diagnoses.encode(rows, tokenizer),
        lambda: diagnoses.score(rows, [1, 1]),
        lambda: diagnoses.check_split([ASTHMA], rows),
    )
    for call in calls:
        with pytest.raises(InputError, match=r"row 1 \(A00.9, 'Cholera, unspecified'\) is not labeled.*1 to 21"):
            call()


def test_no_rows_and_no_text_are_refused():
    with pytest.raises(InputError, match="no diagnoses"):
        diagnoses.check_rows([])
    with pytest.raises(InputError, match=r"row 0 \(A00.9\) has no text"):
        diagnoses.check_rows([dataclasses.replace(CHOLERA, text="  ")])


@pytest.mark.parametrize(
    ("leaked", "what"),
    [
        (ASTHMA, "code"),
        (Diagnosis("J45.20", "Mild intermittent asthma, uncomplicated", 10), "family"),
        (Diagnosis("J98.8", "unspecified ASTHMA, uncomplicated", 10), "text"),
    ],
)
def test_a_leak_is_named(leaked, what):
    with pytest.raises(InputError, match=rf"1 test rows share their {what} with the training set, such as J"):
        diagnoses.check_split([CHOLERA, ASTHMA], [leaked])
    diagnoses.check_split([CHOLERA], [ASTHMA])


def test_labels_are_one_token_each(tokenizer):
    ids = diagnoses.label_ids(tokenizer)
    assert ids.shape == (21,) and len(set(ids.tolist())) == 21
    assert [tokenizer.decode(i).strip() for i in ids.tolist()] == list(diagnoses.LABELS.values())


def test_labels_of_several_tokens_are_refused():
    with pytest.raises(InputError, match=r"each label must be one token.*congenital"):
        diagnoses.label_ids(models.mini_tokenizer())


def test_a_prompt_without_a_place_is_refused(tokenizer):
    with pytest.raises(InputError, match="needs a place"):
        diagnoses.encode([ASTHMA], tokenizer, "Field:")


def test_a_text_with_braces_is_kept(tokenizer):
    row = dataclasses.replace(ASTHMA, text="a {b} c")
    ((ids, label),) = diagnoses.encode([row], tokenizer, "{text}!")
    assert tokenizer.decode(ids).endswith("a {b} c!") and label == 9


@settings(deadline=None, max_examples=40)
@given(EXAMPLES, st.integers(1, 8), st.one_of(st.none(), st.integers(0, 9)))
def test_batches_hold_every_example_once(examples, size, seed):
    seen = []
    for ids, lengths, labels in diagnoses.batches(examples, size, seed):
        assert len(ids) <= size and ids.shape[1] == lengths.max()
        for row, length, label in zip(ids, lengths.tolist(), labels.tolist(), strict=True):
            assert not row[length:].any()
            seen.append((row[:length].tolist(), label))
    assert sorted(seen) == sorted(examples)


def test_batches_waste_little_and_repeat(tokenizer):
    examples = diagnoses.encode(diagnoses.split().train, tokenizer)
    first = list(diagnoses.batches(examples, 32, seed=1))
    used, held = sum(int(lengths.sum()) for _, lengths, _ in first), sum(ids.numel() for ids, _, _ in first)
    assert used > 0.95 * held
    assert max(ids.numel() for ids, _, _ in first) <= 32 * 24  # long texts do not make a step expensive
    assert all(torch.equal(a[0], b[0]) for a, b in zip(first, diagnoses.batches(examples, 32, seed=1), strict=True))
    with pytest.raises(InputError, match="1 or more examples; got 0"):
        next(diagnoses.batches(examples, 0))


@settings(deadline=None, max_examples=15)
@given(EXAMPLES)
def test_label_logits_are_those_of_a_row_alone(model, examples):
    labels = torch.tensor([5, 7, 11])
    with torch.no_grad():
        for ids, lengths, _ in diagnoses.batches(examples, 4):
            together = diagnoses.label_logits(model, ids, lengths, labels)
            for row, length, logits in zip(ids, lengths, together, strict=True):
                alone = model(row[None, :length]).logits[0, -1, labels]
                torch.testing.assert_close(logits, alone, atol=1e-4, rtol=1e-4)


def test_predictions_come_back_in_the_order_of_the_rows(model, tokenizer):
    rows = diagnoses.split().test[:70]  # more than a batch
    model.train()
    together = diagnoses.predict(model, tokenizer, rows)
    assert model.training
    model.eval()
    assert together == [diagnoses.predict(model, tokenizer, [row])[0] for row in rows]
    assert len(set(together)) > 1


def test_macro_accuracy_weighs_chapters_not_rows():
    rows = [ASTHMA] * 9 + [CHOLERA]
    found = diagnoses.score(rows, [10] * 10)
    assert found.accuracy == 0.5 and found.by_chapter == {1: 0.0, 10: 1.0} and found.predicted == (10,) * 10
    assert (found.low, found.high) == (0.5, 0.5)  # one family a chapter: nothing else can be drawn
    with pytest.raises(InputError, match="10 rows need as many predictions; got 9"):
        diagnoses.score(rows, [1] * 9)


def test_the_interval_is_that_of_drawing_families():
    """Against the textbook error of a mean: 100 families of 4 equal members, half of them right."""
    rows = [Diagnosis(f"A{n:02d}.{k}", "x", 1) for n in range(100) for k in range(4)]
    found = diagnoses.score(rows, [1 if int(row.code[1:3]) % 2 else 2 for row in rows])
    wanted = 1.96 * np.sqrt(0.25 / 100)
    assert found.accuracy == 0.5
    assert found.high - 0.5 == pytest.approx(wanted, rel=0.1) and 0.5 - found.low == pytest.approx(wanted, rel=0.1)
    assert str(found).startswith("50.0% (95 % interval 4")


def test_training_lowers_the_loss_and_touches_only_what_is_trainable(tokenizer, model):
    learner = copy.deepcopy(model).requires_grad_(False)
    trained = learner.model.layers[1].mlp.down_proj.weight.requires_grad_(True)
    before = {name: p.detach().clone() for name, p in learner.named_parameters()}
    losses = list(diagnoses.training(learner, tokenizer, diagnoses.split().train[:21], steps=12, size=7, rate=0.05))
    assert len(losses) == 12 and sum(losses[-3:]) < sum(losses[:3])
    changed = [name for name, p in learner.named_parameters() if not torch.equal(p, before[name])]
    assert changed == ["model.layers.1.mlp.down_proj.weight"] and trained.requires_grad
    assert not learner.training


def test_a_training_that_the_caller_stops_leaves_the_model_ready_to_use(tokenizer, model):
    learner = copy.deepcopy(model)
    run = diagnoses.training(learner, tokenizer, [ASTHMA], steps=5)
    next(run)
    assert not learner.training


@pytest.mark.parametrize("steps", [1, 7, 12, 110])
def test_the_rate_rises_for_a_tenth_of_any_budget(tokenizer, model, monkeypatch, steps):
    """So that a short training reaches its rate, too: after eight steps of twelve, little would be left of it."""
    rates = []
    step = torch.optim.AdamW.step

    def recorded(self, *args, **kwargs):
        rates.append(self.param_groups[0]["lr"])
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", recorded)
    list(diagnoses.training(copy.deepcopy(model), tokenizer, [ASTHMA], steps=steps, size=1, rate=1.0))
    peak = int(np.argmax(rates))
    assert len(rates) == steps and peak <= steps * diagnoses.WARM_UP and rates[peak] > 0.8
    assert all(a > b for a, b in itertools.pairwise(rates[peak:])) and rates[-1] <= 1 / steps + 1e-9
    assert all(a < b for a, b in itertools.pairwise(rates[: peak + 1]))


@pytest.mark.parametrize("steps", [0, -1])
def test_a_training_has_steps(tokenizer, model, steps):
    with pytest.raises(InputError, match=f"1 or more steps; got {steps}"):
        next(diagnoses.training(model, tokenizer, [ASTHMA], steps=steps))


def test_a_frozen_model_cannot_train(tokenizer, model):
    with pytest.raises(InputError, match="no trainable parameters"):
        next(diagnoses.training(copy.deepcopy(model).requires_grad_(False), tokenizer, [ASTHMA], steps=1))


def test_a_bfloat16_model_runs_with_float32_adapters(tokenizer, model):
    half = copy.deepcopy(model).to(torch.bfloat16)
    half.model.layers[0].mlp.up_proj.float()  # as an adapter would be
    ids, lengths, _ = next(diagnoses.batches(diagnoses.encode([ASTHMA], tokenizer), 1))
    logits = diagnoses.label_logits(half, ids, lengths, diagnoses.label_ids(tokenizer))
    assert logits.dtype == torch.float32 and logits.shape == (1, 21)


@pytest.fixture
def threads(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_two_threads_train_and_answer_as_one(tokenizer, model, threads):
    rows = diagnoses.split().train[:40]
    found = []
    for count in (1, 2, 2):
        threads(count)
        learner = copy.deepcopy(model)
        learner.get_input_embeddings().requires_grad_(False)  # only then is a batch cut into halves
        losses = list(diagnoses.training(learner, tokenizer, rows, steps=6, size=7, rate=0.01))
        found.append((losses, diagnoses.predict(learner, tokenizer, rows)))
    assert found[1] == found[2]
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-3) and found[0][1] == found[1][1]
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("half", [False, True])
def test_threads_keep_the_callers_modes(tokenizer, model, threads, half):
    threads(2)
    seen = set()

    def note(*_):
        seen.add((torch.is_autocast_enabled("cpu"), torch.is_grad_enabled(), torch.get_num_threads()))

    with torch.autocast("cpu", torch.bfloat16, enabled=half), model.lm_head.register_forward_hook(note):
        diagnoses.predict(model, tokenizer, diagnoses.split().test[:70])
        assert seen == {(half, False, 1)}
        learner = copy.deepcopy(model)
        learner.get_input_embeddings().requires_grad_(False)
        for trained, count in ((learner, 1), (model, 2)):  # with a trained embedding, both threads share the batch
            seen.clear()
            list(diagnoses.training(copy.deepcopy(trained), tokenizer, diagnoses.split().train[:8], steps=1))
            assert seen == {(half, True, count)}


def test_all_steps_share_two_threads(tokenizer, model, threads):
    """A thread keeps memory that it freed: new ones for each step would pile it up."""
    threads(2)
    seen = set()
    with model.lm_head.register_forward_hook(lambda *_: seen.add(threading.current_thread())):
        for _ in range(3):
            diagnoses.predict(model, tokenizer, diagnoses.split().test[:140])
    assert 1 <= len(seen) <= 2 and threading.current_thread() not in seen
