"""Running a network once while following which channels its tensors are made of.

Nothing is compiled and no code is analysed: the network runs on a few examples, each function of torch is seen as it is
called (`torch.overrides.TorchFunctionMode`), and its rule in `rarefy.graph.rules` says what becomes of the labels. So
any Python may be between: conditions, loops, several inputs. What no rule knows keeps its channels.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from rarefy.graph.atoms import Atoms, spread, varying

HERE = str(Path(__file__).parent)
ROOT = Path(__file__).parents[1]
TORCH = str(Path(torch.__file__).parent)


@dataclass
class Op:
    """One call of a function of torch."""

    name: str  # "conv2d", "add", ...; without underscores, also for the form in place
    func: Callable[..., Any]
    args: tuple[Any, ...]
    options: Mapping[str, Any]
    out: Any

    def get(self, index: int, name: str, default: Any = None) -> Any:
        """An argument by position or name."""
        return self.args[index] if len(self.args) > index else self.options.get(name, default)

    def tensors(self) -> list[Tensor]:
        """All tensors among the arguments."""
        return [leaf for leaf in tree_leaves((self.args, dict(self.options))) if isinstance(leaf, Tensor)]

    def results(self) -> list[Tensor]:
        """All tensors among the results."""
        return [leaf for leaf in tree_leaves(self.out) if isinstance(leaf, Tensor)]


@dataclass
class Slot:
    """One dimension of one parameter or buffer, and the atom of each of its positions."""

    path: str
    dim: int
    kind: str  # "out": rows of a weight, "in": its columns, "shift", "scale", "statistic", "bare"
    labels: Tensor  # (size of the dimension,)


@dataclass
class Use:
    """One multiplication by a weight."""

    path: str
    positions: int  # how often the whole weight is used, over all examples
    padded: bool  # it also sees zeros that no channel holds


@dataclass
class Trace:
    """What a run of the network has shown."""

    atoms: Atoms = field(default_factory=Atoms)
    slots: dict[tuple[str, int], Slot] = field(default_factory=dict)
    uses: list[Use] = field(default_factory=list)
    summed: list[Tensor] = field(default_factory=list)  # labels that a product of two computed tensors sums over
    opaque: dict[str, str] = field(default_factory=dict)  # parameters that unknown functions use, and where


Rule = Callable[["Tracer", Op], None]
Watch = Callable[[str, Tensor, int, bool], None]  # weight, its input, dimension of the channels, padded


class Tracer(TorchFunctionMode):
    """Follows labels through every call of torch while it is active."""

    def __init__(self, model: nn.Module, rules: Mapping[str, Rule], whole: Mapping[str, str]) -> None:
        """whole: parameters that cannot be cut, and why."""
        super().__init__()
        self.trace, self.rules, self.whole = Trace(), rules, whole
        self.atoms = self.trace.atoms
        tensors = [*model.named_parameters(), *model.named_buffers()]
        self.names = {id(t): name for name, t in tensors}
        self._known = WeakIdKeyDictionary()  # tensor -> labels, as long as the network itself holds the tensor
        self._inside: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        op = Op(plain_name(func), func, tuple(args), kwargs or {}, out)
        if op.results() or op.name == "setitem":
            try:
                self.rules.get(op.name, Tracer.opaque)(self, op)
            except (RuntimeError, IndexError, TypeError, ValueError):  # an unusual form of a known function
                self.opaque(op)
        return out

    def labels(self, tensor: Tensor) -> Tensor:
        """Of any tensor: 0 where nothing is known."""
        if tensor in self._known:
            return self.atoms.compact(self._known[tensor])
        if id(tensor) in self.names and tensor.numel() > 1:
            return self._bare(tensor)
        return torch.zeros((), dtype=torch.int64).expand(tensor.shape)

    def _bare(self, tensor: Tensor) -> Tensor:
        """A parameter that is used as it is: by its last dimension."""
        dim = max(d for d in range(tensor.ndim) if tensor.shape[d] > 1)
        labels = self.slot(tensor, dim, "bare")
        self.set(tensor, spread(labels, tensor.shape, dim))
        known: Tensor = self._known[tensor]
        return known

    def set(self, tensor: Tensor, labels: Tensor) -> None:
        """What `tensor` is made of."""
        self._known[tensor] = labels

    def slot(self, tensor: Tensor, dim: int, kind: str, labels: Tensor | None = None) -> Tensor:
        """Note that the positions of a parameter's dimension are these atoms (new ones by default); gives them."""
        path = self.names[id(tensor)]
        known = self.trace.slots.get((path, dim))
        if known is None:
            labels = self.atoms.fresh(tensor.shape[dim]) if labels is None else labels
            self.trace.slots[path, dim] = Slot(path, dim, kind, labels)
            if path in self.whole:
                self.atoms.keep(labels, self.whole[path])
            return labels
        if labels is not None:
            self.atoms.unite(known.labels, labels, f"{path} is used in several ways")
        return known.labels

    def opaque(self, op: Op) -> None:
        """A function that no rule knows, or knows in this form: the channels of its inputs stay, all of them."""
        for tensor in op.tensors():
            if id(tensor) in self.names:
                self.trace.opaque.setdefault(self.names[id(tensor)], self.why(op, "goes through"))
            if tensor in self._known:
                self.atoms.keep(self._known[tensor], self.why(op, "goes through"))
        for tensor in op.results():
            self.set(tensor, torch.zeros((), dtype=torch.int64).expand(tensor.shape))

    def why(self, op: Op, what: str) -> str:
        """A reason with the place: "goes through softmax at net.py:12, in blocks.1"."""
        frame = sys._getframe(1)
        while frame.f_back and frame.f_code.co_filename.startswith((HERE, TORCH)):
            frame = frame.f_back
        file = frame.f_code.co_filename
        code = "" if Path(file).parent == ROOT else f" at {Path(file).name}:{frame.f_lineno}"
        module = f" in {self._inside[-1]}" if self._inside and self._inside[-1] else ""
        return f"{what} {op.name}{code}{module}"

    def _leave(self, *_: Any) -> None:
        self._inside.pop()

    @contextmanager
    def following(self, model: nn.Module) -> Iterator[None]:
        """Know in which module a call is made."""
        hooks = []
        for path, module in model.named_modules():
            hooks += [
                module.register_forward_pre_hook(lambda *_, p=path: self._inside.append(p)),
                module.register_forward_hook(self._leave, always_call=True),
            ]
        try:
            with self:
                yield
        finally:
            for hook in hooks:
                hook.remove()

    def whole_dims(self, labels: Tensor, allowed: int, op: Op) -> Tensor | None:
        """The labels along dimension `allowed`; None (and all stay) where they vary along another."""
        allowed %= labels.ndim
        if [d for d in varying(labels) if d != allowed]:
            self.atoms.keep(labels, self.why(op, "its channels are mixed before"))
            return None
        for dim in range(labels.ndim):
            if dim != allowed:
                labels = labels.narrow(dim, 0, 1)
        return labels.reshape(-1)


def plain_name(func: Any) -> str:
    """`add` for add, add_, __add__, __iadd__, __radd__; the attribute's name for a property."""
    name = getattr(func, "__name__", str(func))
    if name == "__get__":
        name = func.__self__.__name__
    if name.startswith("__") and name.endswith("__"):
        name = name.strip("_")
        plain = {"iadd", "radd", "isub", "rsub", "imul", "rmul", "itruediv", "rtruediv", "ipow", "rpow", "rmatmul"}
        return name[1:] if name in plain else name
    return name.strip("_")
