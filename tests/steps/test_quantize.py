"""Integers after training: what is decided, what runs, what is refused."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models import CASES, Toy
from rarefy import encodings
from rarefy.errors import DataError, StepError
from rarefy.export.onnx import Exporter
from rarefy.graph.weights import by_path
from rarefy.measure import answer
from rarefy.quantizing import decision
from rarefy.runtime import session
from rarefy.step import Context, Step
from rarefy.steps import ClusterWeights, Half, PruneChannels, PruneWeights, Quantize, RoundWeights


class Same(nn.Conv2d):
    """Pads by itself, on one side, as TensorFlow does."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (0, 1, 0, 1)))


class Inverted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.expand, self.bn0 = nn.Conv2d(8, 16, 1, bias=False), nn.BatchNorm2d(16)
        self.depthwise, self.bn1 = nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False), nn.BatchNorm2d(16)
        self.project, self.bn2, self.relu = nn.Conv2d(16, 8, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6()

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn0(self.expand(x)))
        return x + self.bn2(self.project(self.relu(self.bn1(self.depthwise(y)))))


def mobile() -> nn.Sequential:
    """EfficientNet-Lite-like."""
    torch.manual_seed(0)
    stem = nn.Sequential(Same(3, 8, 3, stride=2, bias=False), nn.BatchNorm2d(8), nn.ReLU6())
    model = nn.Sequential(stem, Inverted(), Inverted(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
            nn.init.uniform_(module.running_var, 0.1, 0.6)
    return model.eval()


PICTURES = torch.randn(24, 3, 12, 12, generator=torch.Generator().manual_seed(3))
TASK = Toy(PICTURES)


def operators(data: bytes, folder: Path) -> Counter[str]:
    """Those that ONNX Runtime runs."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(folder / "optimised.onnx"), 3
    onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)


def test_every_convolution_and_matrix_runs_on_integers(tmp_path: Path) -> None:
    model = mobile()
    made = Quantize()(model, TASK)
    data = Exporter(made, PICTURES[:2]).write(made).proto.SerializeToString()
    ran = operators(data, tmp_path)
    assert ran["QLinearConv"] == 7
    assert ran["QGemm"] == 1
    assert ran["QLinearAdd"] == 2
    assert ran["QLinearGlobalAveragePool"] == 1
    assert not {"Conv", "Gemm", "Add", "Clip", "DequantizeLinear"} & ran.keys()
    assert ran["QuantizeLinear"] == 1
    with torch.no_grad():
        wanted, ours = model(PICTURES), made(PICTURES)
    assert float((ours - wanted).norm() / wanted.norm()) < 0.05
    for optimise in (True, False):
        got = answer(session(data, optimise=optimise))(PICTURES)
        assert float((got - ours).abs().max()) < 0.03 * float(ours.abs().max())


def test_plan_says_everything() -> None:
    plan = Quantize(layers={"1.expand": 4}, skip=("2.*",)).plan(mobile(), Context(task=TASK))
    assert plan.do["0.0.weight"] == {"bits": 8, "axis": 0, "group": 0, "symmetric": True}
    assert plan.do["1.expand.weight"]["bits"] == 4
    assert plan.do["1.bn0.weight"] == plan.do["1.bn0.bias"] == {"into": "1.expand"}
    assert plan.do["5.bias"] == {"bits": 32}
    assert plan.notes["0.0.weight"] == "8-bit integers, a scale per channel"
    assert plan.also["0.0:output"] == {
        "of": "0.0:output",
        "clip": [0.0, 6.0],
        "silent": False,
        "addends": [],
        "bits": 8,
    }
    assert plan.also["1.bn2"] == {"into": "1.project"}
    assert {why for path, why in plan.leave.items() if path.startswith("2.")} == {"skipped, as set"}
    assert not any(path.startswith("2.") for path in plan.also)


@pytest.mark.parametrize("bias", [True, False])
def test_weights_alone_keep_the_means_too(bias: bool) -> None:
    """By the bias, or by the BatchNorm that follows."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1, bias=bias), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 2, 1)
    ).eval()
    inputs = torch.rand(8, 3, 6, 6) + 1
    made = Quantize(weights=2, activations=None)(model, Toy(inputs))
    with torch.no_grad():
        before, after = (network[1](network[0](inputs)).mean((0, 2, 3)) for network in (model, made))
        moved = (made[0](inputs) - model[0](inputs)).abs().max()
    assert torch.allclose(before, after, atol=1e-5)
    assert moved > 0.05
    assert isinstance(made[1], nn.BatchNorm2d)


def test_biases_make_up_for_the_rounding() -> None:
    """The mean of a layer's outputs is that of the float layer, borders included."""
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 6, 3, padding=1)
    inputs = torch.rand(8, 3, 6, 6) + 1
    made = Quantize(weights=2, reduce_range=False)(layer, Toy(inputs))
    before = by_path(layer)["weight"].tensor
    with torch.no_grad():
        wanted = layer(inputs).mean((0, 2, 3))
        ours = F.conv2d(inputs, made.weight, made.bias, padding=1).mean((0, 2, 3))
        uncorrected = F.conv2d(inputs, made.weight, layer.bias, padding=1).mean((0, 2, 3))
    assert torch.allclose(ours, wanted, atol=1e-3)  # biases are integers too
    assert float((uncorrected - wanted).abs().max()) > 0.05
    assert before is layer.weight


