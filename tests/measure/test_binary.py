"""Binary layers measured one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from rarefy import runtime
from rarefy.export import binary as export
from rarefy.kernels import Convolution, pack_bits
from rarefy.measure import binary, binary_layers, operations

PLAIN = Convolution(padding=(1, 1, 1, 1), stride=(2, 1))
CASES = [
    ((8, 3, 3, 3), PLAIN, False),
    ((8, 3, 3, 3), PLAIN, True),
    ((8, 3, 3, 3), Convolution(padding=(1, 2, 0, 1), map=True), False),
    ((8, 3, 3, 3), Convolution(padding=(1, 1, 1, 1), bits=2, steps=3.0), False),
    ((8, 5), Convolution(), False),
    ((8, 5), Convolution(), True),
    ((8, 5), Convolution(bits=3, steps=7.0), False),
]


def model(shape: tuple[int, ...], how: Convolution, threshold: bool, x: list[Any], times: int = 1) -> onnx.ModelProto:
    """`times` layers beside each other, and their input."""
    rng, filters = np.random.default_rng(0), shape[0]
    arrays = {"w": pack_bits(rng.standard_normal(shape)), "s": np.ones(filters, np.float32)}
    arrays["t"] = np.zeros(shape[1], np.float32)
    nodes = [
        export.node("x", "w", "s", "s", f"y{i}", shape, how, threshold="t" if threshold else "") for i in range(times)
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x)],
        [helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, None) for i in range(times)],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    export.declare(made)
    return made


@pytest.mark.parametrize(("shape", "how", "threshold"), CASES)
def test_every_kind_of_layer_is_timed_in_three_kinds_of_numbers(
    tmp_path: Path, shape: tuple[int, ...], how: Convolution, threshold: bool
) -> None:
    x = [3, 9, 6] if len(shape) == 4 else [5]
    onnx.save(model(shape, how, threshold, ["N", *x], times=2), tmp_path / "net.onnx")
    (timed,) = binary_layers(tmp_path / "net.onnx", seconds=0.001)
    assert (tuple(timed.shape), timed.input, timed.count, timed.bits) == (shape, [1, *x], 2, max(1, how.bits))
    assert timed.float32.ratio > 0 < timed.int8.ratio
    assert timed.float32.this == timed.int8.this
    assert timed.float32.original != timed.int8.original


def test_what_it_is_compared_with_has_its_shape() -> None:
    net = model((8, 3, 3, 3), PLAIN, False, [4, 3, 9, 6])
    ((layer, count),) = binary.found(net)
    assert (count, layer.macs) == (1, 4 * 9 * 6 * 8 * 27)
    feed = {"x": np.zeros(layer.x, np.float32)}
    outputs = [runtime.session(m.SerializeToString())(**feed) for _, m in binary._models(layer, net)]
    assert [output.shape for output in outputs] == [(4, 8, 5, 6)] * 3


def test_others_are_none_of_it() -> None:
    net = model((8, 5), Convolution(), False, ["N", 5])
    net.graph.node[0].op_type = "SignLinear"
    assert binary.found(net) == []
    assert [binary.planes(node) for node in net.graph.node] == [0]


@pytest.mark.parametrize(("shape", "how", "threshold"), CASES)
def test_their_operands_are_bits(shape: tuple[int, ...], how: Convolution, threshold: bool) -> None:
    x = [3, 9, 6] if len(shape) == 4 else [5]
    first = operations(model(shape, how, threshold, ["N", *x]))[0]
    assert (first.bits, first.planes, first.weights) == (1, max(1, how.bits), np.prod(shape))
