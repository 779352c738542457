"""Operators that arrange: shapes, axes, parts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir

from mopruning.backends.mxnet.exporting.layers import index_of
from mopruning.backends.mxnet.exporting.network import Call, Translation, Values, dtype_of, known, sizes_of, typed
from mopruning.errors import FormatError
from mopruning.ir.assembly import END
from mopruning.ir.lowering import Refusal


def reshape(call: Call) -> Values:
    """Translate Reshape, whose numbers below 0 stand for axes of the input (MXNet, Reshape)."""
    node = call.node
    codes = list(node.integers("shape") or node.integers("target_shape") or node.integers("newshape"))
    if not codes:
        raise Refusal("it has no shape")
    if node.flag("reverse"):
        if any(code < -1 for code in codes):
            raise Refusal("it reads its shape from the back")
        sizes = call.sizes()
        offset = len(sizes) - len(codes)
        codes = [sizes[place + offset] if code == 0 else code for place, code in enumerate(codes)]
        codes = _numbers(codes, [])
    elif any(code < -1 for code in codes):
        codes = _numbers(*_decoded(call, codes))
    result = call.add("Reshape", [call.x, call.constant("shape", codes)])
    counts = [None if value.shape is None else [*value.shape] for value in (call.x, result)]
    known_counts = [math.prod(sizes) for sizes in counts if sizes and all(isinstance(size, int) for size in sizes)]
    if len(set(known_counts)) > 1:  # of which ONNX's inference says nothing
        raise FormatError(f"{node}: {known_counts[0]} numbers do not make an array of {known_counts[1]}")
    return result


def _decoded(call: Call, codes: Sequence[int]) -> tuple[list[Any], list[Any]]:
    """Return the sizes that codes stand for, and the sizes of the input."""
    sizes = call.sizes()
    result: list[Any] = []
    rest, place = list(codes), 0
    while rest:
        code = rest.pop(0)
        taken = {0: 1, -2: len(sizes) - place, -3: 2, -4: 1}.get(code, 1)
        part = sizes[place : place + taken]
        if code in (0, -3, -4) and len(part) < taken:
            raise FormatError(f"{call.node}: its shape {list(codes)} does not fit {len(sizes)} axes")
        place += taken
        if code == -3:
            result.append(part[0] * part[1] if all(isinstance(size, int) for size in part) else -1)
        elif code == -4:
            if len(rest) < 2:
                raise FormatError(f"{call.node}: after -4 its shape needs two sizes")
            pair = [rest.pop(0), rest.pop(0)]
            if -1 in pair and isinstance(part[0], int):
                other = max(pair)
                pair = [part[0] // max(other, 1) if size == -1 else size for size in pair]
            result += pair
        else:
            result += part if code in (0, -2) else [code]
    return result, sizes


def _numbers(wanted: Sequence[Any], sizes: Sequence[Any]) -> list[int]:
    """Return sizes as ONNX's Reshape takes them: 0 for an open axis that stays, -1 for another."""
    result = []
    for place, size in enumerate(wanted):
        if isinstance(size, int):
            result.append(size)
        else:
            result.append(0 if place < len(sizes) and sizes[place] == size else -1)
    if result.count(-1) > 1:
        raise Refusal("its shape has several open axes; give the shapes of the network's inputs")
    return result


def reshape_like(call: Call) -> Values:
    """Translate reshape_like."""
    if any(call.node.text(f"{side}_{end}") for side in ("lhs", "rhs") for end in ("begin", "end")):
        raise Refusal("it reshapes a part of the axes")
    return call.add("Reshape", [call.x, call.part("Shape", "shape", [call.input(1)])])


def flatten(call: Call) -> Values:
    """Translate Flatten."""
    return call.add("Flatten", [call.x], axis=1)


def transpose(call: Call) -> Values:
    """Translate transpose."""
    order = list(call.node.integers("axes")) or list(reversed(range(call.rank())))
    return call.add("Transpose", [call.x], perm=[call.checked(axis, len(order)) for axis in order])


def swap(call: Call) -> Values:
    """Translate SwapAxis."""
    order = list(range(call.rank()))
    first, second = call.axis("dim1", 0), call.axis("dim2", 0)
    order[first], order[second] = second, first
    return call.add("Transpose", [call.x], perm=order)


def expand_dims(call: Call) -> Values:
    """Translate expand_dims."""
    return call.add("Unsqueeze", [call.x, call.constant("axes", [call.node.integer("axis", 0)])])


def squeeze(call: Call) -> Values:
    """Translate squeeze."""
    axes = list(call.node.integers("axis"))
    return call.add("Squeeze", [call.x, *([call.constant("axes", axes)] if axes else [])])


