"""What the command line's words MODEL, --weights and DATA mean."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from rarefy import data, zoo
from rarefy.errors import DataError, ModelError, RarefyError
from rarefy.files import restore
from rarefy.task import Classification, Task

T = TypeVar("T")


@dataclass(frozen=True)
class Network:
    """A network as the command line names it."""

    name: str
    model: nn.Module
    trained: bool | None  # None: not known
    shape: tuple[int, ...] | None  # of one input, where it is known


def network(spec: str, weights: Path | None = None, task: Task | None = None, seed: int = 0) -> Network:
    """A zoo name, `package.module:function` or `path/file.py:function`; fits zoo networks to the task's classes and channels."""
    if ":" in spec:
        model = _call(spec, nn.Module, ModelError, "a network (torch.nn.Module)")
        trained, shape = None, None
    else:
        options = _fitting(spec, task)
        model, trained = zoo.build(spec, seed=seed, **options), False
        channels, *side = zoo.entry(spec).input_shape
        shape = (options.get("channels", channels), *side)
    if weights is not None:
        load_weights(model, weights)
        trained = True
    return Network(spec, model, trained, shape)


def load_weights(model: nn.Module, path: Path) -> None:
    """Fill `model` from safetensors, or from a `.pt` with a state dict. Raises `ModelError` saying which keys do not fit."""
    found = _read_weights(path)
    if all(name.startswith("module.") for name in found):  # saved from DataParallel
        found = {name.removeprefix("module."): tensor for name, tensor in found.items()}
    restore(model, {n: t for n, t in found.items() if n in model.state_dict() or not _alias(n)}, str(path))


def _alias(name: str) -> bool:
    return name.endswith(".num_batches_tracked")


def _read_weights(path: Path) -> dict[str, Tensor]:
    import pickle

    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            f"cannot read weights from {path} ({line}); expected safetensors, or a .pt with a plain state dict"
        ) from None
    if isinstance(found, Mapping) and isinstance(found.get("state_dict"), Mapping):
        found = found["state_dict"]
    if not isinstance(found, Mapping) or not all(isinstance(t, Tensor) for t in found.values()):
        raise ModelError(f"{path} holds {type(found).__name__}, not a state dict (names -> tensors)")
    return dict(found)


def task(
    spec: str,
    *,
    batch_size: int = 128,
    holdout: float = 0.0,
    resize: int | None = None,
    crop: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    seed: int = 0,
) -> Task:
    """Images by `rarefy.data.load`, or `module:function` that returns a task."""
    if ":" in spec and not Path(spec).exists():
        return _call(spec, Task, DataError, "a rarefy.Task")
    split = data.load(spec, resize=resize, crop=crop, seed=seed)
    name = Path(spec).name or spec
    return Classification(
        split.train, split.judge, batch_size=batch_size, holdout=holdout, mean=mean, std=std, name=name, seed=seed
    )


def _fitting(name: str, task: Task | None) -> dict[str, int]:
    """Options of a zoo network that make it take the task's images and give its classes."""
    if not isinstance(task, Classification) or task.images is None:
        return {}
    entry, (channels, *_) = zoo.entry(name), task.images.shape
    wanted = {"classes": len(task.classes), "channels": channels}
    usual = {"classes": entry.classes, "channels": entry.input_shape[0]}
    known = zoo.options(name)
    return {key: value for key, value in wanted.items() if value != usual[key] and key in known}


def _call(spec: str, kind: type[T], error: type[RarefyError], wanted: str) -> T:
    place, _, function = spec.rpartition(":")
    found = getattr(_module(place, spec, error), function, None)
    if not callable(found):
        raise error(f"{spec}: {place} has no function {function!r}; expected MODULE:FUNCTION or FILE.py:FUNCTION")
    made = _made(found, spec, error)
    if not isinstance(made, kind):
        raise error(f"{spec} returned {type(made).__name__}; expected {wanted}")
    return made


def _made(function: Callable[..., Any], spec: str, error: type[RarefyError]) -> Any:
    try:
        inspect.signature(function).bind()
    except TypeError as problem:
        raise error(f"{spec} cannot be called without arguments ({problem}); give a function that takes none") from None
    return function()


def _module(place: str, spec: str, error: type[RarefyError]) -> Any:
    path = Path(place)
    if path.suffix != ".py":
        sys.path.insert(0, str(Path.cwd()))
        try:
            return importlib.import_module(place)
        except ImportError as problem:
            raise error(f"{spec}: cannot import {place} ({problem})") from None
        finally:
            sys.path.pop(0)
    if not path.is_file():
        raise error(f"{spec}: there is no file {path}")
    sys.path.insert(0, str(path.parent.resolve()))
    loader = importlib.util.spec_from_file_location(path.stem, path)
    assert loader is not None
    assert loader.loader is not None
    module = importlib.util.module_from_spec(loader)
    sys.modules[path.stem] = module
    loader.loader.exec_module(module)
    return module
