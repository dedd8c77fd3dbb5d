"""What removing channels gains, and what deciding it costs. Random weights: neither depends on them.

    python benchmarks/channels.py --threads 1

The speed of ResNet-18 with half of its channels, and of ResNet-20 with odd numbers of them and with multiples of 8,
in ONNX Runtime at batch 1, measured in turns with the whole one; and the time that planning and cutting ResNet-50
takes, in turns with Torch-Pruning. rarefy also runs the network masked and cut, and compares; Torch-Pruning does not,
so the time without that is shown too.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from torch import nn

from rarefy import budget, zoo
from rarefy.classification import Classification
from rarefy.steps import PruneChannels, prune_channels


def network(name: str) -> nn.Module:
    """With statistics as if it had been trained."""
    model = zoo.build(name).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
    return model


def task(size: int = 224) -> Classification:
    """Noise: only its shape counts."""
    images = torch.randn(4, 3, size, size).numpy()
    return Classification((images, [0, 1, 2, 3]), (images, [0, 1, 2, 3]), batch_size=2)


def latency(name: str, ratio: float, align: int, size: int, threads: int) -> None:
    """The network without a share of its channels, a multiple of `align` each."""
    whole, data = network(name), task(size)
    less = PruneChannels(ratio=ratio, align=align)(whole, data)
    inputs = next(iter(data.judge()))[0]
    share = 1 / budget.speedup(whole, less, inputs, threads=threads, seconds=10)
    print(
        f"{name}, channels less {ratio:.1%}, in multiples of {align}: "
        f"{budget.macs(less, inputs) / budget.macs(whole, inputs):.3f} of the MACs, "
        f"{budget.parameters(less) / budget.parameters(whole):.3f} of the parameters, {share:.3f} of the time",
        flush=True,
    )


def ours(model: nn.Module, data: Classification) -> nn.Module:
    """Plan, compare with the masked network, and cut."""
    return PruneChannels(ratio=0.5, align=8)(model, data)


def theirs(model: Any, _: Classification) -> nn.Module:
    """The same cut by Torch-Pruning, which compares nothing."""
    import torch_pruning

    importance: Any = torch_pruning.importance.MagnitudeImportance(p=2)
    pruner = torch_pruning.pruner.MetaPruner(
        model,
        torch.randn(1, 3, 224, 224),
        importance=importance,
        pruning_ratio=0.5,
        round_to=8,
        ignored_layers=[model.fc],
    )
    pruner.step()
    return model


class Clock:
    """The seconds that calls of a function take."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function, self.seconds = function, 0.0

    def __call__(self, *args: Any) -> Any:
        began = time.perf_counter()
        result = self.function(*args)
        self.seconds += time.perf_counter() - began
        return result


def cutting(rounds: int) -> None:
    """Both in turns, of networks made before."""
    times: dict[str, list[float]] = {"rarefy": [], "without the comparison": [], "torch-pruning": []}
    for _ in range(rounds):
        cut, compared = Clock(ours), Clock(prune_channels.checked)
        with mock.patch.object(prune_channels, "checked", compared):
            left = budget.parameters(cut(network("resnet50"), task()))
        cut_by_them = Clock(theirs)
        left_by_them = budget.parameters(cut_by_them(network("resnet50"), task()))
        spent = cut.seconds, cut.seconds - compared.seconds, cut_by_them.seconds
        for name, seconds in zip(times, spent, strict=True):
            times[name].append(seconds)
    print(f"resnet50, half of the channels: {left:,} parameters left by rarefy, {left_by_them:,} by torch-pruning")
    print(", ".join(f"{name}: median {statistics.median(t):.2f} s" for name, t in times.items()))


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    latency("resnet18", 1 / 2, 8, 224, arguments.threads)
    latency("resnet20", 1 / 16, 1, 32, arguments.threads)
    latency("resnet20", 1 / 2, 8, 32, arguments.threads)
    cutting(arguments.rounds)


if __name__ == "__main__":
    main()
