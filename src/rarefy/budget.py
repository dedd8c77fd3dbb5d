"""What a network in memory costs, and budgets: how much of that cost a step may leave.

Cost is parameters, multiply-accumulates, or the measured time of the exported network. A budget is a share of what
the network cost before, never exceeded, and met within 2 % of it where the pieces that can be removed are small enough.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from rarefy import measure, pack
from rarefy.errors import DataError, ExportError, StepError
from rarefy.export.onnx import Exporter, TensorExporter, example
from rarefy.graph.weights import weights
from rarefy.measure.engine import opener
from rarefy.measure.latency import sample
from rarefy.settings import the_one
from rarefy.step import Context, Step
from rarefy.task import Batches, forward
from rarefy.train import evaluating

TOLERANCE = 0.02

Kind = Literal["macs", "parameters", "latency"]
Cost = Callable[[nn.Module], float]

_WORDS: dict[Kind, str] = {"macs": "multiply-accumulates", "parameters": "parameters", "latency": "measured time"}


def parameters(model: nn.Module) -> int:
    """Number of parameters, decoded, shared ones once."""
    return sum(weight.tensor.numel() for weight in weights(model))


def macs(model: nn.Module, inputs: Any) -> int:
    """Multiply-accumulates of one example of the batch `inputs`; agrees with `rarefy.measure.macs` of the exported
    file for what torch counts: convolutions, matrix products, attention; not recurrent cells and FFTs."""
    counter = FlopCounterMode(display=False)
    with _counted_attention(), evaluating(model), counter:
        forward(model, inputs)
    return int(counter.get_total_flops()) // 2 // _batch(inputs)


@contextmanager
def _counted_attention() -> Iterator[None]:
    """Attention as matrix products: the fused kernels are not counted."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _batch(inputs: Any) -> int:
    if isinstance(inputs, Mapping):
        inputs = next(iter(inputs.values()))
    elif isinstance(inputs, (tuple, list)):
        inputs = inputs[0]
    return len(inputs)


def milliseconds(model: nn.Module, inputs: Any, threads: int = 1, seconds: float = 1.0) -> float:
    """Median time of one inference of the exported network at batch 1 in ONNX Runtime on the CPU.

    inputs: a batch of at least two examples. Compare networks by `speedup`, not by two of these: machines drift.
    Raises `ExportError` where the network cannot be exported.
    """
    with TemporaryDirectory() as folder:
        path = _exported(model, inputs, Path(folder) / "network.onnx")
        times = sample([opener(path, threads=threads)], seconds, least=8)  # (openings, rounds, 1, 2)
    return float(np.median(times.min(axis=3)))


def speedup(model: nn.Module, other: nn.Module, inputs: Any, threads: int = 1, seconds: float = 1.0) -> float:
    """How many times as fast as `model` the network `other` is: the median ratio of times, measured in turns."""
    with timing(model, inputs, threads, seconds) as share:
        return 1 / share(other)


@contextmanager
def timing(model: nn.Module, inputs: Any, threads: int = 1, seconds: float = 1.0) -> Iterator[Cost]:
    """Gives a function: the time of a network as a share of the time of `model`, measured in turns."""
    with TemporaryDirectory() as folder:
        original = _exported(model, inputs, Path(folder) / "original.onnx")

        def share(other: nn.Module) -> float:
            path = _exported(other, inputs, Path(folder) / "other.onnx")
            return measure.latency(path, original, threads=threads, seconds=seconds, rounds_min=8).ratio

        yield share


def _exported(model: nn.Module, inputs: Any, path: Path) -> Path:
    path.write_bytes(Exporter(model, inputs).write(model).proto.SerializeToString())
    return path


def packed(model: nn.Module, inputs: Any, metadata: Mapping[str, str]) -> Callable[[nn.Module], int]:
    """Gives a function: the bytes of the packed file of a network that has the graph of `model`.

    Where the network cannot be exported, the file holds its tensors alone.
    """
    try:
        writer: Exporter | TensorExporter = Exporter(model, inputs, metadata)
    except ExportError as error:
        writer = TensorExporter(str(error), metadata)
    return lambda other: len(pack.encode(writer.write(other).proto))


def few(context: Context) -> Any:
    """The inputs of a training batch; where there are none, of a judging batch, of which only the shape counts."""
    return next(iter(_batches(context)))[0]


