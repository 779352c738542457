"""Operators that arrange: shapes, axes, parts. Those that compute with shapes give sizes, which are plain numbers."""

from __future__ import annotations

import operator
from typing import Any

import torch
import torch.nn.functional as F
from onnx_ir import Node
from torch import fx

from mopruning.backends.pytorch.lowering import functions
from mopruning.backends.pytorch.lowering.context import Lowering, Sizes, to_dtype
from mopruning.backends.pytorch.lowering.layers import embedding
from mopruning.errors import FormatError
from mopruning.ir.attributes import attribute
from mopruning.ir.lowering import lowers, operands
from mopruning.ir.nodes import FAR, filler_of, pad_amounts


@lowers("Reshape")
def reshape(low: Lowering, node: Node) -> None:
    """Lower Reshape: 0 keeps a size, -1 is what is left."""
    x, shape = operands(node)
    target, own = low.numbers(shape), low.sizes(x)
    if own is not None and isinstance(low.get(x), Sizes) and target in ([-1], [len(own.items)]):
        low.set(node.outputs[0], Sizes(own.items))
        return
    features = low.tensor(x)
    if isinstance(target, list) and not attribute(node, "allowzero"):
        target = [low.method("size", features, i) if size == 0 else size for i, size in enumerate(target)]
    low.set(node.outputs[0], low.method("reshape", features, target, name=node.name))


@lowers("Flatten")
def flatten(low: Lowering, node: Node) -> None:
    """Lower Flatten: two axes, those before `axis` and those after."""
    (x,) = operands(node)
    rank, features = low.rank(x), low.tensor(x)
    axis = attribute(node, "axis")
    axis = axis + rank if axis < 0 else axis
    if axis == 1 and rank > 1:
        result = low.call(torch.flatten, features, 1, name=node.name)
    elif axis == 0 or axis == rank:
        result = low.method("reshape", features, *((1, -1) if axis == 0 else (-1, 1)), name=node.name)
    else:
        front = low.call(torch.flatten, features, 0, axis - 1)
        result = low.call(torch.flatten, front, 1, name=node.name)
    low.set(node.outputs[0], result)


@lowers("Transpose")
def transpose(low: Lowering, node: Node) -> None:
    """Lower Transpose."""
    (x,) = operands(node)
    order = attribute(node, "perm") or list(reversed(range(low.rank(x))))
    low.set(node.outputs[0], low.method("permute", low.tensor(x), *order, name=node.name))


@lowers("Squeeze")
def squeeze(low: Lowering, node: Node) -> None:
    """Lower Squeeze."""
    x, *rest = node.inputs
    lowered = low.get(x)  # type: ignore[arg-type]
    if isinstance(lowered, Sizes):
        low.set(node.outputs[0], Sizes(lowered.items, scalar=True))
        return
    features = low.tensor(x)  # type: ignore[arg-type]
    axes = _whole(low, node, rest[0]) if rest and rest[0] is not None else None
    result = low.method("squeeze", features, *([] if axes is None else [tuple(axes)]), name=node.name)
    low.set(node.outputs[0], result)


@lowers("Unsqueeze")
def unsqueeze(low: Lowering, node: Node) -> None:
    """Lower Unsqueeze."""
    x, axes = operands(node)
    lowered = low.get(x)
    if isinstance(lowered, Sizes) and lowered.scalar:
        low.set(node.outputs[0], Sizes(lowered.items))
        return
    numbers = _whole(low, node, axes)
    rank = low.rank(x) + len(numbers)
    result = low.tensor(x)
    for axis in sorted(number % rank for number in numbers):
        result = low.method("unsqueeze", result, axis)
    low.set(node.outputs[0], result)


@lowers("Concat")
def concat(low: Lowering, node: Node) -> None:
    """Lower Concat."""
    values = operands(node)
    found = [low.sizes(value) for value in values]
    if all(sizes is not None for sizes in found) and any(isinstance(low.get(value), Sizes) for value in values):
        low.set(node.outputs[0], Sizes(tuple(item for sizes in found if sizes is not None for item in sizes.items)))
        return
    parts = [low.tensor(value) for value in values]
    low.set(node.outputs[0], low.call(torch.cat, parts, attribute(node, "axis"), name=node.name))


