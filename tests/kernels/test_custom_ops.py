"""One ONNX file: standard operators in plain ONNX Runtime, the kernels where their library is registered."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import rarefy
from kernels import oracle
from rarefy.errors import ExportError, ModelError
from rarefy.export import binary
from rarefy.kernels import Convolution, Filters, custom_ops, pack_bits
from rarefy.runtime.session import session

compiled = pytest.mark.skipif(custom_ops() is None, reason="rarefy was installed without a C++ compiler")
CASES = {
    "padded": ((20, 37, 3, 3), Convolution(padding=(1, 1, 1, 1))),
    "strided": ((64, 64, 3, 3), Convolution((2, 1), (1, 0, 2, 1), (1, 2), pad_value=-1)),
    "ones": ((9, 32, 2, 3), Convolution(padding=(1, 1, 1, 1), pad_value=1)),
    "mapped": ((64, 64, 3, 3), Convolution(padding=(1, 1, 1, 1), map=True)),
    "two bits": ((33, 50, 3, 2), Convolution(padding=(1, 1, 1, 1), bits=2, steps=3.0)),
    "linear": ((70, 100), Convolution()),
    "three bits, linear": ((70, 100), Convolution(bits=3, steps=7.0)),
    "more than one piece": ((256, 128, 3, 3), Convolution(padding=(1, 1, 1, 1))),
}


def model(
    shape: tuple[int, ...], how: Convolution, opset: int = 21, threshold: oracle.Array | None = None
) -> onnx.ModelProto:
    weight, _, scale, bias = oracle.drawn(shape, (1, 1), 0)
    rank = len(shape)
    tensors = {"w": pack_bits(weight), "s": scale, "b": bias} | ({} if threshold is None else {"t": threshold})
    graph = helper.make_graph(
        [binary.node("x", "w", "s", "b", "y", shape, how, threshold="" if threshold is None else "t")],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", shape[1], None, None][:rank])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * rank)],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    binary.declare(made)
    onnx.checker.check_model(made, full_check=True)
    return made


def run(proto: onnx.ModelProto, x: oracle.Array, *, plain: bool, threads: int = 1) -> oracle.Array:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    if plain:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    else:
        options.register_custom_ops_library(str(custom_ops()))
    engine = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (y,) = engine.run(None, {"x": x})
    return np.asarray(y)


@compiled
@pytest.mark.parametrize("name", CASES)
def test_both_ways_give_the_same(name: str) -> None:
    shape, how = CASES[name]
    proto = model(shape, how)
    x = np.random.default_rng(1).standard_normal((2, shape[1], 15, 14)[: len(shape)]).astype(np.float32)
    fast, standard = run(proto, x, plain=False), run(proto, x, plain=True)
    if how.map:
        np.testing.assert_allclose(fast, standard, rtol=1e-5, atol=1e-4)  # the sums of magnitudes are in another order
    else:
        assert np.array_equal(fast, standard)
    assert np.array_equal(fast, run(proto, x, plain=False, threads=2))
    weight, _, scale, bias = oracle.drawn(shape, (1, 1), 0)
    filters = Filters(pack_bits(weight), shape)
    if len(shape) == 4:
        assert np.array_equal(fast, filters.conv2d(x, scale, bias, how))
    else:
        assert np.array_equal(fast, filters.linear(x, scale, bias, bits=how.bits, steps=how.steps))


@compiled
@pytest.mark.parametrize("name", ["padded", "linear"])
def test_thresholds(name: str) -> None:
    shape, how = CASES[name]
    random = np.random.default_rng(1)
    x = random.standard_normal((2, shape[1], 15, 14)[: len(shape)]).astype(np.float32)
    threshold = random.choice(x.ravel(), shape[1])
    proto = model(shape, how, threshold=threshold)
    fast = run(proto, x, plain=False)
    assert np.array_equal(fast, run(proto, x, plain=True))
    shifted = x - threshold.reshape(-1, *[1] * (len(shape) - 2))
    assert np.array_equal(fast, run(model(shape, how), shifted, plain=True))
    assert not np.array_equal(fast, run(model(shape, how), x, plain=True))
    proto.graph.initializer[3].CopyFrom(numpy_helper.from_array(threshold[:3], "t"))
    with pytest.raises(Exception, match="one value per channel"):
        run(proto, x, plain=False)


@compiled
def test_the_kernel_is_what_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    path = custom_ops()
    monkeypatch.setattr(f"{__name__}.custom_ops", lambda: path)
    monkeypatch.setenv("RAREFY_KERNELS", "avx1024")
    with pytest.raises(Exception, match="a version that this CPU"):
        run(model(*CASES["padded"]), np.zeros((1, 37, 5, 5), np.float32), plain=False)


def test_a_file_has_one_bit_for_each_weight() -> None:
    assert len(model((256, 256, 3, 3), Convolution()).SerializeToString()) < 256 * 256 * 9 / 8 + 8000


def test_load_uses_the_kernels_and_needs_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shape, how = CASES["padded"]
    path = tmp_path / "binary.onnx"
    onnx.save(model(shape, how), path)
    x = np.random.default_rng(1).standard_normal((1, 37, 6, 6)).astype(np.float32)
    fast = rarefy.load(path)(x)
    monkeypatch.setenv("RAREFY_KERNELS", "numpy")
    np.testing.assert_allclose(np.asarray(rarefy.load(path)(x)), np.asarray(fast), rtol=1e-5, atol=1e-4)


@compiled
def test_a_layer_that_the_kernel_cannot_take_runs_as_the_standard_one() -> None:
    shape, how = CASES["padded"]
    proto = model(shape, how)
    proto.graph.initializer[0].name = "stored"
    proto.graph.node.insert(0, helper.make_node("Concat", ["stored"], ["w"], axis=0))
    x = np.random.default_rng(1).standard_normal((1, 37, 6, 6)).astype(np.float32)
    with pytest.warns(UserWarning, match="without the binary kernels: .*the weights must be an initialiser"):
        slow = session(proto.SerializeToString(), optimise=False)
    assert np.array_equal(np.asarray(slow(x)), run(model(shape, how), x, plain=False))


@compiled
@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [
        ("shape", [20, 38, 3, 3], "do not have the size"),
        ("shape", [20, 2**62, 2**62, 3], "do not have the size"),
        ("shape", [20, 333], "too few numbers"),
        ("strides", [0, 1], "stride"),
        ("padding", [0, 1, 0, 0, 0, 0, 0, 0], "padding must be of height and width"),
        ("pad_value", 0.5, "padding must be of height and width"),
    ],
)
def test_attributes_that_lie(attribute: str, value: object, message: str) -> None:
    proto = model(*CASES["padded"])
    (found,) = (a for a in proto.graph.node[0].attribute if a.name == attribute)
    found.CopyFrom(helper.make_attribute(attribute, value))
    with pytest.raises(Exception, match=message):
        run(proto, np.zeros((1, 37, 6, 6), np.float32), plain=False)


@compiled
def test_inputs_that_do_not_fit() -> None:
    proto = model(*CASES["padded"])
    proto.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "c"
    with pytest.raises(Exception, match="the channels of x and of the weights differ"):
        run(proto, np.zeros((1, 36, 6, 6), np.float32), plain=False)
    proto.graph.initializer[1].CopyFrom(numpy_helper.from_array(np.ones(3, np.float32), "s"))
    with pytest.raises(Exception, match="one value per filter"):
        run(proto, np.zeros((1, 37, 6, 6), np.float32), plain=False)


def test_what_cannot_be_written() -> None:
    with pytest.raises(ExportError, match="need opset 18 or newer, not 17"):
        binary.function("BinaryConv", 17)
    with pytest.raises(ExportError, match="belongs to signs"):
        binary.operator((1, 1, 1, 1), Convolution(bits=2, map=True))
    with pytest.raises(ExportError, match="a threshold belongs to signs beside weights in bits"):
        binary.operator((1, 1, 1, 1), Convolution(map=True), threshold=True)


def test_a_broken_model_is_an_error() -> None:
    with pytest.raises(ModelError, match="cannot be run"):
        session(b"BinaryConv")
