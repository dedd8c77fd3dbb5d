"""Low-rank forms of matrices and convolution kernels: tensor in, tensor out.

A matrix comes as (groups, m, n): one per group of a convolution, all cut at the same rank. Errors are squared Frobenius
norms. With a second moment C = E[x x^T] of what the matrix is multiplied with, (groups, n, n), they are

    ||(W - W_r) C^(1/2)||^2 = E ||W x - W_r x||^2,

the error of the layer's output on data, and the factors are those that minimise it (reduced-rank regression). All
is found from eigendecompositions of the smaller Gram matrix, so that a 25,088 x 4,096 layer takes seconds.
"""

from __future__ import annotations

import torch
from torch import Tensor

_FLOAT64_MOST = 2**34  # multiply-accumulates of a Gram matrix; above, float32 is accurate enough and twice as fast
_LARGE = 2048  # rows of a Gram matrix of which few eigenvectors are found by iteration
_DAMPING = 1e-6  # of the mean eigenvalue, added to second moments: directions that no example has are kept as well


def svd(matrix: Tensor, rank: int, moment: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The best approximation `left @ right` of this rank: (groups, m, rank), (groups, rank, n).

    Both factors carry half of the scale, which is how they train best. Without `moment` it is the truncated SVD.
    """
    work = _precise(matrix)
    if moment is None and matrix.shape[1] > matrix.shape[2]:
        basis = _leading(work.mT @ work, rank)  # (groups, n, rank)
        left, right = work @ basis, basis.mT
    else:
        basis = _output_basis(work, rank, moment)
        left, right = basis, basis.mT @ work
    left, right = balanced(left, right)
    return left.to(matrix.dtype), right.to(matrix.dtype)


def svd_errors(matrix: Tensor, moment: Tensor | None = None) -> Tensor:
    """The squared error that each rank 0 .. min(m, n) causes, summed over the groups: tails of the spectrum."""
    work = _precise(matrix)
    if moment is not None:
        work = work @ _root(moment, work.dtype) if matrix.shape[1] > matrix.shape[2] else work
    if matrix.shape[1] > matrix.shape[2]:
        gram = work.mT @ work
    else:
        gram = work @ (work.mT if moment is None else _damped(moment, work.dtype) @ work.mT)
    squares = torch.linalg.eigvalsh(gram).double().clamp(min=0)  # ascending
    tails = torch.cat([squares.new_zeros(len(squares), 1), squares.cumsum(1)], 1).flip(1)
    return tails.sum(0)


def balanced(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """The same product, where each column of `left` is as long as its row of `right`."""
    one, two = left.norm(dim=-2), right.norm(dim=-1)
    scale = torch.where((one > 0) & (two > 0), (two / one).sqrt(), 1.0)
    return left * scale[..., None, :], right / scale[..., :, None]


def refit(matrix: Tensor, front: Tensor, moment: Tensor) -> Tensor:
    """The `last` that minimises ||(matrix - last @ front) C^(1/2)||: least squares on the data. Shape (groups, m, k).

    front: (groups, k, n), what the factors before the last one make of the layer's input.
    """
    work, front64, c = matrix.double(), front.double(), _damped(moment, torch.float64)
    seen = front64 @ c  # (groups, k, n)
    last: Tensor = (work @ seen.mT) @ torch.linalg.pinv(seen @ front64.mT, hermitian=True, rtol=1e-10)
    return last.to(matrix.dtype)


def spatial_matrix(weight: Tensor, groups: int) -> Tensor:
    """(o, i / groups, kh, kw) -> (groups, o / groups * kw, i / groups * kh): its low rank is a kh x 1 convolution
    and then a 1 x kw one (Jaderberg, Vedaldi, Zisserman 2014)."""
    o, i, kh, kw = weight.shape
    return weight.view(groups, o // groups, i, kh, kw).permute(0, 1, 4, 2, 3).reshape(groups, o // groups * kw, i * kh)


def spatial_moment(moment: Tensor, channels: int, kernel: tuple[int, int]) -> Tensor:
    """The second moment of (channel, row), the mean over the kernel's columns."""
    c = moment.view(-1, channels, *kernel, channels, *kernel)
    return c.diagonal(dim1=3, dim2=6).mean(-1).reshape(len(moment), channels * kernel[0], -1)


def channel_moment(moment: Tensor, channels: int, kernel: tuple[int, int]) -> Tensor:
    """The second moment of the channels alone, the mean over the kernel's positions. (1, channels, channels)."""
    c = moment.view(-1, channels, kernel[0] * kernel[1], channels, kernel[0] * kernel[1])
    return c.diagonal(dim1=2, dim2=4).mean(-1)


def tucker(
    weight: Tensor, ranks: tuple[int, int], moment: Tensor | None = None, sweeps: int = 2
) -> tuple[Tensor, Tensor, Tensor]:
    """Tucker-2 of a kernel (o, i, kh, kw): last (o, r_o), core (r_o, r_i, kh, kw), first (r_i, i).

    ranks: (r_o, r_i). Truncated HOSVD on the two channel modes, then `sweeps` of HOOI (De Lathauwer et al. 2000), each
    of which can only lower the error. moment: of the channels, (1, i, i).
    """
    kernel, root = whitened(weight, moment)
    last, first = _mode_basis(kernel, 0, ranks[0]), _mode_basis(kernel, 1, ranks[1])
    for _ in range(sweeps):
        last = _mode_basis(torch.einsum("oihw,ir->orhw", kernel, first), 0, ranks[0])
        first = _mode_basis(torch.einsum("oihw,or->rihw", kernel, last), 1, ranks[1])
    core = torch.einsum("oihw,or,is->rshw", kernel, last, first)
    unwhitened = torch.linalg.solve(root, first).mT  # first^T C^(-1/2)
    return last.to(weight.dtype), core.to(weight.dtype), unwhitened.to(weight.dtype)


def tucker_errors(weight: Tensor, moment: Tensor | None = None) -> Tensor:
    """The squared error of the truncated HOSVD at every pair of ranks, (o + 1, i + 1): what the rotated kernel holds
    outside its first r_o x r_i channels."""
    kernel, _ = whitened(weight, moment)
    last, first = _mode_basis(kernel, 0, kernel.shape[0]), _mode_basis(kernel, 1, kernel.shape[1])
    energy = torch.einsum("oihw,or,is->rshw", kernel, last, first).square().sum((2, 3))
    kept = torch.nn.functional.pad(energy.cumsum(0).cumsum(1), (1, 0, 1, 0))
    return (kept[-1, -1] - kept).clamp(min=0)


def _precise(matrix: Tensor) -> Tensor:
    work = matrix.shape[1] * matrix.shape[2] * min(matrix.shape[1:])
    return matrix.double() if work <= _FLOAT64_MOST else matrix.float()


def _leading(gram: Tensor, rank: int) -> Tensor:
    """The eigenvectors of the `rank` largest eigenvalues, largest first. (groups, n, rank)."""
    if gram.shape[-1] >= _LARGE and 4 * rank <= gram.shape[-1]:
        return _iterated(gram, rank)
    vectors: Tensor = torch.linalg.eigh(gram).eigenvectors
    return vectors.flip(-1)[..., :rank]


def _iterated(gram: Tensor, rank: int) -> Tensor:
    """As `_leading`, by subspace iteration (Halko, Martinsson, Tropp 2011): ten times as fast for few of many; where
    eigenvalues are so close that it mixes them up, they matter equally."""
    draw = torch.Generator().manual_seed(0)
    basis = torch.randn(*gram.shape[:-1], rank + 32, generator=draw).to(gram)
    for _ in range(8):
        basis = torch.linalg.qr(gram @ basis).Q
    rotation: Tensor = torch.linalg.eigh(basis.mT @ gram @ basis).eigenvectors
    return basis @ rotation.flip(-1)[..., :rank]


def _output_basis(work: Tensor, rank: int, moment: Tensor | None) -> Tensor:
    """An orthonormal basis of the outputs that matter most; W_r = U U^T W is optimal for it."""
    if moment is None:
        return _leading(work @ work.mT, rank)
    if work.shape[1] <= work.shape[2]:
        return _leading(work @ _damped(moment, work.dtype) @ work.mT, rank)
    seen = work @ _root(moment, work.dtype)  # (groups, m, n) with n < m
    basis: Tensor = torch.linalg.qr(seen @ _leading(seen.mT @ seen, rank)).Q
    return basis


def _damped(moment: Tensor, dtype: torch.dtype) -> Tensor:
    mean = moment.diagonal(dim1=-2, dim2=-1).mean(-1).to(dtype)[:, None, None]
    eye = torch.eye(moment.shape[-1], dtype=dtype, device=moment.device)
    damping = torch.where(mean > 0, _DAMPING * mean, 1.0)
    return moment.to(dtype) + damping * eye


def _root(moment: Tensor, dtype: torch.dtype) -> Tensor:
    """C^(1/2), symmetric."""
    values, vectors = torch.linalg.eigh(_damped(moment, dtype))
    least = values[..., -1:] * torch.finfo(dtype).eps
    root: Tensor = (vectors * values.clamp(min=least).sqrt()[..., None, :]) @ vectors.mT
    return root


def whitened(weight: Tensor, moment: Tensor | None) -> tuple[Tensor, Tensor]:
    """The kernel seen by uncorrelated channels, float64, and the root that makes it so."""
    kernel = weight.double()
    if moment is None:
        return kernel, torch.eye(weight.shape[1], dtype=torch.float64, device=weight.device)
    root = _root(moment, torch.float64)[0]
    return torch.einsum("oihw,ij->ojhw", kernel, root), root


def _mode_basis(kernel: Tensor, mode: int, rank: int) -> Tensor:
    flat = kernel.movedim(mode, 0).flatten(1)
    return _leading((flat @ flat.mT)[None], rank)[0]
