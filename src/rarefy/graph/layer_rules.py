"""What layers with weights make of channels: convolutions, matrices, normalisation, attention."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rarefy.graph.atoms import along, spread, varying
from rarefy.graph.pointwise import same
from rarefy.graph.tracing import Op, Tracer, Use


def convolved(tracer: Tracer, op: Op) -> None:
    """A convolution: its filters are new channels. Depthwise it keeps those of its input; grouped, all groups lose the
    same ones."""
    x, weight, bias = op.args[0], op.get(1, "weight"), op.get(2, "bias")
    transposed = "transpose" in op.name
    groups = op.get(6, "groups", 1)
    labels = tracer.whole_dims(tracer.labels(x), 1, op)
    if labels is None or x.ndim != weight.ndim or id(weight) not in tracer.names:
        return tracer.opaque(op)
    into, outside = (0, 1) if transposed else (1, 0)
    if groups > 1 and groups == len(labels):
        out = labels.repeat_interleave(op.results()[0].shape[1] // groups)
        tracer.slot(weight, 0, "out", labels if transposed else out)
    else:
        _tie_groups(tracer, op, labels, groups)
        tracer.slot(weight, into, "in", labels if transposed else labels[: len(labels) // groups])
        out = tracer.slot(weight, outside, "out")
        out = out.repeat(groups) if transposed else out  # its rows serve all groups
        _tie_groups(tracer, op, out, groups)
    if bias is not None:
        tracer.slot(bias, 0, "shift", out)
    result = op.results()[0]
    spatial = (x if transposed else result).shape[2:].numel()
    around = op.get(4, "padding", 0)
    tracer.trace.uses.append(Use(tracer.names[id(weight)], x.shape[0] * spatial, transposed or _any(around)))
    return tracer.set(result, spread(out, result.shape, 1))


def _tie_groups(tracer: Tracer, op: Op, labels: Tensor, groups: int) -> None:
    if groups > 1:
        by_group = labels.view(groups, -1)
        tracer.atoms.unite(by_group, by_group[:1], tracer.why(op, "meets fixed channels in"))


def _any(padding: Any) -> bool:
    if isinstance(padding, str):
        return padding != "valid"
    return any(padding) if isinstance(padding, (tuple, list)) else bool(padding)


def linear(tracer: Tracer, op: Op) -> None:
    """A matrix: its rows are new channels of the last dimension."""
    x, weight, bias = op.args[0], op.get(1, "weight"), op.get(2, "bias")
    labels = tracer.whole_dims(tracer.labels(x), -1, op)
    if labels is None or id(weight) not in tracer.names:
        return tracer.opaque(op)
    tracer.slot(weight, 1, "in", labels)
    out = tracer.slot(weight, 0, "out")
    if bias is not None:
        tracer.slot(bias, 0, "shift", out)
    tracer.trace.uses.append(Use(tracer.names[id(weight)], x.numel() // x.shape[-1], padded=False))
    result = op.results()[0]
    return tracer.set(result, spread(out, result.shape, -1))


def embedded(tracer: Tracer, op: Op) -> None:
    """A table: its columns are new channels."""
    weight, result = op.get(1, "weight"), op.results()[0]
    if id(weight) not in tracer.names:
        return tracer.opaque(op)
    return tracer.set(result, spread(tracer.slot(weight, 1, "bare"), result.shape, -1))


def batch_normalised(tracer: Tracer, op: Op) -> None:
    """BatchNorm, InstanceNorm: each channel by itself."""
    labels = tracer.whole_dims(tracer.labels(op.args[0]), 1, op)
    if labels is None:
        return tracer.opaque(op)
    kinds = {(1, "running_mean"): "statistic", (2, "running_var"): "statistic", (3, "weight"): "scale"}
    for (index, name), kind in {**kinds, (4, "bias"): "shift"}.items():
        tensor = op.get(index, name)
        if tensor is not None and id(tensor) in tracer.names:
            tracer.slot(tensor, 0, kind, labels)
        elif tensor is not None:
            tracer.atoms.keep(labels, tracer.why(op, "is scaled by computed values in"))
    return same(tracer, op)


def group_normalised(tracer: Tracer, op: Op) -> None:
    """GroupNorm over single channels is each by itself; over more, and LayerNorm, mixes them: they stay."""
    labels = tracer.labels(op.args[0])
    if op.name == "group_norm":
        mixes, weight, bias = op.get(1, "num_groups") != labels.size(1), op.get(2, "weight"), op.get(3, "bias")
    else:
        over = range(labels.ndim - len(op.get(1, "normalized_shape")), labels.ndim)
        mixes, weight, bias = bool(set(over) & set(varying(labels))), None, None
    flat = None if mixes else tracer.whole_dims(labels, 1 if op.name == "group_norm" else -1, op)
    if mixes or flat is None:
        return tracer.opaque(op)
    for tensor, kind in ((weight, "scale"), (bias, "shift")):
        if tensor is not None and id(tensor) in tracer.names:
            tracer.slot(tensor, 0, kind, flat)
    return same(tracer, op)


def sloped(tracer: Tracer, op: Op) -> None:
    """PReLU with a slope for each channel."""
    weight = op.get(1, "weight")
    if weight.numel() > 1:
        labels = tracer.whole_dims(tracer.labels(op.args[0]), 1, op)
        if labels is None or id(weight) not in tracer.names:
            return tracer.opaque(op)
        tracer.slot(weight, 0, "scale", labels)
    return same(tracer, op)


def multiplied(tracer: Tracer, op: Op) -> None:
    """A product of matrices, such as attention: what is summed goes together, the outer dimensions stay."""
    one, two = op.args[0], op.get(1, "other", op.options.get("mat2"))
    a, b, result = tracer.labels(one), tracer.labels(two), op.results()[0]
    if one.ndim < 2 or two.ndim < 2:
        return tracer.opaque(op)
    rows, inner = ([d - a.ndim for d in varying(a)] == [side] for side in (-2, -1))
    inner_too, columns = ([d - b.ndim for d in varying(b)] == [side] for side in (-2, -1))
    fixed = torch.zeros((), dtype=torch.int64).expand(result.shape)
    if (rows and not varying(b)) or (columns and not varying(a)):
        outer = along(a, -2) if rows else along(b, -1)
        return tracer.set(result, spread(outer, result.shape, -2 if rows else -1))
    if (inner or not varying(a)) and (inner_too or not varying(b)):
        tracer.atoms.unite(along(a, -1), along(b, -2), tracer.why(op, "meets fixed channels in"))
        tracer.trace.summed.append(along(a, -1))
        return tracer.set(result, fixed)
    return tracer.opaque(op)


def attended(tracer: Tracer, op: Op) -> None:
    """Scaled dot products: queries and keys stay (the scale is made from their width); values pass."""
    query, key, value = (op.get(i, n) for i, n in enumerate(("query", "key", "value")))
    for tensor in (query, key):
        tracer.atoms.keep(tracer.labels(tensor), tracer.why(op, "is a query or key of"))
    labels = tracer.whole_dims(tracer.labels(value), -1, op)
    if labels is None:
        return tracer.opaque(op)
    result = op.results()[0]
    return tracer.set(result, spread(labels, result.shape, -1))
