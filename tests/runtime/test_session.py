from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from rarefy import pack, runtime
from rarefy.errors import InputError, ModelError, PackError


def two_in_two_out() -> onnx.ModelProto:
    weights = [numpy_helper.from_array(np.linspace(-1, 1, 400, dtype=np.float32).reshape(4, 100), "w")]
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["a", "w"], ["product"]),
            helper.make_node("Gather", ["product", "rows"], ["chosen"]),
        ],
        "g",
        [
            helper.make_tensor_value_info("a", TensorProto.FLOAT, ["n", 4]),
            helper.make_tensor_value_info("rows", TensorProto.INT64, ["k"]),
        ],
        [
            helper.make_tensor_value_info("product", TensorProto.FLOAT, ["n", 100]),
            helper.make_tensor_value_info("chosen", TensorProto.FLOAT, ["k", 100]),
        ],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    helper.set_model_props(model, {"task": "choose"})
    return model


@pytest.fixture(params=[".rfy", ".onnx"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / f"net{request.param}"
    if path.suffix == ".rfy":
        pack.write(two_in_two_out(), path)
    else:
        onnx.save(two_in_two_out(), path)
    return path


A = np.arange(12, dtype=np.float32).reshape(3, 4)
ROWS = np.array([2, 0])


def test_a_session_is_a_function(path: Path) -> None:
    session = runtime.load(path)
    results = session(A, ROWS)
    assert isinstance(results, dict)
    expected = A @ np.linspace(-1, 1, 400, dtype=np.float32).reshape(4, 100)
    np.testing.assert_allclose(results["product"], expected, rtol=1e-5)
    np.testing.assert_array_equal(results["chosen"], results["product"][ROWS])
    for named in (session(rows=ROWS, a=A), session(A, rows=ROWS)):
        assert isinstance(named, dict)
        np.testing.assert_array_equal(named["chosen"], results["chosen"])


def test_one_output_is_an_array() -> None:
    model = two_in_two_out()
    del model.graph.output[0]
    result = runtime.session(model.SerializeToString(), threads=1, optimise=False)(A, ROWS)
    assert isinstance(result, np.ndarray)
    assert result.shape == (2, 100)


def test_a_session_says_what_it_takes(path: Path) -> None:
    session = runtime.load(path)
    assert session.inputs == (runtime.Port("a", ("n", 4), "float32"), runtime.Port("rows", ("k",), "int64"))
    assert [port.name for port in session.outputs] == ["product", "chosen"]
    assert session.metadata == {"task": "choose"}
    assert repr(session).startswith("Session(a: float32[n, 4]; rows: int64[k] -> product: float32[n, 100]")


@pytest.mark.parametrize(
    ("arrays", "named", "message"),
    [
        ((), {}, r"takes 2 inputs \(a: float32\[n, 4\]; rows: int64\[k\]\), not 0"),
        ((A, ROWS, ROWS), {}, "takes 2 inputs .*, not 3"),
        ((A,), {"row": ROWS}, "no value for the input 'rows'; the model takes a: "),
        ((A,), {"a": A}, "no value for the input 'rows'"),
        ((A.astype(np.float64), ROWS), {}, "'a' must be float32, not float64"),
        ((A[0], ROWS), {}, r"has the shape \[4\], which does not fit a: float32\[n, 4\]"),
        ((A[:, :3], ROWS), {}, r"has the shape \[3, 3\], which does not fit a: float32\[n, 4\]"),
        ((A, ROWS + 7), {}, r"cannot run on a: float32\[3, 4\], rows: int64\[2\]: "),
    ],
)
def test_wrong_inputs_are_explained(arrays: tuple, named: dict, message: str) -> None:
    session = runtime.session(two_in_two_out().SerializeToString())
    with pytest.raises(InputError, match=message):
        session(*arrays, **named)


def test_files_that_are_no_models(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.onnx: cannot be read: No such file"):
        runtime.load(tmp_path / "none.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"hello")
    with pytest.raises(ModelError, match=r"bad\.onnx: the model cannot be run: "):
        runtime.load(tmp_path / "bad.onnx")
    (tmp_path / "bad.rfy").write_bytes(b"hello")
    with pytest.raises(PackError, match=r"bad\.rfy: not a \.rfy file"):
        runtime.load(tmp_path / "bad.rfy")


def test_torch_is_not_imported(path: Path) -> None:
    code = f"import sys, rarefy.runtime; rarefy.runtime.load({str(path)!r}); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
