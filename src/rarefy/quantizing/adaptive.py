"""AdaRound for the weights of layers: see `rarefy.numerics.adaptive_rounding`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

import torch
from torch import Tensor, nn

from rarefy import calibration
from rarefy.encodings import Affine
from rarefy.graph.weights import Weight
from rarefy.numerics.adaptive_rounding import adaptively_rounded
from rarefy.numerics.affine import limits
from rarefy.step import Context

WIDEST = 2304  # inputs of one output: time and memory grow with their square
HELD = 64 << 20  # values of second moments that are in memory at a time


def why_not(weight: Weight) -> str | None:
    """Why a weight is rounded to the nearest integers all the same; None where it need not be."""
    if not isinstance(weight.module, (nn.Conv2d, nn.Linear)):
        return f"of {type(weight.module).__name__}"
    if len(weight.owners) > 1 or weight.chain:
        return "shared or encoded"
    width = weight.tensor[0].numel()
    return f"{width} inputs are more than {WIDEST}" if width > WIDEST else None


def moments(
    model: nn.Module, paths: Iterable[str], centred: Collection[str], context: Context, examples: int
) -> Iterator[Tensor | None]:
    """E[x x^T] of what the layers at `paths` see, one after the other: (groups, inputs, inputs); of those in `centred`,
    the covariance, as their mean errors are taken over afterwards. None where nothing reaches the layer. Later ones see
    what has become of earlier ones since. As many at a time as `HELD` allows are in memory."""

    def found(paths: list[str]) -> Iterator[Tensor | None]:
        made = calibration.second_moments(model, paths, context, examples, centred=centred) if paths else {}
        yield from (made.pop(path, None) for path in paths)

    waiting, held = list[str](), 0
    for path in paths:
        size = _values(model.get_submodule(path))
        if waiting and held + size > HELD:
            yield from found(waiting)
            waiting, held = [], 0
        waiting.append(path)
        held += size
    yield from found(waiting)


def _values(layer: nn.Module) -> int:
    groups, weight = getattr(layer, "groups", 1), layer.weight
    assert isinstance(weight, Tensor)
    return groups * weight[0].numel() ** 2


def adapted(module: nn.Module, weight: Tensor, link: Affine, moments: Tensor) -> Tensor:
    """The values, whole multiples of the scales of `link`, that the weight of a layer is rounded to."""
    groups = module.groups if isinstance(module, nn.Conv2d) else 1
    form = groups, weight.shape[0] // groups, -1
    scale, point = (link.spread(t, weight.ndim).expand_as(weight).reshape(form) for t in (link.scale, link.zero_point))
    made = adaptively_rounded(weight.reshape(form), moments, scale, point.float(), limits(link.bits))
    return torch.as_tensor(made).reshape(weight.shape)
