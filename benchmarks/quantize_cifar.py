"""CIFAR-10: 8-bit integers after training, and 4-bit weights and activations by training.

    python benchmarks/quantize_cifar.py --seeds 0
    python benchmarks/quantize_cifar.py --network mobilenet-v2 --only int8
    python benchmarks/quantize_cifar.py --epochs 2 --only int8 lsq-4

Rows: the float network; `Quantize`; `Quantize` with 4- and 3-bit weights, to the nearest and adaptive; `QuantizeAware`
with 4-bit weights and activations (8 in the first and the last layer), by plain straight-through gradients and with
learned steps (LSQ), taught by the float network. Every accuracy is that of the saved file in ONNX Runtime on the
10,000 test images; `agrees` is the share of them that the file answers as the network in torch does, with the engine's
optimisations and with none. What was trained is kept in the cache of `benchmarks/bases.py`; a training that was
interrupted goes on.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import machine
import onnx
import onnxruntime
import torch
from bases import CACHE, SETTINGS, Base, base
from torch import Tensor, nn

from rarefy import Augment, Quantize, QuantizeAware, Step, Teacher, measure, pack
from rarefy.export.onnx import Exporter
from rarefy.files import load_tensors, model_tensors, restore, save_tensors
from rarefy.runtime import load
from rarefy.step import Context, Plan
from rarefy.train import evaluating

Row = dict[str, object]

AWARE = QuantizeAware(
    weights=4,
    activations=4,
    epochs=4,
    optimizer="sgd",
    lr=0.01,
    weight_decay=5e-4,
    warmup=0.05,
    augment=Augment(crop=4, flip=True),
    precision="bfloat16",
    channels_last=True,
    teacher=Teacher(),
    compile=True,
)
STEPS: dict[str, Step] = {
    "int8": Quantize(),
    "int4-weights": Quantize(weights=4),
    "int3-weights": Quantize(weights=3),
    "int4-weights-adaptive": Quantize(weights=4, rounding="adaptive"),
    "int3-weights-adaptive": Quantize(weights=3, rounding="adaptive"),
    "straight-through-4": AWARE.replace(learn_steps=False),
    "lsq-4": AWARE,
}


def compressed(name: str, step: Step, start: Base) -> tuple[nn.Module, float]:
    """The network after `step`, from the cache where it is there, and the seconds of its training."""
    made_by = [name, step.model_dump(mode="json", exclude_defaults=True), str(start.weights.name)]
    key = hashlib.sha256(json.dumps(made_by, sort_keys=True).encode()).hexdigest()[:10]
    path = CACHE / "quantize" / f"{start.name}-{start.seed}-{name}-{key}.safetensors"
    model = copy.deepcopy(start.model)
    context = Context(task=start.task, seed=start.seed, original=start.model, progress=_show)
    if not step.trains:
        return step.apply(model, step.plan(model, context), context), 0.0
    if not path.exists():
        context.checkpoint = path.with_suffix(".partial")
        plan = step.plan(model, context)
        model = step.apply(model, plan, context)
        seconds = sum(epoch.seconds for epoch in context.curve)
        save_tensors(path, model_tensors(model), {"plan": plan.model_dump(mode="json"), "seconds": seconds})
        context.checkpoint.unlink(missing_ok=True)
        return model, seconds
    tensors, state = load_tensors(path)
    context.blank = True
    model = step.apply(model, Plan(**state["plan"]), context)
    restore(model, tensors, str(path))
    return model.eval(), float(state["seconds"])


def _show(label: str, done: int, of: int) -> None:
    if done % 50 == 0 or done == of:
        print(f"{label}: {done:,} of {of:,}", flush=True)


def labels(path: Path, start: Base, optimise: bool = True) -> Tensor:
    """What a file answers."""
    run = measure.answer(load(path, threads=1, optimise=optimise))
    return torch.cat([run(inputs).argmax(1) for inputs, _ in start.task.judge()])


def operators(path: Path) -> Counter[str]:
    """Those that ONNX Runtime runs."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(path.with_suffix(".optimised")), 3
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)


def row(name: str, model: nn.Module, start: Base, folder: Path) -> Row:
    """What the table shows of a network."""
    truth = torch.cat([target for _, target in start.task.judge()])
    with evaluating(model):
        ours = torch.cat([model(inputs).argmax(1) for inputs, _ in start.task.judge()])
    proto = Exporter(model, next(iter(start.task.judge()))[0][:2]).write(model).proto
    path = folder / f"{name}.onnx"
    path.write_bytes(proto.SerializeToString())
    pack.write(proto, path.with_suffix(".rfy"))
    fast, plain = labels(path, start), labels(path, start, optimise=False)
    ran = operators(path)
    return {
        "network": name,
        "right": int((fast == truth).sum()),
        "agrees": f"{float((fast == ours).float().mean()):.4f}",
        "agrees_unoptimised": f"{float((plain == ours).float().mean()):.4f}",
        "onnx": path.stat().st_size,
        "rfy": path.with_suffix(".rfy").stat().st_size,
        "integer_convolutions": ran["QLinearConv"],
        "float_convolutions": ran["Conv"] + ran["FusedConv"],
    }


def rows(network: str, seed: int, steps: dict[str, Step], folder: Path) -> Iterator[Row]:
    """The float network and what becomes of it."""
    start = base(network, seed)
    first = row("float", start.model, start, folder)
    yield {"base": network, "seed": seed, **first, "lost_points": 0.0, "epochs": 0}
    for name, step in steps.items():
        model, seconds = compressed(name, step, start)
        made = row(name, model, start, folder)
        lost = (int(str(first["right"])) - int(str(made["right"]))) / 100
        how_long = step.epochs if isinstance(step, QuantizeAware) else 0
        yield {
            "base": network,
            "seed": seed,
            **made,
            "lost_points": lost,
            "epochs": how_long,
            "seconds": round(seconds),
        }


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--only", nargs="+", choices=list(STEPS), default=list(STEPS))
    parser.add_argument("--epochs", type=int, help="of the trainings, instead of 4")
    parser.add_argument("--network", choices=list(SETTINGS), default="resnet20")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    steps = {name: STEPS[name] for name in arguments.only}
    if arguments.epochs:
        steps = {n: step.replace(epochs=arguments.epochs) if step.trains else step for n, step in steps.items()}
    print(machine.describe())
    made = []
    with TemporaryDirectory() as folder:
        for seed in arguments.seeds:
            for found in rows(arguments.network, seed, steps, Path(folder)):
                made.append(found)
                print(", ".join(f"{name} {value}" for name, value in found.items()), flush=True)
    machine.save("quantize-cifar", made, key=("base", "seed", "network", "epochs"))


if __name__ == "__main__":
    main()
