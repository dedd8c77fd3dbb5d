"""Deep Compression, with real bytes: the table of docs/results.md.

    python benchmarks/deep_compression.py lenet-300-100 lenet5 --seeds 0 1 2
    python benchmarks/deep_compression.py resnet20

Each network's base comes from `benchmarks/bases.py`; the recipe of its name compresses it. A row per seed goes to
`benchmarks/results/`, in a file named by the machine and versions. A run that was interrupted goes on.
"""

from __future__ import annotations

import argparse
import zlib
from typing import Any

import machine
import torch
from bases import CACHE, SETTINGS, base

from rarefy.recipe import Recipe
from rarefy.run import Run


def compressed(name: str, seed: int, recipe: Recipe) -> Run:
    """The finished run of one network and seed."""
    made = base(name, seed)
    folder = CACHE / "runs" / f"{recipe.name}-{seed}"
    if (folder / "run.json").exists() and not _same(Run.open(folder).record.recipe, recipe.to_dict()):
        folder = CACHE / "runs" / f"{recipe.name}-{seed}-{zlib.crc32(str(recipe.to_dict()).encode()):08x}"
    return recipe.run(made.model, made.task, out=folder, seed=seed, resume=True, trained=True, name=name)


def _same(one: dict[str, Any], two: dict[str, Any]) -> bool:
    """Whether two recipes are the same but for what is said about them."""
    return {**one, "about": ""} == {**two, "about": ""}


def row(run: Run, name: str, seed: int) -> dict[str, object]:
    """What the table shows of a run."""
    before, outcome = run.record.original, run.record.outcome
    assert before is not None
    assert outcome is not None
    after = outcome.measurement
    assert before.quality is not None
    assert after.quality is not None
    assert after.sizes.rfy is not None
    return {
        "network": name,
        "seed": seed,
        "base_error": f"{100 * (1 - before.quality.value):.2f}",
        "error": f"{100 * (1 - after.quality.value):.2f}",
        "float32_bytes": before.sizes.safetensors,
        "rfy_bytes": after.sizes.rfy,
        "ratio": f"{before.sizes.safetensors / after.sizes.rfy:.1f}",
        "nonzero": after.nonzero,
        "agreement": f"{after.quality.agreement:.4f}",
        "seconds": round(sum(s.seconds for s in run.record.steps)),
    }


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="+", choices=list(SETTINGS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for name in arguments.names:
        for seed in arguments.seeds:
            run = compressed(name, seed, Recipe.load(name))
            found = row(run, name, seed)
            print(", ".join(f"{k} {v}" for k, v in found.items()), flush=True)
            machine.save(f"deep-compression-{name}", [found], key=("network", "seed"))


if __name__ == "__main__":
    main()
