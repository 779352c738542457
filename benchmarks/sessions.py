"""Networks run by onnxruntime, on so many threads of the CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx_ir
import onnxruntime


def session(model: onnx_ir.Model | bytes | Path, threads: int) -> onnxruntime.InferenceSession:
    """Open a network: an IR model, the content of an ONNX file, or its path."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    if isinstance(model, onnx_ir.Model):
        model = onnx_ir.to_proto(model).SerializeToString()
    content = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def runner(model: onnx_ir.Model | bytes | Path, threads: int, image: Any) -> Callable[[], Any]:
    """Return what runs a network on one input."""
    opened = session(model, threads)
    name = opened.get_inputs()[0].name
    return lambda: opened.run(None, {name: image})
