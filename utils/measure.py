"""Honest measuring: paired timing, peak memory, size on disk, perplexity.

Timings on a shared machine drift. So two ways of doing a thing are timed in turn, pair by pair, and the answer is the
ratio of a pair, as a median with its spread: what slows one slows the other too.
"""

import ctypes
import functools
import gc
import itertools
import math
import statistics
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from utils.errors import InputError

# Half a million objects of the libraries stay for good: no collection shall walk through them (0.2 s each time).
# What is there now is never collected, so this module is imported before there are models.
gc.freeze()

Work = Callable[[], Any]  # what is timed
_PAIR = "one of two"  # how the threads are called that work at the same time
_POOL = ThreadPoolExecutor(2, _PAIR)  # one for all: each new thread would keep freed memory of its own


@dataclass(frozen=True)
class Ratio:
    """How many times as long the first side takes as the second: above 1, the second is faster.

    Attributes:
        median: median ratio of the pairs; 2.0 means the second function takes half the time of the first.
        low, high: exact interval of the median, from the order of the pairs; infinite where there are too few for it.
        pairs: how many pairs were timed.
        first_seconds, second_seconds: median seconds of each side, for the curious.
    """

    median: float
    low: float
    high: float
    pairs: int
    first_seconds: float
    second_seconds: float

    def __str__(self) -> str:
        return f"{self.median:.2f}x (interval {self.low:.2f} to {self.high:.2f}, {self.pairs} pairs)"

    def at_least(self, bound: float) -> bool | None:
        """Whether the ratio is at least `bound`: True or False where the whole interval says so, else None."""
        return True if self.low >= bound else False if self.high < bound else None


def median_interval(values: list[float], confidence: float = 0.95) -> tuple[float, float]:
    """Interval of the median of independent values, from their order alone (the sign test turned round).

    The k-th smallest and k-th largest value hold the median between them unless fewer than k of the n values fall on
    one side of it: the chance is twice a binomial tail. (-inf, inf) where n is too small; InputError for no value.
    """
    n, k, tail = len(values), 0, 0.0
    if n == 0:
        raise InputError("an interval needs at least one value")
    while k < n and 2 * (tail + math.comb(n, k) / 2**n) <= 1 - confidence:
        tail, k = tail + math.comb(n, k) / 2**n, k + 1
    ordered = sorted(values)
    return (ordered[k - 1], ordered[n - k]) if k else (-math.inf, math.inf)


def paired_ratio(first: Work, second: Work, pairs: int = 9, warmup: int = 1) -> Ratio:
    """Time `first` against `second` in alternating order; ratios above 1 mean that `second` is faster (interval: 95 %).

    Raises InputError for fewer than 1 pair, or a negative warm-up.
    """
    if pairs < 1 or warmup < 0:
        raise InputError(f"pairs must be 1 or more and warmup 0 or more; got pairs={pairs}, warmup={warmup}")
    for _ in range(warmup):
        first()
        second()
    return _ratio([_pair(first, second, number) for number in range(pairs)], 0.95)


SURE = 0.99  # of `settle`: its pairs are looked at again and again


def settle(first: Work, second: Work, *bounds: float, seconds: float = 10, pairs: int = 200) -> Ratio:
    """Time pairs until the ratio's interval lies on one side of every bound, or the time is used up.

    Ask the result: `ratio.at_least(bound)` is True, False, or None where the time ended before the pairs agreed. Its
    interval has the confidence `SURE`.

    Args:
        first, second: what is timed in turn, on however many threads torch has; see `one_thread`.
        bounds: the ratios above 0 that a verdict depends on, at least one; else InputError.
        seconds: budget; at least 9 pairs are timed all the same, and never more than `pairs`.
    """
    if not bounds or not all(bound > 0 for bound in bounds):
        raise InputError(f"bounds must be ratios above 0; got {bounds}")
    first(), second()
    timed: list[tuple[float, float]] = []
    end = time.perf_counter() + seconds
    while len(timed) < pairs:
        timed.append(_pair(first, second, len(timed)))
        ratio = _ratio(timed, SURE)
        settled = all(ratio.at_least(bound) is not None for bound in bounds)
        if len(timed) >= 9 and (settled or time.perf_counter() > end):
            break
    return ratio


