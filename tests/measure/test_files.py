from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from rarefy import pack
from rarefy.errors import InputError
from rarefy.measure import compare, energy, macs, memory, parameters, read

MODEL = parser.parse_model(
    '<ir_version: 10, opset_import: ["": 21]> g (float[N, 2] x) => (float[N, 3] y)'
    "<float[2, 3] w = {1, 0, 3, 4, 5, 6}> { y = MatMul(x, w) }"
)


@pytest.mark.parametrize("content", [b"no graph", b"", b"\x08\x0a"], ids=["garbage", "empty", "no graph in it"])
def test_files_that_hold_no_graph(tmp_path, content: bytes):
    file = tmp_path / "bad.onnx"
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"bad\.onnx (cannot be read as ONNX|holds no ONNX graph)"):
        read(file)


def test_no_file(tmp_path):
    with pytest.raises(InputError, match=r"gone\.rfy does not exist; give an \.onnx or \.rfy file"):
        read(tmp_path / "gone.rfy")


def test_weights_that_lie_elsewhere_and_are_missing(tmp_path):
    model = onnx.ModelProto()
    model.CopyFrom(MODEL)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.ones((2, 3), np.float32), "w"))
    onnx.save(model, tmp_path / "net.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    (tmp_path / "w.bin").unlink()
    with pytest.raises(InputError, match=r"net\.onnx cannot be read as ONNX"):
        read(tmp_path / "net.onnx")


def test_a_pack_is_measured_as_the_graph_it_holds(tmp_path):
    plain, packed = tmp_path / "net.onnx", tmp_path / "net.rfy"
    onnx.save(MODEL, plain)
    pack.write(MODEL, packed)
    assert macs(read(packed)) == macs(read(plain)) == 6
    assert parameters(read(packed)) == (6, 5)
    assert compare([packed], plain, seconds=0.01, rounds_min=1)[0].rounds >= 1
    assert memory(packed) is not None
    assert energy(packed) is not None
