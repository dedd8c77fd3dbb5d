"""How a binary convolution is made, and the checks that do not need the library."""

from __future__ import annotations

from dataclasses import dataclass

from rarefy.errors import InputError


@dataclass(frozen=True)
class Convolution:
    """Geometry and activations of a binary convolution.

    padding: top, left, bottom, right, with activations of `pad_value`: -1, 0 or 1. bits: 0 for signs; 1 to 4 for the
    integers round(clip(x * steps, 0, 2^bits - 1)), half to even, whose padding is 0. map: multiply by XNOR-Net's K, the
    mean |x| under the filter (zeros outside counted).
    """

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    pad_value: int = 0
    bits: int = 0
    steps: float = 1.0
    map: bool = False

    def __post_init__(self) -> None:
        if min(*self.stride, *self.dilation) < 1 or min(self.padding) < 0:
            raise InputError(f"stride and dilation must be at least 1 and padding at least 0: {self}")
        if not 0 <= self.bits <= 4:
            raise InputError(f"activations have 1 to 4 bits, or 0 for signs, not {self.bits}")
        if self.pad_value not in ((0,) if self.bits else (-1, 0, 1)):
            raise InputError(f"padding is -1, 0 or 1 beside signs and 0 beside integers, not {self.pad_value}")
        if not 0 < self.steps < float("inf"):
            raise InputError(f"steps, the levels for each unit of x, must be positive and finite, not {self.steps}")

    def output(self, height: int, width: int, filters: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the result. Raises `InputError` where the filter does not fit."""
        top, left, bottom, right = self.padding
        room = (height + top + bottom, width + left + right)
        sizes = [
            (r - d * (f - 1) - 1) // s + 1 for r, d, f, s in zip(room, self.dilation, filters, self.stride, strict=True)
        ]
        if min(sizes) < 1:
            raise InputError(
                f"filters of {list(filters)}, dilation {list(self.dilation)}, on a padded image of {list(room)}"
            )
        return sizes[0], sizes[1]
