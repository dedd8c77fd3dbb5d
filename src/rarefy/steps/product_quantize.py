"""Product quantization: a code for each short vector of a weight."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from rarefy.codebooks.vectors import VectorStep
from rarefy.numerics.subvectors import Subvectors


class ProductQuantize(VectorStep):
    """Cuts weights into short vectors and stores for each the number of one of k code vectors.

    minimise  sum_s ||v_s - c[a_s]||^2  over the code vectors c and the codes a (`weight`), or, with the layer's input
    x' in the network as it is by then and x in the original one, E ||W x - W_q x'||^2 (`output`): layer after layer,
    each makes up for the errors of those before it. bits / length bits per weight, and a book for each layer, or for
    each place in its rows. A `Finetune` afterwards trains the code vectors.
    """

    gains: ClassVar[str] = (
        "bytes: bits / length bits per weight, and the books; not time: weights are looked up once, at loading"
    )
    paper: ClassVar[str] = (
        "Wu et al. 2016, Quantized Convolutional Neural Networks (arXiv:1512.06473); Gong et al. 2014 (arXiv:1412.6115)"
    )

    book: Literal["layer", "place"] = Field("layer", description="one for a whole layer, or for each place in a row")

    def _books(self, cut: Subvectors) -> tuple[int, int]:
        return 1, cut.count if self.book == "place" else 1
