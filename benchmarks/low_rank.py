"""Low rank and structured matrices: what they gain in bytes and time, and what rank allotment gains in accuracy.

    python benchmarks/low_rank.py vgg16              planning time; its fully connected layers in ONNX Runtime
    python benchmarks/low_rank.py circulant          one layer in torch (by FFT) and in ONNX Runtime
    python benchmarks/low_rank.py lenet5 --seeds 0 1 2 --epochs 4

`lenet5` compares, at the same share of the parameters, ranks allotted by error with uniform ones, and factors fitted
to data with those of the weights alone. `ends`: whether the first and the last layer are factored too; uniform ranks
ruin them, so that these are compared without as well, at the same size of the whole. The base comes from
`benchmarks/bases.py`. Rows go to `benchmarks/results/`.

Times are medians on one thread unless `--threads` says otherwise; weights are random where only size and time count.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import machine
import torch
from bases import base
from torch import Tensor, nn

from rarefy import Task, measure
from rarefy.budget import parameters
from rarefy.export.onnx import Exporter
from rarefy.step import Context
from rarefy.steps import Factorize, Finetune, StructureMatrices
from rarefy.train import evaluate

Row = dict[str, object]


class Shapes(Task):
    """A task with inputs and nothing to learn."""

    def __init__(self, inputs: Tensor) -> None:
        self.inputs = inputs

    def train(self, *, seed: int, rank: int = 0, world: int = 1) -> Any:
        return [(self.inputs, None)]

    def judge(self) -> Any:
        return self.train(seed=0)

    def loss(self, output: Any, target: Any) -> Tensor:
        raise NotImplementedError

    def metric(self, output: Any, target: Any) -> Tensor:
        raise NotImplementedError


def vgg16_features() -> nn.Sequential:
    """The thirteen convolutions of VGG-16."""
    layers: list[nn.Module] = []
    inside = 3
    for stage in ((64, 64), (128, 128), (256,) * 3, (512,) * 3, (512,) * 3):
        for outside in stage:
            layers += [nn.Conv2d(inside, outside, 3, padding=1), nn.ReLU()]
            inside = outside
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)


def vgg16_classifier() -> nn.Sequential:
    """Its three fully connected layers: 123.6 of its 138.4 million parameters."""
    return nn.Sequential(nn.Linear(25088, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 1000))


def onnx(model: nn.Module, inputs: Tensor, path: Path) -> Path:
    path.write_bytes(Exporter(model, inputs).write(model).proto.SerializeToString())
    return path


def in_runtime(model: nn.Module, other: nn.Module, inputs: Tensor, threads: int) -> Row:
    """Bytes and time at batch 1 of `other` beside `model`, both as ONNX files."""
    with TemporaryDirectory() as folder:
        before = onnx(model, inputs, Path(folder) / "before.onnx")
        after = onnx(other, inputs, Path(folder) / "after.onnx")
        found = measure.latency(after, before, threads=threads, seconds=5.0)
        sizes = before.stat().st_size, after.stat().st_size
    return {
        "dense_bytes": sizes[0],
        "bytes": sizes[1],
        "smaller": f"{sizes[0] / sizes[1]:.1f}",
        "onnx_time": f"{found.ratio:.3f}",
    }


def vgg16(arguments: argparse.Namespace) -> Iterator[Row]:
    """Planning the whole network, then its classifier at several budgets."""
    whole = nn.Sequential(vgg16_features(), nn.Flatten(), vgg16_classifier()).eval()
    context = Context(task=Shapes(torch.randn(2, 3, 224, 224)))
    began, cpu = time.perf_counter(), time.process_time()
    Factorize(parameters=0.2).plan(whole, context)
    seconds, of_all = time.perf_counter() - began, time.process_time() - cpu
    row: Row = {"network": "VGG-16", "parameters_left": 0.2}
    yield {**row, "plan_seconds": round(seconds, 1), "cpu_seconds": round(of_all, 1)}
    inputs = torch.randn(2, 25088)
    dense = vgg16_classifier().eval()
    for share in arguments.shares or (0.2, 0.1):
        began = time.perf_counter()
        factored = Factorize(parameters=share)(dense, Shapes(inputs))
        row = {"network": "its classifier", "parameters_left": share}
        row["factor_seconds"] = round(time.perf_counter() - began, 1)
        yield {**row, **in_runtime(dense, factored, inputs, arguments.threads)}


def milliseconds(run: Callable[[], object]) -> float:
    run()
    times = []
    for _ in range(30):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return 1000 * sorted(times)[len(times) // 2]


def circulant(arguments: argparse.Namespace) -> Iterator[Row]:
    """One Linear of n x n, structured, beside the dense one."""
    for n in arguments.sizes:
        dense = nn.Sequential(nn.Linear(n, n)).eval()
        few, many = torch.randn(2, n), torch.randn(32, n)
        for kind, block in (("circulant", 64), ("circulant", n), ("toeplitz", n), ("displacement", min(n, 1024))):
            step = StructureMatrices(structure=kind, block=block, fourier=True)
            layer = step(dense, Shapes(few))
            row: Row = {"structure": kind, "n": n, "block": block}
            with torch.no_grad():
                for batch in (few[:1], many):
                    times = milliseconds(partial(dense, batch)), milliseconds(partial(layer, batch))
                    row |= {f"dense_ms_{len(batch)}": f"{times[0]:.3f}", f"fft_ms_{len(batch)}": f"{times[1]:.3f}"}
            yield row | in_runtime(dense, layer, few, arguments.threads)


def lenet5(arguments: argparse.Namespace) -> Iterator[Row]:
    """Accuracy at the same size: method, allotment, data; before and after a short training."""
    for seed in arguments.seeds:
        made = base("lenet5", seed)
        for share in arguments.shares or (0.2, 0.1, 0.05):
            for method, data, allot, ends in (
                ("auto", 1024, "error", "with"),
                ("auto", 1024, "uniform", "without"),
                ("auto", 1024, "uniform", "with"),
                ("auto", 0, "error", "with"),
                ("auto", 0, "uniform", "without"),
                ("tucker", 1024, "error", "with"),
                ("tucker", 1024, "uniform", "without"),
            ):
                skip = () if ends == "with" else ("conv1*", "fc2*")
                step = Factorize(
                    method=method, parameters=_left(made.model, share, skip), allot=allot, data=data, skip=skip
                )
                model = step(made.model, made.task, seed=seed)
                row: Row = {
                    "network": "lenet5",
                    "seed": seed,
                    "method": method,
                    "allot": allot,
                    "ends": ends,
                    "data": data,
                }
                row |= {"bytes": 4 * parameters(model), "share": f"{parameters(model) / parameters(made.model):.3f}"}
                row |= {"base_error": _error(made.accuracy)}
                row["error"] = _error(evaluate(model, made.task.judge(), made.task))
                if arguments.epochs:
                    trained = Finetune(epochs=arguments.epochs, lr=1e-3)(model, made.task, seed=seed)
                    row["trained_error"] = _error(evaluate(trained, made.task.judge(), made.task))
                yield row


def _left(model: nn.Module, share: float, skip: tuple[str, ...]) -> float:
    """Of the weights that are not skipped, for this share of all weights."""
    sizes = {name: w.numel() for name, w in model.named_parameters() if w.ndim > 1}
    whole = sum(size for name, size in sizes.items() if any(fnmatch(name, glob) for glob in skip))
    return (share * sum(sizes.values()) - whole) / (sum(sizes.values()) - whole)


def _error(accuracy: float) -> str:
    return f"{100 * (1 - accuracy):.2f}"


PARTS = {"vgg16": vgg16, "circulant": circulant, "lenet5": lenet5}


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="+", choices=list(PARTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--shares", nargs="+", type=float, help="of the parameters that are left")
    parser.add_argument("--sizes", nargs="+", type=int, default=[1024, 4096], help="sides of the structured layer")
    parser.add_argument("--epochs", type=int, default=4, help="of training after factoring; 0 for none")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(machine.describe())
    for part in arguments.parts:
        rows = []
        for row in PARTS[part](arguments):
            rows.append(row)
            print(", ".join(f"{name} {value}" for name, value in row.items()), flush=True)
        machine.save(f"low-rank-{part}", rows)


if __name__ == "__main__":
    main()