def concat(call: Call) -> Values:
    """Translate Concat."""
    axis = call.node.integer(
        "axis" if "_npi" in call.node.operator else "dim", 0 if "_npi" in call.node.operator else 1
    )
    return call.add("Concat", call.inputs, axis=axis)


def stack(call: Call) -> Values:
    """Translate stack."""
    axis = call.checked(call.node.integer("axis", 0), call.rank() + 1)
    axes = call.constant("axes", [axis])
    parts = [call.part("Unsqueeze", f"part_{index}", [x, axes]) for index, x in enumerate(call.inputs)]
    return call.add("Concat", parts, axis=axis)


def split(call: Call) -> Values:
    """Translate SliceChannel: parts of one size."""
    node, count = call.node, call.node.integer("num_outputs", 1)
    axis = node.integer("axis", 1)
    size = call.sizes()[call.checked(axis, call.rank())]
    if count < 1 or count > 1 << 16:
        raise FormatError(f"{node}: its num_outputs is {count}")
    given = [call.constant("split", [size // count] * count)] if isinstance(size, int) else []
    attributes = {"axis": axis} | ({} if given else {"num_outputs": count})
    parts = call.network.nodes("Split", call.name, [call.x, *given], count, attributes)
    if not node.flag("squeeze_axis"):
        return parts
    axes = call.constant("axes", [axis])
    return [call.part("Squeeze", f"squeezed_{index}", [part, axes]) for index, part in enumerate(parts)]


def split_at(call: Call) -> Values:
    """Translate _split_v2: even parts, or parts that begin at indices."""
    node, axis = call.node, call.axis("axis", 1)
    (size,) = known([call.sizes()[axis]])
    starts = list(node.integers("indices"))
    sections = node.integer("sections", 0)
    if sections:
        starts = [size // sections * index for index in range(sections)]
    ends = [*starts[1:], size]
    lengths = [end - start for start, end in zip(starts, ends, strict=True)]
    if starts[:1] != [0] or min(lengths) < 0 or node.flag("squeeze_axis"):
        raise Refusal(f"it splits at {starts}")
    return call.network.nodes(
        "Split", call.name, [call.x, call.constant("split", lengths)], len(lengths), {"axis": axis}
    )


def slice_(call: Call) -> Values:
    """Translate slice."""
    node = call.node
    columns = [list(node.optional(name)) for name in ("begin", "end", "step")]
    cuts = {}
    for axis in range(max(map(len, columns))):
        start, stop, step = (column[axis] if axis < len(column) else None for column in columns)
        step = 1 if step is None else step
        if step == 0:
            raise FormatError(f"{node}: its step is 0")
        back = step < 0
        if (start, stop, step) != (None, None, 1):
            start = (-1 if back else 0) if start is None else start
            cuts[axis] = (start, (-END if back else END) if stop is None else stop, step)
    return call.network.slice(call.name, call.x, cuts) if cuts else call.x


def slice_axis(call: Call) -> Values:
    """Translate slice_axis."""
    node = call.node
    end = node.integer("end", END)
    return call.network.slice(call.name, call.x, {node.integer("axis", 0): (node.integer("begin", 0), end, 1)})


def slice_like(call: Call) -> Values:
    """Translate slice_like."""
    axes = call.node.integers("axes") or tuple(range(call.rank(1)))
    wanted = call.sizes(1)
    ends = {call.checked(axis, call.rank()): wanted[call.checked(axis, len(wanted))] for axis in axes}
    cuts = {axis: (0, size, 1) for axis, size in ends.items() if size != call.sizes()[axis]}
    known([cut[1] for cut in cuts.values()])
    return call.network.slice(call.name, call.x, cuts) if cuts else call.x


def crop(call: Call) -> Values:
    """Translate Crop: an image cut to a size, or to that of another."""
    node, old = call.node, known(call.sizes()[2:])
    new = known(call.sizes(1)[2:]) if len(call.inputs) > 1 else list(node.integers("h_w"))
    offset = [(a - b) // 2 for a, b in zip(old, new, strict=True)]
    offset = offset if node.flag("center_crop") else list(node.integers("offset", (0, 0)))
    cuts = {axis + 2: (start, start + size, 1) for axis, (start, size) in enumerate(zip(offset, new, strict=True))}
    return call.network.slice(call.name, call.x, cuts)


def take(call: Call) -> Values:
    """Translate take."""
    if call.node.text("mode", "clip") == "raise":
        raise Refusal("it fails on places that are not there")
    return call.add("Gather", [call.x, index_of(call, call.input(1))], axis=call.node.integer("axis", 0))


def pick(call: Call) -> Values:
    """Translate pick."""
    node, axis = call.node, call.axis("axis", -1)
    index, axes = index_of(call, call.input(1)), call.constant("axes", [axis])
    if len(sizes_of(index)) < call.rank():
        index = call.part("Unsqueeze", "places", [index, axes])
    if node.flag("keepdims"):
        return call.add("GatherElements", [call.x, index], axis=axis)
    return call.add("Squeeze", [call.part("GatherElements", "picked", [call.x, index], axis=axis), axes])


def tile(call: Call) -> Values:
    """Translate tile."""
    times, rank = list(call.node.integers("reps")), call.rank()
    x = call.x
    if len(times) > rank:
        x = call.part("Unsqueeze", "axes_in_front", [x, call.constant("axes", list(range(len(times) - rank)))])
    return call.add("Tile", [x, call.constant("repeats", [1] * (rank - len(times)) + times)])


def repeat(call: Call) -> Values:
    """Translate repeat: each element so often, one after the other."""
    times, sizes = call.node.integer("repeats", 1), call.sizes()
    if not call.node.text("axis"):
        raise Refusal("it repeats elements of all axes in one row")
    axis = call.axis("axis", 0)
    column = call.part("Unsqueeze", "column", [call.x, call.constant("axes", [axis + 1])])
    repeats = [times if place == axis + 1 else 1 for place in range(len(sizes) + 1)]
    rows = call.part("Tile", "rows", [column, call.constant("repeats", repeats)])
    return call.add("Reshape", [rows, call.constant("shape", [0] * axis + [-1] + known(sizes[axis + 1 :]))])


def pad(call: Call) -> Values:
    """Translate Pad."""
    node, mode = call.node, call.node.text("mode", "constant")
    flat = list(node.integers("pad_width"))
    rank = call.rank()
    if len(flat) != 2 * rank or mode not in ("constant", "edge", "reflect"):
        raise Refusal(f"its mode is {mode}, its pad_width {flat}")
    if node.text("reflect_type", "even") != "even":
        raise Refusal("its reflect_type is odd")
    amounts = [*flat[::2], *flat[1::2]]
    number = node.number("constant_value", 0.0)
    filler = [call.number("value", number, call.x)] if mode == "constant" and number else []
    return call.add("Pad", [call.x, call.constant("amounts", amounts), *filler], mode=mode)


def broadcast_to(call: Call) -> Values:
    """Translate broadcast_to; a 0 leaves an axis as it is."""
    wanted, sizes = list(call.node.integers("shape")), call.sizes()
    if 0 in wanted and len(wanted) != len(sizes):
        raise FormatError(f"{call.node}: its shape {wanted} does not fit {len(sizes)} axes")
    return call.add("Expand", [call.x, call.constant("shape", [size or 1 for size in wanted])])


def broadcast_axis(call: Call) -> Values:
    """Translate broadcast_axis."""
    shape = [1] * call.rank()
    for axis, size in zip(call.node.integers("axis"), call.node.integers("size"), strict=True):
        shape[call.checked(axis, len(shape))] = size
    return call.add("Expand", [call.x, call.constant("shape", shape)])


def broadcast_like(call: Call) -> Values:
    """Translate broadcast_like."""
    node, rank = call.node, call.rank()
    other = call.part("Shape", "shape", [call.input(1)])
    if not node.text("lhs_axes"):
        return call.add("Expand", [call.x, other])
    pairs = dict(zip(node.integers("lhs_axes"), node.integers("rhs_axes"), strict=True))
    pairs = {call.checked(left, rank): call.checked(right, call.rank(1)) for left, right in pairs.items()}
    sizes = [
        call.network.slice(f"{call.name}.size_{axis}", other, {0: (pairs[axis], pairs[axis] + 1, 1)})
        if axis in pairs
        else call.constant("same", [1])
        for axis in range(rank)
    ]
    return call.add("Expand", [call.x, call.part("Concat", "target", sizes, axis=0)])


def like(call: Call) -> Values:
    """Translate zeros_like and ones_like."""
    number = int("ones" in call.node.operator)
    filler = onnx_ir.tensor(np.array([number], dtype_of(call.x)))
    result = call.add("ConstantOfShape", [call.part("Shape", "shape", [call.x])], value=filler)
    result.shape = call.x.shape
    return result


def made(call: Call) -> Values:
    """Translate _zeros, _ones, _full and _arange to constants."""
    node, dtype = call.node, np.dtype(typed("dtype", call.node))
    if node.operator in ("_arange", "_npi_arange"):
        start, stop = node.number("start", 0.0), node.number("stop", 0.0)
        start, stop = (start, stop) if node.text("stop") else (0.0, start)
        step, times = node.number("step", 1.0), node.integer("repeat", 1)
        if not step or times < 1 or (stop - start) / step * times > 1 << 24:
            raise Refusal("it gives too many numbers")
        return call.network.constant(call.name, np.repeat(np.arange(start, stop, step), times), dtype)
    shape = node.integers("shape")
    if np.prod(shape, dtype=float) > 1 << 24 or min(shape, default=0) < 0:
        raise Refusal("it gives too many numbers")
    number = {"_zeros": 0.0, "_ones": 1.0}.get(node.operator, node.number("value", 0.0))
    return call.network.constant(call.name, np.full(shape, number), dtype)


def arange_like(call: Call) -> Values:
    """Translate arange_like along an axis whose size is known."""
    node = call.node
    if not node.text("axis") or node.integer("repeat", 1) != 1:
        raise Refusal("it counts over all axes")
    (size,) = known([call.sizes()[call.axis("axis", 0)]])
    if size > 1 << 24:
        raise Refusal("it gives too many numbers")
    numbers = node.number("start", 0.0) + node.number("step", 1.0) * np.arange(size)
    return call.network.constant(call.name, numbers, dtype_of(call.x))


def shape_array(call: Call) -> Values:
    """Translate shape_array and size_array."""
    if call.node.operator == "size_array":
        return call.add("Unsqueeze", [call.part("Size", "size", [call.x]), call.constant("axes", [0])])
    return call.add("Shape", [call.x])


def flip(call: Call) -> Values:
    """Translate flip, and SequenceReverse where no lengths are given."""
    if call.node.flag("use_sequence_length"):
        raise Refusal("it has lengths")
    axes = call.node.integers("axis", (0,))
    return call.network.slice(call.name, call.x, {call.checked(axis, call.rank()): (-1, -END, -1) for axis in axes})


def lower_triangle(call: Call) -> Values:
    """Translate NumPy's tril."""
    diagonal = call.node.integer("k", 0)
    return call.add("Trilu", [call.x, *([call.constant("k", diagonal)] if diagonal else [])], upper=0)


def depth_to_space(call: Call) -> Values:
    """Translate depth_to_space and space_to_depth."""
    operator = {"depth_to_space": "DepthToSpace", "space_to_depth": "SpaceToDepth"}[call.node.operator]
    return call.add(operator, [call.x], blocksize=call.node.integer("block_size", 1))


TRANSLATIONS: dict[str, Translation] = {
    **dict.fromkeys(("Reshape", "reshape"), reshape),
    "reshape_like": reshape_like,
    **dict.fromkeys(("Flatten", "flatten"), flatten),
    **dict.fromkeys(("transpose", "_np_transpose"), transpose),
    **dict.fromkeys(("SwapAxis", "swapaxes", "_npi_swapaxes"), swap),
    **dict.fromkeys(("expand_dims", "_npi_expand_dims"), expand_dims),
    **dict.fromkeys(("squeeze", "_np_squeeze"), squeeze),
    **dict.fromkeys(("Concat", "concat", "_npi_concatenate"), concat),
    **dict.fromkeys(("stack", "_npi_stack"), stack),
    **dict.fromkeys(("SliceChannel", "split"), split),
    "_split_v2": split_at,
    **dict.fromkeys(("slice", "crop", "_npx_slice"), slice_),
    "slice_axis": slice_axis,
    "slice_like": slice_like,
    "Crop": crop,
    **dict.fromkeys(("take", "_npi_take"), take),
    **dict.fromkeys(("pick", "choose_element_0index", "_npx_pick"), pick),
    "tile": tile,
    "repeat": repeat,
    **dict.fromkeys(("Pad", "pad", "_npi_pad"), pad),
    "broadcast_to": broadcast_to,
    **dict.fromkeys(("broadcast_axis", "broadcast_axes"), broadcast_axis),
    "broadcast_like": broadcast_like,
    **dict.fromkeys(("zeros_like", "ones_like"), like),
    **dict.fromkeys(("_zeros", "_ones", "_full", "_arange", "_npi_arange"), made),
    **dict.fromkeys(("_contrib_arange_like", "_npx_arange_like"), arange_like),
    **dict.fromkeys(("shape_array", "size_array"), shape_array),
    **dict.fromkeys(("flip", "reverse", "SequenceReverse"), flip),
    "_npi_tril": lower_triangle,
    **dict.fromkeys(("depth_to_space", "space_to_depth"), depth_to_space),
}
"""MXNet's operator -> its translation."""
