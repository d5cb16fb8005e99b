"""Honest measuring: paired timing, peak memory, size on disk, perplexity.

Timings on a shared machine drift. So two ways of doing a thing are timed in turn, pair by pair, and the answer is the
ratio of a pair, as a median with its spread: what slows one slows the other too.
"""

import ctypes
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
    """How many times longer the slow side takes than the fast one.

    Attributes:
        median: median ratio of the pairs; 2.0 means the second function takes half the time of the first.
        low, high: the quartiles of the pairs (the minimum and maximum where there are fewer than four).
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
        return f"{self.median:.2f}x (quartiles {self.low:.2f} to {self.high:.2f}, {self.pairs} pairs)"


def paired_ratio(first: Callable[[], Any], second: Callable[[], Any], pairs: int = 7, warmup: int = 1) -> Ratio:
    """Time `first` against `second` in alternating order; ratios above 1 mean that `second` is faster.

    Raises:
        ValueError: fewer than 1 pair, or a negative warm-up.
    """
    if pairs < 1 or warmup < 0:
        raise ValueError(f"pairs must be 1 or more and warmup 0 or more; got pairs={pairs}, warmup={warmup}")
    for _ in range(warmup):
        first()
        second()
    seconds: list[tuple[float, float]] = []
    for number in range(pairs):
        # The order flips from pair to pair, so that neither side always runs on a cache the other has filled.
        if number % 2:
            late = _seconds(second)
            seconds.append((_seconds(first), late))
        else:
            seconds.append((_seconds(first), _seconds(second)))
    ratios = [a / b for a, b in seconds]
    low, high = min(ratios), max(ratios)
    if pairs >= 4:
        low, _, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return Ratio(
        statistics.median(ratios),
        low,
        high,
        pairs,
        *(statistics.median(side) for side in zip(*seconds, strict=True)),
    )


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

    Each window sees up to `window` tokens and is scored only on those that earlier windows have not scored, so every
    token counts once, and each window weighs by the number of tokens that it scores.

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
