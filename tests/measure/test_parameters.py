from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from rarefy.errors import InputError
from rarefy.measure import parameters

HEAD = '<ir_version: 10, opset_import: ["": 21]>'


def graph(body: str) -> onnx.ModelProto:
    return parser.parse_model(f"{HEAD} {body}")


def test_plain_weights_and_biases():
    model = graph("""g (float[N, 3] x) => (y)
        <float[3, 2] w = {1, 0, 2, 0, 0, 3}, float[2] b = {0, 5}, float s = {2}>
        { h = Gemm(x, w, b)  y = Mul(h, s) }""")
    assert parameters(model) == (8, 4)


def test_a_weight_used_twice_counts_once():
    model = graph("g (float[N, 2] x) => (y) <float[2, 2] w = {1, 0, 2, 3}> { h = MatMul(x, w)  y = MatMul(h, w) }")
    assert parameters(model) == (4, 3)


@pytest.mark.parametrize(
    "decode",
    ["w = Gather(book, long)", "v = Gather(book, long)  r = Reshape(v, two)  w = Transpose(r)"],
    ids=["gather", "gather, reshape, transpose"],
)
def test_a_codebook_counts_its_indices_decoded(decode: str):
    model = graph(f"""g (float[N, 3] x) => (y)
        <float[4] book = {{0, 1.5, -2, 7}}, uint8[3, 2] i = {{0, 1, 1, 0, 2, 0}}, int64[2] two = {{2, 3}}>
        {{ long = Cast <to = 6> (i)  {decode}  y = MatMul(x, w) }}""")
    assert parameters(model) == (6, 3)


def test_dequantized_weights_have_their_zeros_at_the_zero_point():
    model = graph("""g (float[N, 2] x) => (y)
        <uint8[2, 3] q = {128, 0, 128, 7, 128, 255}, float[3] s = {1, 2, 3}, uint8[3] z = {128, 128, 128}>
        { w = DequantizeLinear <axis = 1> (q, s, z)  y = MatMul(x, w) }""")
    assert parameters(model) == (6, 3)


def test_weights_of_integer_operators():
    model = graph("""g (uint8[N, 1, 3, 3] x) => (y)
        <int8[2, 1, 1, 2] w = {0, 4, 3, 5}, uint8 zx = {7}, int8[2] zw = {4, 3}>
        { y = ConvInteger(x, w, zx, zw) }""")
    assert parameters(model) == (4, 2)


def test_scales_and_running_statistics_are_no_weights():
    model = graph("""g (float[N, 2, 3] x) => (y)
        <float[2] gamma = {1, 0}, float[2] beta = {1, 1}, float[2] m = {1, 1}, float[2] v = {1, 1},
         float[2] s = {1, 1}, int8[2] z = {0, 0}>
        { h = BatchNormalization(x, gamma, beta, m, v)  q = QuantizeLinear <axis = 1> (h, s, z)
          y = DequantizeLinear <axis = 1> (q, s, z) }""")
    assert parameters(model) == (4, 3)


def test_embeddings_count_and_shapes_do_not():
    model = graph("""g (int64[N, 4] i) => (y)
        <float[5, 2] table = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9}, int64[2] s = {-1, 8}>
        { e = Gather(table, i)  y = Reshape(e, s) }""")
    assert parameters(model) == (10, 9)


def test_weights_in_local_functions():
    model = parser.parse_model("""<ir_version: 10, opset_import: ["": 21, "own": 1]>
        g (float[N, 2] x) => (y) <float[2, 2] w = {0, 1, 2, 3}> { y = own.f(x, w) }
        <domain: "own", opset_import: ["": 21]> f (a, b) => (c) { t = Transpose(b)  c = MatMul(a, t) }""")
    assert parameters(model) == (4, 3)


def test_bfloat16_weights():
    weight = helper.make_tensor("w", TensorProto.BFLOAT16, [2, 2], [0.0, 1.0, 2.0, 0.0])
    model = graph("g (bfloat16[N, 2] x) => (y) { y = MatMul(x, w) }")
    model.graph.initializer.append(weight)
    assert parameters(model) == (4, 2)


def test_a_decoder_that_fails_is_named():
    model = graph("""g (float[N, 2] x) => (y) <float[2] book = {0, 1}, int64[2, 2] i = {0, 1, 9, 0}>
        { w = Gather(book, i)  y = MatMul(x, w) }""")
    with pytest.raises(InputError, match="stored weights cannot be decoded"):
        parameters(model)


def test_numpy_agrees_on_a_random_sparse_weight():
    w = np.random.default_rng(0).standard_normal((40, 50)).astype(np.float32)
    w[np.abs(w) < 1] = 0
    model = graph("g (float[N, 40] x) => (y) { y = MatMul(x, w) }")
    model.graph.initializer.append(numpy_helper.from_array(w, "w"))
    assert parameters(model) == (2000, np.count_nonzero(w))
