"""What the networks for photographs are made of, and how they are fitted to smaller images.

One rule for all: such a network halves the image five times (SqueezeNet four), and for `size` pixels as many of the
first halvings are left out as it takes for 4 pixels to remain. So 224 pixels keep all strides (7 remain), 64 all but
the first, 28 and 32 all but the first two. A first kernel larger than 3x3 becomes 3x3 where its stride is left out.
"""

from __future__ import annotations

from torch import Tensor, nn

SMALLEST = 4  # pixels that must remain, on a side, where strides can be left out for it


def strides(size: int, halvings: int = 5) -> tuple[int, ...]:
    """The stride of each place where the network halves images of `size` pixels: ones, then twos."""
    return tuple(2 if size > (SMALLEST - 1) * 2**left else 1 for left in range(halvings, 0, -1))


def stem(channels: int, outside: int, kernel: int, stride: int, padding: int, bias: bool = True) -> nn.Conv2d:
    """The first convolution: as given at stride 2, 3x3 where the images are too small for that."""
    if stride == 1:
        kernel, padding = 3, 1
    return nn.Conv2d(channels, outside, kernel, stride, padding, bias=bias)


def pool(stride: int, padding: int = 0, ceil_mode: bool = False) -> nn.Module:
    """A 3x3 maximum at stride 2; nothing at stride 1, so that the modules after it keep their names."""
    return nn.MaxPool2d(3, 2, padding, ceil_mode=ceil_mode) if stride == 2 else nn.Identity()


def conv_norm(
    inside: int,
    outside: int,
    kernel: int = 1,
    stride: int = 1,
    groups: int = 1,
    activation: type[nn.Module] | None = nn.ReLU,
) -> nn.Sequential:
    """Convolution that keeps the size (but for its stride) without bias, BatchNorm, and the activation if there is one:
    `0`, `1`, `2`."""
    convolution = nn.Conv2d(inside, outside, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outside), *([activation()] if activation else []))


class Pooled(nn.Module):
    """`features`, the mean over the pixels, and `classifier`."""

    def __init__(self, features: nn.Module, classifier: nn.Module) -> None:
        super().__init__()
        self.features = features
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = classifier

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) -> (N, classes)."""
        result: Tensor = self.classifier(self.flatten(self.avgpool(self.features(x))))
        return result


def rounded(channels: float, divisor: int = 8) -> int:
    """The nearest multiple of `divisor`, at least one, that is not more than a tenth below `channels`."""
    nearest = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return nearest if nearest >= 0.9 * channels else nearest + divisor
