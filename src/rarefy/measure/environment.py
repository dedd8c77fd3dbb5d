"""Where a measurement is made: the machine and the versions. No host name, user name or path."""

from __future__ import annotations

import os
import platform
import re
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rarefy import __version__
from rarefy.records import Environment

# what makes networks fast or slow on a CPU: vectors, integer dot products, bit counts, matrix units
FEATURES = (
    *("sse4_1", "avx", "avx2", "fma", "avx_vnni", "avx512f", "avx512bw", "avx512_vnni", "avx512_vpopcntdq"),
    *("avx512_bf16", "avx512_fp16", "amx_int8", "amx_bf16"),
    *("neon", "asimd", "asimddp", "dotprod", "i8mm", "bf16", "sve", "sve2", "sme"),
)
PACKAGES = ("torch", "onnxruntime", "onnx", "numpy", "constriction")


def environment(processes: int = 1, threads: int | None = None) -> Environment:
    """The machine, the system, the versions. threads: those in use, by default all cores."""
    cores = _cores()
    text = _cpuinfo()
    return Environment(
        machine=_model(text),
        cpu_features=_features(text),
        cores=cores,
        threads=cores if threads is None else threads,
        system=f"{platform.system()} {platform.release()} {platform.machine()}".strip(),
        python=platform.python_version(),
        versions={"rarefy": __version__, **{name: found for name in PACKAGES if (found := _version(name))}},
        processes=processes,
    )


def _cpuinfo() -> str:
    """The kernel's description of the processors; empty where there is none."""
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _model(cpuinfo: str) -> str:
    for key in ("model name", "Model", "Hardware", "cpu model"):
        if found := re.search(rf"^{key}\s*:\s*(\S.*)$", cpuinfo, re.MULTILINE):
            return found[1].strip()
    return platform.processor() or platform.machine() or "unknown"


def _features(cpuinfo: str) -> list[str]:
    found = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", cpuinfo, re.MULTILINE)
    present = set(found[1].split()) if found else set()
    return [feature for feature in FEATURES if feature in present]


def _cores() -> int:
    """Cores that this process may use, which in a container can be fewer than there are."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
