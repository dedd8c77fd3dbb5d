"""Signs, ternary values and few-bit levels, with the gradients they are trained with; bits in bytes.

sign(0) is +1 everywhere. Rounding has a gradient of zero almost everywhere, so each function passes the gradient on as
if it were another one (the straight-through estimator, Bengio, Leonard, Courville 2013, arXiv:1308.3432).
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

Gradient = Literal["hardtanh", "polynomial"]
TERNARY = 0.7  # of the mean magnitude: weights below it become zero (Li, Zhang, Liu 2016, arXiv:1605.04711, eq. 6)


class _Straight(torch.autograd.Function):
    """Any value forward; backward the gradient times `slope`."""

    @staticmethod
    def forward(ctx: Any, _x: Tensor, value: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(slope)
        return value

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        return gradients[0] * slope, None, None


def straight(x: Tensor, value: Tensor, slope: Tensor) -> Tensor:
    """`value`, as a function of `x` whose derivative is `slope`; all of one shape, without gradients of their own."""
    result: Tensor = _Straight.apply(x, value, slope)  # type: ignore[no-untyped-call]
    return result


def sign(x: Tensor) -> Tensor:
    """+1 where x >= 0, else -1, in the type of x; no gradient."""
    return torch.where(x >= 0, 1.0, -1.0).to(x.dtype)


def signs(x: Tensor, gradient: Gradient = "hardtanh") -> Tensor:
    """sign(x) with the derivative of hard tanh, 1 for |x| <= 1, or of Bi-Real's polynomial, 2 - 2 |x| there (Liu et al.
    2018, arXiv:1808.00278); 0 beyond."""
    if not torch.is_grad_enabled():
        return sign(x)
    size = x.detach().abs()
    # by arithmetic, as compiled code is several times slower where it keeps the result of a comparison
    slope = ((1 - size).sign() + 1).clamp_max(1) if gradient == "hardtanh" else (2 - 2 * size).clamp_min(0)
    return straight(x, sign(x.detach()), slope)


def levels(x: Tensor, bits: int, steps: Tensor) -> Tensor:
    """round(clip(x steps, 0, 2^bits - 1)), half to even; the derivative is `steps` inside the range, 0 beyond (Zhou
    et al. 2016, DoReFa-Net, arXiv:1606.06160, with a range of its own)."""
    scaled = (x * steps).clamp(0, 2**bits - 1)
    if torch.is_grad_enabled():
        return straight(scaled, scaled.detach().round(), torch.ones_like(scaled))
    return scaled.round()


def ternary(weight: Tensor) -> Tensor:
    """-1, 0, +1: the sign where |w| is above 0.7 times the mean magnitude of its filter (dimension 0)."""
    size = weight.abs()
    return torch.where(size > TERNARY * filter_means(size), sign(weight), 0.0)


def filter_means(weight: Tensor) -> Tensor:
    """Mean over all dimensions but the first, which are kept."""
    return weight.mean(dim=tuple(range(1, weight.ndim)), keepdim=True)


def pack(positive: Tensor) -> Tensor:
    """bool (filters, ...) -> uint8 (filters, ceil(size / 8)), low bit first; what is missing in the last byte is 0."""
    flat = positive.flatten(1)
    whole = torch.nn.functional.pad(flat.to(torch.uint8), (0, -flat.shape[1] % 8))
    places = torch.arange(8, dtype=torch.uint8, device=flat.device)
    return (whole.view(len(flat), -1, 8) << places).sum(2, dtype=torch.uint8)


def threshold(gamma: Tensor, beta: Tensor, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """BatchNorm before a sign, as a comparison: (t, flip) with sign(gamma (x - mean) / std + beta) = sign(x - t), or
    its negative where `flip`, for every float32 x.

    t = mean - beta std / gamma, in float64, rounded so that the comparison with float32 numbers stays the same. A
    negative gamma asks x <= t, which is not x >= the next float. gamma = 0 is a constant: t is infinite.
    """
    gamma, beta, mean, std = (tensor.double() for tensor in (gamma, beta, mean, std))
    exact = torch.where(gamma == 0, torch.where(beta >= 0, -torch.inf, torch.inf), mean - beta * std / gamma)
    rounded = exact.float()
    above = torch.nextafter(rounded, torch.full_like(rounded, torch.inf))
    flip = gamma < 0
    # x >= exact: the least float at or above it; not (x <= exact): the least float above it
    late = torch.where(flip, rounded.double() <= exact, rounded.double() < exact)
    return torch.where(late, above, rounded), flip
