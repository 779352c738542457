"""The trained parameters of a model: which initializers they are, who computes with them, and how they lie."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnx_ir

from mopruning.ir.operators import OPERATORS
from mopruning.layouts import swap_channels

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"

_FLOATS = (
    *(onnx_ir.DataType.FLOAT, onnx_ir.DataType.FLOAT16, onnx_ir.DataType.BFLOAT16, onnx_ir.DataType.DOUBLE),
    onnx_ir.DataType.INT8,  # a quantised weight
)
_RENAMED = ("Identity", "Cast")
_RESHAPED = ("Reshape", "Squeeze", "Unsqueeze", "Flatten")
_SAME_NUMBERS = (*_RENAMED, *_RESHAPED, "Transpose")
_FREE_OPERANDS = ("element-wise", "shape")  # kinds of operators that may have a parameter anywhere


@dataclass(frozen=True)
class Parameter:
    """One trained parameter.

    Args:
        value: The initializer; `value.name` is its name, `value.const_value` its content.
        node: The first node that computes with it.
        role: What it is there: "weight", "bias", "scale" or "slope"; "" for a free operand, such as a position
            embedding.
        order: Order of its axes in which the node sees it, where a Transpose stands between; () if it sees it as it is.
        layout: How the node sees it, against the canonical [out, in, *kernel]: "canonical", "transposed" ([in, out]),
            "deconvolution" ([in, out/groups, *kernel]) or "stacked" ([directions, out, in]).
        groups: Groups of a transposed convolution.
    """

    value: onnx_ir.Value
    node: onnx_ir.Node
    role: str = ""
    order: tuple[int, ...] = ()
    layout: str = "canonical"
    groups: int = 1

    def canonical(self, array: NumPyArray) -> NumPyArray:
        """Return an array that lies as the parameter does as [out, in, *kernel]; a view wherever strides allow.

        >>> deconvolution = Parameter(onnx_ir.val("w"), onnx_ir.node("Relu", []), layout="deconvolution", groups=2)
        >>> deconvolution.canonical(np.zeros((6, 5, 3, 3))).shape
        (10, 3, 3, 3)
        """
        if self.order:
            array = array.transpose(self.order)
        if array.ndim < 2 or self.layout == "canonical":
            return array
        if self.layout == "deconvolution":
            lying: NumPyArray = swap_channels(array, self.groups)
            return lying
        rows = np.swapaxes(array, -1, -2) if self.layout == "transposed" else array
        return rows if rows.ndim == 2 else rows.reshape(-1, rows.shape[-1])


def parameters(model: onnx_ir.Model) -> dict[str, Parameter]:
    """Find the trained parameters of a model, in the order in which its nodes first use them.

    A parameter is an initializer of floating or int8 numbers that stands where an operator expects a weight, bias,
    scale or slope, or that is an operand of more than one number of an element-wise or shape operator (a position
    embedding, a class token). Running statistics, ratios, bounds and scales of a resize are none. A weight that goes
    through a Transpose, Cast or the like belongs to the node behind it.

    Args:
        model: The model; no weight is read.

    Returns:
        Parameters by name; one that several nodes share stands once, with the first.

    >>> x, w = onnx_ir.val("x", onnx_ir.DataType.FLOAT, ["N", 2]), onnx_ir.Value(name="fc.weight")
    >>> w.const_value = onnx_ir.tensor(np.ones((3, 2), np.float32))
    >>> node = onnx_ir.node("Gemm", [x, w], {"transB": 1}, name="fc")
    >>> graph = onnx_ir.Graph([x], node.outputs, nodes=[node], initializers=[w], opset_imports={"": 20})
    >>> found = parameters(onnx_ir.Model(graph, ir_version=10))
    >>> found["fc.weight"].node.name, found["fc.weight"].role
    ('fc', 'weight')
    """
    found: dict[str, Parameter] = {}
    for node in model.graph:
        if node.op_type in _SAME_NUMBERS:
            continue  # the node behind it says what the number is for
        for parameter in _of(node):
            found.setdefault(str(parameter.value.name), parameter)
    return found


def source(value: onnx_ir.Value | None) -> tuple[onnx_ir.Value | None, tuple[int, ...] | None]:
    """Return the initializer whose numbers a value holds, and in which order of its axes.

    Args:
        value: Input of a node. Operators that keep all numbers (Transpose, Cast, Reshape and the like) are looked
            through.

    Returns:
        The initializer, or None for a value that is computed; the order of its axes, () for its own, None where it
        was reshaped.
    """
    nodes: list[onnx_ir.Node] = []
    while value is not None and not value.is_initializer():
        node = value.producer()
        if node is None or node.op_type not in _SAME_NUMBERS or node.domain or not node.inputs:
            return None, None
        nodes.append(node)
        value = node.inputs[0]
    if value is None or value.const_value is None:
        return None, None
    if any(node.op_type in _RESHAPED for node in nodes):
        return value, None
    axes = range(len(value.const_value.shape))
    order = tuple(axes)
    for node in reversed(nodes):
        if node.op_type == "Transpose":
            permutation = node.attributes.get("perm")
            moved = tuple(reversed(axes)) if permutation is None else permutation.value
            if not isinstance(moved, tuple) or len(moved) != len(axes) or set(moved) != set(axes):
                return value, None  # no order of these axes: the model is damaged
            order = tuple(order[axis] for axis in moved)
    return value, () if order == tuple(axes) else order


def _of(node: onnx_ir.Node) -> Iterator[Parameter]:
    row = None if node.domain else OPERATORS.get(node.op_type)
    if row is None:
        return
    for index, operand in enumerate(node.inputs):
        value, order = source(operand)
        if value is None or value.const_value is None or value.const_value.dtype not in _FLOATS:
            continue
        role = row.parameters.get(index, "").partition(" ")[0]
        if node.op_type == "MatMul":
            role = "weight"
        free = not row.parameters and row.kind in _FREE_OPERANDS
        if (free or node.op_type == "MatMul") and value.const_value.size < 2:
            continue  # a number of a formula
        if role == "weight" and order is not None:
            yield Parameter(value, node, role, order, *_layout(node, index))
        elif role or free:
            yield Parameter(value, node, role)


def _layout(node: onnx_ir.Node, index: int) -> tuple[str, int]:
    """Return how a node's weight lies as the node sees it, and in how many groups."""
    if node.op_type == "ConvTranspose":
        return "deconvolution", _integer(node, "group", 1)
    if node.op_type == "Gemm" and _integer(node, "transB", 0) == 0:
        return "transposed", 1
    if node.op_type == "MatMul" and index == 1:  # x @ w; w @ x has w as [out, in]
        return "transposed", 1
    return ("stacked" if node.op_type in ("LSTM", "GRU") else "canonical"), 1


def _integer(node: onnx_ir.Node, name: str, default: int) -> int:
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_int()
