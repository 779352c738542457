"""Operations that work element by element, activations and reductions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from onnx_ir import Value

from mopruning.backends.tensorflow1.exporting import dense
from mopruning.backends.tensorflow1.exporting.context import (
    Operation,
    Order,
    Tensor,
    Translation,
    name_of,
    numbers,
    rank_of,
)
from mopruning.backends.tensorflow1.exporting.fixed import static
from mopruning.backends.tensorflow1.exporting.neighbours import only_user
from mopruning.backends.tensorflow1.orders import Held, plain
from mopruning.ir.assembly import data_type
from mopruning.ir.attributes import shortest
from mopruning.ir.lowering import Refusal

UNARY: Mapping[str, str] = {
    "Relu": "Relu",
    "Sigmoid": "Sigmoid",
    "Tanh": "Tanh",
    "Softplus": "Softplus",
    "Selu": "Selu",
    "Abs": "Abs",
    "Neg": "Neg",
    "Sign": "Sign",
    "Sqrt": "Sqrt",
    "Reciprocal": "Reciprocal",
    "Inv": "Reciprocal",
    "Exp": "Exp",
    "Log": "Log",
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
"""Operations of one tensor and nothing else -> ONNX's name."""

BINARY: Mapping[str, str] = {
    "Add": "Add",
    "AddV2": "Add",
    "Sub": "Sub",
    "Mul": "Mul",
    "RealDiv": "Div",
    "Div": "Div",
    "TruncateDiv": "Div",
    "Pow": "Pow",
    "Maximum": "Max",
    "Minimum": "Min",
    "Equal": "Equal",
    "Greater": "Greater",
    "GreaterEqual": "GreaterOrEqual",
    "Less": "Less",
    "LessEqual": "LessOrEqual",
    "LogicalAnd": "And",
    "LogicalOr": "Or",
    "FloorMod": "Mod",
    "Mod": "Mod",
    "TruncateMod": "Mod",
    "AddN": "Sum",
    "SelectV2": "Where",
}
"""Operations whose operands broadcast -> ONNX's name."""

_REDUCTIONS = {"Mean": "ReduceMean", "Sum": "ReduceSum", "Max": "ReduceMax", "Min": "ReduceMin", "Prod": "ReduceProd"}
REDUCTIONS: Mapping[str, str] = _REDUCTIONS


def each(ctx: Translation, operation: Operation, kind: str, *operands: Value, **attributes: Any) -> None:
    """Add a function of each element of the first input, which leaves axes and features where they lie."""
    held = ctx.held(operation.inputs[0])
    value = ctx.net.node(kind, name_of(operation), [held.tensor, *operands], attributes)
    ctx.put(operation.outputs[0], Held(value, held.order, held.scatter))


def unary(ctx: Translation, operation: Operation) -> None:
    """Add an operation of one tensor."""
    each(ctx, operation, UNARY[operation.type])


def activation(ctx: Translation, operation: Operation) -> None:
    """Add an operation that ONNX says with attributes, or with several operators."""
    x, name = ctx.held(operation.inputs[0]), name_of(operation)
    kind = operation.type

    def scalar(what: str, number: float) -> Value:
        return ctx.net.constant(f"{name}.{what}", number, operation.inputs[0].dtype.as_numpy_dtype)

    if kind == "Relu6":
        each(ctx, operation, "Clip", scalar("min", 0), scalar("max", 6))
    elif kind == "LeakyRelu":
        each(ctx, operation, "LeakyRelu", alpha=shortest(float(operation.get_attr("alpha"))))
    elif kind == "Elu":
        each(ctx, operation, "Elu", alpha=1.0)
    else:
        before, after = {
            "Rsqrt": ("Sqrt", "Reciprocal"),
            "Expm1": ("Exp", "Sub"),
            "Log1p": ("Add", "Log"),
            "Square": ("", "Mul"),
            "Softsign": ("Abs", "Div"),
        }[kind]
        first = x.tensor
        if kind == "Log1p":
            first = ctx.net.node("Add", f"{name}.plus", [first, scalar("one", 1)])
        elif before:
            first = ctx.net.node(before, f"{name}.{before.lower()}", [first])
        if kind == "Softsign":
            first = ctx.net.node("Add", f"{name}.plus", [first, scalar("one", 1)])
        operands = {
            "Expm1": lambda: [first, scalar("one", 1)],
            "Square": lambda: [first, first],
            "Softsign": lambda: [x.tensor, first],
        }.get(kind, lambda: [first])()
        ctx.put(operation.outputs[0], Held(ctx.net.node(after, name, operands), x.order, x.scatter))


