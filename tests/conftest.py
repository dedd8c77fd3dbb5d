"""What all tests share: the modules beside this file, and the fixtures of `given`."""

from __future__ import annotations

from given import _finished, finished, place, rarefy

__all__ = ["_finished", "finished", "place", "rarefy"]
