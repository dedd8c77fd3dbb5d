"""Which values pass between the functions and modules of a network, seen by running it once.

A value is one state of one tensor: what a function in place leaves behind is another value. Nothing is compiled, so
any Python may be between; what the example did not reach is not seen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

Value = tuple[int, int]  # the tensor, how often it was changed before


@dataclass(frozen=True)
class Step:
    """One call of a function of torch."""

    name: str  # "relu", "add": without underscores, also for the form in place
    args: tuple[Any, ...]
    options: dict[str, Any]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]


@dataclass
class Flow:
    """What a run has shown."""

    steps: list[Step] = field(default_factory=list)
    made_by: dict[Value, Step] = field(default_factory=dict)
    uses: dict[Value, list[Step]] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)
    inputs: dict[str, list[Value]] = field(default_factory=dict)  # the first input of each call of a module
    outputs: dict[str, list[Value]] = field(default_factory=dict)  # of modules that give one tensor
    givers: dict[Value, list[str]] = field(default_factory=dict)  # the modules that gave a value, innermost first
    results: set[Value] = field(default_factory=set)  # of the whole network
    sizes: dict[Value, int] = field(default_factory=dict)  # number of dimensions
    _held: list[Tensor] = field(default_factory=list)  # so that ids stay their own

    def value(self, tensor: Tensor) -> Value:
        """The value that `tensor` has now."""
        value = id(tensor), tensor._version
        if value not in self.sizes:
            self._held.append(tensor)
            self.sizes[value] = tensor.ndim
        return value


class _Recorder(TorchFunctionMode):
    def __init__(self, flow: Flow, known: set[int]) -> None:
        super().__init__()
        self.flow, self.known = flow, known

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = dict(kwargs or {})
        given = [t for t in tree_leaves((args, options)) if isinstance(t, Tensor) and id(t) not in self.known]
        inputs = tuple(self.flow.value(tensor) for tensor in given)
        out = func(*args, **options)
        made = tuple(self.flow.value(t) for t in tree_leaves(out) if isinstance(t, Tensor))
        if made and made != inputs[: len(made)]:
            step = Step(func.__name__.strip("_"), tuple(args), options, inputs, made)
            self.flow.steps.append(step)
            self.flow.made_by |= dict.fromkeys(made, step)
            for value in inputs:
                self.flow.uses.setdefault(value, []).append(step)
        return out


def flow(model: nn.Module, run: Callable[[], Any]) -> Flow:
    """What passes through `model` in `run()`, which calls it once."""
    seen = Flow()

    def enter(path: str) -> Any:
        def hook(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
            if inputs and isinstance(inputs[0], Tensor):
                seen.inputs.setdefault(path, []).append(seen.value(inputs[0]))
            seen.calls[path] += 1

        return hook

    def leave(path: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                seen.outputs.setdefault(path, []).append(seen.value(output))
                seen.givers.setdefault(seen.value(output), []).append(path)

        return hook

    handles = [m.register_forward_pre_hook(enter(path)) for path, m in model.named_modules()]
    handles += [m.register_forward_hook(leave(path)) for path, m in model.named_modules()]
    try:
        with _Recorder(seen, {id(t) for t in (*model.parameters(), *model.buffers())}):
            result = run()
    finally:
        for handle in handles:
            handle.remove()
    seen.results = {seen.value(t) for t in tree_leaves(result) if isinstance(t, Tensor)}
    return seen
