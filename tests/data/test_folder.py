"""Folders of images: layouts, order, colour, sizes, and files that are no images."""

from __future__ import annotations

import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rarefy.data import decode as room
from rarefy.data import load
from rarefy.errors import DataError

RNG = np.random.default_rng(0)
CIFAR = Path(__file__).parents[2] / "../shared/data/cifar10.tar.xz"


def picture(path: Path, width: int = 6, height: int = 4, mode: str = "RGB", **options: Any) -> np.ndarray:
    """Write a random picture; give back its pixels (H, W) or (H, W, 3)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (height, width) if mode == "L" else (height, width, 3)
    pixels = RNG.integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return pixels


def test_train_and_test(tmp_path: Path) -> None:
    cat = picture(tmp_path / "train/cat/1.png")
    dog = picture(tmp_path / "train/dog/1.png")
    last = picture(tmp_path / "test/dog/x.png")
    split = load(tmp_path)
    assert split.train is not None
    assert split.train.classes == split.judge.classes == ("cat", "dog")
    assert np.array_equal(split.train.images, np.stack([cat, dog]).transpose(0, 3, 1, 2))
    assert split.train.names == ("cat/1.png", "dog/1.png")
    assert np.array_equal(split.judge.images[0], last.transpose(2, 0, 1))
    assert split.judge.labels.tolist() == [1]
    assert split.judge.names == ("dog/x.png",)


@pytest.mark.parametrize("name", ["val", "valid", "validation", "Test"])
def test_other_names_of_the_test_set(tmp_path: Path, name: str) -> None:
    for place in ("train/a/1.png", "train/b/1.png", f"{name}/a/1.png"):
        picture(tmp_path / place)
    assert len(load(tmp_path).judge) == 1


def test_only_a_test_set(tmp_path: Path) -> None:
    picture(tmp_path / "test/a/1.png")
    picture(tmp_path / "test/b/1.png")
    split = load(tmp_path)
    assert split.train is None
    assert len(split.judge) == 2


@pytest.mark.parametrize("prefix", ["", "train/"])
def test_without_a_test_set_one_in_five_is_held_out(tmp_path: Path, prefix: str) -> None:
    for label in ("a", "b"):
        for i in range(10):
            picture(tmp_path / f"{prefix}{label}/{i}.png")
    split = load(tmp_path, seed=3)
    assert split.train is not None
    assert (len(split.train), len(split.judge)) == (16, 4)
    assert "held out (seed 3)" in split.description


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    for i in range(5):
        picture(tmp_path / f"car/{i}.png")
        picture(tmp_path / f"train/{i}.png")
    assert load(tmp_path).judge.classes == ("car", "train")


def test_natural_order(tmp_path: Path) -> None:
    for label in ("class10", "class9", "Class1", ".hidden"):
        for name in ("img10.png", "img2.png", "notes.txt", "._img1.png"):
            picture(tmp_path / "test" / label / (name if name.endswith("png") else "img1.png"))
            (tmp_path / "test" / label / "notes.txt").write_text("no image")
    judge = load(tmp_path).judge
    assert judge.classes == ("Class1", "class9", "class10")
    assert judge.names is not None
    assert judge.names[:3] == ("Class1/img1.png", "Class1/img2.png", "Class1/img10.png")


def test_grey_only_if_all_are(tmp_path: Path) -> None:
    grey = picture(tmp_path / "test/a/1.png", mode="L")
    picture(tmp_path / "test/b/1.png", mode="L")
    judge = load(tmp_path).judge
    assert judge.shape == (1, 4, 6)
    assert np.array_equal(judge.images[0, 0], grey)
    picture(tmp_path / "train/a/1.png", mode="L")
    colour = picture(tmp_path / "train/b/1.png")
    split = load(tmp_path)
    assert split.train is not None
    assert np.array_equal(split.train.images[1], colour.transpose(2, 0, 1))
    assert np.array_equal(split.judge.images[0], np.stack([grey] * 3))


@pytest.mark.parametrize("mode", ["1", "LA", "P", "RGBA", "CMYK", "L"])
def test_modes(tmp_path: Path, mode: str) -> None:
    suffix = "jpg" if mode == "CMYK" else "png"
    for label in "ab":
        (tmp_path / "test" / label).mkdir(parents=True)
        options: dict[str, Any] = {"transparency": b"\0\1\2"} if mode == "P" else {}
        Image.new(mode, (6, 4), 1 if mode in ("1", "L", "P") else None).save(
            tmp_path / f"test/{label}/1.{suffix}", **options
        )
    channels = 1 if mode in ("1", "L", "LA") else 3
    assert load(tmp_path).judge.shape == (channels, 4, 6)


def test_exif_orientation(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    pixels = picture(tmp_path / "test/a/1.png", exif=exif)
    picture(tmp_path / "test/b/1.png", width=4, height=6)
    assert np.array_equal(load(tmp_path).judge.images[0], np.rot90(pixels, -1).transpose(2, 0, 1))


def test_different_sizes_are_named(tmp_path: Path) -> None:
    picture(tmp_path / "test/a/1.png")
    picture(tmp_path / "test/b/1.png", width=9)
    with pytest.raises(DataError, match=r"a/1.png is 6x4, .*b/1.png is 9x4 .*; pass resize .* and crop"):
        load(tmp_path)
    with pytest.raises(DataError, match=r"a/1.png is 12x8, .*b/1.png is 18x8"):
        load(tmp_path, resize=8)


def test_resize_and_crop(tmp_path: Path) -> None:
    picture(tmp_path / "test/a/1.png", width=30, height=20)
    picture(tmp_path / "test/b/1.png", width=11, height=17)
    judge = load(tmp_path, resize=10, crop=8).judge
    whole = Image.open(tmp_path / "test/a/1.png").resize((15, 10), Image.Resampling.BICUBIC)
    expected = np.asarray(whole)[1:9, 4:12]  # (15 - 8) / 2 = 3.5, rounded to even
    assert judge.shape == (3, 8, 8)
    assert np.array_equal(judge.images[0], expected.transpose(2, 0, 1))


def test_a_crop_that_is_too_large(tmp_path: Path) -> None:
    picture(tmp_path / "test/a/1.png")
    picture(tmp_path / "test/b/1.png")
    with pytest.raises(DataError, match=r"2 of 2 .*\n.*6x4 is smaller than crop=5; pass resize=5 or more"):
        load(tmp_path, crop=5)


def test_unreadable_files_are_listed(tmp_path: Path) -> None:
    for i in range(9):
        picture(tmp_path / f"test/{'ab'[i % 2]}/{i}.png")
    for i in range(7):
        path = tmp_path / f"test/{'ab'[i % 2]}/{i}.png"
        path.write_bytes(path.read_bytes()[: 20 * i])
    with pytest.raises(DataError, match="7 of 9 images cannot be used") as caught:
        load(tmp_path)
    lines = str(caught.value).splitlines()
    assert len(lines) == 1 + 5 + 1
    assert "a/0.png: UnidentifiedImageError" in lines[1]
    assert lines[-1] == "  and 2 more"


def test_deep_pixels_are_refused(tmp_path: Path) -> None:
    picture(tmp_path / "test/a/1.png")
    picture(tmp_path / "test/b/1.png")
    Image.fromarray(np.zeros((4, 6), np.uint16)).save(tmp_path / "test/b/2.png")
    with pytest.raises(DataError, match=r"b/2.png: more than 8 bits for each channel \(mode I;16\)"):
        load(tmp_path)


@pytest.mark.parametrize("small", [0, 10_000], ids=["threads", "alone"])
def test_bombs_are_refused(tmp_path: Path, small: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)  # over it a warning, over twice as much an error
    monkeypatch.setattr(room, "_SMALL", small)
    picture(tmp_path / "test/a/1.png")
    picture(tmp_path / "test/b/1.png", width=12)
    before = list(warnings.filters)
    with pytest.raises(DataError, match=r"DecompressionBombWarning(.|\n)*DecompressionBombError"):
        load(tmp_path)
    assert list(warnings.filters) == before


def test_threads_keep_the_order_and_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = [picture(tmp_path / f"test/{'ab'[i // 40]}/{i}.png", mode="L") for i in range(80)]
    alone = load(tmp_path).judge.images
    monkeypatch.setattr(room, "_SMALL", 0)
    assert np.array_equal(load(tmp_path).judge.images, alone)
    assert np.array_equal(alone[:, 0], np.stack(written))
    picture(tmp_path / "test/a/0.png", width=9)
    before = list(warnings.filters)
    with pytest.raises(DataError, match="different sizes") as caught:
        load(tmp_path)
    assert not [thread.name for thread in threading.enumerate() if "ThreadPool" in thread.name]
    assert list(warnings.filters) == before
    assert caught.tb  # as long as it is held, so are the frames: nothing above was tidied by chance


def test_folders_without_what_they_need(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected a folder for each class with images in it, found no folder"):
        load(tmp_path)
    picture(tmp_path / "cats/1.png")
    with pytest.raises(DataError, match="two classes or more, found only the folder 'cats'"):
        load(tmp_path)
    (tmp_path / "dogs").mkdir()
    with pytest.raises(DataError, match=r"dogs: this class has no image \(\.bmp, "):
        load(tmp_path)


def test_a_class_only_in_the_test_set(tmp_path: Path) -> None:
    for place in ("train/a/1.png", "train/b/1.png", "test/c/1.png"):
        picture(tmp_path / place)
    with pytest.raises(DataError, match="test/c: no such class to train on; there are: a, b"):
        load(tmp_path)


@pytest.mark.skipif(not CIFAR.is_file(), reason="the CIFAR-10 archive is not on this machine")
def test_some_of_cifar_10(tmp_path: Path) -> None:
    import itertools
    import tarfile

    with tarfile.open(CIFAR) as archive:
        for member in itertools.islice(archive, 6000):
            if member.name.endswith(("0001.jpg", "0002.jpg")):
                archive.extract(member, tmp_path, filter="data")
    split = load(tmp_path)
    assert split.judge.shape == (3, 32, 32)
