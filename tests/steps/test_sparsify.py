"""What a sparsity term leaves: exact zeros, small filters and scales; what it spares; what a record says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models import CASES
from rarefy import Classification, ClusterWeights, Finetune, Half, PruneWeights, Sparsify, Teacher, train
from rarefy.errors import SettingsError, StepError
from rarefy.files import model_tensors
from rarefy.graph.weights import weights
from rarefy.step import Context


def task(count: int = 256) -> Classification:
    """Two of the twelve inputs say the class."""
    draw = np.random.default_rng(0)
    x = draw.normal(size=(count, 12)).astype(np.float32)
    y = (x[:, 0] > 0) * 2 + (x[:, 1] > 0)
    return Classification((x, y), (x, y), batch_size=16)


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(12, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, 4)).eval()


def unscaled() -> nn.Sequential:
    """Without BatchNorm, the size of a weight means something."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 4)).eval()


def sparsified(step: Sparsify, model: nn.Module | None = None, **more: Any) -> Any:
    context = Context(task=task(), **more)
    model = model or network()
    return step.apply(model, step.plan(model, context), context), context


@pytest.mark.parametrize(
    ("optimizer", "lr", "strength", "most"), [("adam", 0.01, 0.6, 0.9), ("sgd", 0.1, 0.05, 0.6)], ids=["adam", "sgd"]
)
def test_l1_leaves_exact_zeros_where_nothing_is_learnt(optimizer: Any, lr: float, strength: float, most: float) -> None:
    step = Sparsify(epochs=40, term="l1", strength=strength, optimizer=optimizer, lr=lr)
    model, context = sparsified(step, unscaled())
    plain, _ = sparsified(step.replace(strength=1e-9), unscaled())
    zero, before = ((m[0].weight == 0).float().mean(0) for m in (model, plain))
    assert zero[2:].mean() > most
    assert zero[:2].mean() < zero[2:].mean()
    assert before.max() == 0
    assert train.evaluate(model, task().judge(), task()) > 0.9
    pruned = PruneWeights(threshold=1e-30)(model, task())
    assert torch.equal(pruned[0].weight == 0, model[0].weight == 0)
    note, small = context.notes[0], (model[0].weight.abs() < 1e-3).float()
    assert note.parameter == "0.weight"
    said, zeros = f"{int(small.sum())} of 288 weights below 0.001 ({small.mean():.1%})", (model[0].weight == 0).sum()
    assert note.done == f"{said}, {int(zeros)} of them zero"


def test_group_empties_whole_neurons() -> None:
    model, context = sparsified(Sparsify(epochs=40, term="group", strength=0.4, lr=0.01), unscaled())
    rows = (model[0].weight == 0).float().mean(1)
    assert set(rows.unique().tolist()) <= {0.0, 1.0}
    assert 0 < int(rows.sum()) < 24
    assert context.notes[0].done.endswith(f"{int(rows.sum())} of them zero")
    assert " of 24 filters below 0.001 (" in context.notes[0].done


def test_filters_of_a_transposed_convolution_are_its_outputs() -> None:
    case = CASES["transposed"]
    step, context = Sparsify(steps=1, term="group", strength=1e4), Context(task=case.task())
    step.apply(case.model(), step.plan(case.model(), context), context)
    assert {n.parameter: n.done and n.done.split(" filters")[0] for n in context.notes} == {
        "one.weight": "1 of 1",
        "wide.weight": "8 of 8",
        "up.weight": "2 of 2",
    }


def test_slimming_shrinks_scales_only() -> None:
    model, context = sparsified(Sparsify(epochs=30, term="slimming", strength=0.6, lr=0.02))
    assert 0 < int((model[1].weight == 0).sum()) < 24
    assert not (model[0].weight == 0).any()
    assert [n.parameter for n in context.notes] == ["1.weight"]
    assert " of 24 scales below 0.001 (" in context.notes[0].done
    plan = Sparsify(steps=1, term="slimming", strength=1).plan(network(), Context(task=task()))
    assert plan.leave.keys() == {n for n, _ in network().named_parameters()} - {"1.weight"}
    assert set(plan.leave.values()) == {"not the scale of a BatchNorm"}
    assert not plan.do


@pytest.mark.parametrize("filters", [False, True])
def test_growing_draws_the_smallest_to_zero(filters: bool) -> None:
    step = Sparsify(epochs=20, term="growing", strength=1000, share=0.75, filters=filters, ramp=0.5, lr=0.005)
    start = unscaled()[0].weight.detach()
    model, context = sparsified(step, unscaled())
    sizes = [w.square().mean(1).sqrt() if filters else w.abs().flatten() for w in (start, model[0].weight.detach())]
    small = sizes[0] <= sizes[0].kthvalue(round(0.75 * sizes[0].numel())).values
    assert sizes[1][small].max() < 5e-3
    assert sizes[1][~small].median() > 0.1
    assert (" filters below" if filters else " weights below") in context.notes[0].done


def amounts(**settings: Any) -> list[float]:
    """By how much a weight that has no gradient moves in each step."""

    class Still(Classification):
        def smoothed_loss(self, output: Any, target: Any, smoothing: float) -> Tensor:
            return 0.0 * output.sum()

    x = np.zeros((40, 2), np.float32)
    on, model = Still((x, x[:, 0]), (x, x[:, 0]), batch_size=8), nn.Linear(2, 3)
    seen = [0.0]
    nn.init.constant_(model.weight, 10.0)
    step = Sparsify(term="l1", optimizer="sgd", momentum=0, **settings)
    step.apply(
        model,
        step.plan(model, Context(task=on)),
        Context(task=on, progress=lambda *_: seen.append(10 - float(model.weight.detach()[0, 0]))),
    )
    return [10 - float(model.weight.detach()[0, 0]) - 0.0, *np.diff(seen).tolist()]


