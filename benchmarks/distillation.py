"""MNIST: a small student alone, the same taught, and its teacher (Hinton, Vinyals, Dean 2015, section 3).

    python benchmarks/distillation.py --seeds 0 1 2

The teacher has two hidden layers of 1200, dropout, and images shifted by up to two pixels; the student two of 800,
without dropout and without shifts, trained by the labels alone, then from the same start by the labels and the
teacher's answers at temperature 20. The paper prints 67, 146 and 74 errors of 10,000; it also bounds the norms of the
teacher's weights, which is left out here. A row per seed goes to `benchmarks/results/`, in a file named by the machine
and versions. What was trained is kept in the cache of `benchmarks/bases.py`; a training that was interrupted goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import json

import machine
import torch
from bases import CACHE, mnist
from torch import nn

from rarefy import Augment, Classification, Distill, Teacher, Train
from rarefy.files import load_tensors, model_tensors, restore, save_tensors
from rarefy.measure import safetensors_bytes
from rarefy.step import Context
from rarefy.train import evaluate
from rarefy.training_step import TrainingStep

FAST = {"precision": "bfloat16", "compile": True}
TEACHER = Train(epochs=40, lr=1e-3, augment=Augment(crop=2), **FAST)
ALONE = Train(epochs=20, lr=1e-3, **FAST)
DISTILLED = Distill(epochs=20, lr=1e-3, teacher=Teacher(temperature=20, alpha=0.9), **FAST)


def mlp(width: int, seed: int, dropout: bool) -> nn.Module:
    """784 - width - width - 10, with ReLU; dropout of a fifth of the pixels and half of the neurons."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = [nn.Flatten()]
        for into, out in ((784, width), (width, width), (width, 10)):
            if dropout:
                layers.append(nn.Dropout(0.2 if into == 784 else 0.5))
            layers += [nn.Linear(into, out), nn.ReLU()]
        return nn.Sequential(*layers[:-1])


def trained(
    what: str, model: nn.Module, step: TrainingStep, seed: int, task: Classification, teacher: nn.Module | None = None
) -> tuple[nn.Module, float]:
    """The network after `step`, from the cache where it is there, and the seconds of its training."""
    made_by = {"what": what, "step": step.model_dump(mode="json"), "seed": seed, "data": task.describe()}
    taught = [] if teacher is None else [hashlib.sha256(t.numpy().tobytes()).hexdigest() for t in _tensors(teacher)]
    key = hashlib.sha256(json.dumps([made_by, str(model), taught], sort_keys=True).encode()).hexdigest()[:10]
    path = CACHE / "distillation" / f"{what}-{seed}-{key}.safetensors"
    if not path.exists():
        checkpoint = path.with_suffix(".partial")
        context = Context(task=task, seed=seed, trained=False, original=teacher, checkpoint=checkpoint)
        step.apply(model, step.plan(model, context), context)
        seconds = sum(e.seconds for e in context.curve)
        save_tensors(path, model_tensors(model), {"seconds": seconds})
        checkpoint.unlink(missing_ok=True)
        print(f"{what}, seed {seed}: {seconds:.0f} s", flush=True)
    tensors, state = load_tensors(path)
    restore(model, tensors, str(path))
    return model.eval(), float(state["seconds"])


def _tensors(model: nn.Module) -> list[torch.Tensor]:
    return [t.contiguous() for t in model_tensors(model).values()]


def row(seed: int, task: Classification, steps: dict[str, TrainingStep]) -> dict[str, object]:
    """What the table shows of a seed."""
    teacher, long = trained("teacher", mlp(1200, 1000 + seed, dropout=True), steps["teacher"], seed, task)
    alone, short = trained("alone", mlp(800, seed, dropout=False), steps["alone"], seed, task)
    distilled, taught = trained("distilled", mlp(800, seed, dropout=False), steps["distilled"], seed, task, teacher)
    networks = {"teacher": teacher, "alone": alone, "distilled": distilled}
    examples = sum(len(y) for _, y in task.judge())
    errors = {f"{n}_errors": round(examples * (1 - evaluate(m, task.judge(), task))) for n, m in networks.items()}
    return {
        "seed": seed,
        **errors,
        "teacher_bytes": safetensors_bytes(model_tensors(teacher)),
        "student_bytes": safetensors_bytes(model_tensors(distilled)),
        "seconds": round(long + short + taught),
    }


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--steps", type=int, help="so many batches each, to try it; nothing goes to the results")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    steps: dict[str, TrainingStep] = {"teacher": TEACHER, "alone": ALONE, "distilled": DISTILLED}
    if arguments.steps:
        steps = {name: step.replace(epochs=None, steps=arguments.steps) for name, step in steps.items()}
    task, rows = mnist(), []
    for seed in arguments.seeds:
        rows.append(row(seed, task, steps))
        print(", ".join(f"{k} {v}" for k, v in rows[-1].items()), flush=True)
    if not arguments.steps:
        machine.save("distillation-mnist", rows, key=("seed",))


if __name__ == "__main__":
    main()
