from __future__ import annotations

from math import erf, log2, sqrt
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rarefy.errors import PackError
from rarefy.pack import contexts, symbols, tensors
from rarefy.pack.ans import Decoder, Encoder
from rarefy.pack.bits import Reader

FLOATS = {1: np.float32, 10: np.float16, 11: np.float64, 16: ml_dtypes.bfloat16}
INTEGERS = {
    2: np.uint8,
    3: np.int8,
    4: np.uint16,
    5: np.int16,
    6: np.int32,
    7: np.int64,
    12: np.uint32,
    13: np.uint64,
}


def packed(data: bytes, element: tensors.Element, count: int, columns: int = 1) -> tuple[str, int]:
    """The coding and the bytes, after a round trip."""
    coded = tensors.encode(data, element, count, columns)
    encoder = Encoder()
    encoder.push(coded.jobs)
    stream = encoder.finish()
    reader, decoder = Reader(coded.head), Decoder(stream)
    coding = reader.byte()
    assert bytes(tensors.decode(reader, decoder, coding, element, count)) == data
    decoder.finish()
    assert reader.left == 0
    assert abs(coded.size - len(coded.head) - len(stream)) < 4
    return tensors.word(coding, element), len(coded.head) + len(stream)


def entropy_bytes(array: np.ndarray) -> float:
    counts = np.unique(array, return_counts=True)[1].astype(np.float64)
    return float(-(counts * np.log2(counts / counts.sum())).sum() / 8)


def indices(kind: str, size: int, count: int) -> np.ndarray:
    rng = np.random.default_rng(1)
    if kind == "equal":
        return rng.integers(0, size, count).astype(np.uint8)
    if kind == "laplace":
        return np.clip(np.round(rng.laplace(0, max(size / 12, 0.5), count) + size / 2), 0, size - 1).astype(np.uint8)
    if kind == "ragged":
        return rng.choice(size, count, p=rng.dirichlet(np.ones(size))).astype(np.uint8)
    others = np.clip(np.round(rng.normal(size / 2, size / 5, count)), min(1, size - 1), size - 1)
    return np.where(rng.random(count) < float(kind), 0, others).astype(np.uint8)


@pytest.mark.parametrize("size", [2, 3, 16, 32, 256])
@pytest.mark.parametrize("kind", ["equal", "laplace", "ragged", "0.9", "0.95", "0.99"])
def test_indices_cost_their_entropy(kind: str, size: int) -> None:
    array = indices(kind, size, 200_000)
    _, cost = packed(array.tobytes(), tensors.ELEMENTS[2], array.size)
    assert cost <= 1.02 * entropy_bytes(array)


@pytest.mark.parametrize("size", [2, 16, 256])
@pytest.mark.parametrize("kind", ["equal", "laplace", "ragged", "0.9", "0.95"])
def test_few_indices_cost_little_more(kind: str, size: int) -> None:
    """A table of 256 frequencies cannot be said in 2 % of 800 bytes; it costs some 40."""
    array = indices(kind, size, 10_000)
    _, cost = packed(array.tobytes(), tensors.ELEMENTS[2], array.size)
    assert cost <= 1.02 * entropy_bytes(array) + (40 if size == 256 else 7)


@pytest.mark.parametrize("size", [1, 2, 17, 500])
def test_noise_is_never_larger_than_its_bytes(size: int) -> None:
    rng = np.random.default_rng(2)
    for number, element in tensors.ELEMENTS.items():
        data = rng.bytes(tensors.size_in_bytes(element, size))
        if element.bits < 8:
            data = tensors._packed(tensors._unpacked(np.frombuffer(data, np.uint8), element.bits, size), element.bits)
        assert packed(data, element, size)[1] <= len(data) + 2, number


