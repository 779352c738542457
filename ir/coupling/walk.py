"""The walk over a graph in which one function an operator says what it does to channels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import numpy as np
import onnx_ir
from onnx_ir import Node, Value

from mopruning.ir.coupling.classes import NONE, Classes, Numbers
from mopruning.ir.passes.constants import constant

Sizes: TypeAlias = "tuple[int | str, ...]"
Tracks: TypeAlias = "dict[int, Numbers]"
"""Axis -> the class of each channel along it. An axis without classes has nothing that could go."""

Rule: TypeAlias = "Callable[[Walk, Node], None]"
R = TypeVar("R", bound="Rule")

RULES: dict[str, Rule] = {}
"""Operator -> what it does to channels; filled by `couples`."""

_WEIGHTS = (
    *(onnx_ir.DataType.FLOAT, onnx_ir.DataType.FLOAT16, onnx_ir.DataType.BFLOAT16, onnx_ir.DataType.DOUBLE),
    *(onnx_ir.DataType.INT8, onnx_ir.DataType.UINT8),
)


class Unclear(Exception):  # noqa: N818 - a rule that gives up
    """What a rule raises where it cannot follow the channels; everything that goes into the node is fixed then."""


@dataclass(frozen=True)
class Move:
    """Where the channels along an axis of a node's output come from.

    Args:
        sources: The inputs that they come from: index of the input, and axis.
        sizes: Channels of each of them.
        index: int64 [size, n]: for each channel, places in the sources one behind the other; n that are one from here
            on. -1 stands for a filling constant.
    """

    sources: tuple[tuple[int, int], ...]
    sizes: tuple[int, ...]
    index: Numbers


@dataclass(frozen=True)
class Use:
    """A weight in a node, and an axis of it, as the node sees it, along which channels come in or out."""

    node: Node
    value: Value
    axis: int
    role: str
    blocks: int = 1


class Walk:
    """What is known about the channels of each value so far.

    Args:
        shapes: Shape of each value; None where not even the number of axes is known.

    Attributes:
        shapes: The same.
        classes: The classes of all channels.
        uses: What nodes do with weights.
        moves: For each axis of a value that an operator rearranges, how.
        tracks: Each value's classes, as they were when it was made.
    """

    def __init__(self, shapes: Mapping[Value, Sizes | None]) -> None:
        self.classes = Classes()
        self.uses: list[Use] = []
        self.moves: dict[tuple[Value, int], Move] = {}
        self.tracks: dict[Value, Tracks] = {}
        self.shapes = shapes

    def run(self, graph: onnx_ir.Graph) -> None:
        """Follow the channels through a graph, in place."""
        for node in graph:
            rule = None if node.domain else RULES.get(node.op_type)
            where = f"{node.name} ({node.op_type})"
            try:
                if rule is None:
                    raise Unclear("no rule says what this operator does to channels")
                rule(self, node)
            except Unclear as reason:
                for value in node.inputs:
                    self.fix_value(value, f"{where}: {reason}")
                for value in node.outputs:
                    self.tracks.pop(value, None)
        for value in graph.outputs:
            self.fix_value(value, f"{value.name} is an output of the graph")

    # Values

    def sizes(self, value: Value) -> Sizes:
        """Return the shape of a value, with the name of each open axis."""
        if value.const_value is not None:
            return tuple(value.const_value.shape.numpy())
        shape = self.shapes.get(value)
        if shape is None:
            raise Unclear(f"the shape of {value.name} is not known")
        return shape

    def of(self, value: Value | None) -> Tracks:
        """Return the classes along each tracked axis of a value, as they are now."""
        if value is None:
            return {}
        if value not in self.tracks and value.is_initializer() and value.const_value is not None:
            tensor = value.const_value
            known = tensor.dtype in _WEIGHTS and not value.is_graph_input()
            sizes = tensor.shape.numpy() if known else ()
            self.tracks[value] = {axis: self.classes.fresh(size) for axis, size in enumerate(sizes) if size > 1}
        return {axis: self.classes.find(numbers) for axis, numbers in self.tracks.get(value, {}).items()}

    def set(self, value: Value, axis: int, numbers: Numbers) -> None:
        """Say which classes run along an axis of a value, in place; an axis of size 1 is never tracked."""
        if numbers.size > 1:
            self.tracks.setdefault(value, {})[axis] = numbers

    def carry(self, node: Node, axis: int, sources: Sequence[tuple[int, int]], index: Numbers, output: int = 0) -> None:
        """Set the classes along an axis of a node's output to those of rearranged inputs, in place.

        Args:
            node: The node.
            axis: Axis of its output.
            sources: Inputs (index) and axes of them that the channels come from; one that is not tracked there has
                channels that must stay.
            index: int64 [size] or [size, n]: places in the sources, one behind the other; those of a row are joined.
                -1 is a constant that fills: a channel that can go and has no weight.
            output: Which output.
        """
        parts = []
        for number, place in sources:
            value = node.inputs[number]
            assert value is not None  # rules read no input that is left out
            tracked = self.of(value).get(place)
            size = self.sizes(value)[place]
            if tracked is None and not isinstance(size, int):
                raise Unclear(f"the size of {value.name} is open")
            parts.append(np.full(size, NONE, np.int64) if tracked is None else tracked)  # type: ignore[arg-type]
        sizes = tuple(part.size for part in parts)
        joined = np.concatenate([*parts, self.classes.fresh(1)])  # the last one, never used as such, is for -1
        index = index.reshape(len(index), -1)
        numbers = joined[index]
        fills = index < 0
        numbers[fills] = self.classes.fresh(int(fills.sum()))
        for column in range(1, numbers.shape[1]):
            self.classes.join(numbers[:, 0], numbers[:, column], f"{node.name} ({node.op_type}) ties them")
        if len(numbers) == 1:  # an axis of size 1 is not tracked, so what it consists of has to stay
            self.classes.fix(numbers[0], f"{node.name} ({node.op_type}) takes one channel alone")
        self.moves[node.outputs[output], axis] = Move(tuple(sources), sizes, index)
        self.set(node.outputs[output], axis, self.classes.find(numbers[:, 0]))

    def keep_axes(self, node: Node, axes: Mapping[int, int], output: int = 0, number: int = 0) -> None:
        """Carry axes of an input (old -> new) as they are, in place; tracked ones that are not named are fixed."""
        for axis, numbers in self.of(node.inputs[number]).items():
            if axis in axes:
                index = np.arange(numbers.size, dtype=np.int64)
                self.carry(node, axes[axis], [(number, axis)], index, output)
            else:
                self.classes.fix(numbers, f"{node.name} ({node.op_type}) computes over them")

    def use(self, node: Node, index: int, axis: int, role: str, blocks: int = 1) -> None:
        """Note that channels come in or out along an axis of a node's input, in place."""
        value = node.inputs[index]
        if value is not None:
            self.uses.append(Use(node, value, axis, role, blocks))

    # Classes

    def fix_value(self, value: Value | None, why: str) -> None:
        """Fix every channel of a value, in place."""
        for numbers in self.of(value).values():
            self.classes.fix(numbers, why)

    def fix_others(self, node: Node, index: int, but: Sequence[int]) -> None:
        """Fix the channels along the other axes of an input, in place."""
        for axis, numbers in self.of(node.inputs[index]).items():
            if axis not in but:
                self.classes.fix(numbers, f"{node.name} ({node.op_type}) computes over them")

    def meet(self, node: Node, left: Numbers | None, right: Numbers | None) -> Numbers | None:
        """Join what runs along two axes that a node takes together, in place, and return it.

        Where only one side is tracked it is fixed, and what comes of both is not tracked.
        """
        if left is None or right is None:
            for numbers in (left, right):
                if numbers is not None:
                    self.classes.fix(numbers, f"{node.name} ({node.op_type}) takes them with values that have to stay")
            return None
        if left.size != right.size:
            raise Unclear(f"{left.size} channels meet {right.size}")
        self.classes.join(left, right, f"{node.name} ({node.op_type}) takes them with values that have to stay")
        return self.classes.find(left)


