"""Killed at any moment, continued, and the same bytes.

    python benchmarks/kill_resume.py --kills 20

A short recipe on the embedded digits runs once undisturbed, then again and again with SIGKILL and `resume` after it
(which may be killed too): at random moments, spread evenly over the whole length; then as soon as each of the files is
being written. Training saves its state after every epoch here, so that kills hit that as well. Every run is a process
forked from one that has all libraries loaded, so it takes seconds. Latency and memory are not measured: that writes
nothing. Exit status 1 where one `.rfy` differs from the undisturbed one, or where something is left behind.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.context import ForkProcess
from pathlib import Path
from unittest import mock

import torch
from torch import nn

from rarefy import loading, report, train  # noqa: F401  (report: loaded before the forks)
from rarefy.export.onnx import Exporter
from rarefy.outcome import Measurer
from rarefy.recipe import Recipe

RECIPE = {
    "name": "kill-resume",
    "steps": [
        {"Train": {"epochs": 3, "lr": 2.0e-3, "augment": {"crop": 1}}},
        {
            "Repeat": {
                "times": 2,
                "ramp": {"PruneWeights.sparsity": {"start": 0.6, "end": 0.9, "curve": "cubic"}},
                "steps": [{"PruneWeights": {"scope": "global"}}, {"Finetune": {"epochs": 2}}],
            }
        },
        {"ClusterWeights": {"bits": 4}},
        {"Finetune": {"epochs": 2, "lr": 2.0e-4}},
        "Half",
    ],
}
FILES = {"run.json", "original.onnx", "model.onnx", "model.rfy", "report.html", "steps"}
AIMED = [  # patterns of what is on its way, and of what has just come
    ".run.json.*", "run.json", ".original.onnx.*", "original.onnx", "steps/.01-*", "steps/.*.partial.*",
    "steps/*.partial", "steps/.*.onnx", "steps/.*.rfy", ".model.onnx.*", "model.onnx", ".model.rfy.*", "model.rfy",
    ".report.html.*",
]  # fmt: skip


def network() -> nn.Module:
    """A small one, always the same."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 32), nn.ReLU(), nn.Linear(32, 10)]
    return nn.Sequential(*layers).eval()


def compress(folder: Path) -> None:
    """The run of one process: begun, or continued."""
    train.SAVE_EVERY = 0.0
    task = loading.task("digits", batch_size=64)
    resume = (folder / "run.json").exists()
    with mock.patch.object(Measurer, "_running_costs"):
        Recipe.from_dict(RECIPE).run(network(), task, out=folder, resume=resume, trained=False)


def started(folder: Path) -> ForkProcess:
    """A process that compresses."""
    process = multiprocessing.get_context("fork").Process(target=compress, args=(folder,))
    process.start()
    return process


def finished(folder: Path) -> bool:
    """Run to the end; whether that went well."""
    process = started(folder)
    process.join()
    return process.exitcode == 0


def killed(folder: Path, now: Callable[[], bool]) -> str | None:
    """Start or continue, and kill as soon as `now`; what was there then, or None where it had ended before."""
    process = started(folder)
    while process.is_alive() and not now():
        time.sleep(0.0005)
    if not process.is_alive():
        return None
    process.kill()
    process.join()
    return _state(folder)


def at(seconds: float) -> Callable[[], bool]:
    """So many seconds from now."""
    end = time.perf_counter() + seconds
    return lambda: time.perf_counter() >= end


def _state(folder: Path) -> str:
    steps = folder / "steps"
    parts = [f"{len(list(steps.glob('[0-9]*.safetensors')))} of 8 steps"]
    parts += ["inside a training"] * bool(list(steps.glob("*.partial")))
    writing = [p.name for p in [*folder.glob(".*"), *steps.glob(".*")]]
    parts += [f"writing {', '.join(sorted(writing))}"] * bool(writing)
    return ", ".join(parts + [name for name in ("model.onnx", "model.rfy") if (folder / name).exists()])


def wrong(folder: Path, expected: bytes) -> list[str]:
    """What is not as it should be after the last resume."""
    if not finished(folder):
        return ["THE RESUMED RUN FAILED"]
    left = {p.name for p in folder.iterdir()} - FILES
    left |= {p.name for p in (folder / "steps").iterdir() if p.suffix != ".safetensors"}
    bad = [f"LEFT BEHIND: {', '.join(sorted(left))}"] if left else []
    return bad if (folder / "model.rfy").read_bytes() == expected else [*bad, "DIFFERENT BYTES"]


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=20, help="runs that are killed at random moments")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    Exporter(network(), torch.zeros(2, 1, 8, 8))  # loads what exports
    moments, bad = random.Random(arguments.seed), 0
    with tempfile.TemporaryDirectory() as place:
        first, began = Path(place) / "undisturbed", time.perf_counter()
        if not finished(first):
            sys.exit("the undisturbed run failed")
        seconds, expected = time.perf_counter() - began, (first / "model.rfy").read_bytes()
        print(f"undisturbed: {seconds:.1f} s, {len(expected):,} bytes", flush=True)
        for number in range(arguments.kills + len(AIMED)):
            folder = Path(place) / f"{number}"
            seen: list[str | None] = []
            if number < arguments.kills:
                share = (number + moments.random()) / arguments.kills
                while not (first_state := killed(folder, at(share * seconds))):
                    shutil.rmtree(folder)  # it had ended: the machine is faster now
                    seconds *= 0.9
                seen.append(first_state)
                while seen[-1] and moments.random() < 0.5:
                    seen.append(killed(folder, at(moments.random() * seconds)))
            else:
                pattern = AIMED[number - arguments.kills]
                seen.append(killed(folder, lambda f=folder, p=pattern: any(f.glob(p))))  # type: ignore[misc]
            problems = wrong(folder, expected)
            bad += bool(problems)
            states = "; ".join(state or "(had ended)" for state in seen)
            print(f"{number + 1:3}  {', '.join(problems) or 'same bytes'}  killed at: {states}", flush=True)
    print("all the same" if not bad else f"{bad} are not as they should be")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
