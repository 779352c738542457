"""What the tests of ONNX files share: models saved, run from the file, and compared."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir
import onnxruntime
from onnx import helper, numpy_helper

from tests.ir.small_models import model, node

RANDOM = np.random.default_rng(0)


def floats(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


def save(path: Path, net: onnx_ir.Model | onnx.ModelProto) -> Path:
    proto = net if isinstance(net, onnx.ModelProto) else onnx_ir.to_proto(net)
    path.write_bytes(proto.SerializeToString())
    return path


def run_file(path: Path, feeds: Mapping[str, np.ndarray]) -> list[Any]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options).run(None, dict(feeds))


def operators(net: onnx_ir.Model) -> list[str]:
    return [one.op_type for one in net.graph]


def assert_same(got: list[Any], expected: list[Any], tolerance: float = 1e-5) -> None:
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


def sparse_model(indices: Any, shape: list[int], values: int = 2) -> onnx.ModelProto:
    net = onnx_ir.to_proto(model({"x": ["N", 2]}, [node("Relu", "y", "x")], ["y"]))
    positions = np.array(indices, np.int64)
    net.graph.sparse_initializer.append(
        helper.make_sparse_tensor(
            numpy_helper.from_array(np.arange(1, values + 1, dtype=np.float32), "w"),
            numpy_helper.from_array(positions, "i"),
            shape,
        )
    )
    return net
