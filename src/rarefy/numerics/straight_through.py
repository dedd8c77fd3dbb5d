"""Rounding with gradients: straight through to what is rounded, and to the step that it is rounded by (LSQ)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


class _Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, point: Tensor, limits: tuple[int, int], gain: float) -> Tensor:
        ctx.save_for_backward(x, scale, point)  # not what is given: a layer that follows may work in place
        ctx.limits, ctx.gain = limits, gain
        return (x / scale).round_().add_(point).clamp_(*limits).sub_(point).mul_(scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, None, None, None]:
        x, scale, point = ctx.saved_tensors
        v = (x / scale).add_(point)
        # the gradient where least < v < most, else 0, in one pass over memory
        passed = torch.ops.aten.hardtanh_backward(gradients[0], v, *ctx.limits)
        if not ctx.needs_input_grad[1]:
            return passed, None, None, None, None
        each = v.round().clamp_(*ctx.limits).sub_(point).mul_(gradients[0]).addcmul_(passed, v.sub_(point), value=-1)
        return passed, ctx.gain * each.sum_to_size(scale.shape), None, None, None


def rounded(x: Tensor, scale: Tensor, zero_point: Tensor, limits: tuple[int, int], values: int) -> Tensor:
    """`(clip(round(x / scale) + zero_point, least, most) - zero_point) * scale`, with the gradients of LSQ.

    With v = x / scale, and the limits taken from the zero point (Esser et al. 2020, equations 2 to 5):
    d rounded / d x = 1 where least < v < most and 0 elsewhere; d rounded / d scale = round(v) - v there, least or most
    elsewhere. The gradient of the scale, if it wants one, is multiplied by 1 / sqrt(values * most): `values` are those
    that share a scale, in one example. scale, zero_point: of a shape that spreads over `x`.
    """
    gain = 1 / math.sqrt(values * limits[1])
    result: Tensor = _Rounded.apply(x, scale, zero_point.to(x.dtype), limits, gain)  # type: ignore[no-untyped-call]
    return result
