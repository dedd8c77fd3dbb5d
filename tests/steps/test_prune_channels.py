from __future__ import annotations

import copy
import itertools
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from models import CASES, Toy, outputs
from rarefy import budget, encodings
from rarefy.encodings import adopted
from rarefy.errors import SettingsError, StepError
from rarefy.graph.weights import weights
from rarefy.pruning.positions import _positions
from rarefy.step import Context, Plan
from rarefy.steps import ClusterWeights, Half, PruneChannels, PruneWeights
from rarefy.task import forward
from structures import STRUCTURES

SCORES = ("l1", "l2", "geometric-median", "batchnorm", "taylor", "outgoing", "random")
CUT = ("plain", "residual", "dense", "inverted", "shuffle", "fire", "transposed", "twice", "tied", "frozen")


def answers(model: nn.Module, inputs: Any) -> list[Tensor]:
    with torch.no_grad():
        return outputs(forward(model, inputs))


def masked(model: nn.Module, plan: Plan, shifts: bool) -> nn.Module:
    """An oracle that knows only the plan: what is removed of any dimension that makes channels is zeroed in the uncut
    network; with `shifts`, what is added to them afterwards too."""
    twin = copy.deepcopy(model)
    for path, decision in plan.do.items():
        parent, _, name = path.rpartition(".")
        module = twin.get_submodule(parent)
        if (isinstance(module, _NormBase) and name == "weight") or (name == "bias" and not shifts):
            continue
        tensor = getattr(module, name)
        for dim, kept in decision["keep"].items():
            if int(dim) in makes(module, name, tensor):
                gone = np.setdiff1d(np.arange(tensor.shape[int(dim)]), _positions(kept))
                with torch.no_grad():
                    tensor.index_fill_(int(dim), torch.from_numpy(gone), 0)
    return twin


def makes(module: nn.Module, name: str, tensor: Tensor) -> set[int]:
    """The dimensions of a parameter along which it makes channels."""
    if isinstance(module, nn.Embedding):
        return {1}
    if isinstance(module, nn.ConvTranspose2d) and name == "weight":
        return {0 if module.groups == module.in_channels else 1}
    return {0} if name in ("weight", "bias") else set(range(tensor.ndim))


def check(model: nn.Module, inputs: Any, step: PruneChannels, *, shifts: bool = True) -> nn.Module:
    """The cut network answers as the masked one, and is smaller."""
    context = Context(task=Toy(inputs))
    plan = step.plan(model, context)
    result = step.apply(copy.deepcopy(model), plan, context)
    wanted = answers(masked(model, plan, shifts), inputs)
    for one, two in zip(wanted, answers(result, inputs), strict=True):
        assert one.shape == two.shape
        assert (one - two).abs().max() <= 1e-4 * max(1.0, float(one.abs().max()))
    assert budget.parameters(result) < budget.parameters(model)
    assert all(size > 0 for weight in weights(result) for size in weight.tensor.shape)
    return result


@pytest.mark.parametrize("name", CUT)
@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_the_cut_network_answers_as_the_masked_one(name: str, ratio: float, scope: Any) -> None:
    """Where the next layers pad: with the shifts zeroed as well."""
    model, inputs = adopted(CASES[name].model()), CASES[name].batch()
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.padding == (0, 0):
            module.padding_mode = "zeros"
    try:
        check(no_shifts(model), inputs, PruneChannels(ratio=ratio, scope=scope, align=1), shifts=False)
    except StepError as error:
        assert ratio == 0.1
        assert "no layer is wide enough" in str(error)  # noqa: PT017


