from __future__ import annotations

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

from rarefy.classification import Classification
from rarefy.data.images import Images
from rarefy.measure import changed, classes, truth
from rarefy.measure.answers import SHOWN, thumbnail

RIGHT = torch.tensor([0, 0, 1, 1, 3, 3, 3, 3])
BEFORE = torch.tensor([0, 1, 1, 1, 3, 0, 0, 3])
AFTER = torch.tensor([0, 0, 0, 1, 3, 1, 3, 1])
NAMES = ("zero", "one", "two", "three")


def pictures(channels: int = 1, side: int = 8) -> Images:
    images = np.random.default_rng(0).integers(0, 256, (8, channels, side, side), dtype=np.uint8)
    return Images(images, RIGHT.numpy(), NAMES, tuple(f"{i}.png" for i in range(8)))


def test_accuracy_of_each_class_that_occurs():
    found = [(c.name, c.examples, c.before, c.after) for c in classes(BEFORE, AFTER, RIGHT, NAMES)]
    assert found == [("zero", 2, 0.5, 1.0), ("one", 2, 1.0, 0.5), ("three", 4, 0.5, 0.5)]


def test_changed_answers_the_lost_ones_first():
    examples, total = changed(BEFORE, AFTER, RIGHT, NAMES, pictures())
    assert total == 5
    assert [e.index for e in examples] == [2, 7, 1, 6, 5]
    assert (examples[0].name, examples[0].truth, examples[0].before, examples[0].after) == (
        *("2.png", "one", "one", "zero"),
    )


def test_at_most_24_are_shown_without_pictures_too():
    examples, total = changed(torch.zeros(100).long(), torch.ones(100).long(), torch.zeros(100).long(), ())
    assert (len(examples), total) == (SHOWN, 100)
    assert (examples[0].png, examples[0].name, examples[0].truth) == (None, None, "0")


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_a_small_picture_is_exact(channels: int):
    image = pictures(channels).images[0]
    decoded = np.asarray(Image.open(io.BytesIO(base64.b64decode(thumbnail(image)))))
    np.testing.assert_array_equal(decoded, image.transpose(1, 2, 0) if channels == 3 else image[0])


def test_a_large_picture_becomes_small():
    decoded = Image.open(io.BytesIO(base64.b64decode(thumbnail(pictures(3, 300).images[0]))))
    assert decoded.size == (96, 96)


def test_the_right_labels_of_a_task():
    task = Classification(None, pictures(), batch_size=3)
    assert torch.equal(truth(task), RIGHT)


def test_other_targets_have_no_labels():
    task = Classification(None, pictures())
    task.judge = lambda: [(torch.ones(2, 3), torch.ones(2, 1))]
    assert truth(task) is None
