"""Layers that multiply by FFT are the layers that they replace."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from models import Toy
from rarefy import encodings
from rarefy.encodings import Half
from rarefy.export.onnx import Exporter
from rarefy.graph.weights import by_path, weights
from rarefy.layers.fourier import FourierConv2d, FourierLinear
from rarefy.measure import answer
from rarefy.runtime import session
from rarefy.steps import StructureMatrices


def network(bias: bool) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(6, 10, 1, stride=2, bias=bias), nn.ReLU(), nn.Flatten(), nn.Linear(40, 7, bias=bias)
    ).eval()


X = torch.randn(4, 6, 4, 4)


def both(structure: str, bias: bool = True) -> tuple[nn.Module, nn.Module]:
    step = StructureMatrices(structure=structure, block=4, rank=1)
    fast, slow = (step.replace(fourier=f)(network(bias), Toy(X)) for f in (True, False))
    return fast, slow


@pytest.mark.parametrize("structure", ["circulant", "toeplitz", "displacement"])
@pytest.mark.parametrize("bias", [True, False])
def test_same_outputs_and_gradients(structure: str, bias: bool) -> None:
    fast, slow = both(structure, bias)
    assert isinstance(fast[0], FourierConv2d)
    assert isinstance(fast[3], FourierLinear)
    torch.testing.assert_close(fast(X), slow(X), atol=1e-5, rtol=1e-5)
    one, two = (_gradients(model) for model in (fast, slow))
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def _gradients(model: nn.Module) -> list[Tensor]:
    model(X).square().sum().backward()
    return [p.grad for p in model.parameters() if p.grad is not None]


def test_a_further_encoding_of_the_values_counts() -> None:
    fast, slow = both("circulant")
    for model in (fast, slow):
        weight = by_path(model)["3.weight"]
        encodings.encode(weight, [Half("bfloat16"), *encodings.chain(weight)], weight.values)
    torch.testing.assert_close(fast(X), slow(X), atol=1e-5, rtol=1e-5)


def test_exports_copies_and_decodes_as_a_plain_layer() -> None:
    fast, slow = both("circulant")
    got = answer(session(Exporter(fast, X).write(fast).proto.SerializeToString()))(X)
    torch.testing.assert_close(got, slow(X).detach(), atol=1e-5, rtol=1e-5)
    plain = encodings.decoded(copy.deepcopy(fast))
    assert not any(weight.chain for weight in weights(plain))
    torch.testing.assert_close(plain(X), slow(X), atol=1e-5, rtol=1e-5)
