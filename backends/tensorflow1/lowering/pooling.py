"""Pooling and resizing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow.compat.v1 as tf
from onnx_ir import Node

from mopruning.backends.tensorflow1.lowering.context import Lowering, Refusal, Tensor
from mopruning.backends.tensorflow1.lowering.windows import pad_image, padding_of
from mopruning.ir import resampling
from mopruning.ir.attributes import attribute
from mopruning.ir.lowering import Window, lowers, operands, window_of
from mopruning.ir.pooling import all_windows, taps


@lowers("MaxPool", "AveragePool")
def pool(low: Lowering, node: Node) -> None:
    """Lower MaxPool and AveragePool."""
    kernel = attribute(node, "kernel_shape")
    axes = len(kernel)
    x = operands(node)[0]
    if len(node.outputs) > 1 and node.outputs[1].uses():
        raise Refusal("the places of its maxima are used")
    window, sizes = window_of(node, axes), low.sizes(x)[2:]
    whole = all_windows(window, sizes, kernel, bool(attribute(node, "ceil_mode")))
    with tf.name_scope(low.scoped(node)) as name:
        features = low.image(x)
        if node.op_type == "MaxPool":
            low.put_image(node, _max_pool(features, kernel, whole, sizes, name))
        else:
            counted = bool(attribute(node, "count_include_pad"))
            low.put_image(node, _average_pool(features, kernel, window, whole, sizes, counted, name))


def _max_pool(x: Tensor, kernel: list[int], window: Window, sizes: list[int | None], name: str) -> Tensor:
    lowest = -math.inf if x.dtype.is_floating else x.dtype.min
    axes = len(kernel)
    if set(window.dilations) != {1}:
        padded = pad_image(x, window.pads, lowest) if any(window.pads) else x
        return _slices(padded, kernel, window, tf.maximum, name)
    if axes == 1:
        x, kernel, sizes = tf.expand_dims(x, 1), [1, *kernel], [1, *sizes]
        window = Window((1, *window.strides), (1, 1), (0, *window.starts, 0, *window.ends))
    padding = padding_of(window, sizes, kernel)
    if padding == "EXPLICIT":  # its own EXPLICIT is one of version 2.5, and not for three axes
        x, padding = pad_image(x, window.pads, lowest), "VALID"
    function = tf.raw_ops.MaxPool3D if axes == 3 else tf.raw_ops.MaxPool
    own = name if axes != 1 else None
    result = function(input=x, ksize=[1, *kernel, 1], strides=[1, *window.strides, 1], padding=padding, name=own)
    return tf.squeeze(result, [1], name=name) if axes == 1 else result


def _slices(x: Tensor, kernel: Sequence[int], window: Window, combine: Any, name: str | None = None) -> Tensor:
    """Combine the values of each window of a dilated pool, one place of the window after the other."""
    known, shape = x.shape.as_list(), tf.shape(x)
    result = None
    for place in taps(window, kernel):
        ranges = [slice(None)]
        for axis, (before, behind) in enumerate(place):
            size = known[axis + 1] if known[axis + 1] is not None else shape[axis + 1]
            ranges.append(slice(before, size - behind, window.strides[axis]))
        part = x[tuple(ranges)]
        result = part if result is None else combine(result, part)
    return tf.identity(result, name=name)


def _average(x: Tensor, kernel: Sequence[int], window: Window, padding: str, name: str | None = None) -> Tensor:
    """Return means over windows, padded ones among them if `padding` is "SAME" and then without the padding."""
    if set(window.dilations) != {1}:
        return tf.divide(_slices(x, kernel, window, tf.add), tf.cast(math.prod(kernel), x.dtype), name=name)
    options: dict[str, Any] = {"padding": padding}
    if len(kernel) == 3:
        options |= {"ksize": [1, *kernel, 1], "strides": [1, *window.strides, 1]}
        return tf.raw_ops.AvgPool3D(input=x, name=name, **options)
    if len(kernel) == 1:
        options |= {"ksize": [1, 1, *kernel, 1], "strides": [1, 1, *window.strides, 1]}
        return tf.squeeze(tf.raw_ops.AvgPool(value=tf.expand_dims(x, 1), **options), [1], name=name)
    options |= {"ksize": [1, *kernel, 1], "strides": [1, *window.strides, 1]}
    return tf.raw_ops.AvgPool(value=x, name=name, **options)


def _average_pool(
    x: Tensor,
    kernel: list[int],
    window: Window,
    whole: Window,
    sizes: list[int | None],
    counted: bool,
    name: str,
) -> Tensor:
    padding = padding_of(whole, sizes, kernel)
    plain = set(window.dilations) == {1}
    if padding == "VALID" or (padding == "SAME" and plain and not counted):
        return _average(x, kernel, whole, padding, name)
    padded = pad_image(x, whole.pads)
    if counted and whole == window:
        return _average(padded, kernel, whole, "VALID", name)
    # what share of each window counts: all of it, but for what lies outside
    inside: Any = [1 if size is None else size for size in sizes]
    if None in sizes:
        inside = tf.shape(x)[1:-1]
    ones = tf.ones(tf.concat([[1], inside, [1]], 0), x.dtype) if None in sizes else tf.ones([1, *inside, 1], x.dtype)
    more: tuple[int, ...] = whole.pads
    if counted:
        asked = tuple(map(min, whole.pads, window.pads))  # the last window may end before the padding does
        ones = pad_image(ones, asked, 1)
        more = tuple(a - b for a, b in zip(whole.pads, asked, strict=True))
    share = _average(pad_image(ones, more), kernel, whole, "VALID")
    return tf.divide(_average(padded, kernel, whole, "VALID"), share, name=name)


@lowers("GlobalAveragePool", "GlobalMaxPool")
def global_pool(low: Lowering, node: Node) -> None:
    """Lower GlobalAveragePool and GlobalMaxPool."""
    x = operands(node)[0]
    axes = list(range(1, low.rank(x) - 1))
    function = tf.reduce_mean if node.op_type == "GlobalAveragePool" else tf.reduce_max
    low.put_image(node, function(low.image(x), axes, keepdims=True, name=low.scoped(node)))


@lowers("Resize")
def resize(low: Lowering, node: Node) -> None:
    """Lower Resize: TensorFlow's own where it means the same, else axis by axis."""
    x, _, scales_in, sizes_in = operands(node, 4)
    mode, coordinates = attribute(node, "mode"), attribute(node, "coordinate_transformation_mode")
    rounding = attribute(node, "nearest_mode")
    rank = low.rank(x)
    scales = low.constant(scales_in)
    if scales is not None and scales.size:
        factors: list[float | None] = [float(scale) for scale in scales]
    elif sizes_in is not None:
        factors = [None] * rank
    else:
        raise Refusal("its scales are computed; they must be constants or sizes")
    old, new = low.sizes(x), low.sizes(node.outputs[0])
    for axis in range(rank):
        if new[axis] is None and factors[axis] is None and old[axis] is not None:
            raise Refusal("its sizes are computed; they must be constants")
    name = low.scoped(node)
    native = _native(mode, coordinates, rounding)
    with tf.name_scope(name):
        exact = all(
            factors[axis] is None
            or coordinates == "align_corners"
            or old[axis] is None
            or new[axis] == old[axis] * factors[axis]  # type: ignore[operator]
            for axis in range(rank)
        )
        outer = all((old[axis], factors[axis]) == (new[axis], factors[axis]) for axis in range(2))
        outer = outer and all(factors[axis] in (None, 1.0) for axis in range(2))
        if native is not None and rank == 4 and outer and exact:
            kind, options = native
            images = low.image(x)
            target: list[Any] = []
            for axis in (2, 3):
                size, factor = new[axis], factors[axis]
                target.append(size if size is not None else _scaled(tf.shape(images)[axis - 1], factor))
            result = getattr(tf.raw_ops, kind)(images=images, size=tf.stack(target), **options)
            low.put_image(node, tf.cast(result, images.dtype, name=name))
            return
        held = low.held(x)
        order = held.order if held.scatter is None else tuple(range(rank))
        tensor = low.tensor(x, order)
        for place, axis in enumerate(order):
            if old[axis] != new[axis] or factors[axis] not in (None, 1.0):
                tensor = _resized(tensor, place, new[axis], factors[axis], (mode, coordinates, rounding))
        low.put(node, tf.identity(tensor, name=name), order)


