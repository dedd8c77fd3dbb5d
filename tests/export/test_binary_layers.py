"""Binary networks as files: one bit for each weight, all constants folded, the same answers everywhere."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from rarefy import encodings, measure
from rarefy.encodings import Half, Signs, Ternary
from rarefy.export.onnx import Exported, Exporter
from rarefy.graph.weights import by_path
from rarefy.kernels import custom_ops
from rarefy.layers.binary import Activation, binarize
from rarefy.layers.binary_units import BinaryUnit, Copies, ShiftedPReLU
from rarefy.measure import answer
from rarefy.runtime import session

KERNELS = ["numpy", *([""] if custom_ops() else [])]  # numpy: stock ONNX Runtime runs the functions' bodies


def norm(channels: int) -> nn.BatchNorm2d:
    """As if trained, some scales negative and one zero."""
    batch = nn.BatchNorm2d(channels)
    nn.init.normal_(batch.weight)
    nn.init.normal_(batch.bias, std=0.3)
    nn.init.normal_(batch.running_mean)
    nn.init.uniform_(batch.running_var, 0.5, 1.5)
    with torch.no_grad():
        batch.weight[0] = 0
    return batch


def signs(model: nn.Module, path: str, kind: Any = Signs, **options: Any) -> None:
    weight = by_path(model)[f"{path}.weight"]
    link = kind(tuple(weight.tensor.shape), **options).fit(weight.tensor.detach())
    encodings.encode(weight, [link], weight.tensor)


class Network(nn.Module):
    """BatchNorm before a sign after a pooling, a chain of three, K, bits, a convolution used twice, a matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.pool, self.before = nn.Conv2d(3, 20, 3, padding=1), nn.MaxPool2d(2), norm(20)
        self.one, self.norm1 = nn.Conv2d(20, 24, 3, padding="same"), norm(24)
        self.two, self.norm2 = nn.Conv2d(24, 24, 3, 2, padding=(1, 0), bias=False), norm(24)
        self.act, self.mapped = nn.PReLU(24), nn.Conv2d(24, 16, 2, padding=1)
        self.twice, self.norm3 = nn.Conv2d(16, 16, 3, padding=1), norm(16)
        self.bits, self.head = nn.Linear(16, 12), nn.Linear(12, 5)
        for layer, channels in ((self.one, 20), (self.two, 24)):
            binarize(layer, Activation(), torch.randn(channels) * 0.2)
        binarize(self.mapped, Activation(map=True), torch.randn(24) * 0.2)
        binarize(self.twice, Activation())
        binarize(self.bits, Activation(2), steps=torch.tensor(2.5))

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(self.before(self.pool(self.stem(x))))
        x = self.mapped(self.act(self.norm2(self.two(self.norm1(x)))))
        x = self.twice(self.norm3(self.twice(x)))
        return self.head(self.bits(x.flatten(2).transpose(1, 2))).mean(1)


@pytest.fixture(scope="module")
def network() -> Network:
    torch.manual_seed(0)
    return Network().eval()


@pytest.fixture(scope="module")
def exporter(network: Network) -> Exporter:
    return Exporter(network, torch.randn(2, 3, 12, 12))


def binary(network: Network) -> Network:
    model = copy.deepcopy(network)
    for path in ("one", "two", "mapped", "twice", "bits"):
        signs(model, path, scaled=path != "two")
    return model