@pytest.mark.parametrize("number", FLOATS, ids=lambda n: np.dtype(FLOATS[n]).name)
@pytest.mark.parametrize("sparsity", [0.0, 0.95])
def test_floats_pay_for_exponents_and_non_zeros_only(number: int, sparsity: float) -> None:
    rng = np.random.default_rng(3)
    array = rng.normal(0, 0.05, 60_000)
    array[rng.random(array.size) < sparsity] = 0
    array = array.astype(FLOATS[number])
    coding, cost = packed(array.tobytes(), tensors.ELEMENTS[number], array.size)
    if number == 16 and coding == "palette":
        assert cost <= 1.02 * entropy_bytes(array.view(np.uint16)) + 2 * 4096
        return
    exponents = np.frexp(array.astype(np.float64))[1]
    some = array != 0
    mantissa_and_sign = {1: 24, 10: 11, 11: 53, 16: 8}[number]
    share = some.mean()
    flags = -share * log2(share) - (1 - share) * log2(1 - share) if sparsity else 0
    ideal = array.size * flags / 8 + entropy_bytes(exponents[some]) + some.sum() * mantissa_and_sign / 8
    assert cost <= 1.01 * ideal + 40


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_any_bytes_come_back(data: st.DataObject) -> None:
    """NaN payloads, denormals, infinities and negative zeros are bytes like others."""
    element = tensors.ELEMENTS[data.draw(st.sampled_from(sorted(tensors.ELEMENTS)))]
    count = data.draw(st.integers(1, 300))
    size = tensors.size_in_bytes(element, count)
    few = data.draw(st.lists(st.binary(min_size=8, max_size=8), min_size=1, max_size=4))
    raw = data.draw(st.one_of(st.binary(min_size=size, max_size=size), st.just((b"".join(few) * size)[:size])))
    packed(raw, element, count)


@pytest.mark.parametrize("special", [-0.0, np.nan, np.inf, -np.inf, 5e-324, 1e-45, 6e-8])
@pytest.mark.parametrize("number", FLOATS)
def test_special_floats_among_zeros(number: int, special: float) -> None:
    array = np.zeros(5000)
    array[7::50] = special
    packed(array.astype(FLOATS[number]).tobytes(), tensors.ELEMENTS[number], array.size)


def test_a_nan_keeps_its_payload() -> None:
    words = np.full(3000, 0x7FC00000, np.uint32)
    words[::3] = np.arange(1000, dtype=np.uint32) | 0xFF800001
    packed(words.tobytes(), tensors.ELEMENTS[1], words.size)


@pytest.mark.parametrize("number", INTEGERS, ids=lambda n: np.dtype(INTEGERS[n]).name)
@pytest.mark.parametrize("span", ["few", "all"])
def test_integers(number: int, span: str) -> None:
    info = np.iinfo(INTEGERS[number])
    low, high = (max(info.min, -60), 61) if span == "few" else (info.min, info.max)
    array = np.random.default_rng(4).integers(low, high, 30_000, dtype=INTEGERS[number], endpoint=True)
    coding, cost = packed(array.tobytes(), tensors.ELEMENTS[number], array.size)
    if span == "few":
        assert cost <= 1.02 * entropy_bytes(array)
    if span == "all" and array.itemsize > 2:
        assert coding == "raw"


def test_a_wide_alphabet_is_coded_as_offsets() -> None:
    array = np.round(np.random.default_rng(5).laplace(0, 300, 500_000)).astype(np.int16)
    coding, cost = packed(array.tobytes(), tensors.ELEMENTS[5], array.size)
    assert coding == "offset"
    assert cost <= 1.02 * entropy_bytes(array)


def test_few_distinct_floats_become_a_palette() -> None:
    rng = np.random.default_rng(6)
    array = rng.choice(rng.normal(size=200).astype(np.float32), 50_000)
    coding, cost = packed(array.tobytes(), tensors.ELEMENTS[1], array.size)
    assert coding == "palette"
    assert cost <= 1.02 * entropy_bytes(array) + 800


