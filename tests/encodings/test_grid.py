"""Integers whose steps are powers of a quarter of an octave."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from decoding import decoded
from rarefy import encodings
from rarefy.encodings import Grid
from rarefy.graph.weights import by_path

ROWS = torch.tensor([-9, -8, -12, -10, -9])[:, None]
COLUMNS = torch.tensor([0, 3, -2, 1])[None]
by_columns = pytest.mark.parametrize("columns", [None, COLUMNS], ids=["rows", "rows and columns"])


def made(columns: torch.Tensor | None) -> nn.Linear:
    torch.manual_seed(0)
    layer = nn.Linear(4, 5)
    encodings.encode(by_path(layer)["weight"], [Grid(ROWS, 8, columns)], layer.weight)
    return layer


@by_columns
def test_is_integers_times_steps(columns: torch.Tensor | None) -> None:
    layer, plain = made(columns), made(columns)
    exponents = ROWS + (0 if columns is None else columns)
    steps = 2.0 ** (exponents.double() / 4)
    integers = encodings.stored(by_path(layer)["weight"])
    assert integers.dtype == torch.int8
    torch.testing.assert_close(layer.weight.double(), integers.double() * steps, rtol=1e-6, atol=0)
    values = plain.parametrizations["weight"].original.double()
    assert bool(((integers - values / steps).abs() <= 0.5001).all())


@by_columns
def test_onnx_computes_the_same(columns: torch.Tensor | None) -> None:
    layer = made(columns)
    np.testing.assert_allclose(decoded(layer)[0], layer.weight.detach().numpy(), rtol=1e-6)


@pytest.mark.parametrize("dim", [0, 1])
def test_what_is_cut_keeps_its_steps(dim: int) -> None:
    layer, positions = made(COLUMNS), torch.tensor([0, 2, 3])
    wanted = layer.weight.detach().index_select(dim, positions)
    encodings.cut(by_path(layer)["weight"], dim, positions)
    assert torch.equal(layer.weight, wanted)


def test_says_and_counts_what_it_stores() -> None:
    assert Grid(ROWS, 8, COLUMNS).describe() == "8-bit integers, a step per row and column"
    assert Grid(ROWS).describe() == "8-bit integers, a step per row"
    assert Grid(ROWS, 8, COLUMNS).tensors() == [(5, 16), (4, 16), (1, 32)]
