"""Costs against the exported file and against counts by hand; the search against trying everything."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from models import CASES, VisionTransformer, exporter
from rarefy import encodings, measure
from rarefy.budget import Target, examples, macs, milliseconds, parameters, search, speedup
from rarefy.encodings import adopted
from rarefy.errors import DataError, ModelError, SettingsError, StepError
from rarefy.graph.weights import weights
from rarefy.step import Context
from rarefy.steps import PruneLayers


def wide(channels: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, channels, 3, padding=1), nn.ReLU(), nn.Conv2d(channels, 8, 3)).eval()


def test_parameters_are_counted_once_and_decoded() -> None:
    model = CASES["tied"].model()
    assert parameters(model) == 11 * 8 + 8 * 8 + 8
    model = CASES["plain"].model()
    count = sum(p.numel() for p in model.parameters())
    first = weights(model)[0]
    encodings.encode(first, [encodings.Codebook(torch.zeros(first.tensor.shape, dtype=torch.long), 2)], torch.ones(2))
    assert parameters(model) == count


@pytest.mark.parametrize("name", ["inverted", "twice", "frozen", "named"])
def test_macs_are_those_of_the_file(name: str) -> None:
    model = adopted(CASES[name].model())
    assert macs(model, CASES[name].batch()) == measure.macs(exporter(name).write(model).proto)


def test_macs_by_hand() -> None:
    model = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1, groups=2), nn.ConvTranspose2d(6, 4, 2, stride=2, groups=2))
    assert macs(model, torch.randn(3, 4, 5, 5)) == 5 * 5 * 6 * 2 * 9 + 5 * 5 * 6 * 2 * 4
    bilinear = CASES["two-inputs"]
    assert macs(bilinear.model(), bilinear.batch()) >= 6 * 8 + 4 * 8


def test_attention_is_counted_and_the_fast_path_put_back() -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
    projections, products = 7 * 16 * (3 * 16 + 16 + 32 + 32), 2 * 7 * 7 * 16
    assert macs(layer, torch.randn(2, 7, 16)) == projections + products
    assert torch.backends.mha.get_fastpath_enabled()
    model = VisionTransformer().train()
    assert macs(model, torch.randn(2, 3, 8, 8)) > 0
    assert model.training


def test_a_wider_network_takes_longer() -> None:
    inputs = torch.randn(2, 3, 32, 32)
    before = set(Path(tempfile.gettempdir()).iterdir())
    narrow, other = wide(8), wide(128)
    assert milliseconds(narrow, inputs, seconds=0.2) > 0
    assert speedup(other, narrow, inputs, seconds=0.2) > 2
    assert {p for p in set(Path(tempfile.gettempdir()).iterdir()) - before if list(p.glob("*.onnx"))} == set()


class TestBudgeted:
    def test_exactly_one(self) -> None:
        with pytest.raises(
            SettingsError, match=r"give exactly one of count, share, macs, parameters, latency, not non"
        ):
            PruneLayers()
        with pytest.raises(SettingsError, match=r"not share and macs"):
            PruneLayers(share=0.5, macs=0.5)
        with pytest.raises(SettingsError, match=r"PruneLayers\.macs: .*less than 1, not 1\.5"):
            PruneLayers(macs=1.5)

    def test_target(self) -> None:
        assert PruneLayers(share=0.5).target is None
        assert PruneLayers(macs=0.25).target == Target("macs", 0.25)
        assert PruneLayers(latency=0.25).target == Target("latency", 0.25)
        assert str(Target("latency", 0.25)) == "25.0% of the measured time"


class TestTarget:
    def test_met_within_two_percent_and_never_above(self) -> None:
        target = Target("macs", 0.5)
        assert [target.met(share) for share in (0.48, 0.491, 0.5, 0.501)] == [False, True, True, False]
        target.demand("Step", 0.495)
        with pytest.raises(
            StepError, match=r"^Step cannot leave 50\.0% of the multiply-accumulates within 2%: .* 41\.0"
        ):
            target.demand("Step", 0.41)

    def test_costs_are_shares(self) -> None:
        inputs = torch.randn(2, 3, 8, 8)
        with Target("parameters", 0.5).costs(wide(8), inputs) as cost:
            assert cost(wide(8)) == 1
            assert cost(wide(4)) == parameters(wide(4)) / parameters(wide(8))
        with Target("macs", 0.5).costs(wide(8), inputs) as cost:
            assert cost(wide(4)) == 0.5
        with Target("latency", 0.5).costs(wide(8), inputs) as cost:
            assert cost(wide(8)) > 0
        with (
            pytest.raises(StepError, match="ReLU has no multiply-accumulates to count"),
            Target("macs", 0.5).costs(nn.ReLU(), inputs),
        ):
            pass

    def test_no_export_no_time(self) -> None:
        case = CASES["loop"]
        with (
            pytest.raises(StepError, match=r"the time cannot be measured: Loop cannot be exported.*give macs or par"),
            Target("latency", 0.5).costs(case.model(), case.batch()),
        ):
            pass


class TestSearch:
    @given(st.lists(st.integers(0, 1000), min_size=1, max_size=60), st.floats(0.01, 0.99))
    def test_finds_what_trying_all_finds(self, removed: list[int], share: float) -> None:
        costs = [1.0, *(c / 1000 for c in sorted(removed, reverse=True))]
        fitting = [n for n, cost in enumerate(costs) if cost <= share]
        target, looks = Target("macs", share), list[int]()

        def cost_of(amount: int) -> float:
            looks.append(amount)
            return costs[amount]

        if not fitting:
            with pytest.raises(StepError, match=r"^Step cannot leave .* is the least that can be reached"):
                search(cost_of, len(removed), target, "Step")
            return
        assert search(cost_of, len(removed), target, "Step") == (fitting[0], costs[fitting[0]])
        assert len(looks) == len(set(looks)) <= 2 * len(removed).bit_length() + 2

    def test_measured_costs_end_it_early(self) -> None:
        looks: list[int] = []

        def cost_of(amount: int) -> float:
            looks.append(amount)
            return 1 - amount / 1000

        amount, cost = search(cost_of, 999, Target("latency", 0.5), "Step")
        assert 0.49 <= cost <= 0.5
        assert amount in looks
        assert len(looks) <= 4


class Data(list[Any]):
    classes = ()

    def train(self, seed: int) -> Any:
        raise DataError("none")

    def judge(self) -> Any:
        return self


def test_examples_come_from_training_or_else_have_the_shape_of_judging() -> None:
    case = CASES["named"]
    few = examples(case.model(), Context(task=case.task()))
    assert {name: t.shape[0] for name, t in few.items()} == {"image": 2, "text": 2}
    judged: Tensor = torch.randn(1, 3, 8, 8)
    context: Any = Context(task=Data([(judged, None)]))  # type: ignore[arg-type]
    assert examples(wide(4), context).shape == (2, 3, 8, 8)
    with pytest.raises(ModelError, match="does not run on the data"):
        examples(nn.Linear(3, 3), Context(task=copy.copy(case.task())))
    with pytest.raises(ModelError, match=r"its weights are torch.float64: give it as model.float\(\)"):
        examples(wide(4).double(), context)