def _pair(first: Work, second: Work, number: int) -> tuple[float, float]:
    # The order flips from pair to pair, so that neither side always runs on a cache the other has filled.
    late = _seconds(second) if number % 2 else None
    return _seconds(first), late or _seconds(second)


def _ratio(timed: list[tuple[float, float]], confidence: float) -> Ratio:
    ratios = [a / b for a, b in timed]
    sides = (statistics.median(side) for side in zip(*timed, strict=True))
    return Ratio(statistics.median(ratios), *median_interval(ratios, confidence), len(ratios), *sides)


def _seconds(function: Work) -> float:
    _wait_for_gpu()
    start = time.perf_counter()
    function()
    _wait_for_gpu()
    return max(time.perf_counter() - start, 1e-9)


def _wait_for_gpu() -> None:
    """A call that starts work on a GPU returns before the work is done."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread in a block: a ratio of single threads is the same beside a busy core."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def two_at_a_time(work: Callable[[Any], Any], parts: Iterable[Any]) -> list[Any]:
    """Results of `work` for each part, in order: two parts at a time, each on one thread, where torch has several.

    The products of a small model are short: threads that share one lose more by waiting than they gain. A part is
    taken when its turn comes, so of many models only two are there at once. Both share torch's random numbers and its
    default dtype: draw what is random while a part is made. On a GPU one part follows the other. When a part fails, no
    other is begun, and the error comes when what runs has ended.
    """
    if _one_by_one():
        return list(map(work, parts))
    grad, half = torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")
    parts, free, running = iter(parts), threading.Semaphore(2), []

    def own(box: list[Any]) -> Any:  # a new thread knows neither mode
        with torch.set_grad_enabled(grad), torch.autocast("cpu", torch.bfloat16, enabled=half, cache_enabled=False):
            return work(box.pop())  # nothing else holds the part: it is gone before the next is made

    with one_thread():
        try:
            while free.acquire() and not any(run.done() and run.exception() for run in running):
                if not (box := list(itertools.islice(parts, 1))):
                    break
                running.append(_POOL.submit(own, box))
                running[-1].add_done_callback(lambda _: free.release())
        finally:
            wait(running)
    return [run.result() for run in running]


def in_halves(work: Callable[..., Any], *batch: torch.Tensor) -> list[Any]:
    """Results of `work` for the two halves of a batch, two at a time; for the whole on a GPU, or with one thread."""
    if _one_by_one() or len(batch[0]) == 1:
        return [work(*batch)]
    return two_at_a_time(lambda half: work(*half), zip(*(part.chunk(2) for part in batch), strict=True))


def _one_by_one() -> bool:
    inside = threading.current_thread().name.startswith(_PAIR)  # a thread that waits for its own pool waits for ever
    return inside or torch.cuda.is_available() or torch.get_num_threads() == 1


@functools.cache
def has_fast_bfloat16(device: str | None = None) -> bool:
    """Whether a device multiplies matrices faster in bfloat16 than in float32: measured, not read from its flags.

    A processor may name the instructions and still emulate them, for example under a limit set from outside. The
    `device` is "cpu" or "cuda"; None for the GPU where there is one.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    a, b = torch.rand(256, 1024, device=device), torch.rand(1024, 1024, device=device)
    half = a.bfloat16(), b.bfloat16()
    with one_thread():
        return settle(lambda: a @ b, lambda: half[0] @ half[1], 1.2, seconds=1).median > 1.2


def machine_rates() -> dict[str, float]:
    """What this machine does in a second, on torch's threads: the two sides of a roofline (Williams et al. 2009).

    "bytes" are read and added up, from 128 MB; "float32", "bfloat16" and "int8" are operations of a product of square
    matrices, two for a multiplication with its addition. Medians of nine rounds, in turn.
    """
    pile, works = torch.ones(32_000_000), {}
    for name, product in {"float32": torch.mm, "bfloat16": torch.mm, "int8": torch._int_mm}.items():
        matrix = torch.ones(1024, 1024, dtype=getattr(torch, name))
        works[name] = 2 * len(matrix) ** 3, functools.partial(product, matrix, matrix)
    works["bytes"] = pile.nbytes, pile.sum
    timed = [{name: _seconds(work) for name, (_, work) in works.items()} for _ in range(10)][1:]
    return {name: amount / statistics.median(turn[name] for turn in timed) for name, (amount, _) in works.items()}