@pytest.mark.parametrize("number", [21, 25], ids=["4 bits", "2 bits"])
@pytest.mark.parametrize("count", [1, 2, 3, 5000, 5001, 5003])
def test_packed_integers_of_any_length(number: int, count: int) -> None:
    element = tensors.ELEMENTS[number]
    array = np.random.default_rng(7).binomial(3, 0.1, count).astype(np.uint8)
    data = tensors._packed(array, element.bits)
    coding, cost = packed(data, element, count)
    if count > 4000:
        assert coding == "symbols"
        assert cost <= 1.02 * entropy_bytes(array) + 8


def test_something_in_the_unused_bits_survives() -> None:
    assert packed(b"\x11" * 500 + b"\xf1", tensors.ELEMENTS[21], 1001)[0] == "raw"


@pytest.mark.parametrize("size", [2, 3, 5, 16])
@pytest.mark.parametrize("count", [2, 3, 4, 5, 7000, 7001])
def test_symbols_go_in_pairs(size: int, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pairs of pairs of pairs, where there are few symbols; neighbours that are alike cost one."""
    monkeypatch.setattr(symbols, "PAIRED", 2)
    monkeypatch.setattr(symbols, "WORTH", 10.0)
    array = np.repeat(np.random.default_rng(9).integers(0, size, count // 2 + 1), 2)[:count].astype(np.uint8)
    array[0], array[1] = 0, size - 1
    assert symbols.encode(array, 16).head[0] == symbols.PAIRS
    cost = packed(array.tobytes(), tensors.ELEMENTS[2], count)[1]
    data = tensors._packed(array, 4)
    packed(data, tensors.ELEMENTS[21], count)
    if count > 5:
        assert cost <= 0.55 * entropy_bytes(array) + 60


def spread(rows: int, columns: int, dtype: type[np.signedinteger[Any]]) -> np.ndarray:
    """Integers whose deviation is that of their row times that of their column."""
    rng = np.random.default_rng(10)
    deviations = 2 ** rng.normal(0, 0.7, (rows, 1)) * 2 ** rng.normal(1, 0.7, columns)
    return np.round(rng.normal(size=(rows, columns)) * deviations).clip(-127, 127).astype(dtype)


def ideal_bytes(array: np.ndarray) -> float:
    """What it would cost if the deviation of every row and column were known for nothing."""
    rng = np.random.default_rng(10)
    rows, columns = array.shape
    deviation = 2 ** rng.normal(0, 0.7, (rows, 1)) * 2 ** rng.normal(1, 0.7, columns)
    edges = np.vectorize(erf)((array[..., None] + np.array([-0.5, 0.5])) / deviation[..., None] / sqrt(2))
    return float(-np.log2(np.diff(edges).clip(1e-12) / 2).sum() / 8)


@pytest.mark.parametrize(("number", "coding"), [(3, "symbols"), (5, "offset")])
def test_rows_and_columns_that_spread_differently(number: int, coding: str) -> None:
    """Classes come to within 3 % of the best there is, where one table for all is 10 % above it."""
    array = spread(300, 200, np.int8 if number == 3 else np.int16)
    size = array.size
    flat = packed(array.tobytes(), tensors.ELEMENTS[number], size)
    matrix = packed(array.tobytes(), tensors.ELEMENTS[number], size, 200)
    assert matrix[0] == coding
    assert flat[1] > 1.1 * ideal_bytes(array)
    assert matrix[1] < 1.03 * ideal_bytes(array)


def test_numbers_of_a_codebook_in_any_order() -> None:
    """A symbol's size is how rare it is: the order of the centroids does not matter."""
    array = spread(300, 200, np.int8).clip(-7, 8)
    order = np.random.default_rng(11).permutation(16).astype(np.uint8)
    sizes = [packed(a.tobytes(), tensors.ELEMENTS[2], a.size, 200)[1] for a in (array + 7, order[array + 7])]
    assert abs(sizes[0] - sizes[1]) < 0.01 * sizes[0]


@pytest.mark.parametrize(("rows", "columns"), [(1, 600), (600, 1), (2, 300), (300, 2), (40, 37)])
@pytest.mark.parametrize("number", [2, 5, 21])
def test_matrices_of_any_shape_come_back(rows: int, columns: int, number: int) -> None:
    rng = np.random.default_rng(12)
    array = rng.geometric(0.2 + 0.6 * (np.arange(rows)[:, None] % 3 == 0), (rows, columns)).clip(0, 15)
    data = array.astype(np.int16).tobytes() if number == 5 else array.astype(np.uint8).tobytes()
    data = tensors._packed(np.frombuffer(data, np.uint8), 4) if number == 21 else data
    packed(data, tensors.ELEMENTS[number], array.size, columns)


@settings(deadline=None, max_examples=50)
@given(data=st.data())
def test_classes_split_and_join(data: st.DataObject) -> None:
    rows, columns = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 12))
    level = st.integers(0, contexts.LEVELS - 1)
    levels = [np.array(data.draw(st.lists(level, min_size=n, max_size=n)), np.uint8) for n in (rows, columns)]
    matrix = np.arange(rows * columns, dtype=np.uint8).reshape(rows, columns)
    found = contexts.Classes(*levels)
    parts = found.split(matrix)
    sums = (levels[0][:, None].astype(int) + levels[1]).ravel()
    assert [len(part) for part in parts] == found.sizes() == np.unique(sums, return_counts=True)[1].tolist()
    assert all(len(set(sums[part].tolist())) == 1 for part in parts)
    assert found.joined(parts).tolist() == matrix.ravel().tolist()


