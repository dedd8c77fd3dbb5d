"""The baseline that a score must beat: as many weights pruned, but chosen at random.

    python benchmarks/random_choice.py lenet-300-100

The recipe of the network's name runs twice from the same base and seed: as it is, and with `score: random` in every
`PruneWeights`. Both rows go to `benchmarks/results/`. Runs that are finished are used again.
"""

from __future__ import annotations

import argparse
from typing import Any

import machine
import torch
from bases import SETTINGS
from deep_compression import compressed, row

from rarefy.recipe import Recipe


def at_random(item: Any) -> Any:
    """The same plain recipe, or part of one, with weights chosen at random."""
    if isinstance(item, list):
        return [at_random(part) for part in item]
    if not isinstance(item, dict):
        return item
    return {k: {**v, "score": "random"} if k == "PruneWeights" else at_random(v) for k, v in item.items()}


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("name", choices=list(SETTINGS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    usual = Recipe.load(arguments.name)
    random = Recipe.from_dict({**at_random(usual.to_dict()), "name": f"{arguments.name}-random"})
    runs = {
        choice: compressed(arguments.name, arguments.seed, recipe)
        for choice, recipe in (("magnitude", usual), ("random", random))
    }
    rows = [{"choice": choice, **row(run, arguments.name, arguments.seed)} for choice, run in runs.items()]
    for each in rows:
        print(", ".join(f"{k} {v}" for k, v in each.items()), flush=True)
    machine.save(f"random-choice-{arguments.name}", rows, key=("choice", "network", "seed"))


if __name__ == "__main__":
    main()
