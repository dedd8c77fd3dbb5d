"""PruneLayers against trying every removal by hand, on networks whose least important block is known."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import CASES, Case, Toy, outputs
from rarefy import budget, encodings
from rarefy.encodings import adopted
from rarefy.errors import SettingsError, StepError
from rarefy.graph.weights import weights
from rarefy.step import Context, Plan
from rarefy.steps.prune_layers import PruneLayers
from rarefy.task import forward
from structures import STRUCTURES


class Block(nn.Module):
    """A residual block; its width inside is its cost."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(8, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, x + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


class Deep(nn.Module):
    def __init__(self, widths: tuple[int, ...] = (4, 8, 12, 16, 24)) -> None:
        super().__init__()
        self.stem, self.layer1 = nn.Conv2d(3, 8, 3, padding=1), nn.Sequential(*(Block(w) for w in widths))
        self.mix = nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.mix(self.layer1(self.stem(x))))
        return cast(Tensor, self.head(x.mean((2, 3))))


class Batches(Toy):
    """Two batches of different sizes; what `model` answers is right, else zeros."""

    def __init__(self, inputs: Tensor, model: nn.Module | None = None) -> None:
        super().__init__(inputs)
        with torch.no_grad():
            self.right = torch.zeros(len(inputs), 5) if model is None else model(inputs)

    def train(self, *, seed: int, rank: int = 0, world: int = 1) -> Any:
        return [(self.inputs[:3], self.right[:3]), (self.inputs[3:], self.right[3:])]

    def loss(self, output: Any, target: Any) -> Tensor:
        return cast(Tensor, (output - target).square().mean())


EVERY = {**{f"{name}, small": case for name, case in CASES.items()}, **STRUCTURES}
BLOCKS = [f"layer1.{i}" for i in range(5)]
DEEP = Case(Deep, lambda: torch.randn(4, 3, 8, 8))


def context(case: Case = DEEP, seed: int = 0, right: nn.Module | None = None) -> Context:
    return Context(task=Batches(case.batch(), right), seed=seed)


def removed(plan: Plan) -> list[str]:
    """The units, in the order of the network."""
    return list(dict.fromkeys("+".join(d["removed"]) for d in plan.do.values()))


def bypassed(model: nn.Module, paths: list[str]) -> nn.Module:
    """By hand."""
    model = copy.deepcopy(model)
    for path in paths:
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, nn.Identity())
    return model.eval()


def loss(model: nn.Module, task: Batches) -> float:
    with torch.no_grad():
        whole = [(float(task.loss(model(x), t)), len(x)) for x, t in task.train(seed=0)]
    return sum(value * count for value, count in whole) / sum(count for _, count in whole)


def greedy(model: nn.Module, units: list[str], count: int, task: Batches) -> list[str]:
    gone: list[str] = []
    for _ in range(count):
        rest = [u for u in units if u not in gone]
        gone.append(min(rest, key=lambda u: loss(bypassed(model, [*gone, u]), task)))
    return gone


def shares(model: nn.Module, gone: list[str], kind: str) -> float:
    inputs = DEEP.batch()
    count = {"macs": lambda m: budget.macs(m, inputs), "parameters": budget.parameters}[kind]
    return count(bypassed(model, gone)) / count(model)


@pytest.mark.parametrize("by", ["loss", "similarity"])
@pytest.mark.parametrize("useless", [0, 3])
def test_a_block_that_does_nothing_goes_first(by: str, useless: int) -> None:
    model = DEEP.model()
    nn.init.zeros_(model.get_parameter(f"layer1.{useless}.bn2.weight"))
    nn.init.zeros_(model.get_parameter(f"layer1.{useless}.bn2.bias"))
    step = PruneLayers(count=1, by=by)
    assert removed(step.plan(model, context(right=model))) == [f"layer1.{useless}"]
    shallow = step(model, context(right=model).task)
    assert isinstance(shallow.get_submodule(f"layer1.{useless}"), nn.Identity)
    assert torch.equal(shallow(DEEP.batch()), model(DEEP.batch()))


