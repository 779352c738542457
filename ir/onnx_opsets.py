"""ONNX files of any age in the profile's opset: constants lifted, functions inlined, versions converted.

The conversion upwards is `onnx.version_converter`. For every operator of the profile in every version from opset 7 to
26 the result was compared with the original in onnxruntime 1.31; the tests repeat that. Version 1.23 of the converter
errs in one thing, set right here: a Resize or Upsample from before opset 11 keeps no coordinate transformation.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx.inliner
import onnx.shape_inference
import onnx.version_converter
import onnx_ir
from onnx import ModelProto, NodeProto, TensorProto

from mopruning.errors import FormatError
from mopruning.ir.onnx_tensors import read_sparse, read_tensor, write_dense
from mopruning.ir.operators import IR_VERSION, OPERATORS, OPSET
from mopruning.ir.validation import Problem, UnsupportedOperators

OLDEST = 7
"""First opset that is read; before it, broadcasting had other rules."""

NEWEST = 26
"""Last opset that is read: the last one that could be compared."""

_SMALL = 1 << 10
"""Bytes up to which a tensor goes through onnx's C++ code with the graph: conversion may need shapes and axes."""

_REPLACED = ("Constant", "Upsample")  # older operators that conversion puts others for


def to_profile_opset(
    proto: ModelProto, folder: Path, where: str
) -> tuple[ModelProto, dict[str, onnx_ir.TensorProtocol]]:
    """Bring a model to the opset of the profile, and take its weights out.

    Args:
        proto: The model as the file has it. It is edited in place: its weights are taken out.
        folder: Folder of the file, which external data must not leave.
        where: What errors call it: its path.

    Returns:
        The converted graph, in which large weights are inputs, and every initializer and constant by name. Constants
        that the conversion adds are in the graph.

    Raises:
        UnsupportedOperators: If it cannot be converted because of operators outside the profile.
        FormatError: If the model is damaged, or of an opset that cannot be read.
    """
    version = _opset(proto, where)
    weights = _lift(proto, folder, where)
    proto.ir_version = max(proto.ir_version, IR_VERSION)  # before 4, initializers had to be inputs
    _open_negative_sizes(proto)
    try:
        _check(proto)
        if proto.functions:
            proto = onnx.inliner.inline_local_functions(proto, convert_version=True)
            weights |= _lift(proto, folder, where)
        if version < OPSET:
            proto = _converted(_inferred(proto))  # conversion of a Softmax is plainer where shapes are known
    except (onnx.checker.ValidationError, RuntimeError, ValueError) as error:
        raise _refusal(proto, where, error) from error
    if version < 11:
        _keep_asymmetric(proto)
    _set_opset(proto)
    return _inferred(proto), weights


def _open_negative_sizes(proto: ModelProto) -> None:
    """Leave open, in place, the sizes that some exporters give as -1 (PaddlePaddle's, of batches)."""
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_value < 0:
                size.Clear()


def _opset(proto: ModelProto, where: str) -> int:
    for entry in (*proto.opset_import, *proto.graph.node):
        if entry.domain == "ai.onnx":  # the long form of the same
            entry.domain = ""
    versions: set[int] = {entry.version for entry in proto.opset_import if not entry.domain}
    if len(versions) != 1:
        raise FormatError(f"{where}: expected one version of ONNX's operators, got {sorted(versions) or 'none'}")
    (version,) = versions
    if not OLDEST <= version <= NEWEST:
        raise FormatError(f"{where}: opset {version} cannot be read; expected {OLDEST} to {NEWEST}")
    return version


def _check(proto: ModelProto) -> None:
    """Let onnx's checker look at a model, but not at whether inputs and outputs declare what follows from the graph."""
    copy = ModelProto.FromString(proto.SerializeToString())
    for value in (*copy.graph.input, *copy.graph.output):
        if not value.HasField("type"):
            value.type.tensor_type.elem_type = TensorProto.FLOAT
        if value.type.HasField("tensor_type") and not value.type.tensor_type.HasField("shape"):
            value.type.tensor_type.shape.SetInParent()
    onnx.checker.check_model(copy)


