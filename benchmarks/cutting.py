"""Cutting other people's networks: every kind of network, ratio, scope and score.

    python benchmarks/cutting.py

For each of the networks of `tests/structures.py` (architectures of the literature, and what makes tracing go wrong):
`PruneChannels` at three ratios, over layers and globally, by every score. A result counts where the narrow network
answers as the masked one (which the step compares itself, here on new inputs again), and where it was exported,
packed, loaded back and agrees. Everything that is left is counted with its reason.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any, get_args

import torch

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from models import Case, Toy, outputs
from rarefy import load, measure, pack
from rarefy.encodings import adopted
from rarefy.errors import ExportError, StepError
from rarefy.export.onnx import Exporter
from rarefy.pruning.scores import Score
from rarefy.step import Context
from rarefy.steps import PruneChannels
from rarefy.task import forward
from structures import STRUCTURES

RATIOS = (0.1, 0.5, 0.9)


def agrees(case: Case, model: torch.nn.Module, folder: Path) -> str:
    """The packed file against torch: the largest difference, relative to the largest answer."""
    inputs = case.batch()
    try:
        proto = Exporter(model, inputs).write(model).proto
    except ExportError as error:
        return f"not exported: {str(error)[:60]}"
    pack.write(proto, folder / "m.rfy")
    got = outputs(measure.answer(load(folder / "m.rfy"))(inputs))
    with torch.no_grad():
        wanted = outputs(forward(model, inputs))
    pairs = list(zip(wanted, got, strict=True))
    return f"{max(float((a - b).abs().max() / a.abs().max().clamp(min=1e-9)) for a, b in pairs):.1e}"


def cut(case: Case, **settings: Any) -> tuple[torch.nn.Module | None, float, str]:
    """The narrow network, the share of the parameters that is left, or what was said."""
    model, task = adopted(case.model()), Toy(case.batch())
    before = sum(p.numel() for p in model.parameters())
    try:
        step = PruneChannels(**settings, align=1)
        result = step.apply(adopted(case.model()), step.plan(model, Context(task=task)), Context(task=task))
    except StepError as error:
        return None, 1.0, str(error)
    with torch.no_grad():
        forward(result, case.batch())
    return result, sum(p.numel() for p in result.parameters()) / before, ""


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", default=list(STRUCTURES))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    said: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.names:
            case, left = STRUCTURES[name], list[float]()
            for ratio, scope, score in product(RATIOS, ("layer", "global"), get_args(Score)):
                result, share, words = cut(case, ratio=ratio, scope=scope, score=score)
                said[words or "cut"] += 1
                left.append(share)
            result, _, words = cut(case, ratio=0.5)
            file = agrees(case, result, Path(folder)) if result is not None else words[:80]
            print(
                f"{name:14} parameters left {min(left):.2f} to {max(left):.2f}; file against torch: {file}", flush=True
            )
    for words, count in said.most_common():
        print(f"{count:5} {words}")


if __name__ == "__main__":
    main()
