"""Measuring measures: ratios have the right direction, peaks the right size, perplexity the right weights."""

import itertools
import math
import os
import subprocess
import sys
import threading
import time
import weakref
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch

from utils import measure
from utils.errors import InputError


def test_a_ratio_above_one_means_that_the_second_is_faster(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    def takes(seconds):
        def function():
            clock[0] += seconds

        return function

    ratio = measure.paired_ratio(takes(3.0), takes(1.0), pairs=7)
    assert (ratio.median, ratio.low, ratio.high, ratio.pairs) == (3.0, 3.0, 3.0, 7)
    assert (ratio.first_seconds, ratio.second_seconds) == (3.0, 1.0)
    assert str(ratio) == "3.00x (interval 3.00 to 3.00, 7 pairs)"


def test_the_interval_of_a_median_covers_it_as_often_as_promised():
    draws = np.random.default_rng(0).lognormal(size=(2000, 15))  # median 1
    ends = np.array([measure.median_interval(list(draw)) for draw in draws])
    covered = ((ends[:, 0] <= 1) & (ends[:, 1] >= 1)).mean()
    assert 0.95 <= covered < 0.98  # 15 values: the exact chance is 96.5 %


def test_the_interval_of_a_median_is_exact_and_honest_about_few_values():
    assert measure.median_interval([1, 2, 3, 4, 5]) == (-math.inf, math.inf)  # 2 / 32 is more than 5 %
    assert measure.median_interval([6, 5, 4, 3, 2, 1]) == (1, 6)  # 2 / 64
    assert measure.median_interval(list(range(9))) == (1, 7)  # 2 * (1 + 9) / 512
    with pytest.raises(InputError, match="at least one value"):
        measure.median_interval([])


def clocked(monkeypatch, ratios):
    """Two functions of which the first takes as many times as long as `ratios` says, pair by pair."""
    clock, pairs = [0.0], iter(ratios)
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    def tick(seconds):
        clock[0] += seconds

    return (lambda: tick(next(pairs))), (lambda: tick(1.0))


def test_settling_stops_as_soon_as_the_interval_is_on_one_side(monkeypatch):
    ratio = measure.settle(*clocked(monkeypatch, itertools.repeat(3.0)), 2.0, seconds=1e6)
    assert (ratio.at_least(2.0), ratio.pairs) == (True, 9)
    ratio = measure.settle(*clocked(monkeypatch, itertools.repeat(1.5)), 2.0, seconds=1e6)
    assert ratio.at_least(2.0) is False


def test_settling_ends_with_the_time_and_then_cannot_tell(monkeypatch):
    ratio = measure.settle(*clocked(monkeypatch, itertools.cycle([1.5, 2.5])), 2.0, seconds=100)
    assert ratio.at_least(2.0) is None and 9 < ratio.pairs < 50
    ratio = measure.settle(*clocked(monkeypatch, itertools.cycle([1.5, 2.5])), 2.0, seconds=1e9, pairs=40)
    assert ratio.at_least(2.0) is None and ratio.pairs == 40


def test_settling_goes_on_until_every_bound_is_decided(monkeypatch):
    noisy = itertools.cycle([2.6, 2.6, 2.6, 1.9])
    assert measure.settle(*clocked(monkeypatch, noisy), 1.0, seconds=1e6).pairs == 9
    ratio = measure.settle(*clocked(monkeypatch, noisy), 1.0, 2.5, seconds=1e6)
    assert ratio.pairs > 9 and ratio.at_least(2.5) is True


@pytest.mark.parametrize("bounds", [(), (0,), (-1.0,)])
def test_settling_needs_bounds(bounds):
    with pytest.raises(InputError, match="bounds must be ratios above 0"):
        measure.settle(int, int, *bounds)


def test_one_thread_gives_the_threads_back():
    before = torch.get_num_threads()
    with pytest.raises(KeyError), measure.one_thread():
        assert torch.get_num_threads() == 1
        raise KeyError
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(("half", "fast"), [(0.5, True), (1.0, False), (3.0, False)])
def test_fast_bfloat16_is_measured(monkeypatch, half, fast):
    """What counts is the time of a product, whatever the processor says of itself."""
    ratio = measure.Ratio(1 / half, 1 / half, 1 / half, 9, 1.0, half)
    monkeypatch.setattr(measure, "settle", lambda *_, **__: ratio)
    assert measure.has_fast_bfloat16.__wrapped__() is fast


def test_a_gpu_has_finished_before_the_clock_starts_and_stops(monkeypatch):
    happened = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: happened.append("wait"))
    monkeypatch.setattr(time, "perf_counter", lambda: happened.append("clock") or 0.0)
    measure.paired_ratio(lambda: happened.append("first"), int, pairs=1, warmup=0)
    assert happened[:5] == ["wait", "clock", "first", "wait", "clock"]


