"""The networks the literature is measured on, by name.

`names()` lists them without importing torch; `build(name)` makes one, with seeded weights. A network for photographs
(224x224, 1000 classes) becomes the one for small images by its option `size` (see `rarefy.zoo.parts`).
A new network is one function in a family's file and one line in `MODELS`.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING

from rarefy.errors import ModelError
from rarefy.zoo.keys import renamed

if TYPE_CHECKING:
    from torch import nn

__all__ = ["MODELS", "Entry", "Option", "build", "entry", "names", "options", "renamed"]

Option = int | float | str


@dataclass(frozen=True)
class Entry:
    """One network: where it is built, what it takes without any option, and the paper it comes from."""

    build: str  # "module:function", imported when asked for
    input_shape: tuple[int, int, int]  # (channels, height, width)
    classes: int
    paper: str


def _photographs(build: str, paper: str) -> Entry:
    return Entry(f"rarefy.zoo.{build}", (3, 224, 224), 1000, paper)


_LECUN = "LeCun, Bottou, Bengio, Haffner 1998, Gradient-based learning applied to document recognition"
_HE = "He, Zhang, Ren, Sun 2016, Deep residual learning for image recognition"
_CIFAR = f"{_HE} (section 4.2)"
_VGG = "Simonyan, Zisserman 2015, Very deep convolutional networks"
_VGG_BN = f"{_VGG}; with BatchNorm"
_ALEX = "Krizhevsky, Sutskever, Hinton 2012, ImageNet classification; the version for one device (arXiv:1404.5997)"
_SQUEEZE = "Iandola et al. 2016, SqueezeNet (arXiv:1602.07360)"
_MOBILE1 = "Howard et al. 2017, MobileNets (arXiv:1704.04861)"
_MOBILE2 = "Sandler et al. 2018, MobileNetV2: Inverted residuals and linear bottlenecks (arXiv:1801.04381)"
_MOBILE3 = "Howard et al. 2019, Searching for MobileNetV3 (arXiv:1905.02244)"
_SHUFFLE1 = "Zhang et al. 2018, ShuffleNet (arXiv:1707.01083)"
_SHUFFLE2 = "Ma et al. 2018, ShuffleNet V2: Practical guidelines (arXiv:1807.11164)"
_BINARY = "Liu et al. 2018, Bi-Real Net (arXiv:1808.00278), with the activations of ReActNet (arXiv:2003.03488)"
_BINARY_VGG = "Zhang et al. 2018, LQ-Nets (arXiv:1807.10029), in the order of XNOR-Net (arXiv:1603.05279)"

MODELS: dict[str, Entry] = {
    "lenet-300-100": Entry("rarefy.zoo.lenet:lenet_300_100", (1, 28, 28), 10, _LECUN),
    "lenet5": Entry("rarefy.zoo.lenet:lenet5", (1, 28, 28), 10, f"{_LECUN}; the version of Caffe"),
    "lenet5-digits": Entry("rarefy.zoo.lenet:lenet5_digits", (1, 8, 8), 10, f"{_LECUN}; for 8x8 images"),
    "resnet20": Entry("rarefy.zoo.resnet_cifar:resnet20", (3, 32, 32), 10, _CIFAR),
    "resnet32": Entry("rarefy.zoo.resnet_cifar:resnet32", (3, 32, 32), 10, _CIFAR),
    "resnet56": Entry("rarefy.zoo.resnet_cifar:resnet56", (3, 32, 32), 10, _CIFAR),
    "resnet18": _photographs("resnet:resnet18", _HE),
    "resnet34": _photographs("resnet:resnet34", _HE),
    "resnet50": _photographs("resnet:resnet50", _HE),
    "alexnet": _photographs("alexnet:alexnet", _ALEX),
    "vgg11": _photographs("vgg:vgg11", _VGG),
    "vgg13": _photographs("vgg:vgg13", _VGG),
    "vgg16": _photographs("vgg:vgg16", _VGG),
    "vgg19": _photographs("vgg:vgg19", _VGG),
    "vgg11-bn": _photographs("vgg:vgg11_bn", _VGG_BN),
    "vgg13-bn": _photographs("vgg:vgg13_bn", _VGG_BN),
    "vgg16-bn": _photographs("vgg:vgg16_bn", _VGG_BN),
    "vgg19-bn": _photographs("vgg:vgg19_bn", _VGG_BN),
    "squeezenet-1.0": _photographs("squeezenet:squeezenet1_0", _SQUEEZE),
    "squeezenet-1.1": _photographs("squeezenet:squeezenet1_1", f"{_SQUEEZE}; its authors' later version"),
    "mobilenet-v1": _photographs("mobilenet_v1:mobilenet_v1", _MOBILE1),
    "mobilenet-v2": _photographs("mobilenet_v2:mobilenet_v2", _MOBILE2),
    "mobilenet-v3-small": _photographs("mobilenet_v3:mobilenet_v3_small", _MOBILE3),
    "mobilenet-v3-large": _photographs("mobilenet_v3:mobilenet_v3_large", _MOBILE3),
    "shufflenet-v1": _photographs("shufflenet_v1:shufflenet_v1", _SHUFFLE1),
    "shufflenet-v2": _photographs("shufflenet_v2:shufflenet_v2", _SHUFFLE2),
    "resnet20-binary": Entry("rarefy.zoo.binary:resnet20_binary", (3, 32, 32), 10, _BINARY),
    "resnet18-binary": _photographs("binary:resnet18_binary", _BINARY),
    "vgg-small-binary": Entry("rarefy.zoo.binary:vgg_small_binary", (3, 32, 32), 10, _BINARY_VGG),
}


def names() -> list[str]:
    """The names that `build` knows, in the order of the table."""
    return list(MODELS)


def entry(name: str) -> Entry:
    """The table's line for `name`, with its options where it has some: `mobilenet-v1,size=32` takes 3x32x32.

    Case does not matter, and `_` is `-`. Unknown: `ModelError`.
    """
    plain, chosen = _parsed(name)
    if plain not in MODELS:
        near = difflib.get_close_matches(plain, MODELS, cutoff=0.5)
        hint = f" (did you mean {' or '.join(near)}?)" if near else ""
        raise ModelError(f"no network named {name!r} in the zoo{hint}; it has: {', '.join(MODELS)}")
    found = MODELS[plain]
    if not chosen:
        return found
    sizes = {key: value for key, value in chosen.items() if isinstance(value, int)}
    channels, height, width = found.input_shape
    shape = (sizes.get("channels", channels), sizes.get("size", height), sizes.get("size", width))
    return replace(found, input_shape=shape, classes=sizes.get("classes", found.classes))


def options(name: str) -> dict[str, Option]:
    """The options that `build` takes for `name`, with their defaults."""
    parameters = inspect.signature(_builder(name)).parameters.values()
    return {parameter.name: parameter.default for parameter in parameters}


def build(name: str, *, seed: int = 0, **chosen: Option) -> nn.Module:
    """Make the network `name` with weights drawn from `seed`; the global random state stays as it was.

    `chosen` are the network's own options (`options(name)`), such as `classes=100`, `size=32` or `width=0.5`. They may
    stand in the name as well, where they count first: `mobilenet-v1,width=0.5`.
    Raises `ModelError` for an unknown name, an unknown option, or a value the network cannot have or memory not hold.
    """
    plain, own = _parsed(name)
    known, chosen = options(name), {**chosen, **own}
    unknown = [option for option in chosen if option not in known]
    if unknown:
        raise ModelError(f"{plain} has no option {', '.join(unknown)}; it has: {', '.join(known)}")
    import torch

    with torch.random.fork_rng(devices=[]):  # networks are made on the CPU, so only its state is at stake
        torch.default_generator.manual_seed(seed)
        try:
            return _builder(name)(**chosen)
        except RuntimeError as error:
            if "allocate memory" not in str(error):
                raise
            given = ", ".join(f"{option}={value}" for option, value in chosen.items())
            raise ModelError(f"{plain} with {given} does not fit into memory; choose smaller numbers") from None


def _builder(name: str) -> Callable[..., nn.Module]:
    module, function = entry(name).build.split(":")
    found: Callable[..., nn.Module] = getattr(import_module(module), function)
    return found


def _parsed(spec: str) -> tuple[str, dict[str, Option]]:
    """`NAME` or `NAME,OPTION=VALUE,...`."""
    name, *pairs = spec.split(",")
    chosen: dict[str, Option] = {}
    for pair in pairs:
        option, _, value = pair.partition("=")
        if not option or not value:
            raise ModelError(f"{spec}: expected NAME,OPTION=VALUE,... such as mobilenet-v1,width=0.5, not {pair!r}")
        chosen[option] = _value(value)
    return name.lower().replace("_", "-"), chosen


def _value(text: str) -> Option:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text
