"""ONNX models in tests."""

from typing import Any

import onnx
import onnxruntime

from stitchwork.resources import Floats


def run_onnx(data: bytes, rows: Floats) -> dict[str, Any]:
    """Check an exported model and run it on rows; returns its outputs by name."""
    onnx.checker.check_model(onnx.load_from_string(data), full_check=True)
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"embeddings": rows}), strict=True))
