"""Weights of one bit, activations of few."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from models import Toy
from rarefy import encodings, zoo
from rarefy.encodings import FewLevels, Signs
from rarefy.errors import SettingsError, StepError
from rarefy.files import model_tensors, restore
from rarefy.graph.weights import by_path
from rarefy.layers.binary import BinaryConv2d, BinaryLinear
from rarefy.layers.binary_units import BinaryUnit, ShiftedPReLU
from rarefy.step import Context, Plan
from rarefy.steps import Binarize, Finetune, Half, PruneWeights, Quantize
from rarefy.task import Task


class Network(nn.Module):
    """Pre-activation and post-activation, a pooling, 1x1, groups, a matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn0 = nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32)
        self.plain, self.bn1, self.relu1 = nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()
        self.wide, self.bn2, self.relu2 = nn.Conv2d(32, 64, 3, 2, padding=1), nn.BatchNorm2d(64), nn.ReLU()
        self.grouped, self.pool = nn.Conv2d(64, 64, 3, groups=2), nn.MaxPool2d(2)
        self.point, self.few = nn.Conv2d(64, 16, 1), nn.Linear(16, 24)
        self.head = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.plain(self.bn0(self.stem(x)))
        x = self.wide(self.relu1(self.bn1(x)))
        x = self.grouped(self.relu2(self.bn2(x)))
        x = self.point(self.pool(x)).mean((2, 3))
        return self.head(self.few(x))


@pytest.fixture
def model() -> Network:
    torch.manual_seed(0)
    return Network().eval()


@pytest.fixture
def task() -> Toy:
    torch.manual_seed(1)
    return Toy(torch.randn(6, 3, 10, 10))


def planned(model: nn.Module, task: Task, **settings: Any) -> Plan:
    return Binarize(**settings).plan(model, Context(task=task))


def trained(model: nn.Module, task: Task, **settings: Any) -> list[Tensor]:
    """Every tensor afterwards."""
    Finetune(**{"steps": 3, "lr": 0.01, **settings}).apply(model, Plan(), Context(task=task))
    return list(model_tensors(model).values())


def test_what_is_kept_and_why(model: Network, task: Toy) -> None:
    plan = planned(model, task)
    assert list(plan.do) == ["plain.weight", "wide.weight", "grouped.weight", "few.weight"]
    assert plan.leave["stem.weight"].startswith("the first layer: ")
    assert plan.leave["head.weight"].endswith("(leave 'last' out of keep to make it binary too)")
    assert plan.leave["point.weight"].startswith("a 1x1 convolution: ")
    assert plan.leave["bn1.weight"] == "one-dimensional (bias or normalisation), 32 values"
    everything = planned(model, task, keep=())
    assert {"stem.weight", "point.weight", "head.weight"} <= everything.do.keys()


def test_notes_say_what_will_not_pay(model: Network, task: Toy) -> None:
    notes = planned(model, task).notes
    assert notes["plain.weight"] == "1 bit, a scale per filter; signs of its input; 32 filters take the time of 64"
    assert "learnt thresholds, as its input is never negative" in notes["wide.weight"]
    assert "before its sign comes relu: BatchNorm -> sign -> layer -> pool is the better order" in notes["wide.weight"]
    assert (
        "no kernel, so it runs as standard operators: the kernels have no groups, and it has 2"
        in notes["grouped.weight"]
    )
    assert (
        "16 input channels take the time of 32; 24 filters take the time of 64; few channels, 16" in notes["few.weight"]
    )
    pooled = planned(nn.Sequential(model.stem, nn.MaxPool2d(2), model.plain, nn.Flatten(), nn.Linear(800, 2)), task)
    assert "before its sign comes pooling, after which signs are mostly alike" in pooled.notes["2.weight"]
    bits = planned(model, task, activations=3).notes["plain.weight"]
    assert "3-bit inputs" in bits
    assert "3 bits take 3 times as long as one: more channels may give more for it" in bits
    ternary = planned(model, task, weights="ternary").notes["plain.weight"]
    assert "standard operators: ternary weights have none" in ternary
    assert "all its signs are +1" in planned(model, task, thresholds=False).notes["wide.weight"]
    unscaled = planned(model, task, scales=False).notes
    assert "no BatchNorm after it" in unscaled["grouped.weight"]
    assert unscaled["plain.weight"].startswith("1 bit; signs of its input")
    assert "no BatchNorm after it" not in unscaled["plain.weight"]


