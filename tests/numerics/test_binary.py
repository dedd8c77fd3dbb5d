"""Signs, levels and bits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from rarefy.kernels import pack_bits
from rarefy.numerics import binary

FLOATS = st.floats(-100, 100, width=32)


def test_signs_and_their_gradients() -> None:
    x = torch.tensor([-2.0, -1.0, -0.5, -0.0, 0.0, 0.5, 1.0, 2.0], requires_grad=True)
    y = binary.signs(x)
    assert y.tolist() == [-1, -1, -1, 1, 1, 1, 1, 1]
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 1, 1, 1, 1, 1, 1, 0]
    x.grad = None
    binary.signs(x, "polynomial").sum().backward()
    assert x.grad.tolist() == [0, 0, 1, 2, 2, 1, 0, 0]
    with torch.no_grad():
        assert torch.equal(binary.signs(x), y)
    assert binary.sign(torch.tensor([1.0], dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_levels_round_half_to_even_and_pass_the_gradient_inside() -> None:
    x = torch.tensor([-1.0, 0.1, 0.125, 0.375, 0.6, 0.75, 3.0], requires_grad=True)
    y = binary.levels(x, 2, torch.tensor(4.0))
    assert y.tolist() == [0, 0, 0, 2, 2, 3, 3]
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 4, 4, 4, 4, 4, 0]
    with torch.no_grad():
        assert torch.equal(binary.levels(x, 2, torch.tensor(4.0)), y)


def test_ternary_by_filter() -> None:
    weight = torch.tensor([[1.0, -1.0, 0.1, 0.0], [10.0, 0.0, 0.0, -6.0], [0.0, 0.0, 0.0, 0.0]])
    assert binary.ternary(weight).tolist() == [[1, -1, 0, 0], [1, 0, 0, -1], [0, 0, 0, 0]]


@pytest.mark.parametrize("shape", [(3, 8), (2, 5, 3, 3), (1, 1), (7, 17)])
def test_bits_are_those_of_the_kernels(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    weight = torch.randn(shape)
    assert np.array_equal(binary.pack(weight >= 0).numpy(), pack_bits(weight.numpy()))


@given(FLOATS, FLOATS, FLOATS, st.floats(2**-10, 100, width=32), st.lists(FLOATS, min_size=1))
@example(0.0, 1.0, 0.0, 1.0, [0.0, -5.0])
@example(0.0, -1.0, 0.0, 1.0, [0.0, 5.0])
@example(-1.0, 1.0, 0.0, 1.0, [1.0])
@example(1.0, -1.0, 0.0, 1.0, [1.0])
def test_a_threshold_is_the_batchnorm(gamma: float, beta: float, mean: float, std: float, more: list[float]) -> None:
    t, flip = binary.threshold(*(torch.tensor([v]) for v in (gamma, beta, mean, std)))
    with np.errstate(over="ignore"):  # beyond the largest float comes infinity
        near = [float(np.nextafter(np.float32(t.item()), np.float32(d))) for d in (-np.inf, np.inf)]
    x = torch.tensor([*more, *near, float(t)])
    x = x[x.isfinite()]
    exact = mean - beta * std / gamma if gamma else 0.0  # the comparison without the rounding of the BatchNorm itself
    above = x.double() >= exact if gamma > 0 else x.double() <= exact if gamma < 0 else torch.tensor(beta >= 0)
    wanted = torch.where(above, 1.0, -1.0)
    got = binary.sign(x - t) if gamma else torch.where(x >= t, 1.0, -1.0)
    assert torch.equal(-got if flip else got, wanted.expand(got.shape))
