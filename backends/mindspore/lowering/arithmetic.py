"""Operators that work element by element, activations and reductions."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce

import onnx_ir
from onnx_ir import Node

from mopruning.backends.mindspore.lowering.context import Lowering, dtype_of, literal, ms_dtype
from mopruning.ir.attributes import attribute
from mopruning.ir.lowering import Refusal, lowers, operands, sizes_of
from mopruning.ir.nodes import is_usual_selu

_UNARY: Mapping[str, str] = {
    "Relu": "ops.relu({})",
    "Sigmoid": "ops.sigmoid({})",
    "Tanh": "ops.tanh({})",
    "HardSwish": "{0} * ops.clamp({0} / 6 + 0.5, 0.0, 1.0)",
    "Mish": "{0} * ops.tanh(ops.softplus({0}))",
    "Softplus": "ops.softplus({})",
    "Abs": "ops.abs({})",
    "Neg": "-{}",
    "Sign": "ops.sign({})",
    "Sqrt": "ops.sqrt({})",
    "Reciprocal": "ops.reciprocal({})",
    "Exp": "ops.exp({})",
    "Log": "ops.log({})",
    "Erf": "ops.erf({})",
    "Sin": "ops.sin({})",
    "Cos": "ops.cos({})",
    "Floor": "ops.floor({})",
    "Ceil": "ops.ceil({})",
    "Round": "ops.round({})",
    "IsNaN": "ops.isnan({})",
    "Not": "ops.logical_not({})",
}
"""Operators of one tensor and nothing else."""

_BINARY: Mapping[str, str] = {
    "Add": "{} + {}",
    "Sub": "{} - {}",
    "Mul": "{} * {}",
    "Div": "{} / {}",
    "Equal": "ops.equal({}, {})",
    "Greater": "ops.greater({}, {})",
    "GreaterOrEqual": "ops.greater_equal({}, {})",
    "Less": "ops.less({}, {})",
    "LessOrEqual": "ops.less_equal({}, {})",
    "And": "ops.logical_and({}, {})",
    "Or": "ops.logical_or({}, {})",
    "Xor": "ops.logical_xor({}, {})",
    "Mod": "ops.floor_mod({}, {})",
}
_VARIADIC: Mapping[str, str] = {"Min": "ops.minimum({}, {})", "Max": "ops.maximum({}, {})", "Sum": "{} + {}"}
_REDUCTIONS: Mapping[str, str] = {
    "ReduceMean": "ops.mean({}, AXES, KEEP)",
    "ReduceSum": "ops.sum({}, AXES, KEEP)",
    "ReduceMax": "ops.amax({}, AXES, KEEP)",
    "ReduceMin": "ops.amin({}, AXES, KEEP)",
    "ReduceLogSumExp": "ops.logsumexp({}, AXES, KEEP)",
    "ReduceL1": "ops.sum(ops.abs({}), AXES, KEEP)",
    "ReduceL2": "ops.sqrt(ops.sum(ops.square({}), AXES, KEEP))",
    "ReduceSumSquare": "ops.sum(ops.square({}), AXES, KEEP)",
}


@lowers(*_UNARY)
def unary(low: Lowering, node: Node) -> None:
    """Lower an operator of one tensor."""
    (x,) = operands(node, 1)
    low.put(node, _UNARY[node.op_type], low.tensor(x))


@lowers(*_BINARY)
def binary(low: Lowering, node: Node) -> None:
    """Lower an operator of two operands, of which one may be a number."""
    left, right = operands(node, 2)
    template = _BINARY[node.op_type]
    whole = left.dtype is not None and not left.dtype.is_floating_point()
    if node.op_type == "Div" and whole:
        template = 'ops.div({}, {}, rounding_mode="trunc")'
    if node.op_type == "Mod" and attribute(node, "fmod"):
        template = '{0} - ops.div({0}, {1}, rounding_mode="trunc") * {1}'
    if node.op_type in ("Add", "Sub", "Mul", "Div") and not whole:
        a, b = low.operand(left), low.operand(right)
    else:
        a, b = low.tensor(left), low.tensor(right)
    low.put(node, template, a, b)


@lowers(*_VARIADIC)
def variadic(low: Lowering, node: Node) -> None:
    """Lower Min, Max and Sum of any number of operands."""
    template = _VARIADIC[node.op_type]
    tensors = [low.tensor(value) for value in operands(node, 1)]
    low.set(node.outputs[0], reduce(lambda a, b: low.emit(template, a, b), tensors))


@lowers("Pow")
def power(low: Lowering, node: Node) -> None:
    """Lower Pow, whose result has the type of the base."""
    base, exponent = operands(node, 2)
    number = low.constant(exponent)
    if number is not None and number.size == 1 and number.reshape(-1)[0] == 2:
        low.put(node, "ops.square({})", low.tensor(base))
        return
    result = low.emit("ops.pow({}, {})", low.tensor(base), low.operand(exponent))
    if base.dtype != exponent.dtype:
        result = low.emit(f"{{}}.astype({dtype_of(base)})", result)
    low.set(node.outputs[0], result)


@lowers("Where")
def where(low: Lowering, node: Node) -> None:
    """Lower Where."""
    low.put(node, "ops.where({}, {}, {})", *(low.tensor(value) for value in operands(node, 3)))


@lowers("Clip")
def clip(low: Lowering, node: Node) -> None:
    """Lower Clip."""
    x, *bounds = operands(node, 3)
    lowest, highest = (None if value is None else low.operand(value) for value in bounds)
    if (lowest, highest) == (None, None):
        low.set(node.outputs[0], low.get(x))
        return
    if any(bound is not None and not _is_number(bound.text) for bound in (lowest, highest)):
        result = low.tensor(x)
        result = result if lowest is None else low.emit("ops.maximum({}, {})", result, lowest)
        low.set(node.outputs[0], result if highest is None else low.emit("ops.minimum({}, {})", result, highest))
        return
    ends = ", ".join("None" if bound is None else bound.text for bound in (lowest, highest))
    low.put(node, f"ops.clamp({{}}, {ends})", low.tensor(x))


def _is_number(text: str) -> bool:
    return bool(text) and not text.startswith("self.")


@lowers("Cast", "CastLike")
def cast(low: Lowering, node: Node) -> None:
    """Lower Cast and CastLike."""
    x, *like = operands(node, 1)
    asked = None if like else onnx_ir.DataType(attribute(node, "to"))
    dtype = dtype_of(like[0]) if asked is None else ms_dtype(asked.numpy().name)
    low.put(node, f"{{}}.astype({dtype})", low.tensor(x))


@lowers("Identity")
def identity(low: Lowering, node: Node) -> None:
    """Lower Identity to nothing."""
    (x,) = operands(node, 1)
    low.set(node.outputs[0], low.get(x))


@lowers("LeakyRelu", "Elu", "Selu", "Gelu", "HardSigmoid", "Softmax", "LogSoftmax")
def activation(low: Lowering, node: Node) -> None:
    """Lower an activation with attributes."""
    (x,) = operands(node, 1)
    alpha, beta = attribute(node, "alpha"), attribute(node, "beta")
    if node.op_type == "LeakyRelu":
        text = f"ops.leaky_relu({{}}, {alpha!r})"
    elif node.op_type == "Elu":
        text = "ops.elu({})" if alpha == 1.0 else f"ops.relu({{0}}) + {alpha!r} * (ops.exp(-ops.relu(-{{0}})) - 1)"
    elif node.op_type == "Selu":
        gamma = attribute(node, "gamma")
        curve = f"{gamma!r} * (ops.relu({{0}}) + {alpha!r} * (ops.exp(-ops.relu(-{{0}})) - 1))"
        text = "ops.selu({})" if is_usual_selu(node) else curve
    elif node.op_type == "Gelu":
        text = f"ops.gelu({{}}, {attribute(node, 'approximate')!r})"
    elif node.op_type == "HardSigmoid":
        text = f"ops.clamp({{}} * {alpha!r} + {beta!r}, 0.0, 1.0)"
    else:
        function = {"Softmax": "softmax", "LogSoftmax": "log_softmax"}[node.op_type]
        text = f"ops.{function}({{}}, {attribute(node, 'axis')})"
    low.put(node, text, low.tensor(x))


@lowers(*_REDUCTIONS, "ReduceProd")
def reduction(low: Lowering, node: Node) -> None:
    """Lower a reduction over some axes, or all."""
    x, keep, axes = operands(node)[0], bool(attribute(node, "keepdims")), low.reduced_axes(node)
    if axes is None:
        low.set(node.outputs[0], low.get(x))
        return
    if node.op_type == "ReduceProd":
        result = low.tensor(x)
        for axis in reversed(axes):
            result = low.emit(f"ops.prod({{}}, {axis}, {keep})", result)
        low.set(node.outputs[0], result)
        return
    template = _REDUCTIONS[node.op_type].replace("AXES", literal(tuple(axes))).replace("KEEP", str(keep))
    low.put(node, template, low.tensor(x))


@lowers("ArgMax", "ArgMin")
def extreme(low: Lowering, node: Node) -> None:
    """Lower ArgMax and ArgMin."""
    (x,) = operands(node, 1)
    axis, keep = attribute(node, "axis") % low.rank(x), bool(attribute(node, "keepdims"))
    features = low.tensor(x)
    function = "ops.argmax" if node.op_type == "ArgMax" else "ops.argmin"
    if attribute(node, "select_last_index"):
        size = sizes_of(x)[axis]
        if size is None:
            raise Refusal("the last index on an axis of open size; give the graph's inputs shapes")
        features = low.emit(f"ops.flip({{}}, ({axis},))", features)
        low.put(node, f"{size - 1} - {function}({{}}, {axis}, {keep}).astype(ms.int64)", features)
        return
    low.put(node, f"{function}({{}}, {axis}, {keep}).astype(ms.int64)", features)


@lowers("CumSum")
def cumulative(low: Lowering, node: Node) -> None:
    """Lower CumSum."""
    x, axis = operands(node, 2)
    (number,) = low.integers(axis, "axis")
    options = [name for name in ("exclusive", "reverse") if attribute(node, name)]
    built = f"ops.CumSum({', '.join(f'{name}=True' for name in options)})"
    function = low.primitive(built, "_".join(["cumsum", *options]))
    low.put(node, f"{function}({{}}, {number % low.rank(x)})", low.tensor(x))


@lowers("TopK")
def top_k(low: Lowering, node: Node) -> None:
    """Lower TopK."""
    x, count = operands(node, 2)
    (k,) = low.integers(count, "number of elements")
    options = f"{k}, {attribute(node, 'axis')}, {bool(attribute(node, 'largest'))}, True"
    both = low.emit(f"ops.topk({{}}, {options})", low.tensor(x))
    low.set(node.outputs[0], low.emit("{}[0]", both))
    low.set(node.outputs[1], low.emit("{}[1].astype(ms.int64)", both))
