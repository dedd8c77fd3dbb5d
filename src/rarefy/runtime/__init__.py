"""Running `.rfy` and `.onnx` files without torch."""

from __future__ import annotations

from rarefy.runtime.session import Port, Session, load, session

__all__ = ["Port", "Session", "load", "session"]
