"""A real-valued shortcut around a convolution and the BatchNorm after it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from rarefy.binarizing.inputs import View
from rarefy.graph.ends import reached
from rarefy.graph.flow import Flow, Value
from rarefy.graph.modules import replaced
from rarefy.layers.binary_units import BinaryUnit, Copies

SUMS = {"add", "iadd", "radd", "sub", "isub", "rsub"}


def shortcuts(
    paths: Collection[str], view: View, read: Mapping[str, str]
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """For the layers at `paths`, as plain data, the shortcuts that fit, and why others whose shape would fit have none.

    A block that adds its input to its result would add it twice if each of its layers had a shortcut too, and the sum
    would double from block to block. The last layers come first: where a block has a shortcut, its first layer, which
    is left, has that one. `read`: modules whose attributes the network's own code reads, and why none replaces them.
    """
    made, without = dict[str, dict[str, Any]](), dict[str, str]()
    order = {value: place for place, value in enumerate(view.flow.made_by)}
    pointwise = {p for p, m in view.modules.items() if isinstance(m, nn.Conv2d) and max(m.kernel_size) == 1}
    # not those of 1x1 convolutions, which a block's own shortcut may hold
    closed = {value for path in set(view.layers) - pointwise for value in view.flow.outputs.get(path, [])}
    fitting = {path: unit for path in paths if (unit := _unit(path, view))}
    for path in sorted(fitting, key=lambda path: order.get(view.flow.outputs[path][0], -1), reverse=True):
        (before,), (after,) = view.flow.inputs[path], view.flow.outputs[path]
        if _added(view.flow, reached(view.flow, [before], closed | {after}), reached(view.flow, [after], closed)):
            without[path] = "no shortcut of its own: its block adds its input already"
        elif replaces := next((p for p in (path, fitting[path]["norm"]) if p in read), None):
            without[path] = f"no shortcut, which would replace {replaces}: {read[replaces]}"
        else:
            made[path] = fitting[path]
            closed.discard(after)
    return {path: made[path] for path in paths if path in made}, without


def _added(seen: Flow, around: set[Value], through: set[Value]) -> bool:
    """Whether one of each is summed somewhere."""
    return any(
        step.name in SUMS and {*step.inputs} & around - through and {*step.inputs} & through for step in seen.steps
    )


def _unit(path: str, view: View) -> dict[str, Any] | None:
    """None where the result has another shape than copies of the input, or the layer is called more than once."""
    layer, seen = view.modules[path], view.flow
    if not isinstance(layer, nn.Conv2d) or seen.calls[path] != 1:
        return None
    stats, stride = view.inputs[path], layer.stride[0]
    copies, rest = divmod(layer.out_channels, layer.in_channels)
    if rest or layer.stride[1] != stride or stats.result != tuple(-(-n // stride) for n in stats.image):
        return None
    (value,) = seen.outputs[path]
    alone = len(seen.uses.get(value, [])) == 1 and value not in seen.results
    norms = [p for p, m in view.modules.items() if isinstance(m, _BatchNorm) and seen.inputs.get(p) == [value]]
    return {"norm": norms[0] if alone and norms else None, "stride": stride, "copies": copies}


def with_shortcut(model: nn.Module, path: str, norm: str | None, stride: int, copies: int) -> nn.Module:
    """Put a unit where the layer is, and nothing where its BatchNorm was."""
    layer = model.get_submodule(path)
    batch = nn.Identity() if norm is None else model.get_submodule(norm)
    around = nn.Identity() if (stride, copies) == (1, 1) else Copies(stride, copies)
    if norm is not None:
        model = replaced(model, norm, nn.Identity())
    return replaced(model, path, BinaryUnit(layer, batch, around))
