"""Ranks, budgets, what is left and why."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from models import CASES, Toy
from rarefy.encodings import adopted
from rarefy.errors import SettingsError, StepError
from rarefy.step import Context, Plan
from rarefy.steps import ClusterWeights, Factorize, PruneWeights
from rarefy.task import Task


def smooth(layer: nn.Module, speed: float) -> nn.Module:
    """A spectrum that falls, as trained ones do."""
    for part in layer.modules():
        if isinstance(part, (nn.Linear, nn.Conv2d)):
            flat = part.weight.detach().flatten(1)
            u, s, v = torch.linalg.svd(flat, full_matrices=False)
            decay = torch.exp(-speed * torch.arange(len(s)) / len(s))
            part.weight.data = (u * s * decay @ v).view(part.weight.shape)
    return layer


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        smooth(nn.Conv2d(3, 32, 3, padding=1), 1),
        nn.ReLU(),
        smooth(nn.Conv2d(32, 48, 3, stride=2), 9),
        nn.ReLU(),
        nn.Flatten(),
        smooth(nn.Linear(48 * 9, 96), 12),
        smooth(nn.Linear(96, 10), 2),
    ).eval()


X = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(3))
TASK = Toy(X)


def plan(step: Factorize, model: nn.Module | None = None, task: Task = TASK) -> Plan:
    return step.plan(model or network(), Context(task=task))


def size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def lost(step: Factorize) -> float:
    model = network()
    y = model(X).detach()
    return float((step(model, TASK)(X).detach() - y).norm() / y.norm())


def test_the_result_is_ordinary_layers_at_the_same_path() -> None:
    model = Factorize(energy=0.9, method="tucker")(network(), TASK)
    assert [type(part) for part in model[2]] == [nn.Conv2d] * 3
    assert [type(part) for part in model[5]] == [nn.Linear] * 2
    assert model[2][1].stride == (2, 2)
    assert not model[2].training
    assert size(model) < size(network())


@pytest.mark.parametrize("energy", [0.5, 0.9, 0.99])
def test_energy(energy: float) -> None:
    found = plan(Factorize(energy=energy, align=1))
    assert found.do
    assert all(energy <= d["energy"] <= 1 for d in found.do.values())
    more = plan(Factorize(energy=energy * 0.9, align=1))
    assert size(_applied(more)) <= size(_applied(found))


def _applied(found: Plan, blank: bool = False) -> nn.Module:
    return Factorize(energy=0.5).apply(network(), found, Context(task=TASK, blank=blank))


@pytest.mark.parametrize("kind", ["parameters", "macs"])
@pytest.mark.parametrize("share", [0.7, 0.4, 0.15])
@pytest.mark.parametrize("allot", ["error", "uniform"])
def test_a_budget_is_met(kind: str, share: float, allot: str) -> None:
    before, after = _costs(network()), _costs(Factorize(**{kind: share, "allot": allot})(network(), TASK))
    at = ["parameters", "macs"].index(kind)
    assert 0.98 * share <= after[at] / before[at] <= share


def _costs(model: nn.Module) -> tuple[int, int]:
    """Parameters without biases, and multiply-accumulates."""
    macs, handles = [], []
    layers = [m for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    for layer in layers:
        count = layer.weight.numel()
        handles.append(layer.register_forward_hook(lambda m, x, y, n=count: macs.append(n * y[0, 0].numel())))
    model(X[:1])
    for handle in handles:
        handle.remove()
    return sum(layer.weight.numel() for layer in layers), sum(macs)


def test_allotted_ranks_beat_uniform_ones() -> None:
    for share in (0.5, 0.2):
        assert lost(Factorize(parameters=share)) < lost(Factorize(parameters=share, allot="uniform"))


def test_data_beats_weights_alone() -> None:
    for method in ("svd", "spatial", "tucker", "cp"):
        step = Factorize(layers={"5": {"rank": 8}, "2": {"rank": 8, "method": method}})
        assert lost(step.replace(data=64)) < lost(step)


def test_ranks_are_aligned_where_layers_are_large() -> None:
    def rank(energy: float, align: int) -> int:
        return int(plan(Factorize(energy=energy, align=align)).do["5.weight"]["rank"][0])

    assert rank(0.999, 6) % 6 == 0
    assert rank(0.999, 6) > rank(0.999, 1) == rank(0.999, 8)  # the full rank is 96, not sixteen times 8
    assert rank(0.9, 6) == rank(0.9, 1) < 24  # four times 6


def test_layers_have_ranks_of_their_own() -> None:
    own: dict[str, Any] = {"2": {"rank": [12, 10], "method": "tucker"}, "5": {"rank": 7}, "6": {"energy": 0.6}}
    found = plan(Factorize(layers=own))
    assert found.do["2.weight"] == {"method": "tucker", "rank": [12, 10], "energy": found.do["2.weight"]["energy"]}
    assert found.do["5.weight"]["rank"] == [7]
    assert found.do["6.weight"]["energy"] >= 0.6
    assert found.leave["0.weight"] == "no rank is set for it"
    assert found.leave["2.bias"] == "a bias, 48 values: stays as it is, on the last of the layer's parts"
    assert found.notes["5.weight"].startswith("svd, rank 7: 11.2x fewer parameters, 11.2x fewer multiply-accumulates, ")


def test_what_would_cost_more_is_left() -> None:
    found = plan(Factorize(energy=0.999999))
    assert found.leave["6.weight"] == "keeping what is asked for of its energy has no rank that saves anything"
    found = plan(Factorize(energy=0.9, layers={"6": {"rank": 10}}))
    assert found.leave["6.weight"] == "rank 10 would cost more than the layer itself"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"layers": {"5": {"rank": 97}}},
            r"Factorize: 5: rank 97 is above its full rank, 96 \(svd\); give at most that",
        ),
        ({"parameters": 0.001}, r"cannot leave 0\.1% of the parameters .* within 2%: [0-9.]+% is the nearest"),
        ({"energy": 0.5, "skip": ("*",)}, r"^Factorize found no layer to factor \(0\.weight: skipped, as set"),
        ({"energy": 1.0}, r"^Factorize found no layer to factor .*has no rank that saves anything"),
    ],
)
def test_what_cannot_be_done(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(StepError, match=message):
        plan(Factorize(**settings))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, r"give exactly one of energy, parameters, macs \(or ranks in layers\), not none"),
        ({"energy": 0.5, "macs": 0.5}, r"not energy and macs"),
        ({"energy": 1.5}, r"Factorize\.energy: "),
        ({"parameters": 1.0}, r"Factorize\.parameters: "),
        ({"energy": 0.5, "method": "qr"}, r"Factorize\.method: "),
        ({"layers": {"0": {}}}, r"give either energy or rank"),
        ({"layers": {"0": {"rank": [4, 0]}}}, r"a rank is at least 1"),
    ],
)
def test_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Factorize(**settings)


def test_encoded_weights_are_left_with_the_remedy() -> None:
    model = PruneWeights(sparsity=0.5, skip=("0", "6"))(network(), TASK)
    left = plan(Factorize(energy=0.5), model).leave["5.weight"]
    assert left == "stored as 50.0% zeros already: put Factorize before the step that did it"
    with pytest.raises(StepError, match=r"codebook of 4 already: put Factorize before"):
        plan(Factorize(energy=0.5), ClusterWeights(bits=2)(network(), TASK))


def test_what_is_no_plain_layer_is_left() -> None:
    def left(name: str, path: str) -> str:
        return plan(Factorize(energy=0.5), adopted(CASES[name].model()), CASES[name].task()).leave[path]

    assert left("transformer", "attention.out_proj.weight").startswith("part of NonDynamicallyQuantizableLinear")
    assert left("tied", "embedding.weight") == "part of Embedding, which is not a plain Linear or Conv2d"
    assert left("twice", "conv.weight") == "shared by 2 layers"
    assert left("frozen", "head.2.bias").startswith("a bias, 5 values: stays as it is")
    assert left("inverted", "depthwise.0.weight") == "depthwise: there is no rank to lower"
    hooked = network()
    hooked[5].register_forward_hook(lambda *_: None)
    assert plan(Factorize(energy=0.5), hooked).leave["5.weight"].startswith("its layer carries hooks")


class Direct(nn.Module):
    """Uses a layer's weight and never calls the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.called = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.called(nn.functional.linear(x, self.used.weight))


