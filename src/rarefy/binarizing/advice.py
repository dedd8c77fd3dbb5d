"""Which layers can and should be binary, and what is to be said of those that are."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils import parametrize

from rarefy import encodings
from rarefy.binarizing.inputs import View
from rarefy.graph.weights import Weight, why_not, why_small
from rarefy.layers.binary import BinaryConv2d, BinaryLinear, why_no_kernel

WORD = 32  # input channels that the kernels take at a time
BLOCK = 64  # filters
SAME = {"reshape", "view", "flatten", "dropout", "contiguous", "clone", "identity"}  # a value goes through unchanged
POOLS = {"max_pool2d", "boolean_dispatch", "avg_pool2d", "adaptive_avg_pool2d"}
KEPT = {
    "first": "the first layer: all that follows sees only what it lets through, and it takes little time",
    "last": "the last layer: its results are the scores themselves, which need more than a few levels",
    "pointwise": "a 1x1 convolution: its sums have few terms, so that signs lose most there",
}


def kind(module: nn.Module) -> type[nn.Module]:
    """The class of a module, without that of its parametrizations."""
    return type(module).__bases__[0] if parametrize.is_parametrized(module) else type(module)


def why_unfit(weight: Weight, activations: bool) -> str | None:
    """Why a weight's layers cannot be binary; None where they can."""
    if reason := why_not(weight) or why_small(weight):
        return reason
    links = encodings.chain(weight)
    if links and not (activations and isinstance(links[0], encodings.FewLevels)):
        return f"stored as {encodings.describe(weight)} already: put Binarize before the step that did it"
    for module, name in weight.owners:
        plain = kind(module) in (nn.Conv2d, nn.Linear, BinaryConv2d, BinaryLinear)
        weights_only = isinstance(module, _ConvNd | nn.Linear) and not isinstance(module, _ConvTransposeNd)
        if name != "weight" or not (plain if activations else weights_only):
            wanted = "Conv2d or Linear" if activations else "convolution or Linear"
            return f"part of {kind(module).__name__}, which is no plain {wanted}"
    return None


def why_kept(path: str, module: nn.Module, keep: tuple[str, ...], ends: tuple[set[str], set[str]]) -> str | None:
    """Why a layer stays in float32 unless it is asked for."""
    pointwise = isinstance(module, _ConvNd) and max(module.kernel_size) == 1
    holds = {"first": path in ends[0], "last": path in ends[1], "pointwise": pointwise}
    found = next((which for which in keep if holds[which]), None)
    return None if found is None else f"{KEPT[found]} (leave {found!r} out of keep to make it binary too)"


def notes(path: str, view: View, weights: str | None, activations: str | int | None) -> list[str]:
    """What the user should know of one layer that becomes binary."""
    if activations is None:
        return []
    module, found = view.modules[path], list[str]()
    why = "ternary weights have none" if weights == "ternary" else why_no_kernel(module)
    found += [f"no kernel, so it runs as standard operators: {why}"] if why else _words(module)
    channels = view.inputs[path].channels
    if channels < WORD:
        found.append(f"few channels, {channels}: little time is won, and its sums have few terms")
    if isinstance(activations, int) and activations > 1:
        found.append(f"{activations} bits take {activations} times as long as one: more channels may give more for it")
    return found + (_order(path, view) if activations == "sign" else [])


def _words(module: nn.Module) -> list[str]:
    """Channels that only fill up the words of the kernels."""
    assert isinstance(module, nn.Conv2d | nn.Linear)
    rows, columns = module.weight.shape[:2]
    counts = ((columns, WORD, "input channels"), (rows, BLOCK, "filters"))
    return [f"{n} {what} take the time of {-(-n // word) * word}" for n, word, what in counts if n % word]


def _order(path: str, view: View) -> list[str]:
    """What comes before a sign should be a BatchNorm, and pooling should come after the layer."""
    value = view.flow.inputs[path][0]
    while not any(isinstance(view.modules[giver], _BatchNorm) for giver in view.flow.givers.get(value, [])):
        step = view.flow.made_by.get(value)
        if step is None:
            return []
        if step.name not in SAME or not step.inputs:
            what = "pooling, after which signs are mostly alike" if step.name in POOLS else step.name
            return [f"before its sign comes {what}: BatchNorm -> sign -> layer -> pool is the better order"]
        value = step.inputs[0]
    return []


def unscaled(path: str, view: View) -> list[str]:
    """What is to be said of a layer whose weights are +1 and -1."""
    values = view.flow.outputs.get(path, [])
    after = [step.name for value in values for step in view.flow.uses.get(value, [])]
    if values and all(name == "batch_norm" for name in after):
        return []
    return ["its results are as much larger as its weights were small, and no BatchNorm after it evens that out"]
