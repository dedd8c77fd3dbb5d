"""OpenVINO behind the interface of ONNX Runtime's sessions, so that all that runs these runs it too."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import onnx


@dataclass(frozen=True)
class Argument:
    """An input or output; a dimension of any size is None."""

    name: str
    shape: list[int | None]
    type: str


class OpenVINO:
    """A compiled ONNX model. It computes in float32 and integers: OpenVINO's default, bfloat16 in the place of
    float32, answers differently."""

    def __init__(self, model: bytes, threads: int) -> None:
        import openvino

        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
        engine: Any = openvino
        compiled = engine.Core().compile_model(engine.Core().read_model(model), "CPU", settings)
        self._request = compiled.create_infer_request()
        self._inputs, self._outputs = _arguments(compiled.inputs), _arguments(compiled.outputs)
        self._metadata = {prop.key: prop.value for prop in onnx.load_from_string(model).metadata_props}

    def get_inputs(self) -> list[Argument]:
        """In the order of the file."""
        return self._inputs

    def get_outputs(self) -> list[Argument]:
        """In the order of the file."""
        return self._outputs

    def get_modelmeta(self) -> SimpleNamespace:
        """The metadata of the file."""
        return SimpleNamespace(custom_metadata_map=self._metadata)

    def run(self, _names: None, feed: dict[str, Any]) -> list[Any]:
        """All outputs, in order."""
        results = self._request.infer(feed)
        return [results[i].copy() for i in range(len(self._outputs))]


def _arguments(ports: Any) -> list[Argument]:
    return [
        Argument(
            port.any_name,
            [None if dim.is_dynamic else dim.get_length() for dim in port.partial_shape],
            port.element_type.to_dtype().name,
        )
        for port in ports
    ]
