"""Bits for each weight by what rounding it does to the network's answers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from rarefy import calibration, encodings
from rarefy.encodings import Affine
from rarefy.errors import StepError
from rarefy.graph.weights import Weight, weights
from rarefy.numerics.allotment import Options, by_error
from rarefy.quantizing.fisher import answers, divergence
from rarefy.quantizing.grids import entropy
from rarefy.settings import Settings, the_one
from rarefy.step import Context, Plan
from rarefy.task import Batch, forward, scores
from rarefy.train import evaluating

FLOAT = 32
TOLERANCE = 0.02  # of a size asked for
LEVELS = 32  # sizes, between the least and all in float32, that are searched for one that loses little enough


class Mixed(Settings):
    """Bits chosen for each weight, under exactly one of two targets: a size, or what may be lost."""

    size: float | None = Field(
        None, gt=0, lt=1, description="share of its float32 bytes that the network's parameters take in the pack"
    )
    max_drop: float | None = Field(
        None, ge=0, lt=1, description="of the metric on the calibration examples: 0.01 is a point"
    )
    bits: tuple[int, ...] = Field((2, 3, 4, 6, 8), min_length=1, description="to choose from, beside float32")
    examples: int = Field(32, ge=1, description="training examples to measure each weight's sensitivity on")

    @model_validator(mode="after")
    def _possible(self) -> Mixed:
        the_one(self, ("size", "max_drop"))
        if wrong := [bits for bits in self.bits if not 2 <= bits <= 8]:
            raise ValueError(f"bits: 2 to 8 bits can be stored, not {wrong[0]}")
        return self


@dataclass(frozen=True)
class Sensitivities:
    """What each weight costs in bits, and the divergence of the answers when it alone is rounded; the last option is
    float32. fixed: bits of what is not chosen for. total: bits of all in float32."""

    bits: dict[str, list[int]]
    options: dict[str, Options]
    fixed: float
    total: float

    def at(self, share: float) -> dict[str, int]:
        """The bits of least divergence that take this share of float32, or the least there is."""
        chosen = by_error(list(self.options.values()), share * self.total - self.fixed)
        return {path: bits[c] for (path, bits), c in zip(self.bits.items(), chosen, strict=True)}

    def share(self, chosen: dict[str, int]) -> float:
        """Of float32."""
        cost = sum(self.options[path].cost[self.bits[path].index(bits)] for path, bits in chosen.items())
        return float(cost + self.fixed) / self.total

    def error(self, path: str, bits: int) -> float:
        """The divergence, in nats, when this weight alone has these bits."""
        return float(self.options[path].error[self.bits[path].index(bits)])

    def chosen(self, target: Mixed, drop_of: Callable[[dict[str, int]], float]) -> dict[str, int]:
        """The bits of each weight. drop_of: what is lost with some bits."""
        if target.size is not None:
            return self._of_size(target.size)
        assert target.max_drop is not None
        return self._within(target.max_drop, drop_of)

    def _of_size(self, size: float) -> dict[str, int]:
        chosen = self.at(size)
        share = self.share(chosen)
        if not (1 - TOLERANCE) * size <= share <= size:
            raise StepError(
                f"Quantize: no bits make the parameters {size:.1%} of their float32 bytes within {TOLERANCE:.0%}: "
                f"{math.ceil(share * 1000) / 1000:.1%} is the nearest; ask for that, or give other bits"
            )
        return chosen

    def _within(self, max_drop: float, drop_of: Callable[[dict[str, int]], float]) -> dict[str, int]:
        """The smallest that loses at most `max_drop`, by bisection."""
        least = self.share(self.at(0.0))
        sizes = np.geomspace(least * (1 + 1e-9), 1.0, LEVELS).tolist()
        low, high, nearest = -1, LEVELS - 1, ""
        while high - low > 1:
            middle = (low + high) // 2
            chosen = self.at(sizes[middle])
            drop = drop_of(chosen)
            if drop <= max_drop:
                high = middle
            else:
                low, nearest = middle, f"{drop:.2%} at {self.share(chosen):.1%} of the float32 bytes"
        if high == LEVELS - 1:
            raise StepError(
                f"Quantize: integers lose more than max_drop = {max_drop:.2%}: {nearest} is the nearest; allow that, "
                "set activations to null, or train with QuantizeAware"
            )
        return self.at(sizes[high])


def sensitivities(
    model: nn.Module, plan: Plan, paths: list[str], bits: list[int], context: Context, examples: int
) -> Sensitivities:
    """Measured on `model`, BatchNorm folded, which is left as it was."""
    found = {weight.path: weight for weight in weights(model)}
    batches = list(calibration.batches(context, examples))
    wanted = [_answers(model, inputs) for inputs in batches]

    def tried(weight: Weight, made: dict[str, Any]) -> tuple[float, float]:
        links, values, link = encodings.chain(weight), weight.values.detach(), _link(weight, made)
        cost = _cost(weight, link)
        encodings.encode(weight, [*links, link], values)
        error = sum(divergence(_answers(model, x), w) for x, w in zip(batches, wanted, strict=True)) / len(batches)
        encodings.encode(weight, links, values)
        return cost, error

    options = {}
    for done, path in enumerate(paths):
        context.progress("Quantize: sensitivities", done, len(paths))
        rounded = [tried(found[path], plan.do[path] | {"bits": b}) for b in bits]
        cost, error = zip(*rounded, (_cost(found[path], None), 0.0), strict=True)
        options[path] = Options(np.array(cost, float), np.array(error, float))
    given = {path: made for path, made in plan.do.items() if "axis" in made and path not in options}
    others = [weight for path, weight in found.items() if path not in options]
    fixed = sum(_cost(w, _link(w, given[w.path]) if w.path in given else None) for w in others)
    total = sum(_cost(weight, None) for weight in found.values())
    return Sensitivities({path: [*bits, FLOAT] for path in paths}, options, fixed, total)


def _link(weight: Weight, made: dict[str, Any]) -> Affine:
    return Affine.of(weight.tensor.detach(), made["bits"], made["axis"], made["group"], made["symmetric"])


def _cost(weight: Weight, link: Affine | None) -> float:
    """Bits of a weight in the pack: the entropy of its integers, and their scales; as floats where there is no link."""
    if link is None:
        return float(FLOAT * weight.tensor.numel())
    return entropy(link.store(weight.tensor.detach())) + FLOAT * link.scale.numel()


def _answers(model: nn.Module, inputs: Any) -> list[Tensor]:
    with evaluating(model):
        return answers(forward(model, inputs))


def drops(
    model: nn.Module, made: Callable[[dict[str, int]], nn.Module], context: Context, examples: int
) -> Callable[[dict[str, int]], float]:
    """A function: what of the metric on training examples the network that `made` gives loses against `model`."""
    task, batches = context.task, list[Batch]()
    for batch in task.train(seed=context.seed):
        batches.append(batch)
        if sum(len(tree_leaves(inputs)[0]) for inputs, _ in batches) >= examples:
            break

    def metric(network: nn.Module) -> float:
        with evaluating(network):
            return float(scores(batches, task, lambda inputs: forward(network, inputs))[0].mean())

    before = metric(model)
    return lambda bits: before - metric(made(bits))


def explain(plan: Plan, table: Sensitivities, best: dict[str, int], context: Context) -> None:
    """Write to a plan why each weight has its bits; those kept in float32 are named in a warning too."""
    for path, bits in best.items():
        fewer = [b for b in table.bits[path] if b < bits]
        shown = fewer[-1] if fewer else bits
        words = f" ({shown} bits would move the answers by {table.error(path, shown):.1e} nats)"
        if path in plan.leave:
            plan.leave[path] += words
        else:
            plan.notes[path] += words
    if kept := [path for path, bits in best.items() if bits == FLOAT]:
        context.warnings.append(f"kept in float32, where rounding them costs most: {', '.join(kept)}")
