"""NumPy archives: layouts and types that are told apart, and archives that lie."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rarefy.data import load
from rarefy.errors import DataError

LEVELS = np.random.default_rng(0).integers(0, 256, (12, 5, 6, 3), dtype=np.uint8)
LABELS = np.arange(12) % 3


def save(folder: Path, **arrays: Any) -> Path:
    path = folder / "data.npz"
    np.savez_compressed(path, **arrays)
    return path


def both(folder: Path, images: np.ndarray, labels: np.ndarray = LABELS) -> np.ndarray:
    """The images that come back when `images` are stored as the test set."""
    return load(save(folder, x_test=images, y_test=labels)).judge.images


def test_train_and_test(tmp_path: Path) -> None:
    path = save(tmp_path, x_train=LEVELS, y_train=LABELS[:, None], x_test=LEVELS[:4], y_test=LABELS[:4])
    split = load(path)
    assert split.train is not None
    assert (len(split.train), len(split.judge)) == (12, 4)
    assert split.train.labels.tolist() == LABELS.tolist()
    assert split.train.classes == ("0", "1", "2")


@pytest.mark.parametrize("keys", [("images", "labels"), ("x_train", "y_train")])
def test_one_pair_is_split(tmp_path: Path, keys: tuple[str, str]) -> None:
    split = load(save(tmp_path, **dict(zip(keys, (LEVELS, LABELS), strict=True))))
    assert split.train is not None
    assert (len(split.train), len(split.judge)) == (9, 3)
    assert "held out" in split.description


FIRST = LEVELS.transpose(0, 3, 1, 2)


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        (LEVELS, FIRST),
        (FIRST, FIRST),
        (np.asfortranarray(LEVELS), FIRST),
        (LEVELS[..., 0], FIRST[:, :1]),
        (LEVELS[..., :1], FIRST[:, :1]),
        (LEVELS.astype(">i4"), FIRST),
        (LEVELS.astype(np.int64), FIRST),
        ((LEVELS / 255).astype(np.float32), FIRST),
        (LEVELS / 255.0, FIRST),
        (LEVELS * np.float32(1 / 255) * np.float32(0.999999), FIRST),
    ],
    ids=[
        "last",
        "first",
        "fortran",
        "grey",
        "grey-last",
        "big-endian",
        "int64",
        "float32",
        "float64",
        "below",
    ],
)
def test_layouts_and_types(tmp_path: Path, stored: np.ndarray, expected: np.ndarray) -> None:
    assert np.array_equal(both(tmp_path, stored), expected)


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        (LEVELS[:, :3], r"which axis of \(12, 3, 6, 3\).*both the second and the last"),
        (LEVELS[..., :2], r"which axis of \(12, 5, 6, 2\).*neither"),
        (LEVELS[0, 0], r"expected images \(N, H, W\).*found \(6, 3\)"),
        (LEVELS[:0], "holds no image"),
        (LEVELS.astype(np.int16) + 1, "pixels must be 0 to 255, found 1 to 256"),
        (LEVELS.astype(np.int16) - 1, "pixels must be 0 to 255, found -1"),
        (LEVELS.astype(np.float32), r"float32 pixels must lie in 0 to 1, found 0\.0 to 255\.0; undo"),
        (LEVELS / 255 - 0.5, "must lie in 0 to 1"),
        (np.full(LEVELS.shape, np.nan), "must lie in 0 to 1, found nan"),
        (LEVELS / 256, "whole grey levels k/255"),
    ],
)
def test_pixels_that_are_not(tmp_path: Path, stored: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        both(tmp_path, stored)
    assert "data.npz: x_test" in str(caught.value)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (LABELS[:5], "x_test has 12 images but y_test 5 labels"),
        (LABELS - 1, "labels must be 0 to 99999, found -1 to 1"),
        (LABELS + 99_999, "found 99999 to 100001"),
        (LABELS / 1.0, r"whole numbers, found float64 \(12,\)"),
        (np.eye(12, dtype=int), r"found int64 \(12, 12\)"),
        (LABELS * 0, "at least two classes"),
    ],
)
def test_labels_that_are_not(tmp_path: Path, labels: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        both(tmp_path, LEVELS, labels)


def test_keys_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected x_train, .* or images and labels; found x, y"):
        load(save(tmp_path, x=LEVELS, y=LABELS))
    with pytest.raises(DataError, match="expected x_train and y_train, but y_train is missing"):
        load(save(tmp_path, x_train=LEVELS))


def test_objects_are_never_unpickled(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected plain integers or floats, found .*'|O'"):
        both(tmp_path, np.array([{"a": 1}] * 12, dtype=object))


def npy(descr: str, shape: str, body: bytes) -> bytes:
    head = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head + body


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (
            npy("|u1", "(1000000000, 1000000000)", b"abc"),
            "takes 1,000,000,000,000,000,000 bytes, but 3 are there",
        ),
        (npy("|u1", "(2,)", b"abc"), "takes 2 bytes, but 3 are there"),
        (npy("<f1", "(2,)", b"ab"), "f1"),
        (npy("|u1", "(2, , 3 3)", b"ab"), "invalid literal for int"),
        (b"\x93NUMPY\x09\x00" + bytes(60), "not a NumPy array"),
        (b"PK", "not a NumPy array"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + bytes(60), "a header of 4,294,967,295 bytes"),
    ],
)
def test_members_that_lie(tmp_path: Path, member: bytes, message: str) -> None:
    path = tmp_path / "data.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", member)
        archive.writestr("labels.npy", member)
    with pytest.raises(DataError, match=message):
        load(path)


def test_a_bomb_is_refused_by_what_it_declares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path, images=np.zeros((3, 100, 100), np.uint8), labels=np.arange(3))
    monkeypatch.setattr("rarefy.data.bounded.MOST_BYTES", 30_000)
    with pytest.raises(DataError, match="images: declares 30,128 bytes, more than the 30,000 that are read"):
        load(path)


def test_other_compressions_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("images.npy", npy("|u1", "(2,)", b"ab"))
        archive.writestr("labels.npy", npy("|u1", "(2,)", b"ab"))
    with pytest.raises(DataError, match="method 14"):
        load(path)


@pytest.mark.parametrize("packed", [False, True], ids=["stored", "deflated"])
def test_mutated_archives_are_data_or_a_data_error(tmp_path: Path, packed: bool) -> None:
    buffer = io.BytesIO()
    write = np.savez_compressed if packed else np.savez
    write(buffer, images=LEVELS[..., 0], labels=LABELS.astype(np.uint8))
    path, rng, refused = tmp_path / "data.npz", np.random.default_rng(2), 0
    for _ in range(1000):
        data = bytearray(buffer.getvalue())
        for _ in range(rng.integers(1, 4)):
            data[rng.integers(len(data))] = rng.integers(256)
        path.write_bytes(data if rng.random() < 0.8 else data[: rng.integers(len(data))])
        try:
            assert load(path).judge.shape
        except DataError:
            refused += 1
    assert refused > 250
