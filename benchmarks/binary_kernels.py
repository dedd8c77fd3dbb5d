"""Binary layers against ONNX Runtime's float32 and INT8 ones: one thread, batch 1, float in and out, packing included.

    OMP_NUM_THREADS=1 python benchmarks/binary_kernels.py [--seconds 1.5] [--versions avx512 avx2] [--save]

All of a row run in this process, in turns; times are medians of the thread's CPU time, ratios medians over the
turns. INT8 is QuantizeLinear, QLinearConv (or QLinearMatMul) with unsigned activations and signed weights per channel,
DequantizeLinear. A core's peak of binary multiply-adds in a cycle is 341 with AVX-512 by xor, popcount and addition on
its two ports (409 as the kernel does it, with a full adder for two words), and 256 with AVX2 by its table look-ups on
three ports. The last column is the share of 341 or 256 in the fastest turn, packing and all included, at the clock
that a chain of multiplications shows.

ONNX Runtime cannot be told to leave AVX-512 alone. What AVX2 has to be compared with, on a machine that has no more, is
shown for convolutions by PyTorch's float32 one, whose oneDNN can be told.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import machine
import numpy as np
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper

from rarefy.export import binary
from rarefy.kernels import Convolution, custom_ops, features, pack_bits

LAYERS = {
    "3x3, 64, 56x56": ((64, 64, 3, 3), 56),
    "3x3, 128, 28x28": ((128, 128, 3, 3), 28),
    "3x3, 256, 14x14": ((256, 256, 3, 3), 14),
    "3x3, 512, 7x7": ((512, 512, 3, 3), 7),
    "4096 x 4096": ((4096, 4096), 1),
    "25088 x 4096": ((4096, 25088), 1),
}
COLUMNS = ["layer", "version", "bits", "ms", "float32_ms", "int8_ms", "over_float32", "over_int8"]
COLUMNS += ["over_avx2_float32", "Gmac_per_s", "share_of_peak"]
PEAK = {"avx512": 341, "avx2": 256}  # binary multiply-adds in a cycle
Call = Callable[[], object]
kept: list[tuple[np.ndarray, np.ndarray]] = []


def session(nodes: list, arrays: dict, shape: tuple[int, ...], rank: int, *, kernels: bool = False) -> Call:
    """A call of a model with one input of that shape."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * rank)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if kernels:
        binary.declare(model)
        options.register_custom_ops_library(str(custom_ops()))
    engine = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    binding = engine.io_binding()
    x = aligned(shape)
    x[...] = np.random.default_rng(0).standard_normal(shape)
    y = aligned(engine.run(None, {"x": x})[0].shape)
    binding.bind_input("x", "cpu", 0, np.float32, x.shape, x.ctypes.data)
    binding.bind_output("y", "cpu", 0, np.float32, y.shape, y.ctypes.data)
    kept.append((x, y))  # the binding has only their addresses
    return lambda: engine.run_with_iobinding(binding)


def aligned(shape: tuple[int, ...]) -> np.ndarray:
    """Float32 zeros at a multiple of 64 bytes, as the engine has them between its operators."""
    room = np.zeros(int(np.prod(shape)) + 16, np.float32)
    first = -room.ctypes.data % 64 // 4
    return room[first : first + int(np.prod(shape))].reshape(shape)


def float32(shape: tuple[int, ...], x: tuple[int, ...]) -> Call:
    weight = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    bias = np.ones(shape[0], np.float32)
    if len(shape) == 2:
        return session([helper.make_node("Gemm", ["x", "w", "b"], ["y"])], {"w": weight.T.copy(), "b": bias}, x, 2)
    conv = helper.make_node("Conv", ["x", "w", "b"], ["y"], pads=[1, 1, 1, 1])
    return session([conv], {"w": weight, "b": bias}, x, 4)


def float32_in_avx2(shape: tuple[int, ...], x: tuple[int, ...]) -> Call:
    layer = torch.nn.Conv2d(shape[1], shape[0], shape[2], padding=1).eval()
    image = torch.randn(x)
    return torch.inference_mode()(lambda: layer(image))


def int8(shape: tuple[int, ...], x: tuple[int, ...]) -> Call:
    weight = np.random.default_rng(1).integers(-127, 128, shape).astype(np.int8)
    zeros, scales = np.zeros(shape[0], np.int8), np.full(shape[0], 0.01, np.float32)
    arrays = {"xs": np.float32(0.03), "xz": np.uint8(128), "ws": scales, "wz": zeros, "ys": np.float32(0.5)}
    quantize = helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["q"])
    back = helper.make_node("DequantizeLinear", ["r", "ys", "xz"], ["y"])
    names = ["q", "xs", "xz", "w", "ws", "wz", "ys", "xz"]
    if len(shape) == 2:
        arrays |= {"w": weight.T.copy(), "ws": np.float32(0.01), "wz": np.int8(0)}
        return session([quantize, helper.make_node("QLinearMatMul", names, ["r"]), back], arrays, x, 2)
    conv = helper.make_node("QLinearConv", names, ["r"], pads=[1, 1, 1, 1])
    return session([quantize, conv, back], {**arrays, "w": weight}, x, 4)


