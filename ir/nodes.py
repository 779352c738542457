"""What a node asks for, worked out from its attributes: what writers of all frameworks need alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import onnx_ir
from onnx_ir import Node

from mopruning.ir.attributes import attribute

N = TypeVar("N")

FAR = 1 << 31
"""The end of a Slice that goes "to the end" is a number at least as large."""

_SELU = (1.6732632423543772, 1.0507009873554805)  # alpha and gamma (Klambauer et al. 2017, equation 14)


def is_usual_selu(node: Node) -> bool:
    """Whether a Selu has the constants that frameworks know alone.

    >>> is_usual_selu(onnx_ir.node("Selu", [])), is_usual_selu(onnx_ir.node("Selu", [], {"alpha": 1.5}))
    (True, False)
    """
    return np.allclose((attribute(node, "alpha"), attribute(node, "gamma")), _SELU, rtol=1e-6)


def filler_of(node: Node) -> onnx_ir.TensorProtocol:
    """Return the number that a ConstantOfShape is full of, [1]; a float32 0 where none is given.

    >>> filler_of(onnx_ir.node("ConstantOfShape", [])).numpy()
    array([0.], dtype=float32)
    """
    given = node.attributes.get("value")
    return onnx_ir.tensor(np.zeros(1, np.float32)) if given is None else given.as_tensor()


def cast_type(node: Node) -> onnx_ir.DataType | None:
    """Return the type that Cast or CastLike casts to; None where that of the other operand is not known.

    >>> cast_type(onnx_ir.node("Cast", [], {"to": 7})).name
    'INT64'
    """
    like = node.inputs[1] if len(node.inputs) > 1 else None
    return onnx_ir.DataType(attribute(node, "to")) if like is None else like.dtype


def even_parts(size: int, count: int) -> list[int]:
    """Return the sizes of the parts into which Split cuts an axis evenly; the last one may be smaller.

    >>> even_parts(7, 3)
    [3, 3, 1]
    """
    part = -(-size // count)
    return [min(part, size - part * index) for index in range(count)]


def pad_amounts(numbers: Sequence[N], axes: Sequence[int] | None, rank: int, nothing: N) -> tuple[list[N], list[N]]:
    """Return what Pad puts before the first and behind the last element of each axis.

    Args:
        numbers: Its amounts: those in front, then those behind.
        axes: The axes that it pads; None for all.
        rank: How many axes there are.
        nothing: The amount for the other axes.

    >>> pad_amounts([1, 2], [-1], 3, 0)
    ([0, 0, 1], [0, 0, 2])
    """
    starts, ends = [nothing] * rank, [nothing] * rank
    chosen = range(rank) if axes is None else [axis % rank for axis in axes]
    for position, axis in enumerate(chosen):
        starts[axis], ends[axis] = numbers[position], numbers[len(chosen) + position]
    return starts, ends