@pytest.mark.parametrize(("bits", "per"), [(8, "channel"), (4, "channel"), (3, 4), (2, 4), (8, "tensor")])
def test_weights_alone(bits: int, per: Any, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 7))
    made = Quantize(weights=bits, per=per, activations=None)(model, Toy(torch.randn(3, 16)))
    assert not any(name.endswith("_scale") for name, _ in made.named_buffers())
    rows = made[0].weight.reshape(-1, per) if isinstance(per, int) else made[0].weight
    assert all(len(row.unique()) <= 2**bits - 1 for row in rows)
    proto = Exporter(made, torch.randn(2, 16)).write(made).proto
    kinds = {t.name: t.data_type for t in proto.graph.initializer}
    assert kinds["0.weight.values"] == (onnx.TensorProto.INT4 if bits <= 4 else onnx.TensorProto.INT8)
    inputs = torch.randn(5, 16)
    for optimise in (True, False):
        got = answer(session(proto.SerializeToString(), optimise=optimise))(inputs)
        assert torch.allclose(got, made(inputs), atol=2e-2 if optimise else 1e-5)


def test_groups_that_do_not_fit_are_said() -> None:
    model = nn.Sequential(nn.Linear(15, 12), nn.Linear(12, 7))
    plan = Quantize(per=4, activations=None).plan(model, Context(task=TASK))
    assert plan.notes["0.weight"] == "8-bit integers, a scale per channel (groups of 4 do not fit its shape)"
    assert plan.notes["1.weight"] == "8-bit integers, a scale per group of 4"


def test_a_transposed_convolution_has_its_channels_on_the_right_axis() -> None:
    plan = Quantize().plan(CASES["transposed"].model(), Context(task=CASES["transposed"].task()))
    assert plan.do["up.weight"]["axis"] == 1


def test_shared_weights_are_quantized_once() -> None:
    made = Quantize()(CASES["twice"].model(), CASES["twice"].task())
    weights = by_path(made)
    assert weights["conv.weight"] is weights["other.weight"] is weights["same.weight"]
    assert made.conv.parametrizations.weight.original is made.other.parametrizations.weight.original


def test_composes() -> None:
    sparse = PruneWeights(sparsity=0.5)(mobile(), TASK)
    made = Quantize()(sparse, TASK)
    for path, weight in by_path(made).items():
        zeros = encodings.zeros(weight)
        if zeros is not None:
            assert zeros.any(), path
            assert not weight.tensor[zeros].any()
            assert encodings.describe(weight).startswith("int8 per channel")
    narrow = Quantize()(PruneChannels(ratio=0.5, align=1)(mobile(), TASK), TASK)
    assert narrow[1].expand.weight.shape[0] < 16
    with pytest.raises(StepError, match="Half found nothing to store in 16 bits"):
        Half().plan(made, Context(task=TASK))
    halved = Half().plan(Quantize(skip=("5",))(mobile(), TASK), Context(task=TASK))
    assert halved.do.keys() == {"5.weight", "5.bias"}
    assert halved.leave["1.expand.weight"] == "stored as int8 per channel already"
    assert halved.leave["1.expand.bias"] == "added to sums of integers, which has to be exact"


def test_a_codebook_is_left_with_the_remedy() -> None:
    model = ClusterWeights(bits=2, skip=("5",))(mobile(), TASK)
    plan = Quantize().plan(model, Context(task=TASK))
    assert plan.leave["1.expand.weight"] == (
        "stored as codebook of 4 already: put Quantize before the step that did it, or leave it out"
    )
    assert "1.bn0" not in plan.also
    with pytest.raises(StepError, match="Quantize found no weight to quantize"):
        Quantize().plan(Quantize()(mobile(), TASK), Context(task=TASK))


