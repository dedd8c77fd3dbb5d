"""rarefy makes trained PyTorch networks small and fast enough to ship, and proves on the shipped file what it did.

Importing it is fast: a name's module is loaded when the name is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from rarefy.classification import Classification
    from rarefy.data import Images
    from rarefy.data.augment import Augment
    from rarefy.errors import RarefyError
    from rarefy.rebuild import load_into
    from rarefy.recipe import Ramp, Recipe, Repeat
    from rarefy.run import Run
    from rarefy.runtime import load
    from rarefy.step import Context, Plan, Step
    from rarefy.steps import (
        Binarize,
        ClusterWeights,
        Distill,
        Factorize,
        Finetune,
        Half,
        ProductQuantize,
        PruneLayers,
        PruneWeights,
        Quantize,
        QuantizeAware,
        ResidualQuantize,
        RoundWeights,
        Sparsify,
        StructureMatrices,
        SwapConvs,
        Train,
    )
    from rarefy.task import Task
    from rarefy.teacher import Match, Source, Teacher
    from rarefy.verification import verify

_HOME = {
    "Augment": "rarefy.data.augment",
    "Binarize": "rarefy.steps",
    "Classification": "rarefy.classification",
    "ClusterWeights": "rarefy.steps",
    "Context": "rarefy.step",
    "Distill": "rarefy.steps",
    "Factorize": "rarefy.steps",
    "Finetune": "rarefy.steps",
    "Half": "rarefy.steps",
    "Images": "rarefy.data",
    "Match": "rarefy.teacher",
    "Plan": "rarefy.step",
    "ProductQuantize": "rarefy.steps",
    "PruneChannels": "rarefy.steps",
    "PruneLayers": "rarefy.steps",
    "PruneWeights": "rarefy.steps",
    "Quantize": "rarefy.steps",
    "QuantizeAware": "rarefy.steps",
    "Ramp": "rarefy.recipe",
    "RarefyError": "rarefy.errors",
    "Recipe": "rarefy.recipe",
    "Repeat": "rarefy.recipe",
    "ResidualQuantize": "rarefy.steps",
    "RoundWeights": "rarefy.steps",
    "Run": "rarefy.run",
    "Source": "rarefy.teacher",
    "Sparsify": "rarefy.steps",
    "Step": "rarefy.step",
    "StructureMatrices": "rarefy.steps",
    "SwapConvs": "rarefy.steps",
    "Task": "rarefy.task",
    "Teacher": "rarefy.teacher",
    "Train": "rarefy.steps",
    "load": "rarefy.runtime",
    "load_into": "rarefy.rebuild",
    "verify": "rarefy.verification",
}

__all__ = [
    "Augment",
    "Binarize",
    "Classification",
    "ClusterWeights",
    "Context",
    "Distill",
    "Factorize",
    "Finetune",
    "Half",
    "Images",
    "Match",
    "Plan",
    "ProductQuantize",
    "PruneChannels",
    "PruneLayers",
    "PruneWeights",
    "Quantize",
    "QuantizeAware",
    "Ramp",
    "RarefyError",
    "Recipe",
    "Repeat",
    "ResidualQuantize",
    "RoundWeights",
    "Run",
    "Source",
    "Sparsify",
    "Step",
    "StructureMatrices",
    "SwapConvs",
    "Task",
    "Teacher",
    "Train",
    "load",
    "load_into",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'rarefy' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
