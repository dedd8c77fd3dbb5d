"""Matrices that few numbers make: circulant, Toeplitz and of low displacement rank; their products by FFT.

All work on blocks: (..., rows, cols) matrices, and the vectors that make them along the last dimension.
"""

from __future__ import annotations

import torch
from torch import Tensor


def toeplitz(diagonals: Tensor, cols: int) -> Tensor:
    """T[r, c] = diagonals[r - c + cols - 1]. (..., rows + cols - 1) -> (..., rows, cols)."""
    return diagonals.unfold(-1, cols, 1).flip(-1)


def wrapped(first: Tensor, sign: int = 1) -> Tensor:
    """The diagonals of the circulant matrix with this first column, C[r, c] = first[(r - c) mod n]; what wraps around
    is multiplied with `sign` (-1: skew-circulant). (..., n) -> (..., 2 n - 1)."""
    return torch.cat([sign * first[..., 1:], first], -1)


def toeplitz_product(diagonals: Tensor, x: Tensor, rows: int) -> Tensor:
    """`toeplitz(diagonals, cols) @ x` in O(n log n). (..., rows + cols - 1), (..., cols) -> (..., rows), broadcast."""
    length, cols = diagonals.shape[-1], x.shape[-1]
    spectrum = torch.fft.rfft(diagonals) * torch.fft.rfft(x, length)
    whole: Tensor = torch.fft.irfft(spectrum, length)
    return whole[..., cols - 1 : cols - 1 + rows]


def blocks_product(vectors: Tensor, x: Tensor) -> Tensor:
    """Circular convolutions of vectors[p, q] and x[..., q], summed over q. (p, q, n), (..., q, n) -> (..., p, n)."""
    n, batch = vectors.shape[-1], x.shape[:-2]
    left = torch.fft.rfft(vectors).movedim(-1, 0)  # (f, p, q)
    right = torch.fft.rfft(x.reshape(-1, *x.shape[-2:])).permute(2, 1, 0)  # (f, q, batch)
    y: Tensor = torch.fft.irfft((left @ right).permute(2, 1, 0), n)
    return y.reshape(*batch, -1, n)


def cut(matrix: Tensor, rows: int, cols: int) -> Tensor:
    """(m, n) -> blocks (p, q, rows, cols); the last ones are filled up with zeros."""
    m, n = matrix.shape
    padded = torch.nn.functional.pad(matrix, (0, -n % cols, 0, -m % rows))
    return padded.view(padded.shape[0] // rows, rows, padded.shape[1] // cols, cols).transpose(1, 2)


def joined(blocks: Tensor, m: int, n: int) -> Tensor:
    """Blocks (p, q, rows, cols) -> the matrix (m, n)."""
    return blocks.transpose(1, 2).flatten(2).flatten(0, 1)[:m, :n]


def diagonal_means(matrix: Tensor, rows: int, cols: int, wrap: bool) -> Tensor:
    """The nearest matrix (least squares) of Toeplitz blocks, or with `wrap` of circulant ones: the mean of each
    diagonal, over what of it lies in the matrix. (m, n) -> (p, q, rows + cols - 1), or (p, q, rows)."""
    sums = [_diagonal_sums(cut(part, rows, cols), wrap) for part in (matrix.double(), torch.ones_like(matrix.double()))]
    return (sums[0] / sums[1].clamp(min=1)).to(matrix.dtype)


def displacement(blocks: Tensor) -> Tensor:
    """Z_1 W - W Z_-1, where Z_f moves down by one and multiplies what wraps around by f. (..., n, n)."""
    down = blocks.roll(1, -2)
    left = blocks.roll(-1, -1)
    return down - torch.cat([left[..., :-1], -left[..., -1:]], -1)


def displacement_factors(blocks: Tensor, rank: int) -> Tensor:
    """The vectors of `displacement_blocks` whose displacement is the best one of this rank. (..., rank, 2, n)."""
    u, s, vh = torch.linalg.svd(displacement(blocks.double()), full_matrices=False)
    root = s[..., :rank].sqrt()[..., None]
    left, right = u[..., :rank].mT * root / 2, vh[..., :rank, :].flip(-1) * root
    return torch.stack([left, right], -2).to(blocks.dtype)


def displacement_blocks(vectors: Tensor) -> Tensor:
    """W = sum_i C(g_i) S(h_i), circulant times skew-circulant: all matrices of displacement rank r are such a sum
    (Sindhwani, Sainath, Kumar 2015, arXiv:1510.01722). (..., r, 2, n) -> (..., n, n)."""
    g, h = vectors.unbind(-2)
    n = g.shape[-1]
    skew = torch.fft.rfft(toeplitz(wrapped(h, -1), n), dim=-2)  # (..., r, f, n)
    blocks: Tensor = torch.fft.irfft((torch.fft.rfft(g)[..., None] * skew).sum(-3), n, dim=-2)
    return blocks


def displacement_product(vectors: Tensor, x: Tensor) -> Tensor:
    """The blocks of `vectors` (p, q, r, 2, n) times x (..., q, n), summed over q, in O(p q r n log n)."""
    g, h = vectors.unbind(-2)
    inner = toeplitz_product(wrapped(h, -1), x[..., None, :, None, :], g.shape[-1])  # (..., p, q, r, n)
    spectrum = torch.fft.rfft(g) * torch.fft.rfft(inner)
    y: Tensor = torch.fft.irfft(spectrum.sum((-2, -3)), g.shape[-1])
    return y


def _diagonal_sums(blocks: Tensor, wrap: bool) -> Tensor:
    rows, cols = blocks.shape[-2:]
    place = torch.arange(rows, device=blocks.device)[:, None] - torch.arange(cols, device=blocks.device)
    place = place % rows if wrap else place + cols - 1
    sums = blocks.new_zeros(*blocks.shape[:2], rows if wrap else rows + cols - 1)
    return sums.index_add_(2, place.flatten(), blocks.flatten(2))
