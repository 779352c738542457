"""Operations that arrange: shapes, axes, parts."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx_ir import Value

from mopruning.backends.tensorflow1.exporting.arithmetic import own_order
from mopruning.backends.tensorflow1.exporting.context import (
    Operation,
    Translation,
    name_of,
    numbers,
    rank_of,
    sizes_of,
)
from mopruning.backends.tensorflow1.exporting.fixed import static
from mopruning.backends.tensorflow1.orders import Held, channels_first, ordered, plain, reshape_plan
from mopruning.ir.assembly import END
from mopruning.ir.lowering import Refusal


def identity(ctx: Translation, operation: Operation) -> None:
    """Add nothing; a layer that the operation alone reads gets its name, which is shorter."""
    x = operation.inputs[0]
    if operation.name in ctx.imported.dropouts:
        held = ctx.held(x)
        ratio = ctx.imported.dropouts[operation.name]
        name = name_of(operation)
        share = ctx.net.constant(f"{name}.ratio", 0.5 if ratio is None else ratio, np.float32)
        value = ctx.net.node("Dropout", name, [held.tensor, share])
        ctx.put(operation.outputs[0], Held(value, held.order, held.scatter))
        return
    given = ctx.given(x)
    node = given.tensor.producer() if isinstance(given, Held) else None
    name = name_of(operation)
    if node is not None and len(node.outputs) == 1 and str(node.name).startswith(f"{name}/"):
        node.name = node.outputs[0].name = name
    ctx.put(operation.outputs[0], given)


def reshape(ctx: Translation, operation: Operation) -> None:
    """Add Reshape, Squeeze and ExpandDims, which move nothing."""
    x, result = operation.inputs[0], operation.outputs[0]
    weight = ctx.weight_behind(result)
    if weight is not None:
        ctx.put(result, weight)
        return
    held, name = ctx.held(x), name_of(operation)
    known = result.shape.rank is not None and x.shape.rank is not None
    new = sizes_of(result) if known else []
    plan = reshape_plan(held.order, sizes_of(x), new) if held.scatter is None and known else None
    if plan is None:
        value = ctx.value(x)
        if known and new.count(None) < 2:
            ctx.put(result, _reshaped(ctx, name, value, sizes_of(x), new))
        elif operation.type == "Reshape":
            asked = ctx.value(operation.inputs[1])
            whole = ctx.net.cast(f"{name}.sizes", asked, np.int64)
            ctx.put(result, ctx.net.node("Reshape", name, [value, whole], {"allowzero": 1}))
        else:
            ctx.put(result, _with_axes(ctx, operation, value))
        return
    value = ctx.turn(held, plan.before, sizes_of(x))
    old, target = ordered(sizes_of(x), plan.before), ordered(new, plan.order)
    ctx.put(result, Held(_reshaped(ctx, name, value, old, target), plan.order, plan.scatter))


def _reshaped(ctx: Translation, name: str, value: Value, old: list[int | None], new: list[int | None]) -> Value:
    """Add a reshape: a Flatten where each sample is flattened."""
    if len(new) == 2 and len(old) > 2 and old[0] == new[0] and None not in old[1:]:
        return ctx.net.node("Flatten", name, [value], {"axis": 1})
    kept = new[:1] == [None] == old[:1] and 0 not in new
    if not kept:
        return ctx.reshape(name, value, new)
    return ctx.net.reshape(name, value, [size or 0 for size in new])  # 0: as it was


def _with_axes(ctx: Translation, operation: Operation, value: Value) -> Value:
    if operation.type == "Squeeze":
        axes, kind = [int(number) for number in operation.get_attr("squeeze_dims")], "Squeeze"
        if not axes:
            raise Refusal("it removes axes of sizes that are open")
    else:
        axes, kind = numbers(operation.inputs[1], "axes"), "Unsqueeze"
    given = ctx.net.constant(f"{name_of(operation)}.axes", axes)
    return ctx.net.node(kind, name_of(operation), [value, given])


def transpose(ctx: Translation, operation: Operation) -> None:
    """Add nothing: what comes after is told how the axes lie."""
    x = operation.inputs[0]
    permutation = numbers(operation.inputs[1], "axes")
    held = ctx.held(x)
    if held.scatter is not None:
        held = Held(ctx.value(x), plain(2))
    order = tuple(permutation.index(axis) for axis in held.order)
    ctx.put(operation.outputs[0], Held(held.tensor, order))


def concat(ctx: Translation, operation: Operation) -> None:
    """Add ConcatV2 and Concat."""
    *tensors, axis = operation.inputs
    if operation.type == "Concat":
        axis, *tensors = operation.inputs
    rank = rank_of(operation.outputs[0])
    (number,) = numbers(axis, "axes")
    computed = [tensor for tensor in tensors if ctx.weight_behind(tensor) is None]
    images = rank > 2 and any(ctx.is_image(tensor) for tensor in computed)
    order = channels_first(rank) if images else own_order(ctx, computed[0]) if computed else plain(rank)
    values = [ctx.value(tensor, order) for tensor in tensors]
    attributes = {"axis": order.index(number % rank)}
    ctx.put(operation.outputs[0], ctx.net.node("Concat", name_of(operation), values, attributes), order)


def pack(ctx: Translation, operation: Operation) -> None:
    """Add Pack: tensors along a new axis."""
    axis = int(operation.get_attr("axis")) % rank_of(operation.outputs[0])
    name = name_of(operation)
    given = ctx.net.constant(f"{name}.axes", [axis])
    parts = [ctx.net.node("Unsqueeze", f"{name}.unsqueeze", [ctx.value(tensor), given]) for tensor in operation.inputs]
    ctx.put(operation.outputs[0], ctx.net.node("Concat", name, parts, {"axis": axis}))


def unpack(ctx: Translation, operation: Operation) -> None:
    """Add Unpack: the parts of an axis, which goes."""
    x = operation.inputs[0]
    axis, name = int(operation.get_attr("axis")) % rank_of(x), name_of(operation)
    for number, output in enumerate(operation.outputs):
        place = ctx.net.constant(f"{name}.{number}.index", number)
        ctx.put(output, ctx.net.node("Gather", f"{name}.{number}", [ctx.value(x), place], {"axis": axis}))


def split(ctx: Translation, operation: Operation) -> None:
    """Add Split and SplitV."""
    if operation.type == "Split":
        axis, x = operation.inputs
    else:
        x, _, axis = operation.inputs
    (number,) = numbers(axis, "axes")
    order, name = own_order(ctx, x), name_of(operation)
    place, count = order.index(number % rank_of(x)), len(operation.outputs)
    if operation.type == "SplitV":
        sizes = numbers(operation.inputs[1], "parts")
    else:
        size = sizes_of(x)[number % rank_of(x)]
        sizes = [0] * count if size is None else [size // count] * count
    if -1 in sizes:
        size = sizes_of(x)[number % rank_of(x)]
        if size is None:
            raise Refusal("it splits an axis of open size")
        sizes[sizes.index(-1)] = size - sum(sizes) - 1
    if count == 1:
        ctx.put(operation.outputs[0], ctx.value(x, order), order)
        return
    if 0 in sizes and operation.type == "Split":
        values = ctx.net.nodes("Split", name, [ctx.value(x, order)], count, {"axis": place, "num_outputs": count})
    else:
        parts = ctx.net.constant(f"{name}.split", sizes)
        values = ctx.net.nodes("Split", name, [ctx.value(x, order), parts], count, {"axis": place})
    for output, value in zip(operation.outputs, values, strict=True):
        ctx.put(output, value, order)


def slice_(ctx: Translation, operation: Operation) -> None:
    """Add Slice: `size` entries from `begin` on, -1 for all that are left."""
    x, begin, size = operation.inputs
    starts, counts = numbers(begin, "bounds"), numbers(size, "sizes")
    ends = [END if count == -1 else start + count for start, count in zip(starts, counts, strict=True)]
    _cut(ctx, operation, starts, ends, [1] * len(starts), list(range(rank_of(x))))


def _cut(
    ctx: Translation, operation: Operation, starts: list[int], ends: list[int], steps: list[int], axes: list[int]
) -> None:
    """Add a slice of some axes; those that are left whole are not named."""
    x, name = operation.inputs[0], name_of(operation)
    order = own_order(ctx, x)
    value = ctx.value(x, order)
    rows = [row for row in zip(starts, ends, steps, axes, strict=True) if row[:3] != (0, END, 1)]
    if rows:
        value = ctx.net.slice(name, value, {order.index(axis): (low, high, step) for low, high, step, axis in rows})
    ctx.put(operation.outputs[0], Held(value, order))


def strided_slice(ctx: Translation, operation: Operation) -> None:
    """Add StridedSlice, which may also remove axes and add some."""
    x = operation.inputs[0]
    begin, end, step = (numbers(tensor, "bounds") for tensor in operation.inputs[1:])
    masks = {
        name: int(operation.get_attr(f"{name}_mask"))
        for name in ("begin", "end", "ellipsis", "new_axis", "shrink_axis")
    }
    rank = rank_of(x)
    starts, ends, steps, axes, gone, new = [], [], [], [], [], []
    axis = place = 0
    named = sum(1 for i in range(len(begin)) if not masks["new_axis"] >> i & 1 and not masks["ellipsis"] >> i & 1)
    for i, (low, high, stride) in enumerate(zip(begin, end, step, strict=True)):
        if masks["ellipsis"] >> i & 1:
            place += rank - named
            axis += rank - named
            continue
        if masks["new_axis"] >> i & 1:
            new.append(place)
            place += 1
            continue
        if masks["shrink_axis"] >> i & 1:
            starts.append(low)
            ends.append(low + 1 if low != -1 else END)
            steps.append(1)
            gone.append(axis)
        else:
            back = stride < 0
            starts.append((END if back else 0) if masks["begin"] >> i & 1 else low)
            ends.append((-END if back else END) if masks["end"] >> i & 1 else high)
            steps.append(stride)
            place += 1
        axes.append(axis)
        axis += 1
    result = operation.outputs[0]
    _cut(ctx, operation, starts, ends, steps, axes)
    if not gone and not new:
        return
    held = ctx.held(result)
    value, name = held.tensor, name_of(operation)
    order = held.order
    if new:
        value, order = ctx.turn(held, plain(rank), [None] * rank), plain(rank)
    if gone:
        places = ctx.net.constant(f"{name}.gone", [order.index(one) for one in gone])
        value = ctx.net.node("Squeeze", f"{name}.squeeze", [value, places])
        kept = [one for one in order if one not in gone]
        order = tuple(sorted(kept).index(one) for one in kept)
    if new:
        value = ctx.net.node("Unsqueeze", f"{name}.new", [value, ctx.net.constant(f"{name}.new_axes", new)])
        order = plain(rank - len(gone) + len(new))
    ctx.put(result, Held(value, order))


def gather(ctx: Translation, operation: Operation) -> None:
    """Add Gather and GatherV2."""
    x, index = operation.inputs[:2]
    axis = numbers(operation.inputs[2], "axes")[0] if operation.type == "GatherV2" else 0
    if operation.type == "GatherV2" and operation.get_attr("batch_dims"):
        rank = rank_of(x)
        if not rank == rank_of(index) == operation.get_attr("batch_dims") + 1 or axis % rank != rank - 1:
            raise Refusal("it gathers within a batch, which ONNX does on the last axis alone")
        values = [ctx.value(x), ctx.value(index)]
        value = ctx.net.node("GatherElements", name_of(operation), values, {"axis": rank - 1})
        ctx.put(operation.outputs[0], value)
        return
    weight = ctx.weight_behind(x)
    table = ctx.operand(weight) if weight is not None else ctx.value(x)
    attributes = {"axis": axis % rank_of(x)}
    value = ctx.net.node("Gather", name_of(operation), [table, ctx.value(index)], attributes)
    ctx.put(operation.outputs[0], value)


def broadcast(ctx: Translation, operation: Operation) -> None:
    """Add BroadcastTo."""
    x, shape = operation.inputs
    sizes = sizes_of(operation.outputs[0])
    name = name_of(operation)
    if None in sizes:
        target = ctx.net.cast(f"{name}.sizes", ctx.value(shape), np.int64)
    else:
        target = ctx.net.constant(f"{name}.sizes", sizes)
    ctx.put(operation.outputs[0], ctx.net.node("Expand", name, [ctx.value(x), target]))


def tile(ctx: Translation, operation: Operation) -> None:
    """Add Tile."""
    x, repeats = operation.inputs
    order = own_order(ctx, x)
    counts = ctx.net.constant(f"{name_of(operation)}.repeats", ordered(numbers(repeats, "repeats"), order))
    value = ctx.net.node("Tile", name_of(operation), [ctx.value(x, order), counts])
    ctx.put(operation.outputs[0], value, order)


def pad(ctx: Translation, operation: Operation) -> None:
    """Add Pad, PadV2 and MirrorPad."""
    x = operation.inputs[0]
    amounts = static(operation.inputs[1])
    if amounts is None:
        raise Refusal("its amounts are computed; they must be constants")
    order, name = own_order(ctx, x), name_of(operation)
    own = amounts.reshape(-1, 2)[list(order)]
    given = [ctx.value(x, order), ctx.net.constant(f"{name}.pads", own.T.reshape(-1))]
    mode = "constant"
    if operation.type == "PadV2":
        given.append(ctx.value(operation.inputs[2]))
    elif operation.type == "MirrorPad":
        if operation.get_attr("mode") != b"REFLECT":
            raise Refusal("it repeats the outermost values in a mirror, which ONNX has no word for")
        mode = "reflect"
    attributes = {"mode": mode} if mode != "constant" else {}
    ctx.put(operation.outputs[0], ctx.net.node("Pad", name, given, attributes), order)


def shape(ctx: Translation, operation: Operation) -> None:
    """Add Shape."""
    x = operation.inputs[0]
    value = ctx.net.node("Shape", f"{name_of(operation)}.sizes", [ctx.value(x)])
    ctx.put(operation.outputs[0], _as_index(ctx, operation, value))


def size(ctx: Translation, operation: Operation) -> None:
    """Add Size."""
    held = ctx.held(operation.inputs[0])
    value = ctx.net.node("Size", f"{name_of(operation)}.count", [held.tensor])
    ctx.put(operation.outputs[0], _as_index(ctx, operation, value))


def _as_index(ctx: Translation, operation: Operation, value: Value) -> Value:
    """Return whole numbers of 64 bits in the type that TensorFlow has them in."""
    return ctx.net.cast(name_of(operation), value, operation.outputs[0].dtype.as_numpy_dtype)


def fill(ctx: Translation, operation: Operation) -> None:
    """Add Fill."""
    dims, number = operation.inputs
    name = name_of(operation)
    whole = ctx.net.cast(f"{name}.sizes", ctx.value(dims), np.int64)
    ctx.put(operation.outputs[0], ctx.net.node("Expand", name, [ctx.value(number), whole]))


def range_(ctx: Translation, operation: Operation) -> None:
    """Add Range."""
    values = [ctx.value(tensor) for tensor in operation.inputs]
    ctx.put(operation.outputs[0], ctx.net.node("Range", name_of(operation), values))


def reverse(ctx: Translation, operation: Operation) -> None:
    """Add ReverseV2: a slice with steps back."""
    x, axes = operation.inputs
    rank = rank_of(x)
    gone = [axis % rank for axis in numbers(axes, "axes")]
    back = [1] * len(gone)
    _cut(ctx, operation, [-1 for _ in back], [-END for _ in back], [-1 for _ in back], gone)


def depth_to_space(ctx: Translation, operation: Operation) -> None:
    """Add DepthToSpace and SpaceToDepth."""
    if operation.get_attr("data_format") != b"NHWC":
        raise Refusal("it takes images that are not NHWC")
    attributes: dict[str, Any] = {"blocksize": int(operation.get_attr("block_size"))}
    value = ctx.net.node(operation.type, name_of(operation), [ctx.image(operation.inputs[0])], attributes)
    ctx.put_image(operation.outputs[0], value)
