"""CP decomposition of convolution kernels: a sum of rank-one kernels."""

from __future__ import annotations

import math

import torch
from torch import Tensor

Factors = tuple[Tensor, Tensor, Tensor, Tensor]

_RIDGE = 1e-8  # of the mean diagonal of a Gram matrix; keeps components from growing against each other
_LEAST = 1e-150  # keeps Gram matrices of zero solvable
_SWEEPS = 40
_STALL = 1e-4  # relative to ||W||^2: a sweep that gains less is the last


def cp(weight: Tensor, rank: int, seed: int = 0) -> Factors:
    """W[o, i, y, x] ~ sum_r O[o, r] I[i, r] Y[y, r] X[x, r] (Lebedev et al. 2015).

    Alternating least squares in float64 with a small ridge, from the leading singular vectors of each mode, filled up
    with random ones. Every component's four factors have one norm, so none explodes against another. Gives the
    best of all sweeps; never NaN for finite weights. Factors: (o, r), (i, r), (kh, r), (kw, r).
    """
    kernel = weight.double()
    draw = torch.Generator().manual_seed(seed)
    factors = [_start(kernel, mode, rank, draw) for mode in range(4)]
    best, least, before = factors, math.inf, math.inf
    for _ in range(_SWEEPS):
        for mode in range(4):
            factors[mode] = _solved(kernel, factors, mode)
        factors = _normalised(factors)
        error = float(cp_error(kernel, factors))
        if not math.isfinite(error):
            break
        if error < least:
            best, least = list(factors), error
        if before - error < _STALL * float(kernel.square().sum()):
            break
        before = error
    o, i, y, x = (factor.to(weight.dtype) for factor in best)
    return o, i, y, x


def cp_kernel(factors: Factors | list[Tensor]) -> Tensor:
    """The kernel that the factors stand for."""
    return torch.einsum("or,ir,yr,xr->oiyx", *factors)


def cp_error(kernel: Tensor, factors: Factors | list[Tensor]) -> Tensor:
    """||W - W_r||^2, from Gram matrices: nothing of the kernel's size is built."""
    mixed = _projected(kernel, list(factors), 0)  # (o, r)
    gram = torch.stack([f.mT @ f for f in factors]).prod(0)
    return (kernel.square().sum() - 2 * (mixed * factors[0]).sum() + gram.sum()).clamp(min=0)


def cp_errors(weight: Tensor, ranks: list[int], seed: int = 0) -> Tensor:
    """The squared error at each of `ranks`. There is no spectrum to read it from: each rank is decomposed."""
    kernel = weight.double()
    errors = torch.stack([cp_error(kernel, cp(kernel, rank, seed)) for rank in ranks])
    return errors.cummin(0).values  # a larger rank can do what a smaller one does


def _start(kernel: Tensor, mode: int, rank: int, draw: torch.Generator) -> Tensor:
    flat = kernel.movedim(mode, 0).flatten(1)
    vectors = torch.linalg.eigh(flat @ flat.mT).eigenvectors.flip(-1)[:, :rank]
    missing = max(0, rank - vectors.shape[1])
    extra = torch.randn(len(flat), missing, dtype=kernel.dtype, generator=draw).to(kernel.device)
    return torch.cat([vectors, extra / math.sqrt(len(flat))], 1)


def _projected(kernel: Tensor, factors: list[Tensor], mode: int) -> Tensor:
    """The kernel times the Khatri-Rao product of all factors but that of `mode`."""
    names = "oiyx"
    rest = [names[m] + "r" for m in range(4) if m != mode]
    others = [factors[m] for m in range(4) if m != mode]
    joined = torch.einsum(f"{','.join(rest)}->{''.join(n[0] for n in rest)}r", *others).flatten(0, 2)
    product: Tensor = kernel.movedim(mode, 0).flatten(1) @ joined
    return product


def _solved(kernel: Tensor, factors: list[Tensor], mode: int) -> Tensor:
    gram = torch.stack([f.mT @ f for m, f in enumerate(factors) if m != mode]).prod(0)
    gram.diagonal().add_(_RIDGE * gram.diagonal().mean() + _LEAST)
    solved: Tensor = torch.linalg.solve(gram, _projected(kernel, factors, mode).mT)
    return solved.mT


def _normalised(factors: list[Tensor]) -> list[Tensor]:
    """Each component's weight, evenly over its four factors."""
    norms = torch.stack([f.norm(dim=0) for f in factors])  # (4, r)
    even = norms.log().mean(0).exp()
    scale = torch.where((norms > 0) & (even > 0), even / norms, 0.0)
    return [f * s for f, s in zip(factors, scale, strict=True)]