def test_a_step_is_rate_times_strength_and_the_strength_may_rise() -> None:
    assert amounts(epochs=2, lr=0.1, strength=2.0, schedule="constant")[0] == pytest.approx(10 * 0.2, rel=1e-5)
    assert amounts(epochs=2, lr=0.1, strength=2.0, schedule="constant")[1:] == pytest.approx([0.2] * 10, rel=1e-4)
    risen = amounts(epochs=2, lr=0.1, strength=2.0, schedule="constant", ramp=0.5)
    assert risen[1:] == pytest.approx([0.2 * min(1, t / 5) for t in range(1, 11)], rel=1e-4)
    assert amounts(epochs=1, lr=0.1, strength=2.0, schedule="linear")[0] == pytest.approx(
        0.2 * (1 + 4 / 5 + 3 / 5 + 2 / 5 + 1 / 5)
    )


def test_what_is_stored_frozen_or_skipped_is_left() -> None:
    model = ClusterWeights(bits=2, skip=("0",))(network(), task())
    model[1].requires_grad_(False)
    step = Sparsify(steps=3, term="l1", strength=0.1)
    plan = step.plan(model, Context(task=task()))
    assert "is a codebook of 4 already: put Sparsify before the step that stores it so" in plan.leave["3.weight"]
    assert plan.leave["1.weight"] == "frozen"
    assert "0.weight" not in plan.leave
    with pytest.raises(
        StepError, match=r"^Sparsify found no plain float weight of two dimensions to make small: .*skip"
    ):
        step.replace(skip=("0",)).plan(model, Context(task=task()))
    with pytest.raises(
        StepError, match=r"^Sparsify found no scale of BatchNorm to make small: .*not the scale of a Batc"
    ):
        step.replace(term="slimming").plan(nn.Linear(12, 4), Context(task=task()))
    with pytest.raises(StepError, match=r"no parameter matches 0\.wieght"):
        step.replace(skip=("0.wieght",)).plan(model, Context(task=task()))


@pytest.mark.parametrize("term", ["l1", "group", "growing"])
def test_pruned_weights_stay_pruned(term: Any) -> None:
    model = Half()(PruneWeights(sparsity=0.5)(network(), task()), task())
    zeros = [w.tensor == 0 for w in weights(model)]
    model, _ = sparsified(Sparsify(epochs=2, term=term, strength=0.1), model)
    assert all(not w.tensor[z].any() for w, z in zip(weights(model), zeros, strict=True) if w.tensor.ndim > 1)
    assert torch.isfinite(torch.cat([w.tensor.flatten() for w in weights(model)])).all()


def test_it_takes_a_teacher_too() -> None:
    one, context = sparsified(Sparsify(steps=3, term="l1", strength=0.1, teacher=Teacher()), original=network(3))
    two, _ = sparsified(Sparsify(steps=3, term="l1", strength=0.1))
    assert not torch.equal(one[0].weight, two[0].weight)
    assert context.teachers[0].network == "original"


class Killed(Exception):
    """The process is gone."""


@pytest.mark.parametrize("term", ["l1", "growing"])
def test_goes_on_where_it_was_killed(tmp_path: Any, monkeypatch: pytest.MonkeyPatch, term: Any) -> None:
    monkeypatch.setattr(train, "SAVE_EVERY", 0.0)
    step = Sparsify(epochs=4, term=term, strength=0.3, ramp=0.7)
    whole, context = sparsified(step)

    def progress(_label: str, done: int, of: int) -> None:
        if done == of // 2 + 1:
            raise Killed

    with pytest.raises(Killed):
        sparsified(step, checkpoint=tmp_path / "state", progress=progress)
    resumed, second = sparsified(step, checkpoint=tmp_path / "state")
    one, two = model_tensors(whole), model_tensors(resumed)
    assert all(torch.equal(one[n], two[n]) for n in one)
    assert context.notes == second.notes


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({}, r"Sparsify\.term: missing"),
        ({"term": "l2"}, r"Sparsify\.term: Input should be 'l1', 'group', 'slimming' or 'growing'"),
        ({"strength": 0}, r"Sparsify\.strength: .*greater than 0"),
        ({"share": 1}, r"Sparsify\.share: .*less than 1"),
        ({"ramp": 2}, r"Sparsify\.ramp: .*less than or equal to 1"),
    ],
)
def test_settings(wrong: Any, message: str) -> None:
    good = {"epochs": 1, "term": "l1", "strength": 0.1} if wrong else {"epochs": 1, "strength": 0.1}
    with pytest.raises(SettingsError, match=message):
        Sparsify(**{**good, **wrong})


def test_without_a_term_it_is_plain_training() -> None:
    one, _ = sparsified(Sparsify(epochs=2, term="l1", strength=1e-12))
    context = Context(task=task())
    two = Finetune(epochs=2).apply(network(), Finetune(epochs=2).plan(network(), context), context)
    assert torch.allclose(one[0].weight, two[0].weight, atol=1e-6)
