"""One method, one file: the steps that a recipe may name."""

from rarefy.step import Step
from rarefy.steps.binarize import Binarize
from rarefy.steps.cluster_weights import ClusterWeights
from rarefy.steps.distill import Distill
from rarefy.steps.factorize import Factorize
from rarefy.steps.finetune import Finetune
from rarefy.steps.half import Half
from rarefy.steps.product_quantize import ProductQuantize
from rarefy.steps.prune_channels import PruneChannels
from rarefy.steps.prune_layers import PruneLayers
from rarefy.steps.prune_weights import PruneWeights
from rarefy.steps.quantize import Quantize
from rarefy.steps.quantize_aware import QuantizeAware
from rarefy.steps.residual_quantize import ResidualQuantize
from rarefy.steps.round_weights import RoundWeights
from rarefy.steps.sparsify import Sparsify
from rarefy.steps.structure_matrices import StructureMatrices
from rarefy.steps.swap_convs import SwapConvs
from rarefy.steps.train import Train

ALL: tuple[type[Step], ...] = (
    Train,
    Finetune,
    Distill,
    Sparsify,
    PruneChannels,
    PruneLayers,
    Factorize,
    StructureMatrices,
    SwapConvs,
    PruneWeights,
    ClusterWeights,
    ProductQuantize,
    ResidualQuantize,
    Quantize,
    QuantizeAware,
    RoundWeights,
    Binarize,
    Half,
)

__all__ = [
    "ALL",
    "Binarize",
    "ClusterWeights",
    "Distill",
    "Factorize",
    "Finetune",
    "Half",
    "ProductQuantize",
    "PruneChannels",
    "PruneLayers",
    "PruneWeights",
    "Quantize",
    "QuantizeAware",
    "ResidualQuantize",
    "RoundWeights",
    "Sparsify",
    "StructureMatrices",
    "SwapConvs",
    "Train",
]
