"""What a student can learn from a teacher, as losses between tensors: answers, features, attention, relations.

All are zero where student and teacher are equal, are computed in float32 at least, and are differentiable in both.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def soft_targets(student: Tensor, teacher: Tensor, temperature: float, dim: int = 1) -> Tensor:
    """`T^2 KL(softmax(teacher / T) || softmax(student / T))`, the mean over all that is not a class.

    The gradient of one example is `T (softmax(student / T) - softmax(teacher / T))`: T^2 keeps it the size of that of
    the cross entropy at every temperature. Hinton, Vinyals, Dean 2015, Distilling the Knowledge in a Neural Network.
    student, teacher: scores before the softmax, of the same shape; dim: that of the classes.
    """
    wanted, found = ((_wide(scores) / temperature).log_softmax(dim) for scores in (teacher, student))
    return temperature**2 * F.kl_div(found, wanted, log_target=True, reduction="none").sum(dim).mean()


def hint(student: Tensor, teacher: Tensor) -> Tensor:
    """The mean squared difference of features of the same shape (Romero et al. 2015, FitNets)."""
    return F.mse_loss(_wide(student), _wide(teacher))


def attention_map(features: Tensor) -> Tensor:
    """Where a layer looks: the squares' mean over the channels, of length one. (n, C, ...) -> (n, places)."""
    return F.normalize(_wide(features).square().mean(1).flatten(1), dim=1)


def attention(student: Tensor, teacher: Tensor) -> Tensor:
    """The mean squared difference of attention maps; widths may differ, places not.

    Zagoruyko, Komodakis 2017, Paying More Attention to Attention (as in their code: a mean over places, so weights
    are in the hundreds).
    """
    return F.mse_loss(attention_map(student), attention_map(teacher))


def relation_distances(features: Tensor) -> Tensor:
    """The Euclidean distance of every pair of examples, in units of their mean. (n, ...) -> (n (n - 1) / 2,)."""
    distances = F.pdist(_wide(features).flatten(1))
    return distances / distances.sum().div(max(1, distances.numel())).clamp(min=1e-12)


def relation(student: Tensor, teacher: Tensor) -> Tensor:
    """The Huber loss between the distances of the examples (Park et al. 2019, Relational Knowledge Distillation).

    Shapes may differ but for the number of examples; a single example has no distance, and the loss is zero.
    """
    found, wanted = relation_distances(student), relation_distances(teacher)
    return F.smooth_l1_loss(found, wanted, reduction="sum") / max(1, found.numel())


def pooled_alike(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Images of features (n, C, h, w) averaged to the smaller height and width of the two; others as they are."""
    if student.ndim != 4 or teacher.ndim != 4 or student.shape[2:] == teacher.shape[2:]:
        return student, teacher
    height, width = (min(pair) for pair in zip(student.shape[2:], teacher.shape[2:], strict=True))
    one, two = (F.adaptive_avg_pool2d(features, (height, width)) for features in (student, teacher))
    return one, two


def _wide(values: Tensor) -> Tensor:
    """Half precision is too coarse for differences of near equals."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
