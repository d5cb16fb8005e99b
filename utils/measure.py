"""Honest measuring: paired timing, peak memory, size on disk, perplexity.

Timings on a shared machine drift. So two ways of doing a thing are timed in turn, pair by pair, and the answer is the
ratio of a pair, as a median with its spread: what slows one slows the other too.
"""

import ctypes
import functools
import gc
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil


@dataclass(frozen=True)
class Ratio:
    """How many times as long the first side takes as the second: above 1, the second is faster.

    Attributes:
        median: median ratio of the pairs; 2.0 means the second function takes half the time of the first.
        low, high: interval of the median, of `confidence`; exact, from the order of the pairs. Infinite where there are
            too few pairs for it.
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
    one side of it: the chance is twice a binomial tail.

    Returns:
        (low, high); (-inf, inf) where n is too small for the confidence.

    Raises:
        ValueError: there is no value.
    """
    n, k, tail = len(values), 0, 0.0
    if n == 0:
        raise ValueError("an interval needs at least one value")
    while k < n and 2 * (tail + math.comb(n, k) / 2**n) <= 1 - confidence:
        tail, k = tail + math.comb(n, k) / 2**n, k + 1
    ordered = sorted(values)
    return (ordered[k - 1], ordered[n - k]) if k else (-math.inf, math.inf)


def paired_ratio(
    first: Callable[[], Any], second: Callable[[], Any], pairs: int = 9, warmup: int = 1, confidence: float = 0.95
) -> Ratio:
    """Time `first` against `second` in alternating order; ratios above 1 mean that `second` is faster.

    Raises:
        ValueError: fewer than 1 pair, or a negative warm-up.
    """
    if pairs < 1 or warmup < 0:
        raise ValueError(f"pairs must be 1 or more and warmup 0 or more; got pairs={pairs}, warmup={warmup}")
    for _ in range(warmup):
        first()
        second()
    return _ratio([_pair(first, second, number) for number in range(pairs)], confidence)


def settle(
    first: Callable[[], Any],
    second: Callable[[], Any],
    *bounds: float,
    seconds: float = 10,
    pairs: int = 200,
    confidence: float = 0.99,
) -> Ratio:
    """Time pairs until the ratio's interval lies on one side of every bound, or the time is used up.

    Ask the result: `ratio.at_least(bound)` is True, False, or None where the time ended before the pairs agreed. The
    confidence is high because the pairs are looked at again and again.

    Args:
        first, second: what is timed in turn, on however many threads torch has; see `one_thread`.
        bounds: the ratios that a verdict depends on.
        seconds: budget; at least 9 pairs are timed all the same.
        pairs: at most so many pairs.
        confidence: of the interval of the median.

    Raises:
        ValueError: no bound, or one that is not above 0.
    """
    if not bounds or not all(bound > 0 for bound in bounds):
        raise ValueError(f"bounds must be ratios above 0; got {bounds}")
    first(), second()
    timed: list[tuple[float, float]] = []
    end = time.perf_counter() + seconds
    while len(timed) < pairs:
        timed.append(_pair(first, second, len(timed)))
        if len(timed) < 9:
            continue
        ratio = _ratio(timed, confidence)
        if time.perf_counter() > end or all(ratio.at_least(bound) is not None for bound in bounds):
            break
    return _ratio(timed, confidence)


def _pair(first: Callable[[], Any], second: Callable[[], Any], number: int) -> tuple[float, float]:
    # The order flips from pair to pair, so that neither side always runs on a cache the other has filled.
    if number % 2:
        late = _seconds(second)
        return _seconds(first), late
    return _seconds(first), _seconds(second)


def _ratio(timed: list[tuple[float, float]], confidence: float) -> Ratio:
    ratios = [a / b for a, b in timed]
    sides = (statistics.median(side) for side in zip(*timed, strict=True))
    return Ratio(statistics.median(ratios), *median_interval(ratios, confidence), len(ratios), *sides)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread in a block: a ratio of single threads is the same beside a busy core."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@functools.cache
def has_fast_bfloat16() -> bool:
    """Whether this machine multiplies matrices faster in bfloat16 than in float32: measured, not read from its flags.

    A processor may name the instructions and still emulate them, for example under a limit set from outside.
    """
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    a = torch.rand(256, 1024, device=device)
    b = torch.rand(1024, 1024, device=device)
    half = a.bfloat16(), b.bfloat16()
    with one_thread():
        ratio = settle(lambda: a @ b, lambda: half[0] @ half[1], 1.2, seconds=1)
    return ratio.median > 1.2