def softmax(ctx: Translation, operation: Operation) -> None:
    """Add Softmax and LogSoftmax, which work on the last axis."""
    x = operation.inputs[0]
    order = own_order(ctx, x)
    axis = order.index(rank_of(x) - 1)
    value = ctx.net.node(operation.type, name_of(operation), [ctx.value(x, order)], {"axis": axis})
    ctx.put(operation.outputs[0], value, order)


def own_order(ctx: Translation, tensor: Tensor) -> Order:
    """Return the order in which a tensor's value lies; of scattered features, the plain one."""
    held = ctx.held(tensor)
    return held.order if held.scatter is None else plain(rank_of(tensor))


def binary(ctx: Translation, operation: Operation) -> None:
    """Add an operation whose operands broadcast; one that is the end of a batch normalisation is all of it."""
    if operation.type in ("Add", "AddV2") and _norm(ctx, operation):
        return
    kind = BINARY[operation.type]
    result = operation.outputs[0]
    tensors = list(operation.inputs)
    scattered = _elementwise_scatter(ctx, operation)
    if scattered is not None:
        ctx.put(result, scattered)
        return
    values, order = ctx.together(tensors, result)
    attributes: dict[str, Any] = {}
    if kind == "Mod" and (operation.type == "TruncateMod" or (operation.type == "Mod" and tensors[0].dtype.is_integer)):
        attributes["fmod"] = 1
    elif kind == "Mod" and tensors[0].dtype.is_floating:
        ctx.put(result, _floor_mod(ctx, operation, values), order)
        return
    if operation.type == "Div" and tensors[0].dtype.is_integer:
        raise Refusal("it divides whole numbers downwards, ONNX does so towards zero")
    ctx.put(result, ctx.net.node(kind, name_of(operation), values, attributes), order)


def _elementwise_scatter(ctx: Translation, operation: Operation) -> Held[Value] | None:
    """Return what computes with scattered features and a number; None if it is anything else."""
    found = [ctx.given(tensor) for tensor in operation.inputs]
    scattered = [held for held in found if isinstance(held, Held) and held.scatter is not None]
    if len(scattered) != 1 or sum(tensor.shape.rank == 0 for tensor in operation.inputs) != len(found) - 1:
        return None
    helds = [ctx.held(tensor) for tensor in operation.inputs]
    value = ctx.net.node(BINARY[operation.type], name_of(operation), [held.tensor for held in helds])
    return Held(value, scattered[0].order, scattered[0].scatter)


def _floor_mod(ctx: Translation, operation: Operation, values: list[Value]) -> Value:
    """Return the remainder of a division downwards, which ONNX has for whole numbers alone."""
    name = name_of(operation)
    ratio = ctx.net.node("Div", f"{name}.ratio", values)
    whole = ctx.net.node("Mul", f"{name}.whole", [ctx.net.node("Floor", f"{name}.floor", [ratio]), values[1]])
    return ctx.net.node("Sub", name, [values[0], whole])


def squared_difference(ctx: Translation, operation: Operation) -> None:
    """Add SquaredDifference."""
    values, order = ctx.together(list(operation.inputs), operation.outputs[0])
    change = ctx.net.node("Sub", f"{name_of(operation)}.difference", values)
    ctx.put(operation.outputs[0], ctx.net.node("Mul", name_of(operation), [change, change]), order)


