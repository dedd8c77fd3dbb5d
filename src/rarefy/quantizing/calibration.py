"""Ranges of activations and the mean errors of rounded weights, from one pass over training examples."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from rarefy.calibration import batches
from rarefy.errors import InputError, StepError
from rarefy.numerics.observers import Observer
from rarefy.quantizing.points import Place, Point
from rarefy.step import Context
from rarefy.task import forward
from rarefy.train import evaluating


@dataclass
class Seen:
    """What was measured: an observer for each place, and the mean input of each layer."""

    ranges: dict[Place, Observer] = field(default_factory=dict)
    means: dict[str, Tensor] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)


def calibrated(
    model: nn.Module, points: Iterable[Point], layers: Iterable[str], context: Context, examples: int
) -> Seen:
    """Run the float network on `examples` training examples. Raises `StepError` where what a place or a layer sees is
    not finite."""
    seen, handles = Seen(), []
    for point in points:
        if point.place == point.of:
            handles.append(_watch(model, point, seen))
    for path in layers:
        handles.append(model.get_submodule(path).register_forward_pre_hook(_mean(path, seen)))
    done = 0
    try:
        with evaluating(model):
            for inputs in batches(context, examples):
                forward(model, inputs)
                done += 1
                context.progress("calibration", done, done + 1)
    finally:
        for handle in handles:
            handle.remove()
    if not done:
        raise StepError("calibration: there are no training examples; give some, or set activations to null")
    return seen


def _watch(model: nn.Module, point: Point, seen: Seen) -> Any:
    (path, side), observer = point.place, Observer()
    seen.ranges[point.place] = observer

    def look(tensor: Tensor) -> None:
        try:
            observer.add(tensor, point.clip)
        except InputError:
            raise _not_finite(path, side) from None

    module = model.get_submodule(path)
    if side == "input":
        return module.register_forward_pre_hook(lambda _, inputs: look(inputs[0]))
    return module.register_forward_hook(lambda _, __, output: look(output))


def _mean(path: str, seen: Seen) -> Callable[..., None]:
    """The mean over examples of a layer's input, as long as its shape stays the same."""

    def hook(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
        x = inputs[0].detach().float()
        old, mean = seen.means.get(path), x.mean(0, keepdim=True)
        if not bool(mean.isfinite().all()):
            raise _not_finite(path, "input")
        if old is None:
            seen.means[path], seen.counts[path] = mean, len(x)
        elif old.shape[1:] == x.shape[1:]:
            seen.counts[path] += len(x)
            old += (mean - old) * (len(x) / seen.counts[path])

    return hook


def _not_finite(path: str, side: str) -> StepError:
    return StepError(
        f"NaN or infinite values at the {side} of {path} while calibrating: look at the training examples, or leave "
        "the layer with skip"
    )


def mean_error(layer: nn.Module, difference: Tensor, mean: Tensor) -> Tensor:
    """What a layer's outputs lose on average when its weight loses `difference`: (channels,).

    The layer is linear, so its answer to the mean input is the mean answer, borders included (Nagel et al. 2019).
    """
    tensors = {"weight": difference}
    if layer.bias is not None:
        tensors["bias"] = torch.zeros_like(layer.bias)  # type: ignore[arg-type]
    with torch.no_grad():
        output: Tensor = functional_call(layer, tensors, (mean,))
    if isinstance(layer, nn.Linear):
        return output.reshape(-1, output.shape[-1]).mean(0)
    return output.movedim(1, 0).flatten(1).mean(1)
