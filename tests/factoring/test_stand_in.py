"""Layers that another module cannot take the place of."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import Toy
from rarefy.factoring.stand_in import hooked, read_by_code
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
