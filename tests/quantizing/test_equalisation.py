"""Which layers share out their ranges, and what that is for."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models import CASES, Toy
from rarefy.graph.flow import flow
from rarefy.quantizing.equalisation import Pair, equalise, pairs
from rarefy.step import Context
from rarefy.steps import Quantize
from rarefy.task import forward


def uneven(relu: type[nn.Module]) -> nn.Sequential:
    """A depthwise network whose channels have ranges from 1 to 1000."""
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(3, 16, 1), relu(), nn.Conv2d(16, 16, 3, groups=16), relu(), nn.Conv2d(16, 8, 1), nn.Flatten()),
        nn.Linear(8 * 36, 4),
    )
    with torch.no_grad():
        factor = torch.logspace(0, -3, 16)
        for one, two in ((0, 2), (2, 4)):
            first, second = model[one], model[two]
            shape = (-1, 1, 1, 1) if second.groups > 1 else (1, -1, 1, 1)
            first.weight *= factor.view(-1, 1, 1, 1)
            first.bias *= factor
            second.weight /= factor.view(shape)
    return model.eval()


PICTURES = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def found(model: nn.Module, inputs: Tensor) -> list[Pair]:
    weights = {name for name, _ in model.named_parameters()}
    with torch.no_grad():
        return pairs(model, flow(model, lambda: forward(model, inputs)), weights)


def test_is_exact_and_makes_ranges_equal() -> None:
    for relu in (nn.ReLU, nn.ReLU6):
        model = uneven(relu)
        with torch.no_grad():
            wanted = model(PICTURES)
            chosen = found(model, PICTURES)
            bound = 6.0 if relu is nn.ReLU6 else float("inf")
            assert chosen == [Pair("0", "2", bound), Pair("2", "4", bound)]
            equalise(model, chosen, Context(task=Toy(PICTURES)), 16)
            assert torch.equal(model(PICTURES), wanted)
        ranges = model[0].weight.detach().flatten(1).abs().amax(1)
        assert float(ranges.max() / ranges.min()) < (12 if relu is nn.ReLU else 100)


def test_one_scale_per_tensor_needs_it() -> None:
    model, task = uneven(nn.ReLU), Toy(PICTURES)
    with torch.no_grad():
        wanted = model(PICTURES)
        errors = [
            float((Quantize(per="tensor", equalise=equal)(model, task)(PICTURES) - wanted).norm() / wanted.norm())
            for equal in (False, True)
        ]
    assert errors[1] < 0.2 * errors[0]


def test_only_what_one_layer_gives_to_one_other() -> None:
    assert found(CASES["plain"].model().eval(), CASES["plain"].batch()) == []  # BatchNorm is between
    residual = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Sigmoid(), nn.Conv2d(3, 3, 1), nn.Flatten(), nn.Linear(192, 3))
    assert found(residual.eval(), PICTURES) == []  # not linear; channels mixed

    class Beside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.one(x).relu()
            return self.two(y) + y

    assert found(Beside().eval(), PICTURES) == []