def test_thresholds_begin_at_the_mean(model: Network, task: Toy) -> None:
    seen = list[Tensor]()
    model.wide.register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0]))
    model(task.inputs)
    model.wide._forward_pre_hooks.clear()
    result = Binarize()(model, task)
    assert isinstance(result, Network)
    assert isinstance(result.wide, BinaryConv2d)
    assert result.wide.threshold is not None
    torch.testing.assert_close(result.wide.threshold.detach(), seen[0].mean((0, 2, 3)))
    assert isinstance(result.plain, BinaryConv2d)
    assert result.plain.threshold is None
    learnt = Binarize(thresholds=True)(model, task)
    assert isinstance(learnt, Network)
    assert isinstance(learnt.plain, BinaryConv2d)
    assert learnt.plain.threshold is not None
    assert not learnt.plain.threshold.any()


def test_levels_reach_to_a_few_times_the_mean(model: Network, task: Toy) -> None:
    result = Binarize(activations=2)(model, task)
    assert isinstance(result, Network)
    assert isinstance(result.wide, BinaryConv2d)
    assert result.wide.steps is not None
    x = torch.relu(model.bn1(model.plain(model.bn0(model.stem(task.inputs)))))
    torch.testing.assert_close(3 / result.wide.steps, 2 * 3**0.5 * x.mean().detach())


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"activations": None, "stochastic": True},
        {"scales": False, "skip": ("grouped", "few")},
        {"weights": "ternary", "activations": None},
        {"activations": 2, "balanced": True, "clip": None},
        {"gradient": "polynomial", "thresholds": True, "prelu": True, "shortcuts": True},
        {"weights": None, "activations": 1},
    ],
    ids=str,
)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_trains_and_stays_finite(settings: dict[str, Any], precision: str, model: Network) -> None:
    torch.manual_seed(2)
    task = Toy(torch.randn(1, 3, 10, 10))  # one example
    result = Binarize(**settings)(model, task)
    before = [t.clone() for t in model_tensors(result).values()]
    after = trained(result, task, precision=precision, lr=0.1, optimizer="sgd")
    assert all(bool(t.isfinite().all()) or "clip" in settings for t in after)
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(bool(t.isfinite().all()) for t in result(task.inputs))
    for weight in by_path(result).values():
        for link in encodings.chain(weight):
            assert isinstance(link, FewLevels)
            assert (weight.values.abs() <= link.bound).all()


def test_the_input_scale_is_for_convolutions(model: Network, task: Toy) -> None:
    plan = planned(model, task, input_scale=True)
    assert plan.leave["few.weight"] == "input_scale is for convolutions, which it is not"
    result = Binarize(input_scale=True)(model, task)
    assert isinstance(result, Network)
    assert isinstance(result.plain, BinaryConv2d)
    assert result.plain.activation.map


def test_shortcuts_and_shifted_prelus(model: Network, task: Toy) -> None:
    plan = planned(model, task, shortcuts=True, prelu=True)
    assert plan.also == {
        "relu1": {"prelu": 32},
        "relu2": {"prelu": 64},
        "plain": {"norm": "bn1", "stride": 1, "copies": 1},
        "wide": {"norm": "bn2", "stride": 2, "copies": 2},
    }
    result = Binarize(shortcuts=True, prelu=True)(model, task)
    assert isinstance(result, Network)
    assert isinstance(result.relu1, ShiftedPReLU)
    assert isinstance(result.wide, BinaryUnit)
    assert isinstance(result.bn2, nn.Identity)
    x = torch.randn(2, 32, 7, 7)
    layer = result.wide.norm(result.wide.layer(x))
    torch.testing.assert_close(result.wide(x) - layer, result.wide.shortcut(x))


def test_a_relu_whose_channels_come_last_stays() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.conv, self.relu1 = nn.Conv1d(4, 32, 3), nn.Conv1d(32, 40, 3), nn.ReLU()
            self.wide, self.relu2, self.last = nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.relu2(self.wide(self.relu1(self.conv(self.first(x)))))).mean(1)

    model, task = Tokens().eval(), Toy(torch.randn(6, 4, 12))
    plan = planned(model, task, activations=None, prelu=True)
    assert plan.also == {"relu1": {"prelu": 40}}
    assert "relu2 stays as it is: its channels come last" in plan.notes["wide.weight"]
    assert Binarize(activations=None, prelu=True)(model, task)(torch.randn(3, 4, 12)).shape == (3, 5)
    assert Binarize(prelu=True)(model, task)(torch.randn(3, 4, 12)).shape == (3, 5)


def test_an_encoder_layer_calls_its_binary_layers() -> None:
    encoder = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
    model, task = nn.Sequential(nn.Linear(4, 16), encoder, nn.Linear(16, 5)).eval(), Toy(torch.randn(6, 7, 4))
    result, x = Binarize()(model, task), torch.randn(3, 7, 4)
    wanted = result(x)
    with torch.no_grad():  # where torch would take its fast path
        torch.testing.assert_close(result(x), wanted)