def no_shifts(model: nn.Module) -> nn.Module:
    """Nothing is added to channels, so that what the layers after them do with it does not matter."""
    with torch.no_grad():
        for module in model.modules():
            for name in ("bias", "mean", "running_mean", "shift"):
                if name in module._buffers:
                    module.get_buffer(name).zero_()
            biased = (_NormBase, nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
            if isinstance(module, biased) and module.bias is not None:
                module.bias.zero_()
    return model


class Unpadded(nn.Module):
    """Every layer sees constants as constants: BatchNorm, then 1x1, a valid 3x3 without a bias, and a matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.two, self.three = nn.Conv2d(16, 16, 1), nn.Conv2d(16, 12, 3, bias=False)
        self.grouped = nn.Conv2d(12, 12, 1, groups=3)
        self.fc = nn.Linear(12 * 36, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.one(x)))
        x = F.silu(self.grouped(F.leaky_relu(self.three(torch.sigmoid(self.two(x))))))
        return self.fc(x.flatten(1))


def test_shifts_and_biases_are_folded_into_the_next_layer() -> None:
    torch.manual_seed(0)
    model, x = Unpadded().eval(), torch.randn(4, 3, 8, 8)
    nn.init.normal_(model.norm.bias)
    nn.init.normal_(model.norm.running_mean)
    result = check(model, x, PruneChannels(ratio=0.5, align=1), shifts=False)
    assert isinstance(result.three, nn.Conv2d)
    assert result.three.bias is not None  # the constant needed a place


def test_constants_are_folded_into_encoded_biases_too() -> None:
    torch.manual_seed(0)
    model, x = Unpadded().eval(), torch.randn(4, 3, 8, 8)
    nn.init.normal_(model.norm.bias)
    stored = Half()(ClusterWeights(bits=3)(model, Toy(x)), Toy(x))
    step, context = PruneChannels(ratio=0.5, align=1), Context(task=Toy(x))
    plan = step.plan(stored, context)
    assert plan.do["two.weight"]["fold"]
    wanted = step.apply(encodings.decoded(copy.deepcopy(stored)), plan, context)
    result = step.apply(copy.deepcopy(stored), plan, context)
    assert torch.allclose(answers(result, x)[0], answers(wanted, x)[0], atol=1e-6)


def test_where_the_next_layer_pads_the_shift_is_zeroed_too() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 3, padding=1)).eval()
    nn.init.uniform_(model[0].bias, 0.5, 1)  # type: ignore[arg-type]
    check(model, torch.randn(2, 3, 8, 8), PruneChannels(ratio=0.5, align=1))


def test_a_constant_that_nothing_can_take_over_keeps_its_channel() -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Sigmoid(), nn.Conv2d(16, 4, 3, padding=1)).eval()  # sigmoid(0) = 0.5
    with pytest.raises(StepError, match=r"^PruneChannels found no channel that can be removed: what is left of it"):
        PruneChannels(ratio=0.5, align=1)(model, Toy(torch.randn(2, 3, 8, 8)))


class Shuffled(nn.Module):
    """ShuffleNet V2's unit: split, work on one half, join, shuffle."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 1, bias=False)
        half = width // 2
        self.work = nn.Sequential(
            nn.Conv2d(half, half, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(half, half, 3, padding=1, groups=half, bias=False),
            nn.Conv2d(half, half, 1, bias=False),
        )
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        left, right = x.chunk(2, dim=1)
        x = torch.cat([left, self.work(right)], 1)
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w)
        return self.head(x.mean((2, 3)))


class Attention(nn.Module):
    """Queries, keys and values by one matrix, heads by reshaping, the scale from a constant."""

    def __init__(self, width: int = 16, heads: int = 4) -> None:
        super().__init__()
        self.embed, self.position = nn.Linear(6, width), nn.Parameter(torch.randn(1, 5, width))
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 32), nn.Linear(32, width)
        self.heads, self.head = heads, nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x) + self.position
        b, t, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        y = ((q @ k.transpose(-2, -1)) * 0.5).softmax(-1) @ v
        x = x + self.out(y.transpose(1, 2).reshape(b, t, -1))
        return self.head((x + self.down(F.relu(self.up(x)))).mean(1))


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75])
def test_shuffles_and_attention_are_followed_exactly(ratio: float) -> None:
    torch.manual_seed(1)
    shuffled = check(Shuffled().eval(), torch.randn(2, 3, 8, 8), PruneChannels(ratio=ratio, align=1), shifts=False)
    assert shuffled.stem.weight.shape[0] < 32  # type: ignore[union-attr, index]
    attention = no_shifts(Attention().eval())
    small = check(attention, torch.randn(2, 5, 6), PruneChannels(ratio=ratio, align=1), shifts=False)
    assert small.qkv.weight.shape == (48 * (1 - ratio), 16 * (1 - ratio))  # type: ignore[union-attr]


