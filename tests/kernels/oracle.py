"""What the kernels have to give, from a float64 convolution."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

from rarefy.kernels import Convolution

Array = np.ndarray[Any, np.dtype[Any]]


def activations(x: Array, how: Convolution) -> Array:
    if how.bits == 0:
        return np.where(x >= 0, 1.0, -1.0)
    scaled = (x * np.float32(how.steps)).astype(np.float64)  # the one product is rounded to float32
    return np.rint(np.clip(scaled, 0, 2**how.bits - 1))


def sums(x: Array, weight: Array, how: Convolution) -> Array:
    """sum(weight * activation), in float64."""
    top, left, bottom, right = how.padding
    padded = np.pad(activations(x, how), ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=how.pad_value)
    signs = torch.from_numpy(np.where(weight >= 0, 1.0, -1.0))
    return np.asarray(
        torch.nn.functional.conv2d(torch.from_numpy(padded), signs, stride=how.stride, dilation=how.dilation)
    )


def magnitudes(x: Array, shape: tuple[int, ...], how: Convolution) -> Array:
    top, left, bottom, right = how.padding
    padded = np.pad(np.abs(x.astype(np.float64)), ((0, 0), (0, 0), (top, bottom), (left, right)))
    ones = torch.full((1, *shape[1:]), 1 / np.prod(shape[1:]), dtype=torch.float64)
    return np.asarray(
        torch.nn.functional.conv2d(torch.from_numpy(padded), ones, stride=how.stride, dilation=how.dilation)
    )


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...], Convolution, int]:
    """Shape of the filters, shape of x, geometry, seed."""
    size = st.integers(1, 4)
    bits = draw(st.integers(0, 4))
    how = Convolution(
        stride=(draw(st.integers(1, 3)), draw(st.integers(1, 3))),
        padding=(draw(st.integers(0, 4)), draw(st.integers(0, 4)), draw(st.integers(0, 4)), draw(st.integers(0, 4))),
        dilation=(draw(st.integers(1, 3)), draw(st.integers(1, 3))),
        pad_value=0 if bits else draw(st.integers(-1, 1)),
        bits=bits,
        steps=draw(st.sampled_from([1.0, 3.0, 0.7])),
        map=draw(st.booleans()) and not bits,
    )
    channels = draw(st.one_of(st.integers(1, 70), st.sampled_from([31, 32, 33, 64, 128, 300])))
    filters = draw(st.one_of(st.integers(1, 20), st.sampled_from([63, 64, 65, 100, 130])))
    rows, columns = draw(size), draw(size)
    least = [
        max(1, (k - 1) * d + 1 - a - b)
        for k, d, a, b in (
            (rows, how.dilation[0], how.padding[0], how.padding[2]),
            (columns, how.dilation[1], how.padding[1], how.padding[3]),
        )
    ]
    height, width = least[0] + draw(st.integers(0, 12)), least[1] + draw(st.integers(0, 12))
    shape = (filters, channels, rows, columns)
    return shape, (draw(st.integers(0, 3)), channels, height, width), how, draw(st.integers(0, 2**32 - 1))


def drawn(shape: tuple[int, ...], x_shape: tuple[int, ...], seed: int) -> tuple[Array, Array, Array, Array]:
    """Weight, x (with zeros of both signs), scale, bias."""
    random = np.random.default_rng(seed)
    x = random.standard_normal(x_shape).astype(np.float32)
    x[random.random(x_shape) < 0.1] *= 0.0
    scale, bias = random.standard_normal((2, shape[0])).astype(np.float32)
    return random.standard_normal(shape), x, scale, bias
