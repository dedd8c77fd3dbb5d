"""Shared values: how many, which, and where they pay."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from models import CASES, Toy
from rarefy import encodings
from rarefy.errors import SettingsError, StepError
from rarefy.graph.weights import by_path
from rarefy.step import Context
from rarefy.steps import ClusterWeights, Half, PruneWeights

TASK = Toy(torch.zeros(2, 40))


def linear(seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(40, 30)


def codebook(model: nn.Module, path: str = "weight") -> encodings.Codebook:
    link = encodings.find(by_path(model)[path], encodings.Codebook)
    assert isinstance(link, encodings.Codebook)
    return link


@pytest.mark.parametrize("init", ["optimal", "linear", "density", "random"])
@pytest.mark.parametrize("bits", [1, 3, 4])
def test_every_start(init: str, bits: int) -> None:
    model = linear()
    result = ClusterWeights(bits=bits, init=init)(model, TASK)
    used = result.weight.unique()
    assert len(used) <= 2**bits == codebook(result).k
    best = ClusterWeights(bits=bits)(model, TASK)
    loss, least = ((m.weight - model.weight).double().square().sum() for m in (result, best))
    assert least <= loss * 1.001
    nearest = (model.weight[..., None] - used).abs().min(-1).values
    assert torch.allclose((result.weight - model.weight).abs(), nearest, atol=2e-3)


@pytest.mark.parametrize("zero", [False, True])
def test_more_values_than_there_are(zero: bool) -> None:
    model = linear()
    with torch.no_grad():
        model.weight.copy_(torch.randint(1, 4, (30, 40)) / 4)
    pruned = PruneWeights(sparsity=0.5)(model, TASK) if zero else model
    result = ClusterWeights(k=16)(pruned, TASK)
    assert torch.equal(result.weight, pruned.weight)
    assert encodings.stored(by_path(result)["weight"]).shape == (16,)


def test_zero_is_pinned_where_zeros_are_held_and_only_there() -> None:
    model = linear()
    pruned = ClusterWeights(bits=4)(PruneWeights(sparsity=0.9)(model, TASK), TASK)
    assert codebook(pruned).zero
    assert int((pruned.weight == 0).sum()) == 1080
    assert encodings.stored(by_path(pruned)["weight"])[0] == 0
    assert (encodings.stored(by_path(pruned)["weight"])[1:] != 0).all()
    by_chance = linear()
    with torch.no_grad():
        by_chance.weight[:10] = 0
    assert not codebook(ClusterWeights(bits=4)(by_chance, TASK)).zero


def test_sizes_and_reasons() -> None:
    model = nn.Sequential(linear(), nn.Linear(30, 30), nn.Linear(30, 2))
    step = ClusterWeights(bits=8, layers={"1": {"k": 5}, "*": {"bits": 4}}, skip=("2.bias",))
    plan = step.plan(model, Context(task=TASK))
    assert {path: done["k"] for path, done in plan.do.items()} == {"0.weight": 16, "1.weight": 5, "2.weight": 16}
    assert plan.notes["1.weight"] == "5 shared values"
    assert plan.leave["2.bias"] == "skipped, as set"
    assert plan.leave["0.bias"] == "one-dimensional (bias or normalisation), 30 values"
    large = ClusterWeights(bits=6).plan(model, Context(task=TASK))
    assert large.leave["2.weight"] == "a codebook of 64 would be larger than its 60 values"
    assert "0.bias" in ClusterWeights(bits=2, biases=True).plan(model, Context(task=TASK)).do
    with pytest.raises(StepError, match=r"^ClusterWeights found no weight to share \(weight: a codebook of 256 would"):
        ClusterWeights(bits=8)(nn.Linear(9, 9), TASK)


def test_stays_in_the_sixteen_bits_that_it_was_in() -> None:
    result = ClusterWeights(bits=4)(Half()(linear(), TASK), TASK)
    weight = by_path(result)["weight"]
    assert [type(link) for link in encodings.chain(weight)] == [encodings.Half, encodings.Codebook]
    assert encodings.stored_bits(weight) == 16 * 16 + 1200 * 4


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({}, "give either bits or k"),
        ({"bits": 4, "k": 16}, "give either bits or k"),
        ({"bits": 17}, r"ClusterWeights\.bits: Input should be less than or equal to 16, not 17"),
        ({"k": 1}, r"ClusterWeights\.k: Input should be greater than or equal to 2, not 1"),
        ({"bits": 4, "init": "best"}, r"ClusterWeights\.init: Input should be 'optimal', 'linear', .* not 'best'"),
    ],
)
def test_settings(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        ClusterWeights(**wrong)


class Uneven(Toy):
    """Half of the inputs hardly matter."""

    def __init__(self, seed: int) -> None:
        scale = torch.cat([torch.full((20,), 0.05), torch.full((20,), 2.0)])
        self.inputs = torch.randn(200, 40, generator=torch.Generator().manual_seed(seed)) * scale


def test_for_the_output_weights_count_by_their_inputs() -> None:
    model, held_out = linear(), Uneven(1).inputs
    step = ClusterWeights(bits=3)
    by_weight, by_output = (step.replace(objective=o)(model, Uneven(0)) for o in ("weight", "output"))
    errors = [float((m(held_out) - model(held_out)).detach().square().sum()) for m in (by_weight, by_output)]
    assert errors[1] < 0.98 * errors[0]
    assert torch.equal(ClusterWeights(bits=3)(model, Uneven(0)).weight, ClusterWeights(bits=3)(model, TASK).weight)


def test_convolutions_in_groups_count_by_their_own_inputs() -> None:
    model, task = CASES["shuffle"].model(), CASES["shuffle"].task()
    step = ClusterWeights(k=4, objective="output")
    plan = step.plan(model, Context(task=task))
    assert plan.do["grouped.0.weight"] == {"k": 4, "zero": False, "inputs": ["grouped.0"]}
    assert plan.notes["grouped.0.weight"] == "4 shared values, for the output"
    assert step(model, task).get_submodule("grouped.0").weight.shape == (8, 2, 3, 3)


def test_what_no_layer_multiplies_with_is_said() -> None:
    case = CASES["tied"]
    plan = ClusterWeights(k=4, objective="output").plan(case.model(), Context(task=case.task()))
    assert plan.do["embedding.weight"]["inputs"] == []
    assert plan.notes["embedding.weight"].startswith("4 shared values, for the weights: it is not that of Linear")


@pytest.mark.parametrize(("pruned", "rate"), [(False, 0.047), (True, 0.015)])
def test_a_rate_saves_more_bits_than_fewer_values_do(pruned: bool, rate: float) -> None:
    torch.manual_seed(0)
    model: nn.Module = nn.Linear(400, 300)
    nn.init.normal_(model.get_parameter("weight"))
    model = PruneWeights(sparsity=0.6)(model, TASK) if pruned else model
    plain, rated = ClusterWeights(bits=3)(model, TASK), ClusterWeights(bits=6, rate=rate)(model, TASK)
    assert entropy(rated) < entropy(plain)
    losses = [float((m.weight - model.weight).detach().square().sum()) for m in (plain, rated)]
    assert losses[1] < losses[0]
    assert codebook(rated).zero is pruned
    assert not pruned or torch.equal(rated.weight == 0, model.weight == 0)


def entropy(model: nn.Module) -> float:
    share = torch.bincount(codebook(model).indices.flatten().int()).double()
    share = share[share > 0] / share.sum()
    return float(-(share * share.log2()).sum())
