"""Values between functions and modules."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rarefy.graph.flow import Flow, flow
from rarefy.task import forward


def seen(model: nn.Module, inputs: object) -> Flow:
    with torch.no_grad():
        return flow(model, lambda: forward(model, inputs))


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.relu = nn.Conv2d(3, 4, 1), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.one(x))
        y += 1
        return F.relu(y)


def test_a_function_in_place_makes_another_value() -> None:
    found = seen(Small(), torch.randn(2, 3, 4, 4))
    (conv,), (relu,) = found.outputs["one"], found.outputs["relu"]
    assert conv != relu
    assert conv[0] == relu[0]
    assert [step.name for step in found.uses[conv]] == ["relu"]
    assert [step.name for step in found.uses[relu]] == ["add"]
    assert found.inputs["relu"] == [conv]
    assert found.results == {found.steps[-1].outputs[0]}
    assert found.calls["one"] == 1


def test_hooks_are_gone_afterwards() -> None:
    model = Small()
    seen(model, torch.randn(2, 3, 4, 4))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
