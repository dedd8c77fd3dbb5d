from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rarefy import Classification, Images
from rarefy.errors import DataError
from rarefy.task import forward, labels, scores


def arrays(count: int, first: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Example i is the number i; its label is i modulo 3."""
    numbers = np.arange(first, first + count)
    return numbers[:, None].astype(np.float32), numbers % 3


def order(batches: Any) -> list[int]:
    return [int(v) for x, _ in batches for v in x[:, 0]]


def pictures(shape: tuple[int, ...] = (30, 2, 4, 4)) -> Images:
    pixels = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    return Images(pixels, np.arange(shape[0]) % 3, ("a", "b", "c"))


def test_every_example_once_in_an_order_that_the_seed_fixes() -> None:
    task = Classification(arrays(20), arrays(5), batch_size=5)
    first = order(task.train(seed=1))
    assert sorted(first) == list(range(20))
    assert order(task.train(seed=1)) == first
    assert order(task.train(seed=2)) != first
    assert order(task.judge()) == list(range(5))
    for x, y in task.train(seed=0):
        assert torch.equal(x[:, 0] % 3, y.float())


def test_a_last_batch_that_is_not_full_is_left_out_of_training_only() -> None:
    task = Classification(arrays(23), arrays(7), batch_size=5)
    assert [len(y) for _, y in task.train(seed=0)] == [5] * 4
    assert [len(y) for _, y in task.judge()] == [5, 2]
    assert len(task.train(seed=0)) == 4
    assert len(task.judge()) == 2
    few = Classification(arrays(3), arrays(3), batch_size=64)
    assert [len(y) for _, y in few.train(seed=0)] == [3]


@pytest.mark.parametrize("world", [1, 2, 3])
def test_processes_share_an_epoch(world: int) -> None:
    task = Classification(arrays(24), arrays(5), batch_size=4)
    seen = [order(task.train(seed=3, rank=r, world=world)) for r in range(world)]
    assert sorted(i for part in seen for i in part) == list(range(24))
    assert len({len(s) for s in seen}) == 1


def test_held_out_examples_are_never_trained_on() -> None:
    task = Classification(arrays(40), arrays(5), batch_size=4, holdout=0.25)
    held = task.validation()
    assert held is not None
    assert len(order(held)) == 10
    assert not set(order(held)) & set(order(task.train(seed=0)))
    assert Classification(arrays(9), arrays(5)).validation() is None


def test_pixels_are_normalised_by_the_training_set() -> None:
    images = pictures()
    task = Classification(images, images, batch_size=30)
    x, _ = next(iter(task.judge()))
    assert x.dtype == torch.float32
    assert torch.allclose(x.mean((0, 2, 3)), torch.zeros(2), atol=1e-5)
    assert torch.allclose(x.std((0, 2, 3), correction=0), torch.ones(2), atol=1e-5)
    given = Classification(images, images, mean=[0.5, 0.25], std=[0.5, 2.0], batch_size=30)
    x, _ = next(iter(given.judge()))
    wanted = (images.images / 255 - np.array([0.5, 0.25]).reshape(2, 1, 1)) / np.array([0.5, 2.0]).reshape(2, 1, 1)
    assert np.allclose(x.numpy(), wanted, atol=1e-6)


def test_the_shipped_metadata_says_the_same_normalisation() -> None:
    images = pictures()
    task = Classification(images, images, batch_size=30)
    meta = task.metadata()
    mean, std = (np.array(meta[k].split(), float).reshape(2, 1, 1) for k in ("mean", "std"))
    x, _ = next(iter(task.judge()))
    assert np.allclose((images.images - mean) / std, x.numpy(), atol=1e-4)
    assert meta["classes"] == "a\nb\nc"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mean": [0.5, 0.5]}, "mean and std go together"),
        ({"mean": [0.5], "std": [1.0]}, r"for each of the 2 channel\(s\), not \[0\.5\] and \[1\.0\]"),
        ({"mean": [0.5, float("nan")], "std": [1.0, 1.0]}, r"a finite number for each of the 2 channel\(s\)"),
        ({"mean": [0.5, 0.5], "std": [1.0, 0.0]}, "std must be above 0 in every channel"),
        ({"holdout": -0.1}, "holdout is a share"),
        ({"holdout": 1.0}, "holdout is a share"),
    ],
)
def test_impossible_options(options: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Classification(pictures(), pictures(), **options)


def test_impossible_data() -> None:
    with pytest.raises(DataError, match=r"training examples have shape \(2, 4, 4\), judging examples \(2, 5, 4\)"):
        Classification(pictures(), pictures((30, 2, 5, 4)))
    with pytest.raises(DataError, match="expected as many labels as examples, one each; got 3 and"):
        Classification(None, (np.zeros((3, 2)), np.zeros(4)))
    with pytest.raises(DataError, match="no images to judge on"):
        Classification(None, (np.zeros((0, 2)), np.zeros(0)))


def test_chance_is_the_commonest_class() -> None:
    assert Classification(None, (np.zeros((4, 1)), np.array([0, 1, 1, 1]))).chance() == 0.75


@pytest.mark.parametrize(
    "wrap", [lambda t: t, lambda t: (t, 1), lambda t: {"scores": t}], ids=["tensor", "tuple", "dict"]
)
def test_scores_may_come_in_any_form(wrap: Any) -> None:
    task = Classification(arrays(9), arrays(5))
    output, target = torch.eye(3)[[0, 1, 2]], torch.tensor([0, 1, 0])
    assert task.metric(wrap(output), target).tolist() == [1, 1, 0]
    assert torch.isclose(task.loss(wrap(output), target), torch.nn.functional.cross_entropy(output, target))
    assert labels(wrap(output)).tolist() == [0, 1, 2]  # type: ignore[union-attr]


@pytest.mark.parametrize("output", [torch.zeros(3), torch.zeros(3, 2, 2), "text"])
def test_other_outputs_need_a_task_of_their_own(output: Any) -> None:
    with pytest.raises(DataError, match=r"expects scores of shape \(batch, classes\)"):
        Classification(arrays(9), arrays(5)).metric(output, torch.zeros(3))
    assert labels(output) is None


def test_inputs_in_any_form() -> None:
    class Sum(torch.nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return a + 2 * b

    one, two = torch.ones(1), torch.full((1,), 2.0)
    assert forward(Sum(), (one, two)).item() == 5
    assert forward(Sum(), {"b": one, "a": two}).item() == 4
    assert forward(torch.nn.Identity(), one) is one


def test_scores_over_batches() -> None:
    task = Classification(arrays(9), arrays(7), batch_size=3)
    metric, answers = scores(task.judge(), task, lambda x: torch.eye(3)[(x[:, 0] % 3).long()])
    assert metric.tolist() == [1.0] * 7
    assert answers is not None
    assert answers.tolist() == [0, 1, 2, 0, 1, 2, 0]
