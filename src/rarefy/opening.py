"""The folder of a run: new, or an interrupted one to go on in."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rarefy import measure
from rarefy.errors import RunError
from rarefy.files import model_tensors
from rarefy.recipe import Recipe
from rarefy.records import RunRecord
from rarefy.run import Run
from rarefy.task import Task


def fingerprint(recipe: Recipe, seed: int, task: Task, model: nn.Module, processes: int) -> str:
    """Changes with whatever a resumed run must have in common with the interrupted one."""
    digest = hashlib.sha256()
    said = {key: value for key, value in recipe.to_dict().items() if key != "about"}
    what = [said, seed, task.describe(), task.metadata(), processes]
    digest.update(json.dumps(what, sort_keys=True).encode())
    for name, tensor in model_tensors(model).items():
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def old(folder: Path, resume: bool, fingerprint: str, steps: int) -> Run | None:
    """The run in `folder`, of `steps` steps, to go on in; None where there is none.

    Raises `RunError` for one that is not to be resumed, or not by this network, recipe, data and seed, and for a folder
    that holds something else.
    """
    if not (folder / "run.json").exists():
        if folder.exists() and set(folder.iterdir()) - set(unfinished(folder)):
            raise RunError(f"{folder} is not empty and no run; choose another folder for the results")
        return None
    if not resume:
        raise RunError(f"{folder} holds a run already; continue it with resume, or choose another folder")
    run = Run.open(folder)
    if run.record.fingerprint != fingerprint:
        raise RunError(
            f"{folder} was made with another network, recipe, data or seed "
            f"({run.record.model}, {run.record.recipe.get('name')}, seed {run.record.seed}, {run.record.task}); "
            "give the same, or choose another folder"
        )
    begun, now = run.record.environment.threads, torch.get_num_threads()
    if begun != now and len(run.record.steps) < steps:
        raise RunError(
            f"{folder} was begun with {begun} threads, now there are {now}, which round sums in another way; "
            f"continue with --threads {begun} (torch.set_num_threads({begun}))"
        )
    return run


def new(
    folder: Path, recipe: Recipe, task: Task, seed: int, trained: bool, processes: int, about: dict[str, Any], key: str
) -> Run:
    """A run that has not begun; nothing is written. about: `model`, `weights` and `command`; key: its fingerprint."""
    record = RunRecord(
        name=f"{about['model']}, {recipe.name}",
        **about,
        task=task.describe(),
        classes=list(task.classes),
        recipe=recipe.to_dict(),
        seed=seed,
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        environment=measure.environment(processes, torch.get_num_threads()),
        fingerprint=key,
        trained_from_scratch=not trained,
    )
    return Run(folder, record)


def checkpoint(folder: Path, index: int) -> Path:
    """Where the training of a step keeps its state."""
    return folder / "steps" / f"{index:02d}.partial"


def states(folder: Path, index: int) -> list[Path]:
    """What the trainings of a step have kept."""
    return list(folder.glob(f"steps/{index:02d}.partial*"))


def unfinished(folder: Path) -> list[Path]:
    """Files that a process was writing when it was killed; no other hidden file is ours to remove."""
    ours = (".run.json.*", ".original.*", ".model.*", ".report.html.*", "steps/.*")
    return [path for pattern in ours for path in folder.glob(pattern)]
