"""The figures that the papers print: multiply-accumulates and weights, counted without making the weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from rarefy import zoo
from rarefy.zoo.parts import rounded, strides

M, G = 1e6, 1e9


def counted(name: str, size: int = 224, **options: zoo.Option) -> tuple[int, int]:
    """Weights and multiply-accumulates."""
    counter = FlopCounterMode(display=False)
    with torch.device("meta"), torch.no_grad(), counter:
        network = zoo.build(name, size=size, **options).eval()
        network(torch.empty(1, 3, size, size))
    return sum(p.numel() for p in network.parameters()), counter.get_total_flops() // 2


@pytest.mark.parametrize(
    ("width", "macs", "weights"), [(1, 569, 4.2), (0.75, 325, 2.6), (0.5, 149, 1.3), (0.25, 41, 0.5)]
)
def test_mobilenet_v1_widths(width: float, macs: float, weights: float) -> None:
    found = counted("mobilenet-v1", width=width)
    assert round(found[0] / M, 1) == weights
    assert found[1] / M == pytest.approx(macs, abs=0.5)


@pytest.mark.parametrize(("size", "macs"), [(224, 569), (192, 418), (160, 290), (128, 186)])
def test_mobilenet_v1_resolutions(size: int, macs: float) -> None:
    assert counted("mobilenet-v1", size)[1] / M == pytest.approx(macs, abs=0.7)


@pytest.mark.parametrize(
    ("name", "macs", "weights"),
    [
        ("mobilenet-v2", 300, 3.5),
        ("mobilenet-v2,width=1.4", 582, 6.1),  # the paper: 585 M, 6.9 M with its larger last layer
        ("mobilenet-v3-large", 219, 5.4),
        ("mobilenet-v3-large,width=0.75", 155, 4.0),
        ("mobilenet-v3-small", 56, 2.5),
        ("mobilenet-v3-small,width=0.75", 44, 2.0),
        ("shufflenet-v2,width=0.5", 41, 1.4),
        ("shufflenet-v2", 146, 2.3),
        ("shufflenet-v2,width=1.5", 299, 3.5),
        ("shufflenet-v2,width=2", 591, 7.4),
        ("squeezenet-1.0", 819, 1.25),  # no figure in the paper; torchvision's
        ("squeezenet-1.1", 349, 1.24),
        ("resnet18", 1814, 11.7),
        ("resnet34", 3664, 21.8),
        ("resnet50", 4089, 25.6),
        ("alexnet", 714, 61.1),
        ("vgg11", 7609, 133),
        ("vgg13", 11308, 133),
        ("vgg16", 15470, 138),
        ("vgg19", 19632, 144),
    ],
)
def test_multiply_accumulates_and_weights(name: str, macs: float, weights: float) -> None:
    found = counted(name)
    assert found[1] / M == pytest.approx(macs, rel=0.02)
    assert found[0] / M == pytest.approx(weights, rel=0.03)


@pytest.mark.parametrize(("groups", "macs"), [(1, 143), (2, 140), (3, 137), (4, 133), (8, 137)])
def test_shufflenet_v1_groups(groups: int, macs: float) -> None:
    assert counted("shufflenet-v1", groups=groups)[1] / M == pytest.approx(macs, rel=0.011)


@pytest.mark.parametrize(("width", "macs"), [(1, 140), (0.5, 38)])
@pytest.mark.parametrize("groups", [1, 2, 3, 4, 8])
def test_shufflenet_v1_costs_about_the_same_whatever_the_groups(groups: int, width: float, macs: float) -> None:
    assert counted("shufflenet-v1", width=width, groups=groups)[1] / M == pytest.approx(macs, rel=0.08)


def test_squeezenet_bypasses() -> None:
    plain, simple, full = (counted("squeezenet-1.0", bypass=b)[0] for b in ("none", "simple", "complex"))
    assert simple == plain
    assert full - plain == sum(a * b + b for a, b in ((96, 128), (128, 256), (256, 384), (384, 512)))


@pytest.mark.parametrize(
    ("name", "macs"), [("resnet18", 555), ("vgg16-bn", 313), ("resnet50", 1298), ("mobilenet-v2", 88)]
)
def test_images_of_32_pixels(name: str, macs: float) -> None:
    """As others print them for the usual CIFAR forms."""
    assert counted(name, 32, classes=10)[1] / M == pytest.approx(macs, rel=0.01)


@pytest.mark.parametrize(
    "name", ["resnet18", "alexnet", "vgg11", "squeezenet-1.0", "squeezenet-1.1", "mobilenet-v1", "shufflenet-v2"]
)
@pytest.mark.parametrize("size", [1, 28, 97])
def test_every_size_works(name: str, size: int) -> None:
    with torch.device("meta"), torch.no_grad():
        network = zoo.build(name, size=size, classes=6).eval()
        assert network(torch.empty(2, 3, size, size)).shape == (2, 6)


def test_strides() -> None:
    assert strides(224) == strides(97) == (2, 2, 2, 2, 2)
    assert strides(64) == (1, 2, 2, 2, 2)
    assert strides(32) == strides(28) == (1, 1, 2, 2, 2)
    assert strides(4) == (1, 1, 1, 1, 1)
    assert strides(32, halvings=4) == (1, 2, 2, 2)
    for size in range(4, 300):
        assert size / 2 ** strides(size).count(2) > 3  # which rounds up to 4 pixels


def test_rounding_of_channels() -> None:
    assert [rounded(c) for c in (1, 11, 12, 13, 17, 18, 24)] == [8, 16, 16, 16, 16, 24, 24]
    assert all(rounded(c) >= 0.9 * c and rounded(c) % 8 == 0 for c in range(1, 400))


@pytest.mark.parametrize("name", ["squeezenet-1.0", "shufflenet-v2", "resnet18", "mobilenet-v3-small"])
def test_other_networks_are_traceable(name: str) -> None:
    with torch.device("meta"):
        assert isinstance(torch.fx.symbolic_trace(zoo.build(name)), nn.Module)
