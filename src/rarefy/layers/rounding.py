"""Activations on a grid of 8-bit integers, at a named point of a network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

Side = Literal["input", "output"]


@dataclass(frozen=True)
class Rounding:
    """A hook that rounds what a module is given, or gives, to integers 0 .. 255 and back.

    y = (clip(round(x / scale) + zero_point, 0, 255) - zero_point) * scale; d y / d x = 1 inside the range, 0 beyond it.
    The module holds `<side>_scale` and `<side>_zero_point`, buffers that the file has too, where this is a pair of
    QuantizeLinear and DequantizeLinear. Being a hook and no module, it leaves every path of the network as it was.
    """

    side: Side

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], output: Any = None) -> Any:
        """As torch calls hooks: before a module with its inputs, after it with its output too."""
        if self.side == "output":
            return self.round(module, output)
        return (self.round(module, inputs[0]), *inputs[1:])

    def round(self, module: nn.Module, x: Tensor) -> Tensor:
        """Round one tensor; in float32, whatever precision is around it."""
        scale, point = module.get_buffer(f"{self.side}_scale"), module.get_buffer(f"{self.side}_zero_point")
        if torch.onnx.is_in_onnx_export():
            return _symbols(x, scale, point)
        return torch.fake_quantize_per_tensor_affine(x.float(), scale, point.int(), 0, 255)


def _symbols(x: Tensor, scale: Tensor, point: Tensor) -> Tensor:
    symbol: Any = torch.onnx.ops.symbolic
    q = symbol("QuantizeLinear", (x, scale, point), dtype=torch.uint8, shape=x.shape, version=21)
    back: Tensor = symbol("DequantizeLinear", (q, scale, point), dtype=torch.float32, shape=x.shape, version=21)
    return back


def attach(module: nn.Module, side: Side, scale: Tensor, point: Tensor, *, silent: bool = False) -> None:
    """Round on this side of `module` from now on. Points that share their two tensors share their range.

    silent: only hold the range, as what comes there is rounded already.
    """
    module.register_buffer(f"{side}_scale", scale)
    module.register_buffer(f"{side}_zero_point", point)
    if silent:
        return
    if side == "input":
        module.register_forward_pre_hook(Rounding(side))
    else:
        module.register_forward_hook(Rounding(side))


def rounded(module: nn.Module) -> list[Side]:
    """The sides on which `module` rounds."""
    hooks = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
    return [hook.side for hook in hooks if isinstance(hook, Rounding)]
