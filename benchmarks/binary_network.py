"""A whole binary ResNet-18 at 224 x 224 against the float32 one, both in ONNX Runtime, batch 1, random weights.

    OMP_NUM_THREADS=1 python benchmarks/binary_network.py [--seconds 6] [--threads 1 2] [--profile] [--save]

The binary network has a float stem, float 1x1 convolutions in the shortcuts and a float head; every 3x3 convolution
takes signs and has a shortcut around it (Bi-Real Net), its batch normalisation is folded into scale and bias of the
binary function. Three more have what such networks often have besides: a mean before the 1x1 convolutions ("mean"),
normalisation as a node of its own ("BatchNorm"), a PReLU after every addition ("PReLU", as in ReActNet). All run in
turns in this process; ratios are medians over the turns. One thread is timed by its CPU time; several by the wall
clock, which means something on an idle machine only. `--profile` says which share each operator has.
"""

from __future__ import annotations

import argparse
import collections
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import machine
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from rarefy import pack
from rarefy.export import binary
from rarefy.kernels import Convolution, custom_ops, pack_bits

Call = Callable[[], object]
STAGES = ((64, 1), (128, 2), (256, 2), (512, 2))
KINDS = ("float32", "binary", "mean", "BatchNorm", "PReLU")
random = np.random.default_rng(0)


class Graph:
    """Nodes and arrays of a network in the making; every method gives the name of its result."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.nodes: list[onnx.NodeProto] = []
        self.arrays: list[onnx.TensorProto] = []

    def array(self, values: np.ndarray) -> str:
        name = f"a{len(self.arrays)}"
        self.arrays.append(numpy_helper.from_array(values, name))
        return name

    def floats(self, *shape: int) -> str:
        return self.array(random.standard_normal(shape).astype(np.float32) / np.float32(np.sqrt(np.prod(shape[1:]))))

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], **attributes))
        return name

    def conv(self, x: str, channels: int, filters: int, size: int, stride: int) -> str:
        """A float convolution with its normalisation folded in."""
        weights = self.floats(filters, channels, size, size), self.floats(filters)
        return self.add("Conv", x, *weights, strides=[stride] * 2, pads=[size // 2] * 4)

    def binary(self, x: str, channels: int, filters: int, stride: int) -> str:
        shape = (filters, channels, 3, 3)
        how = Convolution((stride, stride), (1, 1, 1, 1))
        vectors = [self.array(np.abs(random.standard_normal(filters)).astype(np.float32) / 100) for _ in range(2)]
        name = f"t{len(self.nodes)}"
        bits = self.array(pack_bits(random.standard_normal(shape)))
        self.nodes.append(binary.node(x, bits, *vectors, name, shape, how))
        if self.kind == "BatchNorm":
            name = self.add("BatchNormalization", name, *vectors, *vectors)
        return name

    def shortcut(self, x: str, channels: int, filters: int, stride: int) -> str:
        if stride == 1:
            return x
        if self.kind != "mean":
            return self.conv(x, channels, filters, 1, stride)
        return self.conv(self.add("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2]), channels, filters, 1, 1)

    def block(self, x: str, channels: int, filters: int, stride: int) -> str:
        if self.kind == "float32":
            y = self.add("Relu", self.conv(x, channels, filters, 3, stride))
            y = self.conv(y, filters, filters, 3, 1)
            return self.add("Relu", self.add("Add", y, self.shortcut(x, channels, filters, stride)))
        for first, step in ((channels, stride), (filters, 1)):
            y = self.add("Add", self.binary(x, first, filters, step), self.shortcut(x, first, filters, step))
            x = self.add("PRelu", y, self.floats(filters, 1, 1)) if self.kind == "PReLU" else y
        return x

    def model(self) -> onnx.ModelProto:
        x = self.add("Relu", self.conv("x", 3, 64, 7, 2))
        x = self.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
        channels = 64
        for filters, stride in STAGES:
            for step in (stride, 1):
                x = self.block(x, channels, filters, step)
                channels = filters
        x = self.add("Flatten", self.add("GlobalAveragePool", x))
        y = self.add("Gemm", x, self.floats(1000, 512), self.floats(1000), transB=1)
        ports = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 224, 224])]
        result = [helper.make_tensor_value_info(y, TensorProto.FLOAT, [1, 1000])]
        graph = helper.make_graph(self.nodes, "resnet18", ports, result, self.arrays)
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
        binary.declare(made)
        return made


def session(model: onnx.ModelProto, threads: int, profile: str = "") -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.register_custom_ops_library(str(custom_ops()))
    options.enable_profiling, options.profile_file_prefix = bool(profile), profile or "unused"
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def call(model: onnx.ModelProto, threads: int) -> Callable[[], object]:
    engine, x = session(model, threads), random.standard_normal((1, 3, 224, 224)).astype(np.float32)
    return lambda: engine.run(None, {"x": x})


def shares(model: onnx.ModelProto) -> dict[str, float]:
    """The share of the time of each kind of operator, one thread."""
    spent: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        engine = session(model, 1, str(Path(folder) / "run"))
        for _ in range(30):
            engine.run(None, {"x": np.ones((1, 3, 224, 224), np.float32)})
        events = json.loads(Path(engine.end_profiling()).read_text())
    for event in events:
        if event["cat"] == "Node" and event["name"].endswith("_kernel_time"):
            spent[event["args"]["op_name"]] += event["dur"]
    return {name: share / spent.total() for name, share in spent.most_common()}


def turns(calls: dict[tuple[str, int], Call], seconds: float) -> dict[tuple[str, int], list[float]]:
    """Milliseconds of every turn: the median of ten calls in a row, after three that are not timed, in which the
    threads of the network before stop spinning."""
    found: dict[tuple[str, int], list[float]] = {what: [] for what in calls}
    clock = time.thread_time_ns if max(threads for _, threads in calls) == 1 else time.perf_counter_ns
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for what, run in calls.items():
            taken = [_time(run, clock) for _ in range(13)]
            found[what].append(statistics.median(taken[3:]))
    return found


def _time(run: Call, clock: Callable[[], int]) -> float:
    begin = clock()
    run()
    return (clock() - begin) / 1e6


def rows(models: dict[str, onnx.ModelProto], threads: list[int], seconds: float) -> list[dict[str, object]]:
    times = turns({(kind, n): call(model, n) for kind, model in models.items() for n in threads}, seconds)
    table = []
    for (kind, n), mine in times.items():
        over = {
            name: statistics.median(other / own for other, own in zip(times[what], mine, strict=True))
            for name, what in (("over_float32", ("float32", n)), ("over_one_thread", (kind, threads[0])))
        }
        size = len(pack.encode(models[kind])) / 1e6 if n == threads[0] else None
        row = {"network": kind, "threads": n, "ms": round(statistics.median(mine), 2), "best_ms": round(min(mine), 2)}
        table.append(row | {name: round(ratio, 2) for name, ratio in over.items()} | {"rfy_MB": size})
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--save", action="store_true", help="a table in results/")
    settings = parser.parse_args()
    print(machine.describe())
    models = {kind: Graph(kind).model() for kind in KINDS}
    table = rows(models, settings.threads, settings.seconds)
    for row in table:
        print("  ".join(f"{name} {value}" for name, value in row.items()))
    for kind in KINDS if settings.profile else ():
        print(kind, "  ".join(f"{name} {share:.0%}" for name, share in shares(models[kind]).items() if share >= 0.01))
    if settings.save:
        machine.save("binary-network", table, key=("network", "threads"))


if __name__ == "__main__":
    main()
