"""Swapping convolutions: what is chosen, what is left and why, what is shared, and that the start is near."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import Toy
from rarefy import zoo
from rarefy.errors import SettingsError, StepError
from rarefy.layers import ChannelShuffle
from rarefy.step import Context, Plan
from rarefy.steps import ClusterWeights, Half
from rarefy.steps.swap_convs import Block, SwapConvs

BLOCKS = ("separable", "fire", "shuffle")


class Net(nn.Module):
    """A first layer, an ordinary one, a grouped one, 1x1, and one of which the weight alone is used."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.main = nn.Conv2d(16, 32, 3, padding=1, stride=2)
        self.grouped = nn.Conv2d(32, 32, 3, padding=1, groups=4)
        self.point = nn.Conv2d(32, 32, 1)
        self.loose = nn.Conv2d(32, 32, 3)
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.point(self.grouped(self.main(self.first(x))))
        x = F.conv2d(x, self.loose.weight)
        return self.head(x.mean((2, 3)))


def net() -> nn.Module:
    torch.manual_seed(0)
    return Net().eval()


IMAGES = torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def task() -> Toy:
    return Toy(IMAGES)


def planned(step: SwapConvs, model: nn.Module, inputs: Any = IMAGES) -> Plan:
    return step.plan(model, Context(task=Toy(inputs)))


def test_what_is_taken_and_what_is_left() -> None:
    plan = planned(SwapConvs(), net())
    after = 16 * 9 + 16 * 32
    assert plan.do.keys() == {"main.weight"}
    decision = plan.do["main.weight"]
    assert decision["block"] == "separable"
    assert decision["multiplier"] == 1
    assert decision["weights"] == [4608, after]
    assert decision["macs"] == [4608 * 36, after * 36]
    assert 0 < decision["error"] < 1
    assert "separable: 4,608 -> 656 weights, 165,888 -> 23,616 multiply-accumulates; " in plan.notes["main.weight"]
    assert plan.leave["first.weight"] == "3 input channels, fewer than min_channels 4: name it in layers"
    assert plan.leave["grouped.weight"] == "it has 4 groups already"
    assert plan.leave["point.weight"] == "a 1x1 convolution has no kernel to take apart"
    assert plan.leave["loose.weight"] == "the network does not call loose, but may use the weight directly"
    assert plan.leave["head.weight"] == "part of Linear, which is not a plain Conv2d"
    assert plan.leave["main.bias"] == "a bias, 32 values: stays as it is"


def test_multiply_accumulates_of_a_squeeze_are_those_before_the_stride() -> None:
    plan = planned(SwapConvs(block="fire"), net())
    assert plan.do["main.weight"]["macs"] == [4608 * 36, 16 * 8 * 144 + (8 * 16 + 8 * 16 * 9) * 36]


def test_choosing() -> None:
    step = SwapConvs(min_channels=17, layers={"first": Block(), "main": Block(block="shuffle", groups=8)})
    plan = planned(step, net())
    assert {path: decision["block"] for path, decision in plan.do.items()} == {
        "first.weight": "separable",
        "main.weight": "shuffle",
    }
    model = step(net(), task())
    assert model.get_submodule("main.shuffle").groups == 8
    assert planned(SwapConvs(min_channels=1, skip=("main",)), net()).do.keys() == {"first.weight"}


@pytest.mark.parametrize("block", BLOCKS)
def test_the_answers_are_those_of_the_nearest_weights(block: Any) -> None:
    step, model = SwapConvs(block=block), net()
    small = step(model, task())
    x = torch.randn(2, 16, 12, 12)
    with torch.no_grad():
        a, b = small.get_submodule("main")(x), model.get_submodule("main")(x)
    assert a.shape == b.shape
    error = planned(step, model).do["main.weight"]["error"]
    assert float((a - b).norm() / b.norm()) == pytest.approx(error, rel=0.25)  # white noise: the error of the weights
    assert small.get_submodule("main").training is False


@pytest.mark.parametrize("block", BLOCKS)
def test_blank_builds_the_same_structure(block: Any) -> None:
    step = SwapConvs(block=block, min_channels=1)
    plan = planned(step, net())
    whole = step.apply(net(), plan, Context(task=task()))
    blank = step.apply(net(), Plan(**plan.model_dump()), Context(task=None, blank=True))  # type: ignore[arg-type]
    blank.load_state_dict(whole.state_dict())
    with torch.no_grad():
        assert torch.equal(blank(IMAGES), whole(IMAGES))


def test_the_plan_decides_and_not_the_settings() -> None:
    plan = planned(SwapConvs(layers={"main": Block(multiplier=3)}), net())
    model = SwapConvs(block="fire").apply(net(), plan, Context(task=task()))
    assert model.get_submodule("main.depthwise").weight.shape == (48, 1, 3, 3)


