"""What all families share: checked options and initial weights."""

from __future__ import annotations

from torch import nn

from rarefy.errors import ModelError


def require(network: str, least: int, **options: int) -> None:
    """Each option must be a whole number of at least `least`, or it is a `ModelError`."""
    for name, value in options.items():
        if type(value) is not int or value < least:
            raise ModelError(f"{network}: {name} must be a whole number of at least {least}, not {value!r}")


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
