"""What functions that treat every element by itself make of channels."""

from __future__ import annotations

import torch
from torch import Tensor

from rarefy.graph.atoms import varying
from rarefy.graph.tracing import Op, Tracer


def same(tracer: Tracer, op: Op) -> None:
    """Pointwise on one tensor: its labels."""
    for result in op.results():
        tracer.set(result, tracer.labels(op.tensors()[0]))


def pointwise(tracer: Tracer, op: Op) -> None:
    """Pointwise on several: what meets goes together."""
    result = op.results()[0]
    met = torch.zeros((), dtype=torch.int64).view((1,) * result.ndim)
    for tensor in op.tensors():
        if tensor.numel() > 1:
            labels = tracer.labels(tensor)
            met = _meet(tracer, op, met, labels[(None,) * (result.ndim - labels.ndim)])
    tracer.set(result, met.expand(result.shape))


def _meet(tracer: Tracer, op: Op, one: Tensor, two: Tensor) -> Tensor:
    """The labels of two tensors combined. A tensor that is only repeated along the other's channels ties nothing."""
    one, two = tracer.atoms.compact(one), tracer.atoms.compact(two)
    if one.numel() == 1:
        return two
    why = tracer.why(op, "meets fixed channels in")
    shape = torch.Size(map(max, one.shape, two.shape))
    if _repeated(two, one) and not varying(two):
        return one.expand(shape)
    if _repeated(one, two) and not varying(one):
        return two.expand(shape)
    if _repeated(one, two) or _repeated(two, one):
        tracer.atoms.keep(one, why)
        tracer.atoms.keep(two, why)
        return torch.zeros((), dtype=torch.int64).expand(shape)
    tracer.atoms.unite(one, two, why)
    return (one if varying(one) else two).expand(shape)


def _repeated(one: Tensor, two: Tensor) -> bool:
    return any(one.size(dim) == 1 for dim in varying(two))
