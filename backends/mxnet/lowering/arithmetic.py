"""Operators that work element by element, activations and reductions."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from typing import Any

import numpy as np
import onnx_ir
from onnx_ir import Node, Value

from mopruning.backends.mxnet.lowering.context import Lowering, Symbol, dtype_of
from mopruning.ir.attributes import attribute
from mopruning.ir.lowering import Refusal, lowers, operands, sizes_of
from mopruning.ir.nodes import cast_type, is_usual_selu

_LARGEST = 2**53
"""Numbers from here on, and what is no number, go as arrays: MXNet reads a number as a double."""

_UNARY: Mapping[str, str] = {
    "Relu": "relu",
    "Sigmoid": "sigmoid",
    "Tanh": "tanh",
    "Abs": "abs",
    "Neg": "negative",
    "Sign": "sign",
    "Reciprocal": "reciprocal",
    "Sqrt": "sqrt",
    "Exp": "exp",
    "Log": "log",
    "Erf": "erf",
    "Sin": "sin",
    "Cos": "cos",
    "Floor": "floor",
    "Ceil": "ceil",
}
"""Operators of one array that MXNet has under another name."""

BINARY: Mapping[str, tuple[str, str, str]] = {
    "Add": ("broadcast_add", "_plus_scalar", "_plus_scalar"),
    "Sub": ("broadcast_sub", "_minus_scalar", "_rminus_scalar"),
    "Mul": ("broadcast_mul", "_mul_scalar", "_mul_scalar"),
    "Div": ("broadcast_div", "_div_scalar", "_rdiv_scalar"),
    "Pow": ("broadcast_power", "_power_scalar", "_rpower_scalar"),
    "Min": ("broadcast_minimum", "_minimum_scalar", "_minimum_scalar"),
    "Max": ("broadcast_maximum", "_maximum_scalar", "_maximum_scalar"),
}
"""Operator -> its names for two arrays, an array and a number, a number and an array."""

_COMPARED: Mapping[str, str] = {
    "Equal": "equal",
    "Greater": "greater",
    "GreaterOrEqual": "greater_equal",
    "Less": "less",
    "LessOrEqual": "less_equal",
}
"""Comparisons, called as in NumPy, whose results are bool: those of MXNet's classic operators are numbers."""

_REDUCED: Mapping[str, str] = {
    "ReduceMean": "mean",
    "ReduceSum": "sum",
    "ReduceMax": "max",
    "ReduceMin": "min",
    "ReduceProd": "prod",
}


@lowers(*_UNARY)
def unary(low: Lowering, node: Node) -> None:
    """Lower an operator of one array."""
    (x,) = operands(node, 1)
    low.set(node.outputs[0], low.call(_UNARY[node.op_type], low.symbol(x), name=node.name))


@lowers("Round")
def rounded(low: Lowering, node: Node) -> None:
    """Lower Round; the classic `round` takes halves away from 0, `rint` down."""
    low.set(node.outputs[0], low.numpy("around", low.symbol(operands(node, 1)[0]), name=node.name))


@lowers("Not", "IsNaN")
def tested(low: Lowering, node: Node) -> None:
    """Lower IsNaN and Not."""
    operator = {"IsNaN": "isnan", "Not": "logical_not"}[node.op_type]
    low.set(node.outputs[0], low.numpy(operator, low.symbol(operands(node, 1)[0]), name=node.name))


@lowers("Add", "Sub", "Mul", "Div")
def binary(low: Lowering, node: Node) -> None:
    """Lower an operator of two operands, of which one may be a number."""
    left, right = operands(node, 2)
    low.set(node.outputs[0], _binary(low, node.op_type, left, right, node.name))


@lowers("Min", "Max", "Sum")
def variadic(low: Lowering, node: Node) -> None:
    """Lower Min, Max and Sum of any number of operands."""
    values = operands(node, 1)
    kind = {"Sum": "Add"}.get(node.op_type, node.op_type)
    if len(values) == 2:
        low.set(node.outputs[0], _binary(low, kind, values[0], values[1], node.name))
        return
    results = [low.symbol(value) for value in values]
    low.set(node.outputs[0], reduce(lambda a, b: low.call(BINARY[kind][0], a, b), results))


def _binary(low: Lowering, kind: str, left: Value, right: Value, name: str | None) -> Symbol:
    both, by_number, from_number = BINARY[kind]
    number, other = low.number(right), left
    if number is None or low.rank(right) > low.rank(left):
        number, other, by_number = low.number(left), right, from_number
        if low.rank(left) > low.rank(right):
            number = None
    if number is not None and abs(number) < _LARGEST and dtype_of(left) == dtype_of(right) != "bool":
        return low.scalar(by_number, low.symbol(other), number, name)
    return low.call(both, low.symbol(left), low.symbol(right), name=name)


