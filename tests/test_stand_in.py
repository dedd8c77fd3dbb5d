"""Layers that another module cannot take the place of."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import Toy
from rarefy.stand_in import hooked, read_by_code
from rarefy.step import Context


class Reading(nn.Module):
    """Asks one layer for its type, and uses the weight of another a second time."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.plain = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3)
        self.inside, self.outside = nn.Linear(16, 24), nn.Linear(24, 16)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x.to(self.conv.weight.dtype))
        x = self.inside(self.plain(x).mean((2, 3)))
        return F.linear(self.outside(x), self.inside.weight)


def test_they_are_found_with_the_place() -> None:
    context = Context(task=Toy(torch.randn(2, 3, 8, 8)))
    found = read_by_code(Reading().eval(), ["conv", "plain", "inside", "outside"], context)
    assert found.keys() == {"conv", "inside"}
    assert all("the network's own code reads its weight at test_stand_in.py:" in why for why in found.values())
    assert read_by_code(Reading().eval(), ["plain", "outside", ""], context) == {}


def test_other_errors_are_told() -> None:
    class Picky(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            if not isinstance(self[0], nn.Linear):
                raise TypeError("no Linear")
            return self[0](x)

    found = read_by_code(Picky(nn.Linear(4, 4)), ["0"], Context(task=Toy(torch.randn(2, 4))))
    assert found["0"].startswith("the network does not run with another module in its place: no Linear at test_stand")


def test_a_network_is_not_changed_by_it() -> None:
    model = Reading().eval()
    before = {name: type(module) for name, module in model.named_modules()}
    read_by_code(model, ["conv", "plain"], Context(task=Toy(torch.randn(2, 3, 8, 8))))
    assert {name: type(module) for name, module in model.named_modules()} == before


def test_hooks_are_not_lost() -> None:
    layer = nn.Linear(2, 2)
    assert hooked(layer) is None
    layer.register_forward_hook(lambda *_: None)
    assert "carries hooks" in str(hooked(layer))


def test_code_that_is_content_with_any_of_them_keeps_one() -> None:
    class AnyOf(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            x = x.to(next(layer for layer in self.layers if hasattr(layer, "weight")).weight.dtype)
            for layer in self.layers:
                x = layer(x)
            return x

    found = read_by_code(AnyOf().eval(), ["layers.0", "layers.1", "layers.2"], Context(task=Toy(torch.randn(2, 4))))
    assert found.keys() == {"layers.2"}
    assert "StopIteration() at test_stand_in.py:" in found["layers.2"]


def test_the_place_is_in_torch_where_its_own_modules_read() -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
    found = read_by_code(layer, ["linear1"], Context(task=Toy(torch.randn(2, 3, 16))))
    assert "reads its weight at transformer.py:" in found["linear1"]


def test_without_layers_no_example_is_asked_for() -> None:
    class Without(Toy):
        def train(self, *, seed: int, rank: int = 0, world: int = 1) -> Any:
            raise AssertionError("asked for")

    assert read_by_code(Reading(), [], Context(task=Without(torch.randn(1)))) == {}


def test_code_that_asks_for_the_type_is_found_by_the_answers() -> None:
    class Asks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x) + torch.rand(4)  # not by chance
            return self.second(x) * (2 if isinstance(self.second, nn.Linear) else 1)

    found = read_by_code(Asks().eval(), ["first", "second"], Context(task=Toy(torch.randn(2, 4))))
    assert found.keys() == {"second"}
    assert "answers differently" in found["second"]
