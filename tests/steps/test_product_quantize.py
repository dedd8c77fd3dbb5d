"""Shared vectors: how many, of what, for which error."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models import CASES, Toy
from rarefy import encodings
from rarefy.encodings import ProductCodebook
from rarefy.errors import SettingsError, StepError
from rarefy.graph.weights import by_path
from rarefy.step import Context, Step
from rarefy.steps import ClusterWeights, Finetune, Half, ProductQuantize, PruneWeights, ResidualQuantize

TASK = Toy(torch.zeros(2, 64))


class Net(nn.Sequential):
    """Layers whose inputs depend on each other."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 16, 3, padding=1, stride=2),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1, groups=2),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(128, 10),
        )


class Pictures(Toy):
    """Smooth ones, in batches."""

    def __init__(self, seed: int) -> None:
        draw = torch.Generator().manual_seed(seed)
        small = torch.randn(96, 3, 4, 4, generator=draw)
        self.inputs = F.interpolate(small, 12, mode="bilinear") + 0.1 * torch.randn(96, 3, 12, 12, generator=draw)

    def train(self, *, seed: int, rank: int = 0, world: int = 1) -> Any:
        return [(part, None) for part in torch.split(self.inputs, 32)]  # type: ignore[no-untyped-call]


def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


def linear(seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(64, 48)


def link(model: nn.Module, path: str = "weight") -> ProductCodebook:
    found = encodings.find(by_path(model)[path], ProductCodebook)
    assert isinstance(found, ProductCodebook)
    return found


def answer_error(model: nn.Module, step: Step, pictures: Tensor) -> float:
    """Of the whole network, on pictures that no step has seen, over the spread of its answers."""
    with torch.no_grad():
        wanted, found = model(pictures), step(model, Pictures(0))(pictures)
    return float((wanted - found).square().sum() / (wanted - wanted.mean(0)).square().sum())


@pytest.mark.parametrize(
    "step",
    [
        ProductQuantize(length=4, bits=4),
        ProductQuantize(length=9, bits=4, by="kernels"),
        ProductQuantize(length=8, bits=3, book="place", skip=("0", "4")),
        ResidualQuantize(length=8, bits=3, stages=2),
    ],
    ids=["channels", "kernels", "places", "residual"],
)
def test_for_the_output_beats_for_the_weights_at_equal_bytes(step: Step) -> None:
    model, held_out = net(), Pictures(1).inputs
    by_weight, by_output = (answer_error(model, step.replace(objective=o), held_out) for o in ("weight", "output"))
    assert by_output < 0.6 * by_weight
    sizes = []
    for objective in ("weight", "output"):
        done = step.replace(objective=objective)(model, Pictures(0))
        sizes.append(sum(encodings.stored_bits(w) for w in by_path(done).values()))
    assert sizes[0] == sizes[1]


def test_later_layers_make_up_for_earlier_ones() -> None:
    """The error that is made in the first layer is smaller behind a second one that was coded to it."""
    model, pictures = net(), Pictures(1).inputs
    first = ProductQuantize(length=4, bits=2, objective="output", layers={"2": {"bits": 6}}, skip=("4", "8"))
    both = first(model, Pictures(0))
    alone = copy.deepcopy(both)
    blind = ProductQuantize(length=4, bits=6, objective="output", skip=("0", "4", "8"))(model, Pictures(0))
    alone[2] = copy.deepcopy(blind[2])  # as good for the inputs of the original network
    with torch.no_grad():
        wanted, known, unknown = (m[2](m[1](m[0](pictures))) for m in (model, both, alone))
    assert (wanted - known).square().sum() < 0.9 * (wanted - unknown).square().sum()


def test_one_book_or_one_for_each_place() -> None:
    one = ProductQuantize(length=8, bits=3)(linear(), TASK)
    own = ProductQuantize(length=8, bits=3, book="place", layers={"*": {"bits": 2}})(linear(), TASK)
    assert by_path(one)["weight"].values.shape == (1, 1, 8, 8)
    assert by_path(own)["weight"].values.shape == (1, 8, 4, 8)
    vectors = link(one).subvectors.cut(one.weight.detach())
    assert len(vectors.flatten(0, 1).unique(dim=0)) == 8
    assert all(
        len(vectors_of.unique(dim=0)) == 4 for vectors_of in link(own).subvectors.cut(own.weight.detach()).unbind(1)
    )


def test_sizes_and_reasons() -> None:
    model, context = net(), Context(task=Pictures(0))
    plan = ProductQuantize(length=8, bits=4, layers={"8": {"length": 4}}).plan(model, context)
    assert plan.do["0.weight"] == {"length": 7, "by": "kernels", "k": 16, "stages": 1, "books": 1, "output": False}
    assert plan.do["2.weight"] == {"length": 8, "by": "channels", "k": 16, "stages": 1, "books": 1, "output": False}
    assert plan.do["8.weight"]["length"] == 4
    assert plan.notes["8.weight"] == "16 vectors of 4 (1.00 bits a weight)"
    assert plan.leave["8.bias"] == "one-dimensional (bias or normalisation), 10 values"
    output = ProductQuantize(length=9, bits=4, by="kernels", objective="output", skip=("0",)).plan(model, context)
    assert output.notes["2.weight"] == "16 vectors of 9 (0.44 bits a weight), for the output"
    assert output.leave["0.weight"] == "skipped, as set"
    large = ProductQuantize(length=8, bits=8).plan(linear(), Context(task=TASK))
    assert large.do["weight"]["k"] == 256
    small = ProductQuantize(length=8, bits=8, skip=("8",))
    with pytest.raises(
        StepError, match=r"no weight .*0\.weight: books of 256 vectors of 7 would be larger than its 432"
    ):
        small.replace(skip=("2", "4", "8")).plan(model, context)


def test_weights_that_no_layer_multiplies_with_are_fitted_themselves() -> None:
    case = CASES["tied"]
    plan = ProductQuantize(length=4, bits=2, objective="output").plan(case.model(), Context(task=case.task()))
    assert plan.do["embedding.weight"]["output"] is False
    assert plan.do["mix.weight"]["output"] is True
    assert "for the weights: it is not that of Linear or Conv2d layers" in plan.notes["embedding.weight"]
    by_weight, by_output = (
        ProductQuantize(length=4, bits=2, objective=o)(case.model(), case.task()) for o in ("weight", "output")
    )
    assert torch.equal(by_weight.get_submodule("head").weight, by_output.get_submodule("head").weight)


@pytest.mark.parametrize(
    ("before", "words"),
    [
        (PruneWeights(sparsity=0.5), "50.0% zeros"),
        (ClusterWeights(bits=4), "codebook of 16"),
        (ProductQuantize(length=8, bits=4), "product codebook of 16 vectors of 8"),
    ],
    ids=["pruned", "shared", "vectors"],
)
def test_other_encodings_come_afterwards(before: Step, words: str) -> None:
    done = before(linear(), TASK)
    reason = f"weight: stored as {words} already: put ProductQuantize before the step that did it"
    with pytest.raises(StepError, match=reason):
        ProductQuantize(length=4, bits=2)(done, TASK)
    vectors = ProductQuantize(length=4, bits=2)(linear(), TASK)
    with pytest.raises(StepError, match=r"product codebook of 4 vectors of 4 already: put ClusterWeights before"):
        ClusterWeights(bits=4)(vectors, TASK)


@pytest.mark.parametrize("first", [True, False])
def test_books_of_sixteen_bits(first: bool) -> None:
    model, vectors = linear(), ProductQuantize(length=8, bits=4)
    result = vectors(Half()(model, TASK), TASK) if first else Half()(vectors(model, TASK), TASK)
    weight = by_path(result)["weight"]
    assert [type(found) for found in encodings.chain(weight)] == [encodings.Half, ProductCodebook]
    assert encodings.stored_bits(weight) == 16 * 8 * 16 + 48 * 8 * 4


@pytest.mark.parametrize("step", [ProductQuantize(length=4, bits=3), ResidualQuantize(length=8, bits=3)])
def test_finetuning_trains_the_books_and_keeps_the_codes(step: Step) -> None:
    model, task = net(), Pictures(0)
    coded = step.replace(skip=("0", "4"))(model, task)
    tuned = Finetune(epochs=4, lr=0.01)(coded, task)
    codes = [link(m, "2.weight").indices for m in (coded, tuned)]
    assert torch.equal(*codes)
    assert not torch.equal(*(by_path(m)["2.weight"].values for m in (coded, tuned)))
    losses = [float(task.loss(m(task.inputs), None).detach()) for m in (coded, tuned)]
    assert losses[1] < 0.95 * losses[0]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"length": 0}, r"ProductQuantize\.length: Input should be greater than or equal to 1, not 0"),
        ({"bits": 13}, r"ProductQuantize\.bits: Input should be less than or equal to 12, not 13"),
        ({"by": "rows"}, r"ProductQuantize\.by: Input should be 'channels' or 'kernels', not 'rows'"),
        ({"layers": {"*": {"k": 4}}}, r"k: no such setting; Vectors has: length, bits"),
        ({"objective": "output", "examples": 0}, r"ProductQuantize\.examples: Input should be greater"),
    ],
)
def test_settings(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        ProductQuantize(**wrong)


def test_the_plan_alone_makes_the_structure() -> None:
    step, context = ResidualQuantize(length=4, bits=3, objective="output"), Context(task=Pictures(0))
    plan = step.plan(net(), context)
    done, blank = step.apply(net(), plan, context), step.apply(net(), plan, Context(task=None, blank=True))  # type: ignore[arg-type]
    assert {n: t.shape for n, t in done.state_dict().items()} == {n: t.shape for n, t in blank.state_dict().items()}
    blank.load_state_dict(done.state_dict())
    assert torch.equal(done(Pictures(1).inputs), blank(Pictures(1).inputs))
