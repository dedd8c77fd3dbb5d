"""Single answers before and after: the accuracy of each class, and the examples whose answer changed."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rarefy.records import ChangedExample, ClassRecord

if TYPE_CHECKING:
    from torch import Tensor

    from rarefy.data.images import Images
    from rarefy.task import Task

_SIDE = 96  # pixels of a thumbnail's longer side
SHOWN = 24


def truth(task: Task) -> Tensor | None:
    """The right label (n,) of each judged example if the task's targets are integers, one each; else None."""
    import torch

    found = []
    for _, target in task.judge():
        if not isinstance(target, torch.Tensor) or target.ndim != 1 or target.is_floating_point():
            return None
        found.append(target.cpu().long())
    return torch.cat(found) if found else None


def classes(before: Tensor, after: Tensor, right: Tensor, names: Sequence[str]) -> list[ClassRecord]:
    """Accuracy of each judged class, from labels (n,): the original's, this network's, and the right ones."""
    was, now, real = _arrays(before, after, right)
    counts = np.bincount(real)
    hits = [np.bincount(real, weights=answer == real) for answer in (was, now)]
    return [
        ClassRecord(
            name=_name(names, label),
            examples=int(counts[label]),
            before=float(hits[0][label] / counts[label]),
            after=float(hits[1][label] / counts[label]),
        )
        for label in np.flatnonzero(counts).tolist()
    ]


def changed(
    before: Tensor, after: Tensor, right: Tensor, names: Sequence[str], images: Images | None = None
) -> tuple[list[ChangedExample], int]:
    """Up to 24 examples whose answer changed, and how many there are.

    Those that were right and became wrong come first, then those that became right, then from wrong to wrong.
    images: the judged pictures, in the same order, for small copies of them.
    """
    was, now, real = _arrays(before, after, right)
    different = np.flatnonzero(was != now)
    rank = np.where(was == real, 0, np.where(now == real, 1, 2))[different]
    chosen = different[np.argsort(rank, kind="stable")][:SHOWN].tolist()
    examples = [
        ChangedExample(
            index=i,
            name=None if images is None or images.names is None else images.names[i],
            truth=_name(names, int(real[i])),
            before=_name(names, int(was[i])),
            after=_name(names, int(now[i])),
            png=None if images is None else thumbnail(images.images[i]),
        )
        for i in chosen
    ]
    return examples, len(different)


def thumbnail(image: NDArray[np.uint8]) -> str:
    """A small PNG, in base64, of an image (C, H, W): three channels in colour, else the first in grey."""
    from PIL import Image

    plane = np.moveaxis(image, 0, -1) if len(image) == 3 else image[0]  # (C, H, W) -> (H, W, 3) or (H, W)
    picture = Image.fromarray(np.ascontiguousarray(plane))
    picture.thumbnail((_SIDE, _SIDE))
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode("ascii")


def _arrays(*labels: Tensor) -> list[NDArray[np.int64]]:
    return [label.cpu().numpy() for label in labels]


def _name(names: Sequence[str], label: int) -> str:
    return names[label] if 0 <= label < len(names) else str(label)