@pytest.mark.parametrize("count", [1, 3, 6])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_loss_is_that_of_trying_all(count: int, seed: int) -> None:
    model, task = DEEP.model(seed), Batches(DEEP.batch())
    units = [*BLOCKS, "mix"]
    plan = PruneLayers(count=count).plan(model, context())
    assert set(removed(plan)) == set(greedy(model, units, count, task))
    plan = PruneLayers(count=count, rescore=False).plan(model, context())
    assert set(removed(plan)) == set(sorted(units, key=lambda u: loss(bypassed(model, [u]), task))[:count])
    costs = {u: loss(bypassed(model, [u]), task) - loss(model, task) for u in units}
    for path, note in {**plan.notes, **{p: w for p, w in plan.leave.items() if "its removal costs" in w}}.items():
        unit = next(u for u in units if path.startswith(u + "."))
        assert float(note.split("costs ")[1].split()[0]) == pytest.approx(costs[unit], rel=1e-3)


def test_similarity_is_that_of_what_goes_in_and_out() -> None:
    model, task = DEEP.model().double(), Batches(DEEP.batch().double())
    model.requires_grad_(False)
    x, changes = cast(Tensor, model.get_submodule("stem")(task.inputs)), {}
    for name in BLOCKS:
        y = model.get_submodule(name)(x)
        norms = [t.flatten(1).norm(dim=1) for t in (y - x, x, y)]
        changes[name], x = float((norms[0] / torch.maximum(norms[1], norms[2])).mean()), y
    plan = PruneLayers(count=2, by="similarity", what="blocks", rescore=False).plan(DEEP.model(), context())
    assert removed(plan) == sorted(sorted(changes, key=changes.__getitem__)[:2])
    first = removed(plan)[0]
    assert plan.notes[f"{first}.conv1.weight"] == (
        f"taken out with {first}: it changes what passes by {changes[first]:.1%}"
    )


def test_chance_is_a_baseline_that_the_seed_fixes() -> None:
    model = DEEP.model()
    found = [removed(PruneLayers(count=2, by="random").plan(model, context(seed=seed))) for seed in range(6)]
    assert found == [removed(PruneLayers(count=2, by="random").plan(model, context(seed=seed))) for seed in range(6)]
    assert len({tuple(f) for f in found}) > 3


