"""Step sizes that a training changes: parameters for as long as it lasts, tensors of the file before and after."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from rarefy.encodings import Affine

FURTHEST = 16  # times larger or smaller than at its start: a step is never zero, negative or infinite
SIDES = ("input_scale", "output_scale")  # of a module that rounds


def released(model: nn.Module) -> dict[nn.Parameter, Tensor]:
    """Make every scale of weights and activations (in place) a parameter; gives each with what it starts at."""
    made: dict[int, tuple[Tensor, nn.Parameter]] = {}
    for module, name in list(_places(model)):
        if (scale := module._buffers.get(name)) is not None:
            del module._buffers[name]
            shared = made.setdefault(id(scale), (scale, nn.Parameter(scale.clone())))
            module.register_parameter(name, shared[1])
    return {parameter: scale for scale, parameter in made.values()}


def held(model: nn.Module) -> None:
    """Make them (in place) tensors again that no training changes; what was shared stays shared."""
    made: dict[int, Tensor] = {}
    for module, name in list(_places(model)):
        if (scale := module._parameters.get(name)) is not None:
            del module._parameters[name]
            module.register_buffer(name, made.setdefault(id(scale), scale.detach().clone()))


def _places(model: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    for module in model.modules():
        if isinstance(module, Affine):
            if module.bits <= 8:  # those of biases follow from others
                yield module, "scale"
        else:
            yield from ((module, name) for name in SIDES)


def bounded(starts: dict[nn.Parameter, Tensor]) -> Callable[[float, float], None]:
    """What to call after every step of the optimizer, so that scales stay in reach of their starts."""
    bounds = {parameter: (start / FURTHEST, start * FURTHEST) for parameter, start in starts.items()}

    @torch.no_grad()
    def after(_rate: float, _done: float) -> None:
        for parameter, (low, high) in bounds.items():
            parameter.clamp_(low.to(parameter), high.to(parameter))

    return after
