"""Channels of equal range: what one layer gives larger, the next one takes smaller.

Between W1 and W2 lies a function with f(s x) = s f(x) for s > 0, as ReLU is. Then W2 f(W1 x) = W2 S f(S^-1 W1 x) for
any positive diagonal S, and s_i = sqrt(r1_i / r2_i) gives channel i the same range, sqrt(r1_i r2_i), on both sides
(Nagel et al. 2019, Data-Free Quantization, arXiv:1906.04721).
"""

from __future__ import annotations

import torch
from torch import Tensor

MARGIN = 2.0  # times what was seen of a channel is to stay under a bound


def factors(first: Tensor, second: Tensor) -> Tensor:
    """The powers of two nearest to S, so that all products stay exact; 1 where a channel is zero on one side.

    first, second: the largest magnitudes of each channel's weights, (channels,).
    """
    ratio = (first.double() / second.double()).sqrt()
    usable = (first > 0) & (second > 0) & ratio.isfinite()
    return torch.where(usable, ratio, 1.0).log2().round().exp2().to(first.dtype)


def within(factor: Tensor, largest: Tensor, bound: float) -> Tensor:
    """Factors for channels that are clipped at `bound`: they are to be clipped neither less nor more than before.

    largest: of what each channel was seen to give, (channels,). One that comes near the bound keeps the factor 1; for
    the others it is at least what keeps them under it.
    """
    share = (MARGIN * largest.clamp(min=torch.finfo(largest.dtype).tiny) / bound).log2().ceil().exp2()
    return torch.where(share > 1, 1.0, torch.maximum(factor, share))
