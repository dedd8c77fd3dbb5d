"""Every family as ONNX, for small images: ONNX Runtime answers as torch does."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rarefy import zoo
from rarefy.export.onnx import Exporter
from rarefy.measure import answer
from rarefy.runtime import session

SMALL = (
    "squeezenet-1.1,bypass=complex",
    "mobilenet-v1,width=0.1",
    "mobilenet-v2,width=0.1",
    "mobilenet-v3-small,width=0.1",
    "shufflenet-v1,width=0.25,groups=2",
    "shufflenet-v2,width=0.5",
    "alexnet,hidden=16",
    "vgg11-bn",
    "resnet18,width=4",
)
WHOLE = ("alexnet", "vgg")
LATE = ("layer2", "layer3", "layer4", "stage3", "stage4", "conv5", "fc", "classifier")


def shortened(network: nn.Module) -> nn.Module:
    """The first blocks and no more, each kind once: tracing takes long, and the others would show nothing new."""
    for name, module in list(network.named_children()):
        if name in LATE:
            setattr(network, name, nn.Identity())
        elif isinstance(module, nn.Sequential):
            kept = [m for i, m in enumerate(module[:5]) if i == 0 or repr(m) != repr(module[i - 1])]
            setattr(network, name, nn.Sequential(*kept))
    return network


@pytest.mark.parametrize("name", SMALL)
def test_answers_are_torchs(name: str) -> None:
    torch.manual_seed(0)
    network = zoo.build(f"{name},size=28,channels=1,classes=5").eval()
    if not name.startswith(WHOLE):
        network = shortened(network)
    inputs = torch.randn(3, 1, 28, 28)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.normal_(module.running_mean, std=0.3)
    with torch.no_grad():
        wanted = network(inputs)
    proto = Exporter(network, inputs[:2]).write(network).proto
    got = answer(session(proto.SerializeToString()))(inputs)
    assert (got - wanted).abs().max() <= 1e-4 * wanted.abs().max()