def test_a_network_that_is_a_convolution() -> None:
    images = torch.randn(2, 8, 6, 6)
    small = SwapConvs(block="shuffle")(nn.Conv2d(8, 16, 3), Toy(images))
    assert isinstance(small, nn.Sequential)
    assert small(images).shape == (2, 16, 4, 4)


class Shared(nn.Module):
    """One convolution twice, and another with its weight, its own bias and stride."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(8, 8, 3, padding=1)
        self.same, self.other = self.one, nn.Conv2d(8, 8, 3, padding=1, stride=2)
        self.other.weight = self.one.weight

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        return {"sum": self.other(self.same(self.one(x))) + self.other(y)}


@pytest.mark.parametrize("block", BLOCKS)
def test_what_is_shared_stays_shared(block: Any) -> None:
    torch.manual_seed(0)
    model, inputs = Shared().eval(), (torch.randn(4, 8, 6, 6), torch.randn(4, 8, 6, 6))
    small = SwapConvs(block=block)(model, Toy(inputs))
    assert small.get_submodule("one") is small.get_submodule("same")
    one, other = (dict(small.get_submodule(path).named_parameters()) for path in ("one", "other"))
    assert all((one[name] is other[name]) == (one[name].ndim == 4) for name in one)
    assert small(*inputs)["sum"].shape == model(*inputs)["sum"].shape
    plan = planned(SwapConvs(block=block), model, inputs)
    assert plan.do["one.weight"]["macs"][0] == 576 * (2 * 36 + 2 * 9)


def test_encoded_weights_name_the_remedy() -> None:
    model = ClusterWeights(bits=4, layers={}, skip=("first", "head"))(net(), task())
    plan = planned(SwapConvs(min_channels=1), model)
    assert plan.leave["main.weight"] == "stored as codebook of 16 already: put SwapConvs before the step that did it"
    with pytest.raises(StepError, match=r"^SwapConvs found no .*first.weight: stored as .* put SwapConvs before"):
        planned(SwapConvs(), Half()(net(), task()))


def test_hooks_and_blocks_that_are_not_lighter_are_left() -> None:
    model = net()
    model.get_submodule("main").register_forward_hook(lambda *_: None)
    with pytest.raises(StepError, match=r"main.weight: its layer carries hooks, which would be lost"):
        planned(SwapConvs(), model)
    with pytest.raises(
        StepError, match=r"main.weight: its block would not be lighter: 5,9\d\d weights instead of 4,608"
    ):
        planned(SwapConvs(multiplier=9), net())
    with pytest.raises(StepError, match=r"main.weight: 16 -> 32 channels do not divide into 3 groups"):
        planned(SwapConvs(block="shuffle", groups=3), net())


def test_settings() -> None:
    with pytest.raises(SettingsError, match=r"SwapConvs\.block"):
        SwapConvs(block="squeeze")  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match=r"SwapConvs\.groups: .*greater than or equal to 2"):
        SwapConvs(block="shuffle", groups=1)
    with pytest.raises(StepError, match=r"SwapConvs: no parameter matches mian; the network has first"):
        planned(SwapConvs(layers={"mian": Block()}), net())


def test_a_network_of_the_zoo_becomes_one_of_shuffles() -> None:
    model = zoo.build("resnet20", width=16)
    images = torch.randn(2, 3, 16, 16)
    small = SwapConvs(block="shuffle")(model, Toy(images))
    assert sum(isinstance(m, ChannelShuffle) for m in small.modules()) == 18
    assert small(images).shape == (2, 10)


class Reading(nn.Module):
    """Asks its first layers for their type."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.last = nn.Conv2d(8, 32, 3), nn.Conv2d(32, 32, 3), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.two(self.one(x.to(self.one.weight.dtype))).mean((2, 3)))


def test_a_layer_that_the_code_reads_is_left() -> None:
    task = Toy(torch.randn(2, 8, 9, 9))
    step, context = SwapConvs(min_channels=1), Context(task=task)
    plan = step.plan(Reading().eval(), context)
    assert "the network's own code reads its weight at test_swap_convs.py" in plan.leave["one.weight"]
    assert "two.weight" in plan.do
    step(Reading().eval(), task)(torch.randn(2, 8, 9, 9))


def test_where_all_is_left_no_data_are_needed() -> None:
    class Without(Toy):
        def train(self, *, seed: int, rank: int = 0, world: int = 1) -> Any:
            raise AssertionError("asked for")

    with pytest.raises(StepError, match=r"0\.weight: skipped, as set"):
        SwapConvs(skip=("*",)).plan(nn.Sequential(nn.Conv2d(8, 32, 3)), Context(task=Without(torch.randn(1))))
