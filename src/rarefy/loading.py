"""What the command line's words MODEL, --weights and DATA mean."""

from __future__ import annotations

import importlib.util
import inspect
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rarefy import data, zoo
from rarefy.classification import Classification
from rarefy.encodings import adopted
from rarefy.errors import DataError, ModelError, RarefyError
from rarefy.files import restore
from rarefy.task import Task


@dataclass(frozen=True)
class Network:
    """A network as the command line names it."""

    name: str
    model: nn.Module
    trained: bool | None  # None: not known
    shape: tuple[int, ...] | None  # of one input, where it is known


def network(spec: str, weights: Path | None = None, task: Task | None = None, seed: int = 0) -> Network:
    """A zoo name, `package.module:function` or `path/file.py:function`. Networks of the zoo are fitted to the task."""
    if ":" in spec:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = _call(spec, nn.Module, ModelError, "a network (torch.nn.Module)")
        trained, shape = None, None
    else:
        model, trained = _from_zoo(spec, task, seed), False
        images = task.images if isinstance(task, Classification) else None
        shape = zoo.entry(spec).input_shape if images is None else images.shape
    if weights is not None:
        load_weights(model, weights)
        trained = True
    return Network(spec, adopted(model), trained, shape)


def _from_zoo(name: str, task: Task | None, seed: int) -> nn.Module:
    """The network of the zoo with the options that make it take the task's images and give its classes."""
    entry, known = zoo.entry(name), zoo.options(name)
    if not isinstance(task, Classification) or task.images is None:
        return zoo.build(name, seed=seed)
    channels, height, width = task.images.shape
    wanted = {"classes": len(task.classes), "channels": channels, "size": height}
    usual = {"classes": entry.classes, "channels": entry.input_shape[0], "size": entry.input_shape[1]}
    options = {key: value for key, value in wanted.items() if value != usual[key] and key in known}
    try:
        return zoo.build(name, seed=seed, **options)
    except ModelError as error:
        own = "x".join(map(str, entry.input_shape))
        raise ModelError(
            f"{name} is made for images of {own} and cannot be fitted to those of {channels}x{height}x{width} "
            f"({error}); choose another network, or --resize where the data are files of images"
        ) from None


def load_weights(model: nn.Module, path: Path) -> None:
    """Fill `model` from safetensors or a `.pt` with a state dict. Raises `ModelError` naming the keys that do not."""
    found = _read_weights(path)
    if found and all(name.startswith("module.") for name in found):  # saved from DataParallel
        found = {name.removeprefix("module."): tensor for name, tensor in found.items()}
    first: dict[int, str] = {}  # a tensor that modules share has several names; one of them is enough
    names = {name: first.setdefault(id(t), name) for name, t in model.state_dict(keep_vars=True).items()}
    kept = {names.get(n, n): t for n, t in found.items() if n in names or not n.endswith(".num_batches_tracked")}
    restore(model, kept, str(path))


def _read_weights(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    try:
        found = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except OSError as error:
        raise ModelError(f"cannot read weights from {path}: {error.strerror or error}") from None
    except Exception as error:  # a damaged file raises almost anything
        raise ModelError(
            f"{path} cannot be read as weights ({type(error).__name__}); expected .safetensors, or a .pt with a plain "
            "state dict (torch.save(model.state_dict(), FILE)): rarefy runs no code from files"
        ) from None
    for key in ("state_dict", "model"):
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping) or not found or not all(isinstance(t, Tensor) for t in found.values()):
        raise ModelError(f"{path} holds {_words(found)}, not a state dict (names -> tensors)")
    return dict(found)


def _words(found: Any) -> str:
    if isinstance(found, Mapping):
        return f"a mapping with {', '.join(map(str, list(found)[:5]))}" if found else "an empty mapping"
    return f"a {type(found).__name__}"


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
        made: Task = _call(spec, Task, DataError, "a rarefy.Task")
        return made
    split = data.load(spec, resize=resize, crop=crop)  # the examples to judge on are the same for every seed
    name = Path(spec).name or spec
    return Classification(
        split.train, split.judge, batch_size=batch_size, holdout=holdout, mean=mean, std=std, name=name, seed=seed
    )


def _call(spec: str, kind: Any, error: type[RarefyError], wanted: str) -> Any:
    place, _, function = spec.rpartition(":")
    module = _module(place, spec, error)
    found = getattr(module, function, None)
    if not callable(found):
        raise error(f"{spec}: {place} has no function {function!r}; expected MODULE:FUNCTION or FILE.py:FUNCTION")
    try:
        inspect.signature(found).bind()
    except TypeError as problem:
        raise error(f"{spec} cannot be called without arguments ({problem}); give a function that takes none") from None
    with _telling(spec, error):
        made = found()
    if not isinstance(made, kind):
        raise error(f"{spec} returned {type(made).__name__}; expected {wanted}")
    return made


@contextmanager
def _telling(spec: str, error: type[RarefyError]) -> Iterator[None]:
    """What goes wrong in the user's own code is said with the line it went wrong on."""
    try:
        yield
    except RarefyError:
        raise
    except Exception as problem:
        last = traceback.extract_tb(problem.__traceback__)[-1]
        where = f"{last.filename}, line {last.lineno}"
        if isinstance(problem, SyntaxError):
            where = f"{problem.filename}, line {problem.lineno}"
        raise error(f"{spec} failed with {type(problem).__name__}: {problem} ({where})") from problem


def _module(place: str, spec: str, error: type[RarefyError]) -> Any:
    path = Path(place)
    folder = path.parent.resolve() if path.suffix == ".py" else Path.cwd()
    sys.path.insert(0, str(folder))  # for what it imports, now and later
    if path.suffix != ".py":
        with _telling(spec, error):
            return importlib.import_module(place)
    if not path.is_file():
        raise error(f"{spec}: there is no file {path}")
    loader = importlib.util.spec_from_file_location(path.stem, path)
    assert loader is not None
    assert loader.loader is not None
    module = importlib.util.module_from_spec(loader)
    sys.modules.setdefault(path.stem, module)
    with _telling(spec, error):
        loader.loader.exec_module(module)
    return module
