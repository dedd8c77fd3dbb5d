"""Integers by training: what is decided, what is learnt, what is shipped."""

from __future__ import annotations

import copy
import math
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from models import Toy
from rarefy import Classification, Finetune, PruneWeights, Quantize, QuantizeAware, Teacher, encodings, train
from rarefy.encodings import Affine
from rarefy.errors import SettingsError, StepError
from rarefy.export.onnx import Exporter
from rarefy.files import model_tensors
from rarefy.graph.weights import by_path, weights
from rarefy.measure import answer
from rarefy.quantizing.normalisation import absorbed
from rarefy.runtime import session
from rarefy.step import Context


class Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        self.conv2, self.bn2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(x + y)


def network(seed: int = 0) -> nn.Sequential:
    """A small ResNet."""
    torch.manual_seed(seed)
    stem = nn.Sequential(nn.Conv2d(2, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
    return nn.Sequential(stem, Block(8), Block(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)).eval()


def pictures(count: int = 96) -> Classification:
    """Which of two channels is brighter, and whether its left or its right half."""
    draw = np.random.default_rng(0)
    labels = np.arange(count) % 4
    x = draw.normal(size=(count, 2, 6, 6)).astype(np.float32)
    for image, label in zip(x, labels, strict=True):
        image[label // 2, :, 3 * (label % 2) : 3 * (label % 2) + 3] += 0.7
    return Classification((x, labels), (x, labels), batch_size=16)


TASK = pictures()
FEW = QuantizeAware(weights=3, activations=3, epochs=2, lr=3e-3)


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    """The float network; each test has a copy from the step that it tries."""
    made = Finetune(epochs=8, lr=0.01)(network(), TASK)
    assert train.evaluate(made, TASK.judge(), TASK) > 0.9
    return made


def images() -> Tensor:
    return torch.cat([inputs for inputs, _ in TASK.judge()])


def plan_of(step: QuantizeAware, model: nn.Module) -> Any:
    return step.plan(model, Context(task=TASK))


def test_plan_says_the_bits_of_everything(trained: nn.Module) -> None:
    plan = plan_of(QuantizeAware(weights=4, activations=5, epochs=1, layers={"2.conv1": 2}, skip=("1.conv2",)), trained)
    bits = {path: made["bits"] for path, made in plan.do.items() if "axis" in made}
    assert bits == {"0.0.weight": 8, "1.conv1.weight": 4, "2.conv1.weight": 2, "2.conv2.weight": 4, "5.weight": 8}
    assert plan.notes["2.conv1.weight"] == "2-bit integers, a scale per channel"
    assert plan.leave["1.conv2.weight"] == "skipped, as set"
    read = {name.partition(":")[0]: made["bits"] for name, made in plan.also.items() if name.endswith(":input")}
    assert read == {"0.0": 8, "1.conv1": 5, "2.conv1": 2, "2.conv2": 5, "5": 8}
    assert plan.also["2.conv2:output"]["bits"] == 8, "only a sum reads it"
    assert plan.also["1.bn1"] == {"into": "1.conv1"}
    assert "1.bn2" not in plan.also
    same = plan_of(QuantizeAware(weights=4, activations=4, ends=4, epochs=1), trained)
    assert {made["bits"] for made in same.do.values() if "axis" in made} == {4}


def test_learns_what_rounding_alone_has_lost(trained: nn.Module) -> None:
    context = Context(task=TASK)
    step = FEW.replace(weights=2, activations=2, epochs=10, lr=0.01)
    start = QuantizeAware(weights=2, activations=2, steps=1, lr=1e-12, freeze=0)(trained, TASK)
    model = copy.deepcopy(trained)
    made = step.apply(model, step.plan(model, context), context)
    before, after = (train.evaluate(m, TASK.judge(), TASK) for m in (start, made))
    assert before < 0.8
    assert after > before + 0.1
    assert context.curve[-1].loss < context.curve[0].loss


def scales(model: nn.Module) -> list[Tensor]:
    links = [encodings.find(weight, Affine) for weight in weights(model)]
    return [link.scale for link in links if isinstance(link, Affine) and link.bits <= 8]


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_steps_are_learnt_or_left(trained: nn.Module, optimizer: str) -> None:
    step = FEW.replace(freeze=0, lr=0.01, optimizer=optimizer, epochs=1)
    learnt, left, more = (step.replace(**s)(trained, TASK) for s in ({}, {"learn_steps": False}, {"step_rate": 9.0}))
    assert not any("scale" in name for made in (learnt, left) for name, _ in made.named_parameters())
    first = "0.0.input_scale"  # no BatchNorm and no sum has a part in it
    start = QuantizeAware(weights=3, activations=3, steps=1, lr=1e-12, freeze=0)(trained, TASK).get_buffer(first)
    moved = [float((made.get_buffer(first) / start - 1).abs()) for made in (left, learnt, more)]
    assert moved[0] < 1e-6 < moved[1] < moved[2]
    assert all(bool(((scale > 0) & scale.isfinite()).all()) for scale in scales(more))
    assert more[1].conv1.input_scale is more[0][0].output_scale, "one range, one tensor"


def test_the_file_is_right_and_runs_on_integers(trained: nn.Module, tmp_path: Path) -> None:
    made = QuantizeAware(weights=4, activations=4, epochs=1)(trained, TASK)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in made.modules())
    assert all(len(row.unique()) <= 15 for row in made[1].conv1.weight)
    exported = Exporter(made, images()[:2]).write(made)
    onnx.checker.check_model(exported.proto, full_check=True)
    data = exported.proto.SerializeToString()
    with torch.no_grad():
        ours = made(images())
    for optimise in (True, False):
        got = answer(session(data, optimise=optimise))(images())
        assert float((got - ours).abs().max()) < 1e-4 * float(ours.abs().max())
    kinds = {t.name: t.data_type for t in exported.proto.graph.initializer}
    assert kinds["1.conv1.weight.values"] == onnx.TensorProto.INT4
    assert kinds["0.0.weight.values"] == onnx.TensorProto.INT8
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "optimised.onnx"), 3
    onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    ran = Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)
    assert ran["QLinearConv"] == 5
    assert ran["QGemm"] == 1
    assert ran["Clip"] == 4, "what the four inner convolutions read has 16 levels"
    assert not {"Conv", "Gemm", "Relu", "Cast"} & ran.keys()


