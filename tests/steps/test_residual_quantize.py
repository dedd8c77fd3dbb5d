"""Sums of shared vectors. What they have in common with single ones is tested there."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from models import Toy
from rarefy import encodings
from rarefy.errors import SettingsError
from rarefy.graph.weights import by_path
from rarefy.steps import ProductQuantize, ResidualQuantize

TASK = Toy(torch.zeros(2, 64))


def linear() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(64, 48)


def error(result: nn.Module) -> float:
    return float((by_path(result)["weight"].tensor - linear().weight).detach().square().sum())


def test_every_stage_comes_nearer() -> None:
    errors = [error(ResidualQuantize(length=8, bits=4, stages=stages)(linear(), TASK)) for stages in (2, 3, 4)]
    assert errors[0] > 1.2 * errors[1] > 1.44 * errors[2]


def test_less_error_than_one_book_of_the_same_bytes() -> None:
    """In a small layer most of the bytes of one large book would be the book."""
    two, one = (
        ResidualQuantize(length=8, bits=4, stages=2)(linear(), TASK),
        ProductQuantize(length=8, bits=5)(linear(), TASK),
    )
    sizes = [encodings.stored_bits(by_path(m)["weight"]) for m in (two, one)]
    assert sizes == [2 * (16 * 8 * 32 + 48 * 8 * 4), 32 * 8 * 32 + 48 * 8 * 5]
    assert error(two) < 0.95 * error(one)


def test_settings() -> None:
    with pytest.raises(
        SettingsError, match=r"ResidualQuantize\.stages: Input should be greater than or equal to 2, not 1"
    ):
        ResidualQuantize(stages=1)
    assert ResidualQuantize().bits == 4