@pytest.mark.parametrize(
    ("network", "around"),
    [
        ("resnet20", [f"stage{i}.{j}.conv2" for i in (1, 2, 3) for j in (0, 1, 2)]),
        ("resnet18,classes=5,size=32,width=8", [f"layer{i}.{j}.conv2" for i in (1, 2, 3, 4) for j in (0, 1)]),
        (
            "resnet50,classes=5,size=32,width=8",
            [f"layer{i}.{j}.conv2" for i, n in ((1, 3), (2, 4), (3, 6), (4, 3)) for j in range(n)],
        ),
    ],
)
def test_no_block_adds_its_input_twice(network: str, around: list[str], task: Toy) -> None:
    """Otherwise what passes doubles from block to block."""
    torch.manual_seed(0)
    model, few = zoo.build(network).eval(), Toy(torch.randn(2, 3, 32, 32))
    plan = planned(model, few, shortcuts=True)
    assert list(plan.also) == around
    left = [path for path in plan.do if path.endswith("conv1.weight")]
    assert all(plan.notes[path].endswith("its block adds its input already") for path in left)
    stages = Binarize(activations=None, shortcuts=True)(Binarize(weights=None, shortcuts=True)(model, few), few)
    units = [path for path, module in stages.named_modules() if isinstance(module, BinaryUnit)]
    assert units == around


def test_two_stages(model: Network, task: Toy) -> None:
    first = Binarize(weights=None)(model, task)
    assert not encodings.chain(by_path(first)["plain.weight"])
    second = Binarize(activations=None)(first, task)
    other = Binarize(weights=None)(Binarize(activations=None)(model, task), task)
    for result in (second, other):
        assert isinstance(result, Network)
        assert isinstance(result.plain, BinaryConv2d)
        assert isinstance(result.few, BinaryLinear)
        assert encodings.describe(by_path(result)["wide.weight"]) == "1 bit, a scale per filter"
    assert torch.equal(second(task.inputs), Binarize()(model, task)(task.inputs))
    with pytest.raises(StepError, match="1 bit, a scale per filter already, and so is its input"):
        planned(second, task)


def test_only_weights_of_other_layers(task: Toy) -> None:
    model = nn.Sequential(nn.Conv1d(4, 8, 3), nn.Conv1d(8, 8, 3), nn.ConvTranspose1d(8, 8, 3), nn.Conv1d(8, 2, 3))
    lines = Toy(torch.randn(2, 4, 12))
    plan = planned(model, lines, activations=None)
    assert list(plan.do) == ["1.weight"]
    assert plan.leave["2.weight"] == "part of ConvTranspose1d, which is no plain convolution or Linear"
    with pytest.raises(
        StepError, match=r"^Binarize found no layer .*part of Conv1d, which is no plain Conv2d or Linear"
    ):
        planned(model, lines)


def test_what_is_stored_already(model: Network, task: Toy) -> None:
    pruned = PruneWeights(sparsity=0.5, skip=("few",))(model, task)
    why = planned(pruned, task).leave["plain.weight"]
    assert why == "stored as 50.0% zeros already: put Binarize before the step that did it"
    result = Binarize()(model, task)
    for step in (PruneWeights(sparsity=0.5), Quantize(activations=None), Half()):
        reason = step.plan(result, Context(task=task)).leave["plain.weight"]
        assert "1 bit, a scale per filter already" in reason


class Reaches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.middle, self.never = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.middle(self.stem(x)))


