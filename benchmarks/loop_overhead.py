"""rarefy's training loop against a bare PyTorch loop with the same settings.

    python benchmarks/loop_overhead.py

Both train one epoch, in turns, on the same batches; the median of the paired ratios is printed and must be at most
1.05 (exit status 1 otherwise). The losses must be equal, or the two did not do the same.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time

import numpy as np
import torch
from machine import describe
from torch import nn

from rarefy import Classification, Images, Train, zoo
from rarefy.step import Context
from rarefy.task import Task
from rarefy.train import engine, fit

LIMIT = 1.05
NETWORKS = {"lenet5": (1, 28, 64, 60), "resnet20": (3, 32, 64, 6)}  # channels, side, batch, batches


def made(name: str) -> Task:
    """Random images of the network's shape."""
    channels, side, batch, batches = NETWORKS[name]
    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 256, (batch * batches, channels, side, side)).astype(np.uint8)
    images = Images(pixels, np.arange(len(pixels)) % 10, tuple("0123456789"))
    return Classification(images, images, batch_size=batch)


def bare(model: nn.Module, task: Task, seed: int) -> tuple[float, float]:
    """Seconds and mean loss of the loop that anyone would write."""
    began, losses = time.perf_counter(), []
    model.train()
    batches = task.train(seed=seed)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, fused=True)
    for step, (x, y) in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * 0.5 * (1 + math.cos(math.pi * step / len(batches)))
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return time.perf_counter() - began, float(torch.stack(losses).mean())


def ours(model: nn.Module, task: Task, fabric: object) -> tuple[float, float]:
    """The same through `fit`."""
    context = Context(task=task, fabric=fabric)
    began = time.perf_counter()
    fit(model, Train(epochs=1, lr=1e-3), context)
    return time.perf_counter() - began, context.curve[0].loss


def main() -> None:
    """Time and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(describe())
    fabric, worst = engine(), 0.0
    seed = int(np.random.SeedSequence([0, 0]).generate_state(1)[0])  # the one that `fit` gives the first epoch
    for name in NETWORKS:
        task, pairs = made(name), []
        for _ in range(arguments.rounds + 1):
            plain = bare(zoo.build(name), task, seed)
            own = ours(zoo.build(name), task, fabric)
            assert math.isclose(plain[1], own[1], rel_tol=1e-4), "the two loops do not do the same"
            pairs.append((plain[0], own[0]))
        ratio = statistics.median(b / a for a, b in pairs[1:])
        worst = max(worst, ratio)
        seconds = [statistics.median(column) for column in zip(*pairs[1:], strict=True)]
        print(f"{name:10} bare {seconds[0]:.3f} s, rarefy {seconds[1]:.3f} s, ratio {ratio:.3f}", flush=True)
    sys.exit(worst > LIMIT)


if __name__ == "__main__":
    main()
