"""The networks to try structural steps on: what is compared on them must be able to differ."""

from __future__ import annotations

import pytest
import torch

from models import outputs
from rarefy.budget import parameters
from rarefy.task import forward
from structures import STRUCTURES


@pytest.mark.parametrize("name", STRUCTURES)
def test_answers_differ_between_examples(name: str) -> None:
    case = STRUCTURES[name]
    with torch.no_grad():
        for output in outputs(forward(case.model(), case.batch())):
            assert torch.isfinite(output).all()
            assert 0.01 < float(output.std(0).mean()) < 30


def test_the_small_one_is_small() -> None:
    assert 80_000 < 4 * parameters(STRUCTURES["small"].model()) < 95_000