class TestBudget:
    @pytest.mark.parametrize("kind", ["macs", "parameters"])
    @pytest.mark.parametrize("share", [0.9, 0.6, 0.3])
    @pytest.mark.parametrize("rescore", [True, False])
    def test_is_reached_and_nothing_more_is_taken(self, kind: str, share: float, rescore: bool) -> None:
        model, told = DEEP.model(), context()
        plan = PruneLayers(**{kind: share}, rescore=rescore).plan(model, told)
        gone = removed(plan)
        left = shares(model, gone, kind)
        assert left <= share
        rest = [unit for unit in [*BLOCKS, "mix"] if unit not in gone]
        put_back = [shares(model, [g for g in gone if g != back], kind) for back in gone]
        swapped = [shares(model, [g for g in gone if g != back] + [r], kind) for back in gone for r in rest]
        assert all(other > share for other in put_back)
        assert left >= 0.98 * share or all(other > share or other <= left + 1e-9 for other in swapped)
        assert bool(told.warnings) == (left < 0.98 * share)
        assert all(f"leaves {left:.1%} where at most {share:.1%} of the" in warning for warning in told.warnings)
        counted = sum(model.get_parameter(path).numel() for path in plan.do)
        assert counted == budget.parameters(model) - budget.parameters(bypassed(model, gone))

    def test_of_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        looks: list[float] = []

        @contextmanager
        def timing(model: nn.Module, inputs: Any) -> Iterator[Callable[[nn.Module], float]]:
            before = budget.macs(model, inputs)

            def share(other: nn.Module) -> float:
                looks.append(budget.macs(other, inputs) / before)
                return looks[-1]

            yield share

        monkeypatch.setattr(budget, "timing", timing)
        model = DEEP.model()
        gone = removed(PruneLayers(latency=0.6).plan(model, context()))
        assert shares(model, gone, "macs") <= 0.6
        assert len(looks) <= 5

    def test_is_of_what_the_run_began_with(self) -> None:
        first = DEEP.model()
        half = PruneLayers(macs=0.6)(first, context().task)
        gone = {n for n, m in half.named_modules() if isinstance(m, nn.Identity)}
        told = Context(task=context().task, original=first)
        more = gone | set(removed(PruneLayers(macs=0.3).plan(half, told)))
        assert shares(first, sorted(gone), "macs") > 0.3 >= shares(first, sorted(more), "macs")
        plan = PruneLayers(macs=0.6).plan(half, told)
        assert not plan.do
        assert "PruneLayers takes nothing out: the network needs no more than 60.0% of the mult" in told.warnings[-1]
        assert "stays: the budget is met already" in plan.leave.values()

    def test_out_of_reach(self) -> None:
        with pytest.raises(StepError, match=r"^PruneLayers cannot leave 1\.0% of the parameters: .* is the least"):
            PruneLayers(parameters=0.01).plan(DEEP.model(), context())
        with pytest.raises(StepError, match="count is 7, and only 6 layers and blocks can be taken out"):
            PruneLayers(count=7).plan(DEEP.model(), context())
        with pytest.raises(StepError, match=r"a share of 0\.05 is none of 6 layers and blocks; give a larger share"):
            PruneLayers(share=0.05).plan(DEEP.model(), context())

    def test_of_count_and_share(self) -> None:
        assert len(removed(PruneLayers(share=0.5).plan(DEEP.model(), context()))) == 3
        with pytest.raises(SettingsError, match="one of count, share, macs, parameters, latency, not none"):
            PruneLayers()
        with pytest.raises(SettingsError, match="not count and macs"):
            PruneLayers(count=1, macs=0.5)


