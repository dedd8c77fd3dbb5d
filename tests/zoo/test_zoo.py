"""Every network of the zoo: the literature's counts, shapes, seeds, and clear refusals."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from rarefy import zoo
from rarefy.errors import ModelError
from rarefy.zoo.resnet_cifar import PadShortcut

COUNTS = {
    "lenet-300-100": 266_610,  # Han et al. 2015
    "lenet5": 431_080,  # Caffe's; Han et al. 2015 print 431 k
    "lenet5-digits": 520 + 25_050 + 100_500 + 5_010,
    "resnet20": 269_722,  # He et al. 2016 print 0.27, 0.46 and 0.85 M
    "resnet32": 464_154,
    "resnet56": 853_018,
    "vgg16-bn": 14_728_266,  # 14.73 M
}


def test_the_counts_cover_the_zoo() -> None:
    assert zoo.names() == list(COUNTS)


@pytest.mark.parametrize("name", COUNTS)
def test_parameters_and_shapes(name: str) -> None:
    entry = zoo.entry(name)
    network = zoo.build(name).eval()
    assert sum(p.numel() for p in network.parameters()) == COUNTS[name]
    with torch.no_grad():
        assert network(torch.rand(3, *entry.input_shape)).shape == (3, entry.classes)
    assert entry.paper


@pytest.mark.parametrize("name", ["lenet5", "resnet20"])
def test_a_seed_fixes_the_weights_and_leaves_the_global_state(name: str) -> None:
    torch.manual_seed(7)
    expected = torch.rand(4)
    torch.manual_seed(7)
    first = zoo.build(name, seed=3)
    assert torch.equal(torch.rand(4), expected)
    again, other = zoo.build(name, seed=3).state_dict(), zoo.build(name, seed=4).state_dict()
    assert all(torch.equal(value, again[key]) for key, value in first.state_dict().items())
    assert any(not torch.equal(value, other[key]) for key, value in first.state_dict().items())


def test_signals_keep_their_size_through_a_deep_network() -> None:
    network = zoo.build("vgg16-bn").eval()
    assert isinstance(network, nn.Sequential)
    with torch.no_grad():
        inside = network[:3](torch.randn(4, 3, 32, 32))
    assert 0.2 < inside.std() < 5  # 1e-7 with torch's own start, which is for other slopes


@pytest.mark.parametrize("name", ["LeNet5", "LENET-300_100", "vgg16_bn"])
def test_case_and_underscores_do_not_matter(name: str) -> None:
    assert zoo.entry(name) is zoo.MODELS[name.lower().replace("_", "-")]


@pytest.mark.parametrize(
    ("name", "options", "shape"),
    [
        ("lenet-300-100", {"classes": 4, "channels": 3, "size": 9}, (3, 9, 9)),
        ("lenet5", {"classes": 4, "channels": 3, "size": 16}, (3, 16, 16)),
        ("lenet5", {"classes": 4, "size": 8, "padding": 2}, (1, 8, 8)),
        ("lenet5", {"classes": 4, "size": 29, "padding": 1}, (1, 29, 29)),
        ("lenet5-digits", {"classes": 4, "channels": 2}, (2, 8, 8)),
        ("resnet20", {"classes": 4, "channels": 1, "width": 5}, (1, 33, 17)),
        ("vgg16-bn", {"classes": 4, "channels": 1}, (1, 64, 64)),
    ],
)
def test_options(name: str, options: dict[str, int], shape: tuple[int, ...]) -> None:
    assert set(options) <= set(zoo.options(name))
    with torch.no_grad():
        assert zoo.build(name, **options).eval()(torch.rand(2, *shape)).shape == (2, 4)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet22", {}, r"no network named 'resnet22'.*did you mean resnet\d\d or .*lenet-300-100"),
        ("transformer-xxl", {}, r"no network named 'transformer-xxl' in the zoo; it has: lenet-300-100"),
        ("lenet5", {"depth": 3}, r"lenet5 has no option depth; it has: classes, channels, size, padding"),
        ("resnet20", {"width": 0}, r"resnet20: width must be a whole number of at least 1, not 0"),
        ("lenet5", {"classes": 2.5}, r"classes must be a whole number of at least 1, not 2.5"),
        ("lenet5", {"padding": -1}, r"padding must be a whole number of at least 0, not -1"),
        ("lenet5", {"size": 8}, r"8x8 are too small for padding 0.*use padding=2"),
    ],
)
def test_refusals(name: str, options: dict[str, int], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        zoo.build(name, **options)


@pytest.mark.parametrize("size", [4, 15, 16])
def test_the_remedy_for_small_images_is_right(size: int) -> None:
    zoo.build("lenet5", size=size, padding=0 if size >= 16 else 2)


def test_the_pad_shortcut_matches_its_definition() -> None:
    x = torch.rand(2, 3, 5, 7)
    out = PadShortcut(stride=2, before=1, after=2)(x)
    expected = torch.zeros(2, 6, 3, 4)
    expected[:, 1:4] = x[:, :, ::2, ::2]
    assert torch.equal(out, expected)


def test_residual_networks_are_traceable() -> None:
    network = zoo.build("resnet20").eval()
    traced = torch.fx.symbolic_trace(network)
    x: Tensor = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(traced(x), network(x))


def test_names_do_not_import_torch() -> None:
    code = "import sys, rarefy.zoo as zoo; zoo.names(); zoo.entry('lenet5'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
