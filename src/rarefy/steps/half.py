"""Sixteen-bit floats."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import nn

from rarefy import encodings
from rarefy.errors import StepError
from rarefy.graph.weights import Weight, chosen, surveyed, weights, why_not
from rarefy.quantizing import biases
from rarefy.step import Context, Plan, Step


class Half(Step):
    """Stores every float as 16 bits: weights, biases, and the centroids of codebooks.

    float16 keeps 11 significant bits in a range of 6e-8 .. 65504, bfloat16 keeps 8 in the range of float32.
    """

    gains: ClassVar[str] = (
        "half the bytes of what is stored as float32; not faster: the engine widens weights at loading"
    )
    paper: ClassVar[str] = "Micikevicius et al. 2018, Mixed Precision Training (arXiv:1710.03740)"

    format: Literal["float16", "bfloat16"] = "float16"
    skip: tuple[str, ...] = Field((), description="globs of parameters or modules to leave")

    def plan(self, model: nn.Module, context: Context) -> Plan:
        """Every float parameter whose values fit the format."""
        plan = Plan()
        for weight in surveyed("Half", model, (), self.skip):
            reason = self._why_not(weight)
            if reason is None:
                plan.do[weight.path] = {"format": self.format}
            else:
                plan.leave[weight.path] = reason
        if not plan.do:
            raise StepError("Half found nothing to store in 16 bits; leave the step out")
        return plan

    def _why_not(self, weight: Weight) -> str | None:
        if chosen(weight.path, self.skip):
            return "skipped, as set"
        if found := encodings.rounded(weight):
            return f"stored as {found.describe()} already"
        if biases.summed(weight):
            return "added to sums of integers, which has to be exact"
        if encodings.find(weight, encodings.Half):
            return "stored in 16 bits already"
        values = weight.values.detach()
        if values.is_floating_point() and values.element_size() <= 2:
            return "stored in 16 bits already"
        top = float(values.abs().max()) if values.numel() else 0.0
        if top > torch.finfo(getattr(torch, self.format)).max:
            return f"its largest magnitude, {top:.3g}, is beyond {self.format}; bfloat16 would take it"
        return why_not(weight)

    def apply(self, model: nn.Module, plan: Plan, context: Context) -> nn.Module:
        """Put the format innermost: whatever the weight's encodings store is stored in 16 bits."""
        for weight in weights(model):
            if weight.path in plan.do:
                links = [encodings.Half(self.format), *encodings.chain(weight)]
                encodings.encode(weight, links, weight.values)
        return model