def test_a_constant_costs_a_few_bytes() -> None:
    assert packed(b"\x05" * 100_000, tensors.ELEMENTS[2], 100_000) == ("symbols", 2)
    assert packed(np.ones(100_000, np.float32).tobytes(), tensors.ELEMENTS[1], 100_000)[1] < 12


def test_large_histograms_are_exact() -> None:
    array = np.random.default_rng(8).integers(0, 200, (1 << 22) + 3).astype(np.uint8)
    np.testing.assert_array_equal(symbols.histogram(array), np.bincount(array))
    np.testing.assert_array_equal(symbols.histogram(array.astype(np.uint16)), np.bincount(array))


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (bytes([5]), "no tensor has the coding 5"),
        (bytes([2, 0]), "a palette of 0 values for 100 elements"),
        (bytes([2, 101]), "a palette of 101 values for 100 elements"),
        (bytes([1, 0x80, 0x02]), "a first plane that begins at 256"),
        (bytes([1, 0, 165]), "no stream has the mode 165"),
        (bytes([1, 0, 164, 1]), "100 symbols in 1 columns"),
        (bytes([1, 0, 164, 30]), "100 symbols in 30 columns"),
        (bytes([1, 0, 164, 10, 164]), "classes inside classes"),
        (bytes([1, 0, 164, 10, 1, 32]), "a symbol of 32 where 31 is the largest"),
        (bytes([1, 0, 2, 1]), "an alphabet of 1 symbols; between 2 and 257"),
        (bytes([1, 0, 3, 7]), "pairs of 7 symbols in a stream of 100 below 257"),
        (bytes([2, 17]) + bytes(17 * 4) + bytes([3, 17]), "pairs of 17 symbols in a stream of 100 below 17"),
        (bytes([2, 4]) + bytes(4 * 4) + bytes([3, 4] * 8), "pairs of 4 symbols in a stream of 1 below 16"),
        (bytes([1, 0, 1, 0x81, 0x02]), "a symbol of 257 where 256 is the largest"),
        (bytes([1]) + b"\xff" * 11, "a number of more than 10 bytes"),
        (bytes([0]) + bytes(399), "400 bytes are declared at byte 1, 399 are left"),
    ],
)
def test_nonsense_is_refused(head: bytes, message: str) -> None:
    reader = Reader(head)
    with pytest.raises(PackError, match=message):
        tensors.decode(reader, Decoder(b""), reader.byte(), tensors.ELEMENTS[1], 100)
