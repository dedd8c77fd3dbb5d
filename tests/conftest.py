"""What all tests share: the modules beside this file, and the fixtures of `given`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from given import _finished, finished, place, rarefy

__all__ = ["_finished", "finished", "place", "rarefy"]