@lowers("Pow")
def power(low: Lowering, node: Node) -> None:
    """Lower Pow, whose result has the type of the base."""
    base, exponent = operands(node, 2)
    number = low.number(exponent)
    if number is not None and low.rank(exponent) <= low.rank(base):
        result = low.scalar("_power_scalar", low.symbol(base), number, node.name)
    else:
        power = low.symbol(exponent)
        power = power if dtype_of(base) == dtype_of(exponent) else low.call("cast", power, dtype=dtype_of(base))
        result = low.call("broadcast_power", low.symbol(base), power, name=node.name)
    low.set(node.outputs[0], result)


@lowers("Mod")
def remainder(low: Lowering, node: Node) -> None:
    """Lower Mod: with the sign of the divisor, or of the dividend."""
    left, right = (low.symbol(value) for value in operands(node, 2))
    if not attribute(node, "fmod"):
        low.set(node.outputs[0], low.call("broadcast_mod", left, right, name=node.name))
        return
    size = low.call("broadcast_mod", low.call("abs", left), low.call("abs", right))
    low.set(node.outputs[0], low.call("broadcast_mul", size, low.call("sign", left), name=node.name))


@lowers(*_COMPARED)
def compared(low: Lowering, node: Node) -> None:
    """Lower a comparison."""
    left, right = operands(node, 2)
    operator, number = _COMPARED[node.op_type], low.number(right)
    if number is not None and abs(number) < _LARGEST and low.rank(right) <= low.rank(left) and dtype_of(left) != "bool":
        result = low.numpy(f"{operator}_scalar", low.symbol(left), name=node.name, scalar=number)
    else:
        result = low.numpy(operator, low.symbol(left), low.symbol(right), name=node.name)
    low.set(node.outputs[0], result)


@lowers("And", "Or", "Xor")
def logical(low: Lowering, node: Node) -> None:
    """Lower And, Or and Xor of bools."""
    left, right = (low.symbol(value) for value in operands(node, 2))
    operator = {"And": "bitwise_and", "Or": "bitwise_or", "Xor": "not_equal"}[node.op_type]
    low.set(node.outputs[0], low.numpy(operator, left, right, name=node.name))


@lowers("Where")
def where(low: Lowering, node: Node) -> None:
    """Lower Where."""
    given = [low.symbol(value) for value in operands(node, 3)]
    low.set(node.outputs[0], low.numpy("where", *given, name=node.name))


@lowers("Clip")
def clip(low: Lowering, node: Node) -> None:
    """Lower Clip."""
    x, *bounds = operands(node, 3)
    if bounds == [None, None]:
        low.set(node.outputs[0], low.get(x))
        return
    numbers = [low.number(value) for value in bounds]
    if None not in numbers:
        options = {"a_min": numbers[0], "a_max": numbers[1]}
        low.set(node.outputs[0], low.call("clip", low.symbol(x), name=node.name, **options))
        return
    result = low.symbol(x)
    for value, number, kind in zip(bounds, numbers, ("Max", "Min"), strict=True):
        if number is not None:
            result = low.scalar(BINARY[kind][1], result, number)
        elif value is not None:
            result = low.call(BINARY[kind][0], result, low.symbol(value))
    low.set(node.outputs[0], result)


@lowers("Cast", "CastLike")
def cast(low: Lowering, node: Node) -> None:
    """Lower Cast and CastLike."""
    x, dtype = operands(node)[0], cast_type(node)
    wanted = dtype_of(Value(name=str(node.name), type=None if dtype is None else onnx_ir.TensorType(dtype)))
    low.set(node.outputs[0], low.call("cast", low.symbol(x), name=node.name, dtype=wanted))


@lowers("Identity")
def identity(low: Lowering, node: Node) -> None:
    """Lower Identity to nothing."""
    low.set(node.outputs[0], low.get(operands(node, 1)[0]))


@lowers("LeakyRelu", "Elu", "Selu", "Gelu", "HardSigmoid", "HardSwish", "Softplus", "Mish", "Softmax", "LogSoftmax")
def activation(low: Lowering, node: Node) -> None:
    """Lower an activation with attributes, or one that is made of several operators."""
    x = low.symbol(operands(node, 1)[0])
    alpha, beta, name = attribute(node, "alpha"), attribute(node, "beta"), node.name
    if node.op_type in ("LeakyRelu", "Elu"):
        kind = {"LeakyRelu": "leaky", "Elu": "elu"}[node.op_type]
        result = low.call("LeakyReLU", x, name=name, act_type=kind, slope=alpha)
    elif node.op_type == "Selu":
        if is_usual_selu(node):
            result = low.call("LeakyReLU", x, name=name, act_type="selu")
        else:
            inner = low.call("LeakyReLU", x, act_type="elu", slope=alpha)
            result = low.scalar("_mul_scalar", inner, attribute(node, "gamma"), name)
    elif node.op_type == "Gelu" and attribute(node, "approximate") == "none":
        result = low.call("LeakyReLU", x, name=name, act_type="gelu")
    elif node.op_type == "Gelu":  # ONNX, Gelu: 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))
        cube = low.scalar("_mul_scalar", low.scalar("_power_scalar", x, 3.0), 0.044715)
        inner = low.scalar("_mul_scalar", low.call("broadcast_add", x, cube), float(np.sqrt(2 / np.pi)))
        share = low.scalar("_mul_scalar", low.scalar("_plus_scalar", low.call("tanh", inner), 1.0), 0.5)
        result = low.call("broadcast_mul", x, share, name=name)
    elif node.op_type == "HardSigmoid":
        result = low.call("hard_sigmoid", x, name=name, alpha=alpha, beta=beta)
    elif node.op_type == "HardSwish":
        result = low.call("broadcast_mul", x, low.call("hard_sigmoid", x, alpha=1 / 6, beta=0.5), name=name)
    elif node.op_type == "Softplus":
        result = low.call("Activation", x, name=name, act_type="softrelu")
    elif node.op_type == "Mish":
        inner = low.call("tanh", low.call("Activation", x, act_type="softrelu"))
        result = low.call("broadcast_mul", x, inner, name=name)
    else:
        operator = {"Softmax": "softmax", "LogSoftmax": "log_softmax"}[node.op_type]
        result = low.call(operator, x, name=name, axis=attribute(node, "axis"))
    low.set(node.outputs[0], result)


