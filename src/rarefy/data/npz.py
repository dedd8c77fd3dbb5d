"""NumPy archives: `x_train`, `y_train`, `x_test`, `y_test`, or `images` and `labels`.

The container is read here and not by `numpy.load`, which allocates whatever a header declares.
"""

from __future__ import annotations

import math
import re
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rarefy.data.arrays import channels_first, grey_levels, labels_of, numbered_classes
from rarefy.data.bounded import Reader, check_size, read_exactly
from rarefy.data.images import Images, Split, hold_out
from rarefy.errors import DataError

_PARTS = {"train": ("x_train", "y_train"), "judge": ("x_test", "y_test"), "all": ("images", "labels")}
_HEADER = re.compile(
    r"\{'descr': '([<>|=]?[uif][1248])', 'fortran_order': (True|False), 'shape': \(([\d, ]*)\),? ?\}\s*"
)
# zipfile's errors for broken archives, for encryption (RuntimeError), for names that are no text (ValueError)
_BROKEN = (OSError, EOFError, zlib.error, struct.error, zipfile.BadZipFile, RuntimeError, ValueError)
_LONGEST_HEADER = 10_000


def load_npz(path: Path, seed: int = 0) -> Split:
    """`x_train`, `y_train`, `x_test`, `y_test` (or one pair), or `images` and `labels`, which are split."""
    try:
        with zipfile.ZipFile(path) as archive:
            arrays = _arrays(archive, path)
    except _BROKEN as error:
        raise DataError(f"{path}: not a readable .npz archive: {error}") from None
    classes = numbered_classes(*(labels for _, labels in arrays.values()))
    made = {part: Images(images, labels, classes) for part, (images, labels) in arrays.items()}
    if "judge" in made:
        return Split(made.get("train"), made["judge"], f"arrays in {path}")
    return hold_out(made["train" if "train" in made else "all"], seed, f"arrays in {path}")


def _arrays(archive: zipfile.ZipFile, path: Path) -> dict[str, tuple[NDArray[np.uint8], NDArray[np.int64]]]:
    members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
    found: dict[str, tuple[NDArray[np.uint8], NDArray[np.int64]]] = {}
    for part, keys in _PARTS.items():
        missing = [key for key in keys if key not in members]
        if len(missing) == 1:
            raise DataError(f"{path}: expected {keys[0]} and {keys[1]}, but {missing[0]} is missing")
        if missing or (part == "all" and found):
            continue
        x, y = (_read(archive, members[key], f"{path}: {key}") for key in keys)
        images = grey_levels(channels_first(x, f"{path}: {keys[0]}"), f"{path}: {keys[0]}")
        labels = labels_of(y, f"{path}: {keys[1]}")
        if len(images) != len(labels):
            raise DataError(f"{path}: {keys[0]} has {len(images)} images but {keys[1]} {len(labels)} labels")
        found[part] = images, labels
    if not found:
        raise DataError(
            f"{path}: expected x_train, y_train, x_test, y_test, or images and labels; "
            f"found {', '.join(members) or 'nothing'}"
        )
    return found


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo, where: str) -> NDArray[Any]:
    compressed = info.compress_type == zipfile.ZIP_DEFLATED
    if not compressed and info.compress_type != zipfile.ZIP_STORED:
        raise DataError(f"{where}: compressed in a way NumPy does not write (method {info.compress_type})")
    check_size(info.file_size, info.compress_size, compressed=compressed, where=where)
    with archive.open(info) as stream:
        dtype, fortran, shape, left = _header(stream, info.file_size, where)
        declared = math.prod(shape) * dtype.itemsize
        if declared != left:
            raise DataError(f"{where}: {dtype} {shape} takes {declared:,} bytes, but {left:,} are there")
        array = read_exactly(stream, left, where).view(dtype)
    return array.reshape(shape, order="F" if fortran else "C")


def _header(stream: Reader, size: int, where: str) -> tuple[np.dtype[Any], bool, tuple[int, ...], int]:
    """The element type, whether columns come first, the shape, and how many bytes of the member are left.

    https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html, versions 1 to 3.
    """
    start = stream.read(8)
    if start[:6] != b"\x93NUMPY" or len(start) < 8 or not 1 <= start[6] <= 3:
        raise DataError(f"{where}: not a NumPy array (.npy, versions 1 to 3)")
    width = 2 if start[6] == 1 else 4
    length = int.from_bytes(stream.read(width), "little")
    if length > min(_LONGEST_HEADER, size):
        raise DataError(f"{where}: a header of {length:,} bytes is not one of a plain array")
    text = stream.read(length).decode("latin-1")
    match = _HEADER.fullmatch(text)
    if match is None:
        raise DataError(f"{where}: expected plain integers or floats, found {text.strip()[:120]!r}")
    try:
        dtype = np.dtype(match[1])
        shape = tuple(int(axis) for axis in match[3].split(",") if axis.strip())
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: {error} in {text.strip()[:120]!r}") from None
    return dtype, match[2] == "True", shape, size - 8 - width - length
