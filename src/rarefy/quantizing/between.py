"""What is decided of all that is no weight: BatchNorms to fold, places to round, biases that are summed as integers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from rarefy import budget, encodings
from rarefy.errors import DataError, ModelError
from rarefy.graph.ends import first_and_last
from rarefy.graph.flow import Flow, flow
from rarefy.graph.modules import twin
from rarefy.graph.weights import Weight, chosen, weights
from rarefy.quantizing import biases, change
from rarefy.quantizing.decision import INTEGER_LAYERS
from rarefy.quantizing.normalisation import foldable, folded
from rarefy.quantizing.points import points
from rarefy.stand_in import read_by_code
from rarefy.step import Context, Plan
from rarefy.task import forward
from rarefy.train import evaluating


def decide(plan: Plan, model: nn.Module, found: list[Weight], skip: Sequence[str], context: Context) -> None:
    """Add to a plan that has the weights everything about activations, found out on a copy."""
    work = twin(model)
    seen = watched(work, context)
    owners = _owners(work)
    names = {path: owners[id(m)] for path, m in work.named_modules() if id(m) in owners}
    for norm, layer in foldings(plan, work, seen, skip, context).items():
        fold(plan, norm, layer)
        work = folded(work, norm, layer)
    encodings.decoded(work)
    modules = dict(work.named_modules())
    layers = [p for p, weight in names.items() if weight in plan.do and isinstance(modules[p], INTEGER_LAYERS)]
    seen = watched(work, context)
    layers = [path for path in layers if path in seen.inputs]
    plan.also |= {change.place_name(p.place): change.point_data(p) for p in points(work, seen, layers)}
    for path in layers:
        _bias(plan, path, plan.do[names[path]], {w.path: w for w in found}, skip)


def ends(model: nn.Module, context: Context) -> set[str]:
    """The weights of the first and of the last layers."""
    seen = watched(model, context)
    names = {id(m): w.path for w in weights(model) if w.tensor.ndim > 1 for m, _ in w.owners}
    layers = {path: names[id(m)] for path, m in model.named_modules() if id(m) in names and path in seen.outputs}
    first, last = first_and_last(seen, layers)
    return {layers[path] for path in first | last}


def narrow(plan: Plan, model: nn.Module, bits: dict[str, int]) -> None:
    """Set the bits of activations by those that the layers which read them want, given by their weights' paths; the
    most, where several read the same. What is read by no layer, only by sums and means, keeps 8."""
    owners = {id(m): w.path for w in weights(model) for m, _ in w.owners}
    wanted = {path: bits[owners[id(m)]] for path, m in model.named_modules() if owners.get(id(m)) in bits}
    most: dict[str, int] = {}
    for name, made in plan.also.items():
        path, _, side = name.rpartition(":")
        if side == "input" and path in wanted:
            most[made["of"]] = max(most.get(made["of"], 0), wanted[path])
    for made in plan.also.values():
        if "of" in made:
            made["bits"] = most.get(made["of"], 8)


def corrections(plan: Plan, model: nn.Module, context: Context) -> None:
    """Add what takes over the mean change of a layer's outputs where weights alone are rounded: the layer's own bias,
    or the mean of the BatchNorm after it. Nothing where there are no training examples that the network runs on: then
    weights are rounded all the same."""
    try:
        context.task.train(seed=context.seed)
        seen = watched(model, context)
    except (DataError, ModelError):
        return
    norms = {layer: norm for norm, layer in foldable(model, seen).items()}
    owners = _owners(model)
    for path, module in model.named_modules():
        if owners.get(id(module)) in plan.do and isinstance(module, INTEGER_LAYERS) and path in seen.inputs:
            plan.also[f"{path}:mean"] = {"corrects": path, "norm": norms.get(path)}


def settle(model: nn.Module, plan: Plan, blank: bool) -> None:
    """Put biases on the grid of the 32-bit integers that engines make of them, so that sums are the same there."""
    for path, made in plan.do.items():
        if made.get("bits") == 32:
            biases.store(model, path.rpartition(".")[0], blank)
    if not blank:
        biases.snap(model)


def watched(model: nn.Module, context: Context) -> Flow:
    """What passes through a network, on two examples."""
    inputs = budget.examples(model, context)
    with evaluating(model):
        return flow(model, lambda: forward(model, inputs))


def _owners(model: nn.Module) -> dict[int, str]:
    """The path of each layer's weight, by the id of the layer."""
    return {id(m): w.path for w in weights(model) for m, name in w.owners if name == "weight"}


def foldings(plan: Plan, model: nn.Module, seen: Flow, skip: Sequence[str], context: Context) -> dict[str, str]:
    """BatchNorm -> the layer to fold it into, where that one's weight is rounded.

    A BatchNorm whose attributes the network's own code reads is left, with that as its reason.
    """
    owners, modules = _owners(model), dict(model.named_modules())
    found = {
        norm: layer
        for norm, layer in foldable(model, seen).items()
        if owners[id(modules[layer])] in plan.do and not chosen(f"{norm}.weight", skip)
    }
    for norm, why in read_by_code(model, found, context).items():
        del found[norm]
        plan.leave |= {path: why for path in (f"{norm}.weight", f"{norm}.bias") if path in plan.leave}
    return found


def fold(plan: Plan, norm: str, layer: str) -> None:
    """Decide that a BatchNorm goes into a layer."""
    plan.also[norm] = {"into": layer}
    for path in (f"{norm}.weight", f"{norm}.bias"):
        if plan.leave.pop(path, None) or plan.do.pop(path, None):
            plan.do[path], plan.notes[path] = {"into": layer}, f"folded into {layer}"
    if plan.leave.pop(f"{layer}.bias", None):
        plan.do[f"{layer}.bias"], plan.notes[f"{layer}.bias"] = {"takes": norm}, f"takes over the shift of {norm}"


def _bias(plan: Plan, path: str, made: dict[str, Any], found: dict[str, Weight], skip: Sequence[str]) -> None:
    """A layer whose output stays float32 runs on integers if its bias is integers too."""
    bias = f"{path}.bias".removeprefix(".")
    rounded = f"{path}:input" in plan.also and f"{path}:output" not in plan.also
    plain = bias in found and not chosen(bias, skip) and not found[bias].chain and len(found[bias].owners) == 1
    if rounded and plain and not made["group"] and made["axis"] in (0, None):
        plan.leave.pop(bias, None)  # or a BatchNorm is folded into it
        plan.do[bias], plan.notes[bias] = {"bits": 32}, "32-bit integers, scale of input x weight"
