"""Graphs, names, fallbacks, and how tensors are written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper
from torch import Tensor, nn

from models import CASES, Toy, exporter, outputs
from rarefy.encodings import adopted
from rarefy.errors import ExportError, ModelError
from rarefy.export.onnx import Exporter, TensorExporter, example
from rarefy.export.parity import parity
from rarefy.export.writer import tensor_proto
from rarefy.measure import answer
from rarefy.runtime import session
from rarefy.steps import ClusterWeights, Half
from rarefy.task import forward


def run(proto: onnx.ModelProto, inputs: Any) -> list[Tensor]:
    return outputs(answer(session(proto.SerializeToString()))(inputs))


def names(proto: onnx.ModelProto) -> tuple[list[str], list[str]]:
    return [i.name for i in proto.graph.input], [o.name for o in proto.graph.output]


def test_dict_in_and_out_keep_their_names_and_take_any_batch() -> None:
    model = CASES["named"].model(seed=3)
    proto = exporter("named").write(model).proto
    assert names(proto) == (["text", "image"], ["scores", "features"])
    assert {p.key: p.value for p in proto.metadata_props} == {"form": "dict"}
    inputs = {"image": torch.randn(7, 3, 8, 8), "text": torch.randn(7, 6)}
    with torch.no_grad():
        wanted = outputs(forward(model, inputs))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(wanted, run(proto, inputs), strict=True))


def test_shared_tensors_are_written_once() -> None:
    model = CASES["twice"].model(seed=3)
    exported = exporter("twice").write(ClusterWeights(bits=4)(model, CASES["twice"].task()))
    written = [t.name for t in exported.proto.graph.initializer if "conv" in t.name or "other" in t.name]
    assert len([n for n in written if n.endswith(".indices")]) == 1
    assert sorted(exported.parts["conv.weight"]) == sorted(n for n in written if "bias" not in n)
    assert "other.weight" not in exported.parts
    loose = exporter("loose").write(adopted(CASES["loose"].model()))
    assert len(loose.parts["shift"]) == 1
    assert "again" not in loose.parts
    assert "unused" not in loose.parts


class Clash(nn.Module):
    """Parameters that are called like inputs and outputs, and an output that is called like an input."""

    def __init__(self) -> None:
        super().__init__()
        self.x, self.z = nn.Parameter(torch.randn(3)), nn.Parameter(torch.randn(3))

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        return {"y": x + self.x, "sum": y * self.z}


class OneByOne(nn.Module):
    """What it does depends on the number of examples."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.layer(row) for row in x])


def test_names_that_clash() -> None:
    model, inputs = Clash(), {"x": torch.randn(2, 3), "y": torch.randn(2, 3)}
    exported = Exporter(model, inputs, {"classes": "a"}).write(model)
    onnx.checker.check_model(exported.proto, full_check=True)
    assert names(exported.proto) == (["input_x", "input_y"], ["y", "sum"])
    assert {p.key: p.value for p in exported.proto.metadata_props} == {"classes": "a", "form": "dict"}
    wanted = outputs(forward(model, inputs))
    assert all(torch.allclose(a, b) for a, b in zip(wanted, run(exported.proto, inputs), strict=True))


def test_a_batch_that_cannot_vary_is_one_and_said() -> None:
    model = OneByOne()
    made = Exporter(model, torch.randn(2, 3))
    (warning,) = made.warnings
    assert warning.startswith("exported for a batch of one example: the network does not take a variable number")
    proto = made.write(model).proto
    assert proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 1
    x = torch.randn(5, 3)
    assert torch.allclose(run(proto, x)[0], model(x), atol=1e-6)


def test_what_cannot_be_exported_is_said_quietly(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ExportError, match=r"^Loop cannot be exported to ONNX: Could not .* can still be packed$"):
        Exporter(CASES["loop"].model(), CASES["loop"].batch())
    assert capfd.readouterr() == ("", "")


def test_tensors_alone() -> None:
    model = Half()(CASES["loop"].model(), CASES["loop"].task())
    exported = TensorExporter("the reason", {"classes": "a"}).write(model)
    assert {p.key: p.value for p in exported.proto.metadata_props} == {"classes": "a", "holds": "tensors"}
    assert names(exported.proto)[0] == []
    assert names(exported.proto)[1][-1] == "out:norm.num_batches_tracked"
    assert sorted(exported.parts) == sorted(CASES["loop"].model().state_dict())


@pytest.mark.parametrize("size", [0, 1, 2, 3, 7, 8, 255])
def test_four_bits_of_odd_and_even_sizes(size: int) -> None:
    value = torch.randint(0, 16, (size,), dtype=torch.uint8)
    proto = tensor_proto("t", value, "uint4")
    assert len(proto.raw_data) == (size + 1) // 2
    assert proto.data_type == TensorProto.UINT4
    assert numpy_helper.to_array(proto).astype(np.uint8).tolist() == value.tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.int64, torch.bool, torch.uint16])
def test_other_types(dtype: torch.dtype) -> None:
    value = torch.arange(6).view(2, 3).to(dtype)
    assert np.array_equal(numpy_helper.to_array(tensor_proto("t", value.T)), value.T.numpy())


def test_large_codebooks_are_written_in_sixteen_bits() -> None:
    model = nn.Linear(100, 60)
    shared = ClusterWeights(k=300)(model, Toy(torch.randn(4, 100)))
    exported = TensorExporter("").write(shared)
    (indices,) = [t for t in exported.proto.graph.initializer if t.name == "weight.indices"]
    assert len(indices.raw_data) == 2 * 6000
    got = session(exported.proto.SerializeToString())()
    assert np.array_equal(got["out:weight"], shared.weight.detach().numpy())


def test_parity_of_nested_outputs(tmp_path: Path) -> None:
    file, model = tmp_path / "m.onnx", CASES["named"].model(seed=4)
    file.write_bytes(exporter("named").write(model).proto.SerializeToString())
    found = parity(file, model, CASES["named"].task())
    assert (found.examples, found.agreement, found.agreement_unoptimised) == (4, 1, 1)
    assert 0 <= found.max_difference < 1e-5
    with torch.no_grad():
        model.head.bias[2] += 100
    found = parity(file, model, CASES["named"].task())
    assert found.max_difference == pytest.approx(100, abs=1e-3)
    assert found.max_difference_unoptimised == pytest.approx(100, abs=1e-3)
    assert found.agreement < 1


def test_example_is_two_examples_that_fit() -> None:
    model = nn.Conv2d(3, 4, 3)
    assert example([(torch.randn(9, 3, 8, 8), None)], model).shape == (2, 3, 8, 8)
    assert example([(torch.randn(1, 3, 8, 8), None)], model).shape == (2, 3, 8, 8)
    with pytest.raises(
        ModelError, match=r"^Conv2d does not run .* shape \(4, 3, 3, 3\), .* shape \(2, 1, 8, 8\) \(Given"
    ):
        example([(torch.randn(9, 1, 8, 8), None)], model)