def test_a_weight_that_is_used_without_its_layer_is_left() -> None:
    step, task = Factorize(energy=0.5), Toy(torch.randn(4, 8))
    assert plan(step, Direct(), task).leave["used.weight"].startswith("the network does not call its layer")
    step(Direct(), task)(torch.randn(2, 8))


def test_a_layer_at_two_paths_is_replaced_at_both() -> None:
    layer = nn.Linear(16, 16)
    model = nn.ModuleDict({"one": layer, "two": nn.Sequential(layer)})
    step = Factorize(energy=0.5)
    result = step.apply(model, Plan(do={"one.weight": {"method": "svd", "rank": [3]}}), Context(task=TASK))
    assert result["one"] is cast(nn.Sequential, result["two"])[0]
    assert isinstance(result["one"], nn.Sequential)


def test_the_whole_network_may_be_one_layer() -> None:
    result = Factorize(energy=0.3)(nn.Linear(20, 20), Toy(torch.randn(4, 20)))
    assert [type(part) for part in cast(nn.Sequential, result)] == [nn.Linear] * 2


@pytest.mark.parametrize("method", ["svd", "spatial", "tucker", "cp"])
def test_on_data_the_mean_of_every_channel_stays(method: str) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 40, 3, padding=1, bias=False)
    if method in {"svd", "spatial"}:
        conv = nn.Conv2d(6, 40, 3, stride=2, padding=1, dilation=2, groups=2, bias=False)
    model = nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(), conv, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    step = Factorize(layers={"2": {"rank": 3 if method != "tucker" else (6, 3), "method": method}}, data=64)
    found = step(model, TASK)
    before, after = model(X).detach(), found(X).detach()
    torch.testing.assert_close(after.mean(0), before.mean(0), rtol=0, atol=1e-4)
    assert (after - before).abs().max() > 1e-2
    assert conv.bias is None
    assert found[2][-1].bias.shape == (40,)
    plain = step.replace(data=0)(model, TASK)
    assert plain[2][-1].bias is None
    assert (plain(X).mean(0) - before.mean(0)).abs().max() > 1e-2


