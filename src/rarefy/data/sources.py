"""One door to all data: finds out which form `path` has."""

from __future__ import annotations

from pathlib import Path

from rarefy.data.embedded import digits
from rarefy.data.folder import load_folder
from rarefy.data.idx import is_idx, load_idx
from rarefy.data.images import Split
from rarefy.data.npz import load_npz
from rarefy.errors import DataError

_FORMS = """one of
  digits                 the embedded handwritten digits
  a folder of images     train/CLASS/IMAGE with test/CLASS/IMAGE, or CLASS/IMAGE
  a folder of IDX files  train-images-idx3-ubyte(.gz), train-labels-idx1-ubyte(.gz), t10k-...
  FILE.npz               x_train, y_train, x_test, y_test, or images and labels"""


def load(path: str | Path, *, resize: int | None = None, crop: int | None = None, seed: int = 0) -> Split:
    """Images to train and to judge on, from any of the forms the error message lists.

    `resize` (shorter side, bicubic) and `crop` (centre), in pixels, are for folders of images. `seed` chooses
    the images held out where the data brings no test set. Raises `DataError`.
    """
    for name, value in (("resize", resize), ("crop", crop)):
        if value is not None and value < 1:
            raise DataError(f"{name} is in pixels, at least 1, not {value}")
    place = Path(path)
    try:
        if path != "digits" and place.is_dir() and not is_idx(place):
            return load_folder(place, resize=resize, crop=crop, seed=seed)
        if resize is not None or crop is not None:
            raise DataError(f"{path}: resize and crop are for folders of images; these are arrays already")
        return _load_arrays(path, place, seed)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error}") from None


def _load_arrays(path: str | Path, place: Path, seed: int) -> Split:
    if path == "digits":  # the name; a folder that is called so is ./digits
        return digits()
    if place.is_dir():
        return load_idx(place, seed)
    if place.is_file() and place.suffix == ".npz":
        return load_npz(place, seed)
    found = "a file that is none of these forms" if place.exists() else "no such file or folder"
    raise DataError(f"{path}: {found}; data is {_FORMS}")
