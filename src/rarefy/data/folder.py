"""Images in folders named by their class, with a test set beside the training set or without one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from rarefy.data.decode import decode_all
from rarefy.data.images import Images, Split, hold_out
from rarefy.errors import DataError

_JUDGE = ("test", "val", "valid", "validation")
_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


def load_folder(root: Path, *, resize: int | None = None, crop: int | None = None, seed: int = 0) -> Split:
    """`train/CLASS/IMAGE` with `test|val|valid|validation/CLASS/IMAGE` (or either), or `CLASS/IMAGE`.

    Classes and files are in natural order (img2 before img10). Raises `DataError`.
    """
    parts = {child.name.lower(): child for child in _folders(root) if any(_folders(child))}
    train = parts.get("train")
    judge = next((parts[name] for name in _JUDGE if name in parts), None)
    if judge is None:
        only = train or root
        return hold_out(_load([only], resize, crop)[0], seed, f"images in {only}")
    if train is None:
        return Split(None, _load([judge], resize, crop)[0], f"images in {judge}")
    made = _load([train, judge], resize, crop)
    return Split(made[0], made[1], f"images in {train} and {judge}")


def _load(parts: list[Path], resize: int | None, crop: int | None) -> list[Images]:
    """The images of each part, decoded together so that grey or colour is decided for all."""
    classes = _classes(parts[0])
    files = [_files(part, classes) for part in parts]
    everything = [path for part in files for path, _ in part]
    pixels = decode_all(everything, resize=resize, crop=crop)
    made, start = [], 0
    for root, part in zip(parts, files, strict=True):
        labels = np.array([label for _, label in part], dtype=np.int64)
        names = tuple(path.relative_to(root).as_posix() for path, _ in part)
        made.append(Images(pixels[start : start + len(part)], labels, classes, names))
        start += len(part)
    return made


def _classes(part: Path) -> tuple[str, ...]:
    classes = tuple(folder.name for folder in _folders(part))
    if not classes:
        raise DataError(f"{part}: expected a folder for each class with images in it, found no folder")
    if len(classes) == 1:
        raise DataError(f"{part}: expected two classes or more, found only the folder {classes[0]!r}")
    return classes


def _files(part: Path, classes: tuple[str, ...]) -> list[tuple[Path, int]]:
    """Every image of `part` with its label, class by class."""
    found: list[tuple[Path, int]] = []
    for folder in _folders(part):
        if folder.name not in classes:
            raise DataError(f"{folder}: no such class to train on; there are: {', '.join(classes)}")
        files = sorted((path for path in folder.iterdir() if _is_image(path)), key=_natural)
        if not files:
            raise DataError(f"{folder}: this class has no image ({', '.join(_SUFFIXES)})")
        label = classes.index(folder.name)
        found += [(path, label) for path in files]
    return found


def _folders(parent: Path) -> Iterator[Path]:
    visible = (child for child in parent.iterdir() if not child.name.startswith("."))
    yield from sorted(filter(Path.is_dir, visible), key=_natural)


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in _SUFFIXES and not path.name.startswith(".") and path.is_file()


def _natural(path: Path) -> list[tuple[int, int, str]]:
    """A key that orders runs of digits by their value; the exact name breaks ties."""
    pieces = re.findall(r"(\d+)|(\D+)", path.name)
    key = [(0, int(digits), "") if digits else (1, 0, word.lower()) for digits, word in pieces]
    return [*key, (2, 0, path.name)]
