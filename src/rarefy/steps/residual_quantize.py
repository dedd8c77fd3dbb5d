"""Residual quantization: a few codes for each short vector of a weight, whose code vectors add up."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from rarefy.codebooks.vectors import VectorStep
from rarefy.numerics.subvectors import Subvectors


class ResidualQuantize(VectorStep):
    """Cuts weights into short vectors, each the sum of a code vector from every one of several books.

    minimise  sum_s ||v_s - sum_t c_t[a_st]||^2  over the books c_t and the codes a (`weight`), or the error of the
    layer's output, as `ProductQuantize` does (`output`). stages * bits / length bits per weight: k^stages different
    vectors from stages * k that are stored, so the books of small layers stay small. A `Finetune` afterwards trains
    them.
    """

    gains: ClassVar[str] = (
        "bytes: stages * bits / length bits per weight, and the books; not time: weights are looked up once, at loading"
    )
    paper: ClassVar[str] = (
        "Babenko, Lempitsky 2014, Additive Quantization (CVPR 2014); Chen, Guan, Wang 2010, Residual Vector "
        "Quantization (Sensors 10, 11259); for the output: Wu et al. 2016 (arXiv:1512.06473)"
    )

    bits: int = Field(4, ge=1, le=12, description="of a code: k = 2^bits code vectors in a book")
    stages: int = Field(2, ge=2, le=16, description="code vectors that add up to a sub-vector")

    def _books(self, cut: Subvectors) -> tuple[int, int]:
        return self.stages, 1
