"""The engines that run a saved file, ready to be timed."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rarefy.errors import InputError
from rarefy.measure.files import existing, read
from rarefy.measure.shapes import Shape, concrete

if TYPE_CHECKING:
    from rarefy.runtime import Port, Session

Call = Callable[[], object]
ENGINES = ("onnxruntime", "openvino")


def installed(engine: str) -> str:
    """The name of an engine that is there. Raises `InputError` for another."""
    if engine not in ENGINES:
        raise InputError(f"there is no engine {engine!r}; there are {' and '.join(ENGINES)}")
    if find_spec(engine) is None:
        raise InputError(f"the engine {engine} is not installed; pip install 'rarefy[{engine}]' brings it")
    return engine


def opener(
    path: str | os.PathLike[str],
    *,
    threads: int = 1,
    batch: int = 1,
    shapes: Mapping[str, Shape] | None = None,
    engine: str = "onnxruntime",
) -> Callable[[], Call]:
    """A function that opens the file in the bare engine, all optimisations on, and gives one that runs it.

    The inputs are made up. With several threads, waiting ones sleep: ONNX Runtime's default is that they
    spin, also after a run, and those of one file then take the cores from the next.
    """
    from rarefy.runtime import Session

    file, start = existing(path), _openvino if installed(engine) == "openvino" else _onnxruntime

    def opened() -> Call:
        running = _started(start, file, threads)
        feed = inputs(Session(running).inputs, batch, shapes)
        return lambda: running.run(None, feed)

    return opened


def session(path: str | os.PathLike[str], *, threads: int = 1, engine: str = "onnxruntime") -> Session:
    """A session of the file in an engine, all optimisations on, to be judged by its answers."""
    from rarefy.runtime import Session

    return Session(_started(_openvino if installed(engine) == "openvino" else _onnxruntime, existing(path), threads))


def _started(start: Callable[[Path, int], Any], file: Path, threads: int) -> Any:
    try:
        return start(file, threads)
    except InputError:
        raise
    except Exception as error:  # the engines' errors share no narrower class
        name = start.__name__.strip("_")
        raise InputError(f"{file} cannot be run by {name}: {error}; give an .onnx or .rfy file that it can") from error


def _onnxruntime(file: Path, threads: int) -> Any:
    import onnxruntime

    from rarefy.runtime.session import EXACT, kernels_of

    ort: Any = onnxruntime  # its types leave out most names
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors only
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry(*EXACT)
    source = read(file).SerializeToString() if file.suffix == ".rfy" else os.fspath(file)
    if library := kernels_of(source if isinstance(source, bytes) else file.read_bytes()):
        options.register_custom_ops_library(str(library))  # as `rarefy.load` does
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def _openvino(file: Path, threads: int) -> Any:
    from rarefy.measure.openvino import OpenVINO

    return OpenVINO(read(file).SerializeToString(), threads)


def inputs(ports: Sequence[Port], batch: int = 1, shapes: Mapping[str, Shape] | None = None) -> dict[str, NDArray[Any]]:
    """Made-up inputs, always the same: normal floats, and zeros for integers, as these may be indices."""
    if not ports:
        raise InputError("the graph has no inputs, so nothing can be run; export it with an example input")
    generator = np.random.default_rng(0)
    made: dict[str, NDArray[Any]] = {}
    for port in ports:
        shape = concrete(port.name, port.shape, batch, shapes)
        if port.dtype.startswith("float"):
            made[port.name] = generator.standard_normal(shape).astype(port.dtype)
        elif port.dtype == "bool" or port.dtype.startswith(("int", "uint")):
            made[port.name] = np.zeros(shape, port.dtype)
        else:
            raise InputError(f"input {port.name!r} is {port.dtype}; only numbers can be made up")
    return made
