"""Rounding activations at a module's input or output."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rarefy.layers.rounding import attach, hand_over, rounded


def at(side: str, bits: int, point: int = 0, scale: float = 0.1) -> nn.Module:
    layer = nn.Identity()
    attach(layer, side, torch.tensor(scale), torch.tensor(point, dtype=torch.uint8), bits=bits)  # type: ignore[arg-type]
    return layer


@pytest.mark.parametrize("side", ["input", "output"])
@pytest.mark.parametrize(("bits", "point"), [(8, 0), (8, 100), (4, 0), (4, 7), (2, 1)])
def test_values_are_on_the_grid(side: str, bits: int, point: int) -> None:
    x = torch.randn(200, 3, generator=torch.Generator().manual_seed(0)) * 5
    wanted = (((x / 0.1).round() + point).clamp(0, 2**bits - 1) - point) * 0.1
    found = at(side, bits, point)(x)
    assert torch.allclose(found, wanted)
    assert len(found.unique()) <= 2**bits
    assert torch.equal(at(side, bits, point)(x.bfloat16()), at(side, bits, point)(x.bfloat16().float()))


def test_another_module_takes_it_over() -> None:
    old, new = at("output", 4), nn.Linear(3, 3)
    hand_over(old, new)
    assert rounded(new) == ["output"]
    assert new.output_scale is old.output_scale
    assert len(new(torch.randn(50, 3)).unique()) <= 16
    other = nn.Linear(3, 3)
    hand_over(nn.Identity(), other)
    assert rounded(other) == []
