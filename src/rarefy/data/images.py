"""Images with labels, as plain arrays: the one form in which every source hands them over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rarefy.errors import DataError

_CHUNK = 1 << 24  # values looked at together where a sum runs over all images


@dataclass(frozen=True, eq=False)
class Images:
    """`images` (N, C, H, W) uint8 with `labels` (N,) int64 into `classes`; `names` of the files, if any."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.dtype != np.uint8 or 0 in self.images.shape:
            raise DataError(
                "images must be a uint8 array (N, C, H, W) with at least one image, "
                f"not {self.images.dtype} {self.images.shape}"
            )
        count = len(self.images)
        if self.labels.shape != (count,) or self.labels.dtype != np.int64:
            raise DataError(
                f"labels must be an int64 array ({count},), one for each image, "
                f"not {self.labels.dtype} {self.labels.shape}"
            )
        if self.names is not None and len(self.names) != count:
            raise DataError(f"{count} images need {count} names, not {len(self.names)}")
        if len(self.classes) < 2:
            raise DataError(f"there must be at least two classes to tell apart, not {list(self.classes)}")
        low, high = int(self.labels.min()), int(self.labels.max())
        if low < 0 or high >= len(self.classes):
            raise DataError(f"labels must be 0 to {len(self.classes) - 1}, found {low} to {high}")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of every image."""
        _, channels, height, width = self.images.shape
        return channels, height, width

    def subset(self, indices: NDArray[np.integer] | Sequence[int]) -> Images:
        """The images at `indices`, in that order, with the same classes."""
        chosen = np.asarray(indices, dtype=np.int64)
        names = None if self.names is None else tuple(self.names[i] for i in chosen)
        return Images(self.images[chosen], self.labels[chosen], self.classes, names)

    def mean_std(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each channel on the scale 0 to 1, exact sums taken in chunks."""
        channels, height, width = self.shape
        total = np.zeros(channels, dtype=np.int64)
        squares = np.zeros(channels, dtype=np.int64)
        step = max(1, _CHUNK // (channels * height * width))
        for start in range(0, len(self), step):
            chunk = self.images[start : start + step]
            total += chunk.sum(axis=(0, 2, 3), dtype=np.int64)
            squares += np.square(chunk, dtype=np.uint16).sum(axis=(0, 2, 3), dtype=np.int64)
        count = len(self) * height * width
        mean = total / count
        std = np.sqrt(np.maximum(squares / count - mean**2, 0.0))
        return tuple((mean / 255).tolist()), tuple((std / 255).tolist())

    def split(self, fraction: float, seed: int = 0) -> tuple[Images, Images]:
        """(rest, held out): `fraction` of the images of every class is held out, chosen by `seed`.

        The held-out total is round(fraction * N), shared among the classes by largest remainder; a class
        of two or more images gives at least one and keeps at least one, a single image stays in the rest.
        """
        if not 0 < fraction < 1:
            raise DataError(f"the fraction to hold out must be between 0 and 1, not {fraction}")
        counts = np.bincount(self.labels, minlength=len(self.classes))
        if counts.max() < 2:
            raise DataError(
                f"nothing can be held out of {len(self)} images, one for each class; give more of each, "
                "or put the images to judge on in a place of their own (such as a folder test/)"
            )
        # the raw stream of a bit generator is promised to stay, and so does the split of a seed
        shuffled = np.argsort(np.random.PCG64(seed).random_raw(len(self)), kind="stable")
        by_class = shuffled[np.argsort(self.labels[shuffled], kind="stable")]
        rank = np.arange(len(self)) - np.repeat(np.cumsum(counts) - counts, counts)
        held = np.zeros(len(self), dtype=bool)
        held[by_class] = rank < np.repeat(_shares(counts, fraction), counts)
        return self.subset(np.flatnonzero(~held)), self.subset(np.flatnonzero(held))


@dataclass(frozen=True, eq=False)
class Split:
    """What to train on (`None`: nothing given) and what to judge on, and in words where it came from."""

    train: Images | None
    judge: Images
    description: str

    def __post_init__(self) -> None:
        if self.train is None:
            return
        if self.train.shape != self.judge.shape:
            raise DataError(
                f"images to train on are {_by(self.train.shape)}, but those to judge on are "
                f"{_by(self.judge.shape)} (channels x height x width); they must be alike"
            )
        if self.train.classes != self.judge.classes:
            raise DataError("images to train on and to judge on must have the same classes")


def hold_out(images: Images, seed: int, origin: str) -> Split:
    """The split for data that brings none: one image in five to judge on."""
    train, judge = images.split(0.2, seed)
    words = f"{origin}: no test set, so one image in five of each class is held out (seed {seed})"
    return Split(train, judge, words)


def _shares(counts: NDArray[np.int64], fraction: float) -> NDArray[np.int64]:
    """How many of each class to hold out: largest remainder, then kept within 1 and count - 1."""
    quota = counts * fraction
    shares = np.floor(quota).astype(np.int64)
    missing = round(fraction * int(counts.sum())) - int(shares.sum())
    shares[np.argsort(shares - quota, kind="stable")[: max(missing, 0)]] += 1
    most = np.maximum(counts - 1, 0)
    clipped: NDArray[np.int64] = shares.clip(np.minimum(most, 1), most)
    return clipped


def _by(shape: tuple[int, int, int]) -> str:
    return "x".join(map(str, shape))
