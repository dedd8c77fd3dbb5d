"""Shared vectors against plain float64 indexing, in torch and in ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from rarefy import encodings
from rarefy.encodings import Half, ProductCodebook
from rarefy.export.writer import ModelWriter
from rarefy.graph.weights import weights
from rarefy.numerics.subvectors import Subvectors
from rarefy.runtime import session

SHAPES: list[tuple[tuple[int, ...], int, Any]] = [
    ((6, 10), 4, "channels"),
    ((4, 6, 3, 3), 4, "channels"),
    ((4, 6, 3, 3), 18, "kernels"),
    ((5, 3, 7), 5, "kernels"),
    ((7, 1), 1, "channels"),
]
BOOKS = pytest.mark.parametrize(("stages", "books"), [(1, False), (1, True), (3, False), (2, True)])


def coded(shape: tuple[int, ...], length: int, by: Any, stages: int, own: bool, k: int = 9) -> tuple[nn.Module, Tensor]:
    """A layer with a weight of random books and codes, and that weight by plain indexing."""
    torch.manual_seed(0)
    cut = Subvectors.near(shape, length, by)
    books = cut.count if own else 1
    indices, values = torch.randint(0, k, (stages, shape[0], cut.count)), torch.randn(stages, books, k, cut.length)
    module = nn.Module()
    module.weight = nn.Parameter(torch.zeros(shape))
    encodings.encode(weights(module)[0], [ProductCodebook(indices, cut, k, books)], values)
    vectors = torch.zeros(shape[0], cut.count, cut.length, dtype=torch.float64)
    for t in range(stages):
        for s in range(cut.count):
            vectors[:, s] += values[t, s if own else 0].double()[indices[t, :, s]]
    return module, cut.joined(vectors)


@pytest.mark.parametrize(("shape", "length", "by"), SHAPES)
@BOOKS
def test_looks_up_and_adds(shape: tuple[int, ...], length: int, by: Any, stages: int, books: bool) -> None:
    module, wanted = coded(shape, length, by, stages, books)
    (weight,) = weights(module)
    assert torch.allclose(weight.tensor.double(), wanted, atol=1e-6)
    assert weight.tensor.is_contiguous()
    (link,) = encodings.chain(weight)
    assert isinstance(link, ProductCodebook)
    assert encodings.stored_bits(weight) == weight.values.numel() * 32 + link.indices.numel() * 4


@pytest.mark.parametrize(("shape", "length", "by"), SHAPES)
@BOOKS
def test_is_decoded_by_standard_operators(
    shape: tuple[int, ...], length: int, by: Any, stages: int, books: bool
) -> None:
    k, half = {(1, False): (3, False), (1, True): (9, True), (3, False): (200, False), (2, True): (300, True)}[
        stages, books
    ]
    module, _ = coded(shape, length, by, stages, books, k)
    (weight,) = weights(module)
    if half:
        encodings.encode(weight, [Half(), *encodings.chain(weight)], weight.values)
    graph = helper.make_graph([], "g", [], [helper.make_tensor_value_info("w", TensorProto.FLOAT, shape)])
    writer = ModelWriter(graph)
    writer.weight("w", weight)
    writer.finish()
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    stored = sum(len(tensor.raw_data) for tensor in graph.initializer)
    indices = encodings.chain(weight)[-1].indices.numel()  # type: ignore[union-attr, operator]
    assert stored == weight.values.numel() * (2 if half else 4) + -(
        -indices * (4 if k <= 16 else 8 if k <= 256 else 16) // 8
    )
    for optimise in (True, False):
        found = session(model.SerializeToString(), optimise=optimise)()
        assert np.allclose(found, weight.tensor.detach().numpy(), atol=1e-6)


@BOOKS
def test_gradient_is_that_of_plain_indexing(stages: int, books: bool) -> None:
    module, _ = coded((4, 6, 3, 3), 4, "channels", stages, books)
    (weight,) = weights(module)
    (link,), down = encodings.chain(weight), torch.randn(4, 6, 3, 3)
    assert isinstance(link, ProductCodebook)
    weight.tensor.backward(down)
    wanted, pieces = torch.zeros_like(weight.values).double(), link.subvectors.cut(down).double()
    for t in range(stages):
        for s in range(link.subvectors.count):
            wanted[t, s if books else 0].index_add_(0, link.indices[t, :, s].long(), pieces[:, s])
    assert weight.values.grad is not None
    assert torch.allclose(weight.values.grad.double(), wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("stages", "books", "words"),
    [
        (1, False, "product codebook of 9 vectors of 4"),
        (1, True, "product codebook of 9 vectors of 4, 8 of them"),
        (2, False, "sum of 2 codebooks of 9 vectors of 4"),
    ],
)
def test_in_words(stages: int, books: bool, words: str) -> None:
    assert encodings.describe(weights(coded((3, 32), 4, "channels", stages, books)[0])[0]) == words


@pytest.mark.parametrize(("k", "bits"), [(2, 1), (9, 4), (16, 4), (17, 5), (256, 8), (257, 9)])
def test_bits_of_a_code(k: int, bits: int) -> None:
    link = ProductCodebook(torch.tensor([[[k - 1, 0, 1]]]), Subvectors((1, 6), 2), k)
    assert link.tensors() == [(3, bits)]
    assert link.indices.dtype == (torch.uint8 if k <= 256 else torch.int32)
    assert not link.cuttable
    assert link.zeros() is None
