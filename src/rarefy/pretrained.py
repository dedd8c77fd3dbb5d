"""Weights from files: the user's own, and those that other libraries publish for the networks of the zoo."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rarefy import zoo
from rarefy.errors import ModelError
from rarefy.files import restore


def load_weights(model: nn.Module, path: Path, name: str | None = None) -> None:
    """Fill `model`, of the zoo where it has a `name`, from safetensors or a `.pt` with a state dict.

    Raises `ModelError` naming the keys that do not fit.
    """
    found = _read_weights(path)
    if found and all(key.startswith("module.") for key in found):  # saved from DataParallel
        found = {key.removeprefix("module."): tensor for key, tensor in found.items()}
    if name is not None:
        found = zoo.renamed(name, found)
    first: dict[int, str] = {}  # a tensor that modules share has several names; one of them is enough
    own = model.state_dict(keep_vars=True)
    names = {key: first.setdefault(id(t), key) for key, t in own.items()}
    kept = {names.get(n, n): t for n, t in found.items() if n in names or not _counter(n)}
    kept |= {n: t for n, t in own.items() if _counter(n) and names[n] not in kept}  # files from before they were kept
    _same_classes(own, kept, path)
    restore(model, kept, str(path))


def _counter(name: str) -> bool:
    return name.endswith(".num_batches_tracked")


def _same_classes(own: Mapping[str, Tensor], found: Mapping[str, Tensor], path: Path) -> None:
    """Weights of the same network for another number of classes are told as that."""
    other = [n for n in own if n in found and own[n].shape != found[n].shape]
    if own.keys() != found.keys() or not other or any(own[n].shape[1:] != found[n].shape[1:] for n in other):
        return
    last = list(own)[-len(other) :]  # weight and bias, or the weight alone
    sizes = {(len(own[n]), len(found[n])) for n in other}
    if other != last or len(sizes) != 1:
        return
    ((has, holds),) = sizes
    raise ModelError(
        f"{path} holds weights for {holds} classes, and the network has {has} ({', '.join(other)}); take data "
        f"with {holds} classes, or load all but the last layer in a function of your own (MODEL: FILE.py:FUNCTION)"
    )


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
