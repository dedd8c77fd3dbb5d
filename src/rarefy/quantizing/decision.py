"""What is decided of one weight: how many bits, and what shares a scale."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from torch import Size, nn

from rarefy import encodings, measure
from rarefy.errors import StepError
from rarefy.graph.weights import Weight, chosen, why_not, why_small
from rarefy.step import Context, Plan

Per = Literal["channel", "tensor"] | int
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
INTEGER_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Linear)  # engines have integer kernels for them
UNSATURATED = {"avx512_vnni", "avx_vnni", "amx_int8"}


def saturates() -> bool:
    """Whether this CPU's 8-bit multiply-add overflows its 16-bit sums: AVX2 and AVX-512 without VNNI."""
    features = set(measure.environment().cpu_features)
    return "avx2" in features and not features & UNSATURATED


def most_bits(reduce: bool | None, activations: int | None, context: Context) -> int:
    """Of a weight. reduce: as set; None where this CPU decides, and the user is told."""
    if reduce is None and activations and saturates():
        reduce = True
        context.warnings.append(
            "weights have at most 7 bits: this CPU's 8-bit multiply-add saturates (reduce_range: false keeps 8)"
        )
    return 7 if reduce and activations else 8


def check_bits(step: str, layers: Mapping[str, int]) -> None:
    """Raises `StepError` for bits set for layers that cannot be stored."""
    if wrong := [f"{glob}: {bits}" for glob, bits in layers.items() if not 2 <= bits <= 8]:
        raise StepError(f"{step}: layers: 2 to 8 bits can be stored, not {wrong[0]}")


def bits_of(path: str, layers: Mapping[str, int], otherwise: int) -> int:
    """Those set for a layer: of the first glob that matches."""
    return next((bits for glob, bits in layers.items() if chosen(path, [glob])), otherwise)


def check_some(step: str, plan: Plan, verb: str = "quantize") -> None:
    """Raises `StepError` where no weight was found."""
    if not plan.do:
        reasons = "; ".join(f"{path}: {why}" for path, why in list(plan.leave.items())[:5])
        raise StepError(f"{step} found no weight to {verb} ({reasons}); leave it out")


def why_unfit(weight: Weight) -> str | None:
    """Why a weight cannot be stored as integers; None where it can."""
    if reason := why_not(weight) or why_small(weight):
        return reason
    for link in encodings.chain(weight):
        if isinstance(link, encodings.Affine):
            return f"stored as {link.describe()} already"
        if not isinstance(link, (encodings.Mask, encodings.Half)):
            return f"stored as {link.describe()} already: put Quantize before the step that did it, or leave it out"
    return None


def decision(weight: Weight, bits: int, per: Per, symmetric: bool) -> dict[str, Any] | None:
    """As plain data; None where integers and scales would take more bytes than float32."""
    axis: int | None = 1 if isinstance(weight.module, TRANSPOSED) else 0
    shape, group = weight.tensor.shape, 0
    if per == "tensor":
        axis = None
    elif isinstance(per, int) and len(shape) == 2 and shape[1] % per == 0:
        group = per
    scales = Size(encodings.Affine.scales(shape, axis, group)).numel()
    if scales * 5 + weight.tensor.numel() * (0.5 if bits <= 4 else 1) >= weight.tensor.numel() * 4:
        return None
    return {"bits": bits, "axis": axis, "group": group, "symmetric": symmetric}


def words(made: dict[str, Any], per: Per) -> str:
    """For tables."""
    shares = "tensor" if made["axis"] is None else f"group of {made['group']}" if made["group"] else "channel"
    asked = "" if not isinstance(per, int) or made["group"] else f" (groups of {per} do not fit its shape)"
    return f"{made['bits']}-bit integers, a scale per {shares}{asked}"
