"""Every network of the zoo: the literature's counts, shapes, seeds, and clear refusals."""

from __future__ import annotations

import math
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
    "resnet18": 11_689_512,  # from here on torchvision's; of MobileNet V1 the paper prints 4.2 M
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "alexnet": 61_100_840,
    "vgg11": 132_863_336,
    "vgg13": 133_047_848,
    "vgg16": 138_357_544,
    "vgg19": 143_667_240,
    "vgg11-bn": 132_868_840,
    "vgg13-bn": 133_053_736,
    "vgg16-bn": 138_365_992,
    "vgg19-bn": 143_678_248,
    "squeezenet-1.0": 1_248_424,
    "squeezenet-1.1": 1_235_496,
    "mobilenet-v1": 4_231_976,
    "mobilenet-v2": 3_504_872,
    "mobilenet-v3-small": 2_542_856,
    "mobilenet-v3-large": 5_483_032,
    "shufflenet-v1": 1_865_728,
    "shufflenet-v2": 2_278_604,
    "resnet20-binary": 272_362,  # the float one's, less its shortcuts, with thresholds and slopes
    "resnet18-binary": 11_704_424,
    "vgg-small-binary": 4_660_234,
}


def test_the_counts_cover_the_zoo() -> None:
    assert zoo.names() == list(COUNTS)


@pytest.mark.parametrize("name", COUNTS)
def test_parameters_and_shapes(name: str) -> None:
    entry = zoo.entry(name)
    with torch.device("meta"), torch.no_grad():
        network = zoo.build(name).eval()
        assert network(torch.empty(3, *entry.input_shape)).shape == (3, entry.classes)
    assert sum(p.numel() for p in network.parameters()) == COUNTS[name]
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
    features = zoo.build("vgg16-bn", size=32).eval().get_submodule("features")
    assert isinstance(features, nn.Sequential)
    with torch.no_grad():
        inside = features[:30](torch.randn(4, 3, 32, 32))
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
        ("vgg16-bn", {"classes": 4, "channels": 1, "size": 32}, (1, 64, 64)),
        ("vgg11", {"classes": 4, "size": 64, "hidden": 10}, (3, 64, 64)),
        ("alexnet", {"classes": 4, "size": 64, "hidden": 10}, (3, 64, 64)),
        ("resnet50", {"classes": 4, "width": 3, "size": 32}, (3, 32, 32)),
        ("squeezenet-1.1", {"classes": 4, "bypass": "complex", "size": 28, "channels": 1}, (1, 28, 28)),
        ("mobilenet-v1", {"classes": 4, "width": 0.1}, (3, 40, 50)),
        ("mobilenet-v2", {"classes": 4, "width": 0.25}, (3, 40, 50)),
        ("mobilenet-v3-small", {"classes": 4, "width": 0.3}, (3, 40, 50)),
        ("shufflenet-v1", {"classes": 4, "width": 0.25, "groups": 8}, (3, 40, 50)),
        ("shufflenet-v2", {"classes": 4, "width": 0.5}, (3, 40, 50)),
    ],
)
def test_options(name: str, options: dict[str, zoo.Option], shape: tuple[int, ...]) -> None:
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
        ("mobilenet-v1", {"width": 0}, r"mobilenet-v1: width must be a number above 0 and at most 16, not 0"),
        ("mobilenet-v2", {"width": math.nan}, r"mobilenet-v2: width must be .* not nan"),
        ("mobilenet-v3-large", {"width": 1e9}, r"mobilenet-v3-large: width must be .* at most 16, not 1000000000"),
        ("mobilenet-v3-small", {"width": "half"}, r"mobilenet-v3-small: width must be a number .* not 'half'"),
        ("mobilenet-v1", {"width": True}, r"width must be a number .* not True"),
        ("mobilenet-v1", {"size": 32.0}, r"size must be a whole number of at least 1, not 32.0"),
        ("shufflenet-v1", {"groups": 5}, r"shufflenet-v1: groups must be one of 1, 2, 3, 4, 8, not 5"),
        ("shufflenet-v2", {"width": 0.75}, r"shufflenet-v2: width must be one of 0.5, 1.0, 1.5, 2.0, not 0.75"),
        ("squeezenet-1.0", {"bypass": "both"}, r"bypass must be one of none, simple, complex, not 'both'"),
        ("vgg19", {"hidden": 0}, r"vgg19: hidden must be a whole number of at least 1, not 0"),
        ("resnet18,width", {}, r"resnet18,width: expected NAME,OPTION=VALUE,\.\.\. such as .*, not 'width'"),
        ("resnet18,size=big", {}, r"resnet18: size must be a whole number of at least 1, not 'big'"),
        ("resnet18,depth=3", {}, r"resnet18 has no option depth; it has: classes"),
        ("resnet20-binary,widen=1000000", {}, "resnet20-binary with widen=1000000 does not fit into memory"),
    ],
)
def test_refusals(name: str, options: dict[str, zoo.Option], message: str) -> None:
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


def test_options_in_the_name_count_first() -> None:
    network = zoo.build("MobileNet_V1,width=0.25,classes=7", classes=3, size=32)
    assert sum(p.numel() for p in network.parameters()) == 470_072 - 993 * 257
    entry = zoo.entry("shufflenet-v1,size=32,groups=8,classes=10")
    assert entry.input_shape == (3, 32, 32)
    assert entry.classes == 10
    assert zoo.options("resnet18,size=32") == {"classes": 1000, "channels": 3, "size": 224, "width": 64}


def test_names_do_not_import_torch() -> None:
    code = "import sys, rarefy.zoo as zoo; zoo.names(); zoo.entry('lenet5'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
