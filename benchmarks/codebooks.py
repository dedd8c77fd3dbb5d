"""Codebooks of values, of vectors and of sums of vectors: accuracy against the bytes of the file.

    python benchmarks/codebooks.py --epochs 1

The network comes from `benchmarks/bases.py`. Every way of sharing is one row: the size of the file, and its accuracy as
it is coded and again after `Finetune` has trained the code vectors; for both objectives, at the same bytes, and with
codebooks of one and two bits per weight as the baseline. Accuracies are those of the `.rfy` on all test images. Rows
that are there are not made again, so that a run that was interrupted goes on.
"""

from __future__ import annotations

import argparse
import time

import machine
import torch
from bases import CACHE, Base, base

from rarefy import load, pack
from rarefy.data.augment import Augment
from rarefy.export.onnx import Exporter, example
from rarefy.measure import answer
from rarefy.step import Step
from rarefy.steps import ClusterWeights, Finetune, Half, ProductQuantize, ResidualQuantize
from rarefy.task import scores

WAYS: list[Step] = [
    step.replace(objective=objective)
    for step in (
        ResidualQuantize(length=8, bits=4, stages=2),
        ProductQuantize(length=4, bits=4),
        ClusterWeights(bits=1),
        ProductQuantize(length=8, bits=6),
        ResidualQuantize(length=8, bits=4, stages=3),
        ProductQuantize(length=8, bits=8),
        ResidualQuantize(length=8, bits=4, stages=4),
        ClusterWeights(bits=2),
    )
    for objective in ("output", "weight")
]


def measured(made: Base, step: Step, epochs: int, exporter: Exporter) -> dict[str, object]:
    """One row."""
    began = time.process_time()
    model = step(made.model, made.task, seed=made.seed)
    spent = time.process_time() - began
    coded, _ = shipped(model, made, exporter)
    tuning = Finetune(
        epochs=epochs, lr=1e-3, augment=Augment(crop=4, flip=True), precision="bfloat16", channels_last=True
    )
    tuned, size = shipped(tuning(model, made.task, seed=made.seed), made, exporter)
    return {
        **named(made, step, epochs),
        "bytes": size,
        "coded": f"{coded:.4f}",
        "tuned": f"{tuned:.4f}",
        "base": f"{made.accuracy:.4f}",
        "cpu_seconds": round(spent),
    }


def named(made: Base, step: Step, epochs: int) -> dict[str, str]:
    """What a row is about."""
    settings = step.model_dump(mode="json", exclude_unset=True)
    return {
        "network": made.name,
        "seed": str(made.seed),
        "step": type(step).__name__,
        "objective": settings.pop("objective"),
        "settings": " ".join(f"{name}={value}" for name, value in settings.items()),
        "epochs": str(epochs),
    }


def shipped(model: torch.nn.Module, made: Base, exporter: Exporter) -> tuple[float, int]:
    """The accuracy and the size of the file, whose floats have 16 bits."""
    path = CACHE / "codebooks.rfy"
    pack.write(exporter.write(Half()(model, made.task)).proto, path)
    accuracy, _ = scores(made.task.judge(), made.task, answer(load(path)))
    return float(accuracy.mean()), path.stat().st_size


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--network", default="resnet20")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--ways", type=int, nargs="+", default=range(len(WAYS)), help="numbers of rows; by default all")
    arguments = parser.parse_args()
    made = base(arguments.network, arguments.seed)
    exporter = Exporter(made.model, example(made.task.judge(), made.model))
    path = machine.RESULTS / f"codebooks-{arguments.network}--{machine.slug()}.csv"
    rows = machine.rows_of(path)
    for number in arguments.ways:
        step = WAYS[number]
        if any(named(made, step, arguments.epochs).items() <= row.items() for row in rows):
            continue
        rows.append({name: str(value) for name, value in measured(made, step, arguments.epochs, exporter).items()})
        print(*rows[-1].values(), flush=True)
        machine.table(path, rows)


if __name__ == "__main__":
    main()
