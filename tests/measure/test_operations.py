"""Multiply-accumulates: the oracle is PyTorch's own counter of floating-point operations, two for each."""

from __future__ import annotations

import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, parser
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from rarefy.errors import InputError
from rarefy.measure import macs, operations


def counted(function, *inputs) -> int:
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        function(*inputs)
    assert counter.get_total_flops() % 2 == 0
    return counter.get_total_flops() // 2


def one_node(op: str, shapes: list, opset: int = 21, **attributes) -> onnx.ModelProto:
    """A graph of one operator: the first shape is the input's, the others are weights, None is left out."""
    names = ["" if shape is None else f"t{i}" for i, shape in enumerate(shapes)]
    weights = [
        helper.make_tensor(name, TensorProto.FLOAT, shape, b"\0" * (4 * torch.Size(shape).numel()), raw=True)
        for name, shape in zip(names[1:], shapes[1:], strict=True)
        if name
    ]
    graph = helper.make_graph(
        [helper.make_node(op, names, ["y"], name="node", **attributes)],
        "g",
        [helper.make_tensor_value_info("t0", TensorProto.FLOAT, shapes[0])],
        [helper.make_empty_tensor_value_info("y")],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


@pytest.mark.parametrize("groups", [1, 2, 4], ids=lambda g: f"groups{g}")
@pytest.mark.parametrize("stride", [1, 2], ids=lambda s: f"stride{s}")
@pytest.mark.parametrize("dilation", [1, 3], ids=lambda d: f"dilation{d}")
def test_convolution(groups: int, stride: int, dilation: int):
    x, w, b = torch.ones(1, 4, 17, 13), torch.ones(8, 4 // groups, 3, 5), torch.ones(8)
    model = one_node(
        "Conv",
        [["N", 4, 17, 13], list(w.shape), [8]],
        group=groups,
        strides=[stride, stride],
        dilations=[dilation, dilation],
        pads=[1, 6, 1, 6],
    )
    expected = counted(lambda: F.conv2d(x, w, b, stride, (1, 6), dilation, groups))
    assert macs(model) == expected


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("stride", [1, 3])
def test_transposed_convolution(groups: int, stride: int):
    x, w = torch.ones(1, 4, 9, 7), torch.ones(4, 6 // groups, 3, 3)
    model = one_node("ConvTranspose", [["N", 4, 9, 7], list(w.shape)], group=groups, strides=[stride, stride])
    assert macs(model) == counted(lambda: F.conv_transpose2d(x, w, None, stride, 0, 0, groups))


def test_convolutions_of_one_and_three_dimensions():
    line = one_node("Conv", [["N", 3, 20], [5, 3, 4]])
    volume = one_node("Conv", [["N", 2, 6, 7, 8], [3, 2, 2, 3, 4]])
    assert macs(line) == counted(lambda: F.conv1d(torch.ones(1, 3, 20), torch.ones(5, 3, 4)))
    assert macs(volume) == counted(lambda: F.conv3d(torch.ones(1, 2, 6, 7, 8), torch.ones(3, 2, 2, 3, 4)))


@pytest.mark.parametrize("transposed", [0, 1])
def test_linear(transposed: int):
    shape = [7, 30] if transposed else [30, 7]
    model = one_node("Gemm", [["N", 30], shape, [7]], transB=transposed)
    assert macs(model) == counted(lambda: F.linear(torch.ones(1, 30), torch.ones(7, 30), torch.ones(7)))


def test_gemm_with_a_transposed_input():
    model = parser.parse_model(
        '<ir_version: 10, opset_import: ["": 21]> g (float[6, 1] x, float[6, 5] w) => (y)'
        "{ y = Gemm <transA = 1> (x, w) }"
    )
    assert macs(model) == 6 * 5


def test_attention_by_matrix_products():
    model = parser.parse_model("""
        <ir_version: 10, opset_import: ["": 21]>
        g (float[N, 4, 10, 16] q, float[N, 4, 16, 12] k, float[N, 4, 12, 8] v) => (float[N, 4, 10, 8] y)
        { s = MatMul(q, k)  p = Softmax(s)  y = MatMul(p, v) }
    """)
    q, k, v = torch.ones(1, 4, 10, 16), torch.ones(1, 4, 12, 16), torch.ones(1, 4, 12, 8)
    assert macs(model) == counted(lambda: F.scaled_dot_product_attention(q, k, v))
    assert [operation.weights for operation in operations(model)] == [0, 0]


def test_attention_operator():
    model = parser.parse_model("""
        <ir_version: 11, opset_import: ["": 23]>
        g (float[N, 4, 10, 16] q, float[N, 4, 12, 16] k, float[N, 4, 12, 8] v) => (float[N, 4, 10, 8] y)
        { y = Attention(q, k, v) }
    """)
    flat = parser.parse_model("""
        <ir_version: 11, opset_import: ["": 23]>
        g (float[N, 10, 64] q, float[N, 12, 32] k, float[N, 12, 16] v) => (float[N, 10, 32] y)
        { y = Attention <q_num_heads = 4, kv_num_heads = 2> (q, k, v) }
    """)
    expected = 4 * 10 * 12 * (16 + 8)
    assert macs(model) == expected
    assert macs(flat) == expected


def test_broadcast_and_vector_products():
    model = parser.parse_model("""
        <ir_version: 10, opset_import: ["": 21]>
        g (float[N, 3, 4, 5] x, float[5, 6] w, float[6] v) => (float[N, 3, 4] y)
        { h = MatMul(x, w)  y = MatMul(h, v) }
    """)
    assert macs(model) == 3 * 4 * 5 * 6 + 3 * 4 * 6


def test_einsum():
    model = parser.parse_model("""
        <ir_version: 10, opset_import: ["": 21]>
        g (float[N, 4, 10, 16] q, float[N, 4, 12, 16] k) => (y)
        { s = Einsum <equation = "bhqd, bhkd -> bhqk"> (q, k)  y = Einsum <equation = "bhqk->bqkh"> (s) }
    """)
    assert macs(model) == 4 * 10 * 12 * 16


@pytest.mark.parametrize(("op", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_recurrent_cells(op: str, gates: int):
    model = one_node(
        op,
        [[7, "N", 5], [2, gates * 6, 5], [2, gates * 6, 6]],
        hidden_size=6,
        direction="bidirectional",
    )
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 1
    model.graph.node[0].output[0] = "y"
    cell = {"LSTM": nn.LSTM, "GRU": nn.GRU, "RNN": nn.RNN}[op](5, 6, bidirectional=True)
    matrices = sum(p.numel() for name, p in cell.named_parameters() if name.startswith("weight"))
    assert macs(model) == 7 * matrices


def test_integer_operators():
    model = parser.parse_model("""
        <ir_version: 10, opset_import: ["": 21]>
        g (uint8[N, 3, 8, 8] x, float s, uint8 z, int8[4, 3, 3, 3] w, int8 zw, int8[144, 10] v) => (y)
        <int64[2] flat = {1, -1}>
        {
            q = QLinearConv(x, s, z, w, s, zw, s, z)
            c = ConvInteger(x, w, z, zw)
            r = Reshape(q, flat)
            y = MatMulInteger(r, v)
        }
    """)
    found = operations(model)
    assert [(o.op, o.macs, o.bits) for o in found] == [
        ("QLinearConv", 4 * 36 * 27, 8),
        ("ConvInteger", 4 * 36 * 27, 8),
        ("MatMulInteger", 1440, 8),
    ]


def test_dequantized_operands_are_integers():
    model = parser.parse_model("""
        <ir_version: 10, opset_import: ["": 21]>
        g (float[N, 6] x) => (y)
        <float s = {0.1}, int8 z = {0}, int8[6, 1] w = {1, 2, 3, 4, 5, 6}>
        {
            v = DequantizeLinear(w, s, z)
            q = QuantizeLinear(x, s, z)
            d = DequantizeLinear(q, s, z)
            h = MatMul(d, v)
            y = MatMul(x, v)
        }
    """)
    assert [(o.macs, o.bits, o.weights) for o in operations(model)] == [(6, 8, 6), (6, 32, 6)]


def test_what_is_computed_at_load_is_free():
    model = parser.parse_model("""
        <ir_version: 10, opset_import: ["": 21]>
        g (float[N, 2] x) => (y)
        <float[2, 1] u = {1, 2}, float[1, 3] v = {1, 2, 3}>
        { w = MatMul(u, v)  y = MatMul(x, w) }
    """)
    assert [(o.macs, o.weights) for o in operations(model)] == [(6, 6)]


def test_local_functions_are_expanded():
    model = parser.parse_model("""
        <ir_version: 10, opset_import: ["": 21, "own": 1]>
        g (float[N, 3, 8, 8] x, float[4, 3, 3, 3] w) => (float[N, 4, 6, 6] y) { y = own.outer(x, w) }
        <domain: "own", opset_import: ["": 21, "own": 1]> outer (a, b) => (c) { c = own.inner(a, b) }
        <domain: "own", opset_import: ["": 21]> inner (a, b) => (c) { s = Sign(b)  c = Conv(a, s) }
    """)
    assert macs(model) == 4 * 36 * 27


def test_a_function_that_calls_itself_is_refused():
    model = parser.parse_model("""
        <ir_version: 10, opset_import: ["": 21, "own": 1]>
        g (float[N, 3] x) => (float[N, 3] y) { y = own.f(x) }
        <domain: "own", opset_import: ["": 21, "own": 1]> f (a) => (b) { b = own.f(a) }
    """)
    with pytest.raises(InputError, match="local functions cannot be expanded"):
        macs(model)


def test_of_two_branches_the_dearer_counts():
    model = parser.parse_model("""
        <ir_version: 10, opset_import: ["": 21]>
        g (float[N, 6] x, bool c, float[6, 5] w, float[6, 6] v) => (y)
        {
            y = If (c) <
                then_branch = one () => (float[N, 5] a) { a = MatMul(x, w) },
                else_branch = two () => (float[N, 5] b) { h = MatMul(x, v)  b = MatMul(h, w) }
            >
        }
    """)
    assert macs(model) == 36 + 30


def test_a_loop_has_no_count():
    model = parser.parse_model("""
        <ir_version: 10, opset_import: ["": 21]>
        g (float[N, 6] x, int64 n, bool c, float[6, 6] w) => (y)
        {
            y = Loop (n, c, x) <
                body = step (int64 i, bool go, float[N, 6] h) => (bool on, float[N, 6] r)
                { on = Identity(go)  r = MatMul(h, w) }
            >
        }
    """)
    assert [(o.op, o.macs) for o in operations(model)] == [("MatMul", None)]
    assert macs(model) is None


def test_open_sizes_and_foreign_operators_have_no_count():
    open_size = one_node("Conv", [["N", 3, "H", "W"], [4, 3, 3, 3]])
    foreign = parser.parse_model(
        '<ir_version: 10, opset_import: ["": 21, "far": 1]> g (float[N, 3] x) => (y) { y = far.Dense(x) }'
    )
    assert macs(open_size) is None
    assert [(o.op, o.macs) for o in operations(foreign)] == [("far.Dense", None)]


def test_a_fixed_batch_is_divided_out():
    assert macs(one_node("Conv", [[8, 3, 10, 10], [4, 3, 3, 3]])) == 4 * 64 * 27


def test_the_batch_is_one_wherever_its_name_occurs():
    model = parser.parse_model(
        '<ir_version: 10, opset_import: ["": 21]>g (float[N, 4] x, float[6, N] v) => (y) { y = MatMul(v, x) }'
    )
    assert macs(model) == 6 * 1 * 4


def test_nothing_to_multiply_is_none_at_all():
    assert macs(one_node("Relu", [["N", 3]])) == 0


def test_contradictory_shapes_have_no_count():
    model = parser.parse_model(
        '<ir_version: 10, opset_import: ["": 21]>g (float[N, 3] x, float[4, 5] w) => (y) { y = MatMul(x, w) }'
    )
    assert macs(model) is None


class Mixed(nn.Module):
    """Strided, grouped and transposed convolutions, attention, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.grouped = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=4)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2, groups=2)
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)
        self.head = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.up(F.relu(self.grouped(F.relu(self.first(x)))))  # (n, 4, 16, 16)
        x = x.flatten(2).transpose(1, 2).reshape(-1, 64, 16)
        return self.head(self.attention(x, x, x, need_weights=False)[0].mean(1))


@pytest.mark.filterwarnings("ignore")
def test_a_whole_exported_network(tmp_path):
    net, x = Mixed().eval(), torch.randn(2, 3, 16, 16)
    file = tmp_path / "mixed.onnx"
    batch = torch.export.Dim("batch")
    torch.onnx.export(net, (x,), file, dynamo=True, dynamic_shapes=({0: batch},), verbose=False, external_data=False)
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        expected = counted(net, x[:1])
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    assert macs(onnx.load(file)) == expected
