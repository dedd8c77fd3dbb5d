"""One weight becomes books and codes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rarefy import encodings
from rarefy.codebooks.responses import Seen
from rarefy.graph.weights import Weight
from rarefy.numerics.response import answering, corrected
from rarefy.numerics.subvectors import Subvectors
from rarefy.numerics.vector_quantization import Coded, quantized


def code(weight: Weight, decision: dict[str, Any], seen: Seen | None, seed: int | None) -> None:
    """Store `weight` as planned: fitted to what its layer sees, or to the weight itself; without a seed, blank."""
    tensor = weight.tensor.detach()
    cut = Subvectors(tuple(tensor.shape), decision["length"], decision["by"])
    coded = _blank(tensor, cut, decision) if seed is None else _coded(tensor, cut, decision, seen, seed)
    link = encodings.ProductCodebook(coded.codes, cut, decision["k"], decision["books"])
    half = encodings.find(weight, encodings.Half)
    encodings.encode(weight, [half, link] if half else [link], coded.books)


def _blank(tensor: Tensor, cut: Subvectors, decision: dict[str, Any]) -> Coded:
    stages, books = decision["stages"], decision["books"]
    codes = torch.zeros(stages, len(tensor), cut.count, dtype=torch.long, device=tensor.device)
    return Coded(tensor.new_zeros(stages, books, decision["k"], cut.length), codes)


def _coded(tensor: Tensor, cut: Subvectors, decision: dict[str, Any], seen: Seen | None, seed: int) -> Coded:
    sizes = decision["k"], decision["stages"], decision["books"], torch.Generator().manual_seed(seed)
    if seen is None:
        return quantized(cut.cut(tensor), *sizes)
    target = corrected(tensor.flatten(1), seen.moment, seen.gap).view(tensor.shape)
    return answering(cut.cut(target), cut.moment(seen.moment), *sizes)
