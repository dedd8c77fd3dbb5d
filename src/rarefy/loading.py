"""What the command line's words MODEL and DATA mean."""

from __future__ import annotations

import importlib.util
import inspect
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rarefy import data, zoo
from rarefy.classification import Classification
from rarefy.encodings import adopted
from rarefy.errors import DataError, ModelError, RarefyError
from rarefy.pretrained import load_weights
from rarefy.task import Task


@dataclass(frozen=True)
class Network:
    """A network as the command line names it."""

    name: str
    model: nn.Module
    trained: bool | None  # None: not known
    shape: tuple[int, ...] | None  # of one input, where it is known


def network(spec: str, weights: Path | None = None, task: Task | None = None, seed: int = 0) -> Network:
    """A zoo name, `package.module:function` or `path/file.py:function`.

    A zoo name may have options (`mobilenet-v1,width=0.5`); the others are fitted to the task. Weights that another
    library published for a network of the zoo are found by that library's names.
    """
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
        load_weights(model, weights, None if ":" in spec else spec)
        trained = True
    return Network(spec, adopted(model), trained, shape)


def fitted(name: str, task: Task | None) -> dict[str, int]:
    """The options that make a network of the zoo take the task's images and give its classes."""
    entry, known = zoo.entry(name), zoo.options(name)
    if not isinstance(task, Classification) or task.images is None:
        return {}
    channels, height, _width = task.images.shape
    wanted = {"classes": len(task.classes), "channels": channels, "size": height}
    usual = {"classes": entry.classes, "channels": entry.input_shape[0], "size": entry.input_shape[1]}
    return {key: value for key, value in wanted.items() if value != usual[key] and key in known}


def _from_zoo(name: str, task: Task | None, seed: int) -> nn.Module:
    """The network of the zoo with the options that make it take the task's images and give its classes."""
    options = fitted(name, task)
    try:
        return zoo.build(name, seed=seed, **options)
    except ModelError as error:
        if not options:
            raise
        assert isinstance(task, Classification)
        assert task.images is not None
        own, images = ("x".join(map(str, shape)) for shape in (zoo.entry(name).input_shape, task.images.shape))
        raise ModelError(
            f"{name} is made for images of {own} and cannot be fitted to those of {images} "
            f"({error}); choose another network, or --resize where the data are files of images"
        ) from None


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
