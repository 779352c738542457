"""Pooling and resizing."""

from __future__ import annotations

from functools import reduce
from typing import Any, TypeAlias

import numpy as np
from onnx_ir import Node, Value

from mopruning.backends.mxnet.lowering.context import Lowering, Symbol, dtype_of, spatial_sizes
from mopruning.backends.mxnet.lowering.layers import padded
from mopruning.ir import resampling
from mopruning.ir.attributes import attribute
from mopruning.ir.lowering import Refusal, Window, lowers, open_shape, operands, sizes_of, window_of
from mopruning.ir.pooling import all_windows, counted, counts, taps

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"

_LOWEST = float(np.finfo(np.float16).min)


@lowers("MaxPool", "AveragePool")
def pool(low: Lowering, node: Node) -> None:
    """Lower MaxPool and AveragePool.

    Where MXNet's Pooling means the same it stands alone. Else padding goes first, as far as the last window reaches;
    sums are divided by how many numbers each window counts; and windows with gaps are taken number by number.
    """
    (x,) = operands(node, 1)
    kernel = attribute(node, "kernel_shape")
    axes, window = len(kernel), window_of(node, len(kernel))
    if not 1 <= axes <= 3:
        raise Refusal(f"pools have one to three axes there, not {axes}")
    largest, padding = node.op_type == "MaxPool", bool(attribute(node, "count_include_pad"))
    options: dict[str, Any] = {"kernel": tuple(kernel), "stride": window.strides, "name": node.name}
    ceil = bool(attribute(node, "ceil_mode"))
    convention = _convention(x, kernel, window, ceil)
    if convention:
        options |= {"pool_type": "max"} if largest else {"pool_type": "avg", "count_include_pad": padding}
        options |= {"pooling_convention": convention, "pad": window.starts}
        low.set(node.outputs[0], low.call("Pooling", low.symbol(x), **options))
        return
    sizes = spatial_sizes(x)
    whole = all_windows(window, sizes, kernel, ceil)
    windows = counts(whole, sizes, kernel)
    moves = zip(windows, window.strides, kernel, window.dilations, strict=True)
    covered = [(count - 1) * stride + (size - 1) * dilation + 1 for count, stride, size, dilation in moves]
    ends = [max(0, last - start - size) for last, start, size in zip(covered, window.starts, sizes, strict=True)]
    x_padded = low.symbol(x)
    if any(window.starts) or any(ends):
        lowest = _LOWEST if dtype_of(x) == "float16" else float(np.finfo(np.float32).min)
        x_padded = padded(low, x_padded, window.starts, ends, lowest if largest else 0.0)
    for axis, (last, start, size, end) in enumerate(zip(covered, window.starts, sizes, ends, strict=True)):
        if start + size + end > last:
            x_padded = low.sliced(x_padded, axis + 2, 0, last)
    if set(window.dilations) != {1}:
        result = _gathered(low, x_padded, window, kernel, windows, "broadcast_maximum" if largest else "broadcast_add")
    elif largest:
        low.set(node.outputs[0], low.call("Pooling", x_padded, pool_type="max", **options))
        return
    else:
        options["name"] = None
        result = low.call("Pooling", x_padded, pool_type="sum", **options)
    if not largest:
        numbers: NumPyArray = np.ones((), np.float64)
        for count in counted(window, whole, sizes, kernel, padding):
            numbers = numbers[..., None] * count
        shares = 1 / numbers
        table = low.constants(f"{low.place}.shares", shares.astype(dtype_of(x)).reshape(1, 1, *shares.shape))
        result = low.call("broadcast_mul", result, table, name=node.name)
    low.set(node.outputs[0], result)


