from __future__ import annotations

import copy
import math
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rarefy import Binarize, Classification, Finetune, Task, Train, train
from rarefy.errors import DataError, SettingsError, StepError
from rarefy.files import model_tensors
from rarefy.objective import Joined, Objective
from rarefy.step import Context, Plan
from rarefy.teacher import Match, Teacher
from rarefy.train import fit
from rarefy.training_step import TrainingStep


def examples(count: int = 48, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Four classes around four centres."""
    draw = np.random.default_rng(seed)
    labels = np.arange(count) % 4
    centres = np.random.default_rng(9).normal(size=(4, 6))
    return (centres[labels] + 0.3 * draw.normal(size=(count, 6))).astype(np.float32), labels


def pictures(count: int = 24) -> Classification:
    draw = np.random.default_rng(0)
    x = draw.normal(size=(count, 1, 8, 8)).astype(np.float32)
    pair = x, np.arange(count) % 2
    return Classification(pair, pair, batch_size=8)


def small(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 4))


def task(**options: Any) -> Classification:
    return Classification(examples(), examples(seed=1), **{"batch_size": 8, **options})


def trained(step: TrainingStep, on: Task | None = None, model: nn.Module | None = None, **options: Any) -> Any:
    context = Context(task=on or task(), **options)
    return fit(model or small(), step, context), context


def rates(**settings: Any) -> list[float]:
    """The learning rate of every step, seen by a loss that is called at each."""
    seen: list[float] = []
    step = Train(**{"lr": 0.5, "optimizer": "sgd", **settings})
    training = train._Training(small(), step, Context(task=task()))
    inner = training._step

    def spy(*args: Any) -> Tensor:
        seen.append(training.optimizer.param_groups[0]["lr"])
        return inner(*args)

    training._step = spy  # type: ignore[method-assign]
    while not training.finished:
        training.epoch()
    return seen


# How the rate goes


def test_schedules() -> None:
    n = 12  # two epochs of six batches
    t = [i / n for i in range(n)]
    assert rates(epochs=2, schedule="constant") == [0.5] * n
    assert rates(epochs=2, schedule="linear") == pytest.approx([0.5 * (1 - p) for p in t])
    assert rates(epochs=2, schedule="cosine") == pytest.approx([0.25 * (1 + math.cos(math.pi * p)) for p in t])
    assert rates(epochs=2, schedule="step") == pytest.approx([0.5] * 6 + [0.05] * 3 + [0.005] * 3)


def test_warmup_rises_then_the_schedule_has_the_rest() -> None:
    found = rates(epochs=2, schedule="linear", warmup=0.5)
    assert 0 < found[0] < found[1]
    assert all(a < b for a, b in pairwise(found[:7]))
    assert found[6:] == pytest.approx([0.5 * (1 - p / 6) for p in range(6)])


@pytest.mark.parametrize("steps", [1, 5, 6, 7, 20])
def test_steps_instead_of_epochs(steps: int) -> None:
    assert len(rates(steps=steps)) == steps


# What is minimised


def test_weight_decay_is_on_weights_only() -> None:
    class Still(Classification):
        def smoothed_loss(self, output: Any, target: Any, smoothing: float) -> Tensor:
            return 0.0 * output.sum()

    model = small()
    before = copy.deepcopy(model)
    still = Still(examples(), examples(), batch_size=8)
    trained(Train(epochs=1, optimizer="sgd", lr=0.1, schedule="constant", momentum=0, weight_decay=0.1), still, model)
    assert torch.allclose(model[0].weight, before[0].weight * (1 - 0.1 * 0.1) ** 6)
    assert torch.equal(model[0].bias, before[0].bias)


def test_label_smoothing_is_that_of_the_paper() -> None:
    draw = torch.Generator().manual_seed(0)
    output, target, e = torch.randn(5, 4, generator=draw), torch.tensor([0, 1, 2, 3, 0]), 0.3
    spread = (1 - e) * torch.eye(4)[target] + e / 4
    wanted = -(spread * output.log_softmax(1)).sum(1).mean()
    assert torch.allclose(task().smoothed_loss(output, target, e), wanted)
    plain, context = trained(Train(epochs=1))
    _, smoothed = trained(Train(epochs=1, label_smoothing=0.3))
    assert smoothed.curve[0].loss > context.curve[0].loss
    assert plain


def test_one_step_is_that_of_plain_torch() -> None:
    model = small().eval()
    model[2].p = 0.0
    plain = copy.deepcopy(model)
    x, y = (torch.as_tensor(a) for a in examples(8))
    whole = Classification((x, y), (x, y), batch_size=8)
    trained(Train(steps=1, optimizer="sgd", lr=0.1, momentum=0, clip=0.01), whole, model)
    nn.functional.cross_entropy(plain(x), y).backward()
    nn.utils.clip_grad_norm_(plain.parameters(), 0.01)
    torch.optim.SGD(plain.parameters(), 0.1).step()
    for a, b in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-7)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_every_optimizer_learns(optimizer: str) -> None:
    model, context = trained(Train(epochs=20, lr=0.05, optimizer=optimizer))  # type: ignore[arg-type]
    assert train.evaluate(model, task().judge(), task()) > 0.95
    assert context.curve[-1].loss < 0.2 * context.curve[0].loss
    assert [e.epoch for e in context.curve] == list(range(1, 21))


# Choosing by what is held out


def test_the_best_checkpoint_is_kept() -> None:
    class Falling(Classification):
        """Scores fall after the second epoch."""

        epoch = 0

        def validation(self) -> Any:
            return self.judge()

        def metric(self, output: Any, target: Any) -> Tensor:
            type(self).epoch += 1
            return torch.full((len(target),), [0.1, 0.9, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0][self.epoch - 1])

    def falling(settings: dict[str, Any]) -> tuple[Any, Any]:
        Falling.epoch = 0
        on = Falling(examples(), examples(seed=1), batch_size=48)
        return trained(Train(lr=0.01, schedule="constant", **settings), on)

    two, _ = falling({"epochs": 2})
    best, context = falling({"epochs": 6, "keep": "best"})
    last, _ = falling({"epochs": 6})
    assert torch.equal(best[0].weight, two[0].weight)
    assert not torch.equal(last[0].weight, two[0].weight)
    assert [e.validation for e in context.curve] == pytest.approx([0.1, 0.9, 0.5, 0.4, 0.3, 0.2])
    _, stopped = falling({"epochs": 8, "patience": 3})
    assert len(stopped.curve) == 5


@pytest.mark.parametrize("settings", [{"keep": "best"}, {"patience": 2}])
def test_choosing_needs_examples_held_out(settings: Any) -> None:
    with pytest.raises(SettingsError, match="the task has none: give --holdout"):
        Train(epochs=1, **settings).plan(small(), Context(task=task(), trained=False))
    Train(epochs=1, **settings).plan(small(), Context(task=task(holdout=0.2), trained=False))


# What is refused


def test_a_network_without_anything_to_train() -> None:
    with pytest.raises(SettingsError, match="no parameter requires a gradient"):
        Finetune(epochs=1).plan(small().requires_grad_(False), Context(task=task()))


def test_no_data_to_train_on() -> None:
    with pytest.raises(DataError, match="no training examples, and this step trains"):
        Finetune(epochs=1).plan(small(), Context(task=Classification(None, examples())))


@pytest.mark.parametrize("settings", [{}, {"epochs": 1, "steps": 1}])
def test_how_long_is_said_once(settings: Any) -> None:
    with pytest.raises(SettingsError, match="give either epochs or steps"):
        Train(**settings)


def test_a_loss_that_is_no_number_is_an_error_with_a_way_out() -> None:
    with pytest.raises(
        StepError, match=r"Train: the loss became (nan|inf) in epoch 1; lower lr \(now 100\) or set clip"
    ):
        trained(Train(epochs=1, lr=100, optimizer="sgd"), model=nn.Sequential(*[nn.Linear(6, 6) for _ in range(9)]))


def test_inputs_that_are_no_numbers() -> None:
    x, y = examples()
    x[3, 2] = np.nan
    with pytest.raises(DataError, match="the inputs hold NaN or infinite values"):
        Classification((x, y), (x, y))


def test_augment_is_for_images() -> None:
    with pytest.raises(StepError, match=r"Train\.augment works on batches of images"):
        trained(Train(epochs=1, augment={"crop": 1}))  # type: ignore[arg-type]


# Options of the machine


def convolutional() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))


def test_bfloat16_and_channels_last_train_alike_and_leave_float32() -> None:
    plain, first = trained(Train(epochs=2, augment={"crop": 1}), pictures(), convolutional())  # type: ignore[arg-type]
    mixed, second = trained(
        Train(epochs=2, augment={"crop": 1}, precision="bfloat16", channels_last=True),  # type: ignore[arg-type]
        pictures(),
        convolutional(),
    )
    assert not torch.equal(plain[0].weight, mixed[0].weight)
    assert second.curve[-1].loss == pytest.approx(first.curve[-1].loss, rel=0.1)
    assert {p.dtype for p in mixed.parameters()} == {torch.float32}
    assert mixed[0].weight.is_contiguous()


# Reproducible, resumable


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(t, model_tensors(b)[n]) for n, t in model_tensors(a).items())


def test_the_seed_decides_and_the_global_random_state_does_not() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first, _ = trained(Train(epochs=2), model=small(3), seed=7)
    torch.set_rng_state(before)
    torch.rand(5)
    second, _ = trained(Train(epochs=2), model=small(3), seed=7)
    other, _ = trained(Train(epochs=2), model=small(3), seed=8)
    assert same(first, second)
    assert not same(first, other)


def test_where_signs_are_drawn_batchnorm_ends_with_the_statistics_of_those_that_are_shipped() -> None:
    model = nn.Sequential(nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8, momentum=0.2), nn.ReLU(), nn.Linear(8, 4))
    binary = Binarize(activations=None, stochastic=True, keep=(), scales=False)(model, task())
    found, _ = trained(Train(epochs=2), model=binary)
    x = torch.as_tensor(examples()[0])
    signs, norm = found[0](x).detach(), found[1]
    torch.testing.assert_close(norm.running_mean, signs.mean(0), rtol=0, atol=1e-5)
    batched = torch.stack([found[0](inputs).detach().var(0) for inputs, _ in task().train(seed=0)]).mean(0)
    torch.testing.assert_close(norm.running_var, batched, rtol=0.3, atol=0)
    assert norm.momentum == 0.2
    assert not norm.training


def test_a_batchnorm_that_nothing_reaches_keeps_its_statistics() -> None:
    model = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4))
    model.unused = nn.BatchNorm1d(3)
    model.unused.running_mean.fill_(7)
    model.forward = lambda x: model[1](model[0](x))
    train.take_statistics(model, [torch.ones(2, 6)])
    assert model.unused.running_mean.tolist() == [7, 7, 7]
    torch.testing.assert_close(model[1].running_mean, model[0](torch.ones(6)).detach())


def test_the_global_random_state_and_the_users_network_stay() -> None:
    model = small().train()
    before, weights = torch.get_rng_state(), {n: t.clone() for n, t in model.state_dict().items()}
    result = Finetune(epochs=1)(model, task())
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    assert all(torch.equal(t, weights[n]) for n, t in model.state_dict().items())
    assert not torch.equal(result[0].weight, model[0].weight)
    assert not result.training


class Killed(Exception):
    """The process is gone."""


@pytest.mark.parametrize("settings", [{}, {"keep": "best", "patience": 4}, {"optimizer": "sgd"}])
@pytest.mark.parametrize("epoch", [1, 3])
def test_a_training_goes_on_where_it_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Any, epoch: int
) -> None:
    monkeypatch.setattr(train, "SAVE_EVERY", 0.0)
    step, on = Train(epochs=5, lr=0.02, **settings), task(holdout=0.25)
    whole, context = trained(step, on, seed=3)

    def progress(_label: str, done: int, of: int) -> None:
        if done == epoch * of // 5 + 2:  # two batches into the next epoch
            raise Killed

    place = tmp_path / "state"
    with pytest.raises(Killed):
        trained(step, on, seed=3, checkpoint=place, progress=progress)
    assert place.exists()
    seen: list[int] = []
    resumed, second = trained(step, on, seed=3, checkpoint=place, progress=lambda _l, done, _of: seen.append(done))
    assert seen[0] > 1, "it did not begin again"
    assert same(whole, resumed)
    assert [(e.epoch, e.loss, e.validation) for e in second.curve] == [
        (e.epoch, e.loss, e.validation) for e in context.curve
    ]


# Two processes


def test_two_processes_take_a_global_batch_apart() -> None:
    together = list(task(batch_size=8).train(seed=4))
    parts = [list(task(batch_size=4).train(seed=4, rank=rank, world=2)) for rank in range(2)]
    for (x, y), (a, b), (c, d) in zip(together, *parts, strict=True):
        assert torch.equal(x, torch.cat([a, c]))
        assert torch.equal(y, torch.cat([b, d]))


def test_among_processes_a_parameter_is_not_reached_and_not_trained() -> None:
    """So that torch does not warn on every rank."""
    objective = Objective(small(), Train(epochs=1), task())
    joined = Joined(objective)
    x, y = (torch.as_tensor(a) for a in examples(8))
    objective.eval()
    assert torch.equal(joined(x, y), objective(x, y))
    joined(x, y).backward()
    assert [n for n, p in joined.named_parameters() if p.grad is None] == ["unreached"]
    assert "unreached" not in dict(objective.named_parameters())


OF_TORCH = pytest.mark.filterwarnings("ignore:.torch.jit.script_method:DeprecationWarning")


@OF_TORCH
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("teacher", [None, Teacher(), Teacher(mutual=True)], ids=["alone", "taught", "together"])
def test_compiled_it_learns_the_same(teacher: Teacher | None) -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 4))
    original = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4))
    step = Train(steps=5, lr=0.1, optimizer="sgd", teacher=teacher)
    context = Context(task=task(), original=original)
    plain = step.apply(copy.deepcopy(model), Plan(), context)
    fast = step.replace(compile=True).apply(copy.deepcopy(model), Plan(), context)
    assert not same(plain, model)
    for a, b in zip(plain.state_dict().values(), fast.state_dict().values(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


@OF_TORCH
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_every_training_is_compiled_however_many_there_were() -> None:
    counts = torch._dynamo.utils.counters["stats"]
    before = counts["unique_graphs"]
    for width in range(1, 11):
        trained(Train(steps=1, compile=True), model=nn.Sequential(nn.Linear(6, width), nn.Linear(width, 4)))
    assert counts["unique_graphs"] == before + 10
    Train(steps=1, compile=True, teacher=Teacher()).apply(small(), Plan(), Context(task=task(), original=small()))
    assert counts["unique_graphs"] == before + 12  # the student and its teacher


@OF_TORCH
def test_without_a_compiler_compile_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("no-such-compiler",))
    with pytest.raises(StepError, match=r"compile: .*install one .Debian: g\+\+., or leave compile out"):
        trained(Train(steps=1, compile=True), model=nn.Linear(6, 4))


def test_features_and_compile_do_not_go_together() -> None:
    teacher = Teacher(features=(Match(layers={"0": "0"}),))
    step = Finetune(steps=1, compile=True, teacher=teacher)
    with pytest.raises(SettingsError, match="leave one out"):
        step.plan(small(), Context(task=task(), original=small()))
