"""ONNX Runtime on a saved file, ready to be timed."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rarefy.errors import InputError
from rarefy.measure.files import existing, read
from rarefy.measure.shapes import Shape, concrete

if TYPE_CHECKING:
    from rarefy.runtime import Port

Call = Callable[[], object]


def opener(
    path: str | os.PathLike[str],
    *,
    threads: int = 1,
    batch: int = 1,
    shapes: Mapping[str, Shape] | None = None,
) -> Callable[[], Call]:
    """A function that opens the file in the bare engine, all optimisations on, and gives one that runs it.

    The inputs are made up. With several threads, waiting ones sleep: ONNX Runtime's default is that they
    spin, also after a run, and those of one file then take the cores from the next.
    """
    import onnxruntime

    from rarefy.runtime import Session

    ort: Any = onnxruntime  # its types leave out most names
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors only
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    file = existing(path)
    source = read(file).SerializeToString() if file.suffix == ".rfy" else os.fspath(file)

    def opened() -> Call:
        try:
            engine = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the engine's errors share no narrower class
            raise InputError(f"{file} cannot be run: {error}; give an .onnx or .rfy file") from error
        feed = inputs(Session(engine).inputs, batch, shapes)
        return lambda: engine.run(None, feed)

    return opened


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
