"""Weights that other libraries publish have the names and shapes that the zoo's networks ask for.

The fingerprints were taken from the libraries themselves (torchvision 0.28, timm 1.0): the hash of the sorted lines
"name shape" of a network's state dict.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rarefy import zoo

TORCHVISION = {
    "squeezenet1_0": ("squeezenet-1.0", "142983e4c19c76ad"),
    "squeezenet1_1": ("squeezenet-1.1", "3fbd2a746421cada"),
    "mobilenet_v2": ("mobilenet-v2", "e3eb10f890f74c6e"),
    "mobilenet_v3_small": ("mobilenet-v3-small", "8fee267f118ca2d7"),
    "mobilenet_v3_large": ("mobilenet-v3-large", "555a3f5e3bcc126e"),
    "shufflenet_v2_x0_5": ("shufflenet-v2,width=0.5", "83434269737afc7f"),
    "shufflenet_v2_x1_0": ("shufflenet-v2", "c54ed350c00fa178"),
    "shufflenet_v2_x1_5": ("shufflenet-v2,width=1.5", "c70a4c3a755fe3db"),
    "shufflenet_v2_x2_0": ("shufflenet-v2,width=2.0", "20a856e8ae47211d"),
    "alexnet": ("alexnet", "935c1ea73a7869ee"),
    "vgg11": ("vgg11", "b11acd4f90d9643f"),
    "vgg11_bn": ("vgg11-bn", "56ed5816909a8132"),
    "vgg13": ("vgg13", "79ca8fd7a1480aa7"),
    "vgg13_bn": ("vgg13-bn", "e4f52ce016e5e82f"),
    "vgg16": ("vgg16", "ba63c2556d912509"),
    "vgg16_bn": ("vgg16-bn", "86bad13b66635552"),
    "vgg19": ("vgg19", "393fac8b08b63fbe"),
    "vgg19_bn": ("vgg19-bn", "faf0fdbb92f698c6"),
    "resnet18": ("resnet18", "5191d63ec3989592"),
    "resnet34": ("resnet34", "f8de2a1812ef85e4"),
    "resnet50": ("resnet50", "a87e91cd6bd1f939"),
}
TIMM = {
    "mobilenet-v1": ((1, 2, 2, 6, 2), "f19026159041706a"),
    "mobilenet-v2": ((1, 2, 3, 4, 3, 3, 1), "9b97d319a1b6986f"),
}


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    lines = sorted(f"{name} {tuple(tensor.shape)}" for name, tensor in tensors.items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def own(name: str) -> dict[str, Tensor]:
    with torch.device("meta"):
        return zoo.build(name).state_dict()


@pytest.mark.parametrize(("name", "wanted"), TORCHVISION.values(), ids=TORCHVISION)
def test_names_and_shapes_are_torchvisions(name: str, wanted: str) -> None:
    assert fingerprint(own(name)) == wanted


def timm_layers(name: str, stages: tuple[int, ...]) -> Iterator[str]:
    """timm's layers that hold tensors, in the order of the zoo's."""
    yield from ("conv_stem", "bn1")
    for stage, blocks in enumerate(stages):
        for block in range(blocks):
            separable = name == "mobilenet-v1" or (stage, block) == (0, 0)
            parts = "conv_dw bn1 conv_pw bn2" if separable else "conv_pw bn1 conv_dw bn2 conv_pwl bn3"
            yield from (f"blocks.{stage}.{block}.{part}" for part in parts.split())
    yield from ("classifier",) if name == "mobilenet-v1" else ("conv_head", "bn2", "classifier")


@pytest.mark.parametrize("name", TIMM)
def test_timms_names_are_translated(name: str) -> None:
    stages, wanted = TIMM[name]
    mine = own(name)
    layers = list(dict.fromkeys(key.rpartition(".")[0] for key in mine))
    theirs = dict(zip(layers, timm_layers(name, stages), strict=True))
    published = {re.sub(r"^.*(?=\.)", lambda m: theirs[m[0]], key): tensor for key, tensor in mine.items()}
    assert fingerprint(published) == wanted
    assert zoo.renamed(name, published) == mine
    assert zoo.renamed(f"{name},width=1.0", published) == mine
    strange = zoo.renamed(name, {**published, "blocks.0.0.se.weight": 1, "head.bias": 2})
    assert strange.keys() - mine.keys() == {"blocks.0.0.se.weight", "head.bias"}


def test_other_names_stay_as_they_are() -> None:
    assert zoo.renamed("resnet18", {"conv_stem.weight": 1}) == {"conv_stem.weight": 1}
    assert zoo.renamed("mobilenet-v1", {"features.0.0.weight": 1}) == {"features.0.0.weight": 1}


@pytest.fixture(scope="module")
def torchvision() -> Any:
    """Its models, where it is installed; beside a torch without its operators, with their names alone."""
    if find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    try:
        return import_module("torchvision.models")
    except RuntimeError:  # no such operator: built for another torch
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return import_module("torchvision.models")


def trained(model: nn.Module) -> nn.Module:
    """Statistics and biases that are not the initial ones."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
        elif isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.normal_(module.bias, std=0.1)
    return model.eval()


@pytest.mark.parametrize("theirs", [n for n in TORCHVISION if not n.startswith(("vgg", "alex"))])
def test_answers_are_torchvisions(theirs: str, torchvision: Any) -> None:
    torch.manual_seed(0)
    reference = trained(getattr(torchvision, theirs)())
    network = zoo.build(TORCHVISION[theirs][0]).eval()
    network.load_state_dict(reference.state_dict())
    x = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        wanted = reference(x)
        assert (network(x) - wanted).abs().max() <= 1e-5 * wanted.abs().max()
