"""Element by element operators, activations and reductions of MINDIR graphs in the IR."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx_ir import Value

from mopruning.backends.mindspore.exporting.context import MARK, Reading, Unsupported
from mopruning.backends.mindspore.exporting.graph import MindNode, Parameter
from mopruning.backends.mindspore.exporting.layers import marked_dropout
from mopruning.ir.attributes import shortest

UNARY = {
    "ReLU": "Relu",
    "Sigmoid": "Sigmoid",
    "Tanh": "Tanh",
    "HSwish": "HardSwish",
    "Mish": "Mish",
    "Softplus": "Softplus",
    "Abs": "Abs",
    "Neg": "Neg",
    "Sign": "Sign",
    "Sqrt": "Sqrt",
    "Exp": "Exp",
    "Log": "Log",
    "Reciprocal": "Reciprocal",
    "Inv": "Reciprocal",
    "Erf": "Erf",
    "Sin": "Sin",
    "Cos": "Cos",
    "Floor": "Floor",
    "Ceil": "Ceil",
    "Round": "Round",
    "Rint": "Round",
    "IsNan": "IsNaN",
    "LogicalNot": "Not",
}
BINARY = {
    "Add": "Add",
    "Sub": "Sub",
    "Mul": "Mul",
    "Div": "Div",
    "RealDiv": "Div",
    "Pow": "Pow",
    "Minimum": "Min",
    "Maximum": "Max",
    "Equal": "Equal",
    "Greater": "Greater",
    "GreaterEqual": "GreaterOrEqual",
    "Less": "Less",
    "LessEqual": "LessOrEqual",
    "LogicalAnd": "And",
    "LogicalOr": "Or",
    "LogicalXor": "Xor",
    "FloorMod": "Mod",
    "Muls": "Mul",
    "Adds": "Add",
    "Subs": "Sub",
    "Divs": "Div",
    "AddScalar": "Add",
    "SubScalar": "Sub",
    "PowTensorScalar": "Pow",
    "LessScalar": "Less",
    "GreaterScalar": "Greater",
    "EqualScalar": "Equal",
    "GreaterEqualScalar": "GreaterOrEqual",
    "LessEqualScalar": "LessOrEqual",
    "EqScalar": "Equal",
    "GtScalar": "Greater",
    "LtScalar": "Less",
    "GeScalar": "GreaterOrEqual",
    "LeScalar": "LessOrEqual",
}
REDUCED = {
    "ReduceMean": "ReduceMean",
    "ReduceSum": "ReduceSum",
    "ReduceMax": "ReduceMax",
    "ReduceMin": "ReduceMin",
    "ReduceProd": "ReduceProd",
    "MeanExt": "ReduceMean",
    "SumExt": "ReduceSum",
    "ProdExt": "ReduceProd",
    "LogSumExp": "ReduceLogSumExp",
}


def unary(read: Reading, node: MindNode) -> Value:
    """Read an operator of one tensor."""
    if node.operator == "Log" and read.option(None, "base", -1.0) not in (-1.0, None):
        raise Unsupported("a logarithm to a base of its own")
    if node.operator == "Round" and len(node.inputs) > 1 and read.option(1, "decimals", 0):
        raise Unsupported("rounding to decimals")
    return read.add(UNARY[node.operator], [read.x(0)])


def binary(read: Reading, node: MindNode) -> Value:
    """Read an operator of two operands; a product with the mark of a Dropout is that Dropout."""
    kind = BINARY[node.operator]
    if kind == "Mul":
        for index in (0, 1):
            found = read.get(index)
            if isinstance(found, Parameter) and found.name.startswith(MARK) and found.content is not None:
                share, path = float(found.content()), found.name.removeprefix(MARK)
                return marked_dropout(read, read.x(1 - index), path, share)
    if kind == "Mod" and read.dtype(read.x(0)).startswith(("float", "bfloat")):  # ONNX has it for whole numbers
        a, b = read.x(0), read.x(1)
        quotient = read.add("Floor", [read.add("Div", [a, b])])
        return read.add("Sub", [a, read.add("Mul", [quotient, b])])
    return read.add(kind, [read.x(0), read.x(1)])


def scaled(read: Reading, node: MindNode) -> Value:
    """Read AddExt and SubExt, which multiply the second operand."""
    alpha = read.option(2, "alpha", 1)
    y = read.x(1)
    if alpha != 1:
        y = read.add("Mul", [y, read.constant(np.array(alpha, read.dtype(y) or "float32"))])
    return read.add(node.operator.removesuffix("Ext"), [read.x(0), y])


def not_equal(read: Reading, node: MindNode) -> Value:
    """Read NotEqual."""
    return read.add("Not", [read.add("Equal", [read.x(0), read.x(1)])])


def square(read: Reading, node: MindNode) -> Value:
    """Read Square."""
    return read.add("Mul", [read.x(0), read.x(0)])


def rsqrt(read: Reading, node: MindNode) -> Value:
    """Read Rsqrt."""
    return read.add("Reciprocal", [read.add("Sqrt", [read.x(0)])])


def silu(read: Reading, node: MindNode) -> Value:
    """Read SiLU."""
    return read.add("Mul", [read.x(0), read.add("Sigmoid", [read.x(0)])])


def relu6(read: Reading, node: MindNode) -> Value:
    """Read ReLU6."""
    return _clipped(read, 0.0, 6.0)


def clamp(read: Reading, node: MindNode) -> Value:
    """Read ClampScalar and ClampTensor."""
    if node.operator == "ClampTensor":
        result = read.x(0)
        result = read.add("Max", [result, read.x(1)]) if read.has(1) else result
        return read.add("Min", [result, read.x(2)]) if read.has(2) else result
    return _clipped(read, read.option(1, "min"), read.option(2, "max"))


def _clipped(read: Reading, low: float | None, high: float | None) -> Value:
    x = read.x(0)
    dtype = read.dtype(x) or "float32"
    bounds = [None if bound is None else read.constant(np.array(bound, dtype)) for bound in (low, high)]
    return read.add("Clip", [x, *bounds])


def activation(read: Reading, node: MindNode) -> Value:
    """Read an activation with settings."""
    x, kind = read.x(0), node.operator
    if kind in ("GeLU", "GeluExt"):
        tanh = kind == "GeLU" or read.option(1, "approximate", "none") in ("tanh", 1)
        return read.add("Gelu", [x], {"approximate": "tanh"} if tanh else {})
    if kind == "HSigmoid":
        return read.add("HardSigmoid", [x], {"alpha": 1 / 6, "beta": 0.5})
    if kind in ("LeakyReLU", "LeakyReLUExt"):
        return read.add("LeakyRelu", [x], {"alpha": shortest(read.option(1, "negative_slope", 0.01))})
    if kind in ("Elu", "EluExt"):
        return read.add("Elu", [x], {"alpha": shortest(read.option(1, "alpha", 1.0))})
    return read.add("Selu", [x])


def prelu(read: Reading, node: MindNode) -> Value:
    """Read PReLU, whose slopes are one a channel."""
    x, slope = read.x(0), read.x(1)
    rank = len(read.dims(x))
    if rank > 2 and read.dims(slope) != (1,):
        slope = read.add_numbers("Unsqueeze", slope, range(1, rank - 1))
    return read.add("PRelu", [x, slope])


def softmax(read: Reading, node: MindNode) -> Value:
    """Read Softmax and LogSoftmax."""
    axes = read.integers(1, "axis", -1)
    if len(axes) != 1:
        raise Unsupported("over several axes")
    return read.add(node.operator.removesuffix("Ext"), [read.x(0)], {"axis": axes[0]})


def div_mod(read: Reading, node: MindNode) -> Value:
    """Read DivMod: a quotient that is rounded towards zero (1) or down (2)."""
    mode = read.option(2, "rounding_mode")
    a, b = read.x(0), read.x(1)
    floating = read.dtype(a).startswith(("float", "bfloat"))
    quotient = read.add("Div", [a, b])
    if mode in (1, "trunc"):
        if not floating:
            return quotient
        whole = read.add("Floor", [read.add("Abs", [quotient])])
        return read.add("Mul", [read.add("Sign", [quotient]), whole])
    if mode in (2, "floor") and floating:
        return read.add("Floor", [quotient])
    if mode is None:
        return quotient
    raise Unsupported("whole numbers that are divided downwards")


def select(read: Reading, node: MindNode) -> Value:
    """Read Select."""
    return read.add("Where", [read.x(0), read.x(1), read.x(2)])


def cast(read: Reading, node: MindNode) -> Value:
    """Read Cast."""
    dtype = node.given[0].dtype if node.given else ""
    if not dtype:
        raise Unsupported("the type that it casts to is not known")
    if dtype == read.dtype(read.x(0)):
        return read.x(0)
    return read.net.cast(read.name(), read.x(0), dtype)


def add_n(read: Reading, node: MindNode) -> Value:
    """Read AddN and the like."""
    return read.add("Sum", [read.value_of(one) for one in _parts(read)])


def _parts(read: Reading) -> tuple[Any, ...]:
    found = read.get(0)
    return found if isinstance(found, tuple) else tuple(read.get(index) for index in range(len(read.node.inputs)))


def filled(read: Reading, node: MindNode) -> Value:
    """Read ZerosLike and OnesLike."""
    x = read.x(0)
    number = np.zeros((), read.dtype(x) or "float32") + (node.operator == "OnesLike")
    shape = read.add("Shape", [x])
    return read.add("Expand", [read.constant(number.astype(read.dtype(x) or "float32")), shape])


def reduction(read: Reading, node: MindNode) -> Value:
    """Read a reduction over some axes, or all."""
    axes = read.integers(1, "axis", ())
    keep = bool(read.option(2, "keep_dims", False))
    x = read.x(0)
    dtype = node.given[0].dtype if node.given else ""
    if dtype and read.dtype(x) and dtype != read.dtype(x):
        x = read.noted(read.net.cast(read.name(), x, dtype), read.dims(x), dtype)
    rank = len(read.dims(x))
    own, given = REDUCED[node.operator], sorted(axis % rank for axis in axes)
    return read.net.reduction(own, read.name(), x, given, keepdims=keep, rank=rank, numbers=read.name("numbers"))


def norm(read: Reading, node: MindNode) -> Value:
    """Read LpNorm and Norm of order 1 and 2."""
    order = read.option(None, "p", 2)
    axes = read.integers(None, "axis", ())
    if order not in (1, 2):
        raise Unsupported(f"a norm of order {order}")
    return read.add_numbers(f"ReduceL{order}", read.x(0), axes, keepdims=int(read.option(None, "keep_dims", False)))


def extreme(read: Reading, node: MindNode) -> Value:
    """Read Argmax and Argmin."""
    largest = node.operator.lower().startswith("argmax")
    x, axis = read.x(0), read.option(1, "axis", -1)
    keep = bool(read.option(2, "keepdims", False)) if node.operator.endswith("Ext") else False
    result = read.add("ArgMax" if largest else "ArgMin", [x], {"axis": axis, "keepdims": int(keep)})
    return _as_given(read, node, result, 0)


def _as_given(read: Reading, node: MindNode, places: Value, part: int) -> Value:
    dtype = node.given[part].dtype if len(node.given) > part else ""
    return read.net.index(read.name(), places, dtype or "int64")


def extreme_with_value(read: Reading, node: MindNode) -> Any:
    """Read ArgMaxWithValue and ArgMinWithValue: the places and the values."""
    axis, keep = read.option(1, "axis", 0), bool(read.option(2, "keep_dims", False))
    kind = "Max" if "Max" in node.operator else "Min"
    x = read.x(0)
    places = read.add(f"Arg{kind}", [x], {"axis": axis, "keepdims": int(keep)})
    values = read.add_numbers(f"Reduce{kind}", x, (axis,), keepdims=int(keep))
    return _as_given(read, node, places, 0), values


def whole_extreme(read: Reading, node: MindNode) -> Value:
    """Read Max and Min over all axes."""
    return read.add(f"Reduce{node.operator}", [read.x(0)], {"keepdims": 0})


def cumulative(read: Reading, node: MindNode) -> Value:
    """Read CumSum and CumsumExt."""
    axis = read.net.constant(read.name("axis"), read.option(1, "axis"))
    flags = {}
    if node.operator == "CumSum":
        flags = {name: int(bool(read.option(index, name, False))) for index, name in ((2, "exclusive"), (3, "reverse"))}
    return read.add("CumSum", [read.x(0), axis], {name: flag for name, flag in flags.items() if flag})


def top_k(read: Reading, node: MindNode) -> Any:
    """Read TopK, which is along the last axis, and TopkExt."""
    k = read.net.constant(read.name("k"), [read.option(1, "k")])
    attributes = {"axis": -1, "largest": 1}
    if node.operator == "TopkExt":
        attributes = {"axis": read.option(2, "dim", -1), "largest": int(read.option(3, "largest", True))}
    values, places = read.net.nodes("TopK", read.name(), [read.x(0), k], 2, attributes)
    return values, _as_given(read, node, places, 1)


def erfc(read: Reading, node: MindNode) -> Value:
    """Read Erfc."""
    one = read.constant(np.array(1, read.dtype(read.x(0)) or "float32"))
    return read.add("Sub", [one, read.add("Erf", [read.x(0)])])


def expm1(read: Reading, node: MindNode) -> Value:
    """Read Expm1."""
    one = read.constant(np.array(1, read.dtype(read.x(0)) or "float32"))
    return read.add("Sub", [read.add("Exp", [read.x(0)]), one])
