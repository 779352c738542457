"""Operators of MINDIR graphs that arrange, in the IR: shapes, axes, parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx_ir import Value

from mopruning.backends.mindspore.exporting.batches import Batch, Varying
from mopruning.backends.mindspore.exporting.context import Reading, Unsupported
from mopruning.backends.mindspore.exporting.graph import MindNode
from mopruning.ir.assembly import END


def reshape(read: Reading, node: MindNode) -> Value:
    """Read Reshape, View and Flatten."""
    x = read.x(0)
    before, after = read.dims(x), read.given()
    if len(after) == 2 < len(before) and before[0] == after[0] and isinstance(after[0], (Batch, int)):
        whole = all(size >= 0 and not isinstance(size, Batch) for size in before[1:])
        if whole and after[0] != after[1]:
            return read.add("Flatten", [x])
    target = _target(read, x, node)
    return x if target is None else read.add_numbers("Reshape", x, target)


def _target(read: Reading, x: Value, node: MindNode) -> list[int] | None:
    """Return the shape to reshape to, with -1 for an open axis and 0 for one that stays; None for no reshape."""
    after, before = list(read.given()), list(read.dims(x))
    if any(isinstance(size, Varying) for size in after):
        raise Unsupported("it computes with the size of the batch; give dynamic_batch=False")
    if after == before and after.count(-1) <= 1:
        return None
    opened = [axis for axis, size in enumerate(after) if isinstance(size, Batch) or size == -1]
    target = [-1 if axis in opened else int(size) for axis, size in enumerate(after)]
    if len(opened) <= 1:
        return target
    asked = read.get(1) if len(node.inputs) > 1 else None
    kept = [axis for axis in opened if axis < len(before) and before[axis] == after[axis]]
    if isinstance(asked, tuple) and len(asked) == len(after):
        kept = [axis for axis in kept if not (isinstance(asked[axis], int) and asked[axis] == -1)]
    for axis in kept[: len(opened) - 1]:
        target[axis] = 0
    if target.count(-1) > 1:
        raise Unsupported(f"a reshape to {list(map(int, after))}: only one axis of it may be open")
    return target


def transpose(read: Reading, node: MindNode) -> Value:
    """Read Transpose."""
    x = read.x(0)
    rank = len(read.dims(x))
    return read.add("Transpose", [x], {"perm": [axis % rank for axis in read.integers(1, "perm")]})


def squeeze(read: Reading, node: MindNode) -> Value:
    """Read Squeeze."""
    x = read.x(0)
    dims = read.dims(x)
    axes = read.integers(1, "axis", ()) or [axis for axis, size in enumerate(dims) if size == 1]
    numbers = sorted(axis % len(dims) for axis in axes if dims[axis % len(dims)] == 1)
    before = x.producer()
    if before is not None and before.op_type == "Unsqueeze" and before.inputs[0] is not None:
        added = before.inputs[1].const_value if before.inputs[1] is not None else None
        if added is not None and added.numpy().tolist() == numbers:
            return before.inputs[0]
    return read.add_numbers("Squeeze", x, numbers)


def expand_dims(read: Reading, node: MindNode) -> Value:
    """Read ExpandDims."""
    x = read.x(0)
    rank = len(read.dims(x)) + 1
    return read.add_numbers("Unsqueeze", x, [axis % rank for axis in read.integers(1, "axis")])


def concat(read: Reading, node: MindNode) -> Value:
    """Read Concat."""
    parts = read.get(0)
    if not isinstance(parts, tuple):
        raise Unsupported("the parts are no tuple")
    return read.add("Concat", [read.value_of(one) for one in parts], {"axis": read.option(1, "axis", 0)})


def stack(read: Reading, node: MindNode) -> Value:
    """Read Stack."""
    parts, axis = read.get(0), read.option(1, "axis", 0)
    if not isinstance(parts, tuple):
        raise Unsupported("the parts are no tuple")
    axis %= len(read.given())
    lifted = [read.add_numbers("Unsqueeze", read.value_of(one), (axis,)) for one in parts]
    return read.add("Concat", lifted, {"axis": axis})


def unstack(read: Reading, node: MindNode) -> Any:
    """Read Unstack."""
    x, axis = read.x(0), read.option(1, "axis", 0)
    count = len(node.given)
    parts = _parts_of(read, x, [1] * count, axis)
    return tuple(read.add_numbers("Squeeze", part, (axis % len(read.dims(x)),)) for part in parts)


def split(read: Reading, node: MindNode) -> Any:
    """Read Split into equal parts, and SplitTensor and SplitWithSize into parts of given sizes."""
    x = read.x(0)
    if node.operator == "Split":
        axis, count = read.option(1, "axis", 0), read.option(2, "output_num", 1)
        whole = read.dims(x)[axis]
        sizes = [int(whole) // count] * count
        if whole < 0 or isinstance(whole, Batch):
            raise Unsupported("an axis of open size")
    else:
        given, axis = read.option(1, "split_sizes"), read.option(2, "axis", 0)
        whole = read.dims(x)[axis]
        if whole < 0 or isinstance(whole, Batch):
            raise Unsupported("an axis of open size")
        sizes = list(given) if isinstance(given, tuple) else [
            min(given, whole - start) for start in range(0, whole, given)
        ]  # fmt: skip
    return _parts_of(read, x, sizes, axis)


def _parts_of(read: Reading, x: Value, sizes: Sequence[int], axis: int) -> tuple[Value, ...]:
    if len(sizes) == 1:
        return (x,)
    numbers = read.net.constant(read.name("sizes"), list(sizes))
    parts = read.net.nodes("Split", read.name(), [x, numbers], len(sizes), {"axis": axis})
    for part, size in zip(parts, sizes, strict=True):
        dims = list(read.dims(x))
        dims[axis] = size
        read.noted(part, dims, read.dtype(x))
    return parts


def strided_slice(read: Reading, node: MindNode) -> Value:
    """Read StridedSlice: begin, end and stride of each axis, and masks by bits."""
    x = read.x(0)
    dims = read.dims(x)
    begins, ends = read.integers(1, "begin"), read.integers(2, "end")
    strides = read.integers(3, "strides")
    names = ("begin_mask", "end_mask", "ellipsis_mask", "new_axis_mask", "shrink_axis_mask")
    begin_mask, end_mask, ellipsis, new_axis, shrink = (
        int(read.option(4 + index, name, 0)) for index, name in enumerate(names)
    )
    if ellipsis or new_axis or len(begins) > len(dims):
        raise Unsupported("an ellipsis or a new axis")
    starts: list[int] = []
    stops: list[int] = []
    steps: list[int] = []
    axes: list[int] = []
    gone: list[int] = []
    for axis, (begin, end, stride) in enumerate(zip(begins, ends, strides, strict=True)):
        if shrink >> axis & 1:
            starts, stops, steps, axes = [*starts, begin], [*stops, begin + 1 or END], [*steps, 1], [*axes, axis]
            gone.append(axis)
            continue
        size = dims[axis]
        start = (0 if stride > 0 else END) if begin_mask >> axis & 1 else begin
        stop = (END if stride > 0 else -END) if end_mask >> axis & 1 else end
        if isinstance(stop, Batch) or (size >= 0 and stop >= size):
            if isinstance(stop, Batch) and stop != size:
                raise Unsupported("it computes with the size of the batch; give dynamic_batch=False")
            stop = END
        if (start, stop, stride) != (0, END, 1):
            starts, stops, steps, axes = [*starts, int(start)], [*stops, int(stop)], [*steps, stride], [*axes, axis]
    if axes:
        x = read.noted(read.add_numbers("Slice", x, starts, stops, axes, steps), dims, read.dtype(x))
    return read.add_numbers("Squeeze", x, gone) if gone else x


def slice_ext(read: Reading, node: MindNode) -> Value:
    """Read SliceExt: part of one axis."""
    axis, start, end, step = (
        read.option(index + 1, name) for index, name in enumerate(("dim", "start", "end", "step"))
    )
    whole = read.dims(read.x(0))[axis]
    end = END if isinstance(end, Batch) or (whole >= 0 and end >= whole) else end
    return read.add_numbers("Slice", read.x(0), (start,), (end,), (axis,), (step,))


def slice_(read: Reading, node: MindNode) -> Value:
    """Read Slice: begin and size of each axis."""
    x = read.x(0)
    begins, sizes = read.integers(1, "begin"), read.integers(2, "size")
    ends = [
        END if size == -1 or isinstance(size, Batch) else begin + size
        for begin, size in zip(begins, sizes, strict=True)
    ]
    return read.add_numbers("Slice", x, begins, ends, range(len(begins)))


def select_view(read: Reading, node: MindNode) -> Value:
    """Read SelectView and SelectExtView: one element of an axis."""
    index, axis = read.option(1, "index"), read.option(2, "dim")
    if node.operator.startswith("SelectExt"):
        index, axis = axis, index
    number = read.net.constant(read.name("index"), index)
    return read.add("Gather", [read.x(0), number], {"axis": axis})


def gather(read: Reading, node: MindNode) -> Value:
    """Read Gather and Embedding."""
    axis = read.option(2, "axis", 0) if node.operator == "Gather" else 0
    if len(node.inputs) > 3 and node.operator == "Gather" and read.option(3, "batch_dims", 0):
        raise Unsupported("batch_dims")
    if node.operator == "Embedding":  # its numbers come first
        return read.add("Gather", [read.x(1), read.x(0)], {"axis": 0})
    return read.add("Gather", [read.x(0), read.x(1)], {"axis": axis})


def gather_elements(read: Reading, node: MindNode) -> Value:
    """Read GatherD."""
    return read.add("GatherElements", [read.x(0), read.x(2)], {"axis": read.option(1, "dim")})


def broadcast_to(read: Reading, node: MindNode) -> Value:
    """Read BroadcastTo; an axis that stays open is left to the input."""
    x = read.x(0)
    after, before = list(read.given()), list(read.dims(x))
    before = [1] * (len(after) - len(before)) + before
    kept = [1 if new == old else new for new, old in zip(after, before, strict=True)]
    return read.add("Expand", [x, read.sizes(kept)])


def tile(read: Reading, node: MindNode) -> Value:
    """Read Tile."""
    x, repeats = read.x(0), read.integers(1, "dims")
    rank = len(read.dims(x))
    if any(isinstance(number, (Batch, Varying)) for number in repeats):
        return read.add("Tile", [x, read.sizes(repeats)])
    if len(repeats) > rank:
        x = read.add_numbers("Unsqueeze", x, range(len(repeats) - rank))
    return read.add_numbers("Tile", x, [1] * (rank - len(repeats)) + list(repeats))


def pad(read: Reading, node: MindNode) -> Value:
    """Read Pad, PadV3 and ConstantPadND."""
    x = read.x(0)
    rank = len(read.dims(x))
    starts, ends = [0] * rank, [0] * rank
    mode, value = "constant", None
    if node.operator == "Pad":
        for axis, (start, end) in enumerate(read.option(None, "paddings")):
            starts[axis], ends[axis] = start, end
    else:
        amounts = read.integers(1, "padding")
        for position in range(len(amounts) // 2):  # the last axis comes first
            starts[rank - 1 - position], ends[rank - 1 - position] = amounts[2 * position : 2 * position + 2]
        mode = str(read.option(None, "mode", "constant"))
        value = read.option(2, "value") if read.has(2) and mode == "constant" else None
    names = {"constant": "constant", "reflect": "reflect", "edge": "edge"}
    if mode not in names:
        raise Unsupported(f"mode {mode!r}")
    amounts_in = read.net.constant(read.name("pads"), [*starts, *ends])
    inputs = [x, amounts_in]
    if value:
        inputs.append(read.constant(np.array(value, read.dtype(x) or "float32")))
    return read.add("Pad", inputs, {"mode": names[mode]} if mode != "constant" else None)


def reverse(read: Reading, node: MindNode) -> Value:
    """Read ReverseV2: parts of axes, backwards."""
    axes = list(read.integers(1, "axis"))
    return read.add_numbers("Slice", read.x(0), [-1] * len(axes), [-END] * len(axes), axes, [-1] * len(axes))


def triangle(read: Reading, node: MindNode) -> Value:
    """Read Triu and Tril."""
    diagonal = read.net.constant(read.name("diagonal"), read.option(1, "diagonal", 0))
    return read.add("Trilu", [read.x(0), diagonal], {"upper": int(node.operator.startswith("Triu"))})


def shape(read: Reading, node: MindNode) -> Any:
    """Read Shape as numbers, which are open where the file's are."""
    return tuple(read.dims(read.x(0)))


def tensor_shape(read: Reading, node: MindNode) -> Value:
    """Read TensorShape."""
    return read.add("Shape", [read.x(0)])


def scalars(read: Reading, node: MindNode) -> Any:
    """Read what computes with sizes: what follows from an open size is open."""
    given = [read.get(index) for index in range(len(node.inputs))]
    if not all(isinstance(one, int) for one in given):
        raise Unsupported("it computes with numbers that are no sizes")
    if -1 in given:
        return -1
    a, b = given
    return {"ScalarAdd": a + b, "ScalarSub": a - b, "ScalarMul": a * b}.get(node.operator, a // b if b else 0)


def depth_to_space(read: Reading, node: MindNode) -> Value:
    """Read DepthToSpace and SpaceToDepth."""
    return read.add(node.operator, [read.x(0)], {"blocksize": read.option(None, "block_size")})


def full(read: Reading, node: MindNode) -> Value:
    """Read FillV2 and the like: one number in a shape."""
    dtype = node.given[0].dtype if node.given else "float32"
    number = {"Zeros": 0, "Ones": 1}.get(node.operator)
    number = read.option(1, "value") if number is None else number
    return read.add("Expand", [read.constant(np.array(number, dtype or "float32")), read.sizes(read.given())])
