"""The compiled library: where it is, what it has, and how its functions are called."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from rarefy.errors import InputError

PATH = Path(__file__).with_name("librarefy_kernels.so")
INTERFACE = 3  # RAREFY_INTERFACE of kernels.h
VERSIONS = ("avx512", "avx2", "neon", "portable")
INT, POINTER = ctypes.c_int64, ctypes.c_void_p


class Call(ctypes.Structure):
    """rarefy_convolution of kernels.h."""

    _fields_ = [
        *((name, INT) for name in ("batch", "channels", "height", "width")),
        *((name, INT) for name in ("stride_h", "stride_w", "dilation_h", "dilation_w")),
        *((name, INT) for name in ("top", "left", "bottom", "right", "pad_value")),
        *((name, INT) for name in ("bits", "map", "rows", "packed_in", "packed_out")),
        ("steps", ctypes.c_float),
    ]


@dataclass(frozen=True)
class Features:
    """version: what runs, "numpy" where there is no library; available: what could be forced; reason: why not more."""

    version: str
    available: tuple[str, ...]
    reason: str

    def __str__(self) -> str:
        return f"{self.version} ({self.reason or 'of ' + ', '.join(self.available)})"


@cache
def _opened() -> tuple[ctypes.CDLL | None, str]:
    """The library, or why there is none."""
    if not PATH.exists():
        return None, "slow: rarefy was installed without a C++ compiler"
    try:
        library = ctypes.CDLL(str(PATH))
        interface = library.rarefy_interface()
    except (OSError, AttributeError) as error:
        return None, f"slow: the compiled library cannot be loaded: {error}"
    if interface != INTERFACE:
        return None, "slow: the compiled library is of another version of rarefy; install rarefy again"
    _declare(library)
    return library, ""


def _declare(library: ctypes.CDLL) -> None:
    functions = {
        "rarefy_version": [],
        "rarefy_filters_new": [POINTER, INT, INT, INT, INT, POINTER],
        "rarefy_run": [POINTER] * 9,
    }
    for name, arguments in functions.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, ctypes.c_char_p
    library.rarefy_filters_free.argtypes, library.rarefy_filters_free.restype = [POINTER], None
    library.rarefy_has.argtypes = [ctypes.c_char_p]
    library.rarefy_ans_encode.argtypes = [POINTER, INT, INT, POINTER, INT, POINTER]
    library.rarefy_ans_decode.argtypes, library.rarefy_ans_decode.restype = (
        [POINTER, INT, INT, POINTER, INT, POINTER],
        None,
    )


def library() -> ctypes.CDLL | None:
    """The library, or None where NumPy has to do. Raises `InputError` where `RAREFY_KERNELS` cannot be had."""
    wanted = os.environ.get("RAREFY_KERNELS", "")
    found, reason = _opened()
    if wanted == "numpy" or (found is None and not wanted):
        return None
    if found is None or (wanted and not found.rarefy_has(wanted.encode())):
        here = ", ".join((*_available(found), "numpy"))
        raise InputError(
            f"RAREFY_KERNELS is {wanted!r}, of which this machine has none{f' ({reason})' if reason else ''}: {here}"
        )
    return found


def _available(found: ctypes.CDLL | None) -> tuple[str, ...]:
    return tuple(name for name in VERSIONS if found is not None and found.rarefy_has(name.encode()))


def features() -> Features:
    """Which version of the kernels runs, which could, and why not a faster one."""
    found, reason = _opened()
    now = library()
    version = "numpy" if now is None else now.rarefy_version().decode()
    forced = "forced by RAREFY_KERNELS" if os.environ.get("RAREFY_KERNELS") else ""
    return Features(version, (*_available(found), "numpy"), reason or forced)


def custom_ops() -> Path | None:
    """The library that ONNX Runtime can register, or None where there is none to be used."""
    return None if library() is None else PATH
