"""Sixteen bits of everything that fits."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from models import Toy
from rarefy import encodings
from rarefy.errors import StepError
from rarefy.graph.weights import by_path, weights
from rarefy.step import Context
from rarefy.steps import ClusterWeights, Half, PruneWeights

TASK = Toy(torch.zeros(2, 6))


def test_rounds_every_float_and_leaves_what_is_beyond() -> None:
    model = nn.Linear(6, 5)
    with torch.no_grad():
        model.weight[0, 0] = -65520.0
    plan = Half().plan(model, Context(task=TASK))
    assert plan.do == {"bias": {"format": "float16"}}
    assert plan.leave == {"weight": "its largest magnitude, 6.55e+04, is beyond float16; bfloat16 would take it"}
    assert torch.equal(Half()(model, TASK).bias, model.bias.half().float())
    wide = Half(format="bfloat16")(model, TASK)
    assert torch.equal(wide.weight, model.weight.bfloat16().float())


def test_the_largest_number_is_not_beyond() -> None:
    model = nn.Linear(6, 5)
    with torch.no_grad():
        model.weight[0, 0] = 65504
    assert Half()(model, TASK).weight[0, 0] == 65504


def test_is_innermost() -> None:
    model = ClusterWeights(k=3)(PruneWeights(sparsity=0.5)(nn.Linear(60, 5), TASK), TASK)
    half = Half(skip=("bias",))(model, TASK)
    weight = by_path(half)["weight"]
    assert [type(link) for link in encodings.chain(weight)] == [encodings.Half, encodings.Codebook]
    assert encodings.stored_bits(weight) == 3 * 16 + 300 * 2
    assert torch.equal(half.weight, model.weight.half().float())
    assert encodings.describe(by_path(half)["bias"]) == "float32"


def test_twice_is_refused() -> None:
    with pytest.raises(StepError, match=r"^Half found nothing to store in 16 bits; leave the step out"):
        Half()(Half()(nn.Linear(3, 3), TASK), TASK)
    assert set(Half(skip=("bias",)).plan(nn.Linear(3, 3), Context(task=TASK)).leave.values()) == {"skipped, as set"}
    model = nn.Sequential(nn.Linear(3, 3).half(), nn.Linear(3, 3))
    assert Half().plan(model, Context(task=TASK)).leave["0.weight"] == "stored in 16 bits already"
    assert next(w.values.dtype for w in weights(Half()(model, TASK))) == torch.float16
