"""What a network shows when it runs: which layer comes first, and what each is given."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from rarefy import budget
from rarefy.calibration import Hook, batches, hooked
from rarefy.graph.ends import first_and_last
from rarefy.graph.flow import Flow, flow
from rarefy.step import Context
from rarefy.task import forward
from rarefy.train import evaluating

LAYERS = (_ConvNd, nn.Linear, nn.Bilinear, nn.Embedding, nn.RNNBase)  # what a network's depth is counted in


@dataclass
class Inputs:
    """Statistics of one module's (first) input, over training examples."""

    channels: int = 0
    image: tuple[int, ...] = ()  # height and width, of a convolution's
    result: tuple[int, ...] = ()
    lowest: float = torch.inf
    count: int = 0  # values of each channel
    sums: Tensor = field(default_factory=lambda: torch.zeros(()))  # of each channel
    magnitudes: float = 0.0

    def add(self, module: nn.Module, x: Tensor, y: Tensor) -> None:
        """One call."""
        axis = -1 if isinstance(module, nn.Linear) else x.ndim - 3 if isinstance(module, nn.Conv2d) else 1
        rows = x.detach().float().movedim(axis, 0).flatten(1)
        self.channels, self.image, self.result = len(rows), tuple(x.shape[-2:]), tuple(y.shape[-2:])
        if rows.numel():
            self.lowest = min(self.lowest, float(rows.min()))
        self.count += rows.shape[1]
        self.sums = self.sums + rows.double().sum(1).cpu()
        self.magnitudes += float(rows.abs().double().sum())

    @property
    def positive(self) -> bool:
        """Never negative, as after a ReLU: all signs are +1."""
        return self.lowest >= 0

    @property
    def means(self) -> Tensor:
        """Of each channel, float32."""
        return (self.sums / max(self.count, 1)).float()

    def steps(self, bits: int) -> float:
        """Levels for each unit: the range ends at 2 sqrt(2^bits - 1) times the mean magnitude, as in LSQ at the start
        (Esser et al. 2020, arXiv:1902.08153)."""
        top = 2**bits - 1
        mean = self.magnitudes / max(self.count * self.channels, 1)
        return top**0.5 / (2 * mean) if mean > 0 else float(top)


def looked_at(model: nn.Module, paths: Iterable[str], context: Context, examples: int) -> dict[str, Inputs]:
    """What the modules at `paths` are given on that many training examples; what none reaches is absent."""
    found: dict[str, Inputs] = {}

    def look(path: str) -> Hook:
        def hook(module: nn.Module, x: Tensor, output: Tensor) -> None:
            found.setdefault(path, Inputs()).add(module, x, output)

        return hook

    with hooked(model, {path: look(path) for path in paths}), evaluating(model):
        for inputs in batches(context, examples):
            forward(model, inputs)
    return found


@dataclass
class View:
    """A network, and what one run of it has shown."""

    modules: dict[str, nn.Module]
    flow: Flow
    inputs: dict[str, Inputs] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.paths = {id(module): path for path, module in self.modules.items()}
        self.layers = [path for path, module in self.modules.items() if isinstance(module, LAYERS)]
        self.ends = first_and_last(self.flow, self.layers)

    def look(self, model: nn.Module, paths: Iterable[str], context: Context, examples: int) -> None:
        """Take statistics of what the modules at `paths` are given."""
        if wanted := list(paths):
            self.inputs |= looked_at(model, wanted, context, examples)


def viewed(model: nn.Module, context: Context) -> View:
    """Run `model` once, on two examples. Raises `ModelError` where it does not run."""
    inputs = budget.examples(model, context)
    with evaluating(model):
        return View(dict(model.named_modules()), flow(model, lambda: forward(model, inputs)))
