from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rarefy.classification import Classification
from rarefy.errors import DataError
from rarefy.measure import interval, quality
from rarefy.measure.quality import _student
from rarefy.task import Task


class Regression(Task):
    """Two features to one number; the score is minus the absolute error."""

    metric_name = "minus error"

    def __init__(self, x: torch.Tensor, y: torch.Tensor) -> None:
        self.data = list(zip(x.split(4), y.split(4), strict=True))

    def train(self, *, seed, rank=0, world=1):
        return self.data

    def judge(self):
        return self.data

    def loss(self, output, target):
        return (output - target).abs().mean()

    def metric(self, output, target):
        return -(output - target).abs().squeeze(1)


@pytest.fixture
def digits() -> Classification:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(50, 6, generator=generator), torch.randint(4, (50,), generator=generator)
    return Classification(None, (x, y), batch_size=16)


def test_accuracy_of_whatever_answers(digits):
    record, labels = quality(lambda x: x[:, :4], digits)
    x, y = (torch.cat(parts) for parts in zip(*digits.judge(), strict=True))
    assert labels is not None
    assert torch.equal(labels, x[:, :4].argmax(1))
    assert record.value == pytest.approx(float((labels == y).double().mean()))
    assert record.low < record.value < record.high
    assert (record.metric, record.examples, record.agreement) == ("accuracy", 50, None)
    assert record.engine == "onnxruntime"


def test_agreement_with_the_original(digits):
    _, labels = quality(lambda x: x[:, :4], digits)
    assert labels is not None
    reference = labels.clone()
    reference[:5] = (reference[:5] + 1) % 4
    record, _ = quality(lambda x: x[:, :4], digits, reference_labels=reference, engine="torch")
    assert record.agreement == 0.9
    assert record.engine == "torch"
    with pytest.raises(DataError, match="gave 49 labels, this one 50"):
        quality(lambda x: x[:, :4], digits, reference_labels=reference[1:])


def test_a_metric_of_ones_own():
    x, y = torch.randn(30, 2), torch.randn(30, 1)
    record, labels = quality(lambda x: x[:, :1], Regression(x, y))
    errors = -(x[:, :1] - y).abs().double().numpy()
    half = 2.0452296 * errors.std(ddof=1) / math.sqrt(30)  # the t quantile for 29 degrees
    assert labels is None
    assert record.value == pytest.approx(errors.mean())
    assert (record.low, record.high) == pytest.approx((errors.mean() - half, errors.mean() + half), rel=1e-4)


def test_not_a_number_is_refused():
    x, y = torch.ones(8, 2), torch.ones(8, 1)
    x[3] = math.nan
    with pytest.raises(DataError, match="'minus error' is NaN or infinite for 1 of 8 examples"):
        quality(lambda x: x[:, :1], Regression(x, y))


def test_nothing_to_judge_on():
    task = Regression(torch.ones(4, 2), torch.ones(4, 1))
    task.data = []
    with pytest.raises(DataError, match="Regression has no examples to judge on"):
        quality(lambda x: x, task)


@pytest.mark.parametrize(  # Brown, Cai, DasGupta 2001 and R's prop.test(correct = FALSE)
    ("right", "n", "low", "high"),
    [
        (0, 10, 0.0, 0.2775328),
        (10, 10, 0.7224672, 1.0),
        (5, 10, 0.2365931, 0.7634069),
        (81, 263, 0.2553263, 0.3661915),
    ],
)
def test_wilson(right: int, n: int, low: float, high: float):
    scores = torch.tensor([1.0] * right + [0.0] * (n - right))
    assert interval(scores) == pytest.approx((low, high), abs=2e-4)


@given(st.lists(st.booleans(), min_size=1, max_size=60))
def test_wilson_solves_its_equation(answers: list[bool]):
    scores = torch.tensor(answers).float()
    p, n, z = float(scores.mean(dtype=torch.float64)), len(answers), 1.959964
    low, high = interval(scores)
    assert 0 <= low <= p <= high <= 1
    for bound in (low, high):  # |p - bound| = z * standard error at the bound
        assert (p - bound) ** 2 == pytest.approx(z**2 * bound * (1 - bound) / n, abs=1e-6)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=30))
def test_shares_stay_shares(values: list[float]):
    low, high = interval(torch.tensor(values, dtype=torch.float64))
    mean = float(np.mean(values))
    assert 0 <= low <= mean + 1e-12
    assert mean - 1e-12 <= high <= 1


def test_one_real_score_has_no_interval():
    with pytest.raises(DataError, match="one example gives no interval"):
        interval(torch.tensor([0.3]))


@pytest.mark.parametrize(
    ("degrees", "t"), [(1, 12.7062), (2, 4.30265), (3, 3.18245), (5, 2.57058), (10, 2.22814), (100, 1.98397)]
)
def test_student(degrees: int, t: float):
    assert _student(degrees) == pytest.approx(t, rel=0.01)
