"""Numbers that a graph asks for as sizes and places of channels, made less where channels go."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
import onnx_ir
from onnx_ir import Node, Value

from mopruning.ir.attributes import attribute
from mopruning.ir.coupling.groups import Coupling
from mopruning.ir.coupling.walk import entries, entry_number
from mopruning.ir.nodes import even_parts, pad_amounts
from mopruning.ir.passes.constants import constant

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"
Kept: TypeAlias = "Mapping[Value, Mapping[int, NumPyArray]]"


class _Numbers:
    """The constants of one graph.

    Args:
        graph: The graph.
        found: The analysis of its channels.
        kept: For each value from which channels go: axis -> places that stay.
    """

    def __init__(self, graph: onnx_ir.Graph, found: Coupling, kept: Kept) -> None:
        self.graph = graph
        self.found = found
        self.kept = kept
        self._names = {value.name for node in graph for value in (*node.inputs, *node.outputs) if value is not None}
        self._names |= {str(name) for name in graph.initializers}

    def axes(self, value: Value | None) -> Mapping[int, NumPyArray]:
        """Return for each axis of a value that loses channels the places that stay."""
        return {} if value is None else self.kept.get(value, {})

    def replace(self, node: Node, index: int, numbers: NumPyArray) -> None:
        """Give a node another constant, in place; one that other nodes share is left to them."""
        old = node.inputs[index] if len(node.inputs) > index else None
        numbers = np.array(numbers, np.int64)
        if old is not None and old.is_initializer() and len(old.uses()) == 1 and not old.is_graph_output():
            old.const_value = onnx_ir.Tensor(numbers, name=old.name)
            old.shape = onnx_ir.Shape(numbers.shape)
            return
        name = wanted = f"{node.name}.numbers" if old is None or not old.is_initializer() else f"{old.name}.less"
        count = 1
        while name in self._names:
            name, count = f"{wanted}_{count}", count + 1
        self._names.add(name)
        tensor = onnx_ir.Tensor(numbers, name=name)
        kind = onnx_ir.TensorType(tensor.dtype)
        value = Value(name=name, shape=onnx_ir.Shape(numbers.shape), type=kind, const_value=tensor)
        self.graph.initializers.add(value)
        if len(node.inputs) <= index:
            node.resize_inputs(index + 1)
        node.replace_input_with(index, value)
        if old is not None and old.is_initializer() and not old.uses() and not old.is_graph_output():
            self.graph.initializers.pop(str(old.name))


def ask_for_less(graph: onnx_ir.Graph, found: Coupling, kept: Kept) -> None:
    """Change the constants and attributes of a graph that name sizes or places of channels, in place.

    Args:
        graph: The graph, whose weights and shapes are still those of the analysis.
        found: The analysis.
        kept: For each value from which channels go: axis -> places that stay.
    """
    numbers = _Numbers(graph, found, kept)
    for node in graph:
        change = None if node.domain else _CHANGES.get(node.op_type)
        if change is not None:
            change(numbers, node)


def _groups(numbers: _Numbers, node: Node) -> None:
    """A depthwise convolution has as many groups as channels."""
    groups = int(attribute(node, "group"))
    left = numbers.axes(node.inputs[0]).get(1)
    shape = numbers.found.shapes.get(node.inputs[0]) if node.inputs[0] is not None else None
    if groups > 1 and left is not None and shape is not None and shape[1] == groups:
        node.attributes["group"] = onnx_ir.AttrInt64("group", int(left.size))


def _sizes(index: int) -> Callable[[_Numbers, Node], None]:
    def change(numbers: _Numbers, node: Node) -> None:
        """What asks for a whole shape asks for what is left of it."""
        given = node.inputs[index] if len(node.inputs) > index else None
        left = numbers.axes(node.outputs[0])
        if given is None or not left:
            return
        asked = entries(given, numbers.found.shapes)
        shift = len(asked) - len(numbers.found.shapes[node.outputs[0]] or ())
        for axis, places in left.items():
            entry = asked[axis + shift] if axis + shift >= 0 else None
            number = entry_number(entry)
            if entry is None or number is None or number < (2 if node.op_type == "Expand" else 1):
                continue
            holder, at = entry
            owner, place = next(
                (use.node, use.idx) for use in holder.uses() if _leads_to(use.node, use.idx, node, index)
            )
            assert holder.const_value is not None
            content_ = holder.const_value.numpy().copy()
            content_.reshape(-1)[at] = places.size
            numbers.replace(owner, place, content_)
            asked = entries(node.inputs[index], numbers.found.shapes)

    return change


def _leads_to(user: Node, place: int, node: Node, index: int) -> bool:
    """Whether a node takes a shape itself, or joins it for the node that does."""
    if user is node:
        return place == index
    uses = list(user.outputs[0].uses())
    return user.op_type == "Concat" and len(uses) == 1 and _leads_to(uses[0].node, uses[0].idx, node, index)


def _parts(numbers: _Numbers, node: Node) -> None:
    """Each part of a Split has what is left of it."""
    x = node.inputs[0]
    shape = None if x is None else numbers.found.shapes.get(x)
    if shape is None:
        return
    axis = int(attribute(node, "axis")) % len(shape)
    if axis not in numbers.axes(x):
        return
    given = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    old = even_parts(int(shape[axis]), len(node.outputs)) if given is None else given.reshape(-1).tolist()
    new = [
        numbers.axes(value)[axis].size if axis in numbers.axes(value) else size
        for value, size in zip(node.outputs, old, strict=True)
    ]
    node.attributes.pop("num_outputs", None)
    numbers.replace(node, 1, np.array(new))


def _bounds(numbers: _Numbers, node: Node) -> None:
    """A Slice starts behind what is left before it."""
    x = node.inputs[0]
    shape = None if x is None else numbers.found.shapes.get(x)
    given = [*node.inputs, None]
    starts, ends = (constant(given[index]) for index in (1, 2))
    if shape is None or starts is None or ends is None:
        return
    axes = constant(given[3]) if given[3] is not None else None
    named = range(starts.size) if axes is None else [int(axis) % len(shape) for axis in axes.reshape(-1)]
    starts, ends = starts.reshape(-1).copy(), ends.reshape(-1).copy()
    changed = False
    for number, axis in enumerate(named):
        left = numbers.axes(x).get(axis)
        if left is None:
            continue
        first, last, _ = slice(int(starts[number]), int(ends[number])).indices(int(shape[axis]))
        starts[number], ends[number] = np.searchsorted(left, [first, last])
        changed = True
    if changed:
        numbers.replace(node, 1, starts)
        numbers.replace(node, 2, ends)


def _chosen(numbers: _Numbers, node: Node) -> None:
    """A Gather takes what is left, from where it is now."""
    data = node.inputs[0]
    shape = None if data is None else numbers.found.shapes.get(data)
    if data is not None and data.const_value is not None:
        shape = tuple(data.const_value.shape.numpy())
    indices = constant(node.inputs[1])
    if shape is None or indices is None:
        return
    axis = int(attribute(node, "axis")) % len(shape)
    left = numbers.axes(data).get(axis)
    if left is None:
        return
    places = indices.astype(np.int64) % int(shape[axis])
    if places.ndim:
        places = places[np.isin(places, left)]
    numbers.replace(node, 1, np.searchsorted(left, places))


def _amounts(numbers: _Numbers, node: Node) -> None:
    """A Pad puts fewer channels before and behind."""
    x = node.inputs[0]
    shape = None if x is None else numbers.found.shapes.get(x)
    amounts = constant(node.inputs[1])
    if shape is None or amounts is None or not numbers.axes(node.outputs[0]):
        return
    axes = constant(node.inputs[3]) if len(node.inputs) > 3 and node.inputs[3] is not None else None
    named = list(range(len(shape))) if axes is None else [int(axis) % len(shape) for axis in axes.reshape(-1)]
    starts, ends = pad_amounts(amounts.reshape(-1).tolist(), named, len(shape), 0)
    for axis, left in numbers.axes(node.outputs[0]).items():
        end = starts[axis] + int(shape[axis])
        starts[axis], ends[axis] = int((left < starts[axis]).sum()), int((left >= end).sum())
    numbers.replace(node, 1, np.array([part[axis] for part in (starts, ends) for axis in named]))


_CHANGES: Mapping[str, Callable[[_Numbers, Node], None]] = {
    "Conv": _groups,
    "ConvTranspose": _groups,
    "Reshape": _sizes(1),
    "Expand": _sizes(1),
    "Resize": _sizes(3),
    "Split": _parts,
    "Slice": _bounds,
    "Gather": _chosen,
    "Pad": _amounts,
}
"""Operator -> what it asks for, changed in place."""
