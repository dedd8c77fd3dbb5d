"""Activations on a grid of integers, at a named point of a network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rarefy.numerics import straight_through
from rarefy.numerics.affine import limits

Side = Literal["input", "output"]


@dataclass(frozen=True)
class Rounding:
    """A hook that rounds what a module is given, or gives, to integers 0 .. 2^bits - 1 and back.

    y = (clip(round(x / scale) + zero_point, 0, 2^bits - 1) - zero_point) * scale; d y / d x = 1 inside the range and 0
    beyond it. The module holds `<side>_scale` and `<side>_zero_point`, tensors that the file has too, where this is
    QuantizeLinear, a Clip of the 8-bit integers for fewer bits (no engine computes with fewer), and DequantizeLinear.
    Being a hook and no module, it leaves every path of the network as it was.
    """

    side: Side
    bits: int = 8

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], output: Any = None) -> Any:
        """As torch calls hooks: before a module with its inputs, after it with its output too."""
        if self.side == "output":
            return self.round(module, output)
        return (self.round(module, inputs[0]), *inputs[1:])

    def round(self, module: nn.Module, x: Tensor) -> Tensor:
        """Round one tensor; in float32, whatever precision is around it."""
        scale, point = getattr(module, f"{self.side}_scale"), module.get_buffer(f"{self.side}_zero_point")
        if torch.onnx.is_in_onnx_export():
            return _symbols(x, scale, point, self.bits)
        return straight_through.rounded(x.float(), scale, point, limits(self.bits, signed=False), x[0].numel())


def _symbols(x: Tensor, scale: Tensor, point: Tensor, bits: int) -> Tensor:
    symbol: Any = torch.onnx.ops.symbolic
    q = symbol("QuantizeLinear", (x, scale, point), dtype=torch.uint8, shape=x.shape, version=21)
    if bits < 8:
        bounds = (torch.tensor(bound, dtype=torch.uint8) for bound in limits(bits, signed=False))
        q = symbol("Clip", (q, *bounds), dtype=torch.uint8, shape=x.shape, version=21)
    back: Tensor = symbol("DequantizeLinear", (q, scale, point), dtype=torch.float32, shape=x.shape, version=21)
    return back


def attach(module: nn.Module, side: Side, scale: Tensor, point: Tensor, *, bits: int = 8, silent: bool = False) -> None:
    """Round on this side of `module` from now on. Points that share their two tensors share their range.

    silent: only hold the range, as what comes there is rounded already.
    """
    module.register_buffer(f"{side}_scale", scale)
    module.register_buffer(f"{side}_zero_point", point)
    if silent:
        return
    if side == "input":
        module.register_forward_pre_hook(Rounding(side, bits))
    else:
        module.register_forward_hook(Rounding(side, bits))


def hand_over(old: nn.Module, new: nn.Module) -> None:
    """Round what `new` gives as `old` did what it gave."""
    for hook in old._forward_hooks.values():
        if isinstance(hook, Rounding):
            scale, point = old.get_buffer("output_scale"), old.get_buffer("output_zero_point")
            attach(new, "output", scale, point, bits=hook.bits)


def rounded(module: nn.Module) -> list[Side]:
    """The sides on which `module` rounds."""
    hooks = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
    return [hook.side for hook in hooks if isinstance(hook, Rounding)]
