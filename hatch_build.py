"""Compiles the binary kernels while the wheel is built; without a compiler the wheel is a pure one.

One shared library with a plain C interface, which depends on neither Python's nor torch's ABI, from a few C++ files:
one call of the compiler makes it. Run by itself, `python hatch_build.py [FILE] [FLAG...]`, it puts the library beside
the sources, or into FILE, with further flags of the compiler. `CXX` names the compiler (default: c++).
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).parent
SOURCES = ROOT / "src" / "rarefy" / "kernels"
LIBRARY = "librarefy_kernels.so"
# no contraction: a product and a sum are rounded each, in every version; GCC 12 warns of its own AVX-512 header
FLAGS = "-std=c++17 -O3 -fPIC -shared -fvisibility=hidden -ffp-contract=off -Wall -Wextra -Wno-uninitialized"
FLAGS += " -Wno-maybe-uninitialized -Wno-unknown-warning-option"


def compile_library(out: Path, *more: str) -> str | None:
    """Makes the library; None, or what the compiler said."""
    compiler = shlex.split(os.environ.get("CXX") or "c++")
    sources = sorted(str(path) for path in SOURCES.glob("*.cpp"))
    partial = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        command = [*compiler, *FLAGS.split(), *more, "-o", str(partial), *sources]
        subprocess.run(command, check=True, capture_output=True, text=True)
        partial.replace(out)
    except OSError as error:
        return f"{compiler[0]}: {error.strerror}"
    except subprocess.CalledProcessError as error:
        return str(error.stderr)
    finally:
        partial.unlink(missing_ok=True)
    return None


class KernelsHook(BuildHookInterface[Any]):
    """Puts the library into the wheel, or beside the sources of an editable installation."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before the wheel is put together."""
        self.folder = tempfile.TemporaryDirectory()
        out = (SOURCES if version == "editable" else Path(self.folder.name)) / LIBRARY
        if reason := compile_library(out):
            out.unlink(missing_ok=True)  # not one of older sources
            self.app.display_warning(f"rarefy without its compiled kernels, which makes binary layers slow: {reason}")
            return
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform}"
        if version != "editable":
            build_data["force_include"][str(out)] = f"rarefy/kernels/{LIBRARY}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Called by hatchling afterwards."""
        self.folder.cleanup()


if __name__ == "__main__":
    target, *more = sys.argv[1:] or [str(SOURCES / LIBRARY)]
    sys.exit(compile_library(Path(target), *more))
