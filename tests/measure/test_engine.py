"""Other engines."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from models import CASES
from rarefy import measure, pack
from rarefy.errors import InputError
from rarefy.export.onnx import Exporter
from rarefy.inspection import measured
from rarefy.measure import engine
from rarefy.steps import Quantize
from rarefy.task import forward


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, nn.Module]:
    """A network in float32 and, packed, in integers."""
    folder, case = tmp_path_factory.mktemp("files"), CASES["residual"]
    model = case.model()
    made = Quantize()(model, case.task())
    one, two = folder / "float.onnx", folder / "integers.rfy"
    one.write_bytes(Exporter(model, case.batch()).write(model).proto.SerializeToString())
    pack.write(Exporter(made, case.batch()).write(made).proto, two)
    return one, two, made


def test_openvino_runs_the_integers_of_the_file(files: tuple[Path, Path, nn.Module]) -> None:
    pytest.importorskip("openvino", reason="the extra openvino is not installed")
    inputs = torch.randn(32, *CASES["residual"].batch().shape[1:], generator=torch.Generator().manual_seed(0))
    running = engine.session(files[1], engine="openvino")
    found = measure.answer(running)(inputs)
    with torch.no_grad():
        ours = forward(files[2], inputs)
    assert float((found - ours).norm() / ours.norm()) < 0.02
    assert repr(running).startswith("Session(")
    assert engine.session(files[0]).inputs[0].dtype == running.inputs[0].dtype == "float32"


def test_engines_are_compared(files: tuple[Path, Path, nn.Module]) -> None:
    pytest.importorskip("openvino", reason="the extra openvino is not installed")
    rows = measured([*map(str, files[:2])], None, None, 1, 1, ["onnxruntime", "openvino"])
    assert [row["engine"] for row in rows] == ["onnxruntime", "onnxruntime", "openvino", "openvino"]
    assert [row["latency"]["engine"] for row in rows] == [row["engine"] for row in rows]
    assert [row["file"] for row in rows] == [*map(str, files[:2])] * 2
    assert rows[0]["latency"]["ratio"] == pytest.approx(1, abs=0.5)
    assert all(row["latency"]["this"]["median_ms"] > 0 for row in rows)
    assert rows[2]["memory_bytes"] is None


def test_an_engine_that_is_not_there(monkeypatch: pytest.MonkeyPatch, files: tuple[Path, Path, nn.Module]) -> None:
    with pytest.raises(InputError, match="there is no engine 'tensorrt'; there are onnxruntime and openvino"):
        engine.opener(files[0], engine="tensorrt")
    monkeypatch.setattr(engine, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"openvino is not installed; pip install 'rarefy\[openvino\]' brings it"):
        measured([str(files[0])], None, None, 1, 1, ["openvino"])


def test_what_an_engine_cannot_run(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"nothing")
    for name in ("onnxruntime", "openvino"):
        if name == "openvino":
            pytest.importorskip("openvino", reason="the extra openvino is not installed")
        with pytest.raises(InputError, match=r"broken\.onnx"):
            engine.opener(tmp_path / "broken.onnx", engine=name)()
