"""Every engine rounds alike."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from models import CASES, Toy
from rarefy import encodings
from rarefy.encodings import Affine
from rarefy.export.onnx import Exporter
from rarefy.graph.weights import weights
from rarefy.measure import answer
from rarefy.quantizing.alignment import align
from rarefy.quantizing.change import planned_points
from rarefy.runtime import session
from rarefy.step import Context
from rarefy.steps import Quantize
from rarefy.task import forward


@pytest.mark.parametrize("name", ["plain", "residual", "inverted", "dense", "shuffle", "fire"])
@pytest.mark.parametrize("bits", [8, 4])
def test_integers_and_floats_come_to_the_same_answer(name: str, bits: int) -> None:
    """With optimisations ONNX Runtime adds integers, without them floats, and torch adds floats in another order."""
    case = CASES[name]
    made = Quantize(weights=bits)(case.model(), case.task())
    data = Exporter(made, case.batch()).write(made).proto.SerializeToString()
    inputs = torch.randn(64, *case.batch().shape[1:], generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours = forward(made, inputs)
    for optimise in (True, False):
        got = answer(session(data, optimise=optimise))(inputs)
        assert torch.allclose(got, ours, rtol=1e-5, atol=1e-5 * float(ours.abs().max()))


def test_sums_that_would_be_half_way_are_not() -> None:
    """Inputs k / 255, weights k / 127 and outputs up to 512 / 127: one sum in 512 would be half-way."""
    draw = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Conv2d(8, 4, 1, bias=False), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()
    with torch.no_grad():
        model[0].weight.copy_(torch.randint(-32, 33, (4, 8, 1, 1), generator=draw) / 127)
        model[0].weight[:, 0] = 1
        model[0].weight[0, :, 0, 0] = torch.tensor([127.0, 127, 127, 127, 4, 0, 0, 0]) / 127
    inputs = torch.randint(0, 256, (16, 8, 32, 32), generator=draw) / 255
    inputs[0, :, 0, 0], inputs[1, 0, 0, 0] = 1, 0
    made = Quantize(observer="minmax")(model, Toy(inputs))
    data = Exporter(made, inputs[:2]).write(made).proto.SerializeToString()
    with torch.no_grad():
        ours = made(inputs)
    for optimise in (True, False):
        assert torch.allclose(answer(session(data, optimise=optimise))(inputs), ours, atol=1e-5)


def test_trained_scales_are_aligned_again() -> None:
    case, step = CASES["residual"], Quantize()
    model = encodings.copied(case.model())
    plan = step.plan(model, Context(task=case.task()))
    made, points = step.apply(model, plan, Context(task=case.task())), planned_points(plan)
    links = [link for w in weights(made) if isinstance(link := encodings.find(w, Affine), Affine) and link.bits == 8]
    scales = [*(link.scale for link in links), *(b for n, b in made.named_buffers() if n.endswith("_scale"))]
    before = [scale.clone() for scale in scales]
    for scale in scales:
        scale *= torch.rand(scale.shape, generator=torch.Generator().manual_seed(0)) / 50 + 1
    align(made, points)
    after = [scale.clone() for scale in scales]
    align(made, points)
    assert all(torch.allclose(one, two, rtol=1e-6) for one, two in zip(after, scales, strict=True))
    assert not any(torch.equal(one, two) for one, two in zip(before, after, strict=True))
