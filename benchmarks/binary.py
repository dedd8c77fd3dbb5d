"""Binary networks against their float bases: the tables of docs/binary.md.

    python benchmarks/binary.py mnist --seeds 0 1 2
    python benchmarks/binary.py cifar --rows react --epochs 24
    python benchmarks/binary.py cifar --epochs 3

mnist: a perceptron with three hidden layers of 1,024 and BatchNorm, trained from random weights; all its layers are
binary, as in BinaryConnect (Courbariaux et al. 2015), and in `both` the inputs of all but the first too. Its images are
not shifted, so the order of the pixels does not matter. cifar:
ResNet-20 from the base of `benchmarks/bases.py`, trained on; `float` is the base trained on for as long.
`react-scratch` is the network `resnet20-binary` from random weights, taught by the base.

A row is a run of rarefy: what it says is measured on the exported file. Runs are kept in the cache of `bases.py` and go
on where they were interrupted; a row per run goes to `benchmarks/results/`, in a file named by the machine and
versions.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from dataclasses import dataclass

import machine
import torch
from bases import CACHE, CIFAR, base, cifar10, mnist
from torch import nn

from rarefy import Augment, Binarize, Classification, Distill, Finetune, Recipe, Run, Step, Teacher

HIDDEN = 1024
# Of CIFAR-10: less than for the float bases, chosen by two epochs of `react` on 5,000 training images held out.
BATCH, AUGMENT = 64, Augment(crop=2, flip=True)
FAST = {"precision": "bfloat16", "compile": True}

KEPT: dict[str, list[Step]] = {  # of the perceptron, all of whose layers are binary
    "float": [],
    "deterministic": [Binarize(activations=None, scales=False, keep=())],
    "stochastic": [Binarize(activations=None, scales=False, stochastic=True, keep=())],
    "both": [
        Binarize(activations=None, scales=False, keep=()),
        Binarize(weights=None, keep=("first",), thresholds=False),
    ],
}
BOTH = Binarize()
REACT = Binarize(shortcuts=True, prelu=True, thresholds=True, gradient="polynomial")
CHANGES: dict[str, list[Step]] = {
    "float": [],
    "weights": [Binarize(activations=None)],
    "both": [BOTH],
    "plain": [BOTH.replace(scales=False)],
    "unclipped": [BOTH.replace(clip=None)],
    "stochastic": [BOTH.replace(stochastic=True)],
    "balanced": [BOTH.replace(balanced=True)],
    "two-bit": [BOTH.replace(activations=2)],
    "shortcuts": [BOTH.replace(shortcuts=True)],
    "teacher": [BOTH],
    "react": [REACT],
    "stages": [REACT.replace(weights=None), Binarize(activations=None)],
}
TAUGHT = ("teacher", "react", "stages", "react-scratch")


@dataclass(frozen=True)
class Row:
    """One run: a network, whether it is trained, and what is done to it."""

    data: str
    name: str
    seed: int
    model: nn.Module
    task: Classification
    steps: list[Step]
    epochs: int
    base_accuracy: float | None = None

    def run(self) -> Run:
        """The finished run."""
        recipe = Recipe(self.steps, name=f"binary, {self.name}")
        made_by = [recipe.to_dict(), str(self.model), self.task.describe()]
        key = hashlib.sha256(json.dumps(made_by, sort_keys=True).encode()).hexdigest()[:10]
        folder = CACHE / "runs" / f"binary-{self.data}-{self.name}-{self.seed}-{key}"
        if (folder / "run.json").exists() and (found := Run.open(folder)).record.outcome:
            return found
        return recipe.run(self.model, self.task, out=folder, seed=self.seed, resume=folder.exists(), trained=True)

    def fields(self) -> dict[str, object]:
        """What the table shows."""
        record = self.run().record
        assert record.outcome is not None
        assert record.outcome.measurement.quality is not None
        assert record.original is not None
        accuracy, small = record.outcome.measurement.quality.value, record.outcome.measurement.sizes.rfy or 0
        large, known = record.original.sizes.safetensors, self.base_accuracy
        return {
            "data": self.data,
            "row": self.name,
            "seed": self.seed,
            "epochs": self.epochs,
            "base_error": "" if known is None else f"{1 - known:.2%}",
            "error": f"{1 - accuracy:.2%}",
            "points": "" if known is None else f"{100 * (accuracy - known):+.2f}",
            "float32_bytes": large,
            "rfy_bytes": small,
            "ratio": f"{large / small:.1f}",
        }


def perceptron(seed: int) -> nn.Module:
    """784 - 1024 - 1024 - 1024 - 10, BatchNorm after each; no ReLU where signs follow, which are the nonlinearity."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = [nn.Flatten()]
        for into, out in ((784, HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, 10)):
            layers += [nn.Linear(into, out, bias=False), nn.BatchNorm1d(out), nn.ReLU()]
        return nn.Sequential(*layers[:-1]).eval()


def without_relu(model: nn.Module) -> nn.Module:
    """The same, with nothing between BatchNorm and the next layer."""
    for name, module in list(model.named_children()):
        if isinstance(module, nn.ReLU):
            setattr(model, name, nn.Identity())
    return model


def on_mnist(name: str, seed: int, epochs: int) -> Row:
    """A perceptron from random weights."""
    train = Finetune(epochs=epochs, lr=3e-3, **FAST)
    model = without_relu(perceptron(seed)) if name == "both" else perceptron(seed)
    return Row("mnist", name, seed, model, mnist(), [*KEPT[name], train], epochs)


def on_cifar(name: str, seed: int, epochs: int) -> Row:
    """ResNet-20 from its base."""
    found = base("resnet20", seed)
    how = {"epochs": epochs, "optimizer": "adam", "lr": 2e-3, "augment": AUGMENT, "channels_last": True, **FAST}
    taught = Teacher(temperature=4, alpha=0.9) if name in TAUGHT else None
    if name == "react-scratch":
        steps: list[Step] = [Distill(student="resnet20-binary", teacher=taught, **how)]
    elif name == "stages":
        half = Finetune(**{**how, "epochs": -(-epochs // 2)}, teacher=taught)
        steps = [s for change in CHANGES[name] for s in (change, half)]
    elif name == "float":
        steps = [Finetune(**{**how, "optimizer": "sgd", "lr": 0.05, "weight_decay": CIFAR.weight_decay})]
    else:
        steps = [*CHANGES[name], Finetune(**how, teacher=taught)]
    return Row("cifar", name, seed, found.model, cifar10(BATCH), steps, epochs, found.accuracy)


MAKERS = {"mnist": (on_mnist, tuple(KEPT)), "cifar": (on_cifar, (*CHANGES, "react-scratch"))}


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", choices=list(MAKERS))
    parser.add_argument("--rows", nargs="+", help="by default all")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    make, names = MAKERS[arguments.data]
    if unknown := set(arguments.rows or ()) - set(names):
        parser.error(f"no row {', '.join(unknown)}; {arguments.data} has {', '.join(names)}")
    rows: list[dict[str, object]] = []
    for seed in arguments.seeds:
        for name in arguments.rows or names:
            rows.append(make(name, seed, arguments.epochs).fields())
            print(", ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
            machine.save(f"binary-{arguments.data}", rows, key=("data", "row", "seed", "epochs"))


if __name__ == "__main__":
    main()
