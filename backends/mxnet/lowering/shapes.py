"""Operators that arrange: shapes, axes, parts. Reshapes go by the inferred shape of what they give."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx_ir import Node, Value

from mopruning.backends.mxnet.lowering.context import Lowering, Symbol, dtype_of
from mopruning.backends.mxnet.lowering.layers import padded
from mopruning.ir.attributes import attribute
from mopruning.ir.lowering import Refusal, lowers, open_shape, operands, sizes_of, weight_shape
from mopruning.ir.nodes import even_parts, filler_of, pad_amounts

_MOST = 64  # entries along the axis of a GatherElements: one operator each


@lowers("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def reshape(low: Lowering, node: Node) -> None:
    """Lower Reshape, Squeeze, Unsqueeze and Flatten."""
    x, target = operands(node, 2)
    output = node.outputs[0]
    axes = None if target is None else low.constant(target)
    if node.op_type == "Flatten" and attribute(node, "axis") == 1:
        low.set(output, low.call("Flatten", low.symbol(x), name=node.name))
        return
    if node.op_type == "Unsqueeze" and axes is not None and axes.size == 1 and low.rank(x):
        low.set(output, low.call("expand_dims", low.symbol(x), name=node.name, axis=int(axes.reshape(-1)[0])))
        return
    if node.op_type == "Squeeze" and axes is not None and low.rank(output):
        given = tuple(int(axis) for axis in axes.reshape(-1))
        low.set(output, low.call("squeeze", low.symbol(x), name=node.name, axis=given))
        return
    if output.shape is not None and sum(not isinstance(size, int) for size in output.shape) < 2:
        low.set(output, low.shaped(low.symbol(x), output, node.name))
        return
    if node.op_type != "Reshape" or attribute(node, "allowzero"):
        open_shape(output)
    shape = tuple(low.integers(target, "sizes"))
    low.set(output, low.call("reshape", low.symbol(x), name=node.name, shape=shape))


@lowers("Transpose")
def transpose(low: Lowering, node: Node) -> None:
    """Lower Transpose."""
    (x,) = operands(node, 1)
    order = attribute(node, "perm") or list(reversed(range(low.rank(x))))
    low.set(node.outputs[0], _numeric(low, node, low.symbol(x), "transpose", axes=tuple(order)))


@lowers("Concat")
def concat(low: Lowering, node: Node) -> None:
    """Lower Concat."""
    parts = [low.symbol(value) for value in node.inputs if value is not None]
    axis = attribute(node, "axis") % low.rank(node.outputs[0])
    low.set(node.outputs[0], low.call("concat", *parts, name=node.name, dim=axis))


@lowers("Split")
def split(low: Lowering, node: Node) -> None:
    """Lower Split: even parts by an operator of its own, others cut out one by one."""
    x, given = operands(node, 2)
    axis = attribute(node, "axis") % low.rank(x)
    count = len(node.outputs)
    if given is None:
        whole = sizes_of(x)[axis]
        if whole is None:
            raise Refusal("it splits an open axis evenly")
        sizes = even_parts(whole, count)
    else:
        sizes = low.integers(given, "sizes")
    if count > 1 and len(set(sizes)) == 1:
        parts = low.call("SliceChannel", low.symbol(x), name=node.name, num_outputs=count, axis=axis)
        for index, output in enumerate(node.outputs):
            low.set(output, parts[index])
        return
    if min(sizes) < 1:
        raise Refusal("a part of it has no elements, of which MXNet has no arrays")
    start = 0
    for output, size in zip(node.outputs, sizes, strict=True):
        low.set(output, low.sliced(low.symbol(x), axis, start, start + size))
        start += size


@lowers("Slice")
def slice_(low: Lowering, node: Node) -> None:
    """Lower Slice."""
    x, cuts = operands(node)[0], low.cuts(node, ("starts", "ends"))
    sizes = sizes_of(x)
    begin, end, step = (list[Any]([None] * len(sizes)) for _ in range(3))
    for start, stop, axis, stride in cuts:
        size = sizes[axis]
        if size is not None:
            picked = range(size)[slice(start, stop if stop >= -size or stride > 0 else None, stride)]
            if not picked:
                raise Refusal("it gives no elements, of which MXNet has no arrays")
            begin[axis], end[axis], step[axis] = picked.start, None if picked.stop < 0 else picked.stop, stride
        elif stride > 0 and (start >= 0 or stop < 0):
            begin[axis], end[axis], step[axis] = start, stop if stop < 1 << 31 else None, stride
        elif (start, stride) == (-1, -1) and stop < -(1 << 31):
            begin[axis], end[axis], step[axis] = None, None, -1
        else:
            raise Refusal(f"how it cuts axis {axis} depends on its size, which is open")
    changed = [axis for axis in range(len(sizes)) if step[axis] is not None]
    if not changed:
        low.set(node.outputs[0], low.get(x))
    elif len(changed) == 1 and step[changed[0]] == 1:
        (axis,) = changed
        options = {"axis": axis, "begin": begin[axis], "end": end[axis]}
        low.set(node.outputs[0], low.call("slice_axis", low.symbol(x), name=node.name, **options))
    else:
        options = {"begin": tuple(begin), "end": tuple(end), "step": tuple(step)}
        low.set(node.outputs[0], low.call("slice", low.symbol(x), name=node.name, **options))


@lowers("Gather")
def gather(low: Lowering, node: Node) -> None:
    """Lower Gather: rows of an embedding, one entry of an axis, or entries by an index."""
    x, index = operands(node, 2)
    axis, number = attribute(node, "axis") % low.rank(x), low.constant(index)
    output = node.outputs[0]
    if number is not None and number.ndim == 0:
        place = int(number)
        part = low.sliced(low.symbol(x), axis, place, place + 1 if place != -1 else None)
        low.set(output, low.shaped(part, output, node.name))
        return
    if low.is_parameter(x) and len(weight_shape(x)) == 2 and axis == 0 and low.rank(index):
        rows, features = weight_shape(x)
        options = {"input_dim": rows, "output_dim": features, "dtype": dtype_of(x)}
        low.set(output, low.call("Embedding", low.symbol(index), low.symbol(x), name=node.name, **options))
        return
    # "wrap" counts negative places from the end, as ONNX does
    scalar = low.rank(index) == 0
    name = None if scalar else node.name
    result = low.call("take", low.symbol(x), low.symbol(index), name=name, axis=axis, mode="wrap")
    low.set(output, low.shaped(result, output, node.name) if scalar else result)


@lowers("GatherElements")
def gather_elements(low: Lowering, node: Node) -> None:
    """Lower GatherElements, one entry of the axis at a time."""
    x, index = operands(node, 2)
    axis = attribute(node, "axis") % low.rank(x)
    sizes, wanted = sizes_of(x), sizes_of(index)
    count = wanted[axis]
    if count is None or count > _MOST:
        raise Refusal(
            f"it gathers {count or 'an open number of'} entries along axis {axis}; up to {_MOST} are possible"
        )
    features, places = low.symbol(x), low.symbol(index)
    for other, (size, part) in enumerate(zip(sizes, wanted, strict=True)):
        if other != axis and size != part:
            if part is None:
                raise Refusal(f"the size of its index along axis {other} is open")
            features = low.sliced(features, other, 0, part)
    options = {"axis": axis, "mode": "wrap", "keepdims": True}
    parts = [low.call("pick", features, low.sliced(places, axis, i, i + 1), **options) for i in range(count)]
    low.set(node.outputs[0], parts[0] if count == 1 else low.call("concat", *parts, name=node.name, dim=axis))


@lowers("Expand")
def expand(low: Lowering, node: Node) -> None:
    """Lower Expand, which broadcasts both ways; an open axis is as long as the batch."""
    x, target = operands(node, 2)
    other = _shaped_as(target)
    if other is not None and low.rank(other) == low.rank(x) == low.rank(node.outputs[0]):
        low.set(node.outputs[0], low.call("broadcast_like", low.symbol(x), low.symbol(other), name=node.name))
        return
    low.set(node.outputs[0], _spread(low, low.symbol(x), x, node.outputs[0]))


@lowers("Tile")
def tile(low: Lowering, node: Node) -> None:
    """Lower Tile."""
    x, repeats = operands(node, 2)
    times = tuple(low.integers(repeats, "repeats"))
    low.set(node.outputs[0], low.call("tile", low.symbol(x), name=node.name, reps=times))


@lowers("Pad")
def pad(low: Lowering, node: Node) -> None:
    """Lower Pad: numbers by an operator of its own, what repeats the inside by picking it element by element."""
    x, amounts, value, axes = operands(node, 4)
    rank, mode = low.rank(x), attribute(node, "mode")
    numbers = low.integers(amounts, "amounts")
    starts, ends = pad_amounts(numbers, None if axes is None else low.integers(axes, "axes"), rank, 0)
    filler = 0.0 if value is None else low.number(value)
    if filler is None:
        raise Refusal("its value is computed; it must be a constant")
    result, sizes = low.symbol(x), sizes_of(x)
    for axis in range(rank):  # what is negative is cut off first
        if starts[axis] < 0 or ends[axis] < 0:
            result = low.sliced(result, axis, max(0, -starts[axis]), min(0, ends[axis]) or None)
            size = sizes[axis]
            sizes[axis] = None if size is None else size + min(0, starts[axis]) + min(0, ends[axis])
    starts, ends = [max(0, number) for number in starts], [max(0, number) for number in ends]
    if not any((*starts[:2], *ends[:2])) and rank in (4, 5) and dtype_of(x) == "float32":
        result = padded(low, result, starts[2:], ends[2:], filler, mode=mode, name=node.name)
    elif mode == "constant":
        pairs = tuple(zip(starts, ends, strict=True))
        result = low.numpy("pad", result, name=node.name, mode=mode, pad_width=pairs, constant_value=filler)
    else:
        for axis in range(rank):
            if starts[axis] or ends[axis]:
                result = _repeated(low, result, axis, sizes[axis], (starts[axis], ends[axis]), mode)
    low.set(node.outputs[0], result)


@lowers("Shape")
def shape(low: Lowering, node: Node) -> None:
    """Lower Shape."""
    (x,) = operands(node, 1)
    found = low.call("shape_array", low.symbol(x))
    axes = range(low.rank(x))[slice(attribute(node, "start"), attribute(node, "end"))]
    if not axes:
        raise Refusal("it gives no numbers, of which MXNet has no arrays")
    low.set(node.outputs[0], low.sliced(found, 0, axes[0], axes[-1] + 1))


@lowers("Size")
def size(low: Lowering, node: Node) -> None:
    """Lower Size."""
    low.set(node.outputs[0], low.call("size_array", low.symbol(operands(node, 1)[0]), name=node.name))


@lowers("ConstantOfShape")
def constant_of_shape(low: Lowering, node: Node) -> None:
    """Lower ConstantOfShape."""
    number = filler_of(node).numpy()
    output, other = node.outputs[0], _shaped_as(node.inputs[0])
    if other is not None and low.rank(other):
        zeros = low.call("zeros_like", low.symbol(other))
        zeros = zeros if dtype_of(other) == number.dtype.name else low.call("cast", zeros, dtype=number.dtype.name)
        low.set(output, low.scalar("_plus_scalar", zeros, number.reshape(-1)[0].item(), node.name))
        return
    ones = Value(name=output.name, shape=None if output.shape is None else type(output.shape)([1] * low.rank(output)))
    filler = low.constants(f"{low.place}.value", number.reshape([1] * max(1, low.rank(output))))
    low.set(output, _spread(low, filler, ones, output))


@lowers("Trilu")
def triangle(low: Lowering, node: Node) -> None:
    """Lower Trilu; only the lower triangle has an operator, the upper one is what is left."""
    x, given = operands(node, 2)
    diagonal = 0 if given is None else low.integers(given, "diagonals")[0]
    features = low.symbol(x)
    if not attribute(node, "upper"):
        low.set(node.outputs[0], low.numpy("tril", features, name=node.name, k=diagonal))
        return
    rows, columns = sizes_of(x)[-2:]
    if rows is None or columns is None:
        raise Refusal("the sizes of its matrices are open")
    kept = np.triu(np.ones((1,) * (low.rank(x) - 2) + (rows, columns), bool), diagonal)
    zeros = low.call("zeros_like", features)
    mask = low.call("cast", low.constants(f"{low.place}.mask", kept.astype(np.uint8)), dtype="bool")
    low.set(node.outputs[0], low.numpy("where", mask, features, zeros, name=node.name))


@lowers("DepthToSpace")
def depth_to_space(low: Lowering, node: Node) -> None:
    """Lower DepthToSpace; MXNet's own is mode DCR."""
    (x,) = operands(node, 1)
    features, block = low.symbol(x), attribute(node, "blocksize")
    if attribute(node, "mode") == "CRD":  # channels [c, block, block] to [block, block, c]
        features = low.call("reshape", features, shape=(0, -4, -1, block * block, -2))
        features = low.call("reshape", low.call("swapaxes", features, dim1=1, dim2=2), shape=(0, -3, -2))
    low.set(node.outputs[0], low.call("depth_to_space", features, name=node.name, block_size=block))


