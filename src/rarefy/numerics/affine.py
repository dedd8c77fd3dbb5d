"""Affine integers: `q = round(x / scale) + zero_point`, saturated, and back: `x = (q - zero_point) * scale`.

Rounding is to the nearest, ties to even, as in ONNX's QuantizeLinear.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rarefy.errors import InputError

FACTORS = 16  # shrunken ranges that `fitted` tries


def limits(bits: int, signed: bool = True) -> tuple[int, int]:
    """The integers in use. Signed ones are symmetric, -127 .. 127 for 8 bits, so that -x is stored as well as x."""
    return (1 - 2 ** (bits - 1), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)


def parameters(low: Tensor, high: Tensor, bits: int, *, symmetric: bool, signed: bool = True) -> tuple[Tensor, Tensor]:
    """(scale, zero_point) for values in low .. high, element by element; float32 and int32 of their shape.

    The range is widened to hold 0, which an integer represents exactly. A range of 0 alone has the scale 1.
    Raises `InputError` where a bound is not finite.
    """
    low, high = low.detach().double().clamp(max=0), high.detach().double().clamp(min=0)
    if not bool((low.isfinite() & high.isfinite()).all()):
        raise InputError("expected ranges that are finite, not NaN or infinite: look at what they were measured on")
    least, most = limits(bits, signed)
    if symmetric:
        bound = torch.maximum(-low, high)
        low, high = -bound, bound
        least = least if signed else 1  # as many steps on both sides of the middle
    scale = ((high - low) / (most - least)).float()
    tiny = torch.finfo(torch.float32).tiny
    scale = torch.where(high > low, scale.clamp(tiny, torch.finfo(torch.float32).max), 1.0)
    if symmetric:
        return scale, torch.full_like(scale, 0 if signed else 2 ** (bits - 1)).int()
    point = (least - low / scale.double()).round().clamp(least, most)
    return scale, torch.where(high > low, point, 0.0 if signed else float(least)).int()


def quantize(x: Tensor, scale: Tensor, zero_point: Tensor, least: int, most: int) -> Tensor:
    """The integers of `x`, in its own floating type."""
    return ((x / scale).round() + zero_point).clamp(least, most)


def dequantize(q: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """What integers stand for."""
    return (q - zero_point) * scale


def fitted(rows: Tensor, bits: int, *, symmetric: bool) -> tuple[Tensor, Tensor]:
    """(scale, zero_point) of each row of (rows, n) values: of the ranges from the full one down to 40 % of it, the one
    with the least squared error."""
    rows = rows.detach().float()
    low, high = rows.amin(1), rows.amax(1)
    least, most = limits(bits)
    best = torch.full_like(low, torch.inf)
    scale, point = parameters(low, high, bits, symmetric=symmetric)
    for factor in torch.linspace(1, 0.4, FACTORS).tolist():
        s, z = parameters(low * factor, high * factor, bits, symmetric=symmetric)
        back = dequantize(quantize(rows, s[:, None], z[:, None], least, most), s[:, None], z[:, None])
        error = (back - rows).square().sum(1)
        better = error < best
        best, scale, point = (torch.where(better, a, b) for a, b in ((error, best), (s, scale), (z, point)))
    return scale, point
