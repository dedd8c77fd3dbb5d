"""A network of one's own: any function without arguments that returns a module.

rarefy compress examples/own_model.py:network --data digits --recipe demo --out runs/own
"""

from torch import Tensor, nn


class Block(nn.Module):
    """Convolution, normalisation and a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm(self.conv(x)).relu()


def network() -> nn.Module:
    """A small residual network for 8x8 images in grey."""
    return nn.Sequential(
        nn.Conv2d(1, 24, 3, padding=1), Block(24), nn.MaxPool2d(2), Block(24), nn.Flatten(), nn.Linear(24 * 16, 10)
    )