@lowers("Split")
def split(low: Lowering, node: Node) -> None:
    """Lower Split."""
    x, *rest = node.inputs
    axis = attribute(node, "axis")
    features = low.tensor(x)  # type: ignore[arg-type]
    if rest and rest[0] is not None:
        parts = low.call(torch.split, features, low.numbers(rest[0]), axis, name=node.name)
    else:
        parts = low.call(torch.chunk, features, len(node.outputs), axis, name=node.name)
    for index, output in enumerate(node.outputs):
        if output.uses() or output.is_graph_output():
            low.set(output, low.call(operator.getitem, parts, index))


@lowers("Slice")
def slice_(low: Lowering, node: Node) -> None:
    """Lower Slice."""
    x, *rest = node.inputs
    starts, ends = (_bounds(low, node, value) for value in rest[:2])
    axes = _whole(low, node, rest[2]) if len(rest) > 2 and rest[2] is not None else list(range(len(starts)))
    steps = _whole(low, node, rest[3]) if len(rest) > 3 and rest[3] is not None else [1] * len(starts)
    own = low.get(x)  # type: ignore[arg-type]
    if isinstance(own, Sizes) and all(isinstance(bound, int) for bound in (*starts, *ends)):
        low.set(node.outputs[0], Sizes(own.items[starts[0] : ends[0] : steps[0]]))
        return
    rank = low.rank(x)  # type: ignore[arg-type]
    result = low.tensor(x)  # type: ignore[arg-type]
    ranges: list[Any] = [slice(None)] * rank
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if step < 0:
            result = low.call(functions.slice_back, result, axis % rank, start, end, step)
        else:
            stop = None if isinstance(end, int) and end >= FAR else end
            ranges[axis % rank] = slice(start or None, stop, None if step == 1 else step)
    while ranges and ranges[-1] == slice(None):
        ranges.pop()
    if ranges:
        result = low.call(operator.getitem, result, tuple(ranges), name=node.name)
    low.set(node.outputs[0], result)


@lowers("Gather")
def gather(low: Lowering, node: Node) -> None:
    """Lower Gather: rows of an embedding, one entry of an axis, or entries by an index."""
    x, index = operands(node)
    axis = attribute(node, "axis")
    number = low.constant(index)
    found = embedding(low, node, x, index) if axis == 0 else None
    if found is not None:
        low.set(node.outputs[0], found)
        return
    own = low.get(x)
    if isinstance(own, Sizes) and number is not None and number.ndim < 2:
        items = tuple(own.items[int(i)] for i in number.reshape(-1))
        low.set(node.outputs[0], Sizes(items, scalar=number.ndim == 0))
        return
    features = low.tensor(x)
    if number is not None and number.ndim == 0:
        result = low.method("select", features, axis, int(number), name=node.name)
    else:
        result = low.call(functions.take, features, low.tensor(index), axis, name=node.name)
    low.set(node.outputs[0], result)


@lowers("GatherElements")
def gather_elements(low: Lowering, node: Node) -> None:
    """Lower GatherElements."""
    x, index = (low.tensor(value) for value in operands(node))
    low.set(node.outputs[0], low.call(functions.take_each, x, index, attribute(node, "axis"), name=node.name))


@lowers("Expand")
def expand(low: Lowering, node: Node) -> None:
    """Lower Expand, which broadcasts both ways."""
    x, shape = operands(node)
    low.set(node.outputs[0], low.call(functions.spread, low.tensor(x), low.numbers(shape), name=node.name))


@lowers("Tile")
def tile(low: Lowering, node: Node) -> None:
    """Lower Tile."""
    x, repeats = operands(node)
    low.set(node.outputs[0], low.call(torch.tile, low.tensor(x), low.numbers(repeats), name=node.name))


