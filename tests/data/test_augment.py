"""Augmentation: exact where it can be, the same for a seed, each image by itself."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator, Tensor

from rarefy.data import Augment
from rarefy.errors import DataError, SettingsError

ALL = [
    {"crop": 2},
    {"flip": True},
    {"rotate": 20.0},
    {"scale": 0.2},
    {"cutout": 3},
    {"crop": 2, "flip": True, "rotate": 20.0, "scale": 0.2, "cutout": 3},
]


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def batch(count: int = 8, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    values = torch.randint(1, 256, (count, 3, 7, 9), generator=seeded(seed + 100))
    return values.to(dtype) if dtype == torch.uint8 else (values / 255).to(dtype)


def test_all_off_is_the_identity() -> None:
    images = batch()
    assert torch.equal(Augment()(images, seeded()), images)


@pytest.mark.parametrize("settings", ALL, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.uint8], ids=str)
def test_shape_and_type_stay_and_so_does_the_input(settings: dict[str, float], dtype: torch.dtype) -> None:
    images = batch(dtype=dtype)
    before = images.clone()
    result = Augment(**settings)(images, seeded())
    assert (result.shape, result.dtype) == (images.shape, dtype)
    assert torch.equal(images, before)
    assert not torch.equal(result, images)


@pytest.mark.parametrize("settings", ALL, ids=str)
def test_a_seed_repeats(settings: dict[str, float]) -> None:
    augment, images = Augment(**settings), batch()
    assert torch.equal(augment(images, seeded(1)), augment(images, seeded(1)))
    assert not torch.equal(augment(images, seeded(1)), augment(images, seeded(2)))


@pytest.mark.parametrize("settings", ALL, ids=str)
def test_an_image_does_not_depend_on_its_neighbours(settings: dict[str, float]) -> None:
    images, others = batch(), batch(seed=1)
    mixed = torch.where((torch.arange(8) % 2 == 0).view(-1, 1, 1, 1), images, others)
    augment = Augment(**settings)
    assert torch.equal(augment(mixed, seeded())[::2], augment(images, seeded())[::2])


def shifts(image: np.ndarray, most: int) -> list[np.ndarray]:
    """Every shift of (C, H, W) by up to `most` pixels, filled with zeros, by slicing."""
    padded = np.pad(image, ((0, 0), (most, most), (most, most)))
    height, width = image.shape[1:]
    places = [(down, right) for down in range(2 * most + 1) for right in range(2 * most + 1)]
    return [padded[:, down : down + height, right : right + width] for down, right in places]


def found(image: np.ndarray, candidates: list[np.ndarray]) -> list[int]:
    return [i for i, candidate in enumerate(candidates) if np.array_equal(candidate, image)]


@given(crop=st.integers(1, 4), seed=st.integers(0, 99))
def test_crop_is_an_exact_shift_with_zeros(crop: int, seed: int) -> None:
    images = batch()
    result = Augment(crop=crop)(images, seeded(seed)).numpy()
    for before, after in zip(images.numpy(), result, strict=True):
        assert len(found(after, shifts(before, crop))) == 1


def test_every_shift_comes_about_equally_often() -> None:
    images = batch(1).expand(2700, -1, -1, -1)
    candidates = shifts(images[0].numpy(), 1)
    result = Augment(crop=1)(images, seeded()).numpy()
    counts = np.bincount([found(image, candidates)[0] for image in result], minlength=9)
    assert np.abs(counts - 300).max() < 5 * math.sqrt(300)


def test_flip_is_exact_and_takes_half() -> None:
    images = batch(1).expand(1000, -1, -1, -1)
    result = Augment(flip=True)(images, seeded())
    flipped = (result == images.flip(3)).flatten(1).all(1)
    assert torch.equal(result[~flipped], images[~flipped])
    assert abs(int(flipped.sum()) - 500) < 5 * math.sqrt(250)


def test_crop_and_flip_together() -> None:
    images = batch(200)
    result = Augment(crop=2, flip=True)(images, seeded()).numpy()
    mirrored = 0
    for before, after in zip(images.numpy(), result, strict=True):
        straight = found(after, shifts(before, 2))
        if not straight:
            assert len(found(after, [shift[:, :, ::-1] for shift in shifts(before, 2)])) == 1
            mirrored += 1
    assert 60 < mirrored < 140


def test_cutout_is_one_square_of_zeros() -> None:
    images = batch(300)
    result = Augment(cutout=3)(images, seeded())
    gone = (result == 0).all(dim=1)  # no pixel of the batch is zero before
    assert torch.equal(result, images * ~gone[:, None])
    for mask in gone.numpy():
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert mask.sum() == len(rows) * len(columns)
        assert 2 <= len(rows) <= 3
        assert 2 <= len(columns) <= 3
        assert np.ptp(rows) == len(rows) - 1


def test_rotation_stays_within_its_range_and_keeps_squares_square() -> None:
    """A spot off the centre moves along a circle, by no more than the angle, also on a wide image."""
    images = torch.zeros(400, 1, 41, 81)
    images[:, :, 19:22, 54:57] = 1.0  # centre of mass 15 pixels right of the middle
    result = Augment(rotate=30)(images, seeded())[:, 0]
    y, x = torch.meshgrid(torch.arange(41.0) - 20, torch.arange(81.0) - 40, indexing="ij")
    mass = result.sum((1, 2))
    right, down = (result * x).sum((1, 2)) / mass, (result * y).sum((1, 2)) / mass
    assert torch.allclose(torch.hypot(right, down), torch.tensor(15.0), atol=0.1)
    degrees = torch.rad2deg(torch.atan2(down, right))
    assert degrees.min() == pytest.approx(-30, abs=1)
    assert degrees.max() == pytest.approx(30, abs=1)


def test_scale_stays_within_its_range() -> None:
    images = torch.zeros(400, 1, 41, 41)
    images[:, :, 19:22, 29:32] = 1.0  # 10 pixels right of the middle
    result = Augment(scale=0.2)(images, seeded())[:, 0]
    right = (result * (torch.arange(41.0) - 20)).sum((1, 2)) / result.sum((1, 2))
    assert right.min() == pytest.approx(8, abs=0.15)
    assert right.max() == pytest.approx(12, abs=0.15)


def test_other_memory_formats() -> None:
    images = batch().to(memory_format=torch.channels_last)
    augment = Augment(crop=2, flip=True, cutout=2)
    assert torch.equal(augment(images, seeded()), augment(images.contiguous(), seeded()))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"crop": -1}, "Augment.crop: Input should be greater than or equal to 0"),
        ({"rotate": 181}, "Augment.rotate: .*less than or equal to 180"),
        ({"scale": 1.0}, "Augment.scale: .*less than 1"),
        ({"mirror": True}, "mirror: no such setting; Augment has: crop, flip, rotate, scale, cutout"),
    ],
)
def test_impossible_settings(settings: dict[str, float], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Augment(**settings)


@pytest.mark.parametrize("name", ["crop", "cutout"])
def test_larger_than_the_image(name: str) -> None:
    with pytest.raises(DataError, match=f"Augment.{name}=7 must be less than the image's 7 pixels"):
        Augment(**{name: 7})(batch(), seeded())
