"""Where activations are rounded."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rarefy.graph.flow import flow
from rarefy.quantizing.points import Place, Point, points


def found(model: nn.Module, *inputs: Tensor) -> dict[Place, Point]:
    model.eval()
    with torch.no_grad():
        seen = flow(model, lambda: model(*inputs))
    layers = [p for p, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    return {point.place: point for point in points(model, seen, layers)}


class Block(nn.Module):
    """A ReLU module that is called twice, as in torchvision."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.relu = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.two(self.relu(self.one(x)))
        y += x
        return self.relu(y)


def test_a_residual_network_is_rounded_at_its_blocks() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU6(), Block(), Block(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model.append(nn.Linear(4, 5))
    got = found(model, torch.randn(2, 3, 4, 4))
    assert {path for (path, side) in got if side == "output"} == {
        "0",
        "2.one",
        "2.two",
        "2",
        "3.one",
        "3.two",
        "3",
        "4",
    }
    assert {place: p.of for place, p in got.items() if place[1] == "input" and not p.silent} == {
        ("0", "input"): ("0", "input"),
        ("6", "input"): ("4", "output"),  # flattened between
    }
    assert got["2.two", "input"] == Point(("2.two", "input"), ("2.one", "output"), silent=True)
    assert got["0", "output"].clip == (0.0, 6.0)
    assert got["2.one", "output"].clip == (0.0, math.inf)
    assert got["2.two", "output"].clip is None


class Functions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.hardswish(self.one(x))
        return self.two(x) + self.three(x)


def test_what_no_module_gives_is_rounded_by_its_readers_alike() -> None:
    got = found(Functions(), torch.randn(2, 3, 4, 4))
    assert got["two", "input"].of == got["three", "input"].of == ("two", "input")
    assert got["one", "output"].clip is None
    assert ("", "output") not in got  # the answer stays as it is


class Again(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.max_pool2d(torch.tanh(self.conv(x)), 2))


def test_a_layer_called_twice_has_one_range_for_both() -> None:
    got = found(Again(), torch.randn(2, 4, 4, 4))
    assert got["conv", "input"] == Point(("conv", "input"), ("conv", "input"))


def test_a_matrix_keeps_its_float_answer() -> None:
    got = found(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)), torch.randn(2, 4))
    assert set(got) == {("0", "input"), ("0", "output"), ("2", "input")}
    assert got["2", "input"].silent
    assert got["0", "output"].clip == (0.0, math.inf)
    assert ("2", "output") not in got