def test_activations_have_the_levels_that_they_may_have(trained: nn.Module) -> None:
    made = FEW(trained, TASK)
    seen: dict[str, int] = {}
    for path in ("0.0", "1.conv1", "1.conv2", "1"):
        module = made.get_submodule(path)
        module.register_forward_hook(lambda _, __, out, path=path: seen.update({path: len(out.unique())}))
    made(images())
    assert all(seen[path] <= 8 for path in ("0.0", "1.conv1", "1"))
    assert 8 < seen["1.conv2"] <= 256


def test_weights_alone(trained: nn.Module) -> None:
    made = QuantizeAware(weights=2, activations=None, epochs=1)(trained, TASK)
    assert all(len(row.unique()) <= 3 for row in made[1].conv1.weight)
    assert not any(name.endswith("put_scale") for name, _ in made.named_buffers())
    assert isinstance(made[1].bn1, nn.BatchNorm2d)


def test_folding_changes_no_integer() -> None:
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)
    nn.init.normal_(norm.running_mean)
    nn.init.uniform_(norm.running_var, 0.1, 2)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.5, -0.5, 0.0, 1e-9, -2.0, 0.3]))
        norm.bias.normal_()
    model = nn.Sequential(conv, norm).eval()
    encodings.encode(by_path(model)["0.weight"], [Affine.of(conv.weight.detach(), 4)], conv.weight)
    before, x = encodings.stored(by_path(model)["0.weight"]), torch.randn(5, 3, 8, 8)
    wanted = model(x)
    assert torch.allclose(absorbed(model, "1", "0")(x), wanted, atol=1e-5)
    after = encodings.stored(by_path(model)["0.weight"])
    kept = torch.tensor([1, -1, 0, 0, -1, 1])[:, None, None, None]  # of next to nothing, nothing is left
    assert torch.equal(after, before * kept)
    assert bool((scales(model)[0] > 0).all())


@pytest.mark.parametrize("freeze", [0.0, 0.5, 1.0])
def test_statistics_stand_from_then_on(trained: nn.Module, freeze: float, monkeypatch: pytest.MonkeyPatch) -> None:
    means: list[Tensor] = []

    def spy(label: str, *_: int) -> None:
        if label == "QuantizeAware":
            means.append(model[0][1].running_mean.clone())

    step = FEW.replace(freeze=freeze)
    context = Context(task=TASK, progress=spy)
    model: Any = copy.deepcopy(trained)
    step.apply(model, step.plan(model, context), context)
    moved = [not torch.equal(a, b) for a, b in zip([trained[0][1].running_mean, *means], means, strict=False)]  # type: ignore[index,union-attr]
    assert moved == [i < freeze * 12 for i in range(12)]