def test_pairs_alternate_their_order():
    order = []
    measure.paired_ratio(lambda: order.append("a"), lambda: order.append("b"), pairs=2, warmup=0)
    assert order == ["a", "b", "b", "a"]


@pytest.mark.parametrize(("pairs", "warmup"), [(0, 1), (3, -1)])
def test_pairs_that_make_no_sense(pairs, warmup):
    with pytest.raises(InputError, match=f"pairs={pairs}, warmup={warmup}"):
        measure.paired_ratio(int, int, pairs=pairs, warmup=warmup)


@pytest.mark.parametrize("sampled", [False, True])
def test_peak_memory_sees_a_block_that_is_freed_again_and_resets(monkeypatch, sampled):
    if sampled:
        monkeypatch.setattr(measure, "_reset_high_water_mark", lambda: False)
    with measure.peak_memory() as large:
        block = np.ones(40_000_000)  # 320 MB
        time.sleep(0.05)
        del block
    with measure.peak_memory() as nothing:
        time.sleep(0.02)
    assert 300e6 < large.extra < 420e6
    assert nothing.extra < 60e6  # the first peak is forgotten


def test_size_on_disk(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "a").write_bytes(b"12345")
    (tmp_path / "sub" / "b").write_bytes(b"123")
    assert measure.size_on_disk(tmp_path) == 8
    assert measure.size_on_disk(tmp_path / "a") == 5
    with pytest.raises(FileNotFoundError, match="'gone' does not exist"):
        measure.size_on_disk(tmp_path / "gone")


class Unigram:
    """A model that gives every token a fixed logit, so that the perplexity is known in closed form."""

    device = "cpu"
    config = SimpleNamespace(max_position_embeddings=64)

    def __init__(self, vocabulary):
        self.logits = torch.linspace(-1, 1, vocabulary)

    def __call__(self, input_ids):
        return SimpleNamespace(logits=self.logits.expand(*input_ids.shape, -1))


def characters(text, verbose=True):
    return {"input_ids": [ord(letter) - 97 for letter in text]}


@pytest.mark.parametrize(("window", "stride"), [(64, 64), (8, 4), (8, 8), (8, 1), (7, 3)])
@pytest.mark.parametrize("length", [2, 8, 9, 50])
def test_perplexity_counts_every_token_once_and_weighs_by_tokens(window, stride, length):
    text = "".join(chr(97 + (7 * n) % 26) for n in range(length))
    model = Unigram(26)
    found = measure.perplexity(model, characters, text, window, stride)
    scored = list(range(1, length))
    if stride == window:  # the first token of a window that starts afresh has nothing to be predicted from
        scored = [n for n in scored if n % window]
    ids = torch.tensor(characters(text)["input_ids"])
    losses = -torch.log_softmax(model.logits, 0)[ids]
    assert found.tokens == len(scored)
    assert math.isclose(found.value, math.exp(losses[scored].mean()), rel_tol=1e-5)


@pytest.mark.parametrize(
    ("text", "window", "stride", "message"),
    [
        ("a", 8, 4, "at least 2 tokens; got 1"),
        ("abc", 8, 9, "stride must be from 1 to window .8.; got 9"),
        ("abc", 8, 0, "got 0"),
        ("abc", 65, 4, "context of 64 tokens; got 65"),
    ],
)
def test_perplexity_refuses_what_makes_no_sense(text, window, stride, message):
    with pytest.raises(InputError, match=message):
        measure.perplexity(Unigram(26), characters, text, window, stride)


