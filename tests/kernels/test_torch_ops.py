"""The operators for PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import rarefy.kernels.torch_ops  # noqa: F401  registers the operators
from kernels import oracle
from rarefy.errors import InputError
from rarefy.kernels import Convolution, Filters, pack_bits


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.shapes = {"conv": [10, 33, 3, 3], "linear": [7, 10]}
        for name, shape in self.shapes.items():
            weight, _, scale, bias = oracle.drawn(tuple(shape), (1,), 0)
            arrays = {"weight": pack_bits(weight), "scale": scale, "bias": bias}
            for part, array in arrays.items():
                self.register_buffer(f"{name}_{part}", torch.from_numpy(array))

    def forward(self, x: Tensor) -> Tensor:
        conv = (self.conv_weight, self.conv_scale, self.conv_bias, self.shapes["conv"])
        x = torch.ops.rarefy.binary_conv2d(x, *conv, [2, 1], [1, 1, 1, 1], pad_value=-1)
        linear = (self.linear_weight, self.linear_scale, self.linear_bias, self.shapes["linear"])
        return torch.ops.rarefy.binary_linear(x.mean((2, 3)), *linear, bits=2, steps=1.5)


@pytest.fixture
def x() -> Tensor:
    return torch.from_numpy(np.random.default_rng(1).standard_normal((3, 33, 8, 6)).astype(np.float32))


def test_they_give_what_the_kernels_give(x: Tensor) -> None:
    net = Network()
    arrays = [t.numpy() for t in (net.conv_weight, net.conv_scale, net.conv_bias)]
    conv = Filters(arrays[0], (10, 33, 3, 3)).conv2d(
        x.numpy(), *arrays[1:], Convolution((2, 1), (1, 1, 1, 1), pad_value=-1)
    )
    arrays = [t.numpy() for t in (net.linear_weight, net.linear_scale, net.linear_bias)]
    pooled = torch.from_numpy(conv).mean((2, 3)).numpy()
    wanted = Filters(arrays[0], (7, 10)).linear(pooled, *arrays[1:], bits=2, steps=1.5)
    assert np.array_equal(net(x).numpy(), wanted)


def test_export(x: Tensor) -> None:
    net = Network()
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(net, (x,), dynamic_shapes=({0: batch},))
    names = {str(n.target) for n in program.graph.nodes}
    assert {"rarefy.binary_conv2d.default", "rarefy.binary_linear.default"} <= names
    assert torch.equal(program.module()(x[:2]), net(x[:2]))


def test_compile(x: Tensor) -> None:
    net = Network()
    assert torch.equal(torch.compile(net, backend="aot_eager", fullgraph=True)(x), net(x))


def test_opcheck(x: Tensor) -> None:
    net = Network()
    args = (x, net.conv_weight, net.conv_scale, net.conv_bias, [10, 33, 3, 3], [1, 2], [1, 0, 1, 2])
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(torch.ops.rarefy.binary_conv2d.default, args, {"map": True}, test_utils=tests)


def test_a_weight_that_was_written_to_is_packed_anew(x: Tensor) -> None:
    net = Network()
    before = net(x)
    net.linear_weight.fill_(255)
    assert not torch.equal(net(x), before)


def test_a_weight_made_in_inference_mode(x: Tensor) -> None:
    net = Network()
    wanted = net(x)
    with torch.inference_mode():
        net.linear_weight = net.linear_weight.clone()
        assert torch.equal(net(x), wanted)


def test_what_does_not_fit(x: Tensor) -> None:
    net = Network()
    conv = (net.conv_weight, net.conv_scale, net.conv_bias, [10, 33, 3, 3])
    with pytest.raises(InputError, match=r"float32 tensors, not torch\.float64"):
        torch.ops.rarefy.binary_conv2d(x.double(), *conv)
    with pytest.raises(InputError, match="not float32"):
        torch.ops.rarefy.binary_conv2d(x[:, 1:], *conv)
    with pytest.raises(InputError, match=r"padding must be \[top, left, bottom, right\], not \[1, 1\]"):
        torch.ops.rarefy.binary_conv2d(x, *conv, [1, 1], [1, 1])
