"""Integers with scales as the file holds them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import TensorProto
from torch import Tensor, nn

from decoding import decoded
from rarefy import encodings
from rarefy.encodings import Affine, Mask
from rarefy.graph.weights import by_path

FORMS = [(8, 0, 0), (8, None, 0), (8, 1, 0), (4, 0, 0), (3, 0, 4), (2, None, 0), (5, 0, 4)]


def made(bits: int, axis: int | None, group: int, symmetric: bool = True) -> nn.Linear:
    torch.manual_seed(0)
    layer = nn.Linear(12, 5)
    link = Affine.of(layer.weight.detach(), bits, axis, group, symmetric=symmetric)
    encodings.encode(by_path(layer)["weight"], [link], layer.weight)
    return layer


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_the_file_decodes_to_the_same_weight(form: tuple[int, int | None, int], symmetric: bool) -> None:
    layer = made(*form, symmetric)
    values, graph = decoded(layer)
    assert np.array_equal(values, layer.weight.detach().numpy())
    kinds = {t.name: (t.data_type, list(t.dims)) for t in graph.initializer}
    assert kinds["weight.values"] == (TensorProto.INT4 if form[0] <= 4 else TensorProto.INT8, [5, 12])
    weight = by_path(layer)["weight"]
    written = 8 * sum(len(t.raw_data) for t in graph.initializer)
    assert encodings.stored_bits(weight) <= written <= encodings.stored_bits(weight) + 8


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_few_values_and_half_a_step_of_error(bits: int) -> None:
    torch.manual_seed(0)
    weight = torch.randn(6, 50)
    link = Affine(weight.abs().amax(1) / (2 ** (bits - 1) - 1), torch.zeros(6), bits, 0)
    back = link(weight)
    assert all(len(row.unique()) <= 2**bits - 1 for row in back)
    assert bool(((back - weight).abs() <= link.scale[:, None] * 0.5001).all())


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_values_are_restored_from_their_integers(form: tuple[int, int | None, int]) -> None:
    layer = made(*form, symmetric=False)
    link = encodings.find(by_path(layer)["weight"], Affine)
    assert isinstance(link, Affine)
    assert torch.equal(link.restored(encodings.stored(by_path(layer)["weight"])), layer.weight)


def test_four_bits_are_widened_once_except_in_groups() -> None:
    """A convolution of 4-bit integers would run in floats; matrices in groups have kernels for them."""
    for group, casts in ((0, 1), (4, 0)):
        _, graph = decoded(made(4, 0, group))
        assert [node.op_type for node in graph.node] == ["Cast"] * casts + ["DequantizeLinear"]


def test_the_scale_learns_while_it_is_a_parameter() -> None:
    layer = made(3, 0, 4)
    link = encodings.find(by_path(layer)["weight"], Affine)
    assert isinstance(link, Affine)
    scale = link._buffers.pop("scale")
    assert scale is not None
    link.scale = nn.Parameter(scale)
    layer(torch.randn(7, 12)).square().sum().backward()
    assert isinstance(link.scale.grad, Tensor)
    assert link.scale.grad.shape == (5, 3)
    assert bool((link.scale.grad != 0).any())


def test_the_gradient_passes_inside_the_range_only() -> None:
    values = torch.tensor([[0.2, 5.0, -0.3]], requires_grad=True)
    Affine(torch.tensor([0.01]), torch.zeros(1), 8, 0)(values).backward(torch.ones(1, 3))
    assert isinstance(values.grad, Tensor)
    assert values.grad.tolist() == [[1, 0, 1]]


def test_a_pruned_weight_stays_zero() -> None:
    layer = nn.Linear(12, 5)
    mask = Mask(torch.rand(5, 12) > 0.5)
    weight = by_path(layer)["weight"]
    encodings.encode(weight, [mask, Affine.of(mask(layer.weight), 8, symmetric=False)], layer.weight)
    assert not layer.weight[~mask.mask].any()
    assert np.array_equal(decoded(layer)[0], layer.weight.detach().numpy())


def test_a_bias_keeps_32_bits() -> None:
    layer = nn.Linear(3, 4)
    scale = torch.full((4,), 1e-6)
    encodings.encode(by_path(layer)["bias"], [Affine(scale, torch.zeros(4), 32, 0)], layer.bias)
    assert encodings.stored(by_path(layer)["bias"]).dtype == torch.int32
    assert encodings.stored_bits(by_path(layer)["bias"]) == 4 * 64
    assert encodings.describe(by_path(layer)["bias"]) == "int32 per channel"
