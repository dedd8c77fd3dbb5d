"""BatchNorm folded into the layer before it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models import CASES
from rarefy.encodings import adopted
from rarefy.graph.flow import Flow, flow
from rarefy.quantizing.normalisation import foldable, folded
from rarefy.task import forward


def seen(model: nn.Module, inputs: object) -> Flow:
    with torch.no_grad():
        return flow(model, lambda: forward(model, inputs))


def test_folding_is_exact() -> None:
    for name in ("plain", "residual", "inverted", "shuffle", "frozen"):
        model, inputs = adopted(CASES[name].model()), CASES[name].batch()
        found = foldable(model, seen(model, inputs))
        norms = [path for path, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)]
        assert list(found) == norms
        with torch.no_grad():
            wanted = forward(model, inputs)
            for norm, layer in found.items():
                model = folded(model, norm, layer)
            assert torch.allclose(forward(model, inputs), wanted, rtol=1e-5, atol=1e-5)
        assert not any(isinstance(m, nn.BatchNorm2d) for m in model.modules())


class Used(nn.Module):
    """A convolution whose output is used beside its BatchNorm; one called twice; a matrix before BatchNorm1d."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.conv, self.norm = kind, nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.matrix, self.along = nn.Linear(4, 4), nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        if self.kind == "beside":
            return self.norm(y) + y
        if self.kind == "twice":
            return self.norm(self.conv(y))
        return self.along(self.matrix(x[:, 0])) if self.kind == "along" else self.along(self.matrix(x[:, 0, 0]))


def test_folds_only_what_can_be_folded() -> None:
    inputs = torch.randn(2, 3, 4, 4)
    for kind in ("beside", "twice", "along"):
        model = Used(kind).eval()
        assert foldable(model, seen(model, inputs)) == {}
    model = Used("flat").eval()
    assert foldable(model, seen(model, inputs)) == {"along": "matrix"}