def examples(model: nn.Module, context: Context) -> Any:
    """The inputs of two examples, to count and trace with. Raises `ModelError` where the network does not run on
    them."""
    return example(_batches(context), model)


def _batches(context: Context) -> Batches:
    try:
        return context.task.train(seed=context.seed)
    except DataError:
        return context.task.judge()


@dataclass(frozen=True)
class Target:
    """At most this share of the network's cost is to be left."""

    kind: Kind
    share: float

    def __str__(self) -> str:
        return f"{self.share:.1%} of the {_WORDS[self.kind]}"

    @property
    def measured(self) -> bool:
        """Whether a look at the cost takes seconds, and differs from time to time."""
        return self.kind == "latency"

    def met(self, share: float) -> bool:
        """Whether `share` of the cost is within 2 % of what is asked for, and not above."""
        return (1 - TOLERANCE) * self.share <= share <= self.share

    @contextmanager
    def costs(self, model: nn.Module, inputs: Any) -> Iterator[Cost]:
        """Gives a function: what a network costs, as a share of what `model` costs. Raises `StepError` where that
        cannot be known."""
        if self.kind == "latency":
            with self._timed(model, inputs) as share:
                yield share
            return
        count = parameters if self.kind == "parameters" else lambda network: macs(network, inputs)
        before = count(model)
        if before == 0:
            raise StepError(f"{type(model).__name__} has no {_WORDS[self.kind]} to count; give another budget")
        yield lambda network: count(network) / before

    @contextmanager
    def _timed(self, model: nn.Module, inputs: Any) -> Iterator[Cost]:
        try:
            with timing(model, inputs) as share:
                yield share
        except ExportError as error:
            raise StepError(f"the time cannot be measured: {error}; give macs or parameters instead") from error

    def demand(self, step: str, share: float) -> None:
        """Raise `StepError` where `share`, the nearest that can be reached, is not within 2 % of the target."""
        if not self.met(share):
            raise StepError(
                f"{step} cannot leave {self} within {TOLERANCE:.0%}: what it can remove leaves {share:.1%} at the "
                f"nearest; ask for that, or let it remove smaller pieces"
            )


class Budgeted(Step, ABC):
    """A step that removes pieces, an amount of them or as many as a cost demands."""

    macs: float | None = Field(None, gt=0, lt=1, description="share of the multiply-accumulates that is left")
    parameters: float | None = Field(None, gt=0, lt=1, description="share of the parameters that is left")
    latency: float | None = Field(None, gt=0, lt=1, description="share of the time that is left, measured at batch 1")

    amounts: ClassVar[tuple[str, ...]]  # the settings of which exactly one is given; these three are among them

    @model_validator(mode="after")
    def _one_amount(self) -> Self:
        the_one(self, self.amounts)
        return self

    @property
    def target(self) -> Target | None:
        """The cost to reach; None where another amount is given."""
        kinds: tuple[Kind, ...] = ("macs", "parameters", "latency")
        return next((Target(kind, share) for kind in kinds if (share := getattr(self, kind)) is not None), None)


def search(cost_of: Callable[[int], float], most: int, target: Target, step: str) -> tuple[int, float]:
    """The smallest amount of pieces to remove, of 0..`most`, that leaves at most the target, and what it leaves.

    cost_of(amount): the share of the cost that is left; falls (roughly) as the amount rises, from 1 at 0. Found by
    interpolation and bisection in turns, about log2(most) looks or fewer; measured costs end the search where they
    are met within the tolerance. Raises `StepError` where all that can be removed does not reach it.
    """
    low, high = 0, most
    above, below = 1.0, cost_of(most) if most else 1.0
    if below > target.share:
        raise StepError(
            f"{step} cannot leave {target}: {below:.1%} is the least that can be reached; ask for that much or more, "
            "or skip less of the network"
        )
    halve = False
    while high - low > 1 and not (target.measured and target.met(below)):
        part = 0.5 if halve or above == below else (above - target.share) / (above - below)
        middle = min(max(low + round(part * (high - low)), low + 1), high - 1)
        halve, cost = not halve, cost_of(middle)
        if cost <= target.share:
            high, below = middle, cost
        else:
            low, above = middle, cost
    return high, below