def couples(*operators: str) -> Callable[[R], R]:
    """Enter a rule into the table, for some operators."""

    def enter(rule: R) -> R:
        RULES.update(dict.fromkeys(operators, rule))
        return rule

    return enter


def whole_numbers(value: Value | None, what: str) -> list[int]:
    """Return the whole numbers that a constant holds.

    Raises:
        Unclear: If they are computed.
    """
    array = constant(value)
    if array is None:
        raise Unclear(f"its {what} are computed")
    return [int(number) for number in array.reshape(-1)]


def entries(value: Value | None, shapes: Mapping[Value, Sizes | None]) -> list[tuple[Value, int] | None]:
    """Return where each number of a shape stands: in which initializer, at which place; None where it is computed.

    A shape is an initializer, or several of them joined with computed sizes, as exporters write it.

    Args:
        value: What a node asks for.
        shapes: Shape of each value; those that are computed here say how many sizes they are.

    Raises:
        Unclear: If that is not how it is made.
    """
    if value is not None and value.is_initializer() and value.const_value is not None and not value.is_graph_input():
        return [(value, place) for place in range(value.const_value.size)]
    node = None if value is None else value.producer()
    if value is not None and node is not None and node.op_type == "Concat":
        found = [entry for part in node.inputs for entry in entries(part, shapes)]
        return found if len(value.uses()) == 1 else [None] * len(found)  # what others ask for as well stays
    shape = None if value is None else shapes.get(value)
    if shape is not None and len(shape) == 1 and isinstance(shape[0], int):
        return [None] * shape[0]
    raise Unclear("the shape that it asks for is computed")


def entry_number(entry: tuple[Value, int] | None) -> int | None:
    """Return the number at a place of a shape, None where it is computed."""
    if entry is None or entry[0].const_value is None:
        return None
    return int(entry[0].const_value.numpy().reshape(-1)[entry[1]])