def test_trains_on_under_bfloat16() -> None:
    made = Quantize()(mobile(), TASK).train()
    optimizer = torch.optim.SGD(made.parameters(), 0.05)
    losses = []
    for _ in range(12):
        with torch.autocast("cpu", torch.bfloat16):
            loss = F.cross_entropy(made(PICTURES[:1]).float(), torch.tensor([3]))
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in made.parameters())
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(("features", "bits"), [(["avx2"], 7), (["avx2", "avx512_vnni"], 8), (["neon"], 8)])
def test_where_multiply_add_saturates_weights_have_7_bits(
    features: list[str], bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = decision.measure.environment().model_copy(update={"cpu_features": features})
    monkeypatch.setattr(decision.measure, "environment", lambda: here)
    context = Context(task=TASK)
    assert Quantize().plan(mobile(), context).do["0.0.weight"]["bits"] == bits
    assert bool(context.warnings) == (bits == 7)
    assert Quantize(reduce_range=True).plan(mobile(), context).do["0.0.weight"]["bits"] == 7
    assert Quantize(reduce_range=False).plan(mobile(), context).do["0.0.weight"]["bits"] == 8


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_examples_that_are_not_finite_are_refused(bad: float) -> None:
    pictures = PICTURES.clone()
    pictures[5, 0, 0, 0] = bad
    with pytest.raises(StepError, match=r"NaN or infinite values at the input of 0\.0 while calibrating"):
        Quantize()(mobile(), Toy(pictures))


class Empty(Toy):
    def train(self, *, seed: int, rank: int = 0, world: int = 1) -> Any:
        raise DataError("no training part")

    def judge(self) -> Any:
        return [(self.inputs, None)]


def test_without_training_examples() -> None:
    with pytest.raises(StepError, match="calibration needs training examples, and there are none"):
        Quantize()(mobile(), Empty(PICTURES))
    assert Quantize(activations=None)(mobile(), Empty(PICTURES))


def test_symmetric_activations_have_no_zero_point_where_they_are_never_negative() -> None:
    made = Quantize(symmetric_activations=True)(mobile(), TASK)
    points = [
        int(buffer) for path, buffer in made.named_buffers() if path.endswith(("input_zero_point", "output_zero_point"))
    ]
    assert set(points) == {0, 128}


def test_constant_activations() -> None:
    made = Quantize()(mobile(), Toy(torch.zeros(4, 3, 12, 12)))
    with torch.no_grad():
        assert torch.allclose(made(torch.zeros(1, 3, 12, 12)), mobile()(torch.zeros(1, 3, 12, 12)), atol=0.05)


def test_bits_that_cannot_be_stored() -> None:
    with pytest.raises(StepError, match=r"2 to 8 bits can be stored, not 1\.expand: 1"):
        Quantize(layers={"1.expand": 1}).plan(mobile(), Context(task=TASK))


def test_one_image_fifty_times_as_bright_hardly_matters() -> None:
    spoilt = PICTURES.clone()
    spoilt[7] *= 50
    with torch.no_grad():
        wanted = mobile()(PICTURES)
        usual, other, covering = (
            float((step(mobile(), Toy(pictures))(PICTURES) - wanted).norm() / wanted.norm())
            for step, pictures in ((Quantize(), PICTURES), (Quantize(), spoilt), (Quantize(observer="minmax"), spoilt))
        )
    assert other < 2 * usual
    assert covering > 4 * usual


def test_steps_for_float_weights_leave_integers_and_say_so() -> None:
    model, task = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4)).eval(), Toy(torch.randn(4, 16))
    quantized = Quantize(weights=8, activations=None)(model, task)
    for step in (PruneWeights(sparsity=0.5), ClusterWeights(bits=2)):
        with pytest.raises(StepError, match=rf"{type(step).__name__} found no weight"):
            step(quantized, task)


def error(step: Quantize, model: nn.Module) -> float:
    with torch.no_grad():
        wanted = model(PICTURES)
        return float((step(model, TASK)(PICTURES) - wanted).norm() / wanted.norm())


def test_rounding_up_or_down_by_what_the_layers_see() -> None:
    step = Quantize(weights=2, rounding="adaptive", activations=None)
    draw = torch.Generator().manual_seed(3)
    smooth = nn.functional.interpolate(torch.randn(256, 3, 3, 3, generator=draw), 12, mode="bilinear")
    seen, others = smooth[:128], smooth[128:]
    errors = {}
    for rounding in ("nearest", "adaptive"):
        made = step.replace(rounding=rounding)(mobile(), Toy(seen))
        with torch.no_grad():
            errors[rounding] = float((made(others) - mobile()(others)).norm())
    assert errors["adaptive"] < 0.78 * errors["nearest"]  # 0.81 where the mean inputs count, though biases take them
    notes = step.plan(mobile(), Context(task=TASK)).notes
    assert notes["5.weight"] == "2-bit integers, a scale per channel, up or down by what the layer sees"
    plan = step.plan(CASES["transposed"].model(), Context(task=CASES["transposed"].task()))
    assert plan.notes["up.weight"] == "2-bit integers, a scale per channel, to the nearest (of ConvTranspose2d)"
    assert "rounding" not in plan.do["up.weight"]


