"""Batches: two graphs of one network, for batches of two sizes, become one in which sizes of the batch are marked."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from mopruning.backends.mindspore.exporting.graph import MindGraph, MindNode, Output
from mopruning.errors import FormatError

SIZES = (2, 3)
"""Batch sizes of the two graphs."""


class Batch(int):
    """A whole number that is so many times the size of the batch; as a number it is that of the first graph."""

    @property
    def times(self) -> int:
        """How many times the batch size it is."""
        return int(self) // SIZES[0]


class Filled:
    """An array whose shape goes with the batch, of one number only."""

    def __init__(self, number: Any, shape: tuple[int, ...]) -> None:
        self.number = number
        self.shape = shape


class Varying:
    """A constant that changes with the size of the batch in a way that no operator expresses."""


def merged(first: MindGraph, second: MindGraph) -> MindGraph:
    """Return the first graph, with sizes that go with the batch as `Batch`.

    Raises:
        FormatError: If the two compute in different ways.
    """
    if first.graphs or second.graphs:
        raise FormatError("it has graphs of its own, such as branches; give dynamic_batch=False")
    names = dict(zip(second.inputs, first.inputs, strict=True)) | dict(
        zip(second.parameters, first.parameters, strict=True)
    )
    names |= dict(zip(second.constants, first.constants, strict=False))
    nodes = []
    same = len(first.nodes) == len(second.nodes) and len(first.constants) == len(second.constants)
    for one, other in zip(first.nodes, second.nodes, strict=False):
        names[other.output] = one.output
        same = same and one.operator == other.operator and one.attributes.keys() == other.attributes.keys()
        same = same and tuple(names.get(name) for name in other.inputs) == one.inputs
        if not same:
            break
        nodes.append(_node(one, other))
    if not same:
        raise FormatError("it computes in another way for batches of another size; give dynamic_batch=False")
    constants = {
        name: _constant(value, other)
        for (name, value), other in zip(first.constants.items(), second.constants.values(), strict=True)
    }
    inputs = {
        name: _output(one, other)
        for (name, one), other in zip(first.inputs.items(), second.inputs.values(), strict=True)
    }
    return replace(first, nodes=tuple(nodes), constants=constants, inputs=inputs)


def _node(one: MindNode, other: MindNode) -> MindNode:
    attributes = {key: _constant(value, other.attributes[key]) for key, value in one.attributes.items()}
    given = tuple(_output(a, b) for a, b in zip(one.given, other.given, strict=False))
    return replace(one, attributes=attributes, given=given)


def _output(one: Output, other: Output) -> Output:
    if len(one.dims) != len(other.dims):
        raise FormatError("the number of axes goes with the size of the batch; give dynamic_batch=False")
    return replace(one, dims=tuple(_number(a, b) for a, b in zip(one.dims, other.dims, strict=True)))


def _number(a: int, b: int) -> Any:
    if a == b:
        return a
    return Batch(a) if a * SIZES[1] == b * SIZES[0] and a % SIZES[0] == 0 else Varying()


def _constant(a: Any, b: Any) -> Any:
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        if a.shape == b.shape and a.dtype == b.dtype:
            return a if a.tobytes() == b.tobytes() else Varying()
        fits = a.ndim == b.ndim and a.size and b.size and a.dtype == b.dtype
        if fits and (a == a.flat[0]).all() and (b == a.flat[0]).all():
            return Filled(a.flat[0], tuple(_number(x, y) for x, y in zip(a.shape, b.shape, strict=True)))
        return Varying()
    if isinstance(a, tuple) and isinstance(b, tuple) and len(a) == len(b):
        return tuple(_constant(x, y) for x, y in zip(a, b, strict=True))
    if type(a) is int and type(b) is int:
        return _number(a, b)
    return a if type(a) is type(b) and (a == b or a != a or not isinstance(a, (int, float, str, tuple))) else Varying()
