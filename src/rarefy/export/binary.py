"""Binary layers in an ONNX file: functions of our own domain whose bodies are standard operators.

Plain ONNX Runtime runs the bodies; where the library of `rarefy.kernels` is registered, an operator of the same domain
and name takes the function's place. Weights are uint8 bits (`rarefy.kernels.pack_bits`) in both.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import onnx
from onnx import helper, parser

from rarefy.errors import ExportError

if TYPE_CHECKING:
    from rarefy.kernels import Convolution

DOMAIN = "rarefy"
OLDEST_OPSET = 18  # BitwiseAnd

SIGNS = """
  zero = Constant <value_float = 0.0> ()
  positive = GreaterOrEqual (X, zero)
  activations = Where (positive, one, minus_one)
"""
SIGNS_ABOVE = """
  positive = GreaterOrEqual (X, threshold)
  activations = Where (positive, one, minus_one)
"""
CHANNELS_ABOVE = """
  axes = Constant <value_ints = [1, 2]> ()
  place = Unsqueeze (threshold, axes)
  positive = GreaterOrEqual (X, place)
  activations = Where (positive, one, minus_one)
"""
LEVELS = """
  zero = Constant <value_float = 0.0> ()
  two = Constant <value_float = 2.0> ()
  steps = Constant <value_float: float = @steps> ()
  bits = Constant <value_int: int = @bits> ()
  count = Pow (two, bits)
  top = Sub (count, one)
  scaled = Mul (X, steps)
  rounded = Round (scaled)
  activations = Clip (rounded, zero, top)
"""
# [filters, bytes] -> [filters, bytes, 8] -> [filters, 8 bytes] -> [filters, size] -> shape
WEIGHT = """
  one = Constant <value_float = 1.0> ()
  minus_one = Constant <value_float = -1.0> ()
  masks = Constant <value = uint8[8] {1, 2, 4, 8, 16, 32, 64, 128}> ()
  first = Constant <value_ints = [0]> ()
  second = Constant <value_ints = [1]> ()
  third = Constant <value_ints = [2]> ()
  fifth = Constant <value_ints = [4]> ()
  flat = Constant <value_ints = [0, -1]> ()
  shape = Constant <value_ints: ints = @shape> ()
  bytes = Unsqueeze (W, third)
  masked = BitwiseAnd (bytes, masks)
  set = Cast <to = 9> (masked)
  signs = Where (set, one, minus_one)
  all = Reshape (signs, flat)
  sizes = Slice (shape, second, fifth)
  size = ReduceProd <keepdims = 1> (sizes)
  kept = Slice (all, first, size, second)
  weight = Reshape (kept, shape)
"""
FLOAT = """
  one = Constant <value_float = 1.0> ()
  minus_one = Constant <value_float = -1.0> ()
  second = Constant <value_ints = [1]> ()
  third = Constant <value_ints = [2]> ()
  fifth = Constant <value_ints = [4]> ()
  shape = Constant <value_ints: ints = @shape> ()
  weight = Identity (W)
"""
PADS = """
  pads = Constant <value_ints: ints = @padding> ()
"""
PAD_VALUE = """
  pad_value = Constant <value_float: float = @pad_value> ()
  padded = Pad (activations, pads, pad_value)
"""
PAD_ZERO = """
  padded = Pad (activations, pads, zero)
"""
CONV = """
  found = Conv <strides: ints = @strides, dilations: ints = @dilations> (padded, weight)
"""
# Sums of weights in bits are integers. Said so, or engines would multiply the weights by the scale, and a sum of as
# many of each sign would be almost zero.
WHOLE = """
  sums = Round (found)
"""
ANY = """
  sums = Identity (found)
"""
CHANNELS_SCALED = """
  column = Constant <value_ints = [1, -1, 1, 1]> ()
  scales = Reshape (scale, column)
  scaled_sums = Mul (sums, scales)
"""
MAP = """
  magnitudes = Abs (X)
  mean = ReduceMean <keepdims = 1> (magnitudes, second)
  magnitude = Pad (mean, pads, zero)
  window = Slice (shape, third, fifth)
  ones_shape = Concat <axis = 0> (second, second, window)
  ones = ConstantOfShape <value = float[1] {1.0}> (ones_shape)
  under = Conv <strides: ints = @strides, dilations: ints = @dilations> (magnitude, ones)
  positions = ReduceProd <keepdims = 0> (window)
  divisor = Cast <to = 1> (positions)
  map = Div (under, divisor)
  result = Mul (scaled_sums, map)
"""
PLAIN = """
  result = Identity (scaled_sums)
"""
ADD = """
  biases = Reshape (bias, column)
  Y = Add (result, biases)
"""
LINEAR = """
  found = Gemm <transB = 1> (activations, weight)
"""
SCALED = """
  result = Mul (sums, scale)
  Y = Add (result, bias)
