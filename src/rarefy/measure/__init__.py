"""Measuring: size, operations, parameters, quality, latency, memory, energy, and where it was measured.

Every figure is taken from a saved file. Importing this room is fast: what needs torch, ONNX or ONNX Runtime
loads it when called.
"""

from __future__ import annotations

from rarefy.measure.adapter import answer
from rarefy.measure.answers import changed, classes, truth
from rarefy.measure.binary import binary_layers
from rarefy.measure.energy import energy
from rarefy.measure.environment import environment
from rarefy.measure.files import read
from rarefy.measure.latency import compare, latency
from rarefy.measure.memory import memory
from rarefy.measure.operations import Operation, macs, operations
from rarefy.measure.parameters import parameters
from rarefy.measure.quality import interval, quality
from rarefy.measure.size import file_bytes, safetensors_bytes

__all__ = [
    "Operation",
    "answer",
    "binary_layers",
    "changed",
    "classes",
    "compare",
    "energy",
    "environment",
    "file_bytes",
    "interval",
    "latency",
    "macs",
    "memory",
    "operations",
    "parameters",
    "quality",
    "read",
    "safetensors_bytes",
    "truth",
]