class TestCandidates:
    def test_blocks_layers_or_both(self) -> None:
        model = DEEP.model()
        both = removed(PruneLayers(count=6).plan(model, context()))
        assert both == [*BLOCKS, "mix"]
        blocks = PruneLayers(count=5, what="blocks").plan(model, context())
        assert removed(blocks) == BLOCKS
        assert blocks.leave["mix.weight"] == "one of the layers, and what is 'blocks'"
        layers = PruneLayers(count=3, what="layers").plan(model, context())
        assert removed(layers) == ["layer1.1.conv1+layer1.1.bn1", "layer1.1.conv2+layer1.1.bn2", "mix"]
        assert layers.leave["layer1.0.conv1.weight"] == "changes the shape (8x8x8 -> 4x8x8)"
        assert layers.leave["head.weight"] == "changes the shape (8 -> 5)"

    def test_a_convolution_goes_with_its_batchnorm(self) -> None:
        class Pair(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.stem, self.conv, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 5, 1)
                self.norm = nn.BatchNorm2d(8, affine=False)

            def forward(self, x: Tensor) -> Tensor:
                return cast(Tensor, self.head(F.relu(self.norm(self.conv(self.stem(x))))))

        model = Pair().eval()
        plan = PruneLayers(count=1).plan(model, Context(task=Toy(DEEP.batch())))
        assert removed(plan) == ["conv+norm"]
        after = PruneLayers(count=1)(model, Toy(DEEP.batch()))
        assert list(after.state_dict()) == ["stem.weight", "stem.bias", "head.weight", "head.bias"]

    def test_what_gives_the_answer_stays(self) -> None:
        model = nn.Sequential(nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 5), nn.Softmax(1))
        case = Case(lambda: model, lambda: torch.randn(4, 5))
        plan = PruneLayers(count=1).plan(model, context(case))
        assert removed(plan) == ["0"]
        assert plan.leave["2.weight"] == "gives or holds the network's answer"

    def test_skipped(self) -> None:
        model = DEEP.model()
        skip = ("layer1.0", "layer1.[24]", "*.3.conv1", "mix.bias", "head")
        plan = PruneLayers(count=1, skip=skip).plan(model, context())
        assert removed(plan) == ["layer1.1"]
        assert plan.leave["layer1.0.bn1.weight"] == plan.leave["mix.weight"] == "skipped, as set"
        assert plan.leave["head.weight"] == "skipped, as set"
        with pytest.raises(StepError, match="count is 2, and only 1 layers"):
            PruneLayers(count=2, skip=skip).plan(model, context())
        with pytest.raises(StepError, match=r"PruneLayers: no parameter matches layer1\.7; the network has stem"):
            PruneLayers(count=1, skip=("layer1.7",)).plan(model, context())

    def test_stages_are_opened_and_residual_blocks_are_not(self) -> None:
        class Stage(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.blocks = nn.ModuleList([Block(4), Block(4)])

            def forward(self, x: Tensor) -> Tensor:
                for block in self.blocks:
                    x = block(x)
                return x

        model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Sequential(Stage(), Stage()), nn.Conv2d(8, 5, 1)).eval()
        plan = PruneLayers(count=4).plan(model, Context(task=Toy(DEEP.batch())))
        assert removed(plan) == ["1.0.blocks.0", "1.0.blocks.1", "1.1.blocks.0", "1.1.blocks.1"]

    def test_not_called_once_in_every_pass(self) -> None:
        class Sometimes(Deep):
            def forward(self, x: Tensor) -> Tensor:
                x = self.layer1(self.stem(x))
                return cast(Tensor, self.head((self.mix(x) if len(x) > 1 else x).mean((2, 3))))

        plan = PruneLayers(count=5).plan(Case(Sometimes, DEEP.inputs).model(), context())
        assert plan.leave["mix.weight"] == "not called once in every pass"

    def test_works_in_place(self) -> None:
        class InPlace(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.conv = nn.Conv2d(8, 8, 1)

            def forward(self, x: Tensor) -> Tensor:
                return x.mul_(3.0) + 0 * self.conv(x)

        model = Deep(()).eval()
        model.layer1 = nn.Sequential(InPlace(), Block(4))
        plan = PruneLayers(count=1, by="similarity").plan(model, context())
        assert "changes what passes by 66.7%" in {**plan.notes, **plan.leave}["layer1.0.conv.weight"]

    def test_what_would_stop_training_stays(self) -> None:
        case = CASES["residual"]
        with pytest.raises(StepError, match=r"two\.0\.weight without it the network cannot be trained: it overwrites"):
            PruneLayers(count=1).plan(case.model(), Context(task=case.task()))
        frozen = case.model().requires_grad_(False)
        assert removed(PruneLayers(count=1).plan(frozen, Context(task=case.task()))) == ["two"]

    def test_the_whole_must_run(self) -> None:
        class Needs(Deep):
            def forward(self, x: Tensor) -> Tensor:
                kinds = [isinstance(self.layer1[i], nn.Identity) for i in (0, 1)]
                if all(kinds):
                    raise ValueError("one of the two is needed")
                return super().forward(x)

        model = Case(Needs, DEEP.inputs).model()
        with pytest.raises(StepError, match=r"layer1\.0.* together the network does not run \(ValueError: one of"):
            PruneLayers(count=6, by="random", rescore=False).plan(model, context())


class Attending(nn.Module):
    """Calls its layers with more than a tensor."""

    def __init__(self, layers: int = 4) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.head(self.encoder(x).mean(1)))


