"""What layers see, against running the network by hand."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models import CASES, Toy
from rarefy.codebooks.responses import calls, layers, mean_squares, seen
from rarefy.errors import StepError
from rarefy.graph.weights import by_path
from rarefy.step import Context


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 6), nn.Dropout(0.5), nn.Linear(6, 3))


class Partly(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Linear(5, 5), nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.used(x)
        return found


class Stream(Toy):
    def __init__(self, *inputs: Any) -> None:
        self.all = inputs

    def train(self, *, seed: int, rank: int = 0, world: int = 1) -> Any:
        return [(x, None) for x in self.all]


def test_both_networks_see_the_same_examples() -> None:
    one, x = mlp().train(), torch.randn(50, 5)
    two = copy.deepcopy(one)
    with torch.no_grad():
        two[0].weight.mul_(0.7)
    found = seen(one, two, ["2"], 1, Context(task=Stream(x[:20], x[20:45], x[45:])), 48)
    before, now = (m[1](m[0](x[:48].double())) for m in (copy.deepcopy(one).double(), copy.deepcopy(two).double()))
    assert found is not None
    assert found.count == 48
    assert torch.allclose(found.moment[0].double(), now.T @ now / 48, atol=1e-5)
    assert torch.allclose(found.gap[0].double(), (before - now).T @ now / 48, atol=1e-5)
    assert one.training
    assert not any(m._forward_hooks for m in [*one.modules(), *two.modules()])


def test_nothing_behind_the_layer_is_run() -> None:
    model = nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 5), nn.Unflatten(1, (2, 3)))  # fails, were it run
    found = seen(copy.deepcopy(model), model, ["0"], 1, Context(task=Stream(torch.randn(9, 5))), 9)
    assert found is not None
    assert not found.gap.any()
    with pytest.raises(RuntimeError, match="unflatten"):
        seen(copy.deepcopy(model), model, ["0"], 2, Context(task=Stream(torch.randn(9, 5))), 9)


def test_a_shared_weight_is_seen_at_all_its_calls() -> None:
    model = CASES["twice"].model()
    weight = by_path(model)["conv.weight"]
    homes = layers(model, weight)
    assert homes == ["conv", "other"]  # and `same`, which is `conv`
    context = Context(task=CASES["twice"].task())
    found = calls(model, homes, context)
    assert found == {"conv": 2, "other": 1}
    once, all_ = (seen(copy.deepcopy(model), model, homes, count, context, 4) for count in (1, 3))
    assert once is not None
    assert all_ is not None
    assert all_.count == 3 * once.count
    assert not torch.allclose(once.moment, all_.moment)


def test_layers_are_linear_or_plain_convolutions() -> None:
    for name, path, found in [
        ("tied", "embedding.weight", []),
        ("tied", "mix.weight", ["mix"]),
        ("transposed", "up.weight", []),
        ("shuffle", "grouped.0.weight", ["grouped.0"]),
        ("loose", "weight", []),
        ("plain", "0.0.weight", ["0.0"]),
    ]:
        model = CASES[name].model()
        assert layers(model, by_path(model)[path]) == found


def test_layers_that_are_not_called() -> None:
    model = Partly()
    context = Context(task=Stream(torch.randn(4, 5)))
    assert calls(model, ["unused", "used"], context) == {"used": 1}
    assert calls(model, [], Context(task=None)) == {}  # type: ignore[arg-type]
    assert seen(copy.deepcopy(model), model, ["unused"], 1, context, 4) is None
    assert mean_squares(model, ["unused"], context, 4) == {}


@pytest.mark.parametrize("name", ["shuffle", "plain"])
def test_mean_squares_are_the_diagonal_of_the_moment(name: str) -> None:
    model, context = CASES[name].model(), Context(task=CASES[name].task())
    path = {"shuffle": "grouped.0", "plain": "4"}[name]
    both = seen(copy.deepcopy(model), model, [path], 1, context, 4)
    assert both is not None
    squares: Tensor = mean_squares(model, [path], context, 4)[path]
    assert torch.allclose(squares, both.moment.diagonal(dim1=1, dim2=2), rtol=1e-4)


def test_examples_that_are_broken_or_absent() -> None:
    model, broken = mlp(), torch.randn(8, 5)
    broken[3, 1] = float("nan")
    with pytest.raises(StepError, match=r"^0 sees NaN, infinite or enormous values on training examples; look for"):
        seen(copy.deepcopy(model), model, ["0"], 1, Context(task=Stream(broken)), 8)
    with pytest.raises(StepError, match=r"^2 sees NaN"):
        mean_squares(model, ["2"], Context(task=Stream(broken)), 8)
    with pytest.raises(StepError, match=r"^the objective output needs training examples, and the task has not one"):
        calls(model, ["0"], Context(task=Stream()))
