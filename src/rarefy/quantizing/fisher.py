"""How much what a network answers changes with each of its weights: Fisher information, from backward passes.

For scores z of classes with probabilities p, the divergence of the answers after a small change of the weights is
1/2 e^T F e with F = J^T (diag(p) - p p^T) J. A random v with that covariance in the middle, v = a - p sum(a) with
a = sqrt(p) s and random signs s, has a gradient g = J^T v with E[g g^T] = F: no label is needed, and the sum over a
batch needs one backward pass, since the signs of different examples are independent. Outputs that are no scores count
by their squared error, as a share of their mean square.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from rarefy import encodings
from rarefy.calibration import POSITIONS, Hook, hooked, mapped, unfolded
from rarefy.errors import StepError
from rarefy.graph.modules import twin
from rarefy.graph.weights import weights
from rarefy.numerics.second_order import Curvature, Moment
from rarefy.quantizing.matrices import Matrices
from rarefy.step import Context
from rarefy.task import forward
from rarefy.train import evaluating

PIECE = 5  # examples of one backward pass: fewer give more directions for the same time
VIEWS = 2  # passes for each piece
IMAGES = 4  # dimensions of a batch of images
ALIKE = 0.5  # nats
CHANCE = (0.02, 0.9)  # the least and the most of what differs between rows, that counts as chance


Halves = tuple[Moment, Moment]


@dataclass
class Information:
    """Of one weight, as `Matrices` lay it out: the Fisher information of each row's weights, the mean and the mean
    square over the backward passes (groups, rows); and second moments (groups, columns, columns), those of even and of
    odd pieces apart: of the rows' gradients, and of what the rows are multiplied with, where that is seen."""

    layout: Matrices
    rows: Tensor
    squares: Tensor
    passes: int = 0
    half: int = 0  # of the pieces, that is being measured
    gradients: Halves = field(default_factory=lambda: (Moment(), Moment()))
    inputs: Halves = field(default_factory=lambda: (Moment(), Moment()))

    @classmethod
    def empty(cls, layout: Matrices) -> Information:
        """Nothing measured yet."""
        zeros = torch.zeros(layout.split(torch.empty(layout.shape)).shape[:2])
        return cls(layout, zeros, zeros.clone())

    def add(self, gradient: Tensor) -> None:
        """The gradient of one backward pass, in the weight's shape."""
        split = self.layout.split(gradient)
        information = split.square().mean(2)
        self.passes += 1
        self.rows, self.squares = self.rows.to(split), self.squares.to(split)
        self.rows += (information - self.rows) / self.passes
        self.squares += (information.square() - self.squares) / self.passes
        if split.shape[2] > 1:
            scale = self.rows.mean(1, keepdim=True) + self.rows
            even = split / torch.where(scale > 0, scale, 1.0).sqrt()[:, :, None]
            self.gradients[self.half].add(even.mT @ even)

    def shrunk(self) -> Tensor:
        """`rows`, moved towards their mean by the share of their variance that is chance: few examples reach few
        classes, and what nothing has reached yet may count as well."""
        chance = (self.squares - self.rows.square()).sum() / max(self.passes / VIEWS - 1, 1)
        spread = (self.rows - self.rows.mean()).square().sum()
        share = float((chance / spread).clamp(*CHANCE)) if spread > 0 else 1.0
        return (1 - share) * self.rows + share * self.rows.mean()

    def curvature(self) -> Curvature | None:
        """None where each row is one weight."""
        if not self.gradients[0].count:
            return None
        return Curvature.of(self.inputs if self.inputs[0].count else self.gradients, self.gradients)

    def see(self, x: Tensor) -> None:
        """What the weight is multiplied with in one forward pass: (groups, n, columns)."""
        groups, count, columns = x.shape
        parts = self.layout.parts
        cut = x.reshape(groups, count, parts, -1).transpose(1, 2).reshape(groups * parts, count, columns // parts)
        self.inputs[self.half].add(cut.mT @ cut)


def scores(output: Tensor) -> bool:
    """Whether an output is taken for scores of classes: a matrix of more than one column."""
    return output.ndim == 2 and output.shape[1] > 1


def answers(output: Any) -> list[Tensor]:
    """The tensors of what a network gives that can have a gradient."""
    leaves = tree_leaves(output)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def divergence(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    """Of two answers to the same examples, in nats for each: KL(wanted || found), or half the squared error as a share
    of the mean square. The sum over the tensors of an answer."""
    total = 0.0
    for a, b in zip(found, wanted, strict=True):
        if scores(b):
            p, q = b.double().log_softmax(1), a.double().log_softmax(1)
            total += float((p.exp() * (p - q)).sum(1).mean())
        else:
            total += float((a - b).double().square().mean() / (2 * b.double().square().mean().clamp(min=1e-30)))
    return total


def mirrored(inputs: Any) -> Any:
    """Images, each from right to left; other tensors as they are."""
    return mapped(inputs, lambda tensor: tensor.flip(-1) if tensor.ndim == IMAGES else tensor)


def symmetric(model: nn.Module, inputs: Any) -> bool:
    """Whether mirror images are answered much like the images, in scores of classes: they are then as good as further
    examples."""
    with evaluating(model):
        wanted, found = (answers(forward(model, view)) for view in (inputs, mirrored(inputs)))
    return all(map(scores, wanted)) and divergence(found, wanted) < ALIKE


def direction(answer: Tensor, draw: torch.Generator) -> Tensor:
    """A random gradient at an answer, whose covariance is the second derivative of the divergence (summed over the
    examples)."""
    signs = (torch.randint(0, 2, answer.shape, generator=draw) * 2 - 1).to(answer)
    if not scores(answer):
        return signs * (len(answer) / answer.square().sum().clamp(min=1e-30)).sqrt()
    p = answer.softmax(1)
    a = p.sqrt() * signs
    return a - p * a.sum(1, keepdim=True)


def information(
    model: nn.Module, layouts: dict[str, Matrices], batches: Iterable[Any], context: Context, mirror: bool = False
) -> dict[str, Information]:
    """Of the weights at the paths of `layouts`; those that no answer depends on are absent. mirror: on mirror images,
    too."""
    plain, owned = encodings.decoded(twin(model)).eval(), dict[str, nn.Parameter]()
    for weight in weights(plain):
        if weight.path in layouts:
            owned[weight.path] = nn.Parameter(weight.tensor.detach())
            for module, name in weight.owners:
                module._parameters[name] = owned[weight.path]
    draw, count = torch.Generator().manual_seed(context.seed), 0
    layers = _layers(plain, owned)
    found = {path: Information.empty(layout) for path, layout in layouts.items()}
    with hooked(plain, {layer: _look(found[path], draw) for layer, path in layers.items()}):
        for inputs in batches:
            for made in found.values():
                made.half = count % 2
            for view in (inputs, mirrored(inputs) if mirror else inputs):
                for path, gradient in _gradients(plain, owned, view, draw):
                    found[path].add(gradient)
            count += 1
            context.progress("importance of weights", count, count + 1)
    if not count:
        raise StepError("there are no training examples to measure the importance of weights on; give some")
    return {path: made for path, made in found.items() if made.rows.any()}


def _gradients(
    model: nn.Module, owned: dict[str, nn.Parameter], inputs: Any, draw: torch.Generator
) -> Iterator[tuple[str, Tensor]]:
    """Of one backward pass from a random direction, by path."""
    outputs = [t for t in answers(forward(model, inputs)) if t.requires_grad]
    if not all(t.isfinite().all() for t in outputs):
        raise StepError(
            "NaN or infinite answers while measuring the importance of weights: look at the training examples"
        )
    if outputs:
        directions = [direction(t.detach(), draw) for t in outputs]
        gradients = torch.autograd.grad(outputs, list(owned.values()), directions, allow_unused=True)
        yield from ((path, g) for path, g in zip(owned, gradients, strict=True) if g is not None)


def _layers(model: nn.Module, owned: dict[str, nn.Parameter]) -> dict[str, str]:
    """The layers whose inputs can be unfolded, and the paths of their weights."""
    ids = {id(parameter): path for path, parameter in owned.items()}
    layers = {p: m for p, m in model.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))}
    return {p: ids[id(m.weight)] for p, m in layers.items() if id(m.weight) in ids}


def _look(found: Information, draw: torch.Generator) -> Hook:
    return lambda module, x, _output: found.see(unfolded(module, x, POSITIONS, draw))
