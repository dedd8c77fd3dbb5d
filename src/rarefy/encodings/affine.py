"""Integers with a scale."""

from __future__ import annotations

from typing import ClassVar, Self

import torch
from torch import Tensor

from rarefy.encodings.base import Encoding, Writer
from rarefy.numerics.affine import dequantize, fitted, limits, quantize
from rarefy.numerics.straight_through import rounded


class Affine(Encoding):
    """`weight = (q - zero_point) * scale` with q = round(values / scale) + zero_point, saturated (Jacob et al. 2018).

    values: a float weight, trained straight through the rounding; the file holds the integers. scale, zero_point: one,
    one for each position of dimension `axis`, or with `group` one for each `group` neighbours along dimension 1 of a
    matrix. 2 to 4 bits are stored as 4-bit integers, 5 to 8 as 8-bit ones (what the pack spends is their entropy), and
    32 is for biases. Smaller on disk; faster where the layer's input is rounded too, so that integer kernels run. These
    are of 8 bits: 4-bit integers are widened by a Cast, which engines do once, at loading.
    """

    rounds: ClassVar[bool] = True
    cuttable: ClassVar[bool] = True

    scale: Tensor
    zero_point: Tensor  # int8, the scale's shape

    def __init__(self, scale: Tensor, zero_point: Tensor, bits: int, axis: int | None, group: int = 0) -> None:
        super().__init__()
        self.bits, self.axis, self.group = bits, axis, group
        self.register_buffer("scale", scale.float())
        self.register_buffer("zero_point", zero_point.to(torch.int8))

    @classmethod
    def of(cls, weight: Tensor, bits: int, axis: int | None = 0, group: int = 0, symmetric: bool = True) -> Self:
        """The scales that fit `weight` best. (rows of what shares a scale, values) are looked at."""
        shape = cls.scales(weight.shape, axis, group)
        rows = weight.reshape(-1, group) if group else weight.reshape(1, -1)
        if axis is not None and not group:
            rows = weight.movedim(axis, 0).flatten(1)
        scale, point = fitted(rows, bits, symmetric=symmetric)
        return cls(scale.view(shape), point.view(shape), bits, axis, group)

    @staticmethod
    def scales(shape: torch.Size, axis: int | None, group: int) -> tuple[int, ...]:
        """The shape of the scales of a weight of this shape."""
        if group:
            return shape[0], shape[1] // group
        return () if axis is None else (shape[axis],)

    def spread(self, tensor: Tensor, ndim: int) -> Tensor:
        """Scales or zero points, so that they broadcast against a weight of `ndim` dimensions."""
        if self.group:
            return tensor.repeat_interleave(self.group, 1)
        return tensor if self.axis is None else tensor.view(-1, *[1] * (ndim - 1 - self.axis))

    def _limits(self) -> tuple[int, int]:
        return limits(self.bits)

    def forward(self, values: Tensor) -> Tensor:
        """Round, with straight-through gradients; the scale gets one too while it is a parameter."""
        scale, point = (self.spread(t, values.ndim) for t in (self.scale, self.zero_point.float()))
        return rounded(values, scale, point, self._limits(), values.numel() // self.scale.numel())

    def store(self, values: Tensor) -> Tensor:
        """The integers."""
        scale, point = (self.spread(t, values.ndim) for t in (self.scale, self.zero_point.float()))
        if self.bits > 8:
            return quantize(values.double(), scale.double(), point.double(), *self._limits()).to(torch.int32)
        return quantize(values, scale, point, *self._limits()).to(torch.int8)

    def restored(self, integers: Tensor) -> Tensor:
        """The values that are stored as `integers`, in the middle of what is rounded to each."""
        scale, point = (self.spread(t, integers.ndim) for t in (self.scale, self.zero_point.float()))
        return dequantize(integers, scale, point)

    @property
    def narrow(self) -> str | None:
        """4-bit integers are stored as such."""
        return "int4" if self.bits <= 4 else None

    def write(self, stored: str, writer: Writer) -> str:
        """`DequantizeLinear`, of 8-bit integers except in groups, for which there are 4-bit kernels."""
        widened = self.narrow and not self.group
        names = [writer.node("Cast", stored, to="int8") if widened else stored, writer.tensor("scale", self.scale)]
        if self.bits <= 8:  # ONNX Runtime's integer matrix product wants it written, zero or not
            names.append(writer.tensor("zero_point", self.zero_point, self.narrow if self.group else None))
        attributes = {} if self.axis is None else {"axis": self.axis}
        if self.group:
            attributes = {"axis": 1, "block_size": self.group}
        return writer.node("DequantizeLinear", *names, **attributes)

    def describe(self) -> str:
        """Bits, and what has a scale of its own."""
        per = f"per group of {self.group}" if self.group else "per tensor" if self.axis is None else "per channel"
        return f"int{self.bits} {per}"

    def tensors(self) -> list[tuple[int, int]]:
        """Scales and zero points."""
        points = [(self.zero_point.numel(), 4 if self.narrow and self.group else 8)] if self.bits <= 8 else []
        return [(self.scale.numel(), 32), *points]

    def cut(self, dim: int, positions: Tensor) -> Affine:
        """The scales of what is left; groups that lose some of their members end as a scale for each column."""
        scale, point, group = self.scale, self.zero_point, self.group
        if group and dim == 1:
            scale, point, group = scale.repeat_interleave(group, 1), point.repeat_interleave(group, 1), 1
        if (group and dim <= 1) or dim == self.axis:
            scale, point = (
                scale.index_select(dim if group else 0, positions),
                point.index_select(dim if group else 0, positions),
            )
        return Affine(scale, point, self.bits, self.axis, group)
