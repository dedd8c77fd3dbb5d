"""A saved file in the place of a network: a task's inputs in, outputs in the network's form out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rarefy.errors import ModelError

if TYPE_CHECKING:
    from rarefy.runtime import Port, Session

Arrays = dict[str, NDArray[Any]]


def answer(session: Session, *, like: Any = None) -> Callable[[Any], Any]:
    """`inputs -> output` of the file, on torch tensors.

    Inputs go to the file by name where they are a dict with the file's names, else in their order. like: any
    output of the network, whose form (tensor, tuple, dict, nested) the outputs then have; without it, the
    file itself says so (metadata `form`), else one output is a tensor and several are a dict. A file with a
    fixed batch is fed in pieces, the last one padded.
    """
    wanted = [port.name for port in session.inputs]
    names = [port.name for port in session.outputs]
    fixed, kind = _fixed_batch(session.inputs), session.metadata.get("form")

    def run(inputs: Any) -> Any:
        feed = _feed(wanted, inputs)
        pieces = [feed] if fixed is None else _pieces(feed, fixed)
        parts = [_outputs(session, piece) for piece in pieces]
        if fixed is None:
            return _form(parts[0], names, like, kind)
        whole = [np.concatenate(part)[: _examples(feed)] for part in zip(*parts, strict=True)]
        return _form(whole, names, like, kind)

    return run


def _feed(wanted: list[str], inputs: Any) -> Arrays:
    """The inputs as arrays, under the file's names for them."""
    from torch.utils import _pytree

    if isinstance(inputs, Mapping) and set(wanted) <= set(inputs):
        found = [inputs[name] for name in wanted]
    else:
        found = _pytree.tree_leaves(inputs)
    if len(found) != len(wanted):
        raise ModelError(
            f"the file takes {len(wanted)} inputs ({', '.join(wanted)}), the task gives {len(found)}; "
            "export it again with this task's inputs"
        )
    return {name: value.detach().cpu().numpy() for name, value in zip(wanted, found, strict=True)}


def _outputs(session: Session, feed: Arrays) -> list[NDArray[Any]]:
    given = session(*feed.values())
    return list(given.values()) if isinstance(given, dict) else [given]


def _fixed_batch(ports: Sequence[Port]) -> int | None:
    """The first dimension of the file's inputs where it is one and the same number, else None."""
    firsts = {port.shape[0] for port in ports if port.shape}
    first = firsts.pop() if len(firsts) == 1 else None
    return first if isinstance(first, int) else None


def _pieces(feed: Arrays, batch: int) -> list[Arrays]:
    """The feed cut into batches of exactly `batch`, the last one filled up with its last example."""
    order = np.arange(-(-_examples(feed) // batch) * batch).clip(max=_examples(feed) - 1)
    return [
        {name: value[chosen] if value.ndim else value for name, value in feed.items()}
        for chosen in order.reshape(-1, batch)
    ]


def _examples(feed: Arrays) -> int:
    return max((len(value) for value in feed.values() if value.ndim), default=1)


def _by_kind(tensors: list[Any], names: list[str], kind: str | None) -> Any:
    if kind == "sequence":
        return tuple(tensors)
    if kind == "dict" or len(tensors) > 1:
        return dict(zip(names, tensors, strict=True))
    return tensors[0]


def _form(arrays: list[NDArray[Any]], names: list[str], like: Any, kind: str | None) -> Any:
    """The outputs as tensors in the form of `like`."""
    import torch
    from torch.utils import _pytree

    tensors = [torch.from_numpy(array) for array in arrays]
    if like is None:
        return _by_kind(tensors, names, kind)
    leaves, form = _pytree.tree_flatten(like)
    if len(leaves) != len(tensors):
        raise ModelError(f"the file gives {len(tensors)} outputs ({', '.join(names)}), the network {len(leaves)}")
    return _pytree.tree_unflatten(tensors, form)
