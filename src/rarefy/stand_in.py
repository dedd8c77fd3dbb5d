"""Which layers another module cannot take the place of: those whose attributes the network's own code reads."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from rarefy.budget import examples
from rarefy.graph.modules import replaced, twin
from rarefy.graph.tracing import ROOT, TORCH
from rarefy.step import Context
from rarefy.task import forward
from rarefy.train import evaluating

_CALLS = str(Path("nn", "modules", "module.py"))  # how torch calls modules and looks up their attributes


class StandIn(nn.Sequential):
    """Calls the layer, and has none of its attributes."""


def hooked(layer: nn.Module) -> str | None:
    """Why a layer with hooks is left."""
    hooks = layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks
    return "its layer carries hooks, which would be lost: remove them first" if any(hooks) else None


def read_by_code(model: nn.Module, paths: Iterable[str], context: Context) -> dict[str, str]:
    """The layers of `paths` without which the network does not run as it did, and why: it reads `self.fc.weight`, say,
    or asks whether a layer is a Linear.

    Two runs, where there are none: as it is, and with something in the place of all of them. No example is asked for
    without paths.
    """
    inside = [path for path in paths if path]  # "" is the network itself
    if not inside:
        return {}
    inputs = examples(model, context)
    wanted = _answers(model, [], inputs)
    if _fails(model, inside, inputs, wanted) is None:
        return {}
    placed, read = list[str](), dict[str, str]()
    for path in inside:  # with those before it, since code may be content with any one of several
        if why := _fails(model, [*placed, path], inputs, wanted):
            read[path] = why
        else:
            placed.append(path)
    return read


def _answers(model: nn.Module, paths: list[str], inputs: object) -> list[Tensor]:
    """Of a copy with something else at `paths`; random numbers are the same in every call."""
    changed, device = twin(model), next(model.parameters()).device
    for path in paths:
        changed = replaced(changed, path, StandIn(changed.get_submodule(path)))
    with evaluating(changed), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        outputs = forward(changed, tree_map_only(Tensor, lambda tensor: tensor.to(device), inputs))
    return [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)]


def _fails(model: nn.Module, paths: list[str], inputs: object, wanted: list[Tensor]) -> str | None:
    try:
        found = _answers(model, paths, inputs)
    except Exception as error:  # whatever other people's networks raise
        return _words(error)
    try:
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-5, equal_nan=True)
    except AssertionError:
        return "with another module in its place the network answers differently: its code depends on the layer's type"
    return None


def _words(error: Exception) -> str:
    found = re.search(rf"'{StandIn.__name__}' object has no attribute '(\w+)'", str(error))
    where = _place(error)
    if found:
        return f"the network's own code reads its {found[1]}{where}, which what takes its place has not"
    return f"the network does not run with another module in its place: {str(error) or repr(error)}{where}"


def _place(error: Exception) -> str:
    """File and line of the network's code; of torch's, where a module of torch itself reads it."""
    called = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).parent != ROOT]
    modules = [f for f in called if not f.filename.endswith(_CALLS)]
    frames = [f for f in modules if not f.filename.startswith(TORCH)] or modules
    return f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
