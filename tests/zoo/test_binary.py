"""Binary networks of the zoo."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rarefy import encodings, zoo
from rarefy.errors import ModelError
from rarefy.export.onnx import Exporter
from rarefy.graph.weights import weights
from rarefy.layers.binary import BinaryConv2d
from rarefy.measure import answer
from rarefy.runtime import session


@pytest.mark.parametrize(("name", "layers"), [("resnet20", 18), ("resnet18", 16), ("vgg-small", 5)])
def test_all_but_first_last_and_1x1_is_binary(name: str, layers: int) -> None:
    network = zoo.build(f"{name}-binary,width=4,widen=2")
    binary = [m for m in network.modules() if isinstance(m, BinaryConv2d)]
    assert len(binary) == layers
    stored = [w for w in weights(network) if encodings.chain(w)]
    assert {id(w.module) for w in stored} == {id(m) for m in binary}
    plain = [w.module for w in weights(network) if w.tensor.ndim > 1 and not encodings.chain(w)]
    assert all(isinstance(m, nn.Linear) or m.in_channels == 3 or m.kernel_size == (1, 1) for m in plain)
    first = zoo.build(f"{name}-binary,width=4,weights=float")
    assert not any(encodings.chain(w) for w in weights(first))


def test_widening_is_of_the_binary_part() -> None:
    network = zoo.build("resnet20-binary,widen=3")
    assert network.get_parameter("stem.0.weight").shape[0] == 16
    assert network.get_submodule("stages.0.0.layer").out_channels == 48
    with torch.no_grad():
        assert network.eval()(torch.randn(2, 3, 32, 32)).shape == (2, 10)


def test_refusals() -> None:
    with pytest.raises(ModelError, match="weights must be one of sign, float, not 'ternary'"):
        zoo.build("resnet20-binary,weights=ternary")
    with pytest.raises(ModelError, match="size must be a whole number of at least 8, not 4"):
        zoo.build("vgg-small-binary,size=4")


def test_the_file_is_of_bits_and_answers_like_torch() -> None:
    torch.manual_seed(0)
    network = zoo.build("vgg-small-binary,width=16,size=8,classes=5").eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    x = torch.randn(64, 3, 8, 8)
    with torch.no_grad():
        wanted = network(x)
    exported = Exporter(network, x[:2]).write(network)
    got = answer(session(exported.proto.SerializeToString()))(x)
    assert (got.argmax(1) == wanted.argmax(1)).float().mean() >= 0.95
    binary = [w for w in weights(network) if encodings.chain(w)]
    held = {t.name: len(t.raw_data) for t in exported.proto.graph.initializer}
    small = sum(held[part] for w in binary for part in exported.parts[w.path])
    assert small <= 0.06 * sum(4 * w.tensor.numel() for w in binary)
    operators = [node.op_type for node in exported.proto.graph.node]
    assert operators.count("BinaryConv") + operators.count("BinaryConvThreshold") == 5
    assert operators.count("BatchNormalization") == 2  # the stem's, which engines fold, and the one before the Linear
