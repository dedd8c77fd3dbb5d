"""Whether channels can be removed exactly, found out by doing it: masked and cut, the network must answer the same."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from rarefy import encodings
from rarefy.graph.channels import Channels, Removed
from rarefy.graph.modules import twin
from rarefy.graph.tracing import TORCH
from rarefy.graph.weights import Weight, by_path
from rarefy.pruning.cut import Inputs, constants, cut, inconstant, masked, read
from rarefy.pruning.examples import Examples

TOLERANCE = 1e-4  # of the largest output


@dataclass(frozen=True)
class Removal:
    """Channels that can be removed exactly."""

    removed: Removed
    dropped: Removed  # those whose shift goes too: the layers after them cannot take it over
    constants: dict[str, Tensor]  # weight -> what the removed channels' shifts add to its output, shape (out,)


def checked(model: nn.Module, channels: Channels, removed: Removed, examples: Examples) -> Removal | None:
    """The removal of these channels of the plain network `model`; None after noting in `channels` what must stay."""
    removal, zeroed, outputs = _masking(model, channels, removed, examples)
    if removal is None:
        return None
    if _difference(zeroed, channels, removal, examples, outputs) is None:
        return removal
    cut_groups = [g for g in channels.groups if removed[g.atoms].any()]
    reasons = [_fails(model, channels, _only(channels, removed, g.atoms), examples) for g in cut_groups]
    if not any(reasons) and _fails(model, channels, removed, examples) is None:
        return Removal(removed, removed, {})  # a shift went where no layer could show it
    for group, why in zip(cut_groups, reasons, strict=True):
        if why or not any(reasons):
            channels.keep(group.atoms, why or "cut together with others, the network answers differently")
    return None


def _masking(
    model: nn.Module, channels: Channels, removed: Removed, examples: Examples
) -> tuple[Removal | None, nn.Module, list[Any]]:
    """Zero filters until every layer sees removed channels as constants that it can take over; the network with these
    zeros, and what it answers. No removal after noting in `channels` what must stay."""
    unable = fixed(model)
    dropped = removed & read(channels, unable)
    while True:
        zeroed = twin(model)
        masked(zeroed, channels, removed, dropped)
        with torch.no_grad(), Inputs(zeroed, channels, removed) as seen:
            outputs = examples.settled(zeroed)
        wrong = inconstant(channels, removed, seen, unable)
        if not wrong.any():
            return Removal(removed, dropped, constants(channels, removed, seen, zeroed)), zeroed, outputs
        if (wrong & dropped).any():
            why = "what is left of it when it is zeroed is no constant that the layers after it could take over"
            for group in [g for g in channels.groups if (wrong & dropped)[g.atoms].any()]:
                channels.keep(group.atoms, why)
            return None, zeroed, outputs
        dropped = dropped | wrong


def fixed(model: nn.Module) -> set[str]:
    """Weights that no bias of their own goes with: a constant cannot be folded there."""
    return {path for path, weight in by_path(model).items() if not _has_bias(path, weight)}


def _has_bias(path: str, weight: Weight) -> bool:
    layers = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    alone = len(weight.owners) == 1 and weight.owners[0][1] == "weight" and path == weight.path
    return alone and isinstance(weight.module, layers)


def _only(channels: Channels, removed: Removed, atoms: np.ndarray) -> Removed:
    alone = channels.none()
    alone[atoms] = removed[atoms]
    return alone


def _fails(model: nn.Module, channels: Channels, removed: Removed, examples: Examples) -> str | None:
    """Why these channels cannot be cut, even where their shifts go too; None where they can."""
    zeroed = twin(model)
    masked(zeroed, channels, removed, removed)
    with torch.no_grad():
        outputs = examples.outputs(zeroed)
    return _difference(zeroed, channels, Removal(removed, removed, {}), examples, outputs)


def _difference(
    zeroed: nn.Module, channels: Channels, removal: Removal, examples: Examples, wanted: list[Any]
) -> str | None:
    """What is wrong with the masked network once it is cut (in place); None where it still answers as wanted."""
    kept = channels.kept(removal.removed)
    try:
        cut(zeroed, kept)
        fold(zeroed, folded(removal.constants, kept))
        with torch.no_grad():
            outputs = examples.outputs(zeroed)
    except Exception as error:  # anything may happen in the user's code
        return f"cut, the network fails: {str(error).splitlines()[0] if str(error) else error!r}{_place(error)}"
    pairs = zip(tree_leaves(wanted), tree_leaves(outputs), strict=True)
    if all(_same(a, b) for a, b in pairs if isinstance(a, Tensor)):
        return None
    return "cut, the network answers differently: its code depends on the number of channels"


def _same(one: Tensor, two: Tensor) -> bool:
    if one.shape != two.shape:
        return False
    if one.numel() == 0:
        return True
    one, two = one.double(), two.double()
    scale = torch.nan_to_num(one).abs().max().clamp(min=1)
    return torch.allclose(one / scale, two / scale, rtol=0, atol=TOLERANCE, equal_nan=True)


def _place(error: Exception) -> str:
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(TORCH)]
    return f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""


def folded(constants: dict[str, Tensor], kept: Mapping[str, Mapping[int, np.ndarray]]) -> dict[str, Tensor]:
    """The constants of the outputs that stay."""
    result = {}
    for path, amount in constants.items():
        outputs = kept.get(path, {}).get(0)
        result[path] = amount if outputs is None else amount[torch.from_numpy(outputs).to(amount.device)]
    return result


def fold(model: nn.Module, amounts: Mapping[str, Tensor]) -> None:
    """Add (after the cut) to the biases what removed channels contributed; where there is none, make one.

    A bias that was stored as integers stays one, of the same scale; in another encoding, it is a plain one afterwards.
    """
    found = by_path(model) if amounts else {}
    for path, amount in amounts.items():
        weight, bias = found[path], found.get(path.removesuffix("weight") + "bias")
        amount = amount.to(weight.tensor)
        if bias is None:
            weight.module.bias = nn.Parameter(amount, requires_grad=weight.values.requires_grad)
        else:
            integers = encodings.find(bias, encodings.Affine)
            encodings.encode(bias, () if integers is None else [integers], bias.tensor.detach() + amount)
