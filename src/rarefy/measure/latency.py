"""Time of one inference of saved files, always against the original network's file.

All files take turns in one process. A round runs them in order and then in reverse (A B B A), so that a
machine that warms up treats all alike, and compares the faster of each file's two times, so that one
interruption by another program does not count. The files are opened anew several times, in alternating order,
because where a network happens to lie in memory alone makes 5 % and more of difference. Reported is the
median ratio with a 95 % interval, and "faster" or "slower" only where the whole interval lies beyond 3 %.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rarefy.errors import InputError
from rarefy.measure.engine import Call, opener
from rarefy.measure.shapes import Shape
from rarefy.records import Latency, Timing

MARGIN = 0.03  # differences within it are called unchanged
OPENINGS = 8
_SAMPLE_NS = 200_000  # shorter calls are timed several at once, so that reading the clock does not count
_ROUNDS_MOST = 2000

Times = NDArray[np.float64]
Clock = Callable[[], int]


def latency(
    this: str | os.PathLike[str],
    original: str | os.PathLike[str],
    *,
    threads: int = 1,
    batch: int = 1,
    seconds: float = 2.0,
    rounds_min: int = 30,
    shapes: Mapping[str, Shape] | None = None,
) -> Latency:
    """Time the file `this` against the file `original`; see `compare`."""
    return compare(
        [this], original, threads=threads, batch=batch, seconds=seconds, rounds_min=rounds_min, shapes=shapes
    )[0]


def compare(
    files: Sequence[str | os.PathLike[str]],
    original: str | os.PathLike[str],
    *,
    threads: int = 1,
    batch: int = 1,
    seconds: float = 2.0,
    rounds_min: int = 30,
    shapes: Mapping[str, Shape] | None = None,
    engines: Sequence[str] | None = None,
) -> list[Latency]:
    """Time each file against `original`, all in turns, on the CPU.

    seconds: for all files together, opening them not counted; at least `rounds_min` rounds are run.
    shapes: for each input with open dimensions besides the batch, the shape of one example.
    engines: of the original and of each file; by default all run in ONNX Runtime.
    """
    if threads < 1 or batch < 1 or rounds_min < 1:
        raise InputError(f"threads, batch and rounds must be 1 or more, not {threads}, {batch}, {rounds_min}")
    paths = [original, *files]
    names = engines or ["onnxruntime"] * len(paths)
    openers = [
        opener(path, threads=threads, batch=batch, shapes=shapes, engine=name)
        for path, name in zip(paths, names, strict=True)
    ]
    times = sample(openers, seconds, rounds_min)
    records = [record(times[:, :, i], times[:, :, 0], threads, batch) for i in range(1, len(openers))]
    return [made.model_copy(update={"engine": name}) for made, name in zip(records, names[1:], strict=True)]


def sample(
    openers: Sequence[Callable[[], Call]], seconds: float, least: int, clock: Clock = time.perf_counter_ns
) -> Times:
    """Milliseconds of one call: (openings, rounds, files, 2)."""
    found = []
    for opening in range(OPENINGS):
        order = -1 if opening % 2 else 1
        calls = [opened() for opened in openers[::order]]
        times = rounds(calls, seconds / OPENINGS, -(-least // OPENINGS), clock)
        found.append(times[:, ::order])
    shortest = min(len(times) for times in found)
    return np.stack([times[:shortest] for times in found])


def rounds(calls: Sequence[Call], seconds: float, least: int, clock: Clock) -> Times:
    """Milliseconds of one call: (rounds, calls, 2), on the way there and on the way back, after a warm-up."""
    repeats = [_repeats(call, clock) for call in calls]
    there = list(range(len(calls)))
    taken: list[list[list[float]]] = []
    start = clock()
    while len(taken) < least or (clock() - start < seconds * 1e9 and len(taken) < _ROUNDS_MOST // OPENINGS):
        times: list[list[float]] = [[] for _ in calls]
        for i in there + there[::-1]:
            times[i].append(_time(calls[i], repeats[i], clock) / 1e6)
        taken.append(times)
    return np.array(taken)


def median_interval(ratios: Times, resamples: int = 2000) -> tuple[float, float]:
    """95 % bootstrap interval of the median of `ratios` (openings, rounds); equal ratios give equal
    intervals.

    Openings are drawn, and in each of them stretches of neighbouring rounds (the circular block bootstrap of
    Politis and Romano 1992), because a disturbance lasts longer than a round.
    """
    openings, n = ratios.shape
    block = max(1, math.isqrt(n))
    blocks = -(-n // block)
    generator = np.random.default_rng(0)
    opening = generator.integers(openings, size=(resamples, openings, 1), dtype=np.int32)
    start = generator.integers(n, size=(resamples, openings, blocks, 1), dtype=np.int32)
    each = (start + np.arange(block, dtype=np.int32)).reshape(resamples, openings, -1)[:, :, :n] % n
    medians = np.median(ratios[opening, each].reshape(resamples, -1), axis=1)
    low, high = np.quantile(medians, [0.025, 0.975])
    return float(low), float(high)


def verdict(low: float, high: float) -> Literal["faster", "unchanged", "slower"]:
    """What the interval of the ratio this / original says."""
    if high < 1 - MARGIN:
        return "faster"
    return "slower" if low > 1 + MARGIN else "unchanged"


def record(this: Times, original: Times, threads: int, batch: int) -> Latency:
    """What the times of two files, (openings, rounds, 2) each, say."""
    ratios = this.min(axis=2) / original.min(axis=2)  # (openings, rounds, 2) -> (openings, rounds)
    low, high = median_interval(ratios)
    return Latency(
        this=_timing(this),
        original=_timing(original),
        ratio=float(np.median(ratios)),
        low=low,
        high=high,
        verdict=verdict(low, high),
        threads=threads,
        batch=batch,
        rounds=ratios.size,
    )


def _timing(times: Times) -> Timing:
    median, p90 = np.quantile(times, [0.5, 0.9])
    return Timing(median_ms=float(median), p90_ms=float(p90))


def _repeats(call: Call, clock: Clock) -> int:
    """Warm up, then choose how many calls are timed at once."""
    for _ in range(3):
        call()
    each = min(_time(call, 1, clock) for _ in range(3))
    return max(1, math.ceil(_SAMPLE_NS / max(each, 1)))


def _time(call: Call, repeats: int, clock: Clock) -> float:
    """Nanoseconds of one call."""
    start = clock()
    for _ in range(repeats):
        call()
    return (clock() - start) / repeats
