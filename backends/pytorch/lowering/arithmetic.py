"""Operators that work element by element, activations and reductions."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any

import numpy as np
import onnx_ir
import torch
import torch.nn.functional as F
from onnx_ir import Node
from torch import fx

from mopruning.backends.pytorch.lowering import functions
from mopruning.backends.pytorch.lowering.context import INDEX, Lowering, Sizes, to_dtype
from mopruning.errors import FormatError
from mopruning.ir.attributes import attribute
from mopruning.ir.lowering import lowers, operands
from mopruning.ir.nodes import is_usual_selu

_UNARY: Mapping[str, Callable[..., Any]] = {
    "Relu": F.relu,
    "Sigmoid": torch.sigmoid,
    "Tanh": torch.tanh,
    "HardSwish": F.hardswish,
    "Mish": F.mish,
    "Softplus": F.softplus,
    "Abs": torch.abs,
    "Neg": torch.neg,
    "Sign": torch.sign,
    "Sqrt": torch.sqrt,
    "Reciprocal": torch.reciprocal,
    "Exp": torch.exp,
    "Log": torch.log,
    "Erf": torch.erf,
    "Sin": torch.sin,
    "Cos": torch.cos,
    "Floor": torch.floor,
    "Ceil": torch.ceil,
    "Round": torch.round,
    "IsNaN": torch.isnan,
    "Not": torch.logical_not,
}
"""Operators of one tensor and nothing else."""

_BINARY: Mapping[str, Callable[..., Any]] = {
    "Add": operator.add,
    "Sub": operator.sub,
    "Mul": operator.mul,
    "Div": operator.truediv,
    "Equal": torch.eq,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "And": torch.logical_and,
    "Or": torch.logical_or,
    "Xor": torch.logical_xor,
    "Mod": torch.remainder,
}
_TAKE_NUMBERS = (operator.add, operator.sub, operator.mul, operator.truediv)  # on their left, too
_ON_SIZES: Mapping[str, Callable[..., Any]] = {
    "Add": operator.add,
    "Sub": operator.sub,
    "Mul": operator.mul,
    "Div": operator.floordiv,
    "Mod": operator.mod,
    "Min": min,
    "Max": max,
    "Sum": operator.add,
}
_REDUCTIONS: Mapping[str, Callable[..., Any]] = {
    "ReduceMean": torch.mean,
    "ReduceSum": torch.sum,
    "ReduceMax": torch.amax,
    "ReduceMin": torch.amin,
    "ReduceLogSumExp": torch.logsumexp,
}


@lowers(*_UNARY)
def unary(low: Lowering, node: Node) -> None:
    """Lower an operator of one tensor."""
    (x,) = operands(node)
    low.set(node.outputs[0], low.call(_UNARY[node.op_type], low.tensor(x), name=node.name))


@lowers(*_BINARY)
def binary(low: Lowering, node: Node) -> None:
    """Lower an operator of two operands, of which one may be a number."""
    if _on_sizes(low, node):
        return
    left, right = operands(node)
    a, b = low.operand(left), low.operand(right)
    function, options = _BINARY[node.op_type], {}
    whole = left.dtype is not None and not left.dtype.is_floating_point()
    if node.op_type == "Div" and whole:
        function, options = torch.div, {"rounding_mode": "trunc"}
    if node.op_type == "Mod" and attribute(node, "fmod"):
        function = torch.fmod
    if not isinstance(a, fx.Node) and (not isinstance(b, fx.Node) or function not in _TAKE_NUMBERS):
        a = low.tensor(left)
    low.set(node.outputs[0], low.call(function, a, b, name=node.name, **options))


@lowers("Min", "Max", "Sum")
def variadic(low: Lowering, node: Node) -> None:
    """Lower Min, Max and Sum of any number of operands."""
    if len(node.inputs) == 2 and _on_sizes(low, node):
        return
    function: Any = {"Min": torch.minimum, "Max": torch.maximum, "Sum": torch.add}[node.op_type]
    low.set(node.outputs[0], reduce(lambda a, b: low.call(function, a, b), [low.tensor(x) for x in operands(node)]))


@lowers("Pow")
def power(low: Lowering, node: Node) -> None:
    """Lower Pow, whose result has the type of the base."""
    base, exponent = operands(node)
    result = low.call(torch.pow, low.tensor(base), low.operand(exponent), name=node.name)
    if base.dtype != exponent.dtype and base.dtype is not None:
        result = low.method("to", result, to_dtype(base.dtype))
    low.set(node.outputs[0], result)


@lowers("Where")
def where(low: Lowering, node: Node) -> None:
    """Lower Where."""
    condition, yes, no = operands(node)
    low.set(node.outputs[0], low.call(torch.where, *(low.tensor(x) for x in (condition, yes, no)), name=node.name))


@lowers("Clip")
def clip(low: Lowering, node: Node) -> None:
    """Lower Clip."""
    x, *bounds = operands(node, 3)
    lowest, highest = (None if value is None else low.operand(value) for value in bounds)
    if isinstance(lowest, fx.Node) != isinstance(highest, fx.Node) and None not in (lowest, highest):
        lowest, highest = (low.tensor(value) for value in bounds if value is not None)
    if lowest is None and highest is None:
        low.set(node.outputs[0], low.get(x))
        return
    low.set(node.outputs[0], low.call(torch.clamp, low.tensor(x), lowest, highest, name=node.name))


@lowers("Cast", "CastLike")
def cast(low: Lowering, node: Node) -> None:
    """Lower Cast and CastLike; sizes stay sizes among whole numbers."""
    x, *like = operands(node)
    dtype = like[0].dtype if like else node.outputs[0].dtype
    if dtype is None:
        dtype = onnx_ir.DataType(attribute(node, "to"))
    lowered = low.get(x)
    if isinstance(lowered, Sizes) and dtype in INDEX:
        low.set(node.outputs[0], lowered)
    elif isinstance(lowered, np.ndarray):
        low.set(node.outputs[0], lowered.astype(dtype.numpy()))
    else:
        low.set(node.outputs[0], low.method("to", low.tensor(x), to_dtype(dtype), name=node.name))


@lowers("Identity")
def identity(low: Lowering, node: Node) -> None:
    """Lower Identity to nothing."""
    (x,) = operands(node)
    low.set(node.outputs[0], low.get(x))


@lowers("LeakyRelu", "Elu", "Selu", "Gelu", "HardSigmoid", "Softmax", "LogSoftmax")
def activation(low: Lowering, node: Node) -> None:
    """Lower an activation with attributes."""
    x = low.tensor(operands(node)[0])
    alpha, beta = attribute(node, "alpha"), attribute(node, "beta")
    name = node.name
    if node.op_type == "LeakyRelu":
        result = low.call(F.leaky_relu, x, alpha, name=name)
    elif node.op_type == "Elu":
        result = low.call(F.elu, x, alpha, name=name)
    elif node.op_type == "Selu":
        if is_usual_selu(node):
            result = low.call(F.selu, x, name=name)
        else:
            result = low.call(operator.mul, low.call(F.elu, x, alpha), attribute(node, "gamma"), name=name)
    elif node.op_type == "Gelu":
        result = low.call(F.gelu, x, approximate=attribute(node, "approximate"), name=name)
    elif node.op_type == "HardSigmoid":
        if abs(alpha - 1 / 6) < 1e-7 and beta == 0.5:
            result = low.call(F.hardsigmoid, x, name=name)
        else:
            line = low.call(operator.add, low.call(operator.mul, x, alpha), beta)
            result = low.call(torch.clamp, line, 0.0, 1.0, name=name)
    else:
        function = {"Softmax": F.softmax, "LogSoftmax": F.log_softmax}[node.op_type]
        result = low.call(function, x, attribute(node, "axis"), name=name)
    low.set(node.outputs[0], result)


@lowers(*_REDUCTIONS, "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare")
def reduction(low: Lowering, node: Node) -> None:
    """Lower a reduction over some axes, or all."""
    x, *rest = node.inputs
    assert x is not None
    keep = bool(attribute(node, "keepdims"))
    axes = _axes(low, node, rest[0] if rest else None)
    if axes is None:
        low.set(node.outputs[0], low.get(x))
        return
    axes = axes or list(range(low.rank(x)))
    features = low.tensor(x)
    name = node.name
    if node.op_type in _REDUCTIONS:
        result = low.call(_REDUCTIONS[node.op_type], features, axes, keep, name=name)
    elif node.op_type == "ReduceSumSquare":
        result = low.call(torch.sum, low.call(torch.square, features), axes, keep, name=name)
    elif node.op_type == "ReduceProd":
        result = features
        for axis in sorted((axis % low.rank(x) for axis in axes), reverse=True):
            result = low.call(torch.prod, result, axis, keep)
    else:
        order = {"ReduceL1": 1, "ReduceL2": 2}[node.op_type]
        result = low.call(torch.linalg.vector_norm, features, order, axes, keep, name=name)
    low.set(node.outputs[0], result)


@lowers("ArgMax", "ArgMin")
def extreme(low: Lowering, node: Node) -> None:
    """Lower ArgMax and ArgMin."""
    x = low.tensor(operands(node)[0])
    axis, keep = attribute(node, "axis"), bool(attribute(node, "keepdims"))
    largest = node.op_type == "ArgMax"
    if attribute(node, "select_last_index"):
        result = low.call(functions.last_extreme, x, axis, keep, largest, name=node.name)
    else:
        result = low.call(torch.argmax if largest else torch.argmin, x, axis, keep, name=node.name)
    low.set(node.outputs[0], result)


@lowers("CumSum")
def cumulative(low: Lowering, node: Node) -> None:
    """Lower CumSum."""
    x, axis = operands(node)
    (number,) = low.sizes(axis).items if low.sizes(axis) is not None else (None,)  # type: ignore[union-attr]
    if number is None:
        raise FormatError(f"node {node.name!r} (CumSum): its axis is computed; it must be a constant")
    options = bool(attribute(node, "exclusive")), bool(attribute(node, "reverse"))
    features = low.tensor(x)
    if any(options):
        result = low.call(functions.running_sum, features, number, *options, name=node.name)
    else:
        result = low.call(torch.cumsum, features, number, name=node.name)
    low.set(node.outputs[0], result)


@lowers("TopK")
def top_k(low: Lowering, node: Node) -> None:
    """Lower TopK."""
    x, count = operands(node)
    found = low.sizes(count)
    k = low.method("item", low.tensor(count)) if found is None else found.items[0]
    options = {"largest": bool(attribute(node, "largest")), "sorted": bool(attribute(node, "sorted"))}
    both = low.call(torch.topk, low.tensor(x), k, attribute(node, "axis"), name=node.name, **options)
    for index, output in enumerate(node.outputs):
        low.set(output, low.call(operator.getitem, both, index))


def _axes(low: Lowering, node: Node, value: Any) -> list[int] | None:
    """Return the axes of a reduction: none for all of them, None for no reduction at all."""
    numbers = [] if value is None else low.numbers(value)
    if not isinstance(numbers, list) or not all(isinstance(number, int) for number in numbers):
        raise FormatError(f"node {node.name!r} ({node.op_type}): its axes are computed; they must be constants")
    return None if not numbers and attribute(node, "noop_with_empty_axes") else numbers  # type: ignore[return-value]


def _on_sizes(low: Lowering, node: Node) -> bool:
    """Compute with sizes as numbers, where both operands are sizes."""
    if node.op_type not in _ON_SIZES or any(isinstance(low.get(value), fx.Node) for value in operands(node)):
        return False
    a, b = (low.sizes(value) for value in operands(node))
    if a is None or b is None:
        return False
    count = max(len(a.items), len(b.items))
    if {len(a.items), len(b.items)} - {1, count}:
        return False
    function = _ON_SIZES[node.op_type]
    results = []
    for i in range(count):
        pair = tuple(side.items[i if len(side.items) > 1 else 0] for side in (a, b))
        known = all(isinstance(number, int) for number in pair)
        results.append(function(*pair) if known else low.call(function, *pair))
    low.set(node.outputs[0], Sizes(tuple(results), a.scalar and b.scalar))
    return True
