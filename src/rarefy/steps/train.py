"""Training from the start."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn

from rarefy.step import Context, Plan
from rarefy.training_step import TrainingStep


class Train(TrainingStep):
    """Trains a network that has no trained weights yet; leaves one that has them as it is.

    So the same recipe serves both: from a name in the zoo it begins with the baseline, from the user's weights with
    the compression.
    """

    gains: ClassVar[str] = "the network to begin with, and the accuracy that the others are compared to"
    paper: ClassVar[str] = "-"
    usual: ClassVar[dict[str, Any]] = {"epochs": 1}

    def plan(self, model: nn.Module, context: Context) -> Plan:
        """Training, or nothing where there are trained weights."""
        if context.trained:
            return Plan(leave={"all": "the network came with trained weights"})
        return super().plan(model, context)

    def apply(self, model: nn.Module, plan: Plan, context: Context) -> nn.Module:
        """Train, unless the plan says there is nothing to do."""
        return model if plan.leave else super().apply(model, plan, context)
