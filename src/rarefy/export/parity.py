"""The exported file against the network in torch: the same answers, optimised or not."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from rarefy.measure import answer
from rarefy.records import Parity
from rarefy.runtime import load
from rarefy.task import Task, forward, labels
from rarefy.train import evaluating

BATCHES = 8


def parity(file: Path, model: nn.Module, task: Task) -> Parity:
    """Compare outputs on the first batches to judge, with all of ONNX Runtime's optimisations and with none."""
    batches = [inputs for inputs, _ in islice(task.judge(), BATCHES)]
    with evaluating(model):
        wanted = [forward(model, inputs) for inputs in batches]
    difference, agreement = {}, {}
    for optimise in (True, False):
        run = answer(load(file, optimise=optimise))
        got = [run(inputs) for inputs in batches]
        pairs = list(zip(wanted, got, strict=True))
        difference[optimise] = max(_difference(a, b) for a, b in pairs)
        agreement[optimise] = _agreement(pairs)
    return Parity(
        examples=sum(_count(w) for w in wanted),
        max_difference=difference[True],
        max_difference_unoptimised=difference[False],
        agreement=min(agreement.values()),
        agreement_unoptimised=agreement[False],
    )


def _tensors(output: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]


def _count(output: object) -> int:
    return len(_tensors(output)[0])


def _difference(a: object, b: object) -> float:
    """The largest; equal infinities, as in masked scores, do not differ."""
    pairs = zip(_tensors(a), _tensors(b), strict=True)
    gaps = [torch.where(x.cpu() == y, 0.0, (x.cpu().double() - y.double()).abs()).flatten() for x, y in pairs]
    return float(torch.cat(gaps).max())


def _agreement(pairs: list[tuple[object, object]]) -> float:
    """Share of equal labels; 1 for outputs that are no scores of classes."""
    equal = [(x.cpu() == y).float() for a, b in pairs if (x := labels(a)) is not None and (y := labels(b)) is not None]
    return float(torch.cat(equal).mean()) if equal else 1.0
