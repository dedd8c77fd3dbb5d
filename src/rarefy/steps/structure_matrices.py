"""Structured matrices: few numbers that make a large one."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import nn

from rarefy import encodings
from rarefy.encodings.structured import Circulant, Displacement, Structured, Toeplitz
from rarefy.errors import StepError
from rarefy.graph.weights import Weight, by_path, chosen, surveyed, why_not, why_small
from rarefy.layers.fourier import FourierConv2d, FourierLinear
from rarefy.step import Context, Plan, Step

# elements of a weight and rows of a block from which on the FFT is faster than the plain dense product, at batch 1 and
# at 32: measured on one core by benchmarks/low_rank.py
_FFT_FROM = {"circulant": (2**20, 64), "toeplitz": (2**24, 128), "displacement": (2**24, 1024)}
_MOST = 1024  # rows of a displacement block, which costs rows^3 at loading


class StructureMatrices(Step):
    """Makes the weights of fully connected and 1x1 layers circulant, Toeplitz or of low displacement rank, in blocks.

    The trained weight is projected onto the structure (circulant, Toeplitz: least squares, which is the means along
    the diagonals); that loses much, and a `Finetune` afterwards trains the few numbers that are left. In torch large
    layers multiply by FFT, O(n log n), without building the matrix.
    """

    gains: ClassVar[str] = (
        "bytes, b times fewer values; time in torch for large layers, by FFT, and none in ONNX Runtime, which builds "
        "the matrices once, at loading"
    )
    paper: ClassVar[str] = (
        "Cheng et al. 2015 (arXiv:1502.03436), Sindhwani, Sainath, Kumar 2015 (arXiv:1510.01722), "
        "Thomas et al. 2018 (arXiv:1810.02309)"
    )

    structure: Literal["circulant", "toeplitz", "displacement"] = Field(
        "circulant", description="displacement: sums of circulant times skew-circulant"
    )
    block: int = Field(64, ge=2, le=8192, description="rows of a block; at most the layer's smaller side")
    rank: int = Field(2, ge=1, le=64, description="displacement rank, for that structure")
    fourier: bool | None = Field(None, description="multiply by FFT in torch; by default where that is faster")
    layers: dict[str, int] = Field({}, description="glob -> a block of its own; the first that matches counts")
    skip: tuple[str, ...] = Field((), description="globs of parameters or modules to leave")

    @model_validator(mode="after")
    def _soon_built(self) -> StructureMatrices:
        largest = max([self.block, *self.layers.values()])
        if min([self.block, *self.layers.values()]) < 2:
            raise ValueError("a block has at least 2 rows")
        if self.structure == "displacement" and largest > _MOST:
            raise ValueError(
                f"displacement blocks have at most {_MOST} rows, not {largest}: the file builds each by matrix "
                "products when it is loaded, which would take many seconds"
            )
        return self

    def plan(self, model: nn.Module, context: Context) -> Plan:
        """The blocks of each layer."""
        plan = Plan()
        for weight in surveyed("StructureMatrices", model, self.layers, self.skip):
            reason = "skipped, as set" if chosen(weight.path, self.skip) else _why_not(weight)
            link = None if reason else self._link(weight)
            numel, values = weight.tensor.numel(), torch.Size(link.size).numel() if link else 0
            if link is None or values >= numel:
                plan.leave[weight.path] = reason or f"its structure would take {values} values instead of {numel}"
                continue
            fourier = _takes_fft(weight) and self._pays(numel, link.rows)
            plan.do[weight.path] = {"structure": self.structure, "block": link.rows, "fourier": fourier}
            if isinstance(link, Displacement):
                plan.do[weight.path]["rank"] = link.rank
            plan.notes[weight.path] = f"{link.describe()}: {numel / values:.1f}x fewer values" + ", FFT" * fourier
        if not plan.do:
            reasons = "; ".join(f"{path}: {why}" for path, why in list(plan.leave.items())[:5])
            raise StepError(f"StructureMatrices found no Linear or 1x1 Conv2d to structure ({reasons}); leave it out")
        return plan

    def _pays(self, numel: int, rows: int) -> bool:
        least, block = _FFT_FROM[self.structure]
        return numel >= least and rows >= block if self.fourier is None else self.fourier

    def _link(self, weight: Weight) -> Structured:
        m, n = weight.tensor.shape[:2]
        block = next((size for glob, size in self.layers.items() if chosen(weight.path, [glob])), self.block)
        return _structured(tuple(weight.tensor.shape), self.structure, min(block, m, n), min(self.rank, m, n))

    def apply(self, model: nn.Module, plan: Plan, context: Context) -> nn.Module:
        """Project each planned weight."""
        found = by_path(model)
        for done, (path, decision) in enumerate(plan.do.items()):
            weight = found[path]
            kind, block, rank = decision["structure"], decision["block"], decision.get("rank", 0)
            link = _structured(tuple(weight.tensor.shape), kind, block, rank)
            tensor = weight.tensor.detach()
            values = tensor.new_zeros(link.size) if context.blank else link.project(tensor)
            if decision["fourier"]:
                _by_fft(weight)
            encodings.encode(weight, [link], values)
            context.progress("StructureMatrices", done + 1, len(plan.do))
        return model


def _structured(shape: tuple[int, ...], kind: str, block: int, rank: int) -> Structured:
    if kind == "circulant":
        return Circulant(shape, block, block)
    return Toeplitz(shape, block, block) if kind == "toeplitz" else Displacement(shape, block, rank)


def _why_not(weight: Weight) -> str | None:
    if encodings.chain(weight):
        return f"stored as {encodings.describe(weight)} already: put StructureMatrices before the step that did it"
    if reason := why_not(weight) or why_small(weight):
        return reason
    for module, name in weight.owners:
        if name != "weight" or not (isinstance(module, nn.Linear) or _pointwise(module)):
            return f"part of {type(module).__name__}, which is not a Linear or 1x1 Conv2d of one group"
    return None


def _pointwise(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and max(module.kernel_size) == 1 and module.groups == 1


def _takes_fft(weight: Weight) -> bool:
    return all(
        type(m) is nn.Linear or (type(m) is nn.Conv2d and m.padding in ((0, 0), "valid")) for m, _ in weight.owners
    )


def _by_fft(weight: Weight) -> None:
    """The layers multiply by FFT from now on; all else about them stays."""
    for module, _ in weight.owners:
        module.__class__ = FourierLinear if isinstance(module, nn.Linear) else FourierConv2d
