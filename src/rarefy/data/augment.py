"""Augmentation of a whole batch at once; every image draws its own random numbers from one generator."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Generator, Tensor

from rarefy.errors import DataError
from rarefy.settings import Settings


class Augment(Settings):
    """Random changes of a batch for training. Everything is off until set; what leaves the image is zero.

    Numbers come from a CPU generator and are then moved, so that a seed gives the same batch on any device.
    The order is rotate and scale, crop, flip, cutout. Zero is black in a batch on the scale 0 to 1, and the
    mean in one that has been normalised.
    """

    crop: int = Field(0, ge=0, description="pad by this many pixels, then crop at random (a shift)")
    flip: bool = Field(False, description="mirror left and right, with probability 1/2")
    rotate: float = Field(0.0, ge=0, le=180, description="turn by up to this many degrees either way")
    scale: float = Field(0.0, ge=0, lt=1, description="enlarge or shrink by up to this part, such as 0.1")
    cutout: int = Field(0, ge=0, description="side in pixels of a square set to zero (DeVries, Taylor 2017)")

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        """A batch of the same shape and type; `images` (N, C, H, W), float or uint8, stay as they are.

        uint8 is faster, there being less to move. A crop or cutout as large as the image is a `DataError`.
        """
        side = min(images.shape[2:])
        for name, value in (("crop", self.crop), ("cutout", self.cutout)):
            if value >= side:
                raise DataError(f"Augment.{name}={value} must be less than the image's {side} pixels")
        if self.rotate or self.scale:
            images = _turn(images, math.radians(self.rotate), self.scale, generator)
        if self.crop or self.flip:
            images = _shift(images, self.crop, self.flip, generator)
        if self.cutout:
            images = _cut(images, self.cutout, generator)
        return images


def _turn(images: Tensor, most: float, scale: float, generator: Generator) -> Tensor:
    """Rotate by +-`most` radians and scale by 1 +- `scale` about the centre, bilinear; pixels stay square."""
    count, _, height, width = images.shape
    angle, size = (torch.rand(2, count, generator=generator) * 2 - 1) * torch.tensor([[most], [scale]])
    cos, sin = torch.cos(angle) / (1 + size), torch.sin(angle) / (1 + size)
    zero = torch.zeros_like(cos)
    rows = [cos, -sin * height / width, zero, sin * width / height, cos, zero]
    kind = torch.promote_types(images.dtype, torch.float32)  # half precision cannot place a pixel
    matrix = torch.stack(rows, dim=1).view(count, 2, 3).to(images.device, kind)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)  # (N, H, W, 2)
    turned = F.grid_sample(images.to(kind), grid, align_corners=False)
    return (turned if images.is_floating_point() else turned.round()).to(images.dtype)


def _shift(images: Tensor, most: int, flip: bool, generator: Generator) -> Tensor:
    """Pad, crop and mirror: every pixel of the result is looked up once in the padded image."""
    count, channels, height, width = images.shape
    down, right = torch.randint(2 * most + 1, (2, count, 1), generator=generator)
    mirrored = torch.rand(count, 1, generator=generator) < 0.5 * flip
    rows = down + torch.arange(height)  # (N, H)
    columns = right + torch.where(mirrored, torch.arange(width).flip(0), torch.arange(width))  # (N, W)
    padded = F.pad(images, [most] * 4)
    place = rows[:, :, None] * padded.shape[3] + columns[:, None, :]  # (N, H, W), into H * W of the padded
    place = place.view(count, 1, -1).expand(-1, channels, -1).to(images.device)
    return padded.flatten(2).gather(2, place).view(images.shape)


def _cut(images: Tensor, side: int, generator: Generator) -> Tensor:
    """The square's centre may be any pixel, so that it may stick out, as in the paper."""
    _, _, height, width = images.shape
    rows = _in_window(height, side, len(images), generator).view(-1, 1, height, 1)
    columns = _in_window(width, side, len(images), generator).view(-1, 1, 1, width)
    return images * ~(rows & columns).to(images.device)


def _in_window(length: int, side: int, count: int, generator: Generator) -> Tensor:
    start = torch.randint(length, (count, 1), generator=generator) - side // 2
    place = torch.arange(length)
    return (place >= start) & (place < start + side)  # (N, length)