def test_on_data_a_bias_that_layers_share_stays_that_of_the_others() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 64), nn.ReLU(), nn.Linear(64, 64)).eval()
    model[3].bias = model[1].bias
    found = Factorize(layers={"1": {"rank": 4}}, data=64)(model, TASK)
    assert torch.equal(found[3].bias, model[1].bias)
    assert not torch.equal(found[1][1].bias, model[1].bias)


def test_a_blank_context_builds_the_structure_without_data() -> None:
    step = Factorize(parameters=0.4, data=32)
    found = plan(step)
    empty = step.apply(network(), found, Context(task=cast(Task, None), blank=True))
    full = step.apply(network(), found, Context(task=TASK))
    assert {n: t.shape for n, t in empty.state_dict().items()} == {n: t.shape for n, t in full.state_dict().items()}
    empty.load_state_dict(full.state_dict())
    assert torch.equal(empty(X), full(X))


def test_frozen_stays_frozen() -> None:
    model = network().requires_grad_(False)
    assert not any(p.requires_grad for p in Factorize(energy=0.5)(model, TASK).parameters())


class Reading(nn.Module):
    """Asks its first layers for their type."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.last = nn.Conv2d(8, 32, 3), nn.Conv2d(32, 32, 3), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.two(self.one(x.to(self.one.weight.dtype))).mean((2, 3)))


def test_a_layer_that_the_code_reads_is_left() -> None:
    task = Toy(torch.randn(2, 8, 9, 9))
    step, context = Factorize(energy=0.5), Context(task=task)
    plan = step.plan(Reading().eval(), context)
    assert "the network's own code reads its weight at test_factorize.py" in plan.leave["one.weight"]
    assert "two.weight" in plan.do
    step(Reading().eval(), task)(torch.randn(2, 8, 9, 9))


def test_where_all_is_left_no_data_are_needed() -> None:
    class Without(Toy):
        def train(self, *, seed: int, rank: int = 0, world: int = 1) -> Any:
            raise AssertionError("asked for")

    with pytest.raises(StepError, match=r"0\.weight: skipped, as set"):
        Factorize(energy=0.5, skip=("*",)).plan(nn.Sequential(nn.Linear(64, 64)), Context(task=Without(torch.randn(1))))
