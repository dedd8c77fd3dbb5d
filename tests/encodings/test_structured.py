"""Structured encodings: decoded, multiplied, stored, written."""

from __future__ import annotations

from functools import cache

import onnx
import pytest
import torch
from torch import Tensor, nn

from models import Toy
from rarefy import encodings
from rarefy.encodings import Circulant, Codebook, Displacement, Encoding, Half, Structured, Toeplitz
from rarefy.export.onnx import Exporter
from rarefy.files import model_tensors
from rarefy.graph.weights import by_path
from rarefy.measure import answer
from rarefy.runtime import session

SHAPES = [(12, 8), (10, 7), (5, 9, 1, 1)]


def made(kind: str, weight: Tensor) -> tuple[Structured, Tensor]:
    if kind == "displacement":
        return Displacement.of(weight, 4, 1)
    return {"circulant": Circulant, "toeplitz": Toeplitz}[kind].of(weight, 4)


by_kind = pytest.mark.parametrize("kind", ["circulant", "toeplitz", "displacement"])


@by_kind
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_product_is_that_of_the_matrix(kind: str, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    link, values = made(kind, torch.randn(shape))
    assert tuple(values.shape) == link.size
    weight = link(values)
    assert weight.shape == shape
    x = torch.randn(2, 3, shape[1])
    torch.testing.assert_close(link.product(values, x), x @ weight.flatten(1).T, atol=1e-5, rtol=1e-5)


@by_kind
def test_projection_of_what_has_the_structure_is_exact(kind: str) -> None:
    link, values = made(kind, torch.randn(12, 8))
    torch.testing.assert_close(link(link.project(link(values))), link(values), atol=1e-5, rtol=1e-5)


def test_circulant_by_hand() -> None:
    link = Circulant((2, 4), 2, 2)
    assert link(torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])).tolist() == [[1, 2, 3, 4], [2, 1, 4, 3]]
    assert link.describe() == "circulant blocks of 2"


def inputs() -> Tensor:
    return torch.randn(4, 6, 3, 3, generator=torch.Generator().manual_seed(1))


@cache
def exporter() -> Exporter:
    return Exporter(network(), inputs())


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(6, 10, 1), nn.ReLU(), nn.Flatten(), nn.Linear(90, 7)).eval()


@by_kind
@pytest.mark.parametrize("more", ["alone", "half", "codebook"])
def test_file(kind: str, more: str) -> None:
    """The file holds the values and computes the rest; alone or with another encoding of the values."""
    model = network()
    for path in ("0.weight", "3.weight"):
        weight = by_path(model)[path]
        link, values = made(kind, weight.tensor.detach())
        links: list[Encoding] = [link]
        if more == "half":
            links = [Half(), link]
        elif more == "codebook":
            book, values = Codebook.of(torch.randint(0, 5, link.size), torch.randn(5))
            links = [book, link]
        encodings.encode(weight, links, values)
        said = encodings.stored_bits(weight)
        assert said < 32 * weight.tensor.numel()
    proto, x = exporter().write(model).proto, inputs()
    onnx.checker.check_model(proto, full_check=True)
    held = {t.name: t for t in proto.graph.initializer}
    assert not [n for n in held if n in ("0.weight", "3.weight")]
    floats = sum(len(t.raw_data) for t in held.values() if t.data_type == onnx.TensorProto.FLOAT)
    if more == "alone":
        sizes = sum(encodings.stored(by_path(model)[p]).numel() for p in ("0.weight", "3.weight"))
        assert floats == 4 * (sizes + 10 + 7)
    for optimise in (True, False):
        got = answer(session(proto.SerializeToString(), optimise=optimise))(x)
        assert (got - model(x)).abs().max() <= 1e-6 * max(1.0, float(model(x).detach().abs().max()))


@by_kind
def test_trains_in_a_plain_loop_and_decodes(kind: str) -> None:
    model, task = network(), Toy(torch.randn(4, 6, 3, 3))
    weight = by_path(model)["3.weight"]
    link, values = made(kind, weight.tensor.detach())
    encodings.encode(weight, [link], values)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = task.loss(model(task.inputs), None)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.2 * losses[0]
    y = model(task.inputs)
    assert "3.weight" in model_tensors(encodings.decoded(model))
    assert torch.equal(model(task.inputs), y)
