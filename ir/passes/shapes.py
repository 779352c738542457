"""Shapes and types of every value, found by ONNX's own inference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import onnx
import onnx_ir
from onnx.shape_inference import InferenceError

from mopruning.errors import MopruningError
from mopruning.ir.passes.constants import fold_constants

Image: TypeAlias = "int | tuple[int, int]"
Known: TypeAlias = "dict[str, tuple[onnx_ir.Shape | None, onnx_ir.TypeProtocol | None]]"

_SMALL = 1024  # bytes; longer initializers are no shapes, and inference needs to know only how large they are


class ShapeError(MopruningError, ValueError):
    """Shapes that do not fit together, or that are needed and left open."""


def infer_shapes(
    model: onnx_ir.Model,
    *,
    image: Image | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    batch: int | None = None,
) -> onnx_ir.Model:
    """Return the model with the shape and type of every value filled in as far as they follow from its inputs.

    Args:
        model: The model; it is not changed, and no large weight is read.
        image: Height and width, or one number for both, of every input of four axes; None leaves them.
        shapes: Whole shapes of inputs by name.
        batch: First axis of every input that leaves it open; None leaves it open.

    Returns:
        A new model with the same nodes; weights are shared.

    Raises:
        ShapeError: If shapes contradict each other, or `shapes` names no input.

    >>> x = onnx_ir.val("x", onnx_ir.DataType.FLOAT, ["N", 3, "H", "W"])
    >>> node = onnx_ir.node("Flatten", [x], {"axis": 1}, name="flatten")
    >>> graph = onnx_ir.Graph([x], node.outputs, nodes=[node], opset_imports={"": 20})
    >>> infer_shapes(onnx_ir.Model(graph, ir_version=10), image=8).graph.outputs[0].shape
    Shape([SymbolicDim('N'), 192])
    """
    result = model.clone()
    if _fix_inputs(result.graph, image, shapes or {}, batch):
        for node in result.graph:  # what was declared may have been meant for other inputs
            for value in node.outputs:
                value.shape = None
    work = result.clone()
    known: Known = {}
    while True:
        found = _inferred(work)
        known |= found
        _apply(work, found)
        if all(_is_static(value) for node in work.graph for value in node.outputs):
            break
        # A shape computed from shapes: ONNX follows the commonest operators, the others are run.
        folded = fold_constants(work)
        if len(folded.graph) == len(work.graph):
            break
        work = folded
    _apply(result, known)
    return result


def static_shape(value: onnx_ir.Value | None) -> tuple[int, ...] | None:
    """Return a value's shape if every axis of it is known."""
    if value is None:
        return None
    shape = value.shape if value.const_value is None else value.const_value.shape
    if shape is None:
        return None
    sizes = tuple(size for size in shape if isinstance(size, int))
    return sizes if len(sizes) == len(shape) else None


def _fix_inputs(
    graph: onnx_ir.Graph, image: Image | None, shapes: Mapping[str, Sequence[int]], batch: int | None
) -> bool:
    """Set the shapes of inputs in place, and say whether that changed any."""
    inputs = {str(value.name): value for value in graph.inputs if not value.is_initializer()}
    unknown = sorted(shapes.keys() - inputs.keys())
    if unknown:
        raise ShapeError(f"shapes: {unknown[0]!r} is no input of the model; its inputs are {', '.join(inputs)}")
    changed = False
    for name, value in inputs.items():
        old = value.shape
        if name in shapes:
            value.shape = onnx_ir.Shape([int(size) for size in shapes[name]])
        elif old is not None:
            sizes = list(old)
            if image is not None and len(sizes) == 4:
                sizes[2:] = (image, image) if isinstance(image, int) else image
            if batch is not None and sizes and not isinstance(sizes[0], int):
                sizes[0] = batch
            value.shape = onnx_ir.Shape(sizes)
        changed |= value.shape != old
    return changed


def _inferred(model: onnx_ir.Model) -> Known:
    """Run ONNX's inference on the graph without its weights."""
    probe = model.clone()
    for name, value in list(probe.graph.initializers.items()):
        tensor = value.const_value
        if tensor is None or tensor.nbytes <= _SMALL:
            continue
        value.shape = onnx_ir.Shape(tensor.shape.numpy())
        value.dtype = tensor.dtype
        value.const_value = None
        del probe.graph.initializers[name]
        if value not in probe.graph.inputs:
            probe.graph.inputs.append(value)
    try:
        proto = onnx_ir.to_proto(probe)
    except onnx_ir.serde.SerdeError as error:
        raise _damage(error) from error
    try:
        # Its check of types would refuse bfloat16 where later operator sets take it; types are `validate`'s to check.
        proto = onnx.shape_inference.infer_shapes(proto, check_type=False, strict_mode=True, data_prop=True)
    except (InferenceError, RuntimeError) as error:
        raise ShapeError(f"model {model.graph.name!r}: its shapes do not fit together: {_reason(error)}") from None
    values = [*proto.graph.value_info, *proto.graph.output]
    return {info.name: _read(info) for info in values if info.type.HasField("tensor_type")}


def _read(info: onnx.ValueInfoProto) -> tuple[onnx_ir.Shape | None, onnx_ir.TypeProtocol | None]:
    value = onnx_ir.serde.deserialize_value_info_proto(info, None)
    return value.shape, value.type


def _apply(model: onnx_ir.Model, known: Known) -> None:
    """Set shapes and types of what nodes compute in place."""
    for node in model.graph:
        for value in node.outputs:
            shape, dtype = known.get(str(value.name), (None, None))
            if shape is not None:
                value.shape = shape.copy()
            if dtype is not None:
                value.type = dtype


def _is_static(value: onnx_ir.Value) -> bool:
    return not value.name or static_shape(value) is not None


def _damage(error: BaseException) -> BaseException:
    """Return the error of a tensor that could not be decoded, which onnx_ir wraps in its own; else the error itself."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, MopruningError):
        cause = cause.__cause__
    return error if cause is None else cause


def _reason(error: Exception) -> str:
    """Return the part of ONNX's message that says what is wrong, without its list of all nodes."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return "; ".join(lines[:3]) or type(error).__name__
