"""Blocks in the place of a convolution: geometry, exactness where it is possible, optimality where it is not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rarefy.layers import Fire, Grouped, Light, Separable

KINDS: list[Light] = [Separable(2), Grouped(2), Fire(0.5)]
GEOMETRIES: list[dict[str, Any]] = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 3, "padding": "same", "bias": False},
    {"kernel_size": (3, 5), "padding": (1, 2), "stride": 2},
    {"kernel_size": 3, "padding": 2, "dilation": 2, "stride": (1, 2)},
    {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
    {"kernel_size": 3, "padding": 1, "padding_mode": "circular", "bias": False},
]
ANY: list[dict[str, Any]] = [
    {"kernel_size": 4, "padding": 1, "stride": 3},
    {"kernel_size": 3},
    {"kernel_size": (1, 3), "padding": "valid"},
    {"kernel_size": (7, 1), "padding": (2, 4), "padding_mode": "replicate"},
]

by_kind = pytest.mark.parametrize("light", KINDS, ids=lambda light: light.name)


def conv(**geometry: Any) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(8, 12, **geometry)


def equivalent(layer: nn.Conv2d, weight: Tensor) -> nn.Conv2d:
    with torch.no_grad():
        layer.weight.copy_(weight)
    return layer


def check_equal(light: Light, layer: nn.Conv2d) -> None:
    """The block is what `fit` says: the same layer with the weight that it gives."""
    torch.manual_seed(1)
    x, block = torch.randn(2, 8, 13, 11), light.filled(layer)
    wanted = equivalent(layer, light.fit(layer.weight.detach(), None).weight)
    with torch.no_grad():
        assert torch.allclose(block(x), wanted(x), atol=1e-5)


@by_kind
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_geometry(light: Light, geometry: dict[str, Any]) -> None:
    layer = conv(**geometry)
    assert light.why_not(layer) is None
    check_equal(light, layer)


@pytest.mark.parametrize("light", KINDS[:2], ids=lambda light: light.name)
@pytest.mark.parametrize("geometry", ANY, ids=str)
def test_geometry_that_fire_cannot_have(light: Light, geometry: dict[str, Any]) -> None:
    check_equal(light, conv(**geometry))
    assert "padding is not half of its kernel" in str(Fire().why_not(conv(**geometry)))


@by_kind
@pytest.mark.parametrize("bias", [True, False])
def test_what_is_such_a_block_already_is_reproduced(light: Light, bias: bool) -> None:
    """A convolution made of a block with random tensors."""
    torch.manual_seed(2)
    layer = conv(kernel_size=3, padding=1, bias=bias)
    source = light.blank(layer)
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.normal_()
        if isinstance(light, Fire):
            source.get_buffer("reorder.order").copy_(torch.randperm(12))
        impulses = torch.zeros(8, 8, 3, 3)
        impulses[range(8), range(8), 1, 1] = 1
        shift = source(torch.zeros(1, 8, 3, 3))
        layer.weight.copy_((source(impulses) - shift).flip(2, 3).transpose(0, 1))
        if layer.bias is not None:
            layer.bias.copy_(shift[0, :, 1, 1])
        x = torch.randn(3, 8, 9, 9)
        wanted = source(x)
        assert torch.allclose(layer(x), wanted, atol=1e-3)
        assert (light.filled(layer)(x) - wanted).abs().max() <= 1e-4 * wanted.abs().max()


@by_kind
def test_no_other_block_is_nearer(light: Light) -> None:
    """Gradient descent from there does not find one (for Fire: with the same order)."""
    layer = conv(kernel_size=3, padding=1, bias=False)
    weight = layer.weight.detach()
    best = float((light.fit(weight, None).weight - weight).norm())
    assert 0 < best < float(weight.norm())
    block = light.filled(layer)
    impulses = torch.zeros(8, 8, 3, 3)
    impulses[range(8), range(8), 1, 1] = 1
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    optimizer = torch.optim.LBFGS(block.parameters(), max_iter=300, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        kernel = block(impulses).flip(2, 3).transpose(0, 1)
        value = (kernel - weight).square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)
    assert float(loss().detach()) ** 0.5 == pytest.approx(best, rel=1e-3)


def test_as_many_kernels_as_a_kernel_has_weights_lose_nothing() -> None:
    weight = torch.randn(12, 8, 3, 3)
    assert torch.allclose(Separable(9).fit(weight, None).weight, weight, atol=1e-5)


def test_fire_takes_the_outputs_with_least_off_the_centre() -> None:
    weight = torch.randn(6, 4, 3, 3)
    centre = weight[:, :, 1:2, 1:2].clone()
    for o in (0, 3, 4):
        weight[o] = 0
        weight[o, :, 1:2, 1:2] = centre[o]
    assert torch.allclose(Fire(1.0).fit(weight, None).weight, weight, atol=1e-5)


def test_counts() -> None:
    layer = conv(kernel_size=3, padding=1, stride=2)
    assert Separable(2).cost(layer) == (0, 8 * 2 * 9 + 16 * 12)
    assert Grouped(2).cost(layer) == (0, 12 * 4 * 9 + 12 * 6)
    assert Fire(0.5).cost(layer) == (8 * 6, 6 * 6 + 6 * 6 * 9)


def test_what_does_not_divide_is_left() -> None:
    assert Grouped(5).why_not(conv(kernel_size=3)) == "8 -> 12 channels do not divide into 5 groups"
    assert Fire().why_not(nn.Conv2d(4, 1, 3, padding=1)) == "it has one output channel"


@by_kind
def test_zeros_and_frozen_layers(light: Light) -> None:
    layer = conv(kernel_size=3, padding=1)
    nn.init.zeros_(layer.weight)
    layer.weight.requires_grad_(False)
    block = light.filled(layer)
    assert all(torch.isfinite(tensor).all() for tensor in block.state_dict().values())
    assert {p.requires_grad for p in block.parameters() if p.ndim == 4} == {False}
    assert {p.requires_grad for p in block.parameters() if p.ndim == 1} == {True}


@by_kind
def test_building_draws_no_random_numbers(light: Light) -> None:
    layer = conv(kernel_size=3, padding=1)
    before = torch.get_rng_state()
    light.filled(layer)
    light.cost(layer)
    assert torch.equal(torch.get_rng_state(), before)