def release_memory() -> None:
    """Collect garbage, and let the C library give freed memory back; glibc keeps much of it otherwise."""
    gc.collect()
    with suppress(AttributeError, OSError, TypeError):  # another C library, or Windows
        ctypes.CDLL(None).malloc_trim(0)


@dataclass
class Peak:
    """Bytes that a `peak_memory` block added at its peak to what was there before."""

    extra: int = 0


@contextmanager
def peak_memory() -> Iterator[Peak]:
    """Measure the peak memory of a block: of the GPU if there is one, else of this process. Filled when it ends.

    On Linux the kernel's own high-water mark is used, reset first; elsewhere a thread samples the process every 5 ms.
    """
    now = highest = lambda: psutil.Process().memory_info().rss
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        now, highest = torch.cuda.memory_allocated, torch.cuda.max_memory_allocated
    elif _reset_high_water_mark():
        highest = _high_water_mark
    result, before, ended = Peak(), now(), threading.Event()

    def sample() -> None:
        while now is highest and not ended.wait(0.005):
            result.extra = max(result.extra, now() - before)

    sampler = threading.Thread(target=sample, daemon=True)
    sampler.start()
    try:
        yield result
    finally:
        ended.set()
        sampler.join()
        _wait_for_gpu()
        result.extra = max(result.extra, highest() - before)


def _reset_high_water_mark() -> bool:
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return _high_water_mark() > 0
    except (OSError, StopIteration):
        return False


def _high_water_mark() -> int:
    """Bytes; the kernel gives it in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) * 1024


def size_on_disk(path: str | Path) -> int:
    """Bytes of a file, or of all files below a folder. Raises FileNotFoundError."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"nothing to measure: {path.name!r} does not exist")
    return sum(file.stat().st_size for file in (path, *path.rglob("*")) if file.is_file())


@dataclass(frozen=True)
class Perplexity:
    """Perplexity of a model on a text: exp of the mean negative log-likelihood of the `tokens` predicted tokens."""

    value: float
    tokens: int


def perplexity(model: Any, tokenizer: Any, text: str, window: int = 512, stride: int = 256) -> Perplexity:
    """Perplexity of a transformers causal language model on a text, with a sliding window.

    Each window sees up to `window` tokens, `stride` further on than the one before, and is scored only on those that
    earlier windows have not scored, so no token counts twice, and each window weighs by the number of tokens that it
    scores. A window's first token has nothing before it: the text's first is never scored, nor is, with
    `stride == window`, that of any window.

    Raises InputError for a text of less than two tokens, a window longer than the model reads, or a stride that leaves
    tokens out.
    """
    if not 1 <= stride <= window:
        raise InputError(f"stride must be from 1 to window ({window}); got {stride}")
    limit = getattr(model.config, "max_position_embeddings", window)
    if not 2 <= window <= limit:
        raise InputError(f"window must be from 2 to the model's context of {limit} tokens; got {window}")
    ids = torch.tensor([tokenizer(text, verbose=False)["input_ids"]], device=model.device)  # (1, tokens)
    length = ids.shape[1]
    if length < 2:
        raise InputError(f"perplexity needs a text of at least 2 tokens; got {length}")
    total, scored, done = 0.0, 0, 1
    for start in range(0, length, stride):
        end = min(start + window, length)
        with torch.no_grad():
            logits = model(input_ids=ids[:, start:end]).logits.float()  # (1, end - start, vocabulary)
        fresh = end - max(done, start + 1)  # tokens that no earlier window has scored
        loss = torch.nn.functional.cross_entropy(logits[0, -fresh - 1 : -1], ids[0, end - fresh : end], reduction="sum")
        total, scored, done = total + float(loss), scored + fresh, end
        if end == length:
            break
    return Perplexity(math.exp(total / scored), scored)
