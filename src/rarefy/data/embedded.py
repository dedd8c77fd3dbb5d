"""The embedded data: 1,797 handwritten digits, real ones, so that a first run needs no download.

Origin, licence and what was changed: `digits.LICENSE.txt` beside this file.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rarefy.data.images import Split
from rarefy.data.npz import load_npz


def digits() -> Split:
    """8x8 grey digits, ten classes: 1,297 to train on and 500 to judge on, always the same ones."""
    split = load_npz(Path(__file__).with_name("digits.npz"))
    return replace(split, description="UCI optical recognition of handwritten digits (embedded)")
