"""Training on from what the steps before left."""

from __future__ import annotations

from typing import Any, ClassVar

from rarefy.training_step import TrainingStep


class Finetune(TrainingStep):
    """Trains on what is left free: the weights that were not pruned, the centroids of a codebook.

    What a step before has fixed stays fixed (zeros stay zero, shared weights stay shared), since the encodings of the
    weights are part of the network and the gradient goes through them: a centroid's is the sum of its members'
    (Han et al. 2016, eq. 3).
    """

    gains: ClassVar[str] = "accuracy; neither bytes nor time"
    paper: ClassVar[str] = "Han, Pool, Tran, Dally 2015, Learning both Weights and Connections (arXiv:1506.02626)"
    usual: ClassVar[dict[str, Any]] = {"epochs": 1}