class TestTransformers:
    def test_leave_their_list_and_the_other_paths_stay(self) -> None:
        case = Case(Attending, lambda: torch.randn(4, 7, 8))
        model = case.model()
        plan = PruneLayers(count=2).plan(model, context(case))
        gone = removed(plan)
        assert gone == [g for g in gone if g in {f"encoder.layers.{i}" for i in (1, 2, 3)}]
        assert "without it the network does not run (KeyError" in plan.leave["encoder.layers.0.linear1.weight"]
        after = PruneLayers(count=2)(model, context(case).task)
        assert set(after.state_dict()) == set(model.state_dict()) - set(plan.do)
        x = case.batch()
        y = x
        for i in range(4):
            y = y if f"encoder.layers.{i}" in gone else model.get_submodule(f"encoder.layers.{i}")(y)
        assert torch.allclose(after(x), model.head(y.mean(1)), atol=1e-6)

    def test_in_a_sequential_become_identities(self) -> None:
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        model = nn.Sequential(copy.deepcopy(layer), copy.deepcopy(layer), nn.Flatten(), nn.Linear(56, 5)).eval()
        after = PruneLayers(share=0.5)(model, Toy(torch.randn(4, 7, 8)))
        assert sum(isinstance(m, nn.Identity) for m in after) == 1


class TestApply:
    def test_needs_the_plan_alone(self) -> None:
        plan = PruneLayers(count=3).plan(DEEP.model(), context())
        read = Plan(**Plan.model_validate_json(plan.model_dump_json()).model_dump())
        blank = Context(task=cast(Any, None), blank=True)
        one, two = (PruneLayers(count=3).apply(DEEP.model(seed), read, blank) for seed in (0, 5))
        two.load_state_dict(one.state_dict())
        assert torch.equal(one(DEEP.batch()), two(DEEP.batch()))
        assert torch.equal(one(DEEP.batch()), bypassed(DEEP.model(), removed(plan))(DEEP.batch()))

    def test_a_module_at_two_paths(self) -> None:
        model = DEEP.model()
        model.again = model.layer1[2]
        nn.init.zeros_(model.again.bn2.weight)
        nn.init.zeros_(model.again.bn2.bias)
        after = PruneLayers(count=1)(model, context(right=model).task)
        assert isinstance(after.again, nn.Identity)
        assert after.again is after.get_submodule("layer1.2")

    def test_encodings_of_what_stays_stay(self) -> None:
        model = DEEP.model()
        for weight in weights(model):
            if weight.tensor.ndim == 4:
                encodings.encode(weight, [encodings.Half()], weight.values)
        after = PruneLayers(count=2)(model, context().task)
        kept = [w for w in weights(after) if w.tensor.ndim == 4]
        assert kept
        assert all(encodings.find(w, encodings.Half) for w in kept)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("by", ["loss", "similarity"])
def test_any_network(name: str, by: str) -> None:
    case = EVERY[name]
    model, told = adopted(case.model()), Context(task=case.task())
    children = {m: list(m._modules.items()) for m in model.modules()}
    here = torch.get_rng_state()
    try:
        plan = PruneLayers(count=1, by=by).plan(model, told)
    except StepError as error:
        assert "PruneLayers found no layer or block that can be taken out: " in str(error)  # noqa: PT017
        return
    finally:
        assert children == {m: list(m._modules.items()) for m in model.modules()}
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules() if name != "frozen, small")
        assert torch.equal(here, torch.get_rng_state())
    assert plan.do.keys() | plan.leave.keys() == {w.path for w in weights(model)}
    before = outputs(forward(model, case.batch()))
    after = outputs(forward(PruneLayers(count=1, by=by).apply(model, plan, told), case.batch()))
    assert [t.shape for t in before] == [t.shape for t in after]


@pytest.mark.parametrize("model", [nn.LSTM(3, 4), nn.ReLU(), nn.Linear(30, 30).double()])
def test_nothing_to_take_out(model: nn.Module) -> None:
    with pytest.raises(StepError, match=r"^PruneLayers found no layer or block"):
        PruneLayers(count=1).plan(model, context())