def check(exported: Exported, model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Equal to torch in stock ONNX Runtime and by the kernels; the operators of the graph."""
    onnx.checker.check_model(exported.proto, full_check=True)
    torch.manual_seed(1)
    x = torch.randn(40, 3, 12, 12)
    with torch.no_grad():
        wanted = model(x)
    data = exported.proto.SerializeToString()
    for kernels in KERNELS:
        monkeypatch.setenv("RAREFY_KERNELS", kernels)
        for optimise in (True, False):
            got = answer(session(data, optimise=optimise))(x)
            near = (got - wanted).abs().amax(1) <= 1e-5 * wanted.abs().max()
            assert near.float().mean() >= 0.9, (kernels, optimise)  # a sum on an edge may go the other way
    names = {part for parts in exported.parts.values() for part in parts}
    assert all(t.name in names or len(t.dims) < 2 for t in exported.proto.graph.initializer)
    return Counter(node.op_type for node in exported.proto.graph.node)


def test_every_layer_is_one_operator(network: Network, exporter: Exporter, monkeypatch: pytest.MonkeyPatch) -> None:
    model = binary(network)
    exported = exporter.write(model)
    found = check(exported, model, monkeypatch)
    assert {n: c for n, c in found.items() if "Binary" in n or "LowBit" in n} == {
        "BinaryConv": 3,
        "BinaryConvThreshold": 1,
        "BinaryConvMapped": 1,
        "LowBitLinear": 1,
    }
    # one for the convolution that is used twice, whose weight the first could not take it into; before K; after a pool
    assert found["BatchNormalization"] == 1
    assert found["Sub"] == 1  # before K
    assert found["Conv"] == 1
    for path, count in (("one", 24 * 23), ("two", 24 * 27), ("mapped", 16 * 12), ("twice", 16 * 18), ("bits", 24)):
        held = next(t for t in exported.proto.graph.initializer if t.name == f"{path}.weight.values")
        assert len(held.raw_data) == count
    assert not exported.parts.keys() & {"norm1.weight", "norm1.running_mean", "one.threshold", "two.threshold"}


def test_levels_of_a_layer_that_is_called_twice() -> None:
    layer = nn.Linear(6, 6)
    binarize(layer, Activation(2), steps=torch.tensor(2.5))
    model, x = nn.Sequential(layer, nn.ReLU(), layer).eval(), torch.rand(4, 6)
    signs(model, "0")
    found = answer(session(Exporter(model, x).write(model).proto.SerializeToString()))(x)
    torch.testing.assert_close(found, model(x).detach())


@pytest.mark.parametrize("scaled", [True, False])
def test_a_shared_weight_before_two_normalisations(scaled: bool) -> None:
    first, second = nn.Conv2d(6, 6, 3), nn.Conv2d(6, 6, 3)
    second.weight = first.weight
    for layer in (first, second):
        binarize(layer, Activation())
    model, x = encodings.adopted(nn.Sequential(first, norm(6), second, norm(6)).eval()), torch.randn(2, 6, 8, 8)
    signs(model, "0", scaled=scaled)
    found = answer(session(Exporter(model, x).write(model).proto.SerializeToString()))(x)
    torch.testing.assert_close(found, model(x).detach(), rtol=1e-4, atol=1e-4)


def test_a_batchnorm_is_a_threshold_and_a_flip(network: Network, exporter: Exporter) -> None:
    model = binary(network)
    assert (model.before.weight < 0).any()
    tensors = {t.name: t for t in exporter.write(model).proto.graph.initializer}
    own = encodings.stored(by_path(model)["one.weight"]).numpy()
    assert not np.array_equal(onnx.numpy_helper.to_array(tensors["one.weight.values"]), own)
    assert (
        np.isneginf(onnx.numpy_helper.to_array(tensors["before.bias"])).any()
        or np.isposinf(onnx.numpy_helper.to_array(tensors["before.bias"])).any()
    )


def test_while_weights_are_something_else(
    network: Network, exporter: Exporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same traced graph serves the first of two stages, ternary weights and half floats."""
    model = copy.deepcopy(network)
    signs(model, "one", Ternary)
    signs(model, "two")
    weight = by_path(model)["bits.weight"]
    encodings.encode(weight, [Half()], weight.tensor)
    found = check(exporter.write(model), model, monkeypatch)
    assert found["SignConv"] == 3
    assert (found["SignConvMapped"], found["LevelLinear"], found["BinaryConv"]) == (1, 1, 1)


def test_half_thresholds_and_biases(network: Network, exporter: Exporter, monkeypatch: pytest.MonkeyPatch) -> None:
    """Constants that are decoded cannot be folded, and are used as they are."""
    model = binary(network)
    for path in ("two.threshold", "one.bias", "mapped.threshold", "norm2.bias"):
        weight = by_path(model)[path]
        encodings.encode(weight, [Half()], weight.tensor)
    found = check(exporter.write(model), model, monkeypatch)
    assert found["BatchNormalization"] == 3
    assert found["Cast"] >= 4


class Awkward(nn.Module):
    """What has no kernel: groups, padding by reflection. A matrix whose weight is two layers', of different inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.grouped = nn.Conv2d(3, 6, 3, groups=3)
        self.reflected = nn.Conv2d(6, 8, 3, padding=1, padding_mode="reflect")
        self.left, self.right = nn.Linear(8, 8), nn.Linear(8, 8)
        self.right.weight = self.left.weight
        binarize(self.grouped, Activation(), torch.zeros(3))
        binarize(self.reflected, Activation(map=False))
        binarize(self.left, Activation(2), steps=torch.tensor(2.0))
        binarize(self.right, Activation())

    def forward(self, x: Tensor) -> Tensor:
        x = self.reflected(self.grouped(x)).mean((2, 3))
        return self.left(x) + self.right(x)


def test_what_has_no_kernel_runs_as_standard_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = Awkward().eval()
    for path in ("grouped", "reflected", "left"):
        signs(model, path)
    exported = Exporter(model, torch.randn(2, 3, 12, 12)).write(model)
    found = check(exported, model, monkeypatch)
    assert found["Conv"] == 2
    assert found["LowBitLinear"] == found["BinaryLinear"] == 1
    assert measure.parameters(exported.proto)[0] >= 6 * 9 + 8 * 6 * 9 + 64


class Shifted(nn.Module):
    """Units as in ReActNet: shifts before and after a PReLU, thresholds; one with a stride at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.unit0 = nn.Conv2d(3, 16, 3), self.unit(nn.Identity())
        self.unit1, self.unit2 = self.unit(nn.Identity()), self.unit(Copies(2, 1), stride=2)
        self.alone, self.act, self.last = nn.Conv2d(16, 16, 1), ShiftedPReLU(16), nn.Conv2d(16, 5, 2)
        self.last.weight.data.mul_(3)
        binarize(self.alone, Activation())
        binarize(self.last, Activation(), torch.zeros(16))
        for parameter in self.parameters():
            if parameter.ndim == 1:
                nn.init.normal_(parameter, std=0.4)

    def unit(self, shortcut: nn.Module, stride: int = 1) -> BinaryUnit:
        layer = nn.Conv2d(16, 16, 3, stride, padding=1, bias=False)
        binarize(layer, Activation(), torch.zeros(16))
        return BinaryUnit(layer, norm(16), shortcut, ShiftedPReLU(16))

    def forward(self, x: Tensor) -> Tensor:
        x = self.unit2(self.unit1(self.unit0(self.stem(x))))
        return self.last(self.act(self.alone(x))).mean((2, 3))


def test_shifts_become_thresholds_and_biases(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = Shifted().eval()
    for path in ("unit0.layer", "unit1.layer", "unit2.layer", "alone", "last"):
        signs(model, path)
    exporter = Exporter(model, torch.randn(2, 3, 12, 12))
    exported = exporter.write(model)
    found = check(exported, model, monkeypatch)
    # the layer without a threshold has no other place for what is added before it
    assert (found["BinaryConvThreshold"], found["BinaryConv"], found["Sub"]) == (4, 1, 0)
    assert found["Add"] == 3 + 2  # shortcuts; and before the layer without a threshold, before the pooling
    assert found["PRelu"] == 0
    gone = ("unit0.act.before", "unit0.act.after", "act.before", "act.after", "unit1.norm.weight")
    assert not exported.parts.keys() & set(gone)
    with torch.no_grad():
        model.act.slope[0] = 1.5
        encodings.encode(by_path(model)["unit0.act.before"], [Half()], model.unit0.act.before)
    found = check(exporter.write(model), model, monkeypatch)
    assert (found["PRelu"], found["Sub"]) == (1, 1)


@pytest.mark.skipif(custom_ops() is None, reason="rarefy was installed without a C++ compiler")
def test_kernels_agree_to_the_bit(network: Network, exporter: Exporter, monkeypatch: pytest.MonkeyPatch) -> None:
    from rarefy.kernels import features

    model = binary(network)
    data = exporter.write(model).proto.SerializeToString()
    x, answers = torch.randn(8, 3, 12, 12), list[Tensor]()
    for version in features().available:
        if version != "numpy":
            monkeypatch.setenv("RAREFY_KERNELS", version)
            answers.append(answer(session(data))(x))
    assert all(torch.equal(answers[0], other) for other in answers)


@pytest.mark.parametrize("bits", [0, 2])
def test_as_many_of_each_sign_are_nothing_everywhere(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer's result is the next one's input as it is: sums that are 0 must be so in torch, engine and kernel."""
    layers = [nn.Conv2d(4, 8, 1), nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.Conv2d(8, 8, 3, bias=False)]
    layers += [nn.Flatten(), nn.Linear(288, 24, bias=False), nn.Linear(24, 5)]  # type: ignore[list-item]
    model, x = encodings.adopted(nn.Sequential(*layers).eval()), torch.randn(64, 4, 8, 8)
    for path in ("1", "2", "4", "5"):
        layer = model.get_submodule(path)
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        binarize(layer, Activation(bits), steps=torch.tensor(0.7) if bits else None)
        signs(model, path)
    data = Exporter(model, x).write(model).proto.SerializeToString()
    for kernels in KERNELS:
        monkeypatch.setenv("RAREFY_KERNELS", kernels)
        for optimise in (True, False):
            found = answer(session(data, optimise=optimise))(x)
            torch.testing.assert_close(found, model(x).detach(), rtol=1e-5, atol=1e-5)
