"""Exact counts, whatever the amount is given as."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from models import CASES, Toy
from rarefy import encodings
from rarefy.errors import SettingsError
from rarefy.graph.weights import by_path, weights
from rarefy.step import Context
from rarefy.steps import ClusterWeights, PruneWeights
from rarefy.steps.prune_weights import Amount

TASK = Toy(torch.zeros(2, 10))


def layers(*tensors: Tensor) -> nn.Sequential:
    model = nn.Sequential(*(nn.Linear(t.shape[1], t.shape[0], bias=False) for t in tensors))
    for layer, tensor in zip(model, tensors, strict=True):
        layer.weight = nn.Parameter(tensor.clone())
    return model


def zeros(model: nn.Module) -> list[int]:
    return [int((w.tensor == 0).sum()) for w in weights(model) if w.tensor.ndim > 1]


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("score", ["magnitude", "random"])
def test_a_layer_loses_exactly_its_share(share: float, score: str) -> None:
    torch.manual_seed(0)
    model = layers(torch.randn(37, 41), torch.randn(5, 37), torch.randn(1, 5))
    pruned = PruneWeights(sparsity=share, score=score)(model, TASK)
    assert zeros(pruned) == [min(round(share * n), n - 1) for n in (37 * 41, 185, 5)]
    if score == "magnitude":
        for before, after in zip(weights(model), weights(pruned), strict=True):
            gone = after.tensor == 0
            assert not gone.any() or before.tensor[gone].abs().max() <= before.tensor[~gone].abs().min()
            assert torch.equal(after.tensor[~gone], before.tensor[~gone])


def test_ties_are_broken_by_place() -> None:
    pruned = PruneWeights(sparsity=0.5)(layers(torch.ones(4, 5)), TASK)
    assert pruned[0].weight.flatten().tolist() == [0] * 10 + [1] * 10


def test_global_finds_one_threshold() -> None:
    torch.manual_seed(0)
    one, two = torch.randn(30, 20), 10 * torch.randn(10, 30)
    pruned = PruneWeights(sparsity=0.6, scope="global")(layers(one, two), TASK)
    every = torch.cat([one.flatten(), two.flatten()]).abs()
    limit = every.sort().values[round(0.6 * 900) - 1]
    assert zeros(pruned) == [int((one.abs() <= limit).sum()), int((two.abs() <= limit).sum())]
    assert sum(zeros(pruned)) == 540


def test_global_leaves_one_weight_of_a_small_layer() -> None:
    pruned = PruneWeights(sparsity=0.9, scope="global")(layers(1e-3 * torch.rand(4, 5), torch.rand(20, 4) + 1), TASK)
    assert zeros(pruned)[0] == 19


def test_threshold_and_deviations() -> None:
    weight = torch.tensor([[0.0, 0.1, -0.2, 0.3], [-0.4, 0.5, 0.6, -0.7]])
    assert zeros(PruneWeights(threshold=0.35)(layers(weight), TASK)) == [4]
    assert zeros(PruneWeights(threshold=9)(layers(weight), TASK)) == [7]
    limit = 0.5 * weight.flatten()[1:].double().std()
    wanted = int((weight.abs() < limit).sum())
    assert zeros(PruneWeights(deviations=0.5)(layers(weight), TASK)) == [wanted]
    assert zeros(PruneWeights(deviations=1)(layers(torch.zeros(3, 3)), TASK)) == [9]  # they were so before


def test_layers_have_amounts_of_their_own() -> None:
    torch.manual_seed(0)
    model = layers(torch.randn(10, 10), torch.randn(10, 10), torch.randn(10, 10), torch.randn(10, 10))
    own = {"0": Amount(sparsity=0.9), "[01]": {"sparsity": 0.2}, "1": Amount(sparsity=0.3)}
    step = PruneWeights(sparsity=0.5, layers=own, skip=("3",))
    assert zeros(step(model, TASK)) == [90, 20, 50, 0]
    rest = step.replace(scope="global")(model, TASK)
    assert zeros(rest) == [90, 20, 50, 0]
    plan = step.plan(model, Context(task=TASK))
    assert plan.do["0.weight"] == {"pruned": 90, "of": 100}
    assert plan.notes["0.weight"] == "pruned 90 of 100 (90.0%)"
    assert plan.leave == {"3.weight": "skipped, as set"}


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("score", ["magnitude", "random"])
def test_pruned_weights_stay_pruned(scope: str, score: str) -> None:
    """Even where the weights under the mask have grown, and less is asked for."""
    torch.manual_seed(0)
    model = PruneWeights(sparsity=0.8)(layers(torch.randn(20, 10), torch.randn(10, 20)), TASK)
    held = [w.tensor == 0 for w in weights(model)]
    with torch.no_grad():
        for weight in weights(model):
            weight.values.add_(100)
    less = PruneWeights(sparsity=0.5, scope=scope, score=score)(model, TASK)
    assert zeros(less) == [160, 160]
    assert all(bool((w.tensor[h] == 0).all()) for w, h in zip(weights(less), held, strict=True))
    more = PruneWeights(sparsity=0.9, scope=scope, score=score)(model, TASK)
    assert sum(zeros(more)) == 360
    assert all(bool((w.tensor[h] == 0).all()) for w, h in zip(weights(more), held, strict=True))


def test_a_codebook_gains_a_pinned_zero() -> None:
    model = ClusterWeights(bits=3)(CASES["plain"].model(), TASK)
    pruned = PruneWeights(sparsity=0.5)(model, TASK)
    link = encodings.find(by_path(pruned)["4.weight"], encodings.Codebook)
    assert isinstance(link, encodings.Codebook)
    assert (link.k, link.zero) == (9, True)
    assert int((pruned[4].weight == 0).sum()) == 320
    again = PruneWeights(sparsity=0.7)(pruned, TASK)
    link = encodings.find(by_path(again)["4.weight"], encodings.Codebook)
    assert isinstance(link, encodings.Codebook)
    assert link.k == 9
    assert int((again[4].weight == 0).sum()) == 448


def test_random_follows_the_seed() -> None:
    model, step = layers(torch.randn(20, 20)), PruneWeights(sparsity=0.5, score="random")
    one, two, three = (step(model, TASK, seed=seed)[0].weight for seed in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, three)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({}, r"give exactly one of sparsity, threshold, deviations, not none"),
        ({"sparsity": 0.5, "threshold": 1}, r"not sparsity and threshold"),
        ({"sparsity": 1.0}, r"PruneWeights\.sparsity: Input should be less than 1, not 1\.0"),
        ({"threshold": float("nan")}, r"PruneWeights\.threshold: "),
        ({"threshold": 0.1, "scope": "global"}, r"scope 'global' finds the threshold for a sparsity: give sparsity"),
        ({"sparsity": 0.5, "layers": {"a": {}}}, r"PruneWeights.*give exactly one of"),
    ],
)
def test_settings(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        PruneWeights(**wrong)