def _seconds(function: Callable[[], Any]) -> float:
    _wait_for_gpu()
    start = time.perf_counter()
    function()
    _wait_for_gpu()
    return max(time.perf_counter() - start, 1e-9)


def _wait_for_gpu() -> None:
    """A call that starts work on a GPU returns before the work is done."""
    torch = sys.modules.get("torch")  # where nothing has imported it, nothing runs on a GPU
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.synchronize()


def release_memory() -> None:
    """Collect garbage, and let the C library give freed memory back; glibc keeps much of it otherwise."""
    gc.collect()
    if sys.platform == "linux":
        with suppress(AttributeError, OSError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)


@dataclass
class Peak:
    """Peak memory of a `peak_memory` block, in bytes; `extra` is what the block added to what was there before."""

    before: int = 0
    peak: int = 0

    @property
    def extra(self) -> int:
        return max(self.peak - self.before, 0)


@contextmanager
def peak_memory() -> Iterator[Peak]:
    """Measure the peak memory of a block: of the GPU if there is one, else of this process.

    The peak is reset first. On Linux the kernel's own high-water mark is used (reset through
    `/proc/self/clear_refs`); where that is not possible a thread samples the process every 5 ms.

    Yields:
        Peak: filled when the block ends.
    """
    import torch

    result = Peak()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        result.before = torch.cuda.memory_allocated()
        try:
            yield result
        finally:
            torch.cuda.synchronize()
            result.peak = torch.cuda.max_memory_allocated()
        return
    if _reset_high_water_mark():
        result.before = _status_kib("VmRSS") * 1024
        try:
            yield result
        finally:
            result.peak = _status_kib("VmHWM") * 1024
        return
    yield from _sampled_peak(result)


def _reset_high_water_mark() -> bool:
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return _status_kib("VmHWM") > 0
    except (OSError, StopIteration):
        return False


def _status_kib(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field + ":")).split()[1])


def _sampled_peak(result: Peak) -> Iterator[Peak]:
    import threading

    process, done = psutil.Process(), threading.Event()
    result.before = result.peak = process.memory_info().rss

    def sample() -> None:
        while not done.wait(0.005):
            result.peak = max(result.peak, process.memory_info().rss)

    sampler = threading.Thread(target=sample, daemon=True)
    sampler.start()
    try:
        yield result
    finally:
        done.set()
        sampler.join()
        result.peak = max(result.peak, process.memory_info().rss)


def size_on_disk(path: str | Path) -> int:
    """Bytes of a file, or of all files below a folder.

    Raises:
        FileNotFoundError: nothing is there.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"nothing to measure: {path.name!r} does not exist")
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(os.path.getsize(file) for file in files)


@dataclass(frozen=True)
class Perplexity:
    """Perplexity of a model on a text: exp of the mean negative log-likelihood of a token.

    Attributes:
        value: the perplexity.
        tokens: how many tokens were predicted.
        text: the first characters of the text, so that the number names what it was measured on.
    """

    value: float
    tokens: int
    text: str

    def __str__(self) -> str:
        return f"perplexity {self.value:.2f} over {self.tokens} tokens of {self.text!r}"


def perplexity(model: Any, tokenizer: Any, text: str, window: int = 512, stride: int = 256) -> Perplexity:
    """Perplexity of a causal language model on a text, with a sliding window.

    Each window sees up to `window` tokens and is scored only on those that earlier windows have not scored, so no
    token counts twice, and each window weighs by the number of tokens that it scores. A window's first token has
    nothing before it: the text's first is never scored, nor is, with `stride == window`, that of any window.

    Args:
        model: a transformers causal language model.
        tokenizer: its tokenizer.
        text: at least two tokens long.
        window: tokens a window holds; at most what the model can read.
        stride: tokens from one window to the next, at most `window`.

    Raises:
        ValueError: the text is shorter than two tokens, or window and stride do not fit.
    """
    import torch

    if not 1 <= stride <= window:
        raise ValueError(f"stride must be from 1 to window ({window}); got {stride}")
    limit = getattr(model.config, "max_position_embeddings", window)
    if not 2 <= window <= limit:
        raise ValueError(f"window must be from 2 to the model's context of {limit} tokens; got {window}")
    ids = torch.tensor([tokenizer(text, verbose=False)["input_ids"]], device=model.device)  # (1, tokens)
    length = ids.shape[1]
    if length < 2:
        raise ValueError(f"perplexity needs a text of at least 2 tokens; got {length}")
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
    return Perplexity(math.exp(total / scored), scored, " ".join(text.split())[:60])
