"""Energy of one inference: read from the processor's counters where they can be read, else estimated.

**Counters** (RAPL: Intel and AMD on Linux, where /sys/class/powercap is readable): the energy of the
processor packages and the memory while the file runs back to back on one thread, divided by the number of
inferences. All that the processor draws meanwhile is in it, what it would draw idle included.

**Estimate**: E = sum over operators of MACs * (multiply + add) + weights * bits / 32 * memory access, with
the energies of a 45 nm process at 0.9 V (Horowitz 2014, Computing's energy problem, ISSCC, figure 1.1.9).
Each weight comes from memory once, as wide as its operator reads it (ONNX Runtime decodes codebooks when it
loads the file, so these are 32 bits); activations stay in cache and cost nothing. Binary layers are counted as
their kernels work: for 32 products of bits an exclusive or, a population count and an addition, each with the
energy of a 32-bit addition. It compares networks; it is not what a given machine draws.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

from rarefy.measure.engine import Call, opener
from rarefy.measure.files import read
from rarefy.measure.operations import operations
from rarefy.measure.shapes import Shape
from rarefy.records import Energy

POWERCAP = Path("/sys/class/powercap")
MAC_PJ = {32: 3.7 + 0.9, 8: 0.2 + 0.03, 1: 3 * 0.1 / 32}  # multiply and add: 32-bit floating, 8-bit integer
DRAM_PJ = 640.0  # 32 bits; 1.3 to 2.6 nJ for 64 bits, the lower end
_COUNTED = "processor packages and memory (RAPL), back to back on one thread, idle power included"
_ESTIMATED = "estimate from operations and weights read, Horowitz 2014 (ISSCC), 45 nm"

_Counter = tuple[Path, int]  # the file that counts microjoules, and where it wraps around


def energy(
    path: str | os.PathLike[str],
    original: str | os.PathLike[str] | None = None,
    *,
    seconds: float = 1.0,
    shapes: Mapping[str, Shape] | None = None,
) -> Energy | None:
    """Joules of one inference of the file, and of the original's. None where it can be neither read nor
    estimated.

    seconds: how long each file runs where the counters can be read. shapes: as for `compare`.
    """
    counters = _counters()
    files = [path] if original is None else [path, original]
    if counters:
        joules: list[float | None] = [_counted(file, counters, seconds, shapes) for file in files]
    else:
        joules = [estimate(file) for file in files]
    if joules[0] is None:
        return None
    return Energy(
        joules=joules[0],
        original_joules=joules[1] if original is not None else None,
        source="cpu counters" if counters else "estimate",
        method=_COUNTED if counters else _ESTIMATED,
    )


def estimate(path: str | os.PathLike[str]) -> float | None:
    """Joules of one inference by the table; None where the operations are not known."""
    total = 0.0
    for operation in operations(read(path)):
        if operation.macs is None:
            return None
        total += operation.macs * operation.planes * MAC_PJ[operation.bits]
        total += operation.weights * operation.bits / 32 * DRAM_PJ
    return total * 1e-12


def _counted(
    path: str | os.PathLike[str], counters: list[_Counter], seconds: float, shapes: Mapping[str, Shape] | None
) -> float:
    call = opener(path, shapes=shapes)()
    call()
    return per_call(call, counters, seconds)


def per_call(call: Call, counters: list[_Counter], seconds: float) -> float:
    """Joules of one call, from as many as fit in `seconds`; a counter takes minutes to wrap around."""
    calls, microjoules = 0, 0
    before = [_read(file) for file, _ in counters]
    end = time.monotonic() + seconds
    while calls == 0 or time.monotonic() < end:
        call()
        calls += 1
    after = [_read(file) for file, _ in counters]
    for (_, wrap), first, last in zip(counters, before, after, strict=True):
        microjoules += last - first if last >= first else last - first + wrap
    return microjoules * 1e-6 / calls


def _counters() -> list[_Counter]:
    """The counters of packages and of memories (not part of their package's); none if one cannot be read."""
    found = []
    try:
        for domain in sorted(POWERCAP.glob("intel-rapl:*")):
            name = (domain / "name").read_text(encoding="ascii").strip()
            if name.startswith("package") or name == "dram":
                counter = domain / "energy_uj"
                _read(counter)
                found.append((counter, int((domain / "max_energy_range_uj").read_text(encoding="ascii"))))
    except (OSError, ValueError):  # the kernel lets only the administrator read them, or there are none
        return []
    return found


def _read(counter: Path) -> int:
    return int(counter.read_text(encoding="ascii"))
