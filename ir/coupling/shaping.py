"""Rules for operators that rearrange numbers: channels are rearranged as the numbers are."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from onnx_ir import Node, Value

from mopruning.ir.attributes import attribute
from mopruning.ir.coupling.classes import Numbers
from mopruning.ir.coupling.walk import Unclear, Walk, couples, entries, entry_number, whole_numbers
from mopruning.ir.nodes import even_parts, pad_amounts
from mopruning.ir.passes.constants import constant


def _first(node: Node) -> Value:
    value = node.inputs[0] if node.inputs else None
    if value is None:
        raise Unclear("it lacks an input")
    return value


def _named(walk: Walk, value: Value, axes: Iterable[int]) -> list[int]:
    rank = len(walk.sizes(value))
    return [axis % rank for axis in axes]


@couples("Transpose")
def transpose(walk: Walk, node: Node) -> None:
    """Reorder the axes."""
    rank = len(walk.sizes(_first(node)))
    order = attribute(node, "perm") or list(reversed(range(rank)))
    walk.keep_axes(node, {old: new for new, old in enumerate(order)})


@couples("Squeeze")
def squeeze(walk: Walk, node: Node) -> None:
    """Leave axes of size 1 out."""
    sizes = walk.sizes(_first(node))
    given = node.inputs[1] if len(node.inputs) > 1 else None
    if given is None:
        gone = [axis for axis, size in enumerate(sizes) if size == 1]
    else:
        gone = _named(walk, _first(node), whole_numbers(given, "axes"))
    left = [axis for axis in range(len(sizes)) if axis not in gone]
    walk.keep_axes(node, {old: new for new, old in enumerate(left)})


@couples("Unsqueeze")
def unsqueeze(walk: Walk, node: Node) -> None:
    """Put axes of size 1 in."""
    axes = whole_numbers(node.inputs[1], "axes")
    rank = len(walk.sizes(_first(node))) + len(axes)
    put = {axis % rank for axis in axes}
    left = [axis for axis in range(rank) if axis not in put]
    walk.keep_axes(node, dict(enumerate(left)))


@couples("Concat")
def concat(walk: Walk, node: Node) -> None:
    """Put channels behind each other; along the other axes, parts are taken together."""
    given = [value for value in node.inputs if value is not None]
    rank = len(walk.sizes(given[0]))
    own = int(attribute(node, "axis")) % rank
    for axis in sorted({axis for value in given for axis in walk.of(value)}):
        sources = [(number, axis) for number in range(len(given))]
        sizes = [walk.sizes(value)[axis] for value in given]
        if not all(isinstance(size, int) for size in sizes):
            raise Unclear("the sizes of its parts are open")
        total = np.arange(sum(int(size) for size in sizes), dtype=np.int64)
        if axis != own and len(set(sizes)) != 1:
            raise Unclear("its parts do not fit together")
        walk.carry(node, axis, sources, total if axis == own else total.reshape(len(given), -1).T)


@couples("Split")
def split(walk: Walk, node: Node) -> None:
    """Give each part its channels."""
    x = _first(node)
    (own,) = _named(walk, x, [int(attribute(node, "axis"))])
    for axis, numbers in walk.of(x).items():
        if axis != own:
            for output in range(len(node.outputs)):
                walk.carry(node, axis, [(0, axis)], np.arange(numbers.size, dtype=np.int64), output)
            continue
        given = node.inputs[1] if len(node.inputs) > 1 else None
        sizes = even_parts(numbers.size, len(node.outputs)) if given is None else whole_numbers(given, "sizes")
        ends = np.cumsum(sizes)
        for output, (size, end) in enumerate(zip(sizes, ends, strict=True)):
            walk.carry(node, axis, [(0, axis)], np.arange(end - size, end, dtype=np.int64), output)


@couples("Slice")
def slices(walk: Walk, node: Node) -> None:
    """Take the channels between two bounds."""
    x = _first(node)
    given = [*node.inputs, None, None]
    count = given[1].const_value.size if given[1] is not None and given[1].const_value is not None else None
    if given[3] is None:
        axes = list(range(len(walk.sizes(x)) if count is None else count))
    else:
        axes = _named(walk, x, whole_numbers(given[3], "axes"))
    for axis, numbers in walk.of(x).items():
        places = np.arange(numbers.size, dtype=np.int64)
        if axis in axes:
            number = axes.index(axis)
            start, end = (whole_numbers(given[index], "bounds")[number] for index in (1, 2))
            if given[4] is not None and whole_numbers(given[4], "steps")[number] != 1:
                raise Unclear("it takes every second channel or the like")
            places = places[start:end]
        walk.carry(node, axis, [(0, axis)], places)


@couples("Gather")
def gather(walk: Walk, node: Node) -> None:
    """Take some channels, or rows of a table that stay."""
    data, indices = _first(node), node.inputs[1]
    if indices is None:
        raise Unclear("it lacks an input")
    (own,) = _named(walk, data, [int(attribute(node, "axis"))])
    rank, chosen = len(walk.sizes(indices)), constant(indices)
    kept = {axis: axis if axis < own else axis + rank - 1 for axis in walk.of(data)}
    numbers = walk.of(data).get(own)
    if numbers is not None and chosen is not None and rank < 2:
        places = chosen.reshape(-1).astype(np.int64) % numbers.size
        if rank:
            walk.carry(node, own, [(0, own)], places)
        else:
            walk.classes.fix(numbers[places], f"{node.name} (Gather) takes this one out")
        for axis, target in kept.items():
            if axis != own:
                walk.carry(node, target, [(0, axis)], np.arange(walk.of(data)[axis].size, dtype=np.int64))
        return
    kept.pop(own, None)
    walk.keep_axes(node, kept)
    for axis in kept:
        walk.use(node, 0, axis, "produces")


@couples("Expand")
def expand(walk: Walk, node: Node) -> None:
    """Repeat along axes of size 1; channels keep their number."""
    x = _first(node)
    asked = entries(node.inputs[1], walk.shapes)
    shift = len(walk.sizes(node.outputs[0])) - len(walk.sizes(x))
    behind = len(asked) - len(walk.sizes(node.outputs[0]))
    for axis in walk.of(x):
        place = axis + shift + behind
        if place >= 0 and entry_number(asked[place]) is None:
            raise Unclear("the shape that it asks for is computed")
    walk.keep_axes(node, {axis: axis + shift for axis in walk.of(x)})


@couples("Tile")
def tile(walk: Walk, node: Node) -> None:
    """Repeat channels."""
    repeats = whole_numbers(node.inputs[1], "repeats")
    for axis, numbers in walk.of(_first(node)).items():
        places = np.tile(np.arange(numbers.size, dtype=np.int64), repeats[axis])
        walk.carry(node, axis, [(0, axis)], places)


@couples("Pad")
def pad(walk: Walk, node: Node) -> None:
    """Put constant channels before and behind."""
    x = _first(node)
    given = [*node.inputs, None, None, None]
    axes = None if given[3] is None else whole_numbers(given[3], "axes")
    starts, ends = pad_amounts(whole_numbers(given[1], "amounts"), axes, len(walk.sizes(x)), 0)
    for axis, numbers in walk.of(x).items():
        front, back = starts[axis], ends[axis]
        if min(front, back) < 0 or (max(front, back) > 0 and attribute(node, "mode") != "constant"):
            raise Unclear("it pads them with other channels, or cuts them off")
        places = [np.full(front, -1, np.int64), np.arange(numbers.size), np.full(back, -1, np.int64)]
        walk.carry(node, axis, [(0, axis)], np.concatenate(places))


@couples("Resize")
def resize(walk: Walk, node: Node) -> None:
    """Keep channels; the other axes are resized."""
    x = _first(node)
    before, after = walk.sizes(x), walk.sizes(node.outputs[0])
    asked = entries(node.inputs[3], walk.shapes) if len(node.inputs) > 3 and node.inputs[3] is not None else None
    for axis in walk.of(x):
        if before[axis] != after[axis] or (asked is not None and entry_number(asked[axis]) is None):
            raise Unclear("it resizes them, or asks for a computed size")
    walk.keep_axes(node, {axis: axis for axis in walk.of(x)})


@couples("DepthToSpace", "SpaceToDepth")
def blocks(walk: Walk, node: Node) -> None:
    """Tie channels that become neighbours in the image; repeat those that are made of neighbours."""
    walk.fix_others(node, 0, (0, 1))
    numbers = walk.of(_first(node)).get(1)
    if numbers is None:
        return
    size = int(attribute(node, "blocksize")) ** 2
    places = np.arange(numbers.size, dtype=np.int64)
    if node.op_type == "SpaceToDepth":
        places = np.tile(places, size)
    elif attribute(node, "mode") == "CRD":
        places = places.reshape(-1, size)
    else:
        places = places.reshape(size, -1).T
    walk.carry(node, 1, [(0, 1)], places)


@couples("Shape")
def shape(walk: Walk, node: Node) -> None:
    """Fix channels that are counted; a size that nobody takes out does not count."""
    x = _first(node)
    rank = len(walk.sizes(x))
    start, end = attribute(node, "start") or 0, attribute(node, "end")
    counted = list(range(rank))[start:end]
    asked: set[int] = set()
    for use in node.outputs[0].uses():
        chosen = constant(use.node.inputs[1]) if use.node.op_type == "Gather" and use.idx == 0 else None
        asked |= set(counted) if chosen is None else {counted[int(place)] for place in chosen.reshape(-1)}
    if node.outputs[0].is_graph_output():
        asked |= set(counted)
    for axis, numbers in walk.of(x).items():
        if axis in asked:
            walk.classes.fix(numbers, f"{node.name} (Shape) counts them")


@couples("Reshape", "Flatten")
def reshape(walk: Walk, node: Node) -> None:
    """Follow channels into axes that are merged or cut; what is cut off a channel axis is tied, place by place."""
    x, output = _first(node), node.outputs[0]
    tracks = walk.of(x)
    if not tracks:
        return
    before, after = walk.sizes(x), walk.sizes(output)
    found = reshaped(before, after, tracks)
    if node.op_type == "Reshape":
        _check_target(walk, node, after, {old: new for old, (new, _) in found.items()})
    for axis, numbers in tracks.items():
        if axis in found:
            target, places = found[axis]
            walk.carry(node, target, [(0, axis)], places)
        else:
            walk.classes.fix(numbers, f"{node.name} ({node.op_type}) mixes them with other axes")


def _check_target(walk: Walk, node: Node, after: tuple[int | str, ...], moved: dict[int, int]) -> None:
    """Make sure that a Reshape can ask for fewer channels."""
    asked = entries(node.inputs[1], walk.shapes)
    if len(asked) != len(after):
        raise Unclear("the shape that it asks for is computed")
    for axis, entry in enumerate(asked):
        number = entry_number(entry)
        copied = number == 0 and not attribute(node, "allowzero")
        if axis in moved.values():
            if number is None or (copied and moved.get(axis) != axis):
                raise Unclear("the shape that it asks for is computed")
        elif copied and axis in moved:
            raise Unclear("it copies a size that may change")


def reshaped(
    before: tuple[int | str, ...], after: tuple[int | str, ...], tracks: dict[int, Numbers]
) -> dict[int, tuple[int, Numbers]]:
    """Say where channels go in a Reshape.

    Args:
        before: Shape, with the name of each open axis.
        after: Shape that it becomes.
        tracks: Axis -> int64 [size], the class of each channel.

    Returns:
        For each tracked axis that can be followed, the axis that it becomes, and int64 [size, n]: for each channel
        there, the n old ones that are one from now on.

    >>> found = reshaped(("N", 4, 3, 3), ("N", 36), {1: np.arange(4)})
    >>> found[1][0], found[1][1].ravel().tolist()[:10]
    (1, [0, 0, 0, 0, 0, 0, 0, 0, 0, 1])
    >>> reshaped(("N", 4, 9), ("N", 2, 2, 9), {1: np.arange(4)})
    {1: (2, array([[0, 2],
           [1, 3]]))}
    """
    found = {}
    for old, new in segments(before, after):
        own = [axis for axis in old if axis in tracks]
        if len(own) != 1:
            continue
        sizes, targets = [before[axis] for axis in old], [axis for axis in new if after[axis] != 1]
        if len([size for size in sizes if size != 1]) == 1 and len(targets) == 1:
            found[own[0]] = targets[0], np.arange(tracks[own[0]].size, dtype=np.int64)[:, None]
            continue
        if not all(isinstance(size, int) for size in (*sizes, *(after[axis] for axis in new))) or not targets:
            last = last_axes(before[old[-1]], after[new[-1]])
            if last is not None and own[0] == old[-1]:
                found[own[0]] = new[-1], last
            continue
        along = [-1 if axis == own[0] else 1 for axis in old]
        places = np.arange(tracks[own[0]].size, dtype=np.int64).reshape(along)
        places = np.broadcast_to(places, [int(size) for size in sizes]).reshape([int(after[axis]) for axis in targets])
        classes = tracks[own[0]][places]
        varying = [i for i in range(len(targets)) if (classes != classes.take([0], i)).any()] or [len(targets) - 1]
        rows = np.moveaxis(places, varying[-1], 0).reshape(int(after[targets[varying[-1]]]), -1)
        same = (rows == rows[:, :1]).all()
        found[own[0]] = targets[varying[-1]], np.ascontiguousarray(rows[:, :1] if same else rows)
    return found


def last_axes(before: int | str, after: int | str) -> Numbers | None:
    """Say how channels go on along the last axis, as that is cut into parts for an open axis before it, or joins them.

    Args:
        before: Size of the last axis.
        after: Size that it becomes.

    Returns:
        int64 [after, n]: for each channel there, the n old ones that stand there; None if no part is whole.

    Heads of attention that go to the batch, and come back from it:

    >>> last_axes(6, 3).tolist(), last_axes(3, 6).ravel().tolist()
    ([[0, 3], [1, 4], [2, 5]], [0, 1, 2, 0, 1, 2])
    """
    if not isinstance(before, int) or not isinstance(after, int) or min(before, after) < 2:
        return None
    if before % after == 0:
        return np.arange(before, dtype=np.int64).reshape(-1, after).T
    return np.tile(np.arange(before, dtype=np.int64), after // before)[:, None] if after % before == 0 else None


def segments(before: tuple[int | str, ...], after: tuple[int | str, ...]) -> list[tuple[list[int], list[int]]]:
    """Cut two shapes into runs of axes that hold the same numbers, from the last axis on, as open batches come first.

    >>> segments(("N", 8, 3, 3), ("N", 2, 4, 9))
    [([2, 3], [3]), ([1], [1, 2]), ([0], [0])]
    """
    result: list[tuple[list[int], list[int]]] = []
    i, o = len(before), len(after)
    while i and o:
        old, new = [i := i - 1], [o := o - 1]
        left, right = before[i], after[o]
        while left != right:
            smaller = isinstance(left, int) and isinstance(right, int) and left < right
            size = before[i - 1] if smaller and i else after[o - 1] if not smaller and o else ""
            if not isinstance(left, int) or not isinstance(right, int) or not isinstance(size, int):
                return [*result, ([*range(i), *old], [*range(o), *new])]
            if smaller:
                old.insert(0, i := i - 1)
                left *= size
            else:
                new.insert(0, o := o - 1)
                right *= size
        result.append((old, new))
    return result
