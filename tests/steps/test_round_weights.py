"""Rounding at a rate: targets are met, importance is used, what cannot be rounded is said."""

from __future__ import annotations

import copy
import json
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models import CASES, Toy
from rarefy import encodings, pack
from rarefy.classification import Classification
from rarefy.encodings import Grid
from rarefy.errors import DataError, SettingsError, StepError
from rarefy.export.onnx import Exporter
from rarefy.graph.weights import by_path, weights
from rarefy.quantizing.fisher import divergence
from rarefy.quantizing.grids import entropy
from rarefy.step import Context
from rarefy.steps import ClusterWeights, Half, PruneWeights
from rarefy.steps.round_weights import RoundWeights


def network() -> nn.Sequential:
    """Inputs of very different sizes, so that some weights matter more than others."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.ReLU6(),
        nn.Conv2d(16, 32, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, 10),
    ).eval()  # fmt: skip
    with torch.no_grad():
        model[9].weight *= 40
    return model


def images(count: int, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    smooth = F.interpolate(torch.randn(count, 3, 4, 4, generator=draw), size=12, mode="bilinear")
    return smooth * torch.tensor([3.0, 1.0, 0.1])[:, None, None]


def task(count: int = 64) -> Classification:
    labels = torch.zeros(count, dtype=torch.long)
    return Classification((images(count), labels), (images(8, 1), labels[:8]), batch_size=16, name="smooth")


def mean_bits(model: nn.Module) -> float:
    rounded = [w for w in weights(model) if encodings.find(w, Grid)]
    return sum(entropy(encodings.stored(w)) for w in rounded) / sum(w.tensor.numel() for w in rounded)


def answer(model: nn.Module, inputs: Tensor) -> Tensor:
    with torch.no_grad():
        return model(inputs)


class TestTarget:
    @pytest.mark.parametrize("bits", [1.5, 3.0, 5.0])
    def test_bits(self, bits: float) -> None:
        assert 0.98 * bits <= mean_bits(RoundWeights(bits=bits)(network(), task())) <= bits

    def test_size_is_that_of_the_file(self) -> None:
        """With what a run writes into it, of what it has measured."""
        model, inputs, labels = network(), images(2), task().metadata()
        small = RoundWeights(size=2000)(model, task())
        claims = {"accuracy": 0.8857142857142857, "examples": 350, "agreement": 0.95142857, "original_bytes": 18577952}
        metadata = {**labels, "claims": json.dumps(claims, separators=(",", ":"))}
        data = pack.encode(Exporter(small, inputs, metadata).write(small).proto)
        assert 0.98 * 2000 <= len(data) <= 2000

    def test_divergence_on_examples_held_out(self) -> None:
        model = network()
        for wanted in (0.001, 0.05):
            rounded = RoundWeights(divergence=wanted)(model, task())
            found = divergence([answer(rounded, images(200, 5))], [answer(model, images(200, 5))])
            assert wanted / 3 < found < 3 * wanted

    def test_more_bits_diverge_less(self) -> None:
        model, test = network(), images(200, 5)
        rounded = [RoundWeights(bits=bits)(model, task()) for bits in (2, 3, 4, 5, 6)]
        found = [divergence([answer(m, test)], [answer(model, test)]) for m in rounded]
        assert found == sorted(found, reverse=True)

    def test_what_cannot_be_met(self) -> None:
        model = nn.Linear(64, 64, bias=False)
        nn.init.normal_(model.weight)
        with pytest.raises(StepError, match=r"cannot meet bits 8: 7\.\d+ is the nearest; ask for that, or skip fewer"):
            RoundWeights(bits=8)(model, Toy(torch.randn(8, 64)))
        with pytest.raises(StepError, match="divergence needs at least 20 examples"):
            RoundWeights(divergence=0.1)(network(), task(8))

    @pytest.mark.parametrize("given", [{}, {"bits": 3, "size": 1000}])
    def test_exactly_one(self, given: dict[str, int]) -> None:
        with pytest.raises(SettingsError, match="give exactly one of bits, size, divergence"):
            RoundWeights(**given)


def test_diverges_less_than_rounding_to_the_nearest_at_the_same_entropy() -> None:
    model, test = network(), images(200, 5)
    rounded = RoundWeights(bits=3)(model, task())
    nearest = encodings.decoded(RoundWeights(bits=8 - 2)(model, task()))  # BatchNorm folded
    for weight in weights(nearest):
        plain = weight.tensor.detach()
        steps = (s * plain.std() for s in torch.logspace(-3, 1, 400))
        step = next(s for s in steps if plain.ndim == 1 or entropy((plain / s).round()) < 3 * plain.numel())
        if weight.tensor.ndim > 1:
            weight.values.data.copy_((plain / step).round() * step)
    wanted = answer(model, test)
    assert divergence([answer(rounded, test)], [wanted]) < 0.5 * divergence([answer(nearest, test)], [wanted])


def test_important_weights_get_the_bits() -> None:
    """Rows that an answer depends on little have coarser steps; inputs that are small likewise."""
    model = nn.Sequential(nn.Linear(16, 32, bias=False), nn.ReLU(), nn.Linear(32, 5, bias=False))
    with torch.no_grad():
        model[2].weight[:, :16] *= 0.05
    inputs = torch.randn(64, 16)
    rounded = RoundWeights(bits=4)(model, Toy(inputs))
    grid = encodings.find(by_path(rounded)["0.weight"], Grid)
    assert isinstance(grid, Grid)
    assert grid.rows[:16].float().mean() > grid.rows[16:].float().mean() + 1


def test_zeros_stay_zero() -> None:
    pruned = PruneWeights(sparsity=0.6)(network(), task())
    rounded = RoundWeights(bits=2)(pruned, task())
    held = {w.path: encodings.zeros(w) for w in weights(rounded)}
    assert held["9.weight"] is not None
    assert all(not by_path(rounded)[path].tensor[zeros].any() for path, zeros in held.items() if zeros is not None)


def test_batchnorm_is_folded_and_gives_its_layer_a_bias() -> None:
    model = network()
    step, context = RoundWeights(bits=4), Context(task=task())
    plan = step.plan(model, context)
    assert plan.also["1"] == {"into": "0"}
    assert plan.also["0.bias"]["bits"] == 16
    assert plan.do["1.weight"] == plan.do["1.bias"] == {"into": "0"}
    made = step.apply(copy.deepcopy(model), plan, context)
    assert isinstance(made[1], nn.Identity)
    assert encodings.describe(by_path(made)["0.bias"]) == "16-bit integers, one step"
    kept = RoundWeights(bits=4, skip=("1",)).plan(model, context)
    assert not kept.also
    assert kept.leave["1.weight"] == "skipped, as set"


def test_the_mean_of_the_outputs_stays() -> None:
    """What rounding changes on average goes to the bias."""
    model = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 16))
    inputs = torch.randn(256, 20).abs()
    rounded = RoundWeights(bits=2, skip=("2",))(model, Toy(inputs))
    change = answer(rounded[0], inputs) - answer(model[0], inputs)
    assert change.mean(0).square().mean() < 0.2 * change.square().mean()


def test_what_nothing_depends_on_is_as_fine_as_it_can_be() -> None:
    class Spare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.spare = nn.Linear(20, 20), nn.Linear(20, 20)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    model = Spare()
    rounded = RoundWeights(bits=5)(model, Toy(torch.randn(8, 20)))
    error = (rounded.spare.weight - model.spare.weight).abs().amax(1)
    assert bool((error <= model.spare.weight.abs().amax(1) / 127 * 2**0.25 / 2 + 1e-6).all())


def test_what_is_left_is_said() -> None:
    model = nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 1), nn.LSTM(4, 4))
    coded = ClusterWeights(bits=3, skip=("1", "2", "3"))(model, Toy(torch.randn(2, 32)))
    wide = Half(skip=("0", "2", "3"))(coded, Toy(torch.randn(2, 32)))
    leave = {w.path: reason for w in weights(wide) if (reason := _reason(w))}
    assert leave["0.weight"].endswith(
        "codebook of 8 already: put RoundWeights before the step that did it, or leave it out"
    )
    assert leave["2.weight"] == "32 values in 1 rows: integers and their steps would be hardly smaller"
    assert leave["2.bias"] == "1 values, which a step would hardly make smaller"
    assert "keeps its own flat copy" in leave["3.weight_ih_l0"]
    assert "1.weight" not in leave


def _reason(weight: object) -> str | None:
    from rarefy.steps.round_weights import why_unfit

    return why_unfit(weight)  # type: ignore[arg-type]


class Nothing(Toy):
    def train(self, *, seed: int) -> list[object]:
        raise DataError("no training part")


def test_bad_examples_are_refused() -> None:
    inputs = images(16)
    with pytest.raises(StepError, match="calibration needs training examples, and there are none"):
        RoundWeights(bits=4)(network(), Nothing(inputs))
    inputs[3, 0, 0, 0] = math.nan
    with pytest.raises(StepError, match=r"NaN or infinite answers .* look at the training examples"):
        RoundWeights(bits=4)(network(), Toy(inputs))


@pytest.mark.parametrize("name", CASES)
def test_every_kind_of_network(name: str) -> None:
    rounded = RoundWeights(bits=5)(CASES[name].model(), CASES[name].task())
    assert any(encodings.find(w, Grid) for w in weights(rounded))