class Stubborn(nn.Module):
    """Code with numbers of channels in it."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 16, 1, bias=False), nn.Conv2d(16, 16, 1, bias=False)
        self.head, self.short = nn.Linear(16, 4), False

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.one(x))
        x = x if self.short else self.two(x)
        return self.head(x.view(len(x), 16, -1).mean(2))


def test_code_with_numbers_of_channels_keeps_them_and_says_where() -> None:
    model, context = Stubborn().eval(), Context(task=Toy(torch.randn(2, 3, 4, 4)))
    plan = PruneChannels(ratio=0.5, align=1).plan(model, context)
    assert plan.do["one.weight"]["keep"].keys() == {"0"}
    assert "0" not in plan.do["two.weight"]["keep"]
    assert plan.leave["head.weight"] == "it is an output of the network"
    model.short = True
    with pytest.raises(StepError, match=r"cut, the network fails: .* at test_prune_channels\.py:\d+"):
        PruneChannels(ratio=0.5, align=1).plan(model, context)


@pytest.mark.parametrize("score", SCORES)
def test_the_least_important_go_first(score: Any) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 4, 1)).eval()
    weak = torch.tensor([1, 4, 6, 11])
    with torch.no_grad():
        model[0].weight[weak] *= 1e-3
        model[1].weight[weak] *= 1e-3  # type: ignore[index]
        model[3].weight[:, weak] *= 1e-3
    plan = PruneChannels(ratio=0.25, score=score, align=1).plan(model, Context(task=Toy(torch.randn(4, 3, 8, 8))))
    kept = set(_positions(plan.do["0.weight"]["keep"]["0"]).tolist())
    if score == "geometric-median":  # the small filters are the others' nearest
        assert len(kept & set(weak.tolist())) <= 1
    elif score == "random":
        assert len(kept) == 12
    else:
        assert kept == set(range(16)) - set(weak.tolist())


@pytest.mark.parametrize("kind", ["macs", "parameters"])
@pytest.mark.parametrize("share", [0.3, 0.7])
def test_targets_are_met(kind: str, share: float) -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 96, 3, padding=1), nn.ReLU(), nn.Conv2d(96, 4, 3)
    ).eval()
    inputs = torch.randn(2, 3, 8, 8)
    cost = {"macs": lambda m: budget.macs(m, inputs), "parameters": budget.parameters}[kind]
    for scope in ("layer", "global"):
        result = PruneChannels(**{kind: share, "scope": scope, "align": 1})(model, Toy(inputs))  # type: ignore[arg-type]
        assert cost(result) / cost(model) == pytest.approx(share, abs=0.02)


def test_targets_count_from_the_network_that_the_run_began_with() -> None:
    model = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.ReLU(), nn.Conv2d(64, 4, 3)).eval()
    inputs = torch.randn(2, 3, 10, 10)
    half = PruneChannels(macs=0.5, align=1)(model, Toy(inputs))
    context = Context(task=Toy(inputs), original=model)
    step = PruneChannels(macs=0.25, align=1)
    quarter = step.apply(copy.deepcopy(half), step.plan(half, context), context)
    assert budget.macs(quarter, inputs) / budget.macs(model, inputs) == pytest.approx(0.25, abs=0.02)


def test_channels_stay_a_multiple_of_the_alignment() -> None:
    model = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 80, 3), nn.ReLU(), nn.Conv2d(80, 4, 3)).eval()
    task = Toy(torch.randn(2, 3, 10, 10))
    for ratio, align in itertools.product((0.2, 0.3, 0.5, 0.9), (8, 16)):
        result = PruneChannels(ratio=ratio, align=align)(model, task)
        widths = [m.out_channels for m in result.modules() if isinstance(m, nn.Conv2d)]
        assert all(width % align == 0 for width in widths[:-1])
        assert all(abs(w - (1 - ratio) * b) <= align / 2 for w, b in zip(widths, (64, 80), strict=False) if ratio < 0.9)
    assert [m.out_channels for m in PruneChannels(ratio=0.3)(model, task).modules() if isinstance(m, nn.Conv2d)] == [
        48,
        56,
        4,
    ]


def test_layers_have_ratios_of_their_own_and_some_are_protected() -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3))
    model.append(nn.Flatten()).append(nn.Linear(16 * 16, 4))
    step = PruneChannels(ratio=0.5, align=1, layers={"2": 0.25}, skip=("4",))
    result = step(model.eval(), Toy(torch.randn(2, 3, 10, 10)))
    assert [m.out_channels for m in result.modules() if isinstance(m, nn.Conv2d)] == [8, 12, 16]


def test_encodings_are_cut_with_their_weights() -> None:
    model, inputs = no_shifts(adopted(CASES["residual"].model())), CASES["residual"].batch()
    for step in (PruneWeights(sparsity=0.3), ClusterWeights(bits=4), Half()):
        model = step(model, Toy(inputs))
    plain = encodings.decoded(copy.deepcopy(model))
    step, context = PruneChannels(ratio=0.5, align=1), Context(task=Toy(inputs))
    plan = step.plan(model, context)
    result = step.apply(copy.deepcopy(model), plan, context)
    wanted = step.apply(plain, plan, context)
    assert all(torch.equal(a, b) for a, b in zip(answers(result, inputs), answers(wanted, inputs), strict=True))
    assert {encodings.describe(w) for w in weights(result)} == {encodings.describe(w) for w in weights(model)} | set()
    again = PruneChannels(ratio=0.5, align=1)(result, Toy(inputs))
    assert budget.parameters(again) < budget.parameters(result)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(SettingsError, match="give exactly one of ratio, macs, parameters, latency, threshold, not no"):
        PruneChannels()
    with pytest.raises(SettingsError, match=r"PruneChannels\.ratio"):
        PruneChannels(ratio=1.0)
    with pytest.raises(SettingsError, match=r"a ratio is at least 0 and under 1 .1 would empty the layer., not 0: 1"):
        PruneChannels(ratio=0.5, layers={"0": 1.0})
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()
    task = Toy(torch.randn(2, 3, 8, 8))
    with pytest.raises(StepError, match=r"PruneChannels cannot leave 1\.0% of the multiply-accumulates: the nearest"):
        PruneChannels(macs=0.01, align=1)(model, task)
    with pytest.raises(StepError, match="would remove nothing: no layer is wide enough for this amount and alignment"):
        PruneChannels(ratio=0.5, align=8)(model, task)
    with pytest.raises(StepError, match="no channel has what the score 'batchnorm' looks at; choose another score"):
        PruneChannels(ratio=0.5, align=1, score="batchnorm")(model, task)


class Weighed(nn.Module):
    """Every position, or every example, is multiplied by a number of its own."""

    def __init__(self, gate: bool) -> None:
        super().__init__()
        self.gate = nn.Linear(6, 1) if gate else None
        self.one, self.two, self.last = nn.Linear(6, 32), nn.Linear(32, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        weight = mask if self.gate is None else torch.sigmoid(4 * self.gate(x.mean(1)))
        x = F.relu(self.one(x)) * weight[..., None]
        return self.last(F.relu(self.two(x)).mean(1))


@pytest.mark.parametrize("gate", [False, True])
def test_what_is_constant_on_the_examples_alone_is_not_folded(gate: bool) -> None:
    torch.manual_seed(0)
    model, whole = Weighed(gate).eval(), (torch.randn(8, 10, 6), torch.ones(8, 10))
    context, step = Context(task=Toy(whole)), PruneChannels(ratio=0.5, align=1, skip=("two",))
    plan = step.plan(model, context)
    result = step.apply(copy.deepcopy(model), plan, context)
    other = torch.randn(8, 10, 6), (torch.rand(8, 10) < 0.5).float()
    wanted, found = (answers(net, other)[0] for net in (masked(model, plan, shifts=True), result))
    assert (wanted - found).abs().max() <= 1e-5


class Branching(nn.Module):
    """Takes another layer for dark images."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(6, 24)
        self.bright, self.dark, self.last = nn.Linear(24, 24), nn.Linear(24, 24), nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        return self.last(F.relu(self.bright(x) if x.mean() > 0.5 else self.dark(x)))


