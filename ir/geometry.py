"""Sizes of images: what a value's shape is, and how many windows fit into it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from onnx_ir import Value

from mopruning.errors import MopruningError

Pair: TypeAlias = "int | tuple[int, int]"
"""One number for height and width, or one for each."""


class GraphError(MopruningError, ValueError):
    """A graph that cannot be built: shapes that do not fit, a name given twice, an unknown network or option."""


def pair(number: Pair) -> tuple[int, int]:
    """Return height and width.

    >>> pair(3), pair((1, 7))
    ((3, 3), (1, 7))
    """
    return (number, number) if isinstance(number, int) else number


def shape_of(x: Value) -> tuple[int | str, ...]:
    """Return the shape of a value, with the name of each open axis."""
    if x.shape is None:
        raise GraphError(f"{x.name}: its shape is not known; give it one, or run infer_shapes")
    return tuple(size if isinstance(size, int) else str(size.value) for size in x.shape)


def sample_of(x: Value) -> tuple[int, ...]:
    """Return the shape of one sample: without the batch axis.

    Raises:
        GraphError: If one of these sizes is open.
    """
    sizes = shape_of(x)[1:]
    if not all(isinstance(size, int) for size in sizes):
        raise GraphError(f"{x.name}: only its batch may be open, got {list(shape_of(x))}")
    return tuple(int(size) for size in sizes)


def image_of(x: Value, name: str) -> tuple[int, int, int]:
    """Return channels, height and width of an image.

    Raises:
        GraphError: If the value is no batch of images; `name` is the layer that needs one.
    """
    sizes = sample_of(x)
    if len(sizes) != 3:
        raise GraphError(f"{name}: needs images [N, channels, height, width], got {list(shape_of(x))}")
    return sizes[0], sizes[1], sizes[2]


def windows(
    name: str,
    size: Sequence[int],
    spans: Sequence[int],
    strides: Sequence[int],
    paddings: Sequence[int],
    ceil: bool = False,
) -> tuple[int, ...]:
    """Return how many windows fit along each side.

    Args:
        name: Name of the layer, for messages.
        size: Sides of the image.
        spans: Length of the window along each side, dilation included.
        strides: Distance between windows.
        paddings: Zeros at each end of each side.
        ceil: Whether a window counts that starts inside and ends outside.

    Raises:
        GraphError: If not even one fits, or where PyTorch and ONNX opset 20 count differently: if with `ceil` the
            last window would start outside.

    >>> windows("conv1", (224, 224), (7, 7), (2, 2), (3, 3))
    (112, 112)
    """
    counts = []
    for side, span, stride, padding in zip(size, spans, strides, paddings, strict=True):
        room = side + 2 * padding - span
        if room < 0:
            raise GraphError(f"{name}: a window of {span} does not fit into {side} + 2 * {padding}: use larger images")
        count = (-(-room // stride) if ceil else room // stride) + 1
        if ceil and (count - 1) * stride >= side + padding:
            raise GraphError(f"{name}: with ceil the last window of {span} would start outside {side} + {padding}")
        counts.append(count)
    return tuple(counts)
