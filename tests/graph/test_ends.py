"""Which layers are first and last."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rarefy.graph.ends import between, first_and_last
from rarefy.graph.flow import flow


class Branches(nn.Module):
    """Two inputs, two outputs, a gate from a layer, a layer that is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.gate = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.middle, self.top, self.side = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.unused = nn.Linear(4, 4)

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        x = F.relu(self.left(a * 2)) + self.right(b)
        x = x * torch.sigmoid(self.gate(x))
        y = F.relu(self.middle(x))
        return self.top(y).flatten(), 2 * self.side(x)


def test_by_what_flows() -> None:
    model = Branches()
    seen = flow(model, lambda: model(torch.randn(2, 4), torch.randn(2, 4)))
    layers = [name for name, _ in model.named_children()]
    assert first_and_last(seen, layers) == ({"left", "right"}, {"top", "side"})
    found = between(seen, ["middle"], layers)
    assert seen.inputs["top"][0] in found
    assert not found & seen.results


def test_one_layer_is_both() -> None:
    model = nn.Linear(4, 4)
    assert first_and_last(flow(model, lambda: model(torch.randn(2, 4))), [""]) == ({""}, {""})
