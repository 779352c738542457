"""The order of axes: how a tensor lies against the value that it stands for, and what a reshape makes of that.

ONNX has channels first, TensorFlow has them last. Neither reader nor writer turns a tensor before something needs it
in another order: a tensor is carried along with its order, a Transpose changes nothing but that, and what would turn
it back cancels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

import numpy as np

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"
Size: TypeAlias = "int | None"
T = TypeVar("T")

_PRIME = (1 << 61) - 1  # stands for an open size: divides no product of known ones


@dataclass(frozen=True)
class Scatter:
    """How the features of a flattened tensor lie.

    Args:
        sizes: Sizes of the axes that were flattened, in their own order.
        order: In which order the tensor had them.
    """

    sizes: tuple[int, ...]
    order: tuple[int, ...]

    def index(self) -> NumPyArray:
        """Return, for each feature of the tensor, which feature of the value it is.

        >>> Scatter((2, 3), (1, 0)).index()
        array([0, 3, 1, 4, 2, 5])
        """
        return np.arange(math.prod(self.sizes)).reshape(self.sizes).transpose(self.order).reshape(-1)


@dataclass(frozen=True)
class Held(Generic[T]):
    """A tensor and how it lies.

    Args:
        tensor: The tensor: axis i of it is axis `order[i]` of the value that it stands for.
        order: One axis of the value for each axis of the tensor.
        scatter: How axis 1 was flattened, where its features lie in another order.
    """

    tensor: T
    order: tuple[int, ...]
    scatter: Scatter | None = None


@dataclass(frozen=True)
class Plan:
    """How a tensor is reshaped.

    Args:
        before: The order that it needs first.
        order: The order that the result has.
        scatter: How features of the result lie.
    """

    before: tuple[int, ...]
    order: tuple[int, ...]
    scatter: Scatter | None = None


def plain(rank: int) -> tuple[int, ...]:
    """Return the order of a tensor that lies as its value does."""
    return tuple(range(rank))


def channels_last(rank: int) -> tuple[int, ...]:
    """Return the order of axes that puts axis 1 last.

    >>> channels_last(4)
    (0, 2, 3, 1)
    """
    return (0, *range(2, rank), 1) if rank > 1 else plain(rank)


def channels_first(rank: int) -> tuple[int, ...]:
    """Return the order of axes that puts the last axis behind the first.

    >>> channels_first(4)
    (0, 3, 1, 2)
    """
    return (0, rank - 1, *range(1, rank - 1)) if rank > 1 else plain(rank)


def moves(order: Sequence[int], wanted: Sequence[int]) -> tuple[int, ...]:
    """Return the permutation that brings a tensor of one order into another.

    >>> moves((0, 2, 3, 1), (0, 1, 2, 3))
    (0, 3, 1, 2)
    """
    return tuple(order.index(axis) for axis in wanted)


def same_memory(permutation: Sequence[int], sizes: Sequence[Size]) -> bool:
    """Whether a permutation moves nothing but axes of size 1."""
    kept = [axis for axis in permutation if sizes[axis] != 1]
    return kept == sorted(kept)


def ordered(sizes: Sequence[T], order: Sequence[int]) -> list[T]:
    """Return the sizes of a value as its tensor has them."""
    return [sizes[axis] for axis in order]


def turned(array: NumPyArray, order: Sequence[int]) -> NumPyArray:
    """Return a constant as a tensor of that order would hold it."""
    return array.transpose(tuple(order))


def aligned(order: Sequence[int], rank: int, axes: int) -> tuple[int, ...] | None:
    """Return the order that an operand of fewer axes needs to be broadcast against a tensor; None if there is none.

    Args:
        order: Order of the larger tensor.
        rank: Its axes.
        axes: Axes of the smaller operand, which count from the end.

    >>> aligned((0, 2, 3, 1), 4, 4), aligned((0, 2, 1), 3, 2), aligned((0, 2, 3, 1), 4, 1)
    ((0, 2, 3, 1), (1, 0), None)
    """
    missing = rank - axes
    if any(axis >= missing for axis in order[:missing]):
        return None
    return tuple(axis - missing for axis in order[missing:])


def reshape_plan(order: Sequence[int], old: Sequence[Size], new: Sequence[Size]) -> Plan | None:
    """Say how to reshape a tensor that lies in some order, with as little turning as possible.

    Axes are matched in blocks whose sizes have the same product. An axis that stays whole can lie anywhere; axes that
    are merged have to lie one after the other. Where all axes but the first are merged, as before a dense layer,
    nothing is turned and the features of the result are scattered.

    Args:
        order: Order of the tensor.
        old: Shape of its value; an open size is None.
        new: Shape that the value gets; at most one size is open.

    Returns:
        The plan; None if the sizes do not tell: the tensor has to lie plainly.

    >>> reshape_plan((0, 2, 3, 1), [None, 8, 4, 4], [None, 2, 4, 4, 4])
    Plan(before=(0, 2, 3, 1), order=(0, 3, 4, 1, 2), scatter=None)
    >>> reshape_plan((0, 2, 3, 1), [None, 8, 4, 4], [None, 128])
    Plan(before=(0, 2, 3, 1), order=(0, 1), scatter=Scatter(sizes=(8, 4, 4), order=(1, 2, 0)))
    """
    blocks = _blocks(old, new)
    if blocks is None:
        return None
    sequence = [axis for axis in order if old[axis] != 1]
    scatter = None
    for axes, targets in blocks:
        places = [sequence.index(axis) for axis in axes]
        if places == list(range(places[0], places[0] + len(axes))):
            continue
        adjacent = sorted(places) == list(range(min(places), min(places) + len(axes)))
        sizes = tuple(size for axis in axes if (size := old[axis]) is not None)
        if adjacent and len(new) == 2 and targets == [1] and len(sizes) == len(axes):
            scatter = Scatter(sizes, tuple(sorted(range(len(axes)), key=places.__getitem__)))
            continue
        last = sequence[max(places)]
        rest = [axis for axis in sequence if axis not in axes or axis == last]
        place = rest.index(last)
        sequence = [*rest[:place], *axes, *rest[place + 1 :]]
    kept = [axis for axis in order if old[axis] != 1]
    ones = [axis for axis in order if old[axis] == 1]
    before = tuple(order) if sequence == kept else (*sequence, *ones)
    block_of = {axis: number for number, (axes, _) in enumerate(blocks) for axis in axes}
    result: list[int] = []
    for number in dict.fromkeys(block_of[axis] for axis in sequence):
        result += blocks[number][1]
    for axis in range(len(new)):
        if new[axis] == 1:
            place = next((i for i, other in enumerate(result) if other > axis), len(result))
            result.insert(place, axis)
    return Plan(before, tuple(result), scatter)


def _blocks(old: Sequence[Size], new: Sequence[Size]) -> list[tuple[list[int], list[int]]] | None:
    """Match axes of two shapes, those of size 1 left out; None if their sizes are not known well enough."""
    if sum(size is None for size in old) > 1 or sum(size is None for size in new) > 1 or 0 in (*old, *new):
        return None
    known = [math.prod(size for size in shape if size is not None) for shape in (old, new)]
    if (None in old) != (None in new):
        return None
    if None not in old and known[0] != known[1]:
        return None
    # the open sizes, times a number that lets both be whole
    before = [_PRIME * known[1] if size is None else size for size in old]
    after = [_PRIME * known[0] if size is None else size for size in new]
    rows = [axis for axis, size in enumerate(before) if size != 1]
    columns = [axis for axis, size in enumerate(after) if size != 1]
    blocks: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(rows) and j < len(columns):
        left, right = [rows[i]], [columns[j]]
        a, b = before[rows[i]], after[columns[j]]
        i, j = i + 1, j + 1
        while a != b:
            if a < b:
                if i == len(rows):
                    return None
                a, left, i = a * before[rows[i]], [*left, rows[i]], i + 1
            else:
                if j == len(columns):
                    return None
                b, right, j = b * after[columns[j]], [*right, columns[j]], j + 1
        blocks.append((left, right))
    return blocks if i == len(rows) and j == len(columns) else None