def test_released_memory_goes_back_to_the_system():
    blocks = [torch.zeros(100_000) for _ in range(500)]  # 200 MB in pieces that the C library keeps for itself
    held = psutil.Process().memory_info().rss
    del blocks
    measure.release_memory()
    assert held - psutil.Process().memory_info().rss > 150e6


def test_the_machine_s_rates_are_work_over_the_median_time(monkeypatch):
    turn = itertools.count()
    slow = {0: 100.0, 9: 7.0, 22: 9.0}  # the warm-up, and two disturbed ones
    monkeypatch.setattr(measure, "_seconds", lambda work: work() is not None and slow.get(next(turn), 0.5))
    rates = measure.machine_rates()
    operations = 2 * 2 * 1024**3
    assert rates == {"bytes": 256e6, **dict.fromkeys(("float32", "bfloat16", "int8"), operations)}
    assert next(turn) == 4 * 10


@pytest.mark.parametrize("own", [None, "7"])
def test_waiting_threads_soon_give_the_core_away_unless_somebody_has_said_when(own: str | None):
    told = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    told |= {"GOMP_SPINCOUNT": own} if own else {}
    code = "import deepseek_by_the_numbers, os, sys; print(os.environ['GOMP_SPINCOUNT'], 'torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], env=told, capture_output=True, text=True, check=True)
    assert found.stdout.split() == [own or "3000", "False"]  # it is read when torch is imported


@pytest.fixture
def two_threads(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_two_at_a_time_answers_in_order_on_one_thread_each(two_threads):
    meeting = threading.Barrier(2, timeout=20)

    def work(part: int) -> tuple[int, int]:
        if part < 2:
            meeting.wait()  # would break if one followed the other
        return part, torch.get_num_threads()

    assert measure.two_at_a_time(work, range(5)) == [(part, 1) for part in range(5)]
    assert measure.two_at_a_time(work, []) == []
    assert torch.get_num_threads() == 2


def test_of_many_parts_only_two_are_there_at_once(two_threads):
    alive, most = weakref.WeakSet(), []

    class Part:
        pass

    def made():
        for _ in range(6):
            part = Part()
            alive.add(part)
            most.append(len(alive))
            yield part
            del part

    measure.two_at_a_time(lambda part: time.sleep(0.01), made())
    assert len(most) == 6 and max(most) == 2


def test_a_part_that_fails_ends_the_rest_and_nothing_runs_on(two_threads):
    begun, ended = [], []

    def work(part: int) -> None:
        begun.append(part)
        if part == 0:
            raise InputError("part 0 fails")
        time.sleep(0.2)
        ended.append(part)

    with pytest.raises(InputError, match="part 0 fails"):
        measure.two_at_a_time(work, range(100))
    assert len(begun) <= 2 and ended == begun[1:] and torch.get_num_threads() == 2


def test_a_part_may_have_parts_of_its_own(two_threads, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)  # also within a part

    def work(part: int) -> list[int]:
        return [*measure.two_at_a_time(lambda x: x + part, range(2)), *measure.in_halves(len, torch.ones(4))]

    assert measure.two_at_a_time(work, range(3)) == [[part, part + 1, 4] for part in range(3)]


def test_no_collection_walks_through_the_libraries():
    code = "import gc; from utils import measure; print(gc.get_freeze_count())"
    assert int(subprocess.check_output([sys.executable, "-c", code], cwd=measure.Path(__file__).parents[1])) > 100_000


def test_with_one_thread_or_a_gpu_parts_follow_each_other(two_threads, monkeypatch):
    seen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    measure.two_at_a_time(lambda part: seen.append(threading.current_thread()), range(2))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with measure.one_thread():
        measure.two_at_a_time(lambda part: seen.append(threading.current_thread()), range(2))
    assert set(seen) == {threading.current_thread()} and len(seen) == 4
