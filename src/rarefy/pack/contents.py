"""Where the bytes of a pack are."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TensorEntry:
    """One tensor of a pack.

    `dtype` is ONNX's name of it, `symbols` the number of elements that were coded, `bytes` what the tensor
    costs in the file: 0 for small ones that stay in the graph (coding "graph").
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    coding: str
    bytes: int
    symbols: int


@dataclass(frozen=True)
class Contents:
    """`total` bytes of file = `graph`, all that belongs to no tensor, + the sum of the tensors' bytes."""

    total: int
    graph: int
    tensors: tuple[TensorEntry, ...]