def ours(shape: tuple[int, ...], x: tuple[int, ...], version: str, bits: int) -> Call:
    os.environ["RAREFY_KERNELS"] = version
    how = Convolution(
        padding=(1, 1, 1, 1) if len(shape) == 4 else (0, 0, 0, 0), bits=bits, steps=2.0**bits - 1 if bits else 1.0
    )
    weight = np.random.default_rng(1).standard_normal(shape)
    ones = np.ones(shape[0], np.float32)
    node = binary.node("x", "w", "s", "b", "y", shape, how)
    return session([node], {"w": pack_bits(weight), "s": ones, "b": ones}, x, len(shape), kernels=True)


def clock() -> float:
    """GHz: each multiplication waits three cycles for the one before."""
    source = "long chain(long n) { long x = 1; while (n--) x *= 6364136223846793005; return x; }"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "chain.so"
        command = [os.environ.get("CC") or "cc", "-O1", "-shared", "-fPIC", "-x", "c", "-", "-o", str(path)]
        subprocess.run(command, input=source, text=True, check=True)
        chain = ctypes.CDLL(str(path)).chain
    steps, best = 20_000, float("inf")
    for _ in range(2000):
        begin = time.perf_counter_ns()
        chain(ctypes.c_long(steps))
        best = min(best, time.perf_counter_ns() - begin)
    return 3 * steps / best


def turns(calls: dict[str, Call], seconds: float) -> dict[str, list[float]]:
    """Milliseconds of every call of every turn."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(found["float32"]) < 20:
        for name, call in calls.items():
            call()  # its weights into the caches, as in a loop over one layer
            begin = time.thread_time_ns()
            call()
            found[name].append((time.thread_time_ns() - begin) / 1e6)
    return found


def rows(layer: str, versions: list[str], seconds: float, ghz: float) -> list[dict]:
    shape, side = LAYERS[layer]
    x = (1, shape[1], side, side)[: len(shape)]
    calls = {"float32": float32(shape, x), "int8": int8(shape, x)}
    mine = {f"{version} {bits}": (version, bits) for version in versions for bits in (0, 2)}
    calls |= {name: ours(shape, x, *what) for name, what in mine.items()}
    if "avx2" in versions and len(shape) == 4:
        calls["avx2_float32"] = float32_in_avx2(shape, x)
    times = turns(calls, seconds)
    macs = float(np.prod(shape)) * side * side
    made = []
    for name, (version, bits) in mine.items():
        ms = statistics.median(times[name])
        ratio = {
            base: statistics.median(b / t for b, t in zip(times[base], times[name], strict=True))
            for base in ("float32", "int8", "avx2_float32")
            if base in times and (version == "avx2" or base != "avx2_float32")
        }
        row = {"layer": layer, "version": version, "bits": max(bits, 1), "ms": round(ms, 3)}
        row |= {f"{base}_ms": round(statistics.median(times[base]), 3) for base in ("float32", "int8")}
        row |= {f"over_{base}": round(value, 2) for base, value in ratio.items()}
        speed = macs * max(bits, 1) / min(times[name]) / 1e6
        share = round(speed / ghz / PEAK[version], 2) if version in PEAK else ""
        made.append(row | {"Gmac_per_s": round(speed), "share_of_peak": share})
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.5, help="for each layer")
    parser.add_argument("--versions", nargs="+", default=[v for v in features().available if v in ("avx512", "avx2")])
    parser.add_argument("--save", action="store_true", help="a table in results/")
    settings = parser.parse_args()
    os.environ["ONEDNN_MAX_CPU_ISA"] = "AVX2"  # read when the first layer runs
    torch.set_num_threads(1)
    ghz = clock()
    print(f"{machine.describe()}; {ghz:.2f} GHz")
    table = []
    print("  ".join(f"{name:>12}" for name in COLUMNS))
    for layer in LAYERS:
        for row in rows(layer, settings.versions, settings.seconds, ghz):
            print("  ".join(f"{row.get(name, '')!s:>12}" for name in COLUMNS), flush=True)
            table.append(row)
    if settings.save:
        machine.save("binary-kernels", table, key=("layer", "version", "bits"))


if __name__ == "__main__":
    main()
