"""Which layers, which blocks, and what is left."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from torch import nn

from models import CASES, Toy
from rarefy import encodings
from rarefy.encodings import Circulant, Displacement, Toeplitz
from rarefy.errors import SettingsError, StepError
from rarefy.graph.weights import by_path, weights
from rarefy.layers.fourier import FourierLinear
from rarefy.step import Context, Plan
from rarefy.steps import ClusterWeights, Half, PruneWeights, StructureMatrices
from rarefy.task import Task

TASK = Toy(torch.zeros(2, 24))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 5)).eval()


def plan(step: StructureMatrices, model: nn.Module | None = None) -> Plan:
    return step.plan(model or network(), Context(task=TASK))


@pytest.mark.parametrize(
    ("structure", "kind", "values"),
    [
        ("circulant", Circulant, 2 * 3 * 8),
        ("toeplitz", Toeplitz, 2 * 3 * 15),
        ("displacement", Displacement, 6 * 4 * 8),
    ],
)
def test_each_structure(structure: str, kind: type, values: int) -> None:
    model = StructureMatrices(structure=structure, block=8, skip=("2",))(network(), TASK)
    weight = by_path(model)["0.weight"]
    assert encodings.find(weight, kind)
    assert weight.values.numel() == values
    assert weight.tensor.shape == (16, 24)


def test_projection_is_nearest() -> None:
    before = network()[0].weight.detach()
    after = StructureMatrices(block=8)(network(), TASK)[0].weight.detach()
    assert (after - before).norm() < before.norm()
    torch.testing.assert_close(((after - before) * after).sum(), torch.tensor(0.0), atol=1e-4, rtol=0)  # orthogonal


def test_blocks_fit_and_may_differ() -> None:
    found = plan(StructureMatrices(layers={"0": 4}))
    assert found.do["0.weight"] == {"structure": "circulant", "block": 4, "fourier": False}
    assert found.do["2.weight"]["block"] == 5
    assert found.notes["0.weight"] == "circulant blocks of 4: 4.0x fewer values"
    assert plan(StructureMatrices(structure="displacement", rank=1)).do["0.weight"]["rank"] == 1


def test_what_saves_nothing_is_left() -> None:
    found = plan(StructureMatrices(structure="displacement", rank=4, block=16, layers={"0": 24}))
    assert found.do.keys() == {"0.weight"}
    assert found.leave["2.weight"] == "its structure would take 160 values instead of 80"


def test_large_layers_multiply_by_fft() -> None:
    model = nn.Sequential(nn.Linear(1024, 1024), nn.Linear(1024, 1000, bias=False))
    found = StructureMatrices().plan(model, Context(task=TASK))
    assert [d["fourier"] for d in found.do.values()] == [True, False]
    assert found.notes["0.weight"] == "circulant blocks of 64: 64.0x fewer values, FFT"
    assert not any(d["fourier"] for d in plan(StructureMatrices(structure="toeplitz"), model).do.values())
    assert isinstance(StructureMatrices()(model, TASK)[0], FourierLinear)


def test_other_layers_are_left_with_the_reason() -> None:
    def left(name: str, path: str) -> str:
        return plan(StructureMatrices(), CASES[name].model()).leave[path]

    assert left("plain", "0.0.weight") == "part of Conv2d, which is not a Linear or 1x1 Conv2d of one group"
    assert left("tied", "embedding.weight").startswith("part of Embedding")
    assert "expand.0.weight" in plan(StructureMatrices(), CASES["inverted"].model()).do
    with pytest.raises(StepError, match=r"codebook of 4 already: put StructureMatrices before"):
        plan(StructureMatrices(), ClusterWeights(bits=2)(network(), TASK))


def test_a_blank_context_builds_the_structure() -> None:
    step = StructureMatrices(block=8)
    found = plan(step)
    empty = step.apply(network(), found, Context(task=cast(Task, None), blank=True))
    full = step.apply(network(), found, Context(task=TASK))
    empty.load_state_dict(full.state_dict())
    assert torch.equal(empty(torch.ones(1, 24)), full(torch.ones(1, 24)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"structure": "hankel"}, r"StructureMatrices\.structure: "),
        ({"block": 1}, r"StructureMatrices\.block: "),
        ({"layers": {"0": 1}}, r"a block has at least 2 rows"),
        ({"structure": "displacement", "block": 2048}, r"displacement blocks have at most 1024 rows, not 2048"),
    ],
)
def test_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        StructureMatrices(**settings)


def test_later_steps_work_on_the_values_of_a_structure() -> None:
    torch.manual_seed(0)
    model, task = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32)).eval(), Toy(torch.randn(4, 64))
    structured = StructureMatrices(block=8)(model, task)
    shared = Half()(ClusterWeights(bits=3)(structured, task), task)
    for before, weight in zip(weights(structured), weights(shared), strict=True):
        if weight.tensor.ndim > 1:
            assert [type(link).__name__ for link in encodings.chain(weight)] == ["Half", "Codebook", "Circulant"]
            assert encodings.stored_bits(weight) < encodings.stored_bits(before) / 4
            assert len(weight.tensor.unique()) <= 8
    with pytest.raises(StepError, match=r"PruneWeights found no"):
        PruneWeights(sparsity=0.5)(structured, task)
