"""The kernels built with sanitizers; for another machine; not at all."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rarefy.kernels import library

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "src" / "rarefy" / "kernels"
FLAGS = "-std=c++17 -ffp-contract=off -Wno-uninitialized -Wno-maybe-uninitialized"
FILES = [str(path) for path in sorted(SOURCES.glob("*.cpp")) if path.stem != "onnxruntime"]
DRIVER = str(Path(__file__).with_name("driver.cpp"))


def built(compiler: str, out: Path, *flags: str) -> Path:
    if shutil.which(compiler) is None:
        pytest.skip(f"no compiler {compiler}")
    command = [compiler, *FLAGS.split(), *flags, f"-I{SOURCES}", "-o", str(out), DRIVER, *FILES]
    subprocess.run(command, check=True, capture_output=True)
    return out


def test_sanitizers_find_nothing(tmp_path: Path) -> None:
    flags = ("-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    program = built("c++", tmp_path / "driver", *flags)
    done = subprocess.run([program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "convolutions" in done.stdout


def test_neon(tmp_path: Path) -> None:
    if shutil.which("qemu-aarch64") is None:
        pytest.skip("no qemu-aarch64 to run it")
    program = built("aarch64-linux-gnu-g++", tmp_path / "driver", "-O1", "-static")
    done = subprocess.run(["qemu-aarch64", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_without_a_compiler(tmp_path: Path) -> None:
    pytest.importorskip("hatchling", reason="hatchling, of the group `dev`, builds the wheel")
    command = [sys.executable, str(ROOT / "hatch_build.py"), str(tmp_path / "library.so")]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "CXX": "/nonexistent"})
    assert done.returncode == 1
    assert "/nonexistent: No such file or directory" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def _opened_anew() -> object:
    library._opened.cache_clear()
    yield
    library._opened.cache_clear()


@pytest.mark.usefixtures("_opened_anew")
def test_without_a_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAREFY_KERNELS", raising=False)
    monkeypatch.setattr(library, "PATH", tmp_path / "library.so")
    assert str(library.features()) == "numpy (slow: rarefy was installed without a C++ compiler)"
    assert library.custom_ops() is None


@pytest.mark.usefixtures("_opened_anew")
def test_a_library_that_cannot_be_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAREFY_KERNELS", raising=False)
    monkeypatch.setattr(library, "PATH", tmp_path / "library.so")
    library.PATH.write_bytes(b"not a library")
    assert "slow: the compiled library cannot be loaded" in str(library.features())
