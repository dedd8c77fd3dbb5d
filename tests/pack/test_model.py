from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from rarefy import pack
from rarefy.errors import InputError, PackError
from rarefy.pack import names


def run(model: onnx.ModelProto, *arrays: np.ndarray) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {port.name: array for port, array in zip(session.get_inputs(), arrays, strict=True)})


def same_run(model: onnx.ModelProto, *arrays: np.ndarray, infer: bool = True) -> onnx.ModelProto:
    """The model after a round trip, which gives the same outputs."""
    back = pack.decode(pack.encode(model))
    onnx.checker.check_model(back, full_check=infer)
    for before, after in zip(run(model, *arrays), run(back, *arrays), strict=True):
        np.testing.assert_array_equal(before, after)
    return back


def values(model: onnx.ModelProto) -> list[bytes]:
    return sorted(numpy_helper.to_array(tensor).tobytes() for tensor in model.graph.initializer)


def small(nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray], **more: object) -> onnx.ModelProto:
    """A model from x: float[n, 8] to y."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", "k"])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", 21), helper.make_opsetid("own", 1)],
        ir_version=10,
        **more,
    )


X = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)
W = np.random.default_rng(1).normal(size=(8, 40)).astype(np.float32)


def test_a_model_comes_back(model: onnx.ModelProto) -> None:
    before = model.SerializeToString()
    back = same_run(model, np.random.default_rng(0).normal(size=(5, 1, 8, 8)).astype(np.float32))
    assert model.SerializeToString() == before
    assert values(back) == values(model)
    assert {prop.key: prop.value for prop in back.metadata_props} == {"classes": "zero one two"}
    assert [port.name for port in back.graph.input] == ["image"]
    assert [port.name for port in back.graph.output] == ["scores"]
    assert back.opset_import == model.opset_import
    assert not back.producer_name
    assert not back.graph.doc_string
    assert all(not node.name and not node.doc_string for node in back.graph.node)


def test_the_same_model_gives_the_same_bytes_however_its_values_are_called(model: onnx.ModelProto) -> None:
    data = pack.encode(model)
    assert pack.encode(model) == data
    assert pack.encode(pack.decode(data)) == data


def test_contents_add_up_to_the_file(model: onnx.ModelProto, tmp_path: Path) -> None:
    path = tmp_path / "net.rfy"
    contents = pack.write(model, path)
    assert contents.total == path.stat().st_size == len(pack.encode(model))
    assert contents.graph + sum(tensor.bytes for tensor in contents.tensors) == contents.total
    assert contents.graph < 300
    by_name = {tensor.name: tensor for tensor in contents.tensors}
    assert by_name.keys() == {tensor.name for tensor in model.graph.initializer}
    indices = by_name["layers.0.weight.indices"]
    assert (indices.dtype, indices.shape, indices.coding, indices.symbols) == (
        "UINT8",
        (64, 400),
        "symbols",
        25600,
    )
    assert by_name["shape"].coding == "graph"
    assert by_name["shape"].bytes == 0
    short = pack.contents(path)
    assert [t.bytes for t in short.tensors] == [t.bytes for t in contents.tensors]
    assert pack.contents(path.read_bytes()) == short
    assert values(pack.read(path)) == values(model)


def test_a_tensor_that_occurs_twice_is_stored_once() -> None:
    nodes = [helper.make_node("MatMul", ["x", "a"], ["m"]), helper.make_node("MatMul", ["x", "b"], ["n"]),
             helper.make_node("Add", ["m", "n"], ["y"])]  # fmt: skip
    model = small(nodes, {"a": W, "b": W})
    same_run(model, X)
    first, second = pack.contents(pack.encode(model)).tensors
    assert second.coding == f"same as {first.name}"
    assert second.bytes == 2


def test_blocks_that_repeat_cost_almost_nothing() -> None:
    def deep(layers: int) -> int:
        nodes = [helper.make_node("Mul", [f"v{i}" if i else "x", f"w{i}"], [f"v{i + 1}"]) for i in range(layers)]
        nodes.append(helper.make_node("Relu", [f"v{layers}"], ["y"]))
        rng = np.random.default_rng(0)
        return pack.contents(pack.encode(small(nodes, {f"w{i}": rng.normal(size=8) for i in range(layers)}))).graph

    assert deep(400) - deep(100) < 40


def test_typed_data_fields_come_back() -> None:
    for data_type, array in [
        (TensorProto.FLOAT, np.linspace(0, 1, 40)),
        (TensorProto.DOUBLE, np.linspace(0, 1, 40)),
        (TensorProto.FLOAT16, np.linspace(0, 1, 40).astype(np.float16)),
        (TensorProto.BFLOAT16, np.linspace(0, 1, 40)),
        (TensorProto.UINT8, np.arange(40)),
        (TensorProto.BOOL, np.arange(40) % 3 == 0),
        (TensorProto.UINT64, np.arange(40) ** 7),
        (TensorProto.INT4, np.arange(41) % 16 - 8),
        (TensorProto.COMPLEX64, np.linspace(0, 1, 40) + 1j),
    ]:
        tensor = helper.make_tensor("t", data_type, array.shape, array)
        assert not tensor.HasField("raw_data")
        model = small([helper.make_node("Identity", ["x"], ["y"])], {})
        model.graph.initializer.append(tensor)
        back = pack.decode(pack.encode(model)).graph.initializer[0]
        assert back.name == "t"  # no node uses it, so its name is all there is to find it by
        np.testing.assert_array_equal(numpy_helper.to_array(back), numpy_helper.to_array(tensor))


def test_strings_and_empty_tensors_stay() -> None:
    model = small([helper.make_node("Identity", ["x"], ["y"])], {"none": np.zeros((0, 4), np.float32)})
    model.graph.initializer.append(helper.make_tensor("words", TensorProto.STRING, [2], [b"one", b"two" * 30]))
    back = pack.decode(pack.encode(model))
    assert list(back.graph.initializer[1].string_data) == [b"one", b"two" * 30]
    assert list(back.graph.initializer[0].dims) == [0, 4]


def test_low_bit_weights_run() -> None:
    codes = np.random.default_rng(0).integers(-8, 8, 8 * 40)
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s"], ["w"]),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    model = small(nodes, {"s": np.float32([0.1]).reshape(())})
    model.graph.initializer.append(helper.make_tensor("q", TensorProto.INT4, [8, 40], codes))
    same_run(model, X)


def test_subgraphs_functions_and_constants_run() -> None:
    def branch(scale: float) -> onnx.GraphProto:
        node = helper.make_node("MatMul", ["x", "inner"], ["out"])
        out = [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["n", 40])]
        return helper.make_graph([node], "b", [], out, [numpy_helper.from_array(W * np.float32(scale), "inner")])

    body = [
        helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(W[0] * 3)),
        helper.make_node("Mul", ["a", "c"], ["b"]),
    ]
    function = helper.make_function("own", "Scale", ["a"], ["b"], body, [helper.make_opsetid("", 21)])
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["positive"]),
        helper.make_node("If", ["positive"], ["r"], then_branch=branch(1), else_branch=branch(2)),
        helper.make_node("Scale", ["r"], ["y"], domain="own"),
    ]
    model = small(nodes, {"zero": np.float32(0).reshape(())}, functions=[function])
    assert not names.hideable(model)
    same_run(model, X)
    back = same_run(model, -X)
    assert back.functions[0].name == "Scale"
    codings = [tensor.coding for tensor in pack.contents(pack.encode(model)).tensors]
    assert codings.count("graph") == 1


def test_sparse_initialisers_run() -> None:
    model = small([helper.make_node("MatMul", ["x", "w"], ["y"])], {})
    positions = np.random.default_rng(0).choice(320, 60, replace=False)
    positions.sort()
    sparse = model.graph.sparse_initializer.add()
    sparse.values.CopyFrom(numpy_helper.from_array(W.ravel()[positions], "w"))
    sparse.indices.CopyFrom(numpy_helper.from_array(positions.astype(np.int64), "i"))
    sparse.dims.extend([8, 40])
    same_run(model, X, infer=False)  # onnx infers no shapes through sparse tensors


def test_a_constant_node_is_named_by_its_output(tmp_path: Path) -> None:
    nodes = [helper.make_node("Constant", [], ["weight"], value=numpy_helper.from_array(W)),
             helper.make_node("MatMul", ["x", "weight"], ["y"])]  # fmt: skip
    model = small(nodes, {})
    same_run(model, X)
    assert [tensor.name for tensor in pack.write(model, tmp_path / "c.rfy").tensors] == ["weight"]


def test_optional_inputs_and_outputs_several_inputs_and_shared_names() -> None:
    nodes = [
        helper.make_node("Clip", ["x", "", "v0"], ["c"]),
        helper.make_node("Dropout", ["c"], ["d", ""]),
        helper.make_node("Split", ["d"], ["w0", "i0"], axis=1, num_outputs=2),
        helper.make_node("Concat", ["i0", "w0", "i0"], ["k"], axis=1),
        helper.make_node("MatMul", ["k", "big"], ["m"]),
        helper.make_node("Add", ["m", "big2"], ["n"]),
        helper.make_node("Add", ["n", "big2"], ["y"]),
    ]
    weights = {"v0": np.float32(0.5).reshape(()), "big2": W[0], "big": np.tile(W, (2, 1))[:12]}
    same_run(small(nodes, weights), X)


def test_an_initialiser_that_is_an_input_or_an_output_keeps_its_name() -> None:
    model = small([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": W, "out": W[0]})
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [8, 40]))
    model.graph.output.append(helper.make_tensor_value_info("out", TensorProto.FLOAT, [40]))
    back = pack.decode(pack.encode(model))
    assert {tensor.name for tensor in back.graph.initializer} == {"w", "out"}
    np.testing.assert_array_equal(run(model, X)[0], run(back, X)[0])


def test_values_of_unknown_domains_keep_their_shapes() -> None:
    model = small([helper.make_node("Odd", ["x"], ["h"], domain="who"), helper.make_node("Relu", ["h"], ["y"])], {})
    model.graph.value_info.append(helper.make_tensor_value_info("h", TensorProto.FLOAT, ["n", 8]))
    back = pack.decode(pack.encode(model))
    assert back.graph.value_info[0].name == back.graph.node[0].output[0] == "h"


def test_external_data_is_asked_for() -> None:
    model = small([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": W})
    onnx.external_data_helper.set_external_data(model.graph.initializer[0], "w.bin")
    with pytest.raises(PackError, match="'w' is in another file"):
        pack.encode(model)


@pytest.mark.parametrize(("data", "message"), [(b"", "has no data"), (b"1234", "has 4 bytes; .* need 1280")])
def test_a_tensor_of_the_wrong_length_is_refused(data: bytes, message: str) -> None:
    model = small([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": W})
    model.graph.initializer[0].ClearField("raw_data")
    if data:
        model.graph.initializer[0].raw_data = data
    with pytest.raises(PackError, match=message):
        pack.encode(model)


def test_the_limit_is_on_what_is_declared(model: onnx.ModelProto) -> None:
    with pytest.raises(PackError, match=r"declares 30\.\d KiB of tensors; the limit is 1000 bytes: pass max_bytes"):
        pack.decode(pack.encode(model), max_bytes=1000)


def test_a_file_is_whole_or_not_there(model: onnx.ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "net.rfy"
    path.write_bytes(b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"cannot write .*net\.rfy .*No space left"):
        pack.write(model, path)
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["net.rfy"]
    pack.write(model, path)
    assert stat.S_IMODE(path.stat().st_mode) & 0o400
    assert os.listdir(tmp_path) == ["net.rfy"]
    with pytest.raises(InputError, match=r"cannot write .*net\.rfy/in/it\.rfy .*Not a directory"):
        pack.write(model, path / "in" / "it.rfy")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.rfy: cannot be read: No such file"):
        pack.read(tmp_path / "none.rfy")
    (tmp_path / "text.rfy").write_text("hello, this is no pack")
    with pytest.raises(PackError, match=r"text\.rfy: not a \.rfy file"):
        pack.read(tmp_path / "text.rfy")


def test_importing_the_package_is_light() -> None:
    code = "import sys, rarefy.pack, rarefy.runtime; print({'torch', 'onnx', 'constriction'} & {*sys.modules})"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found == "set()\n"
