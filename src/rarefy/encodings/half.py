"""Sixteen bits instead of thirty-two."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from rarefy.encodings.base import Encoding, Writer

Format = Literal["float16", "bfloat16"]


class _Round(torch.autograd.Function):
    """Round to a 16-bit format and back; d weight / d values = 1 (straight-through)."""

    @staticmethod
    def forward(_ctx: Any, values: Tensor, dtype: torch.dtype) -> Tensor:
        return values.to(dtype).to(values.dtype)

    @staticmethod
    def backward(_ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


class Half(Encoding):
    """`weight = float32(half(values))`, stored as 16-bit floats; the gradient passes straight through the rounding.

    Half the bytes. Not faster: the engine turns the weights into float32 when it loads them.
    """

    cuttable: ClassVar[bool] = True

    def __init__(self, format: Format = "float16") -> None:
        super().__init__()
        self.format: Format = format

    @property
    def dtype(self) -> torch.dtype:
        """The type that is stored."""
        return torch.float16 if self.format == "float16" else torch.bfloat16

    def forward(self, values: Tensor) -> Tensor:
        """Round, with a straight-through gradient."""
        rounded: Tensor = _Round.apply(values, self.dtype)  # type: ignore[no-untyped-call]
        return rounded

    def store(self, values: Tensor) -> Tensor:
        """The rounded values, 16 bits each."""
        return values.to(self.dtype)

    def write(self, stored: str, writer: Writer) -> str:
        """`Cast` to float32."""
        return writer.node("Cast", stored, to="float32")

    def describe(self) -> str:
        """The format."""
        return self.format

    def cut(self, dim: int, positions: Tensor) -> Half:
        """The same."""
        return Half(self.format)
