"""Pooling and resizing."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from onnx_ir import Node
from torch import fx, nn

from mopruning.backends.pytorch.lowering import functions
from mopruning.backends.pytorch.lowering.context import Layer, Lowering
from mopruning.backends.pytorch.lowering.layers import short
from mopruning.errors import FormatError
from mopruning.ir.attributes import attribute
from mopruning.ir.lowering import lowers

_MAX = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
_AVERAGE = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
_GLOBAL = {
    "GlobalAveragePool": (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
    "GlobalMaxPool": (nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
}
_LINEAR = {3: "linear", 4: "bilinear", 5: "trilinear"}


@lowers("MaxPool", "AveragePool")
def pool(low: Lowering, node: Node) -> None:
    """Lower MaxPool and AveragePool."""
    kernel = attribute(node, "kernel_shape")
    axes = len(kernel)
    strides, dilations = attribute(node, "strides", [1] * axes), attribute(node, "dilations", [1] * axes)
    pads = attribute(node, "pads", [0] * axes * 2)
    ceil = bool(attribute(node, "ceil_mode"))
    largest = node.op_type == "MaxPool"
    counted = not largest and bool(attribute(node, "count_include_pad"))
    x = low.tensor(node.inputs[0])  # type: ignore[arg-type]
    # PyTorch pads both ends alike, and by half a window at most; its means know no dilation.
    alike = pads[:axes] == pads[axes:] and all(2 * pad <= size for pad, size in zip(pads, kernel, strict=False))
    if alike and (largest or set(dilations) == {1}):
        arguments: dict[str, Any] = {"kernel_size": short(kernel), "stride": short(strides)}
        arguments |= {"padding": short(pads[:axes])} if any(pads) else {}
        arguments |= {"dilation": short(dilations)} if set(dilations) != {1} else {}
        arguments |= {"ceil_mode": True} if ceil else {}
        arguments |= {"count_include_pad": False} if not largest and not counted and (any(pads)) else {}
        kind = (_MAX if largest else _AVERAGE)[axes - 1]
        result = low.call_module(str(node.name), kind(**arguments), Layer(kind, arguments), x)
    elif largest:
        result = low.call(functions.max_pool, x, kernel, strides, pads, dilations, ceil, name=node.name)
    else:
        result = low.call(functions.average_pool, x, kernel, strides, pads, dilations, ceil, counted, name=node.name)
    low.set(node.outputs[0], result)


@lowers(*_GLOBAL)
def global_pool(low: Lowering, node: Node) -> None:
    """Lower GlobalAveragePool and GlobalMaxPool."""
    x = node.inputs[0]
    kind = _GLOBAL[node.op_type][low.rank(x) - 3]  # type: ignore[arg-type]
    layer = Layer(kind, {"output_size": 1})
    low.set(node.outputs[0], low.call_module(str(node.name), kind(1), layer, low.tensor(x)))  # type: ignore[arg-type]


@lowers("Resize")
def resize(low: Lowering, node: Node) -> None:
    """Lower Resize: `F.interpolate` where it means the same, else axis by axis."""
    given = [*node.inputs, None, None, None]
    value, scales_in, sizes_in = given[0], given[2], given[3]
    assert value is not None
    mode, coordinates = attribute(node, "mode"), attribute(node, "coordinate_transformation_mode")
    rounding = attribute(node, "nearest_mode")
    x, rank = low.tensor(value), low.rank(value)
    scales = low.constant(scales_in) if scales_in is not None else None
    sizes: list[Any] | None = None
    factors: list[Any] = []
    if scales is not None and scales.size:
        factors = [float(scale) for scale in scales]
    elif sizes_in is not None and isinstance(numbers := low.numbers(sizes_in), list):
        sizes = numbers
    else:
        raise FormatError(f"node {node.name!r} (Resize): its scales are computed; they must be constants or sizes")
    options = _interpolation(mode, coordinates, rounding, rank)
    outer = factors[:2] == [1.0, 1.0] if sizes is None else _same_outer(low, node, sizes)
    if options is not None and outer:
        amount = {"scale_factor": factors[2:]} if sizes is None else {"size": sizes[2:]}
        result = low.call(F.interpolate, x, name=node.name, **amount, **options)
    else:
        old = [low.method("size", x, axis) for axis in range(rank)]
        if sizes is None:
            sizes = [low.call(functions.scaled, size, factor) for size, factor in zip(old, factors, strict=True)]
        else:
            factors = [low.call(functions.ratio, new, size) for new, size in zip(sizes, old, strict=True)]
        result = low.call(functions.resize, x, sizes, factors, mode, coordinates, rounding, name=node.name)
    low.set(node.outputs[0], result)


def _interpolation(mode: str, coordinates: str, rounding: str, rank: int) -> dict[str, Any] | None:
    """Return the options of `F.interpolate` that mean the same, or None."""
    if rank not in _LINEAR:
        return None
    if mode == "nearest":
        return {"mode": "nearest"} if (coordinates, rounding) == ("asymmetric", "floor") else None
    if coordinates not in ("half_pixel", "align_corners") or (mode == "cubic" and rank != 4):
        return None
    name = "bicubic" if mode == "cubic" else _LINEAR[rank]
    return {"mode": name, "align_corners": coordinates == "align_corners"}


def _same_outer(low: Lowering, node: Node, sizes: list[Any]) -> bool:
    """Whether a resize leaves batch and channels as they are."""
    value = node.inputs[0]
    assert value is not None
    old = list(value.shape or ())[:2]
    known = [isinstance(new, int) and new == size for new, size in zip(sizes, old, strict=False)]
    read = [
        isinstance(new, fx.Node) and new.target == "size" and new.args == (low.get(value), axis)
        for axis, new in enumerate(sizes[:2])
    ]
    return all(a or b for a, b in zip(known, read, strict=True))