def _convention(x: Value, kernel: list[int], window: Window, ceil: bool) -> str:
    """Return the rule by which Pooling counts the same windows, "" where there is none."""
    if window.starts != window.ends or set(window.dilations) != {1}:
        return ""
    windows = list(zip(kernel, window.strides, window.starts, strict=True))
    if any(pad >= size for size, _, pad in windows):
        return ""
    if not ceil:
        return "valid"
    if all(stride + pad <= size for size, stride, pad in windows):  # the last window starts inside, whatever the size
        return "full"
    sizes = [size for size in sizes_of(x)[2:] if size is not None]
    if len(sizes) < len(kernel):
        return ""
    found = counts(all_windows(window, sizes, kernel, ceil), sizes, kernel)
    same = all(
        count == -(-(size + 2 * pad - span) // stride) + 1
        for size, count, (span, stride, pad) in zip(sizes, found, windows, strict=True)
    )
    return "full" if same else ""


@lowers("GlobalAveragePool", "GlobalMaxPool")
def global_pool(low: Lowering, node: Node) -> None:
    """Lower GlobalAveragePool and GlobalMaxPool."""
    (x,) = operands(node, 1)
    axes = low.rank(x) - 2
    kind = "avg" if node.op_type == "GlobalAveragePool" else "max"
    options = {"global_pool": True, "kernel": (1,) * axes, "pool_type": kind}
    low.set(node.outputs[0], low.call("Pooling", low.symbol(x), name=node.name, **options))


@lowers("Resize")
def resize(low: Lowering, node: Node) -> None:
    """Lower Resize, axis by axis: the nearest element is taken, others are a product with a table of shares."""
    x, _, scales, given = operands(node, 4)
    old, new = sizes_of(x), sizes_of(node.outputs[0])
    factors = low.constant(scales)
    if given is None and factors is None:
        raise Refusal("its scales are computed; they must be constants or sizes")
    mode, coordinates = attribute(node, "mode"), attribute(node, "coordinate_transformation_mode")
    own = _own_resize(low, node, old, new, None if factors is None or not factors.size else factors)
    if own is not None:
        low.set(node.outputs[0], own)
        return
    result, rank = low.symbol(x), low.rank(x)
    for axis in range(rank):
        before, after = old[axis], new[axis]
        factor = None if factors is None or not factors.size else float(factors[axis])
        if before is None or after is None:
            if factor == 1.0 or (factor is None and open_shape(x)[axis] == open_shape(node.outputs[0])[axis]):
                continue
            raise Refusal(f"axis {axis} of {x.name!r} is open; give the graph's inputs shapes")
        if before == after and factor in (None, 1.0):
            continue
        places = resampling.positions(before, after, factor, coordinates)
        if mode == "nearest":
            index = resampling.nearest(places, before, attribute(node, "nearest_mode"))
            table = low.constants(f"{low.place}.nearest", index)
            result = low.call("take", result, table, axis=axis, mode="clip")
            continue
        shares = resampling.shares(places, before, mode).astype(dtype_of(x))
        result = _mixed(low, result, low.constants(f"{low.place}.shares", shares), axis, rank)
    low.set(node.outputs[0], low.call("identity", result, name=node.name))


def _own_resize(
    low: Lowering, node: Node, old: list[int | None], new: list[int | None], factors: NumPyArray | None
) -> Symbol | None:
    """Return the operator that MXNet has for images made larger by a whole number, or bilinearly; None for others."""
    (x, mode), coordinates = (
        (node.inputs[0], attribute(node, "mode")),
        attribute(node, "coordinate_transformation_mode"),
    )
    assert x is not None
    if len(old) != 4 or dtype_of(x) != "float32":
        return None
    if mode == "nearest" and factors is not None:
        scale = int(factors[2])
        whole = factors.tolist() == [1, 1, scale, scale] and scale > 1
        if whole and (coordinates, attribute(node, "nearest_mode")) == ("asymmetric", "floor"):
            return low.call("UpSampling", low.symbol(x), name=node.name, scale=scale, sample_type="nearest", num_args=1)
    if None in (*old[1:], *new[1:]) or old[1] != new[1] or mode != "linear":
        return None
    pairs = [(float(a), float(b)) for a, b in zip(old[2:], new[2:], strict=True)]  # type: ignore[arg-type]
    exact = factors is None or (
        factors[:2].tolist() == [1, 1] and all(a * f == b for (a, b), f in zip(pairs, factors[2:], strict=True))
    )
    known = {"align_corners", "pytorch_half_pixel", *(["half_pixel"] if min(b for _, b in pairs) > 1 else [])}
    if not exact or coordinates not in known or old[0] != new[0]:
        return None
    options = {"height": new[2], "width": new[3], "align_corners": coordinates == "align_corners"}
    return low.call("BilinearResize2D", low.symbol(x), name=node.name, **options)


def _mixed(low: Lowering, x: Symbol, shares: Symbol, axis: int, rank: int) -> Symbol:
    """Mix the elements of an axis by shares [new, old]."""
    order = [*(other for other in range(rank) if other != axis), axis]
    last = axis == rank - 1
    turned = x if last else low.call("transpose", x, axes=tuple(order))
    mixed = low.numpy("matmul", turned, low.call("transpose", shares, axes=(1, 0)))
    return mixed if last else low.call("transpose", mixed, axes=tuple(int(i) for i in np.argsort(order)))


def _gathered(low: Lowering, x: Symbol, window: Window, kernel: list[int], counts: list[int], operator: str) -> Symbol:
    """Join the numbers of windows with gaps: those at one place of all windows at a time."""
    parts = []
    for place in taps(window, kernel):
        starts = [before for before, _ in place]
        stops = [a + (n - 1) * s + 1 for a, n, s in zip(starts, counts, window.strides, strict=True)]
        bounds: dict[str, Any] = {
            "begin": (None, None, *starts),
            "end": (None, None, *stops),
            "step": (None, None, *window.strides),
        }
        parts.append(low.call("slice", x, **bounds))
    return reduce(lambda a, b: low.call(operator, a, b), parts)
