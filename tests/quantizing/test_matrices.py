from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from rarefy.graph.weights import weights
from rarefy.quantizing import matrices
from rarefy.quantizing.matrices import Matrices

LAYERS = [
    nn.Linear(6, 4),
    nn.Conv1d(4, 6, 3, groups=2),
    nn.Conv2d(6, 6, 3, groups=6),
    nn.Conv3d(2, 4, 2),
    nn.ConvTranspose1d(4, 3, 2),
    nn.ConvTranspose2d(4, 6, 3, groups=2),
    nn.ConvTranspose2d(6, 6, 3, groups=6),
    nn.Bilinear(3, 4, 5),
    nn.Embedding(7, 3),
    nn.LayerNorm(8),
]
by_layer = pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: type(layer).__name__)


def layout(layer: nn.Module) -> tuple[Matrices, Tensor]:
    weight = weights(layer)[0]
    return Matrices.of(weight), weight.tensor.detach()


@by_layer
@pytest.mark.parametrize("widest", [4, 2048])
def test_comes_back(layer: nn.Module, widest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matrices, "WIDEST", widest)
    made, weight = layout(layer)
    split = made.split(weight)
    assert split.shape[2] <= widest
    assert split.numel() == weight.numel()
    assert torch.equal(made.joined(split), weight)


@by_layer
def test_a_row_is_all_that_makes_an_output(layer: nn.Module) -> None:
    """Changing one row of one matrix changes one channel of the output."""
    if not isinstance(layer, (nn.Linear, nn.modules.conv._ConvNd)):
        pytest.skip("no layer of channels")
    made, weight = layout(layer)
    inputs = torch.randn(2, weight.shape[1] if isinstance(layer, nn.Linear) else layer.in_channels, *[5] * 3)
    dims = 2 + weight.ndim - 2 if weight.ndim > 2 else 2
    x = inputs.flatten(dims - 1)[..., :5] if dims < 5 and weight.ndim > 2 else inputs
    x = inputs[:, :, 0, 0, 0] if isinstance(layer, nn.Linear) else x
    before = layer(x).detach()
    split = made.split(weight).clone()
    split[-1, -1] += 1
    with torch.no_grad():
        changed = torch.func.functional_call(layer, {"weight": made.joined(split)}, (x,)).sub(before).abs().sum(0)
    assert changed.flatten(1).sum(1).count_nonzero() == 1 if changed.ndim > 1 else changed.count_nonzero() == 1


@by_layer
def test_steps_of_rows_spread_over_the_weight(layer: nn.Module) -> None:
    made, weight = layout(layer)
    assert (torch.randn(made.row_shape) * weight).shape == weight.shape
    assert torch.Size(made.row_shape).numel() == (1 if weight.ndim == 1 else weight.shape[made.outputs])


@by_layer
def test_steps_of_columns_belong_to_inputs(layer: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matrices, "FEW", 2)
    made, weight = layout(layer)
    if made.column_shape is None:
        assert made.groups > 1 or weight.ndim == 1
        return
    inputs = torch.randn(made.column_shape)
    split = made.split(inputs.expand(weight.shape))
    torch.testing.assert_close(made.inputs(split[:, 0]), inputs)


def test_few_rows_share_no_steps_of_columns() -> None:
    assert Matrices((15, 40)).column_shape is None
    assert Matrices((16, 40, 3)).column_shape == (1, 40, 1)
    assert Matrices((40, 16), transposed=True).column_shape == (40, 1)
