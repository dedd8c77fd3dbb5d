"""A second reader, written from docs/format.md alone: plain Python, slow, sharing no code with rarefy."""

from __future__ import annotations

import base64
import hashlib
import lzma
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from rarefy import pack
from rarefy.pack import symbols

DOCS = Path(__file__).parents[2] / "docs" / "format.md"
MANTISSAS = [
    32768,
    34219,
    35734,
    37316,
    38968,
    40693,
    42495,
    44376,
    46341,
    48393,
    50535,
    52773,
    55109,
    57549,
    60097,
    62757,
]
TOTAL = 1 << 24


class Ans:
    def __init__(self, data: bytes) -> None:
        data += b"\0" * (-len(data) % 4)
        self.words = list(struct.unpack(f"<{len(data) // 4}I", data))
        self.state = 0
        for _ in range(min(2, len(self.words))):
            self.state = self.state << 32 | self.words.pop()

    def pop(self, frequencies: list[int]) -> int:
        quantile = self.state % TOTAL
        symbol, left = 0, 0
        while left + frequencies[symbol] <= quantile:
            left += frequencies[symbol]
            symbol += 1
        self.state = frequencies[symbol] * (self.state >> 24) + quantile - left
        if self.state < 1 << 32 and self.words:
            self.state = self.state << 32 | self.words.pop()
        return symbol


class Bytes:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, count: int) -> bytes:
        self.at += count
        return self.data[self.at - count : self.at]

    def varint(self) -> int:
        value, shift = 0, 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value


