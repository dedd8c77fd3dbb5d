from __future__ import annotations

import sys

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from rarefy.errors import InputError
from rarefy.measure import memory


def network(path, side: int):
    model = parser.parse_model(
        f'<ir_version: 10, opset_import: ["": 21]> g (float[N, {side}] x) => (y) {{ y = MatMul(x, w) }}'
    )
    model.graph.initializer.append(numpy_helper.from_array(np.ones((side, side), np.float32), "w"))
    onnx.save(model, path)
    return path


@pytest.mark.skipif(sys.platform != "linux", reason="the peak can only be reset on Linux")
def test_a_larger_network_takes_its_weights_more(tmp_path):
    small = memory(network(tmp_path / "small.onnx", 16))
    large = memory(network(tmp_path / "large.onnx", 3000))
    assert small is not None
    assert large is not None
    assert 0 < small < 60e6
    assert 36e6 <= large - small < 160e6  # the weights are 36 MB, held more than once while they load


def test_what_cannot_run_says_why(tmp_path):
    file = tmp_path / "garbage.onnx"
    file.write_bytes(b"not a graph")
    with pytest.raises(InputError, match=r"garbage\.onnx cannot be run in a process of its own: .*ModelError"):
        memory(file)
    with pytest.raises(InputError, match="does not exist"):
        memory(tmp_path / "gone.rfy")
