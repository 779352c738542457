"""Pooling and resizing."""

from __future__ import annotations

import math

import numpy as np
from onnx_ir import Node

from mopruning.backends.mindspore.lowering.context import Lowering, Var, literal, pair
from mopruning.ir import resampling
from mopruning.ir.attributes import attribute
from mopruning.ir.lowering import Refusal, Window, lowers, operands, sizes_of, window_of
from mopruning.ir.pooling import all_windows, counted, taps


@lowers("MaxPool", "AveragePool")
def pool(low: Lowering, node: Node) -> None:
    """Lower MaxPool and AveragePool: over an image that is padded first, where MindSpore's own padding differs."""
    (x,) = operands(node, 1)
    kernel = tuple(attribute(node, "kernel_shape"))
    axes = len(kernel)
    if len(node.outputs) > 1 and node.outputs[1].uses():
        raise Refusal("the places of its maxima are used")
    if axes > 3:
        raise Refusal(f"a pool of {axes} axes")
    window, features = window_of(node, axes), low.tensor(x)
    sizes = sizes_of(x)[2:]
    whole = all_windows(window, sizes, kernel, bool(attribute(node, "ceil_mode")))
    if node.op_type == "MaxPool":
        low.set(node.outputs[0], _max_pool(low, features, kernel, whole))
        return
    result = _average(low, _padded(low, features, whole, "0.0"), kernel, whole)
    padding = bool(attribute(node, "count_include_pad"))
    if any(whole.pads) and not (padding and whole == window):
        known = [size for size in sizes if size is not None]
        if len(known) < axes:
            raise Refusal("an average over padded images of open size; give the graph's inputs shapes")
        shares = np.ones((1, 1))
        for size, count in zip(kernel, counted(window, whole, known, kernel, padding), strict=True):
            shares = shares[..., None] * (size / count)
        dtype = x.dtype.numpy() if x.dtype is not None else np.float32
        result = low.emit("{} * {}", result, low.held(shares.astype(dtype), f"{low.place}.shares"))
    low.set(node.outputs[0], result)


def _max_pool(low: Lowering, x: Var, kernel: tuple[int, ...], window: Window) -> Var:
    if set(window.dilations) != {1}:
        return _combined(low, _padded(low, x, window, 'float("-inf")'), kernel, window, "ops.maximum({}, {})")
    if len(kernel) == 2 and any(window.pads) and window.starts == window.ends and _at_most_half(kernel, window):
        options = f'{_moves(kernel, window)}, pad_mode="pad", padding={pair(window.starts)}'
        return low.emit(f"{low.primitive(f'nn.MaxPool2d({options})', 'max_pool')}({{}})", x)
    return _pooled(low, "Max", _padded(low, x, window, 'float("-inf")'), kernel, window)


def _at_most_half(kernel: tuple[int, ...], window: Window) -> bool:
    return all(2 * pad <= size for size, pad in zip(kernel, window.starts, strict=True))


def _average(low: Lowering, x: Var, kernel: tuple[int, ...], window: Window) -> Var:
    if set(window.dilations) != {1}:
        total = _combined(low, x, kernel, window, "{} + {}")
        return low.emit(f"{{}} / {math.prod(kernel)}", total)
    return _pooled(low, "Avg", x, kernel, window)


def _combined(low: Lowering, x: Var, kernel: tuple[int, ...], window: Window, template: str) -> Var:
    """Combine the values of each window of a dilated pool, one place of the window after the other."""
    result = None
    for place in taps(window, kernel):
        ranges = []
        for (before, behind), stride in zip(place, window.strides, strict=True):
            ranges.append(f"{before or ''}:{-behind or ''}" + (f":{stride}" if stride != 1 else ""))
        part = low.emit(f"{{}}[:, :, {', '.join(ranges)}]", x)
        result = part if result is None else low.emit(template, result, part)
    assert result is not None
    return result


def _pooled(low: Lowering, kind: str, x: Var, kernel: tuple[int, ...], window: Window) -> Var:
    """Pool without padding; one axis is two of which the first has one place."""
    if len(kernel) == 3:
        layer = low.primitive(f"nn.{kind}Pool3d({_moves(kernel, window)})", f"{kind.lower()}_pool3d")
        return low.emit(f"{layer}({{}})", x)
    flat = len(kernel) == 1
    if flat:
        x, kernel = low.emit("ops.expand_dims({}, 2)", x), (1, *kernel)
        window = Window((1, *window.strides), (1, 1), (0, 0, 0, 0))
    layer = low.primitive(f"nn.{kind}Pool2d({_moves(kernel, window)})", f"{kind.lower()}_pool")
    result = low.emit(f"{layer}({{}})", x)
    return low.emit("ops.squeeze({}, 2)", result) if flat else result


def _moves(kernel: tuple[int, ...], window: Window) -> str:
    return f"kernel_size={pair(kernel)}, stride={pair(window.strides)}"


def _padded(low: Lowering, x: Var, window: Window, value: str) -> Var:
    if not any(window.pads):
        return x
    amounts = tuple(n for both in zip(window.starts[::-1], window.ends[::-1], strict=True) for n in both)
    return low.emit(f'ops.pad({{}}, {literal(amounts)}, "constant", {value})', x)


@lowers("GlobalAveragePool", "GlobalMaxPool")
def global_pool(low: Lowering, node: Node) -> None:
    """Lower GlobalAveragePool and GlobalMaxPool."""
    (x,) = operands(node, 1)
    axes = literal(tuple(range(2, low.rank(x))))
    function = "ops.mean" if node.op_type == "GlobalAveragePool" else "ops.amax"
    low.put(node, f"{function}({{}}, {axes}, True)", low.tensor(x))


@lowers("Resize")
def resize(low: Lowering, node: Node) -> None:
    """Lower Resize axis by axis: elements are picked, or multiplied by a table of shares."""
    x, _, scales_in, _ = operands(node, 4)
    mode, coordinates = attribute(node, "mode"), attribute(node, "coordinate_transformation_mode")
    scales = None if scales_in is None else low.constant(scales_in)
    given = scales is not None and scales.size
    old, new = sizes_of(x), sizes_of(node.outputs[0])
    result, rank = low.tensor(x), low.rank(x)
    for axis in range(rank):
        factor = float(scales[axis]) if given and scales is not None else None
        size, target = old[axis], new[axis]
        if size is None or target is None:
            if factor not in (None, 1.0) or size != target:
                raise Refusal("it changes an axis of open size; give the graph's inputs shapes")
            continue
        places = resampling.positions(size, target, factor, coordinates)
        if size == target and np.array_equal(places, np.arange(size)):
            continue
        name = f"{low.place}.axis{axis}"
        if mode == "nearest":
            index = resampling.nearest(places, size, attribute(node, "nearest_mode"))
            result = low.emit(f"ops.gather({{}}, {{}}, {axis})", result, low.held(index, name))
            continue
        dtype = x.dtype.numpy() if x.dtype is not None else np.float32
        table = np.ascontiguousarray(resampling.shares(places, size, mode).T.astype(dtype))
        order = [*(other for other in range(rank) if other != axis), axis]
        back = literal(tuple(int(place) for place in np.argsort(order)))
        if axis != rank - 1:
            result = low.emit(f"ops.transpose({{}}, {literal(tuple(order))})", result)
        result = low.emit("ops.matmul({}, {})", result, low.held(table, name))
        if axis != rank - 1:
            result = low.emit(f"ops.transpose({{}}, {back})", result)
    low.set(node.outputs[0], result)
