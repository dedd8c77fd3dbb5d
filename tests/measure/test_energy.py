from __future__ import annotations

import sys

import onnx
import pytest
import torch
from onnx import parser
from torch import nn

from rarefy.export.onnx import Exporter
from rarefy.layers.binary import Activation, binarize, one_bit
from rarefy.measure import energy

module = sys.modules["rarefy.measure.energy"]


@pytest.fixture
def net(tmp_path):
    model = parser.parse_model(
        '<ir_version: 10, opset_import: ["": 21]> g (float[N, 2] x) => (float[N, 3] y)'
        "<float[2, 3] w = {1, 2, 3, 4, 5, 6}> { y = MatMul(x, w) }"
    )
    onnx.save(model, tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


@pytest.fixture
def counters(tmp_path, monkeypatch):
    """A machine with one package, its cores, its memory, and the whole platform."""
    for number, (folder, name) in enumerate([("0", "package-0"), ("0:0", "core"), ("0:1", "dram"), ("1", "psys")]):
        domain = tmp_path / "powercap" / f"intel-rapl:{folder}"
        domain.mkdir(parents=True)
        (domain / "name").write_text(name + "\n")
        (domain / "energy_uj").write_text(f"{1000 * number}\n")
        (domain / "max_energy_range_uj").write_text("5000\n")
    monkeypatch.setattr(module, "POWERCAP", tmp_path / "powercap")
    return tmp_path / "powercap"


def test_the_estimate_is_the_table(net, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "POWERCAP", tmp_path / "none")
    record = energy(net, net)
    assert record is not None
    assert record.joules == pytest.approx((6 * 4.6 + 6 * 640) * 1e-12)
    assert record.original_joules == record.joules
    assert record.source == "estimate"
    assert "Horowitz 2014" in record.method
    assert energy(net).original_joules is None


def test_binary_layers_are_counted_as_their_kernels_work(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "POWERCAP", tmp_path / "none")
    layer = nn.Conv2d(32, 8, 3)
    binarize(layer, Activation(bits=2), steps=torch.tensor(1.0))
    one_bit(layer)
    onnx.save(Exporter(layer, torch.zeros(2, 32, 4, 4)).write(layer).proto, tmp_path / "bits.onnx")
    weights = 8 * 32 * 9
    expected = 2 * 4 * weights * 0.3 / 32 + weights / 32 * 640
    assert energy(tmp_path / "bits.onnx").joules == pytest.approx(expected * 1e-12)


def test_no_operations_known_no_estimate(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "POWERCAP", tmp_path / "none")
    model = parser.parse_model(
        '<ir_version: 10, opset_import: ["": 21, "far": 1]> g (float[N, 2] x) => (y) { y = far.Dense(x) }'
    )
    onnx.save(model, tmp_path / "far.onnx")
    assert energy(tmp_path / "far.onnx") is None


def test_packages_and_memory_are_counted_once(counters):
    assert [file.parent.name for file, _ in module._counters()] == ["intel-rapl:0", "intel-rapl:0:1"]


def test_counters_that_cannot_be_read_are_not_used(counters, net):
    (counters / "intel-rapl:0:1" / "energy_uj").unlink()
    assert module._counters() == []
    assert energy(net).source == "estimate"


def test_energy_is_the_difference_over_the_calls(counters):
    package, dram = (counters / name / "energy_uj" for name in ("intel-rapl:0", "intel-rapl:0:1"))

    def call():
        package.write_text("600")
        dram.write_text("1500")  # it wraps around at 5000: 2000 -> 1500 is 4500 more

    assert module.per_call(call, module._counters(), seconds=0) == pytest.approx((600 + 4500) * 1e-6)


def test_counted_of_a_file(counters, net):
    record = energy(net, seconds=0.01)
    assert record is not None
    assert record.source == "cpu counters"
    assert "idle power included" in record.method
