"""Removing positions from the tensors of a network, or masking them; nothing here decides which."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.overrides import TorchFunctionMode

from rarefy import encodings
from rarefy.graph.channels import Channels, Removed
from rarefy.graph.tracing import plain_name
from rarefy.graph.weights import by_path

Kept = Mapping[str, Mapping[int, np.ndarray]]  # path -> dimension -> positions that stay
EPSILON = 1e-6


def cut(model: nn.Module, kept: Kept) -> None:
    """Keep only these positions of parameters and buffers (in place), in the form their encodings store them."""
    found, touched = by_path(model), dict[int, nn.Module]()
    buffers = dict(model.named_buffers(remove_duplicate=False))
    for path, dims in kept.items():
        if path in found:
            for dim, positions in dims.items():
                encodings.cut(found[path], dim, torch.from_numpy(positions))
            touched |= {id(m): m for m, _ in found[path].owners}
            continue
        parent, _, name = path.rpartition(".")
        module, tensor = model.get_submodule(parent), buffers[path]
        for dim, positions in dims.items():
            tensor = tensor.index_select(dim, torch.from_numpy(positions).to(tensor.device))
        module._buffers[name] = tensor
        touched[id(module)] = module
    for module in touched.values():
        _refit(module)


def _refit(module: nn.Module) -> None:
    """Make a layer's own account of its shape true again."""
    if isinstance(module, _ConvNd):
        _refit_convolution(module)
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, _NormBase):
        tensor = module.weight if module.weight is not None else module.running_mean
        module.num_features = len(tensor) if tensor is not None else module.num_features
    elif isinstance(module, nn.GroupNorm) and module.weight is not None:
        if module.num_groups == module.num_channels:
            module.num_groups = len(module.weight)
        module.num_channels = len(module.weight)
    elif isinstance(module, nn.PReLU):
        module.num_parameters = len(module.weight)
    elif isinstance(module, nn.Embedding):
        module.embedding_dim = module.weight.shape[1]


def _refit_convolution(module: _ConvNd) -> None:
    first, second = module.weight.shape[:2]
    transposed, depthwise = isinstance(module, _ConvTransposeNd), 1 < module.groups == module.in_channels
    if depthwise:
        per_channel = module.out_channels // module.in_channels
        module.groups = module.in_channels = first if transposed else first // per_channel
        module.out_channels = module.in_channels * per_channel
    elif transposed:
        module.in_channels, module.out_channels = first, second * module.groups
    else:
        module.in_channels, module.out_channels = second * module.groups, first


def masked(model: nn.Module, channels: Channels, removed: Removed, dropped: Removed) -> None:
    """Zero in a plain network (its tensors are replaced) what would be cut: the filters that make the removed channels.

    What is added to them afterwards, by biases and normalisation, stays: such a channel is constant. Of the channels
    in `dropped`, that is zeroed too.
    """
    found, buffers = by_path(model), dict(model.named_buffers(remove_duplicate=False))
    for slot in channels.slots:
        gone = {"out": removed, "bare": removed}.get(slot.kind, dropped)
        if slot.kind == "in" or not gone[slot.atoms].any():
            continue
        old = found[slot.path].values.detach() if slot.path in found else buffers[slot.path]
        positions = torch.from_numpy(np.flatnonzero(gone[slot.atoms])).to(old.device)
        new = old.index_fill(slot.dim, positions, 0)
        if slot.path in found:
            shared = nn.Parameter(new)
            for module, name in found[slot.path].owners:
                setattr(module, name, shared)
        else:
            parent, _, name = slot.path.rpartition(".")
            model.get_submodule(parent)._buffers[name] = buffers[slot.path] = new


class Inputs(TorchFunctionMode):
    """While active, the smallest and largest value that each input channel of each weight sees."""

    def __init__(self, model: nn.Module, channels: Channels, removed: Removed) -> None:
        super().__init__()
        self.range: dict[str, tuple[Tensor, Tensor]] = {}
        wanted = {s.path for s in channels.slots if s.kind == "in" and removed[s.atoms].any()}
        self._names = {id(p): path for path, p in model.named_parameters() if path in wanted}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, options = plain_name(func), kwargs or {}
        if name == "linear" or name.startswith("conv"):
            weight = args[1] if len(args) > 1 else options.get("weight")
            if id(weight) in self._names:
                self._see(self._names[id(weight)], args[0], -1 if name == "linear" else 1)
        return func(*args, **options)

    def _see(self, path: str, x: Tensor, dim: int) -> None:
        flat = x.detach().movedim(dim, 0).flatten(1)
        low, high = flat.aminmax(dim=1)
        if path in self.range:
            low, high = torch.minimum(low, self.range[path][0]), torch.maximum(high, self.range[path][1])
        self.range[path] = low, high


def inconstant(channels: Channels, removed: Removed, seen: Inputs, fixed: set[str]) -> Removed:
    """The removed channels that some layer does not see as a constant that its bias can take over.

    fixed: weights whose bias cannot change. A layer with zeros around its input can take over no constant but 0.
    """
    found, unfoldable = channels.none(), _unfoldable(channels, fixed)
    for slot in channels.slots:
        if slot.kind == "in" and slot.path in seen.range:
            low, high = (t.cpu().numpy() for t in seen.range[slot.path])
            scale = np.maximum(np.abs(low), np.abs(high))
            wrong = ~(high - low <= EPSILON * np.maximum(scale, 1))  # a NaN is no constant
            if slot.path in unfoldable:
                wrong |= scale > EPSILON
            atoms = np.tile(slot.atoms, len(low) // len(slot.atoms))
            found[atoms[wrong & removed[atoms]]] = True
    return found


def _unfoldable(channels: Channels, fixed: set[str]) -> set[str]:
    return fixed | {use.path for use in channels.uses if use.padded}


def read(channels: Channels, fixed: set[str]) -> Removed:
    """The channels that are read where no bias can take over a constant: by layers that have none or pad, and by
    products of computed tensors."""
    found, unfoldable = channels.none(), _unfoldable(channels, fixed)
    for atoms in channels.summed:
        found[atoms] = True
    for slot in channels.slots:
        if slot.kind == "in" and slot.path in unfoldable:
            found[slot.atoms] = True
    return found


def constants(channels: Channels, removed: Removed, seen: Inputs, model: nn.Module) -> dict[str, Tensor]:
    """weight path -> what the constants of removed channels add to its output, shape (out,), where they are not 0."""
    result, parameters = {}, dict(model.named_parameters())
    for slot in channels.slots:
        if slot.kind == "in" and slot.path in seen.range:
            weight, value = parameters[slot.path].detach(), seen.range[slot.path][0]
            gone = torch.from_numpy(np.tile(removed[slot.atoms], len(value) // len(slot.atoms))).to(value.device)
            value = torch.where(gone & (value.abs() > EPSILON), value, 0)
            if value.any():
                result[slot.path] = _response(weight, value)
    return result


def _response(weight: Tensor, value: Tensor) -> Tensor:
    """Of a linear layer or a convolution without transposition to constant input channels, (in,) -> (out,)."""
    groups = len(value) // weight.shape[1]
    by_group = value.view(groups, -1)
    some = by_group.any(0).nonzero().flatten()  # most are 0: only these columns are read
    taps = weight.index_select(1, some).flatten(2).sum(2) if weight.ndim > 2 else weight.index_select(1, some)
    sums = taps.double().view(groups, -1, len(some)) @ by_group.index_select(1, some).double()[:, :, None]
    return sums.flatten()