def _native(mode: str, coordinates: str, rounding: str) -> tuple[str, dict[str, bool]] | None:
    """Return the operation of TensorFlow, and its options, that means the same."""
    if mode == "linear":
        options = {"half_pixel": (False, True), "align_corners": (True, False), "asymmetric": (False, False)}
        kind = "ResizeBilinear"
    elif mode == "nearest":
        options = {
            "half_pixelround_prefer_ceil": (False, True),
            "asymmetricfloor": (False, False),
            "align_cornersround_prefer_ceil": (True, False),
        }
        coordinates, kind = coordinates + rounding, "ResizeNearestNeighbor"
    else:
        return None
    if coordinates not in options:
        return None
    align, half = options[coordinates]
    return kind, {"align_corners": align, "half_pixel_centers": half}


def _scaled(size: Tensor, factor: float | None) -> Tensor:
    return size if factor is None else tf.cast(tf.floor(tf.cast(size, tf.float32) * factor), tf.int32)


def _resized(x: Tensor, axis: int, size: int | None, factor: float | None, how: tuple[str, str, str]) -> Tensor:
    """Resize one axis as ONNX's Resize does (https://onnx.ai/onnx/operators/onnx__Resize.html).

    The graph computes the places itself, also where sizes are known: a table would come back from a frozen graph as a
    parameter.
    """
    mode, coordinates, rounding = how
    old: Any = x.shape.as_list()[axis]
    old = tf.shape(x)[axis] if old is None else old
    new: Any = _scaled(old, factor) if size is None else size
    one = tf.float32
    before, after = tf.cast(old, one), tf.cast(new, one)
    scale: Any = after / before if factor is None else factor
    place = resampling.moved(tf.cast(tf.range(new), one), before, after, scale, coordinates, tf)
    if mode == "nearest":
        index = tf.cast(resampling.rounded(place, rounding, tf), tf.int32)
        return tf.gather(x, tf.clip_by_value(index, 0, old - 1), axis=axis)
    if mode == "linear":
        place = tf.clip_by_value(place, 0.0, before - 1)
    first = tf.floor(place)
    shape = np.where(np.arange(x.shape.rank) == axis, -1, 1)
    parts = []
    for tap, share in resampling.taps(place - first, mode):
        index = tf.clip_by_value(tf.cast(first, tf.int32) + tap, 0, old - 1)
        parts.append(tf.gather(x, index, axis=axis) * tf.cast(tf.reshape(share, shape), x.dtype))
    return tf.add_n(parts)
