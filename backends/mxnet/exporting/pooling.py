"""Pooling and resizing."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir

from mopruning.backends.mxnet.exporting.network import Call, Translation, Values, known
from mopruning.errors import FormatError
from mopruning.ir.lowering import Refusal

_CHANNELS_FIRST = ("", "NCW", "NCHW", "NCDHW")


def pool(call: Call) -> Values:
    """Translate Pooling."""
    node = call.node
    kind = node.text("pool_type", "max")
    if node.text("layout") not in _CHANNELS_FIRST:
        raise Refusal(f"its layout is {node.text('layout')}; only those with the channels first are read")
    if kind not in ("max", "avg", "sum"):
        raise Refusal(f"its pool_type is {kind}")
    if node.flag("global_pool"):
        if kind == "sum":
            axes = call.constant("axes", list(range(2, call.rank())))
            return call.add("ReduceSum", [call.x, axes], keepdims=1)
        return call.add({"max": "GlobalMaxPool", "avg": "GlobalAveragePool"}[kind], [call.x])
    kernel = list(node.integers("kernel"))
    axes_of = len(kernel)
    strides = list(node.integers("stride")) or [1] * axes_of
    pads = list(node.integers("pad")) or [0] * axes_of
    if not 1 <= axes_of == len(strides) == len(pads) <= 3:
        raise FormatError(f"{node}: its kernel, stride and pad are {kernel}, {strides} and {pads}")
    attributes: dict[str, Any] = {"kernel_shape": kernel, "strides": strides, "pads": pads * 2}
    convention = node.text("pooling_convention", "valid")
    if convention == "full":
        attributes |= {"ceil_mode": 1} if _rounds_up(call, kernel, strides, pads) else {}
    elif convention != "valid":
        raise Refusal(f"its pooling_convention is {convention}")
    if kind == "max":
        return call.add("MaxPool", [call.x], **attributes)
    if kind == "avg":
        counted = node.flag("count_include_pad", True) and any(pads)
        return call.add("AveragePool", [call.x], **attributes, **({"count_include_pad": 1} if counted else {}))
    if "ceil_mode" in attributes:
        raise Refusal("it sums over windows that cross the end")
    means = call.part("AveragePool", "means", [call.x], **attributes, count_include_pad=1)
    return call.add("Mul", [means, call.number("count", float(np.prod(kernel)), call.x)])


def _rounds_up(call: Call, kernel: list[int], strides: list[int], pads: list[int]) -> bool:
    """Whether windows that cross the end add one; False where it comes to the same.

    Raises:
        Refusal: If the last window lies in the padding altogether, which ONNX leaves out.
    """
    windows = list(zip(kernel, strides, pads, strict=True))
    sizes = [None] * len(kernel) if call.x.shape is None else call.sizes()[2:]
    if not all(isinstance(size, int) for size in sizes):
        if all(
            stride + pad <= size for size, stride, pad in windows
        ):  # the last window starts inside, whatever the size
            return True
        known(sizes)
    rooms = [size + 2 * pad - span for size, (span, _, pad) in zip(sizes, windows, strict=True)]
    starts = [-(-room // stride) * stride for room, (_, stride, _) in zip(rooms, windows, strict=True)]
    if any(start >= size + pad for start, size, (_, _, pad) in zip(starts, sizes, windows, strict=True)):
        raise Refusal("its last window lies in the padding altogether")
    return any(room % stride for room, stride in zip(rooms, strides, strict=True))


def adaptive(call: Call) -> Values:
    """Translate AdaptiveAvgPooling2D to so many windows as fit evenly."""
    wanted = list(call.node.integers("output_size", (1,)))
    wanted = wanted * 2 if len(wanted) == 1 else wanted
    if wanted == [1, 1]:
        return call.add("GlobalAveragePool", [call.x])
    sizes = known(call.sizes()[2:])
    if any(new < 1 or old % new for old, new in zip(sizes, wanted, strict=True)):
        raise Refusal(f"its windows are not all alike: {sizes} to {wanted}")
    kernel = [old // new for old, new in zip(sizes, wanted, strict=True)]
    return call.add("AveragePool", [call.x], kernel_shape=kernel, strides=kernel)


def bilinear(call: Call) -> Values:
    """Translate BilinearResize2D."""
    node, mode = call.node, call.node.text("mode", "size")
    aligned = node.flag("align_corners", True)
    if mode == "size" and node.text("scale_height"):
        factors = [node.number(f"scale_{side}", 1.0) for side in ("height", "width")]
        new = [int(size * factor) for size, factor in zip(known(call.sizes()[2:]), factors, strict=True)]
    elif mode == "size":
        new = [node.integer(side, 1) for side in ("height", "width")]
    elif mode == "like":
        new = known(call.sizes(1)[2:])
    else:
        raise Refusal(f"its mode is {mode}")
    # a single element lies where the first one does, unlike ONNX's half_pixel (MXNet 1.9.1)
    coordinates = "align_corners" if aligned else "half_pixel" if min(new) > 1 else "pytorch_half_pixel"
    attributes = {"mode": "linear", "coordinate_transformation_mode": coordinates}
    (channels,) = known(call.sizes()[1:2])
    batch = call.sizes()[0]
    if isinstance(batch, int):
        sizes = call.constant("sizes", [batch, channels, *new])
    else:
        front = call.part("Shape", "front", [call.x], start=0, end=2)
        sizes = call.part("Concat", "sizes", [front, call.constant("size", new)], axis=0)
    result = call.add("Resize", [call.x, None, None, sizes], **attributes)
    result.shape, result.type = onnx_ir.Shape([batch, channels, *new]), call.x.type
    return result


TRANSLATIONS: dict[str, Translation] = {
    **dict.fromkeys(("Pooling", "Pooling_v1"), pool),
    "_contrib_AdaptiveAvgPooling2D": adaptive,
    "_contrib_BilinearResize2D": bilinear,
}
"""MXNet's operator -> its translation."""
