"""Learning from a teacher: against plain torch, killed and resumed, in a run, and all that is refused."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import CASES, Toy
from rarefy import (
    Classification,
    Distill,
    Finetune,
    Match,
    Recipe,
    Run,
    Source,
    Teacher,
    Train,
    loading,
    teachers,
    train,
)
from rarefy.encodings import copied
from rarefy.errors import ModelError, RunError, SettingsError, StepError
from rarefy.files import model_tensors, save_tensors
from rarefy.step import Context, Plan
from rarefy.steps import PruneWeights
from rarefy.training_step import TrainingStep


def task(count: int = 24, batch_size: int = 8, size: int = 8) -> Classification:
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(count, 1, size, size)).astype(np.float32), np.arange(count) % 4
    return Classification((x, y), (x, y), batch_size=batch_size)


def network(width: int = 4, classes: int = 4, seed: int = 0, stride: int = 1) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1, stride=stride),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(4 * width, classes),
    ).eval()


def taught(step: TrainingStep, student: nn.Module, teacher: nn.Module, on: Any = None, **more: Any) -> Any:
    context = Context(task=on or task(), original=teacher, **more)
    return step.apply(student, step.plan(student, context), context), context


def same(a: nn.Module, b: nn.Module) -> bool:
    one, two = model_tensors(a), model_tensors(b)
    return one.keys() == two.keys() and all(torch.equal(t, two[n]) for n, t in one.items())


SGD: dict[str, Any] = {"optimizer": "sgd", "lr": 0.1, "momentum": 0, "steps": 1}
FEATURES = (
    Match(layers={"0": "0"}, weight=0.5),
    Match(layers={"1": "1"}, loss="attention", weight=100),
    Match(layers={"4": "4"}, loss="relation", weight=2),
)


# What is minimised


def kl(student: Tensor, teacher: Tensor, t: float) -> Tensor:
    return t * t * F.kl_div((student / t).log_softmax(1), (teacher / t).softmax(1), reduction="batchmean")


def test_one_step_is_that_of_plain_torch() -> None:
    student, one, two = network(), network(seed=1), network(seed=2)
    plain, on = copy.deepcopy(student).train(), task(count=8)
    (x, y), *_ = on.judge()
    with torch.no_grad():
        wanted = 0.25 * one(x) + 0.75 * two(x)
    output = plain(x)
    (0.3 * F.cross_entropy(output, y) + 0.7 * kl(output, wanted, 3)).backward()
    torch.optim.SGD(plain.parameters(), 0.1).step()
    lesson = teachers.lesson("x", Teacher(temperature=3, alpha=0.7), student, Context(task=on, original=one))
    lesson.frozen, lesson.shares = (*lesson.frozen, two), (0.25, 0.75)
    train.fit(student, Distill(**SGD), Context(task=on), lesson=lesson)
    for a, b in zip(student.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_a_mutual_teacher_learns_from_the_student() -> None:
    student, peer, on = network(), network(width=6, seed=1), task(count=8)
    plain = [copy.deepcopy(m).train() for m in (student, peer)]
    (x, y), *_ = on.judge()
    outputs = [m(x) for m in plain]
    for i, output in enumerate(outputs):
        (0.5 * F.cross_entropy(output, y) + 0.5 * kl(output, outputs[1 - i].detach(), 1)).backward(retain_graph=True)
    before = copy.deepcopy(peer)
    settings = Distill(**SGD, teacher=Teacher(mutual=True, alpha=0.5, temperature=1))
    lesson = teachers.lesson("x", settings.teacher, student, Context(task=on, original=peer))
    train.fit(student, settings, Context(task=on), lesson=lesson)
    assert same(peer, before)
    for model, reference in zip((student, lesson.peers[0]), plain, strict=True):
        torch.optim.SGD(reference.parameters(), 0.1).step()
        for a, b in zip(model.parameters(), reference.parameters(), strict=True):
            assert torch.allclose(a, b, atol=1e-6)
        assert torch.allclose(model[1].running_mean, reference[1].running_mean, atol=1e-6)


def test_features_are_drawn_together_through_adapters() -> None:
    teacher, student = network(width=6, seed=1), network(width=3, stride=2)
    settings = Teacher(alpha=0, features=(Match(layers={"[01]": "[01]"}), FEATURES[1], FEATURES[2]))
    lesson = teachers.lesson("x", settings, student, Context(task=task(), original=teacher))
    assert [type(a).__name__ for a in lesson.adapters] == ["Conv2d", "Conv2d", "Identity", "Identity"]
    x = next(iter(task().judge()))[0]
    lesson.eval()
    found = lesson(student, student, x, None, lambda _o, _y: torch.zeros(()))
    a, b, s, t = student[0](x), student[1](student[0](x)), teacher[0](x), teacher[1](teacher[0](x))
    pool = nn.AdaptiveAvgPool2d(4)
    maps = [F.normalize(f.square().mean(1).flatten(1), dim=1) for f in (b, pool(t))]
    wanted = F.mse_loss(lesson.adapters[0](a), pool(s)) + F.mse_loss(lesson.adapters[1](b), pool(t))
    wanted = wanted + 100 * F.mse_loss(*maps)
    d1, d2 = (F.pdist(m[:5](x)) for m in (student, teacher))
    wanted = wanted + 2 * F.smooth_l1_loss(d1 / d1.mean(), d2 / d2.mean())
    assert torch.allclose(found, wanted, rtol=1e-4)
    _, context = taught(Distill(epochs=30, lr=0.01, teacher=settings), student, teacher)
    assert context.curve[-1].loss < 0.7 * context.curve[0].loss


@pytest.mark.parametrize("loss", ["hint", "relation"])
def test_adapters_of_vectors(loss: Any) -> None:
    teacher, student = network(width=6, seed=1), network(width=3)
    settings = Teacher(alpha=0, features=(Match(layers={"4": "4"}, loss=loss),))
    lesson = teachers.lesson("x", settings, student, Context(task=task(), original=teacher))
    assert type(lesson.adapters[0]) is {"hint": nn.Linear, "relation": nn.Identity}[loss]
    taught(Distill(steps=2, teacher=settings), student, teacher)


def test_a_student_learns_what_its_teacher_answers() -> None:
    teacher, _ = taught(Train(epochs=30, lr=0.01), network(width=8, seed=1), network())
    answers = torch.cat([teacher(x).argmax(1) for x, _ in task().judge()])
    student, context = taught(Distill(epochs=60, lr=0.01, teacher=Teacher(alpha=1.0)), network(width=6), teacher)
    agreed = torch.cat([student(x).argmax(1) for x, _ in task().judge()]) == answers
    assert agreed.float().mean() > 0.9
    assert context.curve[-1].loss < 0.3 * context.curve[0].loss


@pytest.mark.parametrize("cls", [Train, Finetune])
def test_any_training_step_takes_a_teacher(cls: type[TrainingStep]) -> None:
    teacher = network(seed=1)
    one, _ = taught(cls(steps=3, teacher=Teacher()), network(), teacher, trained=False)
    two, _ = taught(Distill(steps=3), network(), teacher)
    alone, _ = taught(cls(steps=3), network(), teacher, trained=False)
    assert same(one, two)
    assert not same(one, alone)


@pytest.mark.parametrize("mutual", [False, True])
def test_a_teacher_stays_as_it_was(mutual: bool) -> None:
    teacher = network(seed=1).train()
    teacher[0].weight.requires_grad_(False)
    before = copy.deepcopy(teacher)
    settings = Teacher(mutual=mutual, features=FEATURES)
    student, context = taught(Distill(steps=3, teacher=settings), network(), teacher)
    assert same(teacher, before)
    assert [m.training for m in teacher.modules()] == [True] * 7
    assert [p.requires_grad for p in teacher.parameters()] == [p.requires_grad for p in before.parameters()]
    assert not any(m._forward_hooks for net in (teacher, student) for m in net.modules())
    assert context.teachers[0].network == "original"
    assert context.teachers[0].sha256 == teachers._digest(copied(before))
    assert context.teachers[0].parameters == sum(p.numel() for p in before.parameters())


@pytest.mark.parametrize("name", ["named", "recurrent", "two-inputs", "tied"])
def test_outputs_of_any_form(name: str) -> None:
    case = CASES[name]
    dim = -1 if name == "tied" else 1
    step = Distill(steps=40, lr=0.01, teacher=Teacher(alpha=1, classes_dim=dim))
    _, context = taught(step, case.model(), case.model(seed=3), case.task())
    assert context.curve[-1].loss < 0.5 * context.curve[0].loss


@pytest.mark.parametrize("batch_size", [1, 8])
def test_mixed_precision_stays_finite_and_float32(batch_size: int) -> None:
    settings = Teacher(features=FEATURES, mutual=batch_size == 8)
    step = Distill(epochs=2, precision="bfloat16", channels_last=True, teacher=settings)
    student, context = taught(step, network(), network(width=6, seed=1), task(batch_size=batch_size))
    assert all(np.isfinite(e.loss) for e in context.curve)
    assert {p.dtype for p in student.parameters()} == {torch.float32}


# Resumable


class Killed(Exception):
    """The process is gone."""


@pytest.mark.parametrize("batch_size", [1, 8])
@pytest.mark.parametrize("mutual", [False, True])
def test_goes_on_where_it_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch_size: int, mutual: bool
) -> None:
    monkeypatch.setattr(train, "SAVE_EVERY", 0.0)
    on, teacher = task(batch_size=batch_size), network(width=6, seed=1)
    step = Distill(epochs=4, compare=True, teacher=Teacher(mutual=mutual, features=FEATURES))
    whole, context = taught(step, network(), teacher, on, seed=3)
    for label, epoch in (("Distill", 2), ("Distill, without", 3)):

        def progress(now: str, done: int, of: int, label: str = label, epoch: int = epoch) -> None:
            if now == label and done == epoch * of // 4 + 1:
                raise Killed

        with pytest.raises(Killed):
            taught(step, network(), teacher, on, seed=3, checkpoint=tmp_path / "state", progress=progress)
    seen: list[tuple[str, int]] = []
    resumed, second = taught(
        step,
        network(),
        teacher,
        on,
        seed=3,
        checkpoint=tmp_path / "state",
        progress=lambda label, done, _of: seen.append((label, done)),
    )
    assert seen[0][1] > 1, "it did not begin again"
    assert next(done for label, done in seen if label != "Distill") > 1
    assert same(whole, resumed)
    assert same(context.alone, second.alone)
    assert [e.loss for e in context.curve] == [e.loss for e in second.curve]


# Another student


def test_compare_trains_the_same_student_without_the_teacher() -> None:
    _, context = taught(Distill(epochs=2, compare=True), network(), network(seed=1))
    alone, _ = taught(Finetune(epochs=2), network(), network(seed=1))
    assert same(context.alone, alone)
    assert len(context.curve) == 2


def images(path: str = "data.npz") -> Any:
    return loading.task(path, batch_size=8)


def test_another_student_is_planned_and_built_from_the_plan(place: Path) -> None:
    step, model = Distill(epochs=1, student="lenet-300-100"), network()
    context = Context(task=images())
    plan = Plan(**json.loads(step.plan(model, context).model_dump_json()))
    assert plan.do.keys() == {n for n, _ in model.named_parameters()}
    assert plan.do["0.weight"] == {"student": "lenet-300-100", "classes": 4, "size": 8}
    blank = step.apply(model, plan, replace(context, task=None, blank=True))  # type: ignore[arg-type]
    context.original = model
    student = step.apply(model, plan, context)
    assert {n: t.shape for n, t in model_tensors(blank).items()} == {
        n: t.shape for n, t in model_tensors(student).items()
    }
    assert not same(blank, student)


RECIPE: list[dict[str, Any]] = [
    {"Train": {"epochs": 3, "lr": 0.01}},
    {"Distill": {"epochs": 3, "lr": 0.01, "student": "net.py:linear", "compare": True}},
    {"PruneWeights": {"sparsity": 0.5}},
]


def run(out: str, steps: list[dict[str, Any]] = RECIPE, **options: Any) -> Run:
    model = loading.network("lenet-300-100", task=images()).model
    recipe = Recipe.from_dict({"name": "taught", "steps": steps})
    return recipe.run(model, images(), out=out, trained=False, **options)


def test_a_run_with_another_student_killed_and_resumed(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rarefy.outcome.Measurer._running_costs", lambda *_: None)
    with monkeypatch.context() as patched:  # when the student has learnt
        patched.setattr(PruneWeights, "apply", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run("one")
    assert not list(Path("one/steps").glob("*partial*"))
    done = run("one", resume=True)
    before, step, outcome = done.record.original, done.record.steps[1], done.record.outcome
    assert before is not None
    assert outcome is not None
    assert step.alone is not None
    assert step.alone.quality is not None
    assert step.measurement is not None
    assert step.alone.parameters == step.measurement.parameters == 64 * 40 + 40 + 40 * 4 + 4
    assert before.parameters > 10 * step.alone.parameters
    assert {layer.tensor for layer in outcome.layers} >= {"1.weight", "1.bias", "3.weight", "3.bias"}
    assert {layer.bytes_before for layer in outcome.layers} == {0}
    assert "2. without a teacher" in str(done)
    page = done.report.read_text()
    assert "the same student without a teacher" in page
    assert f"SHA-256 of its tensors <code>{step.teachers[0].sha256}" in page
    assert Run.open("one").record == done.record
    original = loading.network("lenet-300-100", task=images()).model
    with pytest.raises(RunError, match=r"a plan runs net\.py:linear to build a network; read that code"):
        done.restore(original)
    student = done.restore(original, 2, trust=True)
    assert same(done.restore(original, trust=True), PruneWeights(sparsity=0.5)(student, images()))
    Path("net.py").unlink()
    with pytest.raises(RunError, match=r"the plans in run\.json do not fit the network .*there is no file net\.py"):
        done.restore(original, trust=True)


def test_a_teacher_from_a_file_with_weights(place: Path) -> None:
    teacher = loading.network("lenet-300-100", task=images(), seed=9).model
    save_tensors(Path("t.safetensors"), model_tensors(teacher))
    source = Source(network="lenet-300-100", weights="t.safetensors")
    step = Distill(steps=2, teacher=Teacher(networks=(source, Source(network="net.py:linear", share=3))))
    student = loading.network("net.py:linear").model
    _, context = taught(step, student, network(), images())
    found = context.teachers
    assert [t.network for t in found] == ["lenet-300-100", "net.py:linear"]
    assert found[0].sha256 == teachers._digest(teacher)
    assert found[0].score == pytest.approx(train.evaluate(teacher, images().judge(), images()))


# What is refused


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"alpha": 0}, "with alpha 0 and no features nothing is learnt from the teacher"),
        ({"networks": ({"network": "lenet5"},)}, "lenet5 of the zoo has not learnt anything itself: give its weights"),
        ({"networks": ({"weights": "x.pt"},)}, "the original network has its weights; name a network"),
        ({"networks": ()}, "at least 1 item"),
        ({"temperature": 0}, r"Teacher\.temperature: .*greater than 0"),
        ({"features": ({"layers": {}},)}, "at least 1 item"),
        ({"features": ({"layers": {"a": "b"}, "loss": "love"},)}, r"features\.0: Match\.loss: Input should be 'hint'"),
        ({"heat": 3}, "no such setting; Teacher has: networks, temperature, alpha"),
    ],
)
def test_settings(wrong: Any, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Distill(epochs=1, teacher=wrong)


def match(theirs: str, own: str, loss: Any = "hint") -> Teacher:
    return Teacher(features=(Match(layers={theirs: own}, loss=loss),))


@pytest.mark.parametrize(
    ("teacher", "settings", "message"),
    [
        (
            network(classes=7),
            Teacher(),
            r"the teacher original gives outputs of shape \(8, 7\), the student \(8, 4\); .* same shape \(or alpha 0",
        ),
        (
            nn.Sequential(nn.Flatten(), nn.Linear(5, 4)),
            Teacher(),
            r"the teacher original cannot take this task's inputs of shape \(8, 1, 8, 8\): its first weight has shape "
            r"\(4, 5\) \(RuntimeError: mat1 and mat2 shapes cannot be multiplied",
        ),
        (network(), Teacher(classes_dim=2), r"\(8, 4\), which have no scores of classes in dimension 2"),
        (network(), match("nope", "0"), "no module of the teacher matches 'nope'; it has 0, 1, 2, 3, 4, 5"),
        (network(), match("0", "nope"), "no module of the student matches 'nope'; it has 0, 1"),
        (
            network(),
            match("[01]", "0"),
            r"'\[01\]' matches 2 modules of the teacher \(0, 1\), '0' matches 1 of the stu",
        ),
        (
            network(),
            match("0", "5"),
            r"0 of the teacher gives features of shape \(8, 4, 8, 8\), 5 of the student \(8, 4\); hint cannot compare",
        ),
        (network(), match("5", "5", "attention"), "attention cannot compare them"),
    ],
)
def test_a_teacher_that_cannot_teach(teacher: nn.Module, settings: Teacher, message: str) -> None:
    step = Distill(epochs=1, teacher=settings)
    with pytest.raises(StepError, match=rf"^Distill: .*{message}"):
        step.plan(network(), Context(task=task(), original=teacher))


def test_features_need_no_common_classes() -> None:
    settings = Teacher(alpha=0, features=FEATURES)
    taught(Distill(steps=1, teacher=settings), network(), network(classes=7, seed=1))


def test_an_output_without_scores() -> None:
    class Text(nn.Linear):
        def forward(self, input: Tensor) -> Any:
            return ["words", super().forward(input)]

    on = Toy(torch.zeros(2, 3))
    with pytest.raises(StepError, match=r"gives outputs of shape str, the student str; to learn its answers"):
        Distill(steps=1).plan(Text(3, 4), Context(task=on))


def test_no_original_to_learn_from() -> None:
    context = Context(task=task(), trained=False)
    step, model = Distill(epochs=1), network()
    plan = step.plan(model, context)  # an earlier step may train it
    with pytest.raises(StepError, match="there is no original network to learn from: this run begins with one that"):
        step.apply(model, plan, context)


def test_a_module_that_does_not_run() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Linear(3, 4), nn.Linear(3, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    settings = Teacher(features=(Match(layers={"used": "idle"}),))
    with pytest.raises(StepError, match="the student: idle gave no tensor while the network ran"):
        Distill(steps=1, teacher=settings).plan(Idle(), Context(task=Toy(torch.zeros(2, 3))))


def test_a_student_that_does_not_fit(place: Path) -> None:
    context = Context(task=images())
    with pytest.raises(StepError, match=r"the student cannot take this task's inputs of shape \(8, 1, 8, 8\)"):
        Distill(epochs=1, student="net.py:colour").plan(network(), context)
    with pytest.raises(ModelError, match="no network named 'lenet6' in the zoo"):
        Distill(epochs=1, student="lenet6").plan(network(), context)
    with pytest.raises(ModelError, match="no function 'nothing'"):
        Distill(epochs=1, student="net.py:nothing").plan(network(), context)
