"""Narrower, thinner and chained: recipes that change the structure, on the bases of CIFAR-10.

    python benchmarks/structure.py resnet56:channels resnet20:slimming
    python benchmarks/structure.py resnet20:{chain,channels,low-rank,sharing,sharing-2-bits}

The recipes are those of `benchmarks/recipes/`. A row for each goes to `benchmarks/results/`; the runs of a network are
compared in one report in the cache. A run that was interrupted goes on.
"""

from __future__ import annotations

import argparse

import machine
import torch
from bases import CACHE, HERE, base
from deep_compression import compressed, row

from rarefy import report
from rarefy.recipe import Recipe
from rarefy.run import Run


def named(name: str, seed: int, recipe: str) -> Run:
    """The finished run of a network through a recipe; the folder is called after both."""
    loaded = Recipe.load(HERE / "recipes" / f"{recipe}.yaml")
    return compressed(name, seed, Recipe(loaded.items, name=f"{name}-{recipe}", about=loaded.about))


def structure_row(run: Run, name: str, recipe: str, seed: int) -> dict[str, object]:
    """What the table shows: as for compression, and what became of the operations and of the time."""
    before, outcome = run.record.original, run.record.outcome
    assert before is not None
    assert outcome is not None
    assert before.macs is not None
    assert outcome.measurement.macs is not None
    latency = outcome.latency[0]
    return {
        "recipe": recipe,
        **row(run, name, seed),
        "macs_before": before.macs,
        "macs": outcome.measurement.macs,
        "time": f"{latency.ratio:.3f}",
        "time_low": f"{latency.low:.3f}",
        "time_high": f"{latency.high:.3f}",
    }


def main() -> None:
    """Run, print, and write one comparison for each network."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("pairs", nargs="+", metavar="NETWORK:RECIPE")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    runs: dict[str, list[Run]] = {}
    for pair in arguments.pairs:
        name, recipe = pair.split(":")
        base(name, arguments.seed)
        run = named(name, arguments.seed, recipe)
        runs.setdefault(name, []).append(run)
        found = structure_row(run, name, recipe, arguments.seed)
        print(", ".join(f"{k} {v}" for k, v in found.items()), flush=True)
        machine.save("structure", [found], key=("network", "recipe", "seed"))
    for name, several in runs.items():
        page = CACHE / f"{name}.html"
        report.write([(run.folder.name, run.record) for run in several], page)
        print(page)


if __name__ == "__main__":
    main()