def test_pruned_weights_stay_zero(trained: nn.Module) -> None:
    sparse = PruneWeights(sparsity=0.5)(trained, TASK)
    made = FEW(sparse, TASK)
    for path, weight in by_path(made).items():
        held = encodings.zeros(weight)
        if held is not None:
            assert held.any(), path
            assert not weight.tensor[held].any()


@pytest.mark.parametrize("settings", [{}, {"learn_steps": False}, {"optimizer": "sgd", "lr": 0.1, "step_rate": 100.0}])
def test_finite_under_bfloat16_with_one_example(trained: nn.Module, settings: Any) -> None:
    x, y = images()[:12], torch.arange(12) % 4
    task = Classification((x, y), (x, y), batch_size=1)
    step = FEW.replace(**{"precision": "bfloat16", "epochs": 1, "weights": 2, "activations": 2, **settings})
    context, model = Context(task=task), copy.deepcopy(trained)
    made = step.apply(model, step.plan(model, context), context)
    assert math.isfinite(context.curve[0].loss)
    assert all(bool(t.isfinite().all()) for t in model_tensors(made).values())
    assert made(images()).isfinite().all()


def test_takes_a_teacher(trained: nn.Module) -> None:
    context, model = Context(task=TASK, original=trained), copy.deepcopy(trained)
    step = FEW.replace(teacher=Teacher(), epochs=1)
    step.apply(model, step.plan(model, context), context)
    assert len(context.teachers) == 1


class Killed(Exception):
    """The process is gone."""


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_goes_on_where_it_was_killed(
    trained: nn.Module, optimizer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "SAVE_EVERY", 0.0)
    step = FEW.replace(epochs=3, optimizer=optimizer)

    def run(**more: Any) -> dict[str, Tensor]:
        context, model = Context(task=TASK, seed=5, **more), copy.deepcopy(trained)
        return model_tensors(step.apply(model, step.plan(model, context), context))

    def progress(label: str, done: int, _of: int) -> None:
        if label == "QuantizeAware" and done == 14:
            raise Killed

    whole, place = run(), tmp_path / "state"
    with pytest.raises(Killed):
        run(checkpoint=place, progress=progress)
    assert place.exists()
    resumed = run(checkpoint=place)
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


TWO = """
import sys
from pathlib import Path
import torch
from rarefy import QuantizeAware, train
from rarefy.files import model_tensors
from rarefy.step import Context
from rarefy.train import engine
sys.path[:0] = sys.argv[1:3]
from test_quantize_aware import FEW, Killed, TASK, network

train.SAVE_EVERY = 0.0
fabric = engine(2)
fabric.launch()

def run(**more):
    context = Context(task=TASK, seed=5, fabric=fabric, **more)
    model = network()
    return model_tensors(FEW.apply(model, FEW.plan(model, context), context)), context

def progress(label, done, of):
    if label == "QuantizeAware" and done == 5:
        raise Killed

whole, context = run()
place = Path(sys.argv[3])
try:
    run(checkpoint=place, progress=progress)
except Killed:
    fabric.barrier()
resumed, _ = run(checkpoint=place)
same = all(torch.equal(whole[n], resumed[n]) for n in whole)
alike = all(bool((fabric.all_gather(t.float()) == t.float()).all()) for t in whole.values())
finite = all(bool(t.isfinite().all()) for t in whole.values())
found = place.exists(), same, alike, finite, len(context.curve)
place.with_name(f"rank{fabric.global_rank}").write_text(" ".join(map(str, found)))
"""


def test_two_processes(tmp_path: Path) -> None:
    """Both have the same network in the end, and again the same if they are killed in between."""
    (tmp_path / "two.py").write_text(TWO)
    here = Path(__file__).parent
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", tmp_path / "two.py", here, here.parent, tmp_path / "state"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert [(tmp_path / f"rank{rank}").read_text() for rank in range(2)] == ["True True True True 2"] * 2


def test_what_cannot_be_done_is_said(trained: nn.Module) -> None:
    with pytest.raises(StepError, match="QuantizeAware found no weight to quantize"):
        plan_of(FEW, Quantize()(trained, TASK))
    with pytest.raises(StepError, match=r"QuantizeAware: layers: 2 to 8 bits can be stored, not 5: 9"):
        plan_of(FEW.replace(layers={"5": 9}), trained)
    with pytest.raises(SettingsError, match=r"QuantizeAware\.activations"):
        QuantizeAware(epochs=1, activations=1)
    with pytest.raises(StepError, match="NaN or infinite values"):
        FEW(network(), Toy(torch.full((4, 2, 6, 6), math.nan)))
