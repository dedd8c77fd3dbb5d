"""Time and memory of sharing the 138 million weights of VGG-16. Random values: neither depends on training.

    python benchmarks/large.py --threads 2

Every step runs in a process of its own, as `step(model, task)`: the network, its copy and all that the step needs are
in the peak, which is what the system saw of that process.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time

import torch
from torch import Tensor, nn

from rarefy import encodings, zoo
from rarefy.classification import Classification
from rarefy.graph.weights import weights
from rarefy.step import Step
from rarefy.steps import ClusterWeights, ProductQuantize, ResidualQuantize

STEPS: dict[str, Step] = {
    "values": ClusterWeights(bits=4),
    "values, rate": ClusterWeights(bits=8, rate=0.01),
    "products": ProductQuantize(length=8, bits=8),
    "kernels": ProductQuantize(length=9, bits=8, by="kernels"),
    "residuals": ResidualQuantize(length=8, bits=4, stages=2),
}


def bell_shaped(model: nn.Module) -> nn.Module:
    """Normal values in all weights, as trained ones have: initial ones may be uniform."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=(2 / parameter[0].numel()) ** 0.5)
    return model


def relative_error(before: nn.Module, after: nn.Module) -> float:
    """Squared error over squared weights, of all that is stored in another way now."""
    error, size = 0.0, 0.0
    for one, two in zip(weights(before), weights(after), strict=True):
        if two.chain:
            difference: Tensor = one.tensor.detach() - two.tensor.detach()
            error += float(difference.square_().sum(dtype=torch.float64))
            size += float(one.tensor.detach().square().sum(dtype=torch.float64))
    return error / size


def measure(name: str, network: str, threads: int) -> None:
    """Run one step and print its row."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = bell_shaped(zoo.build(network))
    noise = torch.randn(2, 3, 224, 224).numpy(), [0, 1]
    task = Classification(noise, noise)
    began, cpu = time.perf_counter(), time.process_time()
    result = STEPS[name](model, task)
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    stored = sum(encodings.stored_bits(w) for w in weights(result)) / 8e6
    print(
        f"{name:>14} {seconds:8.0f} {cpu:8.0f} {peak:9.2f} {stored:8.1f} {relative_error(model, result):8.4f}",
        flush=True,
    )


def main() -> None:
    """Run every step and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--network", default="vgg16")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", nargs="+", choices=list(STEPS), default=list(STEPS))
    parser.add_argument("--one", choices=list(STEPS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        measure(arguments.one, arguments.network, arguments.threads)
        return
    print(f"{'':>14} {'seconds':>8} {'CPU s':>8} {'peak GiB':>9} {'MB':>8} {'error':>8}", flush=True)
    for name in arguments.steps:
        command = [sys.executable, __file__, "--one", name, "--network", arguments.network]
        subprocess.run([*command, "--threads", str(arguments.threads)], check=True)


if __name__ == "__main__":
    main()
