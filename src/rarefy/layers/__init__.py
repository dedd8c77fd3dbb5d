"""Modules that torch does not have, and blocks of them that take a convolution's place; all export to standard ONNX."""

from rarefy.layers.channels import ChannelShuffle, Concat, Reorder
from rarefy.layers.fire import Fire
from rarefy.layers.grouped import Grouped
from rarefy.layers.light import Fit, Light
from rarefy.layers.separable import Separable

__all__ = ["ChannelShuffle", "Concat", "Fire", "Fit", "Grouped", "Light", "Reorder", "Separable"]
