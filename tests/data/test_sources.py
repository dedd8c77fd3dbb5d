"""The one door to all data, the embedded digits, and what importing costs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import rarefy.data as room
from rarefy.data import digits, load
from rarefy.errors import DataError


def test_the_embedded_digits() -> None:
    split = digits()
    assert split.train is not None
    assert split.train.images.shape == (1297, 1, 8, 8)
    assert split.judge.images.shape == (500, 1, 8, 8)
    levels = np.unique(split.train.images)
    assert np.array_equal(levels, np.rint(np.arange(17) * 255 / 16))  # 17 levels, as in the original
    counts = np.bincount(split.train.labels), np.bincount(split.judge.labels)
    original = [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert (counts[0] + counts[1]).tolist() == original
    assert np.abs(counts[1] - np.array(original) * 500 / 1797).max() < 1


def test_no_digit_is_in_both_halves() -> None:
    split = digits()
    assert split.train is not None
    train, judge = ({image.tobytes() for image in half.images} for half in (split.train, split.judge))
    assert not train & judge


def test_digits_by_name_wins_over_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "digits").mkdir()
    monkeypatch.chdir(tmp_path)
    assert len(load("digits").judge) == 500
    with pytest.raises(DataError, match="found no folder"):
        load("./digits")


def test_the_licence_is_beside_the_data() -> None:
    folder = Path(room.__file__).parent
    text = (folder / "digits.LICENSE.txt").read_text(encoding="utf-8")
    for word in ("Alpaydin", "Kaynak", "CC BY 4.0", "What was changed", "10.24432/C50P49"):
        assert word in text
    assert (folder / "digits.npz").stat().st_size < 100_000


@pytest.mark.parametrize("name", ["nothing", "file.txt"])
def test_what_is_no_data(tmp_path: Path, name: str) -> None:
    (tmp_path / "file.txt").write_text("words")
    with pytest.raises(DataError) as caught:
        load(tmp_path / name)
    for form in ("digits", "CLASS/IMAGE", "idx3-ubyte", ".npz", name):
        assert form in str(caught.value)


def test_resize_is_for_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="digits: resize and crop are for folders of images"):
        load("digits", crop=8)
    with pytest.raises(DataError, match="resize is in pixels, at least 1, not 0"):
        load(tmp_path, resize=0)


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        load(tmp_path / ("x" * 300))


def test_names_and_a_lean_import() -> None:
    assert all(getattr(room, name) is not None for name in room.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = room.nothing
    code = "import sys, rarefy.data; rarefy.data.load('digits'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
