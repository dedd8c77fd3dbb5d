"""A packed or plain ONNX model as a function of NumPy arrays."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rarefy import kernels
from rarefy.errors import InputError, ModelError

Array = npt.NDArray[Any]
LARGEST_PROTOBUF = 2**31 - 1
# matrix products with weights of 4 bits in float32, as the file says: by itself the engine rounds their inputs to INT8
EXACT = ("session.qdq_matmulnbits_accuracy_level", "1")
# the operators of rarefy.kernels, by name: a file without them needs no library
OURS = (b"BinaryConv", b"LowBitConv", b"BinaryLinear", b"LowBitLinear")

DTYPES = {
    "tensor(float)": "float32", "tensor(double)": "float64", "tensor(float16)": "float16",
    "tensor(bool)": "bool",
    "tensor(int8)": "int8", "tensor(int16)": "int16", "tensor(int32)": "int32", "tensor(int64)": "int64",
    "tensor(uint8)": "uint8", "tensor(uint16)": "uint16", "tensor(uint32)": "uint32",
    "tensor(uint64)": "uint64",
    "tensor(string)": "object",
}  # fmt: skip


@dataclass(frozen=True)
class Port:
    """An input or output: a dimension is a number, or a name (or None) where any size goes."""

    name: str
    shape: tuple[int | str | None, ...]
    dtype: str

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}[{', '.join('?' if d is None else str(d) for d in self.shape)}]"


class Session:
    """Call it with the inputs in order or by name; gives an array, or a dict by name if there are several."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self.inputs = tuple(map(_port, engine.get_inputs()))
        self.outputs = tuple(map(_port, engine.get_outputs()))
        self.metadata: dict[str, str] = dict(engine.get_modelmeta().custom_metadata_map)

    def __call__(self, *arrays: npt.ArrayLike, **named: npt.ArrayLike) -> Array | dict[str, Array]:
        """Run the model. Raises `InputError` where number, shape or dtype do not fit."""
        feed = {port.name: _fitting(value, port) for port, value in self._matched(arrays, named)}
        try:
            results = self._engine.run(None, feed)
        except Exception as error:  # the engine's errors share no narrower class
            raise InputError(f"the model cannot run on {_shapes(feed)}: {_first_line(error)}") from None
        if len(results) == 1:
            return np.asarray(results[0])
        return {port.name: value for port, value in zip(self.outputs, results, strict=True)}

    def _matched(
        self, arrays: tuple[npt.ArrayLike, ...], named: Mapping[str, npt.ArrayLike]
    ) -> list[tuple[Port, npt.ArrayLike]]:
        wanted = "; ".join(map(str, self.inputs))
        if len(arrays) + len(named) != len(self.inputs):
            raise InputError(f"the model takes {len(self.inputs)} inputs ({wanted}), not {len(arrays) + len(named)}")
        pairs = list(zip(self.inputs, arrays, strict=False))
        for port in self.inputs[len(arrays) :]:
            if port.name not in named:
                raise InputError(f"no value for the input {port.name!r}; the model takes {wanted}")
            pairs.append((port, named[port.name]))
        return pairs

    def __repr__(self) -> str:
        return f"Session({'; '.join(map(str, self.inputs))} -> {'; '.join(map(str, self.outputs))})"


def _port(argument: Any) -> Port:
    shape = tuple(d if isinstance(d, int | str) else None for d in argument.shape)
    return Port(argument.name, shape, DTYPES.get(argument.type, argument.type))


def _fitting(value: npt.ArrayLike, port: Port) -> Array:
    array = np.asarray(value)
    if port.dtype in DTYPES.values() and port.dtype not in ("object", array.dtype):
        raise InputError(f"the input {port.name!r} must be {port.dtype}, not {array.dtype}")
    if port.shape and not _fits(array.shape, port.shape):
        raise InputError(f"the input has the shape {list(array.shape)}, which does not fit {port}")
    return array


def _fits(have: tuple[int, ...], want: tuple[int | str | None, ...]) -> bool:
    if len(have) != len(want):
        return False
    return all(not isinstance(w, int) or w == h for w, h in zip(want, have, strict=True))


def _shapes(feed: Mapping[str, Array]) -> str:
    return ", ".join(f"{name}: {array.dtype}{list(array.shape)}" for name, array in feed.items())


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def kernels_of(model: bytes) -> Path | None:
    """The library that ONNX Runtime is to register for a serialised model; None where the model has no binary layers,
    or there is no library."""
    return kernels.custom_ops() if any(name in model for name in OURS) else None


def session(model: bytes, *, threads: int | None = None, optimise: bool = True) -> Session:
    """A session for a serialised ONNX model.

    `threads` is the number of threads of one operator (None: as many as there are cores); `optimise=False`
    runs the graph exactly as it is written. Binary layers run on the kernels of `rarefy.kernels`; where these cannot
    take one, a warning says why, and all run as the standard operators that the file has for them. Raises `ModelError`
    where the model cannot be run.
    """
    if library := kernels_of(model):
        try:
            return Session(_engine(model, threads, optimise, library))
        except ModelError as error:
            plain = Session(_engine(model, threads, optimise, None))  # or the model itself is broken
            warnings.warn(f"the model runs without the binary kernels: {error}", stacklevel=2)
            return plain
    return Session(_engine(model, threads, optimise, None))


def _engine(model: bytes, threads: int | None, optimise: bool, library: Path | None) -> Any:
    import onnxruntime

    ort: Any = onnxruntime  # its types leave out most names
    options = ort.SessionOptions()
    if library:
        options.register_custom_ops_library(str(library))
    options.add_session_config_entry(*EXACT)
    options.log_severity_level = 4  # its errors are raised too
    if threads is not None:
        options.intra_op_num_threads = threads
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the engine's errors share no narrower class
        raise ModelError(f"the model cannot be run: {_first_line(error)}") from None


def load(path: str | Path, *, threads: int | None = None, optimise: bool = True) -> Session:
    """A session for a `.rfy` or `.onnx` file; neither torch nor the network's class is needed."""
    path = Path(path)
    if path.suffix == ".rfy":
        from rarefy import pack

        model = pack.read(path)
        if model.ByteSize() > LARGEST_PROTOBUF:
            raise ModelError(f"{path}: the model is larger than 2 GiB, which one ONNX message cannot hold")
        data = model.SerializeToString()
    else:
        try:
            data = path.read_bytes()
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        return session(data, threads=threads, optimise=optimise)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None
