"""The task's metric on its judging examples, with a 95 % interval, of a saved file or a network."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

from rarefy.errors import DataError
from rarefy.records import Quality

if TYPE_CHECKING:
    from torch import Tensor

    from rarefy.task import Task

Answer = Callable[[Any], Any]  # inputs of a batch -> output, both as the task knows them

_Z = NormalDist().inv_cdf(0.975)


def quality(
    answer: Answer, task: Task, *, reference_labels: Tensor | None = None, engine: str = "onnxruntime"
) -> tuple[Quality, Tensor | None]:
    """The metric of `answer` on `task.judge()`, and the label it gave to each example (None where there are
    none).

    reference_labels: those of the original network, for the agreement. engine: what computes `answer`, for
    the record.
    """
    import torch

    from rarefy.task import scores

    with torch.inference_mode():
        found, labels = scores(_checked(task), task, answer)
    if not bool(torch.isfinite(found).all()):
        bad = int((~torch.isfinite(found)).sum())
        raise DataError(
            f"the metric {task.metric_name!r} is NaN or infinite for {bad} of {len(found)} examples; "
            "does the network still give finite outputs, and is the metric defined for all of them?"
        )
    low, high = interval(found)
    agreement = None if labels is None or reference_labels is None else _agreement(labels, reference_labels)
    record = Quality(
        metric=task.metric_name,
        value=float(found.double().mean()),
        low=low,
        high=high,
        examples=len(found),
        agreement=agreement,
        engine=engine,
    )
    return record, labels


def interval(scores: Tensor) -> tuple[float, float]:
    """95 % confidence interval of the mean of `scores` (n,).

    Wilson's (1927) where all are 0 or 1; else Student's t, within 0..1 if all scores are.
    """
    values = scores.double()
    n, mean = len(values), float(values.mean())
    if bool(((values == 0) | (values == 1)).all()):
        centre = (mean + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
        half = _Z / (1 + _Z**2 / n) * math.sqrt(mean * (1 - mean) / n + _Z**2 / (4 * n**2))
    elif n == 1:
        raise DataError("one example gives no interval for a metric that is not 0 or 1; judge on two or more")
    else:
        centre, half = mean, _student(n - 1) * float(values.std()) / math.sqrt(n)
    low, high = centre - half, centre + half
    if float(values.min()) >= 0 and float(values.max()) <= 1:
        low, high = max(low, 0.0), min(high, 1.0)
    return min(low, mean), max(high, mean)  # rounding must not put the mean outside


def _student(degrees: int) -> float:
    """The 97.5 % quantile of Student's t, by the expansion in 1 / degrees (Abramowitz and Stegun 26.7.5)."""
    z, v = _Z, float(degrees)
    if degrees == 1:
        return math.tan(math.pi * 0.475)  # exact; so is the next, where the expansion is poor
    if degrees == 2:
        return 0.95 * math.sqrt(2 / (1 - 0.95**2))
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / v + second / v**2 + third / v**3


def _checked(task: Task) -> Any:
    batches = task.judge()
    if len(batches) == 0:
        raise DataError(f"{task.describe()} has no examples to judge on; give at least one")
    return batches


def _agreement(labels: Tensor, reference: Tensor) -> float:
    if labels.shape != reference.shape:
        raise DataError(f"the original network gave {len(reference)} labels, this one {len(labels)}")
    return float((labels == reference.to(labels.device)).double().mean())
