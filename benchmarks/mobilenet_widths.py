"""MobileNet V1 at four widths on CIFAR-10: accuracy against multiply-accumulates, as docs/structure.md shows it.

    python benchmarks/mobilenet_widths.py --widths 1 0.75 0.5 0.25 --epochs 20
    python benchmarks/mobilenet_widths.py --time --threads 1

The network is the zoo's for images of 64 pixels: all strides but the first, so that 2x2 pixels remain of 32x32 at the
end, as is usual for this network on CIFAR-10 (keeping 4x4 would cost four times as much). All widths are trained alike,
in the settings of the other CIFAR-10 bases but in float32, where the depthwise convolutions are faster.

A row per width and seed goes to `benchmarks/results/`, in a file named by machine and versions; a finished one is not
trained again, one that was interrupted goes on. `--time` trains nothing: it prints the seconds of a step.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from itertools import pairwise
from pathlib import Path

import machine
import torch
from bases import CACHE, CIFAR, cifar10
from torch import nn

from rarefy import zoo
from rarefy.classification import Classification
from rarefy.export.onnx import Exporter, example
from rarefy.files import model_tensors, save_tensors
from rarefy.measure import environment, macs
from rarefy.step import Context
from rarefy.steps import Train
from rarefy.train import evaluate

WIDTHS = (1.0, 0.75, 0.5, 0.25)
SIZE = 64  # see above


def network(width: float, seed: int) -> nn.Module:
    """MobileNet V1 for CIFAR-10, untrained."""
    return zoo.build("mobilenet-v1", seed=seed, width=width, size=SIZE, classes=10)


def trained(width: float, seed: int, settings: Train, task: Classification) -> dict[str, object]:
    """The row of one width and seed; from the cache where it is there."""
    made_by = {
        "network": "mobilenet-v1",
        "width": width,
        "size": SIZE,
        "seed": seed,
        "data": task.describe(),
        "settings": settings.model_dump(mode="json"),
    }
    key = hashlib.sha256(json.dumps(made_by, sort_keys=True).encode()).hexdigest()[:10]
    path = CACHE / "bases" / f"mobilenet-v1-{width:g}-{seed}-{key}.json"
    if not path.exists():
        _train(path, made_by, network(width, seed), settings, task)
    row: dict[str, object] = json.loads(path.read_text())["row"]
    return row


def _train(path: Path, made_by: dict[str, object], model: nn.Module, settings: Train, task: Classification) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoint = path.with_suffix(".partial")
    context = Context(task=task, seed=int(str(made_by["seed"])), trained=False, checkpoint=checkpoint, progress=_show)
    settings.apply(model, settings.plan(model, context), context)
    proto = Exporter(model, example(task.judge(), model)).write(model).proto
    row = {
        "width": made_by["width"],
        "seed": made_by["seed"],
        "epochs": settings.epochs,
        "weights": sum(p.numel() for p in model.parameters()),
        "macs": macs(proto),
        "error": f"{100 * (1 - evaluate(model, task.judge(), task)):.2f}",
        "seconds": round(sum(epoch.seconds for epoch in context.curve)),
    }
    save_tensors(path.with_suffix(".safetensors"), model_tensors(model))
    path.write_text(json.dumps({**made_by, "row": row, "environment": environment().model_dump()}, indent=1) + "\n")
    checkpoint.unlink(missing_ok=True)


def _show(label: str, done: int, of: int) -> None:
    if done % 100 == 0 or done == of:
        print(f"{label}: {done:,} of {of:,} batches", flush=True)


def timed(width: float, settings: Train, task: Classification, steps: int) -> float:
    """Seconds of a training step, the first few not counted."""
    moments: list[float] = []
    context = Context(task=task, trained=False, progress=lambda *_: moments.append(time.perf_counter()))
    short = settings.replace(epochs=None, steps=steps + 2)
    short.apply(network(width, 0), short.plan(network(width, 0), context), context)
    return sorted(b - a for a, b in pairwise(moments[1:]))[steps // 2]


def main() -> None:
    """Train (or time) and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--widths", nargs="+", type=float, default=WIDTHS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--epochs", type=int, default=CIFAR.epochs)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--time", action="store_true", help="the seconds of a step, and no training")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(machine.describe())
    task, settings = cifar10(), CIFAR.replace(epochs=arguments.epochs, precision="float32")
    if arguments.time:
        for width in arguments.widths:
            for precision, last in (("bfloat16", True), ("float32", True), ("float32", False)):
                seconds = timed(width, settings.replace(precision=precision, channels_last=last), task, steps=4)
                print(f"width {width:g}, {precision}, {'channels last, ' * last}a step: {seconds:.3f} s", flush=True)
        return
    for seed in arguments.seeds:
        for width in arguments.widths:
            row = trained(width, seed, settings, task)
            print(", ".join(f"{name} {value}" for name, value in row.items()), flush=True)
            machine.save("mobilenet-widths", [row], key=("width", "seed", "epochs"))


if __name__ == "__main__":
    main()
