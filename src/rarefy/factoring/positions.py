"""How many positions each layer of a network is applied to, seen by running it once."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from rarefy.budget import examples
from rarefy.calibration import Hook, hooked
from rarefy.factoring.method import Geometry
from rarefy.step import Context
from rarefy.task import forward
from rarefy.train import evaluating

_EXAMPLES = 2  # that `examples` gives


def geometry(model: nn.Module, paths: Iterable[str], context: Context) -> dict[str, Geometry]:
    """Positions of one example that the Linear or Conv2d at each path is applied to, over all its calls; absent where
    the network never calls it."""
    inputs, found = examples(model, context), dict[str, Geometry]()

    def hook(path: str) -> Hook:
        def look(layer: nn.Module, x: Tensor, output: Tensor) -> None:
            before, now = found.get(path, Geometry(0.0, 0.0, 0.0)), _positions(layer, x, output)
            found[path] = Geometry(*(a + b / _EXAMPLES for a, b in zip(before, now, strict=True)))

        return look

    with hooked(model, {path: hook(path) for path in paths}), evaluating(model):
        device = next(model.parameters()).device
        forward(model, tree_map_only(Tensor, lambda tensor: tensor.to(device), inputs))
    return found


def _positions(layer: nn.Module, x: Tensor, output: Tensor) -> Geometry:
    if isinstance(layer, nn.Linear):
        return Geometry(*(x.numel() / x.shape[-1],) * 3)
    (height, width), (rows, columns) = x.shape[-2:], output.shape[-2:]
    images = x.shape[0] if x.ndim == 4 else 1
    return Geometry(images * height * width, images * rows * width, images * rows * columns)
