"""Looking: the layers of a network, files side by side, the methods there are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from pydantic_core import PydanticUndefined
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from rarefy import loading, measure, steps, zoo
from rarefy.classification import Classification
from rarefy.errors import DataError, InputError, StepError
from rarefy.export.onnx import Exporter, example
from rarefy.files import write_whole
from rarefy.graph.weights import weights
from rarefy.measure.engine import installed, session
from rarefy.step import Context, Step
from rarefy.task import Task, forward
from rarefy.train import evaluating


def inspected(network: loading.Network, task: Task | None) -> list[dict[str, Any]]:
    """One row per parameter: shape, size, multiply-accumulates of its layer, and the steps that would take it."""
    model = network.model.eval()
    macs = _macs(network, task)
    takers = _takers(model, task or _noise(network))
    rows = []
    for weight in weights(model):
        layer = weight.path.rpartition(".")[0]
        rows.append(
            {
                "parameter": weight.path,
                "layer": type(weight.module).__name__,
                "shape": list(weight.tensor.shape),
                "weights": weight.tensor.numel(),
                "macs": macs.get(layer) if weight.tensor.ndim > 1 else None,
                "steps": [name for name, taken in takers.items() if weight.path in taken],
            }
        )
    return rows


def _macs(network: loading.Network, task: Task | None) -> dict[str, int]:
    """By module; half of what torch counts as floating-point operations. Empty where no input is known."""
    if task is not None:
        inputs, count = example(task.judge(), network.model), 2
    elif network.shape is not None:
        inputs, count = torch.zeros(1, *network.shape), 1
    else:
        return {}
    counter = FlopCounterMode(display=False)
    with evaluating(network.model), counter:
        forward(network.model, inputs)
    root = type(network.model).__name__
    counts = counter.get_flop_counts()
    return {
        name.removeprefix(f"{root}."): sum(ops.values()) // (2 * count) for name, ops in counts.items() if name != root
    }


def _takers(model: nn.Module, task: Task | None) -> dict[str, set[str]]:
    """The parameters that each step that does not train would take; structural steps must see the network run."""
    takers = {}
    for cls in steps.ALL:
        if cls.trains or (task is None and cls.structural):
            continue
        few = {"examples": 2} if "examples" in cls.model_fields else {}
        try:
            takers[cls.__name__] = set(cls(**{**cls.usual, **few}).plan(model, Context(task=cast(Task, task))).do)
        except (StepError, DataError):
            takers[cls.__name__] = set()
    return takers


def _noise(network: loading.Network) -> Task | None:
    """Two examples of what a network of the zoo takes."""
    if network.shape is None:
        return None
    images = torch.randn(2, *network.shape, generator=torch.Generator().manual_seed(0))
    return Classification((images, [0, 0]), (images, [0, 0]), batch_size=2)


def measured(
    sources: Sequence[str],
    task: Task | None,
    weights_file: Path | None,
    threads: int,
    batch: int,
    engines: Sequence[str] = ("onnxruntime",),
) -> list[dict[str, Any]]:
    """One row per engine and file or network, the latency of each against the first."""
    import tempfile

    names = [name for name in map(installed, engines) for _ in sources]
    with tempfile.TemporaryDirectory() as folder:
        files = [_file(s, task, weights_file, Path(folder) / f"{i}.onnx") for i, s in enumerate(sources)]
        files, sources = files * len(engines), [*sources] * len(engines)
        rows = [_row(*place, task) for place in zip(sources, files, names, strict=True)]
        times = measure.compare(files, files[0], threads=threads, batch=batch, engines=[names[0], *names])
    for row, latency in zip(rows, times, strict=True):
        row["latency"] = latency.model_dump()
    return rows


def _file(source: str, task: Task | None, weights_file: Path | None, place: Path) -> Path:
    path = Path(source)
    if path.suffix in (".onnx", ".rfy"):
        return path
    network = loading.network(source, weights_file, task)
    if task is None and network.shape is None:
        raise InputError(f"{source}: give --data, to know what the network takes")
    inputs = example(task.judge(), network.model) if task else torch.zeros(2, *(network.shape or ()))
    exported = Exporter(network.model, inputs).write(network.model)
    write_whole(place, exported.proto.SerializeToString())
    return place


def _row(source: str, file: Path, engine: str, task: Task | None) -> dict[str, Any]:
    from rarefy.runtime import load

    model = measure.read(file)
    count, nonzero = measure.parameters(model)
    quality = None
    if task is not None:
        running = load(file) if engine == "onnxruntime" else session(file, engine=engine)
        quality, _ = measure.quality(measure.answer(running), task, engine=engine)
    return {
        "file": source,
        "engine": engine,
        "bytes": measure.file_bytes(file),
        "parameters": count,
        "nonzero": nonzero,
        "macs": measure.macs(model),
        "quality": quality.model_dump() if quality else None,
        "memory_bytes": measure.memory(file) if engine == "onnxruntime" else None,
    }


def table() -> list[dict[str, Any]]:
    """All steps, as `rarefy methods` and the docs show them."""
    return [method(cls.__name__) for cls in steps.ALL]


def method(name: str) -> dict[str, Any]:
    """One step: everything that its class says of itself."""
    known = {cls.__name__.lower(): cls for cls in steps.ALL}
    cls = known.get(name.lower().replace("-", "").replace("_", ""))
    if cls is None:
        names = ", ".join(c.__name__ for c in steps.ALL)
        raise InputError(f"there is no step {name!r}; there are {names}")
    return {
        "name": cls.__name__,
        "does": cls.summary(),
        "about": _about(cls),
        "gains": cls.gains,
        "needs": cls.needs,
        "trains": cls.trains,
        "structural": cls.structural,
        "paper": cls.paper,
        "settings": _settings(cls),
    }


def _about(cls: type[Step]) -> str:
    import inspect

    return "\n".join(inspect.cleandoc(cls.__doc__ or "").splitlines()[1:]).strip()


def _settings(cls: type[Step]) -> list[dict[str, Any]]:
    rows = []
    for name, field in cls.model_fields.items():
        schema = cls.model_json_schema()["properties"].get(name, {})
        default = "required" if field.default is PydanticUndefined else field.default
        rows.append(
            {
                "name": name,
                "values": _values(schema),
                "default": _default(default),
                "about": field.description or "",
            }
        )
    return rows


def _default(value: Any) -> Any:
    """As plain data; what is empty is "none"."""
    if isinstance(value, (str, int, float, bool, type(None))):
        return value
    return ", ".join(map(str, value)) if isinstance(value, tuple) and value else "none"


def _values(schema: dict[str, Any]) -> str:
    """The allowed values, in words."""
    options = schema.get("anyOf", [schema])
    return " or ".join(_words(o) for o in options if o.get("type") != "null")


def _words(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return ", ".join(str(v) for v in schema["enum"])
    bounds = [
        f"{sign} {schema[key]:g}"
        for key, sign in (("minimum", ">="), ("exclusiveMinimum", ">"), ("maximum", "<="), ("exclusiveMaximum", "<"))
        if key in schema
    ]
    kind = {"object": "mapping", "array": "list", "number": "number", "integer": "integer", "boolean": "true, false"}
    name = kind.get(schema.get("type", ""), schema.get("$ref", "text").rpartition("/")[2])
    return " ".join([name, " and ".join(bounds)]).strip()


def zoo_rows() -> list[dict[str, Any]]:
    """The networks of the zoo."""
    return [
        {"name": name, "input": zoo.entry(name).input_shape, "paper": zoo.entry(name).paper} for name in zoo.names()
    ]
