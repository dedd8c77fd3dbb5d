"""What all families share: checked options, initial weights."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from rarefy.errors import ModelError

WIDEST = 16.0  # a width multiplier above this is a mistake


def require(network: str, least: int, **options: int) -> None:
    """Each option must be a whole number of at least `least`, or it is a `ModelError`."""
    for name, value in options.items():
        if type(value) is not int or value < least:
            raise ModelError(f"{network}: {name} must be a whole number of at least {least}, not {value!r}")


def require_width(network: str, width: float) -> None:
    """A width multiplier must be a positive number, or it is a `ModelError`."""
    if type(width) not in (int, float) or not 0 < width <= WIDEST:
        raise ModelError(f"{network}: width must be a number above 0 and at most {WIDEST:g}, not {width!r}")


def require_one_of(network: str, known: Sequence[int | float | str], **options: int | float | str) -> None:
    """Each option must be one of `known`, or it is a `ModelError`."""
    for name, value in options.items():
        if isinstance(value, bool) or value not in known:
            raise ModelError(f"{network}: {name} must be one of {', '.join(map(str, known))}, not {value!r}")


def kaiming(network: nn.Module) -> None:
    """Initial weights for networks of ReLUs: normal with variance 2 / fan_in, biases zero.

    BatchNorm keeps torch's own start (scale 1, shift 0).
    He, Zhang, Ren, Sun 2015, Delving deep into rectifiers.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