def frequencies(sixteenths: list[int]) -> list[int]:
    weights = [0 if i < 0 else MANTISSAS[i % 16] << (i // 16) for i in sixteenths]
    total = max(sum(weights), 1)
    freq = [1 + w * (TOTAL - len(weights)) // total for w in weights]
    freq[freq.index(max(freq))] += TOTAL - sum(freq)
    return freq


def law(number: int, steps: int) -> list[int]:
    change, shape = number // 4, number % 4
    result = [176 + 32 * (change - 2)]
    for z in range(1, 44 * steps + 1):
        e = z.bit_length() - 1
        logarithm = 16 * e + 16 * (z - 2**e) // 2**e
        result.append(max(176 - (shape + 2) * logarithm // 2, 0))
    return frequencies(result)


def stream(head: Bytes, ans: Ans, count: int, limit: int, mode: int) -> list[int]:
    width = 1 if limit <= 256 else 2 if limit <= 65536 else 4
    if mode == 0:
        return [int.from_bytes(head.take(width), "little") for _ in range(count)]
    size = head.varint()
    if mode == 1:
        return [size] * count
    if mode == 2:
        return [ans.pop(frequencies([0] * size)) for _ in range(count)]
    if mode == 3:
        pairs = stream(head, ans, (count + 1) // 2, size * size, head.take(1)[0])
        return [symbol for pair in pairs for symbol in (pair % size, pair // size)][:count]
    if mode == 164:
        return classes(head, ans, count // size, size, limit)
    steps = 2 ** ((mode - 4) // 32)
    differences = law((mode - 4) % 32, steps)
    level = ans.pop(frequencies([0] * (22 * steps + 1)))
    levels = [level]
    for _ in range(size - 1):
        z = ans.pop(differences)
        level += -(z + 1) // 2 if z % 2 else z // 2
        levels.append(level)
    table = frequencies([(level - 1) * 16 // steps for level in levels])
    return [ans.pop(table) for _ in range(count)]


def classes(head: Bytes, ans: Ans, rows: int, columns: int, limit: int) -> list[int]:
    levels = [stream(head, ans, n, 32, head.take(1)[0]) for n in (rows, columns)]
    order = sorted((a + b, a, b, r, c) for r, a in enumerate(levels[0]) for c, b in enumerate(levels[1]))
    found = [0] * (rows * columns)
    for number in sorted({p[0] for p in order}):
        mine = [p for p in order if p[0] == number]
        for (_, _, _, r, c), symbol in zip(mine, stream(head, ans, len(mine), limit, head.take(1)[0]), strict=True):
            found[r * columns + c] = symbol
    return found


def tensor(head: Bytes, ans: Ans, data_type: int, count: int) -> bytes:
    """The data of a uint8, int16 or float32 tensor."""
    coding = head.take(1)[0]
    size = {1: 4, 2: 1, 5: 2}[data_type]
    if coding == 0:
        return head.take(count * size)
    if count > 65536:
        ans = Ans(head.take(head.varint()))
    if coding >= 8:
        return bytes(stream(head, ans, count, 256, coding - 8))
    if coding == 2:
        values = [head.take(size) for _ in range(head.varint())]
        return b"".join(values[i] for i in stream(head, ans, count, len(values), head.take(1)[0]))
    if coding == 3:
        low, limit = head.varint(), head.varint()
        low = -(low + 1) // 2 if low % 2 else low // 2
        return b"".join(
            (low + d).to_bytes(size, "little", signed=True) for d in stream(head, ans, count, limit, head.take(1)[0])
        )
    assert coding == 1
    assert data_type == 1
    low = head.varint()
    first = stream(head, ans, count, 257 - low, head.take(1)[0])
    some = sum(symbol > 0 for symbol in first)
    rest = [stream(head, ans, some, 256, head.take(1)[0]) for _ in range(3)] if some else []
    words, item = [], 0
    for symbol in first:
        word = 0
        if symbol:
            word = (symbol - 1 + low) << 24 | rest[0][item] << 16 | rest[1][item] << 8 | rest[2][item]
            item += 1
        words.append((word >> 1 | word << 31) & 0xFFFFFFFF)
    return struct.pack(f"<{count}I", *words)


def read(data: bytes, dictionary: bytes) -> list[bytes]:
    """The bytes of all tensors that were taken out of the graph."""
    file = Bytes(data)
    assert file.take(4) == b"RFY\2"
    assert file.varint() == len(data)
    assert hashlib.blake2b(data[:-8], digest_size=8).digest() == data[-8:]
    method, size = file.take(1)[0], file.varint()
    squeezed = file.take(file.varint())
    if method == 0x81:
        graph = zlib.decompressobj(-15, dictionary).decompress(squeezed)
    else:
        assert method == 0x82
        options = {"id": lzma.FILTER_LZMA1, "dict_size": 1 << 24, "lc": 2, "lp": 0, "pb": 0}
        graph = lzma.decompress(squeezed, lzma.FORMAT_RAW, filters=[options])
    assert len(graph) == size
    shared = Ans(file.take(file.varint()))
    model = onnx.ModelProto.FromString(graph)
    places = [t for t in model.graph.initializer if not t.HasField("raw_data")]
    found = [tensor(file, shared, t.data_type, int(np.prod(t.dims))) for t in places]
    assert shared.state == 0
    assert file.at == len(data) - 8
    return found


@pytest.fixture(scope="module")
def dictionary() -> bytes:
    """From the appendix of the document."""
    text = re.search(r"```dictionary\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert text is not None
    return base64.b64decode(text[1])


def arrays() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    weights = np.where(rng.random(800) < 0.6, 0, rng.normal(size=800)).astype(np.float32)
    weights[:3] = [-0.0, np.nan, 1e-42]
    return [
        np.where(rng.random(3000) < 0.9, 0, rng.integers(1, 16, 3000)).astype(np.uint8),
        rng.integers(0, 5, 300).astype(np.uint8),
        rng.integers(0, 256, 100).astype(np.uint8),
        np.full(70, 9, np.uint8),
        weights,
        rng.choice(rng.normal(size=9).astype(np.float32), 600),
        rng.binomial(600, 0.4, 4000).astype(np.int16) - 400,
        np.where(rng.random(70_000) < 0.97, 0, rng.integers(1, 200, 70_000)).astype(np.uint8),
        np.where(rng.random(66_001) < 0.95, 0, rng.integers(1, 4, 66_001)).astype(np.uint8),
        rng.geometric(2.0 ** -rng.integers(0, 5, (40, 1)) * 2.0 ** -rng.integers(0, 3, 50))
        .clip(0, 255)
        .astype(np.uint8),
    ]


def test_a_second_reader_agrees(dictionary: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(symbols, "PAIRED", 66_000)
    nodes = [helper.make_node("Size", [f"t{i}"], [f"y{i}"]) for i in range(len(arrays()))]
    outputs = [helper.make_tensor_value_info(f"y{i}", TensorProto.INT64, []) for i in range(len(arrays()))]
    weights = [numpy_helper.from_array(array, f"t{i}") for i, array in enumerate(arrays())]
    data = pack.encode(helper.make_model(helper.make_graph(nodes, "g", [], outputs, weights)))
    codings = [entry.coding for entry in pack.contents(data).tensors]
    assert codings == ["symbols", "symbols", "raw", "symbols", "float", "palette", "offset", *["symbols"] * 3]
    assert read(data, dictionary) == [array.tobytes() for array in arrays()]


def test_the_document_has_the_constants(dictionary: bytes) -> None:
    assert [round(2 ** (15 + i / 16)) for i in range(16)] == MANTISSAS
    assert ", ".join(map(str, MANTISSAS[:8])) in DOCS.read_text()
    assert dictionary == (Path(pack.__file__).parent / "dictionary.bin").read_bytes()
