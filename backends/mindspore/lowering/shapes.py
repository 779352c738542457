"""Operators that arrange: shapes, axes, parts."""

from __future__ import annotations

import numpy as np
from onnx_ir import Node, Value

from mopruning.backends.mindspore.lowering.context import Lowering, Var, literal, ms_dtype
from mopruning.backends.mindspore.lowering.layers import embedding
from mopruning.ir.attributes import attribute
from mopruning.ir.lowering import Refusal, lowers, operands, sizes_of
from mopruning.ir.nodes import FAR, even_parts, filler_of, pad_amounts


@lowers("Reshape")
def reshape(low: Lowering, node: Node) -> None:
    """Lower Reshape, Flatten and the like to the shape that comes out."""
    (x, *_) = operands(node, 1)
    low.set(node.outputs[0], low.reshape(low.tensor(x), node.outputs[0]))


@lowers("Flatten")
def flatten(low: Lowering, node: Node) -> None:
    """Lower Flatten."""
    (x,) = operands(node, 1)
    if attribute(node, "axis") == 1 and low.rank(x) > 1:
        low.put(node, "ops.flatten({})", low.tensor(x))
    else:
        reshape(low, node)


@lowers("Transpose")
def transpose(low: Lowering, node: Node) -> None:
    """Lower Transpose."""
    (x,) = operands(node, 1)
    order = attribute(node, "perm") or list(reversed(range(low.rank(x))))
    low.put(node, f"ops.transpose({{}}, {literal(tuple(order))})", low.tensor(x))


@lowers("Squeeze")
def squeeze(low: Lowering, node: Node) -> None:
    """Lower Squeeze."""
    x, given = operands(node, 2)
    rank = low.rank(x)
    if given is None:
        axes = [axis for axis, size in enumerate(sizes_of(x)) if size == 1]
    else:
        axes = sorted(axis % rank for axis in low.integers(given, "axes"))
    low.put(node, f"ops.squeeze({{}}, {literal(tuple(axes))})", low.tensor(x))


@lowers("Unsqueeze")
def unsqueeze(low: Lowering, node: Node) -> None:
    """Lower Unsqueeze."""
    x, axes = operands(node, 2)
    numbers = low.integers(axes, "axes")
    rank = low.rank(x) + len(numbers)
    result = low.tensor(x)
    for axis in sorted(number % rank for number in numbers):
        result = low.emit(f"ops.expand_dims({{}}, {axis})", result)
    low.set(node.outputs[0], result)


@lowers("Concat")
def concat(low: Lowering, node: Node) -> None:
    """Lower Concat."""
    parts = [low.tensor(value) for value in operands(node, 1)]
    held = "".join("{}, " for _ in parts) if len(parts) == 1 else ", ".join("{}" for _ in parts)
    low.put(node, f"ops.cat(({held}), {attribute(node, 'axis')})", *parts)


@lowers("Split")
def split(low: Lowering, node: Node) -> None:
    """Lower Split."""
    x, given = operands(node, 2)
    axis = attribute(node, "axis") % low.rank(x)
    if given is not None:
        sizes = low.integers(given, "sizes")
    else:
        size = sizes_of(x)[axis]
        if size is None:
            raise Refusal("an axis of open size; give the graph's inputs shapes")
        sizes = even_parts(size, len(node.outputs))
    equal = sizes[0] if len(set(sizes)) == 1 else sizes
    parts = low.emit(f"ops.split({{}}, {literal(equal)}, {axis})", low.tensor(x))
    for index, output in enumerate(node.outputs):
        if output.uses() or output.is_graph_output():
            low.set(output, low.emit(f"{{}}[{index}]", parts))


@lowers("Slice")
def slice_(low: Lowering, node: Node) -> None:
    """Lower Slice."""
    x, cuts = operands(node)[0], low.cuts(node)
    rank, sizes = low.rank(x), sizes_of(x)
    result = low.tensor(x)
    ranges = [":"] * rank
    for start, end, axis, step in cuts:
        size = sizes[axis]
        if step < 0:
            if size is None:
                raise Refusal("backwards on an axis of open size; give the graph's inputs shapes")
            stop = None if end <= -size - 1 else end
            result = _picked(low, result, list(range(size)[start:stop:step]), axis)
        elif size is not None:
            first, stop, _ = slice(start, end, step).indices(size)
            ranges[axis] = _range(first, stop if stop < size else None, step)
        else:
            ranges[axis] = _range(start, None if end >= FAR else end, step)
    while ranges and ranges[-1] == ":":
        ranges.pop()
    low.set(node.outputs[0], low.emit(f"{{}}[{', '.join(ranges)}]", result) if ranges else result)


