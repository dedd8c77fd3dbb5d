"""A saved file answers as the network does, whatever the form of inputs and outputs."""

from __future__ import annotations

import onnx
import pytest
import torch
from onnx import parser

from rarefy.errors import ModelError
from rarefy.measure import answer
from rarefy.runtime import load


@pytest.fixture
def opened(tmp_path):
    def make(text: str):
        model = parser.parse_model(f'<ir_version: 10, opset_import: ["": 21]> {text}')
        onnx.save(model, tmp_path / "net.onnx")
        return load(tmp_path / "net.onnx", threads=1)

    return make


TWO = """g (float[N, 3] a, float[N, 3] b) => (float[N, 3] sum, float[N, 3] difference)
    { sum = Add(a, b)  difference = Sub(a, b) }"""
A, B = torch.randn(5, 3), torch.randn(5, 3)


def test_a_tensor_in_and_out(opened):
    found = answer(opened("g (float[N, 3] x) => (float[N, 3] y) { y = Neg(x) }"))(A)
    assert torch.equal(found, -A)


@pytest.mark.parametrize(
    "inputs",
    [(A, B), [A, B], {"a": A, "b": B}, {"b": B, "a": A}, {"a": A, "b": B, "c": A}, {"x": A, "y": B}],
    ids=["tuple", "list", "dict", "dict in another order", "dict with more", "dict of other names"],
)  # fmt: skip
def test_inputs_by_name_or_in_order(opened, inputs):
    found = answer(opened(TWO))(inputs)
    assert list(found) == ["sum", "difference"]
    assert torch.equal(found["sum"], A + B)
    assert torch.equal(found["difference"], A - B)


def test_outputs_in_the_form_of_the_network(opened):
    net = opened(TWO)
    assert torch.equal(answer(net, like=(A, B))((A, B))[1], A - B)
    assert torch.equal(answer(net, like={"logits": A, "more": [B]})((A, B))["more"][0], A - B)
    with pytest.raises(ModelError, match=r"the file gives 2 outputs \(sum, difference\), the network 1"):
        answer(net, like=A)((A, B))


def test_one_output_in_a_dict(opened):
    net = opened("g (float[N, 3] x) => (float[N, 3] y) { y = Neg(x) }")
    assert torch.equal(answer(net, like={"logits": A})(A)["logits"], -A)


@pytest.mark.parametrize("batch", [1, 2, 5, 7])
def test_a_fixed_batch_is_fed_in_pieces(opened, batch: int):
    net = opened(f"g (float[{batch}, 3] x) => (float[{batch}, 3] y) {{ y = Neg(x) }}")
    assert torch.equal(answer(net)(A), -A)


def test_too_few_inputs(opened):
    with pytest.raises(ModelError, match=r"the file takes 2 inputs \(a, b\), the task gives 1"):
        answer(opened(TWO))(A)