def _lift(proto: ModelProto, folder: Path, where: str) -> dict[str, onnx_ir.TensorProtocol]:
    """Take every initializer and Constant node out of the graph, in place; small ones stay in it as initializers."""
    graph = proto.graph
    weights: dict[str, onnx_ir.TensorProtocol] = {}

    def take(name: str, tensor: TensorProto | onnx.SparseTensorProto) -> None:
        label = f"{where}: tensor {name!r}"
        if not name or name in weights:
            raise FormatError(f"{label}: {'is there twice' if name else 'has no name'}")
        read: Callable[..., onnx_ir.TensorProtocol] = read_tensor if isinstance(tensor, TensorProto) else read_sparse
        weights[name] = read(tensor, folder, label)

    for tensor in graph.initializer:
        take(tensor.name, tensor)
    for sparse in graph.sparse_initializer:
        take(sparse.values.name, sparse)
    nodes = []
    outputs = {value.name for value in graph.output}
    for node in graph.node:
        value = _constant(node)
        if value is None:
            nodes.append(node)
            continue
        name = node.output[0]
        if name in outputs:  # an output needs a node that gives it
            nodes.append(onnx.helper.make_node("Identity", [f"{name}.value"], [name], name=node.name))
            name = f"{name}.value"
        take(name, value)
    _replace(graph, nodes, weights)
    return weights


def _replace(graph: onnx.GraphProto, nodes: list[NodeProto], weights: dict[str, onnx_ir.TensorProtocol]) -> None:
    """Put nodes and weights into a graph, in place: small weights as initializers, large ones as inputs."""
    kept = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    given = [value for value in graph.input if value.name not in weights]
    inputs = [onnx.ValueInfoProto.FromString(value.SerializeToString()) for value in given]
    for field in (graph.node, graph.initializer, graph.sparse_initializer, graph.input):
        del field[:]
    graph.node.extend(kept)
    for name, tensor in weights.items():
        if tensor.nbytes <= _SMALL:
            graph.initializer.append(write_dense(tensor, name))
        else:
            inputs.append(onnx.helper.make_tensor_value_info(name, int(tensor.dtype), list(tensor.shape.numpy())))
    graph.input.extend(inputs)


def _constant(node: NodeProto) -> TensorProto | onnx.SparseTensorProto | None:
    """Return what a Constant node holds, or None for another node."""
    if node.op_type != "Constant" or node.domain not in ("", "ai.onnx") or len(node.attribute) != 1:
        return None
    (attribute,) = node.attribute
    content = onnx.helper.get_attribute_value(attribute)
    if attribute.name in ("value", "sparse_value"):
        return content  # type: ignore[no-any-return]
    dtypes = {"value_float": "float32", "value_floats": "float32", "value_int": "int64", "value_ints": "int64"}
    if attribute.name not in dtypes:
        return None
    dtype = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtypes[attribute.name]))
    dims = [len(content)] if attribute.name.endswith("s") else []
    return onnx.helper.make_tensor("", dtype, dims, content if dims else [content])


def _converted(proto: ModelProto) -> ModelProto:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return onnx.version_converter.convert_version(proto, OPSET)


def _keep_asymmetric(proto: ModelProto) -> None:
    """Give a Resize from before opset 11 the rule it had, in place: position / scale, rounded down."""
    for node in proto.graph.node:
        if node.op_type == "Resize" and not any(a.name == "coordinate_transformation_mode" for a in node.attribute):
            node.attribute.append(onnx.helper.make_attribute("coordinate_transformation_mode", "asymmetric"))
            node.attribute.append(onnx.helper.make_attribute("nearest_mode", "floor"))


def _set_opset(proto: ModelProto) -> None:
    """Declare the profile's opset, in place.

    Up to opset 26 later versions brought the profile's operators new types, and attributes that it does not know: what
    it knows means the same, and `validate` refuses the rest. onnx's own converter cannot go down for all of them.
    """
    for entry in proto.opset_import:
        if not entry.domain:
            entry.version = OPSET


def _inferred(proto: ModelProto) -> ModelProto:
    """Return the model with the shapes of its values, as far as they can be known."""
    try:
        return onnx.shape_inference.infer_shapes(proto, data_prop=True)
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError):
        return proto  # shapes are a help, not a condition


def _refusal(proto: ModelProto, where: str, error: Exception) -> FormatError:
    """Return the error for a model that cannot be converted: all operators outside the profile, or what onnx said."""
    problems = []
    for node in proto.graph.node:
        if node.domain not in ("", "ai.onnx"):
            why = f"its domain is {node.domain!r}; only ONNX's own operators are in the profile"
        elif node.op_type not in OPERATORS and node.op_type not in _REPLACED:
            why = "this operator is not in the profile"
        else:
            continue
        problems.append(Problem(node.name or node.output[0] if node.output else "", node.op_type, why))
    if problems:
        return UnsupportedOperators(proto.graph.name or where, tuple(problems))
    reason = " ".join(str(error).split())
    return FormatError(f"{where}: is no valid ONNX model, or cannot be brought to opset {OPSET}: {reason}")
