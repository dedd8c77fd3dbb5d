"""Biases on the grid of integer sums."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models import Toy
from rarefy import Finetune, Half, Quantize
from rarefy.encodings import Affine, find
from rarefy.graph.weights import by_path
from rarefy.quantizing import biases
from rarefy.step import Context


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(16, 5))


TASK = Toy(torch.randn(16, 3, 4, 4, generator=torch.Generator().manual_seed(1)))


def off(model: nn.Module) -> Tensor:
    """How far biases are from whole multiples of their grids, in these."""
    far = []
    for path in ("0", "2"):
        layer = model.get_submodule(path)
        link = find(by_path(model)[f"{path}.weight"], Affine)
        assert isinstance(link, Affine)
        ratio = by_path(model)[f"{path}.bias"].tensor.detach().double() / (link.scale * layer.input_scale).double()
        far.append((ratio - ratio.round()).abs().max())
    return torch.stack(far).max()


def test_training_leaves_them_on_the_grid() -> None:
    made = Quantize()(network(), TASK)
    assert off(made) < 1e-3
    trained = Finetune(steps=5, lr=0.01)(made, TASK)
    assert off(trained) < 1e-3
    assert not torch.equal(trained[0].bias, made[0].bias)
    with torch.no_grad():
        trained[0].bias.add_(1e-5)
    assert off(trained) > 1e-2
    biases.snap(trained)
    assert off(trained) < 1e-3


def test_float_layers_are_left() -> None:
    made = Quantize(skip=("2",))(network(), TASK)
    before = made[2].bias.detach().clone()
    biases.snap(made)
    assert torch.equal(made[2].bias, before)
    assert [path for path, weight in by_path(made).items() if biases.summed(weight)] == ["0.bias", "4.bias"]
    assert "2.bias" in Half().plan(made, Context(task=TASK)).do
