"""The networks that the benchmarks compress: trained once by this command, then reused.

    python benchmarks/bases.py lenet-300-100 lenet5 resnet20 --seeds 0

A base is kept as `NAME-SEED-KEY.safetensors` beside a `.json` with the command, the epochs and the accuracy; KEY is
made of everything that made it (network, data, settings, seed). Small ones live in `benchmarks/bases/`, others in the
cache (RAREFY_CACHE, by default ~/.cache/rarefy). A training that was interrupted goes on.

Data: the folder RAREFY_DATA (by default `../shared/data`) with `mnist/*.gz` and `cifar10.tar.xz` (JPEG images in
class folders).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from rarefy import data, zoo
from rarefy.classification import Classification
from rarefy.data.augment import Augment
from rarefy.data.images import Images
from rarefy.files import load_tensors, model_tensors, restore, save_tensors
from rarefy.measure import environment
from rarefy.step import Context
from rarefy.steps.train import Train
from rarefy.train import evaluate

HERE = Path(__file__).parent
DATA = Path(os.environ.get("RAREFY_DATA", HERE.parent.parent / "shared" / "data"))
CACHE = Path(os.environ.get("RAREFY_CACHE", Path.home() / ".cache" / "rarefy"))

MNIST = Train(epochs=16, lr=1e-3, schedule="cosine", augment=Augment(crop=2))
CIFAR = Train(
    epochs=20,
    optimizer="sgd",
    lr=0.1,
    weight_decay=5e-4,
    warmup=0.05,
    augment=Augment(crop=4, flip=True),
    precision="bfloat16",
    channels_last=True,
)
SETTINGS = {
    "lenet-300-100": MNIST,
    "lenet5": MNIST.replace(precision="bfloat16", channels_last=True),
    "resnet20": CIFAR,
    "resnet56": CIFAR.replace(epochs=7),
    "mobilenet-v2": CIFAR.replace(epochs=4, precision="float32"),
    "mobilenet-v3-small": CIFAR.replace(epochs=4, precision="float32"),
}
OPTIONS: dict[str, dict[str, Any]] = {  # of the zoo; 64: all strides but the first, for images of 32 pixels
    "mobilenet-v2": {"width": 0.5, "size": 64, "classes": 10},
    "mobilenet-v3-small": {"size": 64, "classes": 10},
}


@dataclass(frozen=True)
class Base:
    """A trained network, its task, and how it was made."""

    name: str
    seed: int
    model: nn.Module
    task: Classification
    accuracy: float
    weights: Path


def mnist() -> Classification:
    """MNIST with the original split."""
    split = data.load(DATA / "mnist")
    return Classification(split.train, split.judge, name="MNIST")


def cifar10(batch_size: int = 128) -> Classification:
    """CIFAR-10 from its JPEG copy, decoded once into the cache."""
    kept = CACHE / "cifar10.npz"
    if not kept.exists():
        folder = CACHE / "cifar10"
        with tarfile.open(DATA / "cifar10.tar.xz") as archive:
            archive.extractall(folder, filter="data")
        split = data.load(folder)
        assert split.train is not None
        np.savez(
            kept,
            x_train=split.train.images,
            y_train=split.train.labels,
            x_test=split.judge.images,
            y_test=split.judge.labels,
            classes=np.array(split.judge.classes),
        )
    with np.load(kept) as arrays:
        names = tuple(str(c) for c in arrays["classes"])
        train = Images(arrays["x_train"], arrays["y_train"], names, None)
        judge = Images(arrays["x_test"], arrays["y_test"], names, None)
    return Classification(train, judge, batch_size=batch_size, name="CIFAR-10")


def task_of(name: str) -> Classification:
    """The data that a network of the benchmarks is measured on."""
    return mnist() if name.startswith("lenet") else cifar10()


def base(name: str, seed: int = 0) -> Base:
    """The trained network, from the cache where it is there."""
    task, settings = task_of(name), SETTINGS[name]
    options = OPTIONS.get(name, {})
    model = zoo.build(name, seed=seed, **options)
    plain = settings.model_dump(mode="json", exclude_defaults=True)  # a new setting must not make a base another one
    made_by = {"network": name, "data": task.describe(), "seed": seed, "settings": plain, **options}
    key = hashlib.sha256(json.dumps(made_by, sort_keys=True).encode()).hexdigest()[:10]
    file = f"{name}-{seed}-{key}.safetensors"
    path = next((p for p in (HERE / "bases" / file, CACHE / "bases" / file) if p.exists()), None)
    if path is None:
        path = CACHE / "bases" / file
        _train(model, task, settings, seed, path, made_by)
    restore(model, load_tensors(path)[0], str(path))
    record = json.loads(path.with_suffix(".json").read_text())
    return Base(name, seed, model.eval(), task, record["accuracy"], path)


def _train(
    model: nn.Module, task: Classification, settings: Train, seed: int, path: Path, made_by: dict[str, object]
) -> None:
    checkpoint = path.with_suffix(".partial")
    context = Context(task=task, seed=seed, trained=False, checkpoint=checkpoint, progress=_show)
    settings.apply(model, settings.plan(model, context), context)
    accuracy = evaluate(model, task.judge(), task)
    save_tensors(path, model_tensors(model))
    seconds = sum(e.seconds for e in context.curve)
    record = {
        **made_by,
        "command": f"python benchmarks/bases.py {made_by['network']} --seeds {seed}",
        "accuracy": accuracy,
        "epochs": settings.epochs,
        "seconds": round(seconds),
        "environment": environment().model_dump(),
    }
    path.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
    checkpoint.unlink(missing_ok=True)


def _show(label: str, done: int, of: int) -> None:
    if done % 100 == 0 or done == of:
        print(f"{label}: {done:,} of {of:,} batches", flush=True)


def main() -> None:
    """Train what is asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="+", choices=list(SETTINGS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for name in arguments.names:
        for seed in arguments.seeds:
            made = base(name, seed)
            print(f"{name} seed {seed}: {made.accuracy:.2%} -> {made.weights}")


if __name__ == "__main__":
    main()
