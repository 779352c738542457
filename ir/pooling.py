"""Windows of pools, for writers: how far the last one reaches, how many numbers each counts, the places within one."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np

from mopruning.ir.lowering import Refusal, Window

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"


def all_windows(window: Window, sizes: Sequence[int | None], kernel: Sequence[int], ceil: bool) -> Window:
    """Return a window whose padding lets in the last one, too, that crosses the end, where these count.

    One that would start behind the last value does not count, as in onnxruntime and in ONNX from opset 22 on.

    Args:
        window: How the pool moves.
        sizes: Spatial sizes of the input, None for those that are open.
        kernel: Sizes of the kernel.
        ceil: Whether windows count that start inside and end outside (ONNX, MaxPool: ceil_mode).

    Raises:
        Refusal: If that depends on a size that is open.

    >>> all_windows(Window((2, 2), (1, 1), (0, 0, 0, 0)), [5, 6], [2, 2], ceil=True).pads
    (0, 0, 1, 0)
    """
    if not ceil:
        return window
    ends = list(window.ends)
    for axis, (size, stride, start) in enumerate(zip(sizes, window.strides, window.starts, strict=True)):
        if size is None:
            if stride != 1:
                raise Refusal("its ceil_mode counts windows on an axis of open size; give the graph's inputs shapes")
            continue
        span = _span(window, kernel, axis)
        last = -(-(size + start + window.ends[axis] - span) // stride) * stride
        if last >= size + start:
            last -= stride
        ends[axis] = max(0, last + span - size - start)
    return Window(window.strides, window.dilations, (*window.starts, *ends))


def counts(window: Window, sizes: Sequence[int], kernel: Sequence[int]) -> list[int]:
    """Return how many windows fit on each axis, padding included.

    >>> counts(Window((2, 1), (1, 2), (0, 0, 1, 0)), [5, 6], [2, 3])
    [3, 2]
    """
    padded = zip(window.starts, sizes, window.ends, window.strides, strict=True)
    return [
        (start + size + end - _span(window, kernel, axis)) // stride + 1
        for axis, (start, size, end, stride) in enumerate(padded)
    ]


def counted(
    window: Window, whole: Window, sizes: Sequence[int], kernel: Sequence[int], padding: bool
) -> list[NumPyArray]:
    """Return how many places of each window count on each axis: those inside, and those in the padding asked for.

    The mean over a window of several axes is over the product of these.

    Args:
        window: How the pool moves; its padding is what the node asks for.
        whole: The same with what `all_windows` adds.
        sizes: Spatial sizes of the input.
        kernel: Sizes of the kernel.
        padding: Whether padding counts (ONNX, AveragePool: count_include_pad).

    Returns:
        int64 [windows] for each axis, at least 1.

    >>> window = Window((2,), (1,), (1, 1))
    >>> counted(window, all_windows(window, [4], [3], ceil=True), [4], [3], padding=False)[0].tolist()
    [2, 3, 1]
    """
    result = []
    ends = zip(sizes, counts(whole, sizes, kernel), window.starts, window.ends, strict=True)
    for axis, (size, count, start, end) in enumerate(ends):
        places = np.arange(count)[:, None] * window.strides[axis] + np.arange(kernel[axis]) * window.dilations[axis]
        low, high = (0, start + size + end) if padding else (start, start + size)
        result.append(np.maximum(((places >= low) & (places < high)).sum(1), 1))
    return result


def taps(window: Window, kernel: Sequence[int]) -> Iterator[list[tuple[int, int]]]:
    """Yield each place within a window: for each axis how many values lie before it, and how many behind.

    A pool with dilations is the largest, or the sum, of slices: one for each place.

    >>> list(taps(Window((1, 1), (2, 1), (0, 0, 0, 0)), [2, 1]))
    [[(0, 2), (0, 0)], [(2, 0), (0, 0)]]
    """
    for place in itertools.product(*(range(size) for size in kernel)):
        yield [
            (at * dilation, (size - 1 - at) * dilation)
            for at, size, dilation in zip(place, kernel, window.dilations, strict=True)
        ]


def _span(window: Window, kernel: Sequence[int], axis: int) -> int:
    """Return the length of a window along an axis, dilation included."""
    return (kernel[axis] - 1) * window.dilations[axis] + 1
