"""The networks the literature is measured on, by name.

`names()` lists them without importing torch; `build(name)` makes one, with seeded weights.
A new network is one function in a family's file and one line in `MODELS`.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from rarefy.errors import ModelError

if TYPE_CHECKING:
    from torch import nn

__all__ = ["MODELS", "Entry", "build", "entry", "names", "options"]


@dataclass(frozen=True)
class Entry:
    """One network: where it is built, what it takes without any option, and the paper it comes from."""

    build: str  # "module:function", imported when asked for
    input_shape: tuple[int, int, int]  # (channels, height, width)
    classes: int
    paper: str


_LECUN = "LeCun, Bottou, Bengio, Haffner 1998, Gradient-based learning applied to document recognition"
_HE = "He, Zhang, Ren, Sun 2016, Deep residual learning for image recognition (section 4.2)"
_VGG = "Simonyan, Zisserman 2015, Very deep convolutional networks; BatchNorm and one Linear as for CIFAR-10"

MODELS: dict[str, Entry] = {
    "lenet-300-100": Entry("rarefy.zoo.lenet:lenet_300_100", (1, 28, 28), 10, _LECUN),
    "lenet5": Entry("rarefy.zoo.lenet:lenet5", (1, 28, 28), 10, f"{_LECUN}; the version of Caffe"),
    "lenet5-digits": Entry("rarefy.zoo.lenet:lenet5_digits", (1, 8, 8), 10, f"{_LECUN}; for 8x8 images"),
    "resnet20": Entry("rarefy.zoo.resnet_cifar:resnet20", (3, 32, 32), 10, _HE),
    "resnet32": Entry("rarefy.zoo.resnet_cifar:resnet32", (3, 32, 32), 10, _HE),
    "resnet56": Entry("rarefy.zoo.resnet_cifar:resnet56", (3, 32, 32), 10, _HE),
    "vgg16-bn": Entry("rarefy.zoo.vgg:vgg16_bn", (3, 32, 32), 10, _VGG),
}


def names() -> list[str]:
    """The names that `build` knows, in the order of the table."""
    return list(MODELS)


def entry(name: str) -> Entry:
    """The table's line for `name`; case does not matter, and `_` is `-`. Unknown: `ModelError`."""
    wanted = name.lower().replace("_", "-")
    if wanted in MODELS:
        return MODELS[wanted]
    near = difflib.get_close_matches(wanted, MODELS, cutoff=0.5)
    hint = f" (did you mean {' or '.join(near)}?)" if near else ""
    raise ModelError(f"no network named {name!r} in the zoo{hint}; it has: {', '.join(MODELS)}")


def options(name: str) -> dict[str, int]:
    """The options that `build` takes for `name`, with their defaults."""
    parameters = inspect.signature(_builder(name)).parameters.values()
    return {parameter.name: parameter.default for parameter in parameters}


def build(name: str, *, seed: int = 0, **chosen: int) -> nn.Module:
    """Make the network `name` with weights drawn from `seed`; the global random state stays as it was.

    `chosen` are the network's own options (`options(name)`), such as `classes=100` or `width=8`.
    Raises `ModelError` for an unknown name, an unknown option, or a value the network cannot have.
    """
    known = options(name)
    unknown = [option for option in chosen if option not in known]
    if unknown:
        raise ModelError(f"{name} has no option {', '.join(unknown)}; it has: {', '.join(known)}")
    import torch

    with torch.random.fork_rng(devices=[]):  # networks are made on the CPU, so only its state is at stake
        torch.default_generator.manual_seed(seed)
        return _builder(name)(**chosen)


def _builder(name: str) -> Callable[..., nn.Module]:
    module, function = entry(name).build.split(":")
    found: Callable[..., nn.Module] = getattr(import_module(module), function)
    return found
