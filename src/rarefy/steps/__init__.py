"""One method, one file: the steps that a recipe may name."""

from rarefy.step import Step
from rarefy.steps.cluster_weights import ClusterWeights
from rarefy.steps.finetune import Finetune
from rarefy.steps.half import Half
from rarefy.steps.prune_weights import PruneWeights
from rarefy.steps.train import Train

ALL: tuple[type[Step], ...] = (Train, Finetune, PruneWeights, ClusterWeights, Half)

__all__ = ["ALL", "ClusterWeights", "Finetune", "Half", "PruneWeights", "Train"]
