"""Images, their subsets, statistics and splits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rarefy.data import Images, Split
from rarefy.data import images as room
from rarefy.errors import DataError

ABC = ("a", "b", "c")


def make(labels: list[int], shape: tuple[int, int, int] = (3, 4, 5), seed: int = 0) -> Images:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (len(labels), *shape), dtype=np.uint8)
    return Images(images, np.array(labels, dtype=np.int64), ABC, tuple(f"{i}.png" for i in range(len(labels))))


def test_subset_keeps_images_labels_and_names_together() -> None:
    images = make([0, 1, 2, 1])
    part = images.subset([3, 0])
    assert len(part) == 2
    assert part.shape == (3, 4, 5)
    assert part.labels.tolist() == [1, 0]
    assert part.names == ("3.png", "0.png")
    assert np.array_equal(part.images, images.images[[3, 0]])


@pytest.mark.parametrize("chunk", [1, 100, 1 << 24])
def test_mean_and_std_match_float64(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_CHUNK", chunk)
    images = make([0, 1, 2] * 7)
    scaled = images.images.astype(np.float64) / 255
    mean, std = images.mean_std()
    assert mean == pytest.approx(scaled.mean(axis=(0, 2, 3)), abs=1e-12)
    assert std == pytest.approx(scaled.std(axis=(0, 2, 3)), abs=1e-12)


def test_constant_images_have_no_deviation() -> None:
    images = Images(np.full((3, 1, 2, 2), 77, np.uint8), np.array([0, 1, 2]), ABC)
    assert images.mean_std() == ((77 / 255,), (0.0,))


@given(
    labels=st.lists(st.integers(0, 2), min_size=4, max_size=60),
    fraction=st.floats(0.05, 0.95),
    seed=st.integers(0, 1000),
)
def test_a_split_is_stratified_and_loses_nothing(labels: list[int], fraction: float, seed: int) -> None:
    images = make(labels, (1, 1, 1))
    rest, held = images.split(fraction, seed)
    assert rest.names is not None
    assert held.names is not None
    assert sorted(rest.names + held.names) == sorted(images.names or ())
    for label in range(3):
        count, taken = labels.count(label), held.labels.tolist().count(label)
        if count < 2:
            assert taken == 0
        else:
            assert 1 <= taken <= count - 1
            assert taken in (1, count - 1) or abs(taken - count * fraction) <= 1
    assert images.split(fraction, seed)[1].names == held.names


def test_the_split_of_a_seed_is_fixed_for_ever() -> None:
    images = make([0, 1, 2] * 10)
    expected = ("3.png", "4.png", "7.png", "8.png", "21.png", "29.png")
    assert images.split(0.2, seed=5)[1].names == expected
    assert images.split(0.2, seed=6)[1].names != expected


def test_the_total_is_exact_and_the_largest_remainder_gets_more() -> None:
    held = make([0] * 12 + [1] * 17 + [2] * 21).split(0.3)[1]  # shares of 3.6, 5.1 and 6.3
    assert np.bincount(held.labels).tolist() == [4, 5, 6]


@pytest.mark.parametrize("fraction", [0, 1, -0.5, float("nan")])
def test_a_fraction_must_leave_something(fraction: float) -> None:
    with pytest.raises(DataError, match="between 0 and 1"):
        make([0, 1, 2, 0]).split(fraction)


def test_one_image_for_each_class_cannot_be_split() -> None:
    with pytest.raises(DataError, match=r"nothing can be held out of 3 images.*a folder test/"):
        make([0, 1, 2]).split(0.2)


GOOD = np.zeros((2, 1, 3, 3), np.uint8)
LABELS = np.array([0, 1])


@pytest.mark.parametrize(
    ("images", "labels", "classes", "names", "message"),
    [
        (GOOD[0], LABELS, ABC, None, r"uint8 array \(N, C, H, W\).*\(1, 3, 3\)"),
        (GOOD.astype(float), LABELS, ABC, None, "not float64"),
        (GOOD[:0], LABELS[:0], ABC, None, "at least one image"),
        (GOOD, LABELS[:1], ABC, None, r"int64 array \(2,\).*\(1,\)"),
        (GOOD, LABELS.astype(np.int32), ABC, None, "not int32"),
        (GOOD, LABELS, ABC, ("a",), "2 images need 2 names, not 1"),
        (GOOD, LABELS * 0, ("a",), None, r"at least two classes.*\['a'\]"),
        (GOOD, LABELS + 2, ABC, None, "labels must be 0 to 2, found 2 to 3"),
        (GOOD, LABELS - 1, ABC, None, "labels must be 0 to 2, found -1 to 0"),
    ],
)
def test_what_does_not_fit_is_refused(
    images: np.ndarray, labels: np.ndarray, classes: tuple[str, ...], names: tuple[str, ...], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        Images(images, labels, classes, names)


def test_both_halves_must_be_alike() -> None:
    train, grey = make([0, 1, 2]), make([0, 1, 2], (1, 4, 5))
    with pytest.raises(DataError, match="3x4x5, but those to judge on are 1x4x5"):
        Split(train, grey, "")
    renamed = Images(train.images, train.labels, ("a", "b", "d"))
    with pytest.raises(DataError, match="same classes"):
        Split(train, renamed, "")