def not_equal(ctx: Translation, operation: Operation) -> None:
    """Add NotEqual."""
    values, order = ctx.together(list(operation.inputs), operation.outputs[0])
    same = ctx.net.node("Equal", f"{name_of(operation)}.equal", values)
    ctx.put(operation.outputs[0], ctx.net.node("Not", name_of(operation), [same]), order)


def floor_div(ctx: Translation, operation: Operation) -> None:
    """Add FloorDiv."""
    values, order = ctx.together(list(operation.inputs), operation.outputs[0])
    if operation.inputs[0].dtype.is_integer:
        name = name_of(operation)
        quotient = ctx.net.node("Div", f"{name}.quotient", values)
        rest = ctx.net.node("Mod", f"{name}.rest", values, {"fmod": 0})
        whole = ctx.net.node("Sub", f"{name}.whole", [values[0], rest])
        del quotient
        ctx.put(operation.outputs[0], ctx.net.node("Div", name, [whole, values[1]]), order)
        return
    ratio = ctx.net.node("Div", f"{name_of(operation)}.ratio", values)
    ctx.put(operation.outputs[0], ctx.net.node("Floor", name_of(operation), [ratio]), order)


def select(ctx: Translation, operation: Operation) -> None:
    """Add Select, whose condition may be one number for each first axis."""
    condition = operation.inputs[0]
    if rank_of(condition) not in (0, rank_of(operation.outputs[0])):
        raise Refusal("its condition has one axis, and its operands have more")
    binary_as(ctx, operation, "Where")


def binary_as(ctx: Translation, operation: Operation, kind: str) -> None:
    """Add an operation whose operands broadcast, under ONNX's name."""
    values, order = ctx.together(list(operation.inputs), operation.outputs[0])
    ctx.put(operation.outputs[0], ctx.net.node(kind, name_of(operation), values), order)


def clip(ctx: Translation, operation: Operation) -> None:
    """Add ClipByValue."""
    low, high = operation.inputs[1:]
    if rank_of(low) or rank_of(high):
        raise Refusal("its bounds are no single numbers")
    each(ctx, operation, "Clip", ctx.value(low), ctx.value(high))


def cast(ctx: Translation, operation: Operation) -> None:
    """Add Cast."""
    dtype = operation.outputs[0].dtype
    try:
        number = data_type(dtype.as_numpy_dtype)
    except (TypeError, KeyError):
        raise Refusal(f"{dtype.name} is no type of the profile") from None
    each(ctx, operation, "Cast", to=int(number))


def filled_like(ctx: Translation, operation: Operation) -> None:
    """Add ZerosLike and OnesLike."""
    x = ctx.held(operation.inputs[0])
    name = name_of(operation)
    number = 1 if operation.type == "OnesLike" else 0
    shape = ctx.net.node("Shape", f"{name}.shape", [x.tensor])
    filler = ctx.net.constant(f"{name}.value", number, operation.outputs[0].dtype.as_numpy_dtype)
    ctx.put(operation.outputs[0], Held(ctx.net.node("Expand", name, [filler, shape]), x.order))


def reduction(ctx: Translation, operation: Operation) -> None:
    """Add a reduction; the mean of an image over height and width is GlobalAveragePool."""
    x, axes = operation.inputs
    rank, keep = rank_of(x), bool(operation.get_attr("keep_dims"))
    gone = {axis % rank for axis in numbers(axes, "axes")} if rank else set()
    order, result = own_order(ctx, x), operation.outputs[0]
    value = ctx.value(x, order)
    kept = [axis for axis in order if axis not in gone]
    result_order = order if keep else tuple(sorted(kept).index(axis) for axis in kept)
    places = [place for place, axis in enumerate(order) if axis in gone]
    if not places:
        ctx.put(result, ctx.net.node("Identity", name_of(operation), [value]), order)
        return
    kind, image = REDUCTIONS[operation.type], rank if x.dtype.is_floating else None
    reduced = ctx.net.reduction(kind, name_of(operation), value, places, keepdims=keep, rank=image)
    ctx.put(result, reduced, result_order)