def test_equal_ranges_are_a_matter_of_the_plan() -> None:
    step, context = Quantize(equalise=True), Context(task=TASK)
    model = mobile()
    plan = step.plan(model, context)
    assert plan.also["1.expand:channels"] == {"next": "1.depthwise", "bound": 6.0}
    assert "0.0:channels" not in plan.also  # what the stem gives is used twice
    assert error(step, mobile()) < 0.05


def test_channels_can_go_afterwards(tmp_path: Path) -> None:
    made = PruneChannels(ratio=0.5, align=1)(Quantize()(mobile(), TASK), TASK)
    assert made[1].expand.weight.shape[0] < 16
    data = Exporter(made, PICTURES[:2]).write(made).proto.SerializeToString()
    assert operators(data, tmp_path)["QLinearConv"] == 7
    assert operators(data, tmp_path)["QGemm"] == 1  # whose bias takes over constants, as an integer
    for optimise in (True, False):
        assert torch.allclose(answer(session(data, optimise=optimise))(PICTURES), made(PICTURES), atol=1e-5)


def test_a_layer_whose_range_is_infinite_is_named() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)).eval()
    with torch.no_grad():
        model[0].weight.fill_(3e38)
    with pytest.raises(StepError, match=r"NaN or infinite values at the output of 0 while calibrating.*skip"):
        Quantize()(model, Toy(torch.ones(4, 4)))


@pytest.mark.parametrize("rounding", ["nearest", "adaptive"])
def test_examples_that_are_not_finite_are_an_error_also_for_weights_alone(rounding: str) -> None:
    with pytest.raises(StepError, match=r"NaN or infinite values at the input of 0.0 while calibrating.*skip"):
        Quantize(activations=None, rounding=rounding)(mobile(), Toy(torch.full((4, 3, 12, 12), torch.nan)))


def test_layers_that_no_example_reaches_are_named() -> None:
    class Sometimes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.two(self.one(x).sigmoid()) if len(x) == 2 else self.one(x)

    with pytest.raises(StepError, match="never reached two"):
        Quantize()(Sometimes().eval(), Toy(torch.randn(6, 4)))


def test_two_inputs() -> None:
    case = CASES["two-inputs"]
    model = case.model().eval()
    made, inputs = Quantize()(model, case.task()), case.batch()
    proto = Exporter(made, inputs).write(made).proto
    assert sum(node.op_type == "QuantizeLinear" for node in proto.graph.node) >= 2
    with torch.no_grad():
        results = answer(session(proto.SerializeToString()))(inputs), made(*inputs), model(*inputs)
    for got, ours, wanted in zip(*results, strict=True):
        assert torch.allclose(got, ours, atol=1e-5)
        assert float((ours - wanted).norm() / wanted.norm()) < 0.05


class ReadsNorm(nn.Module):
    """Its code reads an attribute of one BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.last, self.after = nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.last(self.norm(self.conv(x)) + self.norm.eps)).mean((2, 3))


@pytest.mark.parametrize("step", [Quantize(), RoundWeights(bits=6)], ids=lambda step: type(step).__name__)
def test_a_normalisation_that_the_code_reads_stays(step: Step) -> None:
    model = ReadsNorm().eval()
    x, context = torch.randn(64, 3, 10, 10), Context(task=Toy(torch.randn(64, 3, 10, 10)))
    wanted = model(x)
    plan = step.plan(model, context)
    assert plan.leave["norm.weight"].startswith("the network's own code reads its eps at test_quantize.py:")
    assert "norm" not in plan.also
    assert plan.notes["after.weight"] == "folded into last"
    found = step.apply(model, plan, context)
    assert torch.allclose(found(x), wanted, atol=0.2)


def test_inputs_of_four_bit_matrices_stay_float32() -> None:
    model, task = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32)).eval(), Toy(torch.randn(8, 6, 32))
    result = Quantize(weights=4, activations=None)(model, task)
    proto = Exporter(result, task.inputs).write(result).proto
    found = answer(session(proto.SerializeToString()))(task.inputs)
    torch.testing.assert_close(found, result(task.inputs).detach(), rtol=1e-5, atol=1e-5)


def test_the_bias_of_a_layer_that_a_normalisation_is_folded_into() -> None:
    model = nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 24), nn.BatchNorm1d(24), nn.PReLU(24))
    model, task = nn.Sequential(*model, nn.Linear(24, 5)).eval(), Toy(torch.randn(64, 16))
    result = Quantize()(model, task)
    proto = Exporter(result, task.inputs).write(result).proto
    found = answer(session(proto.SerializeToString()))(task.inputs)
    torch.testing.assert_close(found, result(task.inputs).detach(), rtol=1e-4, atol=1e-4)