def test_all_ways_through_the_network_are_followed() -> None:
    torch.manual_seed(0)
    model, x = no_shifts(Branching().eval()), torch.randn(8, 6)
    x[:4] *= 5
    context, step = Context(task=Toy(x)), PruneChannels(ratio=0.5)
    plan = step.plan(model, context)
    result = step.apply(copy.deepcopy(model), plan, context)
    assert {"bright.weight", "dark.weight"} <= plan.do.keys()
    for one in x.split(1):
        assert torch.allclose(answers(masked(model, plan, shifts=True), one)[0], answers(result, one)[0], atol=1e-5)


class Meeting(nn.Module):
    """Two branches whose channels are multiplied with each other and summed over."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 1)
        self.last = nn.Linear(25, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        one, two = self.one(x).flatten(2), self.two(x).flatten(2)
        return self.last(torch.bmm(one.transpose(1, 2), torch.max(two, -two)).mean(1))


def test_biases_that_meet_in_a_product_go_too() -> None:
    torch.manual_seed(0)
    model, x = Meeting().eval(), torch.randn(4, 3, 5, 5)
    step, context = PruneChannels(ratio=0.5, skip=("stem",)), Context(task=Toy(x))
    plan = step.plan(model, context)
    assert plan.do.keys() >= {"one.weight", "one.bias", "two.weight", "two.bias"}
    check(model, x, step)
    assert PruneChannels(ratio=0.5).plan(model, context).do.keys() >= {"stem.weight", "one.weight"}


def test_a_pattern_that_breaks_is_named() -> None:
    model, x = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 8)).eval(), torch.randn(4, 16)
    pruned = PruneWeights(pattern="2:4")(model, Toy(x))
    context = Context(task=Toy(x))
    PruneChannels(ratio=0.5).plan(pruned, context)
    assert context.warnings == ["PruneChannels breaks the N:M pattern of 2.weight: put PruneWeights after it"]
    context = Context(task=Toy(x))
    PruneChannels(ratio=0.5).plan(PruneWeights(sparsity=0.5)(model, Toy(x)), context)
    assert context.warnings == []


@pytest.mark.parametrize(("share", "align"), [(0.8, 4), (0.5, 8), (0.3, 8), (0.06, 1)])
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_alignment_gives_way_to_a_target(share: float, align: int, scope: Any) -> None:
    torch.manual_seed(0)
    sizes = (3, 16, 32, 64, 64, 5)
    model = nn.Sequential(*(nn.Conv2d(a, b, 3, padding=1) for a, b in itertools.pairwise(sizes))).eval()
    x = torch.randn(2, 3, 8, 8)
    narrow = PruneChannels(macs=share, scope=scope)(model, Toy(x))
    assert budget.macs(narrow, x) / budget.macs(model, x) == pytest.approx(share, rel=0.021)
    widths = [m.out_channels for m in narrow if isinstance(m, nn.Conv2d)][:-1]
    assert all(width % align == 0 or width < align for width in widths)


def test_taylor_leaves_frozen_weights_frozen() -> None:
    model, task = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3)).eval(), Toy(torch.randn(4, 6))
    model[0].weight.requires_grad_(False)
    result = PruneChannels(ratio=0.5, score="taylor")(model, task)
    assert not result[0].weight.requires_grad
    assert result[2].weight.requires_grad


def test_taylor_needs_gradients() -> None:
    class InPlace(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            x = torch.sigmoid(self[0](x))
            y = self[1](x)
            x.mul_(2)
            return y

    model = InPlace(nn.Linear(6, 16), nn.Linear(16, 3)).eval()
    with pytest.raises(StepError, match="the score 'taylor' needs gradients, which this network does not give"):
        PruneChannels(ratio=0.5, score="taylor")(model, Toy(torch.randn(4, 6)))


def test_every_reason_is_true() -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 1)).eval()
    plan = PruneChannels(ratio=0.5).plan(model, Context(task=Toy(torch.randn(2, 3, 4, 4))))
    assert plan.leave == {"3.bias": "it is an output of the network"}


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_other_peoples_networks(name: str, ratio: float, scope: Any) -> None:
    """Cut, or left alone and listed; the answers are those of the masked network, and it is smaller."""
    model, inputs = no_shifts(adopted(STRUCTURES[name].model())), STRUCTURES[name].batch()
    score = SCORES[(list(STRUCTURES).index(name) + int(10 * ratio)) % len(SCORES)]
    try:
        result = check(model, inputs, PruneChannels(ratio=ratio, scope=scope, score=score, align=1), shifts=False)
    except StepError as error:
        assert "no channel" in str(error) or "would remove nothing" in str(error)  # noqa: PT017
    else:
        assert budget.parameters(result) < budget.parameters(model)


def test_channels_that_nothing_reads_have_no_outgoing_score() -> None:
    """They stay; and no other channel of their group counts for nothing because of them."""
    case = STRUCTURES["one-channel"]
    step = PruneChannels(ratio=0.5, scope="global", score="outgoing", align=1)
    result = step(adopted(case.model()), Toy(case.batch()))
    assert sum(p.numel() for p in result.parameters()) < sum(p.numel() for p in case.model().parameters())