"""

GEOMETRY = "shape, strides, dilations, padding"
IMAGES, ROWS = (CONV, WHOLE, CHANNELS_SCALED), (LINEAR, WHOLE, SCALED)
IMAGES_OF_ANY, ROWS_OF_ANY = (CONV, ANY, CHANNELS_SCALED), (LINEAR, ANY, SCALED)
FUNCTIONS = {
    "BinaryConv": (f"{GEOMETRY}, pad_value", (WEIGHT, SIGNS, PADS, PAD_VALUE, *IMAGES, PLAIN, ADD)),
    "BinaryConvMapped": (f"{GEOMETRY}, pad_value", (WEIGHT, SIGNS, PADS, PAD_VALUE, *IMAGES, MAP, ADD)),
    "BinaryConvThreshold": (f"{GEOMETRY}, pad_value", (WEIGHT, CHANNELS_ABOVE, PADS, PAD_VALUE, *IMAGES, PLAIN, ADD)),
    "LowBitConv": (f"{GEOMETRY}, bits, steps", (WEIGHT, LEVELS, PADS, PAD_ZERO, *IMAGES, PLAIN, ADD)),
    "BinaryLinear": ("shape", (WEIGHT, SIGNS, *ROWS)),
    "BinaryLinearThreshold": ("shape", (WEIGHT, SIGNS_ABOVE, *ROWS)),
    "LowBitLinear": ("shape, bits, steps", (WEIGHT, LEVELS, *ROWS)),
    # the same with weights of any kind as floats, which have no kernels
    "SignConv": (f"{GEOMETRY}, pad_value", (FLOAT, SIGNS, PADS, PAD_VALUE, *IMAGES_OF_ANY, PLAIN, ADD)),
    "SignConvMapped": (f"{GEOMETRY}, pad_value", (FLOAT, SIGNS, PADS, PAD_VALUE, *IMAGES_OF_ANY, MAP, ADD)),
    "LevelConv": (f"{GEOMETRY}, bits, steps", (FLOAT, LEVELS, PADS, PAD_ZERO, *IMAGES_OF_ANY, PLAIN, ADD)),
    "SignLinear": ("shape", (FLOAT, SIGNS, *ROWS_OF_ANY)),
    "LevelLinear": ("shape, bits, steps", (FLOAT, LEVELS, *ROWS_OF_ANY)),
}


@cache
def function(name: str, opset: int) -> onnx.FunctionProto:
    """The model-local function `name` for a model of that opset."""
    if opset < OLDEST_OPSET:
        raise ExportError(f"binary layers need opset {OLDEST_OPSET} or newer, not {opset}")
    attributes, body = FUNCTIONS[name]
    inputs = "X, W, scale, bias" + (", threshold" if name.endswith("Threshold") else "")
    head = f'<domain: "{DOMAIN}", opset_import: ["" : {opset}]>\n{name} <{attributes}> ({inputs}) => (Y)'
    return parser.parse_function(f"{head} {{{''.join(body)}}}")


def operator(shape: tuple[int, ...], how: Convolution, *, packed: bool = True, threshold: bool = False) -> str:
    """The name of the function for filters of that shape, in bits or else as floats."""
    few, signs = ("LowBit", "Binary") if packed else ("Level", "Sign")
    if threshold and not takes_threshold(how, packed=packed):
        raise ExportError("a threshold belongs to signs beside weights in bits, without the input's scale")
    above = "Threshold" if threshold else ""
    if len(shape) == 2:
        return f"{few if how.bits else signs}Linear{above}"
    if how.bits and how.map:
        raise ExportError("the input's scale belongs to signs, not to activations of several bits")
    return f"{few}Conv" if how.bits else f"{signs}Conv{'Mapped' if how.map else above}"


def takes_threshold(how: Convolution, *, packed: bool) -> bool:
    """Whether there is a function that compares its input with a threshold for each channel."""
    return packed and not how.bits and not how.map


def node(
    x: str,
    weight: str,
    scale: str,
    bias: str,
    y: str,
    shape: tuple[int, ...],
    how: Convolution,
    *,
    packed: bool = True,
    threshold: str = "",
) -> onnx.NodeProto:
    """The node; `weight` names the uint8 bits of filters of `shape`, or with `packed=False` float32 filters of any
    values; scale and bias are float32 [filters], threshold, if any, float32 [channels]."""
    name = operator(shape, how, packed=packed, threshold=bool(threshold))
    top, left, bottom, right = how.padding
    values: dict[str, Any] = {
        "shape": list(shape),
        "strides": list(how.stride),
        "dilations": list(how.dilation),
        "padding": [0, 0, top, left, 0, 0, bottom, right],
        "pad_value": float(how.pad_value),
        "bits": how.bits,
        "steps": float(how.steps),
    }
    wanted = FUNCTIONS[name][0].split(", ")
    inputs = [x, weight, scale, bias, *([threshold] if threshold else [])]
    return helper.make_node(name, inputs, [y], domain=DOMAIN, **{key: values[key] for key in wanted})


def declare(model: onnx.ModelProto) -> None:
    """Adds the functions that the model's nodes use, and the domain."""
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    used = sorted({n.op_type for n in model.graph.node if n.domain == DOMAIN})
    have = {f.name for f in model.functions if f.domain == DOMAIN}
    model.functions.extend(function(name, opset) for name in used if name not in have)
    if used and DOMAIN not in {entry.domain for entry in model.opset_import}:
        model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
