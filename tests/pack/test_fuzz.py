"""A few thousand mutated packs; benchmarks/fuzz_pack.py makes hundreds of thousands."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest

from rarefy import pack
from rarefy.errors import PackError
from rarefy.pack.bits import varint
from rarefy.pack.container import sealed, unsealed


@pytest.fixture(scope="module")
def fuzz() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "fuzz_pack.py"
    spec = importlib.util.spec_from_file_location("fuzz_pack", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_mutations_are_read_or_refused(fuzz: ModuleType) -> None:
    outcomes = [fuzz.outcome(data) for data, _ in zip(fuzz.cases(np.random.default_rng(0)), range(3000), strict=False)]
    assert "read" in outcomes
    assert len(set(outcomes)) > 20


def test_the_seeds_are_sound(fuzz: ModuleType) -> None:
    for data in fuzz.seeds():
        codings = {tensor.coding for tensor in pack.contents(data).tensors}
        assert codings
    everything = {tensor.coding for tensor in pack.contents(fuzz.seeds()[0]).tensors}
    assert everything >= {"raw", "symbols", "float", "planes", "palette", "offset"}


def test_every_truncation_is_refused(model: onnx.ModelProto) -> None:
    data = pack.encode(model)
    for length in [*range(40), *range(40, len(data), 97), len(data) - 1]:
        with pytest.raises(PackError, match=r"truncated|not a \.rfy file"):
            pack.decode(data[:length])


def test_every_flipped_bit_is_found(model: onnx.ModelProto) -> None:
    data = pack.encode(model)
    for at in range(0, len(data), 61):
        broken = bytearray(data)
        broken[at] ^= 1
        with pytest.raises(PackError):
            pack.decode(bytes(broken))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: b"PK\3\4" + data, "not a .rfy file: it does not begin with RFY"),
        (
            lambda data: b"RFY\3" + data[4:],
            "made by a newer rarefy: the format's version is 3, this one reads 2",
        ),
        (lambda data: b"RFY\1" + data[4:], "made by an older rarefy, or corrupted: the format's version is 1, this"),
        (lambda data: data[:-1], r"truncated: the header declares \d+ bytes, the file has \d+"),
        (lambda data: data + b"\0", r"too long: the header declares \d+ bytes, the file has \d+"),
        (lambda data: data[:-9] + b"\0" + data[-8:], "corrupted: the checksum does not fit the bytes"),
        (lambda data: sealed(b"\0\5\4abcd\0"), "corrupted: the graph declares 5 bytes and has 4"),
        (lambda data: sealed(bytes(unsealed(data)) + b"\0"), "corrupted: 1 bytes after the last tensor"),
        (lambda data: b"RFY\2" + b"\xff" * 40, "corrupted: a number of more than 10 bytes"),
        (
            lambda data: sealed(b"\x00" + varint(5 << 40) + b"\0"),
            r"declares a graph of 5\.0 TiB; the limit is 4\.0 GiB",
        ),
        (
            lambda data: sealed(b"\x01" + varint(3 << 20) + b"\1x"),
            "corrupted: 1 bytes of graph declare 3145728",
        ),
    ],
)
def test_what_is_wrong_is_said(model: onnx.ModelProto, change: object, message: str) -> None:
    with pytest.raises(PackError, match=message):
        pack.decode(change(pack.encode(model)))  # type: ignore[operator]


def test_absurd_sizes_are_refused_before_they_are_allocated(fuzz: ModuleType) -> None:
    absurd = onnx.ModelProto()
    absurd.graph.initializer.add(name="t", data_type=1, dims=[1 << 40, 1 << 20])
    graph = absurd.SerializeToString()
    data = sealed(b"\0" + varint(len(graph)) * 2 + graph + b"\0\0")
    with pytest.raises(PackError, match=r"declares 4194304\.0 TiB of tensors; the limit is 4\.0 GiB"):
        pack.decode(data)
    absurd.graph.initializer[0].dims[0] = -1
    graph = absurd.SerializeToString()
    with pytest.raises(PackError, match="a tensor of shape"):
        pack.decode(sealed(b"\0" + varint(len(graph)) * 2 + graph + b"\0\0"))
