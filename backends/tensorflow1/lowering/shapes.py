"""Operators that arrange: shapes, axes, parts. What only turns axes adds nothing to the graph."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow.compat.v1 as tf
from onnx_ir import Node, Value

from mopruning.backends.tensorflow1.lowering.context import (
    Lowering,
    Order,
    Refusal,
    Tensor,
    tf_dtype,
)
from mopruning.backends.tensorflow1.orders import channels_last, ordered, plain, reshape_plan
from mopruning.ir.attributes import attribute
from mopruning.ir.lowering import lowers, operands
from mopruning.ir.nodes import FAR, even_parts, filler_of, pad_amounts


@lowers("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def reshape(low: Lowering, node: Node) -> None:
    """Lower Reshape, Flatten, Squeeze and Unsqueeze, which move nothing."""
    x = operands(node)[0]
    old, new = low.sizes(x), low.sizes(node.outputs[0])
    held = low.held(x)
    plan = None
    if held.scatter is None:
        plan = reshape_plan(held.order, old, new)
    name = low.scoped(node)
    with tf.name_scope(name):
        if plan is None:
            target = low.target(new, lambda: _computed_shape(low, node))
            low.put(node, tf.reshape(low.tensor(x), target, name=name))
            return
        tensor = low.turn(held, plan.before, old)
        target = [-1 if size is None else size for size in ordered(new, plan.order)]
        low.put(node, tf.reshape(tensor, target, name=name), plan.order, plan.scatter)


def _computed_shape(low: Lowering, node: Node) -> Tensor:
    """Return the shape of a reshape where more than one axis of it is open."""
    x, *rest = node.inputs
    assert x is not None
    shape = tf.shape(low.tensor(x))
    if node.op_type == "Reshape":
        if rest[0] is None:
            raise Refusal("its shape is missing")
        target = tf.cast(low.tensor(rest[0]), tf.int32)
        kept = tf.concat([shape, tf.ones_like(target)], 0)[: tf.size(target)]
        return target if attribute(node, "allowzero") else tf.where(tf.equal(target, 0), kept, target)
    if node.op_type == "Flatten":
        axis = attribute(node, "axis") % max(low.rank(x), 1)
        return tf.stack([tf.reduce_prod(shape[:axis]), tf.reduce_prod(shape[axis:])])
    sizes = low.sizes(node.outputs[0])
    open_ones = iter([axis for axis, size in enumerate(low.sizes(x)) if size is None])
    return tf.stack([shape[next(open_ones)] if size is None else size for size in sizes])


@lowers("Transpose")
def transpose(low: Lowering, node: Node) -> None:
    """Lower Transpose to nothing: what comes after it is told how the axes lie."""
    x = operands(node)[0]
    rank = low.rank(x)
    order = attribute(node, "perm", list(reversed(range(rank))))
    held = low.held(x)
    if held.scatter is not None:
        low.put(node, low.tensor(x), tuple(order))
        return
    low.put(node, held.tensor, tuple(order.index(axis) for axis in held.order))


@lowers("Concat")
def concat(low: Lowering, node: Node) -> None:
    """Lower Concat."""
    values = operands(node)
    rank = low.rank(node.outputs[0])
    order = _common_order(low, values, rank)
    place = order.index(attribute(node, "axis") % rank)
    low.put(node, tf.concat([low.tensor(value, order) for value in values], place, name=low.scoped(node)), order)


def _common_order(low: Lowering, values: Sequence[Value], rank: int) -> Order:
    """Return the order in which several values are joined: as images if one of them is, else as the first."""
    if any(low.is_image(value) for value in values):
        return channels_last(rank)
    held = low.held(values[0])
    return plain(rank) if held.scatter is not None else held.order


def _own_order(low: Lowering, value: Value) -> Order:
    held = low.held(value)
    return held.order if held.scatter is None else plain(low.rank(value))


@lowers("Split")
def split(low: Lowering, node: Node) -> None:
    """Lower Split."""
    x, given = operands(node, 2)
    order = _own_order(low, x)
    axis = attribute(node, "axis") % low.rank(x)
    if given is not None:
        parts = low.integers(given, "parts")
    else:
        size, count = low.sizes(x)[axis], len(node.outputs)
        if size is None:
            raise Refusal("it splits an axis of open size")
        parts = even_parts(size, count)
    place = order.index(axis)
    results = tf.split(low.tensor(x, order), parts, place, name=low.scoped(node))
    for output, result in zip(node.outputs, results, strict=True):
        low.put_value(output, result, order)


@lowers("Slice")
def slice_(low: Lowering, node: Node) -> None:
    """Lower Slice."""
    x, cuts = operands(node)[0], low.cuts(node)
    sizes, order = low.sizes(x), _own_order(low, x)
    ranges = [slice(None)] * len(sizes)
    for start, end, axis, step in cuts:
        ranges[order.index(axis)] = _range(start, end, step, sizes[axis])
    name = low.scoped(node)
    with tf.name_scope(name):
        low.put(node, tf.identity(low.tensor(x, order)[tuple(ranges)], name=name), order)


def _range(start: int, end: int, step: int, size: int | None) -> slice:
    """Return a slice with bounds as ONNX clamps them, which Python does alike but for the ends of a step back."""
    if size is not None:
        low, high = (0, size) if step > 0 else (-1, size - 1)
        start = min(max(start + size if start < 0 else start, max(low, 0)), high)
        end = min(max(end + size if end < 0 else end, low), high)
        if (end - start) * step <= 0:
            return slice(0, 0, 1)
        return slice(start, None if end < 0 else end, step)
    if step > 0:
        return slice(None if start <= -FAR else start or None, None if end >= FAR else end, step)
    return slice(None if start >= FAR else start, None if end <= -FAR + 1 else end, step)


@lowers("Gather")
def gather(low: Lowering, node: Node) -> None:
    """Lower Gather: rows of an embedding, one entry of an axis, or entries by an index."""
    x, index = operands(node)
    axis = attribute(node, "axis") % low.rank(x)
    name = low.scoped(node)
    with tf.name_scope(name):
        places = low.tensor(index)
        number = low.constant(index)
        features = low.weight(x, plain(low.rank(x)))
        if number is None or (number < 0).any():
            size = low.sizes(x)[axis]
            whole = tf.cast(tf.shape(features)[axis] if size is None else size, places.dtype)
            # on a CPU an index out of range is an error; ONNX counts negative ones from the end
            places = tf.where(places < 0, places + whole, places)
        low.put(node, tf.gather(features, places, axis=axis, name=name))


@lowers("GatherElements")
def gather_elements(low: Lowering, node: Node) -> None:
    """Lower GatherElements."""
    x, index = operands(node)
    rank = low.rank(x)
    axis = attribute(node, "axis") % rank
    name = low.scoped(node)
    with tf.name_scope(name):
        order = (*(other for other in range(rank) if other != axis), axis)
        features, places = low.tensor(x, order), low.tensor(index, order)
        if low.sizes(x)[:axis] + low.sizes(x)[axis + 1 :] != low.sizes(index)[:axis] + low.sizes(index)[axis + 1 :]:
            rows = tf.concat([tf.shape(places)[:-1], tf.shape(features)[-1:]], 0)
            features = tf.slice(features, [0] * rank, rows)  # the index may leave out rows at the end
        size = tf.cast(tf.shape(features)[-1], places.dtype)
        places = tf.where(places < 0, places + size, places)
        low.put(node, tf.gather(features, places, axis=rank - 1, batch_dims=rank - 1, name=name), order)


@lowers("Expand")
def expand(low: Lowering, node: Node) -> None:
    """Lower Expand, which broadcasts both ways."""
    x, shape = operands(node)
    name = low.scoped(node)
    with tf.name_scope(name):
        features, sizes = low.tensor(x), low.sizes(node.outputs[0])
        if None in sizes:
            given = tf.cast(low.tensor(shape), tf.int32)
            target = tf.broadcast_dynamic_shape(tf.shape(features), given)
        else:
            target = tf.constant(np.array(sizes, np.int32))
        low.put(node, tf.broadcast_to(features, target, name=name))


@lowers("Tile")
def tile(low: Lowering, node: Node) -> None:
    """Lower Tile."""
    x, repeats = operands(node)
    low.put(node, tf.tile(low.tensor(x), tf.cast(low.tensor(repeats), tf.int32), name=low.scoped(node)))


@lowers("Pad")
def pad(low: Lowering, node: Node) -> None:
    """Lower Pad; negative amounts cut off."""
    x, amounts, value, axes = operands(node, 4)
    rank = low.rank(x)
    order = _own_order(low, x)
    numbers = low.integers(amounts, "amounts")
    starts, ends = pad_amounts(numbers, None if axes is None else low.integers(axes, "axes"), rank, 0)
    mode = attribute(node, "mode")
    name = low.scoped(node)
    with tf.name_scope(name):
        tensor = low.tensor(x, order)
        pairs = [(starts[axis], ends[axis]) for axis in order]
        if mode == "constant":
            number = 0 if value is None else low.number(value)
            if number is None:
                raise Refusal("its value is computed; it must be a constant")
            cut = [slice(-begin if begin < 0 else None, end if end < 0 else None) for begin, end in pairs]
            if any(part != slice(None) for part in cut):
                tensor = tensor[tuple(cut)]
            more = [[max(0, begin), max(0, end)] for begin, end in pairs]
            result = tf.pad(tensor, more, constant_values=number, name=name)
        else:
            result = tensor
            for place, (begin, end) in enumerate(pairs):
                if begin or end:
                    result = _from_inside(result, place, begin, end, mode)
            result = tf.identity(result, name=name)
        low.put(node, result, order)


def _from_inside(x: Tensor, axis: int, begin: int, end: int, mode: str) -> Tensor:
    """Pad an axis with its own values, mirrored or the outermost one repeated."""
    known = x.shape.as_list()[axis]
    if mode == "reflect" and known is not None and min(begin, end) >= 0 and max(begin, end) < known:
        around = [[begin, end] if place == axis else [0, 0] for place in range(x.shape.rank)]
        return tf.pad(x, around, "REFLECT")
    size = tf.shape(x)[axis] if known is None else known
    index = tf.range(-begin, size + end)
    if mode == "reflect":
        period = tf.maximum(2 * (size - 1), 1)
        index = tf.math.floormod(index, period)
        index = tf.where(index < size, index, period - index)
    return tf.gather(x, tf.clip_by_value(index, 0, size - 1), axis=axis)


@lowers("Shape")
def shape(low: Lowering, node: Node) -> None:
    """Lower Shape."""
    x = operands(node)[0]
    held = low.held(x)
    rank = low.rank(x)
    axes = range(rank)[slice(attribute(node, "start"), attribute(node, "end"))]
    name = low.scoped(node)
    with tf.name_scope(name):
        sizes = tf.shape(held.tensor, out_type=tf.int64)
        order = [held.order.index(axis) for axis in axes]
        whole = order == list(range(rank))
        low.put(node, tf.identity(sizes, name=name) if whole else tf.gather(sizes, order, name=name))


@lowers("Size")
def size(low: Lowering, node: Node) -> None:
    """Lower Size."""
    low.put(node, tf.size(low.held(operands(node)[0]).tensor, out_type=tf.int64, name=low.scoped(node)))


@lowers("ConstantOfShape")
def constant_of_shape(low: Lowering, node: Node) -> None:
    """Lower ConstantOfShape."""
    filler = filler_of(node)
    name = low.scoped(node)
    with tf.name_scope(name):
        number = tf.constant(filler.numpy().reshape(-1)[0], tf_dtype(filler.dtype))
        low.put(node, tf.fill(low.tensor(operands(node)[0]), number, name=name))


@lowers("Range")
def range_(low: Lowering, node: Node) -> None:
    """Lower Range."""
    low.put(node, tf.range(*(low.tensor(value) for value in operands(node)), name=low.scoped(node)))


@lowers("Trilu")
def triangle(low: Lowering, node: Node) -> None:
    """Lower Trilu."""
    x, given = operands(node, 2)
    name = low.scoped(node)
    with tf.name_scope(name):
        features = low.tensor(x)
        diagonal = tf.constant(0, tf.int64) if given is None else low.tensor(given)
        sizes = tf.shape(features, out_type=tf.int64)
        rows, columns = tf.range(sizes[-2])[:, None], tf.range(sizes[-1])[None]
        kept = columns - rows >= diagonal if attribute(node, "upper") else columns - rows <= diagonal
        kept = tf.broadcast_to(kept, tf.shape(features))
        low.put(node, tf.where(kept, features, tf.zeros_like(features), name=name))


@lowers("DepthToSpace")
def depth_to_space(low: Lowering, node: Node) -> None:
    """Lower DepthToSpace: with mode DCR, TensorFlow's own; with CRD, its channels are reordered first."""
    x = operands(node)[0]
    block = attribute(node, "blocksize")
    name = low.scoped(node)
    with tf.name_scope(name):
        features = low.image(x)
        if attribute(node, "mode") == "CRD":
            channels = low.sizes(x)[1]
            if channels is None:
                raise Refusal("the number of its channels is open")
            places = np.arange(channels).reshape(-1, block * block).T.reshape(-1)
            features = tf.gather(features, places, axis=-1)
        low.put_image(node, tf.nn.depth_to_space(features, block, name=name))


@lowers("SpaceToDepth")
def space_to_depth(low: Lowering, node: Node) -> None:
    """Lower SpaceToDepth."""
    x = operands(node)[0]
    low.put_image(node, tf.nn.space_to_depth(low.image(x), attribute(node, "blocksize"), name=low.scoped(node)))
