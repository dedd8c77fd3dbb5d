"""The IDX files of MNIST and its relatives, gzipped or not.

A file is 0, 0, a type (8: unsigned byte), the number of axes, each axis as a big-endian 32-bit number, and
then the bytes. http://yann.lecun.com/exdb/mnist. Images have three axes (grey) or four (with channels).
"""

from __future__ import annotations

import gzip
import math
import re
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rarefy.data.arrays import channels_first, labels_of, numbered_classes
from rarefy.data.bounded import Reader, check_size, read_exactly
from rarefy.data.images import Images, Split, hold_out
from rarefy.errors import DataError

_NAME = re.compile(r"(?P<part>train|t10k|test)-(?P<kind>images|labels)[-.]idx[134]-ubyte(\.gz)?")


def is_idx(folder: Path) -> bool:
    """Whether any file in `folder` is named as MNIST's are."""
    return any(_NAME.fullmatch(path.name) for path in folder.iterdir())


def load_idx(folder: Path, seed: int = 0) -> Split:
    """`train-images-idx3-ubyte(.gz)`, `train-labels-...`; the same with `t10k-` or `test-` to judge on."""
    parts: dict[str, dict[str, Path]] = {"train": {}, "judge": {}}
    for path in sorted(folder.iterdir(), reverse=True):  # so that the plain file wins over its .gz
        if match := _NAME.fullmatch(path.name):
            parts["train" if match["part"] == "train" else "judge"][match["kind"]] = path
    arrays = {part: _pair(files, folder) for part, files in parts.items() if files}
    classes = numbered_classes(*(labels for _, labels in arrays.values()))
    made = {part: Images(images, labels, classes) for part, (images, labels) in arrays.items()}
    if "judge" not in made:
        return hold_out(made["train"], seed, f"IDX files in {folder}")
    return Split(made.get("train"), made["judge"], f"IDX files in {folder}")


def read_idx(path: Path) -> NDArray[np.uint8]:
    """One IDX file of unsigned bytes as an array of the shape it declares, checked against its size."""
    try:
        stored = path.stat().st_size
        with path.open("rb") as file:
            compressed = file.read(2) == b"\x1f\x8b"
        with gzip.open(path) if compressed else path.open("rb") as stream:
            shape = _shape(stream, path)
            check_size(math.prod(shape), stored, compressed=compressed, where=str(path))
            return read_exactly(stream, math.prod(shape), str(path)).reshape(shape)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None


def _shape(stream: Reader, path: Path) -> tuple[int, ...]:
    head = stream.read(4)
    if len(head) < 4 or head[:3] != b"\0\0\x08" or not 1 <= head[3] <= 4:
        raise DataError(f"{path}: not an IDX file of bytes: expected 00 00 08 and 1 to 4 axes, found {head.hex(' ')}")
    axes = stream.read(4 * head[3])
    if len(axes) < 4 * head[3]:
        raise DataError(f"{path}: expected {head[3]} axes, but the file ends in its header")
    return struct.unpack(f">{head[3]}I", axes)


def _pair(files: dict[str, Path], folder: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    if len(files) < 2:
        (found,) = files.values()
        raise DataError(f"{folder}: {found.name} is there, but not its {'labels' if 'images' in files else 'images'}")
    images = channels_first(read_idx(files["images"]), str(files["images"]))
    labels = labels_of(read_idx(files["labels"]), str(files["labels"]))
    if len(images) != len(labels):
        raise DataError(
            f"{folder}: {files['images'].name} has {len(images)} images, "
            f"but {files['labels'].name} {len(labels)} labels"
        )
    return images, labels
