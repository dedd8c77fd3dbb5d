"""Second moments against unfolding everything."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models import CASES, Toy
from rarefy.calibration import batches, second_moments
from rarefy.classification import Classification
from rarefy.errors import StepError
from rarefy.step import Context


class Stream(Toy):
    """Several batches, the last one smaller."""

    def __init__(self, *inputs: Any) -> None:
        self.all = inputs

    def train(self, *, seed: int, rank: int = 0, world: int = 1) -> Any:
        return [(x, None) for x in self.all]


def sizes(*inputs: Any, examples: int) -> list[int]:
    return [len(x) for x in batches(Context(task=Stream(*inputs)), examples)]


def test_exactly_as_many_examples_as_asked_for() -> None:
    x = torch.randn(4, 3)
    assert sizes(x, x, x, examples=6) == [4, 2]
    assert sizes(x, x, x, examples=8) == [4, 4]
    assert sizes(x, x, x, examples=100) == [4, 4, 4]
    (named,) = batches(Context(task=Stream({"a": x, "b": x})), 3)
    assert {name: len(t) for name, t in named.items()} == {"a": 3, "b": 3}
    (several,) = batches(Context(task=Stream((x, x))), 1)
    assert [len(t) for t in several] == [1, 1]


def test_a_task_without_training_data_says_what_to_do() -> None:
    task = Classification(None, (np.zeros((4, 3), np.float32), np.arange(4)))
    with pytest.raises(StepError, match=r"calibration needs training examples.* or set data to 0"):
        list(batches(Context(task=task), 4))


@pytest.mark.parametrize("positions", [1000, 3])
def test_linear(positions: int) -> None:
    x = torch.randn(6, 5, 4)
    model = nn.Sequential(nn.Linear(4, 2))
    c = second_moments(model, ["0"], Context(task=Stream(x[:4], x[4:])), 6, positions)["0"]
    if positions == 1000:
        flat = x.flatten(0, 1)
        torch.testing.assert_close(c[0], flat.T @ flat / 30)
    assert c.shape == (1, 4, 4)
    assert torch.linalg.eigvalsh(c).min() > -1e-5


@pytest.mark.parametrize(
    "settings",
    [
        {"padding": 1},
        {"stride": (2, 1), "dilation": 2, "padding": (2, 1)},
        {"groups": 2, "padding": "same"},
        {"padding": 1, "padding_mode": "circular"},
    ],
    ids=["plain", "strided", "grouped", "circular"],
)
def test_convolution(settings: dict[str, Any]) -> None:
    torch.manual_seed(0)
    layer, x = nn.Conv2d(4, 6, 3, **settings), torch.randn(5, 4, 7, 8)
    found = second_moments(nn.Sequential(layer), ["0"], Context(task=Stream(x[:2], x[2:])), 5)["0"]
    wanted = _moment(layer, x)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)
    some = second_moments(nn.Sequential(layer), ["0"], Context(task=Stream(x)), 5, positions=20)["0"]
    assert not torch.equal(some, found)
    assert (some - wanted).norm() < 0.6 * wanted.norm()
    # the moment says what the layer's outputs are on average
    y = F.conv2d(_padded(layer, x), layer.weight, None, layer.stride, 0, layer.dilation, layer.groups)
    w = layer.weight.detach().reshape(layer.groups, 6 // layer.groups, -1)
    torch.testing.assert_close(
        (w @ found @ w.mT).diagonal(dim1=1, dim2=2).flatten(), y.square().mean((0, 2, 3)).detach()
    )


def _padded(layer: nn.Conv2d, x: Tensor) -> Tensor:
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    return F.pad(x, layer._reversed_padding_repeated_twice, mode)


def _moment(layer: nn.Conv2d, x: Tensor) -> Tensor:
    columns = F.unfold(_padded(layer, x), layer.kernel_size, layer.dilation, 0, layer.stride)  # (N, C k, L)
    flat = (
        columns.transpose(1, 2).flatten(0, 1).view(-1, layer.groups, columns.shape[1] // layer.groups).transpose(0, 1)
    )
    return flat.mT @ flat / flat.shape[1]


@pytest.mark.parametrize("layer", [nn.Linear(5, 2), nn.Conv2d(5, 2, 2, groups=1)], ids=["linear", "convolution"])
def test_centred_it_is_the_covariance(layer: nn.Module) -> None:
    x = torch.randn(11, 5, *(() if isinstance(layer, nn.Linear) else (2, 2))) + 30
    context = Context(task=Stream(x[:4], x[4:5], x[5:]))
    found = second_moments(nn.Sequential(layer), ["0"], context, 11, centred=["0"])["0"]
    assert torch.allclose(found[0], torch.cov(x.flatten(1).T, correction=0), atol=1e-4)


def test_what_is_drawn_follows_the_seed() -> None:
    layer, x = nn.Conv2d(3, 4, 3), torch.randn(4, 3, 16, 16)
    one, two, three = (
        second_moments(nn.Sequential(layer), ["0"], Context(task=Stream(x), seed=s), 4, positions=5)["0"]
        for s in (1, 1, 2)
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, three)


def test_called_twice_called_by_name_and_never_called() -> None:
    case = CASES["twice"]
    found = second_moments(case.model(), ["conv", "stem"], Context(task=case.task()), 4)
    assert found["conv"].shape == (1, 72, 72)
    case = CASES["named"]
    found = second_moments(case.model(), ["text", "picture"], Context(task=case.task()), 4)
    torch.testing.assert_close(found["text"][0], case.batch()["text"].T @ case.batch()["text"] / 4)
    case = CASES["loose"]
    assert second_moments(case.model(), ["absent"], Context(task=case.task()), 4) == {}


def test_the_network_is_as_before() -> None:
    case = CASES["residual"]
    model = case.model().train()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    second_moments(model, ["one.0"], Context(task=case.task()), 2)
    assert model.training
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    assert not any(m._forward_hooks for m in model.modules())