@lowers("Pad")
def pad(low: Lowering, node: Node) -> None:
    """Lower Pad."""
    x, amounts, value, axes = operands(node, 4)
    rank, features = low.rank(x), low.tensor(x)
    numbers = _bounds(low, node, amounts)
    begins, ends = pad_amounts(numbers, None if axes is None else _whole(low, node, axes), rank, 0)
    mode = attribute(node, "mode")
    around = [amount for pair in zip(reversed(begins), reversed(ends), strict=True) for amount in pair]
    while len(around) > 2 and around[-2:] == [0, 0]:
        around = around[:-2]
    if mode == "constant":
        number = 0.0 if value is None else low.number(value)
        if number is None:
            raise FormatError(f"node {node.name!r} (Pad): its value is computed; it must be a constant")
        result = low.call(F.pad, features, around, value=number, name=node.name)
    elif len(around) // 2 in (rank - 1, rank - 2) and 3 <= rank <= 5 and len(around) <= 6 and min(around) >= 0:
        names = {"reflect": "reflect", "edge": "replicate"}
        result = low.call(F.pad, features, around, mode=names[mode], name=node.name)
    else:
        result = low.call(functions.pad_from_inside, features, begins, ends, mode, name=node.name)
    low.set(node.outputs[0], result)


@lowers("Shape")
def shape(low: Lowering, node: Node) -> None:
    """Lower Shape to numbers."""
    (x,) = operands(node)
    axes = range(low.rank(x))[slice(attribute(node, "start"), attribute(node, "end"))]
    features = low.tensor(x)
    low.set(node.outputs[0], Sizes(tuple(low.method("size", features, axis) for axis in axes)))


@lowers("Size")
def size(low: Lowering, node: Node) -> None:
    """Lower Size to a number."""
    (x,) = operands(node)
    low.set(node.outputs[0], Sizes((low.method("numel", low.tensor(x)),), scalar=True))


@lowers("ConstantOfShape")
def constant_of_shape(low: Lowering, node: Node) -> None:
    """Lower ConstantOfShape."""
    (x,) = operands(node)
    filler = filler_of(node)
    options = {"dtype": to_dtype(filler.dtype), "device": low.call(getattr, low.first_input, "device")}
    result = low.call(torch.full, low.numbers(x), filler.numpy().reshape(-1)[0].item(), name=node.name, **options)
    low.set(node.outputs[0], result)


@lowers("Range")
def range_(low: Lowering, node: Node) -> None:
    """Lower Range."""
    start, limit, delta = (low.operand(value) for value in operands(node))
    dtype = node.inputs[0].dtype  # type: ignore[union-attr]
    options = {"dtype": to_dtype(dtype), "device": low.call(getattr, low.first_input, "device")} if dtype else {}
    low.set(node.outputs[0], low.call(torch.arange, start, limit, delta, name=node.name, **options))


@lowers("Trilu")
def triangle(low: Lowering, node: Node) -> None:
    """Lower Trilu."""
    x, *rest = node.inputs
    diagonal = low.operand(rest[0]) if rest and rest[0] is not None else 0
    function = torch.triu if attribute(node, "upper") else torch.tril
    low.set(node.outputs[0], low.call(function, low.tensor(x), diagonal, name=node.name))  # type: ignore[arg-type]


@lowers("DepthToSpace")
def depth_to_space(low: Lowering, node: Node) -> None:
    """Lower DepthToSpace."""
    x, block = low.tensor(operands(node)[0]), attribute(node, "blocksize")
    function = F.pixel_shuffle if attribute(node, "mode") == "CRD" else functions.depth_to_space
    low.set(node.outputs[0], low.call(function, x, block, name=node.name))


@lowers("SpaceToDepth")
def space_to_depth(low: Lowering, node: Node) -> None:
    """Lower SpaceToDepth."""
    x, block = low.tensor(operands(node)[0]), attribute(node, "blocksize")
    low.set(node.outputs[0], low.call(functions.space_to_depth, x, block, name=node.name))


def _bounds(low: Lowering, node: Node, value: Any) -> list[Any]:
    """Return numbers of which some may follow from shapes."""
    found = low.numbers(value)
    if isinstance(found, fx.Node):
        raise FormatError(
            f"node {node.name!r} ({node.op_type}): {value.name!r} is computed from the content of a tensor; it must "
            "be a constant or follow from shapes"
        )
    return found


def _whole(low: Lowering, node: Node, value: Any) -> list[int]:
    """Return numbers that are constants."""
    found = _bounds(low, node, value)
    if not all(isinstance(number, int) for number in found):
        raise FormatError(f"node {node.name!r} ({node.op_type}): {value.name!r} must be a constant")
    return found
