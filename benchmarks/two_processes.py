"""Two processes (gloo) against one with the double batch: the same result, and equal ranks.

    python benchmarks/two_processes.py
    torchrun --nproc-per-node 2 benchmarks/two_processes.py --rank

Trains LeNet-5 on the embedded digits. Prints the largest difference between the weights of the two ranks (must be 0),
and the losses and accuracies of both ways. Exit status 1 where the ranks differ.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import torch

from rarefy import Train, loading
from rarefy.files import load_tensors, model_tensors, save_tensors
from rarefy.step import Context
from rarefy.train import engine, evaluate, fit

GLOBAL_BATCH = 64


def trained(processes: int, epochs: int, folder: Path | None) -> tuple[list[float], float]:
    """The losses of the epochs and the accuracy; the weights of each rank go to `folder`."""
    fabric = engine(processes)
    fabric.launch()
    torch.set_num_threads(1)
    task = loading.task("digits", batch_size=GLOBAL_BATCH // fabric.world_size)
    model = loading.network("lenet5-digits", task=task).model
    context = Context(task=task, fabric=fabric)
    fit(model, Train(epochs=epochs, lr=1e-3), context)
    if folder:
        save_tensors(folder / f"rank{fabric.global_rank}", model_tensors(model))
    fabric.barrier()
    if fabric.global_rank:
        sys.exit(0)
    return [e.loss for e in context.curve], evaluate(model, task.judge(), task)


def show(name: str, losses: list[float], accuracy: float) -> None:
    """One line."""
    print(f"{name:14} loss {' '.join(f'{v:.4f}' for v in losses)}   accuracy {accuracy:.2%}")


def main() -> None:
    """Train both ways and compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--rank", action="store_true", help="one of the processes that torchrun starts")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "rarefy-two-processes")
    arguments = parser.parse_args()
    one = None if arguments.rank else trained(1, arguments.epochs, None)
    two = trained(2, arguments.epochs, arguments.folder)
    if one:
        show("one process", *one)
    show("two processes", *two)
    first, second = (load_tensors(arguments.folder / f"rank{rank}")[0] for rank in range(2))
    difference = max(float((first[n] - second[n]).abs().max()) for n in first)
    print(f"largest difference between the ranks: {difference}")
    sys.exit(difference != 0)


if __name__ == "__main__":
    main()