def extreme(ctx: Translation, operation: Operation) -> None:
    """Add ArgMax and ArgMin."""
    x, dimension = operation.inputs
    (axis,) = numbers(dimension, "axes")
    axis %= rank_of(x)
    order = own_order(ctx, x)
    kept = [other for other in order if other != axis]
    name = name_of(operation)
    attributes = {"axis": order.index(axis), "keepdims": 0}
    value = ctx.net.node(operation.type, name, [ctx.value(x, order)], attributes)
    value = ctx.net.index(f"{name}.cast", value, _index_type(operation.outputs[0]))
    ctx.put(operation.outputs[0], value, tuple(sorted(kept).index(other) for other in kept))


def _index_type(tensor: Tensor) -> Any:
    return np.int64 if tensor.dtype.as_numpy_dtype == np.int64 else np.int32


def cumulative(ctx: Translation, operation: Operation) -> None:
    """Add Cumsum."""
    x, axis = operation.inputs
    order = own_order(ctx, x)
    (number,) = numbers(axis, "axes")
    place = ctx.net.constant(f"{name_of(operation)}.axis", order.index(number % rank_of(x)))
    attributes = {name: int(operation.get_attr(name)) for name in ("exclusive", "reverse")}
    value = ctx.net.node("CumSum", name_of(operation), [ctx.value(x, order), place], attributes)
    ctx.put(operation.outputs[0], value, order)


def top_k(ctx: Translation, operation: Operation) -> None:
    """Add TopKV2, which works on the last axis."""
    x = operation.inputs[0]
    (k,) = numbers(operation.inputs[1], "numbers")
    name = name_of(operation)
    count = ctx.net.constant(f"{name}.k", [k])
    attributes = {"axis": -1, "largest": 1, "sorted": int(operation.get_attr("sorted"))}
    values, places = ctx.net.nodes("TopK", name, [ctx.value(x), count], 2, attributes)
    ctx.put(operation.outputs[0], values)
    ctx.put(operation.outputs[1], ctx.net.index(f"{name}.cast", places, _index_type(operation.outputs[1])))


def _norm(ctx: Translation, operation: Operation) -> bool:
    """Add the batch normalisation that an addition is the end of, as `tf.nn.batch_normalization` spells it.

    That is ``x * inv + (offset - mean * inv)``, with ``inv = rsqrt(variance + epsilon) * scale``.
    """
    for left, right in (list(operation.inputs), list(operation.inputs)[::-1]):
        found = _norm_parts(ctx, left.op, right.op)
        if found is None:
            continue
        x, given, epsilon = found
        rank = rank_of(x)
        if rank < 2 or any(tensor.shape.num_elements() != x.shape[-1] for tensor in given):
            continue
        value = dense.add_norm(ctx, operation, ctx.image(x) if rank > 2 else ctx.value(x), given, epsilon)
        if rank > 2:
            ctx.put_image(operation.outputs[0], value)
        else:
            ctx.put(operation.outputs[0], value)
        return True
    return False


def _norm_parts(ctx: Translation, scaled: Operation, shift: Operation) -> tuple[Tensor, list[Tensor], float] | None:
    if scaled.type != "Mul" or shift.type != "Sub" or only_user(scaled.outputs[0]) is None:
        return None
    offset, moved = shift.inputs
    if moved.op.type != "Mul":
        return None
    for x, inverse in (tuple(scaled.inputs), tuple(scaled.inputs)[::-1]):
        factors = [tensor.name for tensor in moved.op.inputs]
        if inverse.name not in factors or inverse.op.type != "Mul":
            continue
        mean = moved.op.inputs[1 - factors.index(inverse.name)]
        for root, scale in (tuple(inverse.op.inputs), tuple(inverse.op.inputs)[::-1]):
            if root.op.type != "Rsqrt" or root.op.inputs[0].op.type not in ("Add", "AddV2"):
                continue
            variance, epsilon = root.op.inputs[0].op.inputs
            number = static(epsilon)
            given = [scale, offset, mean, variance]
            if number is not None and number.size == 1 and all(ctx.weight_behind(one) is not None for one in given):
                return x, given, float(number.reshape(-1)[0])
    return None
