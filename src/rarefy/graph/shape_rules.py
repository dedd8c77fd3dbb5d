"""What functions that move, join, split, reduce and pool elements make of channels."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_leaves

from rarefy.graph.atoms import core, spread, varying
from rarefy.graph.pointwise import pointwise, same
from rarefy.graph.tracing import Op, Tracer


def shaped(tracer: Tracer, op: Op) -> None:
    """Reshaping and permuting act on the labels as on the tensor."""
    labels = tracer.labels(op.args[0])
    moved = _again(op, labels)
    tracer.set(op.results()[0], tracer.atoms.flat(moved, tracer.why(op, "meets fixed channels in")))


def _again(op: Op, labels: Tensor) -> Any:
    """The same call on labels; never in place, and never asking for a certain memory layout."""
    name = {"view": "reshape", "view_as": "reshape_as"}.get(op.name, op.name)
    if name in ("T", "mT"):
        return getattr(labels, name)
    function = getattr(Tensor, name, op.func)
    return function(labels, *op.args[1:], **op.options)


def parted(tracer: Tracer, op: Op) -> None:
    """Parts of a tensor. Where it is split along its channels, into equal parts, all lose the same ones."""
    labels = tracer.labels(op.args[0])
    parts = tree_leaves(_again(op, labels))
    for part, result in zip(parts, op.results(), strict=True):
        _tie_parts(tracer, op, labels, part)
        tracer.set(result, part)
    for result in op.results():
        tracer.set(result, tracer.atoms.flat(tracer.labels(result), tracer.why(op, "meets fixed channels in")))


def _tie_parts(tracer: Tracer, op: Op, labels: Tensor, part: Tensor) -> None:
    if torch.isin(core(labels), core(tracer.atoms.compact(part))).all():
        return  # the channels are all there
    for dim in varying(labels):
        if part.ndim == labels.ndim and part.size(dim) and labels.size(dim) % part.size(dim) == 0:
            pieces = torch.split(labels, part.size(dim), dim)
            if any(piece.shape == part.shape and torch.equal(piece, part) for piece in pieces):
                for one, two in pairwise(pieces):
                    tracer.atoms.unite(one, two, tracer.why(op, "meets fixed channels in"))
                return
    tracer.atoms.keep(labels, tracer.why(op, "is picked apart by"))


def assigned(tracer: Tracer, op: Op) -> None:
    """`x[index] = y`: what meets goes together."""
    tensor, index, value = op.args
    labels = tracer.labels(tensor)
    if isinstance(value, Tensor) and value.numel() > 1:
        tracer.atoms.unite(labels[index], tracer.labels(value), tracer.why(op, "meets fixed channels in"))


def joined(tracer: Tracer, op: Op) -> None:
    """Concatenated along the channels: one after the other. Along anything else: what meets goes together."""
    tensors, result = list(op.args[0] if op.args else op.options["tensors"]), op.results()[0]
    dim = op.get(1, "dim", op.options.get("axis", 0)) % result.ndim
    labels = [tracer.atoms.compact(tracer.labels(t)) for t in tensors]
    if op.name == "stack":
        labels = [part.unsqueeze(dim) for part in labels]
    if any(d != dim for part in labels for d in varying(part)):
        first = [part.narrow(dim, 0, 1) for part in labels]
        for one, two in pairwise(first):
            tracer.atoms.unite(one, two, tracer.why(op, "meets fixed channels in"))
    tracer.set(result, tracer.atoms.flat(torch.cat(labels, dim), tracer.why(op, "meets fixed channels in")))


def reduced(tracer: Tracer, op: Op) -> None:
    """A mean, sum, maximum ... over some dimensions; over the channels, they all count and stay."""
    if op.name in ("max", "min") and isinstance(op.get(1, "other"), Tensor):
        return pointwise(tracer, op)
    labels = tracer.labels(op.args[0])
    dims = _dims(op.get(2 if op.name == "norm" else 1, "dim", op.options.get("axis")), labels.ndim)
    if set(dims) & set(varying(labels)):
        return tracer.opaque(op)
    for dim in dims:
        labels = labels.narrow(dim, 0, 1)
    for result in op.results():
        kept = labels if result.ndim == labels.ndim else labels.squeeze(tuple(dims))
        tracer.set(result, kept.expand(result.shape))
    return None


def normalised(tracer: Tracer, op: Op) -> None:
    """Softmax and its like: what is divided by all stays whole."""
    labels = tracer.labels(op.args[0])
    default = 1 if op.name == "normalize" else None
    dims = _dims(op.get(2 if op.name == "normalize" else 1, "dim", default), labels.ndim)
    if set(dims) & set(varying(labels)):
        return tracer.opaque(op)
    return same(tracer, op)


def _dims(dim: Any, ndim: int) -> list[int]:
    if dim is None:
        return list(range(ndim))
    return [d % ndim for d in (dim if isinstance(dim, (tuple, list)) else [dim])]


def pooled(tracer: Tracer, op: Op) -> None:
    """Pooling and resizing: the channels of dimension 1 stay what they are."""
    for result in op.results():
        labels = tracer.whole_dims(tracer.labels(op.args[0]), 1, op)
        fixed = torch.zeros((), dtype=torch.int64).expand(result.shape)
        tracer.set(result, fixed if labels is None else spread(labels, result.shape, 1))


def padded(tracer: Tracer, op: Op) -> None:
    """Padding: beside the channels, positions that stay; elsewhere, more of the same."""
    labels, result = tracer.labels(op.args[0]), op.results()[0]
    pads = list(op.get(1, "pad"))
    amounts = {labels.ndim - 1 - i: (pads[2 * i], pads[2 * i + 1]) for i in range(len(pads) // 2)}
    for dim, (before, after) in amounts.items():
        if dim in varying(labels) and (before or after):
            if op.get(2, "mode", "constant") != "constant" or before < 0 or after < 0:
                return tracer.opaque(op)
            core = F.pad(tracer.whole_dims(labels, dim, op), (before, after))  # type: ignore[arg-type]
            return tracer.set(result, spread(core, result.shape, dim))
    for dim in varying(labels):
        return tracer.set(result, spread(tracer.whole_dims(labels, dim, op), result.shape, dim))  # type: ignore[arg-type]
    return tracer.set(result, labels.reshape(-1)[:1].expand(result.shape))
