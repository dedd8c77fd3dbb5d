"""Layers in a row whose channels can be given equal ranges: see `rarefy.numerics.equalisation`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rarefy import calibration, encodings
from rarefy.graph.flow import Flow
from rarefy.graph.weights import Weight, weights
from rarefy.numerics.equalisation import factors, within
from rarefy.quantizing.points import bounded
from rarefy.step import Context, Plan
from rarefy.task import forward
from rarefy.train import evaluating

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Linear)
THROUGH = {"max_pool1d", "max_pool2d", "boolean_dispatch", "avg_pool2d", "dropout"}  # channels stay channels
SWEEPS = 10  # over all pairs; ranges move along a chain of layers


@dataclass(frozen=True)
class Pair:
    """Two layers, and the least bound that what passes between them is clipped at (infinite: none)."""

    first: str
    second: str
    bound: float


def pairs(model: nn.Module, seen: Flow, chosen: set[str]) -> list[Pair]:
    """The layers, of those whose weights are chosen, that give all they give to one other such layer."""
    owners = {id(m): w for w in weights(model) for m, name in w.owners if name == "weight"}
    plain = {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, LAYERS) and seen.calls[path] == 1 and _plain(module, owners.get(id(module)), chosen)
    }
    readers = {seen.inputs[path][0]: path for path in plain if path in seen.inputs}
    found = []
    for path, module in plain.items():
        value, bound = seen.outputs.get(path, [None])[0], math.inf
        while value is not None and value not in readers:
            uses = seen.uses.get(value, [])
            step = uses[0] if len(uses) == 1 and value not in seen.results else None
            clip = None if step is None else bounded(step)
            passes = step is not None and (clip is not None or step.name in THROUGH)
            bound = min(bound, clip[1]) if clip is not None else bound
            value = step.outputs[0] if step is not None and passes else None
        alone = value is not None and len(seen.uses.get(value, [])) == 1 and value not in seen.results
        reader = readers[value] if value is not None and alone else None
        if reader is not None and isinstance(module, nn.Linear) == isinstance(plain[reader], nn.Linear):
            found.append(Pair(path, reader, bound))
    return found


def _plain(module: nn.Module, weight: Weight | None, chosen: set[str]) -> bool:
    """Whether a layer's tensors are its own, and floats that can be multiplied."""
    bias = module._parameters.get("bias")
    links = () if weight is None else encodings.chain(weight)
    hooks = bool(module._forward_hooks or module._forward_pre_hooks)
    own = weight is not None and weight.path in chosen and len(weight.owners) == 1
    return (
        own
        and not hooks
        and all(isinstance(k, encodings.Mask) for k in links)
        and (bias is not None or module.bias is None)
    )


def planned(plan: Plan) -> list[Pair]:
    """The pairs that a plan holds."""
    found = [(name, made) for name, made in plan.also.items() if "next" in made]
    return [
        Pair(n.removesuffix(":channels"), m["next"], math.inf if m["bound"] is None else m["bound"]) for n, m in found
    ]


def data(pair: Pair) -> dict[str, Any]:
    """A pair as plain data, for a plan; no bound is None."""
    return {"next": pair.second, "bound": pair.bound if math.isfinite(pair.bound) else None}


def equalise(model: nn.Module, pairs: list[Pair], context: Context, examples: int) -> None:
    """Multiply the weights and biases of every pair (in place) so that their channels have equal ranges.

    Exact in float32. What is clipped (ReLU6) is so where no training example comes near the bound, and left elsewhere.
    """
    clipped = {pair.first for pair in pairs if math.isfinite(pair.bound)}
    largest = _largest(model, clipped, context, examples) if clipped else {}
    for _ in range(SWEEPS):
        for pair in pairs:
            first, second = model.get_submodule(pair.first), model.get_submodule(pair.second)
            one, two = _weight(first), _weight(second)
            columns = _columns(second, two.tensor.detach())
            factor = factors(one.tensor.detach().flatten(1).abs().amax(1), columns.abs().amax((1, 3)).flatten())
            if pair.first in largest:
                factor = within(factor, largest[pair.first], pair.bound)
                largest[pair.first] /= factor
            _multiply(first, one, two, columns, factor)


def _multiply(first: nn.Module, one: Weight, two: Weight, columns: Tensor, factor: Tensor) -> None:
    spread = factor.view(columns.shape[0], 1, -1, 1)
    rows = one.values.detach() / factor.view(-1, *[1] * (one.tensor.ndim - 1))
    with torch.no_grad():
        one.values.copy_(rows)
        two.values.copy_((two.values.view(columns.shape) * spread).view(two.values.shape))
        bias = first._parameters.get("bias")
        if bias is not None:
            bias.div_(factor)


def _weight(module: nn.Module) -> Weight:
    return Weight("weight", ((module, "weight"),))


def _columns(module: nn.Module, weight: Tensor) -> Tensor:
    """(groups, outputs of a group, inputs of a group, positions)."""
    groups = module.groups if isinstance(module, (nn.Conv1d, nn.Conv2d)) else 1
    return weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)


def _largest(model: nn.Module, paths: set[str], context: Context, examples: int) -> dict[str, Tensor]:
    """Of what each channel of each layer gives: (channels,)."""
    found: dict[str, Tensor] = {}

    def look(path: str) -> calibration.Hook:
        def hook(module: nn.Module, _: Tensor, output: Tensor) -> None:
            last = output if isinstance(module, nn.Linear) else output.movedim(1, -1)
            top = last.detach().flatten(0, -2).amax(0).clamp(min=0)
            found[path] = torch.maximum(found[path], top) if path in found else top

        return hook

    with calibration.hooked(model, {path: look(path) for path in paths}), evaluating(model):
        for inputs in calibration.batches(context, examples):
            forward(model, inputs)
    return found
