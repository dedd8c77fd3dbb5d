"""The whole way on the embedded digits."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

from rarefy import loading
from rarefy.errors import RunError
from rarefy.recipe import Recipe
from rarefy.run import Run
from rarefy.step import Progress, silent

NETWORK = "lenet5-digits"


def demonstrate(out: Path, progress: Progress = silent) -> Run:
    """Train, compress and report a small network into the folder `out`; an earlier demonstration there is replaced.

    Raises `RunError` where `out` holds another run.
    """
    recipe = Recipe.load("demo")
    name = f"{NETWORK}, {recipe.name}"
    if (out / "run.json").exists():
        if Run.open(out).record.name != name:
            raise RunError(f"{out} holds another run ({Run.open(out).record.name}); choose another folder with --out")
        shutil.rmtree(out)
    task = loading.task("digits", batch_size=32)
    return recipe.run(
        loading.network(NETWORK, None, task).model,
        task,
        out=out,
        trained=False,
        name=NETWORK,
        command=f"rarefy demo --out {shlex.quote(str(out))}",
        progress=progress,
    )
