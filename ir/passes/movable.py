"""Whether the channels of a group may change places: every value then has to follow, in every operator.

Along an axis, channel c stands once, or as often as every other channel: k times where an image was flattened. The k-th
place of one channel then goes to the k-th place of another. What is checked is that every operator that rearranges
numbers takes places that moved so to places that moved so, whatever the order; moving each channel by one shows that,
since it compares every channel with its neighbour.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import onnx_ir

from mopruning.ir.attributes import attribute
from mopruning.ir.coupling.groups import ChannelGroup, Coupling
from mopruning.ir.passes.shapes import static_shape

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"


def places(channels: NumPyArray, order: NumPyArray) -> NumPyArray | None:
    """Return the old place of what comes to stand in each place of an axis when channels change places.

    Args:
        channels: int64 [size]: the channel at each place of the axis, -1 for one of another group, which stays.
        order: int64 [channels of the group]: the channel that comes to where each one was.

    Returns:
        int64 [size]; None where some channels stand along the axis more often than others.

    >>> places(np.array([0, 0, 1, 1, -1, -1]), np.array([1, 0]))
    array([2, 3, 0, 1, 4, 5])
    >>> places(np.array([0, 1, 0]), np.array([1, 0])) is None
    True
    """
    result = np.arange(channels.size)
    own = np.flatnonzero(channels >= 0)
    each, rest = divmod(own.size, order.size)
    if rest or (np.bincount(channels[own], minlength=order.size) != each).any():
        return None
    of_channel = own[np.argsort(channels[own], kind="stable")].reshape(order.size, each)
    result[of_channel] = of_channel[order]
    return result


def obstacle(model: onnx_ir.Model, found: Coupling, group: ChannelGroup) -> str:
    """Say what keeps the channels of a group from changing places; "" if nothing does.

    Args:
        model: The model that was analysed.
        found: What was found.
        group: A group of it.
    """
    if group.fixed.any():
        return group.reasons[0]
    return _Probe(found, group).run(model.graph)


class _Probe:
    """Moves each channel of a group by one, and sees where values would not follow."""

    def __init__(self, found: Coupling, group: ChannelGroup) -> None:
        self._found = found
        number = next(index for index, one in enumerate(found.groups) if one is group)
        first, last = found.offsets[number : number + 2]
        order = np.roll(np.arange(group.channels), -1)
        # along every axis that has channels of the group: what moves where, None where it cannot
        self._moved: dict[tuple[onnx_ir.Value, int], NumPyArray | None] = {}
        for value, tracks in found.tracks.items():
            for axis, numbers in tracks.items():
                own = (numbers >= first) & (numbers < last)
                if own.any():
                    self._moved[value, axis] = places(np.where(own, numbers - first, -1), order)

    def run(self, graph: onnx_ir.Graph) -> str:
        for (value, _), moved in self._moved.items():
            if moved is None:
                return f"{_made(value)} has only some of them"
        for value, axis in self._found.moves:
            if not self._carried(value, axis):
                return f"{_made(value)} takes them apart"
        for node in graph:
            if node.op_type in ("Conv", "ConvTranspose") and not node.domain and not self._grouped(node):
                return f"{node.name} ({node.op_type}) has them in groups"
        return ""

    def _along(self, value: onnx_ir.Value | None, axis: int, size: int) -> NumPyArray:
        """Return the old place of what comes to stand in each place."""
        moved = None if value is None else self._moved.get((value, axis))
        return np.arange(size) if moved is None else moved

    def _carried(self, value: onnx_ir.Value, axis: int) -> bool:
        """Whether an operator that rearranges numbers takes moved inputs to its moved output."""
        node, move = value.producer(), self._found.moves[value, axis]
        if node is None:
            return True
        sources = [(node.inputs[number], place) for number, place in move.sources]
        if (value, axis) not in self._moved and not any(one in self._moved for one in sources):
            return True
        starts = np.cumsum([0, *move.sizes])
        parts = [
            start + self._along(source, place, size)
            for (source, place), size, start in zip(sources, move.sizes, starts[:-1], strict=True)
        ]
        moved = np.concatenate([*parts, [-1]])  # -1 is a constant that fills
        return bool((moved[move.index] == move.index[self._along(value, axis, len(move.index))]).all())

    def _grouped(self, node: onnx_ir.Node) -> bool:
        """Whether a grouped convolution sees each of its groups rearranged like the others."""
        groups = int(attribute(node, "group"))
        x, weight, y = node.inputs[0], node.inputs[1], node.outputs[0]
        ends = [(x, 1), (y, 1), (weight, 0), (weight, 1)]
        if groups == 1 or not any(end in self._moved for end in ends):
            return True
        shape = static_shape(weight)
        if shape is None:
            return False
        turned = node.op_type == "ConvTranspose"
        inputs, outputs = (shape[0], shape[1] * groups) if turned else (shape[1] * groups, shape[0])
        into, out = self._along(x, 1, inputs), self._along(y, 1, outputs)
        if inputs == groups:
            each = outputs // groups
            return bool((out == (into[:, None] * each + np.arange(each)).reshape(-1)).all())
        for moved, size in ((into, inputs // groups), (out, outputs // groups)):
            inner = moved.reshape(groups, size) - np.arange(groups)[:, None] * size
            if (inner != inner[0]).any() or inner[0].min() < 0 or inner[0].max() >= size:
                return False
        numbered = out if turned else into  # the side whose channels the weight numbers within each group
        return bool((numbered[: shape[1]] == self._along(weight, 1, shape[1])).all())


def _made(value: onnx_ir.Value) -> str:
    """Name what gives a value."""
    node = value.producer()
    return f"{value.name}" if node is None else f"{node.name} ({node.op_type})"
