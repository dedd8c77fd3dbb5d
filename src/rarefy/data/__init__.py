"""Images with labels, from the forms they come in: class folders, IDX, arrays, and the embedded digits.

`load(path)` finds out which form it is. Importing this room does not import torch; `Augment` does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rarefy.data.embedded import digits
from rarefy.data.images import Images, Split
from rarefy.data.sources import load

if TYPE_CHECKING:
    from rarefy.data.augment import Augment

__all__ = ["Augment", "Images", "Split", "digits", "load"]


def __getattr__(name: str) -> Any:
    if name == "Augment":
        from rarefy.data.augment import Augment

        return Augment
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