def _range(start: int, stop: int | None, step: int) -> str:
    text = f"{start or ''}:{'' if stop is None else stop}"
    return text if step == 1 else f"{text}:{step}"


def _picked(low: Lowering, x: Var, index: list[int], axis: int) -> Var:
    """Take elements of an axis by number."""
    numbers = np.array(index, np.int64)
    return low.emit(f"ops.gather({{}}, {{}}, {axis})", x, low.held(numbers, f"{low.place}.index{axis}"))


@lowers("Gather")
def gather(low: Lowering, node: Node) -> None:
    """Lower Gather: rows of an embedding, or elements by number."""
    x, index = operands(node, 2)
    axis = attribute(node, "axis") % low.rank(x)
    found = embedding(low, x, index) if axis == 0 else None
    if found is not None:
        low.set(node.outputs[0], found)
        return
    numbers = low.constant(index)
    size = sizes_of(x)[axis]
    if numbers is not None:
        if numbers.ndim == 0 and (size is not None or numbers >= 0):
            at = int(numbers) % size if size is not None else int(numbers)
            low.put(node, f"{{}}[{':, ' * axis}{at}]", low.tensor(x))
            return
        if size is None and (numbers < 0).any():
            raise Refusal("from the end of an axis of open size; give the graph's inputs shapes")
        positive = np.where(numbers < 0, numbers + (size or 0), numbers)
        where = low.held(positive, f"{low.place}.index")
    else:
        where = _from_start(low, index, size)
    low.put(node, f"ops.gather({{}}, {{}}, {axis})", low.tensor(x), where)


def _from_start(low: Lowering, index: Value, size: int | None) -> Var:
    """Count numbers from the start that may count from the end."""
    given = low.tensor(index)
    if size is None:
        raise Refusal("computed numbers on an axis of open size; give the graph's inputs shapes")
    return low.emit(f"ops.where({{0}} < 0, {{0}} + {size}, {{0}})", given)


@lowers("GatherElements")
def gather_elements(low: Lowering, node: Node) -> None:
    """Lower GatherElements."""
    x, index = operands(node, 2)
    axis = attribute(node, "axis") % low.rank(x)
    where = _from_start(low, index, sizes_of(x)[axis])
    low.put(node, f"ops.gather_elements({{}}, {axis}, {{}})", low.tensor(x), where)


@lowers("Expand")
def expand(low: Lowering, node: Node) -> None:
    """Lower Expand, which broadcasts both ways."""
    (x, _) = operands(node, 2)
    low.put(node, f"ops.broadcast_to({{}}, {low.shape_of(node.outputs[0], reshape=False)})", low.tensor(x))


@lowers("Tile")
def tile(low: Lowering, node: Node) -> None:
    """Lower Tile."""
    x, repeats = operands(node, 2)
    low.put(node, f"ops.tile({{}}, {literal(tuple(low.integers(repeats, 'repeats')))})", low.tensor(x))


@lowers("Pad")
def pad(low: Lowering, node: Node) -> None:
    """Lower Pad; by reflection or with the edge it picks elements."""
    x, amounts, value, axes = operands(node, 4)
    rank, numbers = low.rank(x), low.integers(amounts, "amounts")
    begins, ends = pad_amounts(numbers, None if axes is None else low.integers(axes, "axes"), rank, 0)
    mode, result, sizes = attribute(node, "mode"), low.tensor(x), sizes_of(x)
    if mode == "constant":
        number = 0.0 if value is None else low.number(value)
        if number is None:
            raise Refusal("its value is computed; it must be a constant")
        first = next((axis for axis in range(rank) if begins[axis] or ends[axis]), rank - 1)
        around = [n for axis in reversed(range(first, rank)) for n in (begins[axis], ends[axis])]
        low.put(node, f'ops.pad({{}}, {literal(tuple(around))}, "constant", {literal(number)})', result)
        return
    for axis, (begin, end) in enumerate(zip(begins, ends, strict=True)):
        size = sizes[axis]
        if begin or end:
            if size is None:
                raise Refusal("an axis of open size; give the graph's inputs shapes")
            places = np.arange(max(0, -begin), size - max(0, -end))
            places = np.pad(places, (max(0, begin), max(0, end)), mode="reflect" if mode == "reflect" else "edge")
            result = _picked(low, result, places.tolist(), axis)
    low.set(node.outputs[0], result)


