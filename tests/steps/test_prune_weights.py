"""Exact counts, whatever the amount is given as."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from models import CASES, Toy
from rarefy import encodings
from rarefy.errors import SettingsError, StepError
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
        ({}, r"give exactly one of sparsity, threshold, deviations, pattern, not none"),
        ({"sparsity": 0.5, "threshold": 1}, r"not sparsity and threshold"),
        ({"sparsity": 1.0}, r"PruneWeights\.sparsity: Input should be less than 1, not 1\.0"),
        ({"threshold": float("nan")}, r"PruneWeights\.threshold: "),
        ({"threshold": 0.1, "scope": "global"}, r"scope 'global' finds the threshold for a sparsity: give sparsity"),
        ({"sparsity": 0.5, "layers": {"a": {}}}, r"PruneWeights.*give exactly one of"),
        ({"sparsity": 0.5, "pattern": "2:4"}, r"not sparsity and pattern"),
        ({"pattern": "2:4", "scope": "global"}, r"scope 'global' finds the threshold for a sparsity: give sparsity"),
        ({"pattern": "4:4"}, r"pattern 4:4 prunes nothing: N of N:M is how many of M stay, and less than M"),
        ({"pattern": "0:4"}, r"PruneWeights\.pattern: String should match pattern"),
        ({"pattern": "2 of 4"}, r"PruneWeights\.pattern: String should match pattern"),
    ],
)
def test_settings(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        PruneWeights(**wrong)


# N:M


class Mixed(nn.Module):
    """Inputs in every dimension that layers have them in."""

    def __init__(self) -> None:
        super().__init__()
        self.plain, self.grouped = nn.Conv2d(8, 16, 3), nn.Conv2d(16, 8, 3, groups=2)
        self.up, self.flat = nn.ConvTranspose2d(8, 6, 3), nn.Conv1d(12, 5, 3)
        self.attention, self.embedding, self.tied = nn.MultiheadAttention(8, 2), nn.Embedding(11, 8), nn.Linear(8, 11)
        self.tied.weight, self.few = nn.Parameter(self.tied.weight.detach().clone()), nn.Linear(6, 4)
        self.loose = nn.Parameter(torch.randn(8, 8))


INPUTS = {"plain": 1, "grouped": 1, "up": 0, "flat": 1, "tied": 1, "attention.out_proj": 1}


@pytest.mark.parametrize("pattern", ["2:4", "1:4", "1:2", "3:4"])
@pytest.mark.parametrize("score", ["magnitude", "random"])
def test_of_every_m_inputs_n_stay(pattern: str, score: str) -> None:
    torch.manual_seed(0)
    model, (n, m) = Mixed(), map(int, pattern.split(":"))
    plan = PruneWeights(pattern=pattern, score=score).plan(model, Context(task=TASK))
    pruned = PruneWeights(pattern=pattern, score=score)(model, TASK)
    for path, dim in [*((f"{path}.weight", dim) for path, dim in INPUTS.items()), ("attention.in_proj_weight", 1)]:
        before, after = (by_path(net)[path].tensor.detach().movedim(dim, -1).reshape(-1, m) for net in (model, pruned))
        assert ((after != 0).sum(1) == n).all(), path
        assert torch.equal(after[after != 0], before[after != 0])
        assert plan.do[path] == {"pruned": int((after == 0).sum()), "of": after.numel(), "pattern": pattern}
        assert plan.notes[path].endswith(f"at most {pattern} of the inputs stay")
        if score == "magnitude":
            least = before.abs().masked_fill(after == 0, 9).min(1).values
            assert (before.abs().masked_fill(after != 0, 0).max(1).values <= least).all()
    assert (
        plan.leave["embedding.weight"] == f"the pattern {pattern} is along inputs, and those of Embedding are not known"
    )
    assert "those of Mixed are not known" in plan.leave["loose"]
    assert plan.leave.get("few.weight") == ("its 6 inputs are no multiple of 4" if m == 4 else None)


def test_a_pattern_keeps_what_was_pruned_before_and_stays() -> None:
    torch.manual_seed(0)
    first = PruneWeights(sparsity=0.7)(layers(torch.randn(12, 16)), TASK)
    both = PruneWeights(pattern="2:4")(first, TASK)
    old, new = first[0].weight == 0, both[0].weight == 0
    assert bool((old <= new).all())
    groups = (~new).view(-1, 4).sum(1)
    assert groups.max() == 2
    assert torch.equal(groups, (~old).view(-1, 4).sum(1).clamp(max=2))  # not one more than needed
    again = PruneWeights(pattern="2:4")(both, TASK)
    assert torch.equal(again[0].weight, both[0].weight)
    further = PruneWeights(sparsity=0.9)(both, TASK)
    assert zeros(further) == [round(0.9 * 192)]
    shared = PruneWeights(pattern="1:4")(ClusterWeights(bits=3)(both, TASK), TASK)
    assert (shared[0].weight != 0).view(-1, 4).sum(1).max() == 1
    assert len(shared[0].weight.unique()) <= 9
    optimizer = torch.optim.SGD(both.parameters(), 0.1)
    both(torch.randn(4, 16)).square().sum().backward()
    optimizer.step()
    assert torch.equal(both[0].weight == 0, new)


def test_layers_may_have_patterns_and_shares() -> None:
    torch.manual_seed(0)
    model = layers(torch.randn(4, 8), torch.randn(8, 4), torch.randn(4, 8))
    step = PruneWeights(pattern="2:4", layers={"0": {"pattern": "1:8"}, "1": {"sparsity": 0.25}})
    assert zeros(step(model, TASK)) == [28, 8, 16]
    mixed = PruneWeights(sparsity=0.5, scope="global", layers={"0": {"pattern": "1:8"}})
    assert zeros(mixed(model, TASK))[0] == 28
    assert sum(zeros(mixed(model, TASK))[1:]) == 32


def test_nothing_fits_the_pattern() -> None:
    with pytest.raises(StepError, match=r"found no weight to prune: .*or do not fit the pattern 2:4"):
        PruneWeights(pattern="2:4")(layers(torch.randn(4, 6)), TASK)
