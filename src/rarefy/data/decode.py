"""Image files into one uint8 array; large ones by a few threads, as Pillow decodes outside the lock."""

from __future__ import annotations

import os
import warnings
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from rarefy.errors import DataError

_GREY = ("1", "L", "LA")
_DEEP = ("I", "F")  # first letters of the modes with more than 8 bits
_SHOWN = 5
_SMALL = 10_000  # bytes of a file; below, threads that wait for the lock take longer than one alone


def decode_all(paths: Sequence[Path], *, resize: int | None, crop: int | None) -> NDArray[np.uint8]:
    """(N, C, H, W) in the order of `paths`: grey (C = 1) only if every file is, else RGB.

    Raises `DataError` for files that cannot be decoded (the first few and their number) and for files whose
    sizes differ (two of them).
    """
    with closing(_decoded(paths, resize, crop)) as decoded:
        return _gather(paths, decoded)


def _gather(paths: Sequence[Path], decoded: Iterator[NDArray[np.uint8] | str]) -> NDArray[np.uint8]:
    out = np.empty((0, 3, 0, 0), dtype=np.uint8)
    unreadable: list[str] = []
    first: Path | None = None  # the file whose size the others must have
    grey = True
    for i, (path, pixels) in enumerate(zip(paths, decoded, strict=True)):
        if isinstance(pixels, str):
            unreadable.append(f"{path}: {pixels}")
            continue
        if first is None:
            first, out = path, np.empty((len(paths), 3, *pixels.shape[:2]), dtype=np.uint8)
        if pixels.shape[:2] != out.shape[2:]:
            raise _sizes_differ(first, out.shape[2:], path, pixels.shape[:2])
        grey &= pixels.ndim == 2
        out[i] = pixels if pixels.ndim == 2 else pixels.transpose(2, 0, 1)  # (H, W) fills all 3
    if unreadable:
        more = f"\n  and {len(unreadable) - _SHOWN} more" if len(unreadable) > _SHOWN else ""
        listed = "\n  ".join(unreadable[:_SHOWN])
        raise DataError(f"{len(unreadable)} of {len(paths)} images cannot be used:\n  {listed}{more}")
    return out[:, :1].copy() if grey else out


def decode(path: Path, *, resize: int | None, crop: int | None) -> NDArray[np.uint8] | str:
    """(H, W) for a grey file, (H, W, 3) for colour, upright as its EXIF says; or why it cannot be used."""
    try:
        with Image.open(path) as file:
            if file.mode.startswith(_DEEP):
                return f"more than 8 bits for each channel (mode {file.mode}); save it with 8"
            image = ImageOps.exif_transpose(file)
            if image.mode == "P":
                image = image.convert("RGBA")  # a palette may hold transparency, which RGB alone cannot take
            image = image.convert("L" if image.mode in _GREY else "RGB")
            image = image if resize is None else _shorter_side(image, resize)
            image = image if crop is None else _centre(image, crop)
            return np.asarray(image)
    except Exception as error:  # decoders of hostile bytes raise anything; all are listed
        return f"{type(error).__name__}: {error}".replace(str(path), path.name)


def _decoded(paths: Sequence[Path], resize: int | None, crop: int | None) -> Generator[NDArray[np.uint8] | str]:
    work = partial(decode, resize=resize, crop=crop)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # remarks on odd metadata; what matters is an error below
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        if sum(path.stat().st_size for path in paths[:100]) < _SMALL * len(paths[:100]):
            yield from map(work, paths)
            return
        pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
        try:
            yield from pool.map(work, paths)
        finally:
            pool.shutdown(cancel_futures=True)


def _shorter_side(image: Image.Image, side: int) -> Image.Image:
    scale = side / min(image.size)
    width, height = (max(side, int(length * scale)) for length in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def _centre(image: Image.Image, side: int) -> Image.Image:
    if side > min(image.size):
        raise DataError(f"{image.width}x{image.height} is smaller than crop={side}; pass resize={side} or more")
    left, top = (round((length - side) / 2) for length in image.size)
    return image.crop((left, top, left + side, top + side))


def _sizes_differ(first: Path, size: Sequence[int], other: Path, found: Sequence[int]) -> DataError:
    return DataError(
        f"images have different sizes: {first} is {size[1]}x{size[0]}, {other} is {found[1]}x{found[0]} "
        "(width x height); pass resize (shorter side) and crop (centre) in pixels"
    )
