"""Training that makes weights small."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvTransposeNd

from rarefy import encodings
from rarefy.errors import StepError
from rarefy.graph.weights import Weight, chosen, surveyed, weights, why_not, why_small
from rarefy.numerics import sparsity
from rarefy.records import LayerNote
from rarefy.step import Context, Plan
from rarefy.training_step import TrainingStep


class Sparsify(TrainingStep):
    """Trains with a sparsity term, so that what matters little is zero or near it before a later step prunes it.

    l1: `strength sum |w|` (for PruneWeights). group: the group lasso on filters and neurons, `strength sum_f
    sqrt(size_f) |w_f|`. slimming: L1 on the scales of BatchNorm (for PruneChannels by these). growing: `strength / 2
    |w|^2` on the `share` of weights, or of filters with `filters`, that are smallest at the start (GReg-1).

    Every step of the optimizer is followed by the term's proximal step of size `rate x strength`: unlike a gradient,
    which leaves weights on either side of zero, it gives exact zeros in l1, group and slimming, and the optimizer's
    moments stay those of the task. A weight stays zero while the optimizer moves it by less than that: with adam
    (steps of about the rate) strengths are 0.05 to 0.5, with sgd (of rate x gradient) 1e-5 to 1e-2; growing needs some
    hundreds with adam, 1 to 100 with sgd. For `ramp` of the training the strength rises from zero.
    """

    gains: ClassVar[str] = "less loss in the pruning that follows; by itself bytes of exact zeros only, and no time"
    paper: ClassVar[str] = (
        "Liu, Li, Shen, Huang, Yan, Zhang 2017, Network Slimming (arXiv:1708.06519); Wen 2016 (group lasso); "
        "Wang, Qin, Zhang, Fu 2021, Growing Regularization (arXiv:2012.09243)"
    )
    usual: ClassVar[dict[str, Any]] = {"epochs": 1, "term": "l1", "strength": 0.1}

    term: Literal["l1", "group", "slimming", "growing"] = Field(description="what is made small")
    strength: float = Field(gt=0, le=1e6, description="weight of the term")
    ramp: float = Field(0.0, ge=0, le=1, description="share of the training in which the strength rises from zero")
    share: float = Field(0.5, gt=0, lt=1, description="of growing: the share that is to go")
    filters: bool = Field(False, description="of growing: whole filters and neurons, not single weights")
    near: float = Field(1e-3, gt=0, description="what the record counts as near zero: a size below this")
    skip: tuple[str, ...] = Field((), description="globs of parameters or modules to leave")

    def plan(self, model: nn.Module, context: Context) -> Plan:
        """Which parameters the term leaves, and why."""
        super().plan(model, context)
        leave = {w.path: reason for w in surveyed("Sparsify", model, (), self.skip) if (reason := self._why_not(w))}
        if len(leave) == len(weights(model)):
            wanted = "scale of BatchNorm" if self.term == "slimming" else "plain float weight of two dimensions"
            raise StepError(
                f"Sparsify found no {wanted} to make small: all parameters are skipped, frozen, stored in another way "
                f"or of other layers ({next(iter(leave.values()), 'there are none')})"
            )
        return Plan(leave=leave)

    def apply(self, model: nn.Module, plan: Plan, context: Context) -> nn.Module:
        """Train, and count what is small afterwards."""
        targets = [_Target(w, _filter_dim(w), self._smallest(w)) for w in weights(model) if w.path not in plan.leave]

        @torch.no_grad()
        def shrink(rate: float, progress: float) -> None:
            amount = rate * self.strength * min(1.0, progress / self.ramp if self.ramp else 1.0)
            for target in targets:
                values = target.weight.values
                values.copy_(self._shrunk(values, target, amount))

        model = self._trained(model, context, after=shrink)
        context.notes += self._counted(targets)
        return model

    def _why_not(self, weight: Weight) -> str | None:
        if chosen(weight.path, self.skip):
            return "skipped, as set"
        scale = isinstance(weight.module, _BatchNorm) and weight.owners[0][1] == "weight"
        if self.term == "slimming" and not scale:
            return "not the scale of a BatchNorm"
        if not weight.values.requires_grad:
            return "frozen"
        if not all(isinstance(link, (encodings.Mask, encodings.Half)) for link in encodings.chain(weight)):
            return f"is a {encodings.describe(weight)} already: put Sparsify before the step that stores it so"
        return why_not(weight) or (None if scale and self.term == "slimming" else why_small(weight))

    def _smallest(self, weight: Weight) -> Tensor | None:
        """What growing draws to zero: bool, broadcasts over the weight."""
        if self.term != "growing":
            return None
        tensor, dim = weight.tensor.detach(), _filter_dim(weight)
        scores = sparsity.slice_norms(tensor, dim) if self.filters else tensor.abs().flatten()
        lowest = sparsity.lowest(scores, min(round(self.share * scores.numel()), scores.numel() - 1))
        return sparsity.along(lowest, tensor, dim) if self.filters else lowest.view(tensor.shape)

    def _shrunk(self, values: Tensor, target: _Target, amount: float) -> Tensor:
        if target.smallest is not None:
            return sparsity.decay_step(values, target.smallest.to(values.device), amount)
        if self.term == "group":
            return sparsity.group_step(values, amount, target.dim)
        return sparsity.l1_step(values, amount)

    def _counted(self, targets: list[_Target]) -> Iterator[LayerNote]:
        groups = self.term == "group" or (self.term == "growing" and self.filters)
        kind = "filters" if groups else "scales" if self.term == "slimming" else "weights"
        for target in targets:
            tensor = target.weight.tensor.detach()
            sizes = sparsity.slice_norms(tensor, target.dim) if groups else tensor.abs()
            small, zero = int((sizes < self.near).sum()), int((sizes == 0).sum())
            words = f"{small:,} of {sizes.numel():,} {kind} below {self.near:g} ({small / sizes.numel():.1%})"
            yield LayerNote(parameter=target.weight.path, done=f"{words}, {zero:,} of them zero")


@dataclass(frozen=True)
class _Target:
    weight: Weight
    dim: int  # that its filters are counted along
    smallest: Tensor | None


def _filter_dim(weight: Weight) -> int:
    return 1 if isinstance(weight.module, _ConvTransposeNd) else 0
