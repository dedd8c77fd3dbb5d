"""Bits by sensitivity."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from models import Toy
from rarefy import pack
from rarefy.errors import SettingsError, StepError
from rarefy.export.onnx import Exporter
from rarefy.step import Context
from rarefy.steps import Quantize


def network() -> nn.Sequential:
    """Of the third layer's inputs, 2 matter 30 times as much as the others."""
    torch.manual_seed(0)
    layers = [part for _ in range(9) for part in (nn.Linear(32, 32), nn.ReLU())]
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), *layers, nn.Linear(32, 10)).eval()
    with torch.no_grad():
        for layer in model[::2]:
            layer.weight *= 2.4
        model[4].weight[:, :2] *= 30
    return model


INPUTS = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))


class Own(Toy):
    """Right is what the float network answers."""

    def train(self, *, seed: int, rank: int = 0, world: int = 1) -> Any:
        return [(self.inputs, network()(self.inputs).argmax(1))]

    def metric(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return (output.argmax(1) == target).float()


@pytest.mark.parametrize("size", [0.2, 0.5])
def test_a_size_is_met_in_the_pack(size: float, tmp_path: Path) -> None:
    step, context = Quantize(mixed={"size": size}, activations=None), Context(task=Own(INPUTS))
    model = network()
    plan = step.plan(model, context)
    bits = {path: made["bits"] for path, made in plan.do.items()}
    assert len({*bits.values(), *(32 for p in plan.leave if p.endswith("weight"))}) > 1
    assert "bits would move the answers by" in (plan.notes | plan.leave)["4.weight"]
    kept = [path for path in plan.leave if path.endswith("weight")]
    named = {path for warning in context.warnings for path in warning.partition(": ")[2].split(", ")}
    assert named == set(kept)
    made = step.apply(model, plan, context)
    tensors = pack.write(Exporter(made, INPUTS[:2]).write(made).proto, tmp_path / "n.rfy").tensors
    total = sum(p.numel() for p in network().parameters()) * 4
    assert 0.85 * size * total < sum(t.bytes for t in tensors) < 1.01 * size * total  # the pack codes floats too


def test_bits_go_where_they_matter() -> None:
    plan = Quantize(mixed={"size": 0.16}, activations=None).plan(network(), Context(task=Own(INPUTS)))
    bits = {path: made["bits"] for path, made in plan.do.items()}
    assert bits["4.weight"] == max(bits.values()) > min(bits.values())


def test_an_allowed_drop_is_kept_with_fewer_bits() -> None:
    step, context = Quantize(mixed={"max_drop": 0.4}, examples=64), Context(task=Own(INPUTS))
    model = network()
    plan = step.plan(model, context)
    assert min(made["bits"] for path, made in plan.do.items() if path.endswith("weight")) < 8
    made = step.apply(model, plan, context)
    inputs, target = Own(INPUTS).train(seed=0)[0]
    assert float((made(inputs).argmax(1) == target).float().mean()) >= 0.6


def test_targets_that_cannot_be_met_are_errors_that_name_the_nearest() -> None:
    context = Context(task=Own(INPUTS))
    with pytest.raises(
        StepError, match=r"no bits make the parameters 2\.0% of their float32 bytes within 2%: \d+\.\d%"
    ):
        Quantize(mixed={"size": 0.02}).plan(network(), context)
    with pytest.raises(StepError, match=r"lose more than max_drop = 0\.00%: .* is the nearest"):
        Quantize(mixed={"max_drop": 0, "bits": (2,)}, per="tensor").plan(
            network()[:1], Context(task=Impossible(INPUTS))
        )


class Impossible(Own):
    """Any change is wrong."""

    def train(self, *, seed: int, rank: int = 0, world: int = 1) -> Any:
        return [(self.inputs, network()[:1](self.inputs))]

    def metric(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return (output == target).all(1).float()


def test_layers_that_are_named_keep_their_bits() -> None:
    step = Quantize(mixed={"size": 0.18}, layers={"0": 3}, activations=None)
    assert step.plan(network(), Context(task=Own(INPUTS))).do["0.weight"]["bits"] == 3


@pytest.mark.parametrize("wrong", [{}, {"size": 0.1, "max_drop": 0.1}, {"size": 0.1, "bits": (1,)}, {"size": 2}])
def test_settings_that_make_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=r"exactly one of|2 to 8 bits|less than 1"):
        Quantize(mixed=wrong)


def test_float_answers_are_measured_by_their_squares() -> None:
    model = nn.Sequential(*network()[:-1], nn.Linear(32, 1)).eval()
    plan = Quantize(mixed={"size": 0.2}, activations=None).plan(model, Context(task=Toy(INPUTS)))
    assert np.isfinite([made["bits"] for made in plan.do.values()]).all()
