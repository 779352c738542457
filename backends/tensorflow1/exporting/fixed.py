"""Whole numbers that follow from constants and known shapes, such as axes that programs compute in the graph."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
import tensorflow.compat.v1 as tf

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"

_LARGEST = 1 << 16  # elements; what is larger is no shape
_DEEPEST = 64
_MASKS = ("begin", "end", "ellipsis", "new_axis", "shrink_axis")

_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "Add": operator.add,
    "AddV2": operator.add,
    "Sub": operator.sub,
    "Mul": operator.mul,
    "FloorDiv": lambda a, b: a // b if b.all() else None,
    "FloorMod": lambda a, b: a % b if b.all() else None,
    "Maximum": np.maximum,
    "Minimum": np.minimum,
    "Neg": operator.neg,
    "Identity": lambda a: a,
    "Reshape": lambda a, shape: a.reshape(tuple(shape)),
    "ExpandDims": lambda a, axis: np.expand_dims(a, int(axis)),
    "Range": lambda start, stop, step: np.arange(start, stop, step) if _short(start, stop, step) else None,
    "GatherV2": lambda a, index, axis: np.take(a, index, int(axis)),
    "Prod": lambda a, axes: np.prod(a, tuple(np.atleast_1d(axes)), dtype=a.dtype),
    "Sum": lambda a, axes: np.sum(a, tuple(np.atleast_1d(axes)), dtype=a.dtype),
}


def static(tensor: Any) -> NumPyArray | None:
    """Return the content of a tensor that follows from constants and shapes, None if it is computed."""
    return _static(tensor, 0)


def _static(tensor: Any, depth: int) -> NumPyArray | None:
    found = tf.get_static_value(tensor)
    if found is not None:
        return np.asarray(found)
    operation = tensor.op
    if depth > _DEEPEST or not tensor.dtype.is_integer or tensor.shape.num_elements() is None:
        return None
    if (
        operation.type not in (*_FUNCTIONS, "ConcatV2", "Pack", "StridedSlice")
        or tensor.shape.num_elements() > _LARGEST
    ):
        return None
    operands = []
    for one in operation.inputs:
        operand = _static(one, depth + 1)
        if operand is None:
            return None
        operands.append(operand)
    try:
        result = _computed(operation, operands)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None  # TensorFlow will not compute it either
    if result is None or np.shape(result) != tuple(tensor.shape.as_list()):
        return None
    return np.asarray(result, tensor.dtype.as_numpy_dtype)


def _computed(operation: Any, operands: list[NumPyArray]) -> Any:
    if operation.type == "ConcatV2":
        return np.concatenate(operands[:-1], int(operands[-1]))
    if operation.type == "Pack":
        return np.stack(operands, int(operation.get_attr("axis")))
    if operation.type == "StridedSlice":
        return _sliced(operation, operands)
    return _FUNCTIONS[operation.type](*operands)


def _sliced(operation: Any, operands: list[NumPyArray]) -> NumPyArray:
    """Return what a StridedSlice takes, which NumPy's indices can say as well."""
    array, begin, end, step = operands
    masks = {name: operation.get_attr(f"{name}_mask") for name in _MASKS}
    index: list[Any] = []
    for i, (low, high, stride) in enumerate(zip(begin.tolist(), end.tolist(), step.tolist(), strict=True)):
        if masks["ellipsis"] >> i & 1:
            index.append(Ellipsis)
        elif masks["new_axis"] >> i & 1:
            index.append(None)
        elif masks["shrink_axis"] >> i & 1:
            index.append(low)
        else:
            first, last = (None if masks[name] >> i & 1 else at for name, at in (("begin", low), ("end", high)))
            index.append(slice(first, last, stride))
    taken: NumPyArray = array[tuple(index)]
    return taken


def _short(start: NumPyArray, stop: NumPyArray, step: NumPyArray) -> bool:
    return bool(step) and abs((int(stop) - int(start)) // int(step)) <= _LARGEST
