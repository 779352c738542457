"""Channels that are one number throughout, whatever goes into the network: what a filter of zeros becomes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar

import numpy as np
import onnx_ir
from onnx_ir import Node, Value

from mopruning.ir.attributes import attribute
from mopruning.ir.coupling.groups import Coupling
from mopruning.ir.coupling.shaping import last_axes, segments
from mopruning.ir.coupling.walk import Sizes
from mopruning.ir.nodes import cast_type, even_parts, pad_amounts
from mopruning.ir.passes.constant_functions import FUNCTIONS, OPERATIONS
from mopruning.ir.passes.constants import constant
from mopruning.ir.passes.linear_layers import linear_layer

Floats: TypeAlias = "np.ndarray[Any, np.dtype[np.float64]]"
"""float64, as many axes as the value has: the number that stands there throughout, NaN for one that depends on the
input. An axis of size 1 stands for the whole axis: its elements are all the same."""

Rule: TypeAlias = "Callable[[ConstantChannels, Node], Sequence[Floats] | Floats | None]"
R = TypeVar("R", bound="Rule")

RULES: dict[str, Rule] = {}
"""Operator -> what it makes of constant channels; what is not in it makes something that is not known."""

_FLOATS = (onnx_ir.DataType.FLOAT, onnx_ir.DataType.DOUBLE)


class ConstantChannels:
    """The constant channels of every value of a graph.

    Args:
        graph: The graph; its weights are read.
        found: The analysis of its channels.
    """

    def __init__(self, graph: onnx_ir.Graph, found: Coupling) -> None:
        self.found = found
        self._known: dict[Value, Floats] = {}
        for node in graph:
            rule = None if node.domain else RULES.get(node.op_type)
            if rule is None:
                continue
            with np.errstate(all="ignore"):
                made = rule(self, node)
            for value, array in zip(node.outputs, [made] if isinstance(made, np.ndarray) else made or (), strict=False):
                known = np.where(np.isfinite(array), array, np.nan)
                if _fits(known, self.shape(value)) and not np.isnan(known).all():
                    self._known[value] = known

    def of(self, value: Value | None, axis: int, size: int) -> Floats:
        """Return the constants along an axis of a value, float64 [size]; NaN where not all along the others agree."""
        array = None if value is None else self.array(value)
        if array is None or axis >= array.ndim or array.shape[axis] not in (1, size):
            return np.full(size, np.nan)
        rows = np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)
        if not rows.shape[1]:
            return np.full(size, np.nan)
        alike = np.where((rows == rows[:, :1]).all(1), rows[:, 0], np.nan)
        return np.broadcast_to(alike, size).astype(np.float64)

    def array(self, value: Value) -> Floats | None:
        """Return what is known of a value; None if nothing is."""
        if value in self._known:
            return self._known[value]
        if value.is_graph_input() or (value.const_value is None and value.producer() is None):
            return None
        array = constant(value)
        if array is None or array.dtype.kind not in "fV":  # V: bfloat16
            return None
        return array.astype(np.float64)

    def operand(self, node: Node, index: int) -> Floats:
        """Return what is known of an input; NaN if nothing is."""
        value = node.inputs[index] if len(node.inputs) > index else None
        array = None if value is None else self.array(value)
        if array is not None:
            return array
        shape = None if value is None else self.shape(value)
        return np.full((1,) * (0 if shape is None else len(shape)), np.nan)

    def shape(self, value: Value | None) -> Sizes | None:
        """Return the shape of a value as far as it is known."""
        if value is None:
            return None
        if value.const_value is not None:
            return tuple(value.const_value.shape.numpy())
        return self.found.shapes.get(value)


def _fits(array: Floats, shape: Sizes | None) -> bool:
    return (
        shape is not None
        and array.ndim == len(shape)
        and all(a in (1, b) for a, b in zip(array.shape, shape, strict=True))
    )


def _alike(array: Floats, axes: Sequence[int]) -> Floats:
    """Return an array of size 1 along some axes: the number that stands all along them, NaN if there are several."""
    for axis in axes:
        if array.shape[axis] != 1:
            first = array.take([0], axis)
            array = np.where((array == first).all(axis, keepdims=True), first, np.nan)
    return array


def _rule(*operators: str) -> Callable[[R], R]:
    def enter(rule: R) -> R:
        RULES.update(dict.fromkeys(operators, rule))
        return rule

    return enter


@_rule("Conv", "ConvTranspose", "Gemm", "MatMul")
def _linear(known: ConstantChannels, node: Node) -> Floats | None:
    layer, shape = linear_layer(node, known.found), known.shape(node.outputs[0])
    if shape is None:
        return None
    if layer is None:
        return _product(known, node, len(shape)) if node.op_type == "MatMul" else None
    inputs = known.of(layer.value, layer.axis, layer.inputs).reshape(layer.groups, -1)
    made = layer.response(inputs).reshape(-1)
    if node.op_type != "MatMul" and len(node.inputs) > 2 and node.inputs[2] is not None:
        bias = known.operand(node, 2)
        if bias.size not in (1, made.size):
            return None
        made = made + bias.reshape(-1)
    return made.reshape([-1 if axis == layer.out_axis else 1 for axis in range(len(shape))])


def _product(known: ConstantChannels, node: Node, rank: int) -> Floats | None:
    """Rows or columns of zeros stay zeros, whatever they are multiplied with."""
    left, right = (known.operand(node, index) for index in (0, 1))
    if min(left.ndim, right.ndim) < 2:
        return None
    rows = (_alike(left, [left.ndim - 1]) == 0).all(tuple(range(left.ndim - 2)))  # [rows, 1]
    columns = (_alike(right, [right.ndim - 2]) == 0).all(tuple(range(right.ndim - 2)))  # [1, columns]
    return np.where(rows | columns, 0.0, np.nan).reshape([1] * (rank - 2) + [rows.shape[0], columns.shape[1]])


@_rule("BatchNormalization")
def _batch_norm(known: ConstantChannels, node: Node) -> Floats | None:
    x = known.operand(node, 0)
    if x.ndim < 2:
        return None
    scale, bias, mean, variance = (
        known.operand(node, index).reshape([1, -1, *[1] * (x.ndim - 2)]) for index in range(1, 5)
    )
    factor = scale / np.sqrt(variance + float(attribute(node, "epsilon")))
    return np.where(scale == 0, bias, (x - mean) * factor + bias)


@_rule("InstanceNormalization")
def _instance_norm(known: ConstantChannels, node: Node) -> Floats | None:
    x = known.operand(node, 0)
    if x.ndim < 3:
        return None
    x = _alike(x, range(2, x.ndim))
    scale, bias = (known.operand(node, index).reshape([1, -1, *[1] * (x.ndim - 2)]) for index in (1, 2))
    return np.where((scale == 0) | (x == 0), bias, np.nan)  # of other numbers, the mean is not exact


@_rule("Clip")
def _clip(known: ConstantChannels, node: Node) -> Floats:
    x = known.operand(node, 0)
    for index, limit in ((1, np.maximum), (2, np.minimum)):
        if len(node.inputs) > index and node.inputs[index] is not None:
            x = limit(x, known.operand(node, index))
    return x


@_rule(*FUNCTIONS)
def _apply(known: ConstantChannels, node: Node) -> Floats:
    x = known.operand(node, 0)
    return np.where(np.isnan(x), np.nan, FUNCTIONS[node.op_type](node)(x))


@_rule(*OPERATIONS)
def _combine(known: ConstantChannels, node: Node) -> Floats:
    result = known.operand(node, 0)
    for index in range(1, len(node.inputs)):
        result = OPERATIONS[node.op_type](result, known.operand(node, index))
    return result


@_rule("Identity", "Dropout")
def _as_it_is(known: ConstantChannels, node: Node) -> Floats:
    return known.operand(node, 0)


@_rule("Cast")
def _cast(known: ConstantChannels, node: Node) -> Floats | None:
    return known.operand(node, 0) if cast_type(node) in _FLOATS else None


@_rule("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Resize")
def _pool(known: ConstantChannels, node: Node) -> Floats:
    x = known.operand(node, 0)
    x = _alike(x, range(2, x.ndim))
    padded = (
        node.op_type == "AveragePool" and attribute(node, "count_include_pad") and any(attribute(node, "pads", [0]))
    )
    return np.where(x == 0, x, np.nan) if padded else x


@_rule("ReduceMean", "ReduceMax", "ReduceMin")
def _reduce(known: ConstantChannels, node: Node) -> Floats | None:
    x = known.operand(node, 0)
    given = constant(node.inputs[1]) if len(node.inputs) > 1 and node.inputs[1] is not None else None
    if given is None:
        return None
    axes = [int(axis) % x.ndim for axis in given.reshape(-1)]
    result = _alike(x, axes)
    return result if attribute(node, "keepdims") else result.squeeze(tuple(axes))


@_rule("Transpose")
def _transpose(known: ConstantChannels, node: Node) -> Floats:
    return known.operand(node, 0).transpose(attribute(node, "perm"))


@_rule("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def _reshape(known: ConstantChannels, node: Node) -> Floats | None:
    x, before, after = known.operand(node, 0), known.shape(node.inputs[0]), known.shape(node.outputs[0])
    if before is None or after is None or len(before) != x.ndim:
        return None
    whole, target = list(x.shape), [1] * len(after)
    for old, new in segments(before, after):
        if all(x.shape[axis] == 1 for axis in old):
            continue
        sizes, wanted = [before[axis] for axis in old], [after[axis] for axis in new]
        if not all(isinstance(size, int) for size in (*sizes, *wanted)):
            last = last_axes(sizes[-1], wanted[-1])
            if last is None or any(x.shape[axis] != 1 for axis in range(x.ndim) if axis != old[-1]):
                return None
            numbers = x.reshape(-1)[last]
            numbers = np.where((numbers == numbers[:, :1]).all(1), numbers[:, 0], np.nan)
            return numbers.reshape([-1 if axis == new[-1] else 1 for axis in range(len(after))])
        for axis in old:
            whole[axis] = int(before[axis])
        for axis in new:
            target[axis] = int(after[axis])
    result = np.broadcast_to(x, whole).reshape(target)
    for axis in range(result.ndim):  # what is the same all along an axis needs no room
        first = result.take([0], axis)
        if ((result == first) | (np.isnan(result) & np.isnan(first))).all():
            result = first
    return result


@_rule("Concat")
def _concat(known: ConstantChannels, node: Node) -> Floats | None:
    parts, shapes = [known.operand(node, i) for i in range(len(node.inputs))], [known.shape(v) for v in node.inputs]
    own = int(attribute(node, "axis")) % max(1, parts[0].ndim)
    sizes = [None if shape is None else shape[own] for shape in shapes]
    if not all(isinstance(size, int) for size in sizes):
        return None
    others = np.broadcast_shapes(*(part.take([0], own).shape for part in parts))
    whole = [(*others[:own], int(size or 0), *others[own + 1 :]) for size in sizes]
    return np.concatenate([np.broadcast_to(part, shape) for part, shape in zip(parts, whole, strict=True)], own)


@_rule("Split")
def _split(known: ConstantChannels, node: Node) -> list[Floats] | None:
    x, shape = known.operand(node, 0), known.shape(node.inputs[0])
    own = int(attribute(node, "axis")) % max(1, x.ndim)
    given = constant(node.inputs[1]) if len(node.inputs) > 1 and node.inputs[1] is not None else None
    if x.shape[own] == 1 or shape is None:
        return [x] * len(node.outputs)
    sizes = even_parts(x.shape[own], len(node.outputs)) if given is None else given.reshape(-1).tolist()
    return np.split(x, np.cumsum(sizes)[:-1], own)


@_rule("Slice")
def _slice(known: ConstantChannels, node: Node) -> Floats | None:
    x = known.operand(node, 0)
    starts, ends, axes, steps = ([*(constant(v) for v in node.inputs[1:]), None, None])[:4]
    if (
        starts is None
        or ends is None
        or (len(node.inputs) > 3 and axes is None)
        or (len(node.inputs) > 4 and steps is None)
    ):
        return None
    named = range(starts.size) if axes is None else axes.reshape(-1).tolist()
    for number, axis in enumerate(named):
        if x.shape[axis] != 1:
            step = 1 if steps is None else int(steps.reshape(-1)[number])
            if step < 1:
                return None
            places = range(x.shape[axis])[int(starts.reshape(-1)[number]) : int(ends.reshape(-1)[number]) : step]
            x = x.take(np.array(places, np.int64), axis)
    return x


@_rule("Gather")
def _gather(known: ConstantChannels, node: Node) -> Floats | None:
    x, indices = known.operand(node, 0), constant(node.inputs[1])
    own = int(attribute(node, "axis")) % max(1, x.ndim)
    if indices is None or indices.ndim > 1:
        return None
    if x.shape[own] == 1:
        return x if indices.ndim else x.squeeze(own)
    return x.take(indices.astype(np.int64), own)


@_rule("Expand")
def _expand(known: ConstantChannels, node: Node) -> Floats | None:
    x, shape = known.operand(node, 0), known.shape(node.outputs[0])
    return None if shape is None or len(shape) < x.ndim else x.reshape((1,) * (len(shape) - x.ndim) + x.shape)


@_rule("Tile")
def _tile(known: ConstantChannels, node: Node) -> Floats | None:
    x, repeats = known.operand(node, 0), constant(node.inputs[1])
    if repeats is None:
        return None
    return np.tile(x, [int(n) if size > 1 else 1 for n, size in zip(repeats.reshape(-1), x.shape, strict=True)])


@_rule("Pad")
def _pad(known: ConstantChannels, node: Node) -> Floats | None:
    x, shape, amounts = known.operand(node, 0), known.shape(node.inputs[0]), constant(node.inputs[1])
    fill = float(known.operand(node, 2).reshape(-1)[0]) if len(node.inputs) > 2 and node.inputs[2] is not None else 0.0
    axes = constant(node.inputs[3]) if len(node.inputs) > 3 and node.inputs[3] is not None else None
    if amounts is None or shape is None:
        return None
    starts, ends = pad_amounts(
        amounts.reshape(-1).tolist(), None if axes is None else axes.reshape(-1).tolist(), x.ndim, 0
    )
    channels = known.found.tracks.get(node.outputs[0], {})
    for axis, (front, back) in enumerate(zip(starts, ends, strict=True)):
        if min(front, back) < 0:
            return None
        if not front and not back:
            continue
        if attribute(node, "mode") != "constant":
            x = _alike(x, [axis])
        elif x.shape[axis] == 1 and not (axis in channels and isinstance(shape[axis], int)):
            x = np.where(x == fill, x, np.nan)
        else:  # of channels, what is added is known even where the others are not
            if x.shape[axis] == 1:
                x = np.repeat(x, int(shape[axis]), axis)
            x = np.pad(x, [(front, back) if other == axis else (0, 0) for other in range(x.ndim)], constant_values=fill)
    return x


@_rule("SpaceToDepth", "DepthToSpace")
def _blocks(known: ConstantChannels, node: Node) -> Floats:
    x = known.operand(node, 0)
    x = _alike(x, range(2, x.ndim))
    size = int(attribute(node, "blocksize")) ** 2
    if x.ndim < 2 or x.shape[1] == 1:
        return x
    if node.op_type == "SpaceToDepth":
        return np.tile(x, (1, size, 1, 1))
    split = (x.shape[0], -1, size, 1, 1) if attribute(node, "mode") == "CRD" else (x.shape[0], size, -1, 1, 1)
    axis = 2 if attribute(node, "mode") == "CRD" else 1
    return _alike(x.reshape(split), [axis]).squeeze(axis)