@lowers("Shape")
def shape(low: Lowering, node: Node) -> None:
    """Lower Shape."""
    (x,) = operands(node, 1)
    features = low.tensor(x)
    sizes = sizes_of(x)
    axes = range(len(sizes))[slice(attribute(node, "start"), attribute(node, "end"))]
    if all(sizes[axis] is not None for axis in axes):
        low.set(node.outputs[0], np.array([sizes[axis] for axis in axes], np.int64))
        return
    whole = low.emit(f"{low.primitive('ops.TensorShape()', 'shape_of')}({{}})", features)
    low.set(node.outputs[0], low.emit(f"{{}}[{axes.start}:{axes.stop}]", whole))


@lowers("Size")
def size(low: Lowering, node: Node) -> None:
    """Lower Size."""
    (x,) = operands(node, 1)
    sizes = sizes_of(x)
    if None not in sizes:
        low.set(node.outputs[0], np.array(np.prod(sizes), np.int64))  # type: ignore[arg-type]
        return
    whole = low.emit(f"{low.primitive('ops.TensorShape()', 'shape_of')}({{}})", low.tensor(x))
    low.put(node, "ops.prod({})", whole)


@lowers("ConstantOfShape")
def constant_of_shape(low: Lowering, node: Node) -> None:
    """Lower ConstantOfShape."""
    filler = filler_of(node).numpy()
    number, dtype = literal(filler.reshape(-1)[0].item()), ms_dtype(filler.dtype.name)
    low.put(node, f"ops.full({low.shape_of(node.outputs[0], reshape=False)}, {number}, dtype={dtype})")


@lowers("Range")
def range_(low: Lowering, node: Node) -> None:
    """Lower Range, whose bounds have to be known."""
    raise Refusal("its bounds are computed; they must be constants")


@lowers("Trilu")
def triangle(low: Lowering, node: Node) -> None:
    """Lower Trilu."""
    x, given = operands(node, 2)
    diagonal = 0 if given is None else low.integers(given, "diagonal")[0]
    function = "ops.triu" if attribute(node, "upper") else "ops.tril"
    low.put(node, f"{function}({{}}, {diagonal})", low.tensor(x))


@lowers("DepthToSpace")
def depth_to_space(low: Lowering, node: Node) -> None:
    """Lower DepthToSpace."""
    (x,) = operands(node, 1)
    block = attribute(node, "blocksize")
    _, channels, height, width = _image(low, x)
    deep = channels // block**2
    if attribute(node, "mode") == "CRD":
        parts, order = (deep, block, block, height, width), (0, 1, 4, 2, 5, 3)
    else:
        parts, order = (block, block, deep, height, width), (0, 3, 4, 1, 5, 2)
    cut = low.emit(f"ops.reshape({{}}, {literal((-1, *parts))})", low.tensor(x))
    low.set(node.outputs[0], low.reshape(low.emit(f"ops.transpose({{}}, {order})", cut), node.outputs[0]))


@lowers("SpaceToDepth")
def space_to_depth(low: Lowering, node: Node) -> None:
    """Lower SpaceToDepth."""
    (x,) = operands(node, 1)
    block = attribute(node, "blocksize")
    _, channels, height, width = _image(low, x)
    parts = (-1, channels, height // block, block, width // block, block)
    cut = low.emit(f"ops.reshape({{}}, {literal(parts)})", low.tensor(x))
    low.set(node.outputs[0], low.reshape(low.emit("ops.transpose({}, (0, 3, 5, 1, 2, 4))", cut), node.outputs[0]))


def _image(low: Lowering, value: Value) -> list[int]:
    sizes = sizes_of(value)
    if None in sizes[1:]:
        raise Refusal("an image of open size; give the graph's inputs shapes")
    return [-1 if size is None else size for size in sizes]