@lowers("SpaceToDepth")
def space_to_depth(low: Lowering, node: Node) -> None:
    """Lower SpaceToDepth."""
    (x,) = operands(node, 1)
    block = attribute(node, "blocksize")
    low.set(node.outputs[0], low.call("space_to_depth", low.symbol(x), name=node.name, block_size=block))


def _numeric(low: Lowering, node: Node, x: Symbol, operator: str, **options: Any) -> Symbol:
    """Call an operator that moves elements; those of MXNet 1.9 cannot move bools, which go as uint8."""
    if node.inputs[0] is None or dtype_of(node.inputs[0]) != "bool":
        return low.call(operator, x, name=node.name, **options)
    moved = low.call(operator, low.call("cast", x, dtype="uint8"), **options)
    return low.call("cast", moved, name=node.name, dtype="bool")


def _shaped_as(target: Value | None) -> Value | None:
    """Return the value whose shape another value holds."""
    node = None if target is None else target.producer()
    whole = node is not None and node.op_type == "Shape" and not node.attributes
    return node.inputs[0] if whole and node is not None else None


def _spread(low: Lowering, x: Symbol, given: Value, output: Value) -> Symbol:
    old, new = sizes_of(given), sizes_of(output)
    old = [*[1] * (len(new) - len(old)), *old]
    if 0 in new:
        raise Refusal("it gives no elements, of which MXNet has no arrays")
    result = low.call("reshape", x, shape=tuple(-1 if size is None else size for size in old)) if old else x
    for axis, (before, after) in enumerate(zip(old, new, strict=True)):
        if before == 1 and after is None:
            result = low.like_batch(result, output, axis)
    if any(before == 1 and after not in (1, None) for before, after in zip(old, new, strict=True)):
        result = low.call("broadcast_to", result, shape=tuple(0 if size is None else size for size in new))
    return result


def _repeated(low: Lowering, x: Symbol, axis: int, size: int | None, amounts: tuple[int, int], mode: str) -> Symbol:
    """Pad an axis by its own elements."""
    if size is None:
        raise Refusal(f"the size of axis {axis} is open; give the graph's inputs shapes")
    places = np.pad(np.arange(size), amounts, mode="reflect" if mode == "reflect" else "edge").astype(np.int64)
    return low.call("take", x, low.constants(f"{low.place}.places", places), axis=axis, mode="clip")
