"""Peak memory of a fresh process that loads a file and runs it once."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from rarefy.errors import InputError
from rarefy.measure.files import existing
from rarefy.measure.shapes import Shape

_SCRIPT = "import sys; from rarefy.measure.memory import child; child(*sys.argv[1:])"
_SECONDS = 600


def memory(path: str | os.PathLike[str], shapes: Mapping[str, Shape] | None = None) -> int | None:
    """Bytes above the bare engine: peak resident memory of loading and running one example on one thread,
    less what the process held once the engine was imported. None where the system does not tell. shapes: as
    for `compare`.
    """
    file = existing(path).resolve()
    package = str(Path(__file__).resolve().parents[2])
    paths = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
    try:
        done = subprocess.run(
            [sys.executable, "-c", _SCRIPT, os.fspath(file), json.dumps(dict(shapes or {}))],
            env={**os.environ, "PYTHONPATH": paths},
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise InputError(f"{file} did not load and run once within {_SECONDS} s") from error
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"it ended with status {done.returncode}"])[-1]
        raise InputError(f"{file} cannot be run in a process of its own: {last}")
    return int(done.stdout) if done.stdout.strip() else None


def child(path: str, shapes: str) -> None:
    """What the fresh process does: print the bytes, or nothing where they cannot be known."""
    import onnxruntime  # noqa: F401  (the engine, which is not to count)

    from rarefy.measure.engine import inputs
    from rarefy.runtime import load

    _forget_peak()
    before = _peak()
    session = load(path, threads=1)
    session(*inputs(session.inputs, shapes=json.loads(shapes)).values())
    after = _peak()
    if before is not None and after is not None:
        print(after - before)


def _peak() -> int | None:
    """Peak resident bytes of this process so far."""
    status = Path("/proc/self/status")
    # rather than ru_maxrss: on Linux, a new process inherits that of the one that started it
    if status.exists() and (found := re.search(r"^VmHWM:\s*(\d+) kB$", status.read_text(), re.MULTILINE)):
        return int(found[1]) * 1024
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # bytes on macOS, kibibytes elsewhere


def _forget_peak() -> None:
    """Make the peak what is held now, lest the peak of importing hide a smaller one; Linux only."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
