"""Compressed networks as modules again: from a run, to go on with; from a pack that holds tensors only."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import nn

from rarefy.encodings import adopted, copied
from rarefy.errors import ModelError, RunError
from rarefy.files import load_tensors, model_tensors, restore
from rarefy.recipe import Recipe
from rarefy.run import Run
from rarefy.runtime import load
from rarefy.step import Context, Plan
from rarefy.task import Task


def rebuilt(run: Run, model: nn.Module, step: int | None = None, trust: bool = False) -> nn.Module:
    """A copy of `model` with the structure and the tensors that it had after `step` of `run` (0: before the first).

    trust: also where a plan names code to run, for a student that is no network of the zoo. A folder may come from a
    stranger, so that is refused otherwise (`RunError`).
    """
    records = run.record.steps
    last = len(records) if step is None else step
    if not 0 <= last <= len(records):
        raise RunError(f"{run.folder} has {len(records)} finished steps; there is no step {last}")
    work = copied(model)
    if last == 0:
        return work
    steps = Recipe.from_dict(run.record.recipe).steps
    context = Context(task=cast(Task, None), seed=run.record.seed, blank=True)
    try:
        for s, record in list(zip(steps, records, strict=False))[:last]:
            plan = Plan(**record.plan)
            if not trust:
                _refuse_code(run, plan)
            if not s.trains or plan.do:  # a training leaves the structure, but for another student
                work = s.apply(work, plan, context)
    except UntrustedError:
        raise
    except Exception as error:  # a plan read from a file can be wrong in any way
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        raise RunError(
            f"{run.folder}: the plans in run.json do not fit the network ({what}); give the network that the run was "
            "made with, or begin again in another folder"
        ) from error
    path = run.folder / records[last - 1].tensors
    restore(work, load_tensors(path)[0], str(path))
    return work.eval()


class UntrustedError(RunError):
    """A run's folder names code to run."""


def _refuse_code(run: Run, plan: Plan) -> None:
    code = sorted({str(d["student"]) for d in plan.do.values() if ":" in str(d.get("student", ""))})
    if code:
        raise UntrustedError(
            f"{run.folder}: a plan runs {', '.join(code)} to build a network; read that code, and if it is what you "
            "expect, give trust=True"
        )


def load_into(path: str | Path, model: nn.Module) -> nn.Module:
    """Fill `model` (in place) with the tensors of a pack that holds tensors only, because its network could not be
    exported. Raises `ModelError` where they do not fit."""
    adopted(model)
    session = load(path)
    if session.metadata.get("holds") != "tensors":
        raise ModelError(f"{path} holds a whole network: run it with rarefy.load, or restore the run it came from")
    found = session()
    arrays = found if isinstance(found, dict) else {session.outputs[0].name: found}
    tensors = {name.removeprefix("out:"): torch.from_numpy(np.array(a)) for name, a in arrays.items()}
    own = model_tensors(model)
    restore(model, {name: t.to(own[name].dtype) if name in own else t for name, t in tensors.items()}, str(path))
    return model.eval()
