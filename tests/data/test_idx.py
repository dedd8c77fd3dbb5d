"""IDX: what MNIST looks like, and what must not pass for it."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from rarefy.data import load
from rarefy.data.idx import read_idx
from rarefy.errors import DataError

MNIST = Path(__file__).parents[2] / "../shared/data/mnist"


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def pixels(count: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8)


def write(folder: Path, part: str, images: np.ndarray, labels: np.ndarray, packed: bool = False) -> None:
    for kind, array in (("images", images), ("labels", labels)):
        name = f"{part}-{kind}-idx{array.ndim}-ubyte"
        if packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(idx(array), mtime=0))
        else:
            (folder / name).write_bytes(idx(array))


def digits(count: int) -> np.ndarray:
    return (np.arange(count) % 3).astype(np.uint8)


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize("part", ["t10k", "test"])
def test_four_files(tmp_path: Path, packed: bool, part: str) -> None:
    write(tmp_path, "train", pixels(9, 4, 5), digits(9), packed)
    write(tmp_path, part, pixels(3, 4, 5), digits(3), packed)
    split = load(tmp_path)
    assert split.train is not None
    assert np.array_equal(split.train.images, pixels(9, 4, 5)[:, None])
    assert split.train.labels.tolist() == digits(9).tolist()
    assert split.train.classes == ("0", "1", "2")
    assert len(split.judge) == 3
    assert str(tmp_path) in split.description


def test_the_plain_file_wins_over_the_packed_one(tmp_path: Path) -> None:
    write(tmp_path, "test", pixels(3, 4, 5), digits(3))
    write(tmp_path, "test", pixels(3, 4, 5), digits(3)[::-1], packed=True)
    assert load(tmp_path).judge.labels.tolist() == [0, 1, 2]


def test_four_axes_are_colour(tmp_path: Path) -> None:
    write(tmp_path, "test", pixels(3, 6, 5, 3), digits(3))
    split = load(tmp_path)
    assert split.train is None
    assert np.array_equal(split.judge.images, pixels(3, 6, 5, 3).transpose(0, 3, 1, 2))


def test_without_a_test_set_one_in_five_is_held_out(tmp_path: Path) -> None:
    write(tmp_path, "train", pixels(30, 2, 2), digits(30))
    split = load(tmp_path, seed=4)
    assert split.train is not None
    assert (len(split.train), len(split.judge)) == (24, 6)
    assert "one image in five of each class is held out (seed 4)" in split.description


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"expected 00 00 08 and 1 to 4 axes, found $"),
        (b"\0\0\x0d\3" + b"\0" * 12, "found 00 00 0d 03"),
        (b"\0\0\x08\5" + b"\0" * 20, "found 00 00 08 05"),
        (b"\0\0\x08\3" + b"\0" * 7, "expected 3 axes, but the file ends in its header"),
        (b"\0\0\x08\3" + b"\xff" * 12, "declares 79,228,162,458,924,105,385,300,197,375 bytes, more than"),
        (b"\0\0\x08\1\0\0\1\0" + b"\0" * 250, "cut short: expected 256 bytes of data, found 250"),
        (b"\0\0\x08\1\0\0\0\3" + b"abcd", "expected 3 bytes of data, found more"),
        (b"\0\0\x08\1\0\1\0\0" + b"abcd", "declares 65,536 bytes, which its 12 bytes cannot hold"),
        (gzip.compress(b"\0\0\x08\1\3\0\0\0abcd", mtime=0), r"declares 50,331,648 bytes, which its \d+ bytes cannot"),
        (gzip.compress(idx(pixels(30, 9)), mtime=0)[:-60], "cannot be read: Compressed file ended"),
    ],
)
def test_broken_files(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_idx(path)
    assert str(path) in str(caught.value)


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(idx(np.zeros(8, np.uint8)) + bytes(50_000_000)))
    with pytest.raises(DataError, match="expected 8 bytes of data, found more"):
        read_idx(path)


def test_counts_must_agree(tmp_path: Path) -> None:
    write(tmp_path, "train", pixels(9, 4, 5), digits(8))
    with pytest.raises(DataError, match="idx3-ubyte has 9 images, but train-labels-idx1-ubyte 8 labels"):
        load(tmp_path)


def test_a_missing_half_is_named(tmp_path: Path) -> None:
    write(tmp_path, "train", pixels(9, 4, 5), digits(9))
    (tmp_path / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match="train-images-idx3-ubyte is there, but not its labels"):
        load(tmp_path)


def test_one_class_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "train", pixels(9, 4, 5), digits(9) * 0)
    with pytest.raises(DataError, match="at least two classes"):
        load(tmp_path)


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
def test_mutated_files_are_data_or_a_data_error(tmp_path: Path, packed: bool) -> None:
    write(tmp_path, "train", pixels(12, 3, 3), digits(12), packed)
    good = {path: path.read_bytes() for path in tmp_path.iterdir()}
    rng = np.random.default_rng(1)
    refused = 0
    for round_ in range(1000):
        path = list(good)[round_ % 2]
        path.write_bytes(mutate(good[path], rng))
        try:
            assert load(tmp_path).judge.shape
        except DataError:
            refused += 1
        path.write_bytes(good[path])
    assert refused > 200


def mutate(content: bytes, rng: np.random.Generator) -> bytes:
    """One to three changes: bits flipped (early bytes more often), cut, or grown."""
    data = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        place = int(len(data) * rng.random() ** 2)
        kind = rng.integers(6)
        if kind == 0:
            del data[place:]
        elif kind == 1:
            data[place:place] = rng.bytes(int(rng.integers(1, 9)))
        elif data:
            data[min(place, len(data) - 1)] = int(rng.integers(256))
    return bytes(data)


@pytest.mark.skipif(not MNIST.is_dir(), reason="the MNIST files are not on this machine")
def test_mnist_itself() -> None:
    split = load(MNIST)
    assert split.train is not None
    assert split.train.images.shape == (60_000, 1, 28, 28)
    assert split.judge.images.shape == (10_000, 1, 28, 28)
    assert np.bincount(split.train.labels)[:3].tolist() == [5923, 6742, 5958]
    mean, std = split.train.mean_std()
    assert mean == pytest.approx((0.1307,), abs=1e-4)
    assert std == pytest.approx((0.3081,), abs=1e-4)
