"""Killed at any moment, continued, and the same bytes.

    python benchmarks/kill_resume.py --kills 20

A short recipe on the embedded digits runs once undisturbed, then again and again with SIGKILL at a random moment and
`resume` after it (which may be killed too). Training saves its state after every epoch here, so that kills hit that as
well. Exit status 1 where one `.rfy` differs from the undisturbed one, or where something is left behind.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RECIPE = {
    "name": "kill-resume",
    "steps": [
        {"Train": {"epochs": 4, "lr": 2.0e-3, "augment": {"crop": 1}}},
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


def compress(folder: Path) -> None:
    """The run of one process: begun, or continued."""
    import torch

    from rarefy import loading, train
    from rarefy.recipe import Recipe

    torch.set_num_threads(1)
    train.SAVE_EVERY = 0.0
    task = loading.task("digits", batch_size=32)
    network = loading.network("lenet5-digits", task=task)
    resume = (folder / "run.json").exists()
    Recipe.from_dict(RECIPE).run(network.model, task, out=folder, resume=resume, trained=False)


def started(folder: Path) -> subprocess.Popen[bytes]:
    """A process that compresses."""
    return subprocess.Popen([sys.executable, __file__, "--folder", str(folder)])


def undisturbed(folder: Path) -> float:
    """Run to the end; the seconds that it took."""
    began = time.perf_counter()
    if started(folder).wait() != 0:
        sys.exit("the undisturbed run failed")
    return time.perf_counter() - began


def disturbed(folder: Path, seconds: float, moments: random.Random) -> list[str]:
    """Kill it, and again with probability 1/2, at moments spread over what is left; then let it finish."""
    seen = []
    while not seen or moments.random() < 0.5:
        process = started(folder)
        try:
            process.wait(moments.uniform(0.1, 1.0) * seconds)
            break
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            seen.append(_state(folder))
    if started(folder).wait() != 0:
        seen.append("THE RESUMED RUN FAILED")
    return seen


def _state(folder: Path) -> str:
    tensors = len(list((folder / "steps").glob("*.safetensors")))
    parts = [f"{tensors} steps"] if tensors else ["started" if (folder / "run.json").exists() else "nothing yet"]
    parts += ["inside a training"] * bool(list((folder / "steps").glob("*.partial")))
    return " ".join(parts + ["packed"] * (folder / "model.rfy").exists())


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=20, help="runs that are killed")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.folder:
        compress(arguments.folder)
        return
    moments, bad = random.Random(arguments.seed), 0
    with tempfile.TemporaryDirectory() as place:
        first = Path(place) / "undisturbed"
        seconds = undisturbed(first)
        expected = (first / "model.rfy").read_bytes()
        print(f"undisturbed: {seconds:.0f} s, {len(expected):,} bytes", flush=True)
        for number in range(arguments.kills):
            folder = Path(place) / f"{number}"
            seen = disturbed(folder, seconds, moments)
            packed = folder / "model.rfy"
            equal = packed.exists() and packed.read_bytes() == expected
            left = {p.name for p in folder.iterdir()} - FILES
            left |= {p.name for p in (folder / "steps").iterdir() if p.suffix != ".safetensors"}
            bad += not equal or bool(left)
            words = "same bytes" if equal else "DIFFERENT"
            print(
                f"{number + 1:3}  {words:10} killed at: {'; '.join(seen)}{f'  LEFT: {left}' if left else ''}",
                flush=True,
            )
    print("all the same" if not bad else f"{bad} of {arguments.kills} are not as they should be")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