@lowers(*_REDUCED, "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSumExp")
def reduction(low: Lowering, node: Node) -> None:
    """Lower a reduction over some axes, or all."""
    x, axes = operands(node)[0], low.reduced_axes(node)
    if axes is None:
        low.set(node.outputs[0], low.get(x))
        return
    if not axes:
        raise Refusal("it reduces an array without axes")
    keep = bool(attribute(node, "keepdims"))
    options: dict[str, Any] = {"axis": tuple(axes), "keepdims": keep, "name": node.name}
    features = low.symbol(x)
    if node.op_type in _REDUCED:
        result = low.call(_REDUCED[node.op_type], features, **options)
    elif node.op_type == "ReduceL1":
        result = low.call("sum", low.call("abs", features), **options)
    elif node.op_type == "ReduceSumSquare":
        result = low.call("sum", low.call("square", features), **options)
    elif node.op_type == "ReduceL2":
        squares = low.call("sum", low.call("square", features), **{**options, "name": None})
        result = low.call("sqrt", squares, name=node.name)
    else:  # log(sum(exp(x))) = m + log(sum(exp(x - m))), m the largest, which keeps exp from overflowing
        largest = low.call("max", features, axis=options["axis"], keepdims=True)
        powers = low.call("exp", low.call("broadcast_sub", features, largest))
        total = low.call("log", low.call("sum", powers, **{**options, "name": None}))
        top = largest if keep else low.call("max", features, **{**options, "name": None})
        result = low.call("broadcast_add", total, top, name=node.name)
    low.set(node.outputs[0], result)


@lowers("ArgMax", "ArgMin")
def extreme(low: Lowering, node: Node) -> None:
    """Lower ArgMax and ArgMin."""
    (x,) = operands(node, 1)
    axis = attribute(node, "axis") % low.rank(x)
    features, last = low.symbol(x), bool(attribute(node, "select_last_index"))
    operator = {"ArgMax": "argmax", "ArgMin": "argmin"}[node.op_type]
    if last:
        size = sizes_of(x)[axis]
        if size is None:
            raise Refusal("the axis along which it looks for the last is open")
        features = low.call("flip", features, axis=axis)
    found = low.numpy(operator, features, axis=axis, keepdims=True)
    if last:
        found = low.scalar("_rminus_scalar", found, size - 1)
    low.set(node.outputs[0], found if attribute(node, "keepdims") else low.shaped(found, node.outputs[0], node.name))


@lowers("CumSum")
def cumulative(low: Lowering, node: Node) -> None:
    """Lower CumSum; an exclusive one is moved by one place, so that no number is subtracted again."""
    x, given = operands(node, 2)
    axis = low.integers(given, "axes")[0] % low.rank(x)
    backwards = bool(attribute(node, "reverse"))
    features = low.symbol(x)
    features = low.call("flip", features, axis=axis) if backwards else features
    total = low.call("cumsum", features, axis=axis)
    if attribute(node, "exclusive"):
        zeros = low.call("zeros_like", low.sliced(total, axis, 0, 1))
        total = low.call("concat", zeros, total, dim=axis)
        total = low.sliced(total, axis, 0, -1)
    low.set(node.outputs[0], low.call("flip", total, axis=axis) if backwards else total)


@lowers("TopK")
def top_k(low: Lowering, node: Node) -> None:
    """Lower TopK."""
    x, count = operands(node, 2)
    (k,) = low.integers(count, "number of elements")
    options = {"axis": attribute(node, "axis"), "is_ascend": not attribute(node, "largest")}
    both = low.call("topk", low.symbol(x), name=node.name, k=k, ret_typ="both", dtype="int64", **options)
    for index, output in enumerate(node.outputs):
        low.set(output, both[index])
