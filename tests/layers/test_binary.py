"""Layers on signs and few-bit integers, and the units they are built into."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from kernels import oracle
from rarefy import encodings
from rarefy.encodings import Signs
from rarefy.errors import InputError
from rarefy.graph.weights import by_path
from rarefy.kernels import Convolution
from rarefy.layers.binary import Activation, BinaryConv2d, BinaryLinear, binarize, one_bit, why_no_kernel
from rarefy.layers.binary_units import BinaryUnit, Copies, ShiftedPReLU


@pytest.mark.parametrize(
    ("how", "options"),
    [
        (Convolution(padding=(1, 1, 1, 1)), {"padding": 1}),
        (Convolution((2, 1), (2, 0, 2, 0), (1, 2)), {"stride": (2, 1), "padding": (2, 0), "dilation": (1, 2)}),
        (Convolution(padding=(1, 2, 1, 2)), {"padding": "same", "kernel_size": (3, 5)}),
        (Convolution(padding=(1, 1, 1, 1), map=True), {"padding": 1}),
        (Convolution(padding=(1, 1, 1, 1), bits=2, steps=1.7), {"padding": 1}),
        (Convolution(bits=1, steps=3.0), {}),
    ],
)
def test_a_convolution_is_the_oracles(how: Convolution, options: dict[str, object]) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(5, 7, **{"kernel_size": 3, **options})
    x, shift = torch.randn(2, 5, 9, 8), None if how.bits else torch.randn(5)
    with torch.no_grad():
        layer.weight.sign_()
    binarize(layer, Activation(how.bits, map=how.map), shift, torch.tensor(how.steps) if how.bits else None)
    assert isinstance(layer, BinaryConv2d)
    assert layer.bias is not None
    shifted = x if shift is None else x - shift.view(-1, 1, 1)
    wanted = oracle.sums(shifted.numpy(), layer.weight.detach().numpy(), how) / how.steps
    if how.map:
        wanted *= oracle.magnitudes(shifted.numpy(), tuple(layer.weight.shape), how)
    wanted += layer.bias.detach().numpy().reshape(1, -1, 1, 1)
    np.testing.assert_allclose(layer(x).detach().numpy(), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bits", [0, 2])
@pytest.mark.parametrize("layer", [nn.Conv2d(3, 4, 3), nn.Linear(8, 4)], ids=["convolution", "linear"])
def test_sums_that_are_counted_have_the_same_gradients(layer: nn.Conv2d | nn.Linear, bits: int) -> None:
    layer, x = copy.deepcopy(layer), torch.rand(2, 3, 8, 8, requires_grad=True)
    binarize(layer, Activation(bits), None, torch.tensor(1.7) if bits else None)
    one_bit(layer)
    found = []
    for training in (True, False):
        layer.train(training)
        y = layer(x)
        found.append((y, *torch.autograd.grad((y**2).sum(), [x, *layer.parameters()])))
    torch.testing.assert_close(found[0][:3], found[1][:3])  # in training the scale is a function of the weight too
    assert all(gradient.any() for gradient in found[1])


def test_a_linear_and_its_gradients() -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(6, 4), torch.randn(3, 2, 6, requires_grad=True)
    weight = layer.weight
    binarize(layer, Activation(), torch.full((6,), 0.5))
    assert isinstance(layer, BinaryLinear)
    assert layer.weight is weight
    torch.testing.assert_close(layer(x), torch.where(x >= 0.5, 1.0, -1.0) @ weight.T + layer.bias)
    layer(x).sum().backward()
    inside = ((x - 0.5).abs() <= 1).float()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, inside * weight.sum(0))
    assert layer.threshold is not None
    assert layer.threshold.grad is not None
    torch.testing.assert_close(layer.threshold.grad, -x.grad.sum((0, 1)))


def test_a_stored_weight_stays_stored() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 3)).eval()
    weight = by_path(model)["0.weight"]
    encodings.encode(weight, [Signs((4, 4, 3, 3)).fit(weight.tensor.detach())], weight.tensor)
    before, twin = model[0].weight.detach(), copy.deepcopy(model)
    binarize(model[0], Activation())
    assert torch.equal(model[0].weight, before)
    assert isinstance(model[0], BinaryConv2d)
    assert not isinstance(twin[0], BinaryConv2d)
    encodings.decoded(model)
    assert type(model[0]) is BinaryConv2d
    assert torch.equal(model[0].weight, before)
    one_bit(model[0])
    assert encodings.describe(by_path(model)["0.weight"]) == "1 bit, a scale per filter"


def test_what_it_prints() -> None:
    layer = nn.Linear(3, 2)
    binarize(layer, Activation(2), steps=torch.tensor(1.0))
    assert repr(layer) == "BinaryLinear(in_features=3, out_features=2, bias=True, 2-bit inputs)"
    conv = nn.Conv2d(1, 1, 1)
    binarize(conv, Activation(map=True))
    assert "signs of its input, with their scale" in repr(conv)


def test_what_there_is_no_kernel_for() -> None:
    assert why_no_kernel(nn.Conv2d(4, 4, 3)) is None
    assert why_no_kernel(nn.Conv2d(4, 4, 3, groups=2)) == "the kernels have no groups, and it has 2"
    assert "pads by 'reflect'" in str(why_no_kernel(nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")))
    assert "not for Conv1d" in str(why_no_kernel(nn.Conv1d(4, 4, 3)))
    with pytest.raises(InputError, match="1 to 4 bits, or 0 for signs, not 5"):
        Activation(5)
    with pytest.raises(InputError, match="belongs to signs"):
        Activation(2, map=True)
    with pytest.raises(InputError, match="belongs to convolutions"):
        binarize(nn.Linear(2, 2), Activation(map=True))


@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (2, 3)])
def test_shifted_prelu(shape: tuple[int, ...]) -> None:
    act, x = ShiftedPReLU(3), torch.randn(shape)
    with torch.no_grad():
        act.before.copy_(torch.tensor([1.0, 0.0, -1.0]))
        act.after.fill_(2.0)
    shifted = x - act.before.view(1, 3, *[1] * (x.ndim - 2))
    torch.testing.assert_close(act(x), torch.where(shifted >= 0, shifted, shifted / 4) + 2)


def test_a_unit_adds_its_shortcut() -> None:
    x = torch.randn(2, 4, 7, 7)
    copies = Copies(2, 3)
    assert copies(x).shape == (2, 12, 4, 4)
    torch.testing.assert_close(copies(x)[:, 4:8, :3, :3], nn.functional.avg_pool2d(x, 2))
    torch.testing.assert_close(copies(x)[:, :4, 3, 3], x[:, :, 6, 6])
    layer, norm = nn.Conv2d(4, 12, 3, 2, 1), nn.BatchNorm2d(12).eval()
    unit = BinaryUnit(layer, norm, copies)
    torch.testing.assert_close(unit(x), norm(layer(x)) + copies(x))