def test_what_the_examples_do_not_reach() -> None:
    task = Toy(torch.randn(2, 4))
    assert planned(Reaches(), task).leave["never.weight"] == "the examples do not reach it"
    assert "never.weight" in planned(Reaches(), task, activations=None).do


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"activations": 5}, "1 to 4 bits: each bit takes the time of a whole binary layer.*is faster, not 5$"),
        ({"activations": "binary"}, "^Binarize.activations: should be sign, null or 1 to 4 bits, not 'binary'$"),
        ({"activations": True}, "should be sign, null or 1 to 4 bits, not True"),
        ({"weights": None, "activations": None}, "weights and activations are both null"),
        ({"stochastic": True, "clip": None}, "stochastic needs a clip"),
        ({"balanced": True, "weights": "ternary"}, "stochastic and balanced are for weights: sign"),
        ({"input_scale": True, "activations": 2}, "input_scale and thresholds are for activations: sign"),
        ({"clip": -1}, "greater than 0"),
        ({"keep": ("middle",)}, "'first', 'last' or 'pointwise'"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Binarize(**settings)


def test_the_structure_is_the_plans(model: Network, task: Toy) -> None:
    step = Binarize(shortcuts=True, prelu=True, activations=2)
    plan = step.plan(model, Context(task=task))
    torch.manual_seed(5)
    blank = step.apply(Network().eval(), Plan(**plan.model_dump(mode="json")), Context(cast(Task, None), blank=True))
    result = step(model, task)
    restore(blank, model_tensors(result), "test")
    assert torch.equal(blank(task.inputs), result(task.inputs))


def test_a_binary_network_of_the_zoo_trains(tmp_path: Path) -> None:
    model, task = zoo.build("resnet20-binary,width=2"), Toy(torch.randn(4, 3, 16, 16))
    bits = {path: w for path, w in by_path(model).items() if isinstance(encodings.find(w, Signs), Signs)}
    assert len(bits) == 18
    before = {path: w.values.detach().clone() for path, w in bits.items()}
    trained(model, task)
    assert all(not torch.equal(before[path], w.values.detach()) for path, w in bits.items())
    first = Binarize(activations=None).plan(zoo.build("resnet20-binary,width=2,weights=float"), Context(task=task))
    assert first.do.keys() == bits.keys()


def test_the_loss_falls() -> None:
    """A teacher of random signs is learnt again from their products."""
    torch.manual_seed(0)
    x = torch.randn(256, 32)
    teacher = nn.Sequential(nn.Linear(32, 64), nn.BatchNorm1d(64), nn.Linear(64, 1)).eval()

    class Learn(Toy):
        def loss(self, output: Any, target: Any) -> Tensor:
            return (output - teacher(self.inputs)).square().mean()

    task = Learn(x)
    student = nn.Sequential(
        nn.Linear(32, 64), nn.BatchNorm1d(64), nn.Linear(64, 64), nn.BatchNorm1d(64), nn.Linear(64, 1)
    )
    result = Binarize()(student.eval(), task)
    context = Context(task=task)
    Finetune(epochs=60, lr=0.01).apply(result, Plan(), context)
    losses = [epoch.loss for epoch in context.curve]
    assert losses[-1] < losses[0] / 3
    assert math.isfinite(losses[-1])


class Reading(nn.Module):
    """Reads an attribute of the module `read` in its own code."""

    def __init__(self, read: str) -> None:
        super().__init__()
        self.read = read
        self.stem, self.head = nn.Conv2d(3, 32, 3, padding=1), nn.Linear(32, 5)
        self.one, self.bn1, self.relu = nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()
        self.two, self.bn2 = nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        if self.read == "one":
            x = x.to(self.one.weight.dtype)
        elif self.read == "bn1":
            x = x + self.bn1.eps
        elif self.read == "relu":
            x = x.clone() if self.relu.inplace else x
        x = self.relu(self.bn1(self.one(x)))
        return self.head(self.bn2(self.two(x)).mean((2, 3)))


@pytest.mark.parametrize(("read", "attribute"), [("one", "weight"), ("bn1", "eps"), ("relu", "inplace")])
def test_what_the_code_reads_is_not_replaced(read: str, attribute: str, task: Toy) -> None:
    plan = planned(Reading(read).eval(), task, shortcuts=True, prelu=True)
    assert plan.do.keys() == {"one.weight", "two.weight"}
    gone = {"relu"} if read == "relu" else {"one"}
    assert plan.also.keys() == {"one", "two", "relu"} - gone
    reason = f"the network's own code reads its {attribute} at test_binarize.py:"
    assert reason in plan.notes["one.weight"]
    assert reason not in plan.notes["two.weight"]
    result = Binarize(shortcuts=True, prelu=True)(Reading(read).eval(), task)
    assert result(torch.randn(2, 3, 10, 10)).shape == (2, 5)


def test_a_frozen_layer_keeps_its_weights(model: Network, task: Toy) -> None:
    result = Binarize()(model, task)
    weight = by_path(result)["plain.weight"]
    weight.values.requires_grad_(False)
    before = weight.values.clone()
    assert (before.abs() > cast(Signs, encodings.find(weight, Signs)).bound).any()
    trained(result, task)
    assert torch.equal(by_path(result)["plain.weight"].values, before)


@pytest.mark.parametrize("activations", ["sign", 2])
def test_other_numbers_run_too(activations: Any, model: Network, task: Toy) -> None:
    result = Binarize(activations=activations)(model, task).double().eval()
    assert result(task.inputs.double()).dtype == torch.float64
