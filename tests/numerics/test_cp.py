"""CP of kernels: exact where it can be, never worse for more, never NaN."""

from __future__ import annotations

import pytest
import torch

from rarefy.numerics.cp import cp, cp_error, cp_errors, cp_kernel


def test_a_sum_of_rank_one_kernels_is_found() -> None:
    draw = torch.Generator().manual_seed(0)
    factors = [torch.randn(side, 3, generator=draw, dtype=torch.float64) for side in (8, 7, 3, 5)]
    kernel = cp_kernel(factors)
    found = cp(kernel, 3)
    assert float((cp_kernel(found) - kernel).norm()) < 0.02 * float(kernel.norm())
    norms = torch.stack([f.norm(dim=0) for f in found])
    torch.testing.assert_close(norms, norms[:1].expand(4, -1))


def test_the_error_is_the_error_and_falls() -> None:
    kernel = torch.randn(8, 6, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ranks = [1, 2, 4, 8, 16, 54]
    errors = cp_errors(kernel, ranks)
    assert errors.tolist() == sorted(errors.tolist(), reverse=True)
    assert float(errors[-1]) < 1e-3 * float(kernel.square().sum())
    found = cp(kernel, 4)
    assert float(cp_error(kernel, found)) == pytest.approx(float((kernel - cp_kernel(found)).square().sum()))


@pytest.mark.parametrize("scale", [0.0, 1e-20, 1e15])
def test_any_finite_kernel_gives_finite_factors(scale: float) -> None:
    kernel = scale * torch.randn(5, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    kernel[:, 0] = 0
    assert all(bool(f.isfinite().all()) for f in cp(kernel, 12))
    assert torch.equal(cp(kernel, 3)[0], cp(kernel, 3)[0])
