"""What an encoding is: one way of storing a weight, `weight = decode(stored)`.

A weight's encodings form a chain on `torch.nn.utils.parametrize`: `values` (the one trainable tensor, plain float32)
goes through each in turn, innermost first, and comes out as the weight. So every training loop trains `values`, be they
weights, centroids or scales, and no method needs a loop of its own.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from rarefy.errors import ModelError
from rarefy.graph.weights import Weight, weights


class Writer(Protocol):
    """Where an encoding writes itself: a graph of standard ONNX operators."""

    def tensor(self, suffix: str, value: Tensor, dtype: str | None = None) -> str:
        """Store a tensor (as `dtype`, e.g. "uint4"); gives its name."""

    def node(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Add an operator; gives the name of its output."""


class Encoding(nn.Module, ABC):
    """One link of the chain between `values` and the weight."""

    cuttable: ClassVar[bool] = False  # rows and columns of the weight can be removed: `cut` is there
    elementwise: ClassVar[bool] = True  # the values have the weight's shape
    rounds: ClassVar[bool] = False  # to few levels: the values are only what training changes, and not stored
    drawn: bool = False  # training sees values drawn at random, others than those that are shipped

    @abstractmethod
    def forward(self, values: Tensor) -> Tensor:
        """Decode, differentiably where the method allows."""

    @abstractmethod
    def store(self, values: Tensor) -> Tensor:
        """What is written to the file for `values`."""

    @abstractmethod
    def write(self, stored: str, writer: Writer) -> str:
        """Write the operators that decode the tensor named `stored`; gives the name of the result."""

    @abstractmethod
    def describe(self) -> str:
        """In words, for tables: "codebook of 16, zero pinned"."""

    def settle(self, values: Tensor) -> None:
        """Called after every step of an optimizer: put `values` (in place) back to where they may be."""

    @property
    def narrow(self) -> str | None:
        """What the file holds the stored values as, where torch has no such type: "int4"."""
        return None

    def tensors(self) -> list[tuple[int, int]]:
        """(elements, bits each) of what it stores besides the values."""
        return []

    def cut(self, dim: int, positions: Tensor) -> Encoding:
        """The encoding of the weight with only these positions of a dimension, where the class is `cuttable`."""
        raise NotImplementedError(type(self).__name__)

    def zeros(self) -> Tensor | None:
        """Where the weight is held at zero, in its shape; None where nothing is held."""
        return None


def chain(weight: Weight) -> tuple[Encoding, ...]:
    """The encodings of a weight, innermost first."""
    return tuple(link for link in weight.chain if isinstance(link, Encoding))


def find(weight: Weight, *kinds: type[Encoding]) -> Encoding | None:
    """The first link of one of these kinds in the weight's chain."""
    return next((link for link in chain(weight) if isinstance(link, kinds)), None)


def rounded(weight: Weight) -> Encoding | None:
    """The link that rounds to few levels, if there is one."""
    return next((link for link in chain(weight) if link.rounds), None)


def zeros(weight: Weight) -> Tensor | None:
    """Where the weight's encodings hold it at zero; None where they hold nothing."""
    held = [z for link in chain(weight) if (z := link.zeros()) is not None]
    return torch.stack(held).any(0) if held else None


def encode(weight: Weight, links: Sequence[Encoding], values: Tensor) -> None:
    """Store `weight` as `values` seen through `links`, in all modules that share it."""
    old = weight.values
    plain = values.detach().to(old.device, torch.float32).clone()
    _place(weight, nn.Parameter(plain, requires_grad=old.requires_grad), links)


def _place(weight: Weight, parameter: nn.Parameter, links: Sequence[Encoding]) -> None:
    for module, name in weight.owners:
        _own_class(module)
        if parametrize.is_parametrized(module, name):
            parametrize.remove_parametrizations(module, name, leave_parametrized=False)
        setattr(module, name, parameter)
        for link in links:
            link.to(parameter.device).train(module.training)
            parametrize.register_parametrization(module, name, link, unsafe=True)


def _own_class(module: nn.Module) -> None:
    """Parametrized tensors are properties of a class made for their module. `copy.deepcopy` shares that class between
    the copies, so that a change to one would break the other: give the module a class of its own first."""
    if parametrize.is_parametrized(module):
        shared = type(module)
        members = {k: v for k, v in vars(shared).items() if k not in ("__dict__", "__weakref__")}
        module.__class__ = type(shared.__name__, shared.__bases__, members)


def cut(weight: Weight, dim: int, positions: Tensor) -> None:
    """Keep only these positions of a dimension of `weight`, whose encodings are cuttable, wherever it is shared."""
    old, links = weight.values, chain(weight)
    positions, values = positions.to(old.device), old.detach()
    plain = all(link.elementwise for link in links)
    values = values.index_select(dim, positions) if plain else values.clone()
    parameter = nn.Parameter(values, requires_grad=old.requires_grad)
    _place(weight, parameter, [link.cut(dim, positions) for link in links])


def stored(weight: Weight) -> Tensor:
    """The values as they are written to the file."""
    values = weight.values.detach()
    for link in chain(weight):
        values = link.store(values)
    return values


def narrow(weight: Weight) -> str | None:
    """What the file holds the stored values of a weight as, where torch has no such type."""
    return next((link.narrow for link in chain(weight) if link.narrow), None)


def stored_bits(weight: Weight) -> int:
    """The exact size of a weight as it is stored, before entropy coding: values and all that its encodings add."""
    values = stored(weight)
    own = values.numel() * (4 if narrow(weight) else values.element_size() * 8)
    return own + sum(count * bits for link in chain(weight) for count, bits in link.tensors())


def describe(weight: Weight) -> str:
    """How a weight is stored, in words, outermost first."""
    words = [link.describe() for link in reversed(chain(weight))]
    return ", ".join(words) or str(weight.values.dtype).removeprefix("torch.")


def decoded(model: nn.Module) -> nn.Module:
    """Replace every encoded weight of `model` (in place) by its plain value; what was shared stays shared."""
    for weight in weights(model):
        if weight.chain:
            plain = nn.Parameter(weight.tensor.detach().clone(), requires_grad=weight.values.requires_grad)
            _place(weight, plain, ())
    return model


def copied(model: nn.Module) -> nn.Module:
    """A copy to work on, with parametrizations that are not rarefy's baked in. Raises `ModelError` where torch cannot
    copy the network."""
    try:
        return adopted(copy.deepcopy(model))
    except RuntimeError as error:  # e.g. the hooks of the old weight_norm
        raise ModelError(
            f"{type(model).__name__} cannot be copied ({str(error).splitlines()[0]}); remove hooks that compute "
            "weights, or use torch.nn.utils.parametrizations for them"
        ) from error


def adopted(model: nn.Module) -> nn.Module:
    """Bake in (in place) parametrizations that are not rarefy's, such as weight_norm: they are training aids."""
    for module in list(model.modules()):
        if parametrize.is_parametrized(module):
            lists = dict(module.parametrizations.items())  # type: ignore[operator, union-attr]
            for name, links in lists.items():
                if not all(isinstance(link, Encoding) for link in links):
                    _own_class(module)
                    parametrize.remove_parametrizations(module, name, leave_parametrized=True)
    return model
