"""Writing networks in other formats: ONNX first, other formats one file each."""
