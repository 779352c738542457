"""Pooling and resizing."""

from __future__ import annotations

from typing import Any

import numpy as np

from mopruning.backends.tensorflow1.exporting.context import Operation, Translation, name_of
from mopruning.backends.tensorflow1.exporting.fixed import static
from mopruning.backends.tensorflow1.exporting.layers import (
    image_value,
    is_channels_first,
    pads_of,
    put_image,
    spatial,
)
from mopruning.backends.tensorflow1.exporting.neighbours import padding_before
from mopruning.ir.lowering import Refusal

_COORDINATES = {(False, True): "half_pixel", (True, False): "align_corners", (False, False): "asymmetric"}
_ROUNDINGS = {"half_pixel": "round_prefer_ceil", "align_corners": "round_prefer_ceil", "asymmetric": "floor"}


def pool(ctx: Translation, operation: Operation) -> None:
    """Add MaxPool and AvgPool; zeros that are put around a mean before it are counted in it."""
    x = operation.inputs[0]
    first = is_channels_first(operation)
    kernel, strides = (_image_part(operation, name, first) for name in ("ksize", "strides"))
    axes = len(kernel)
    largest = operation.type.startswith("Max")
    pads = pads_of(operation, spatial(x, operation), kernel, strides, [1] * axes)
    attributes: dict[str, Any] = {"kernel_shape": kernel, "strides": strides}
    before = _padding(ctx, operation, largest)
    if before is not None and operation.get_attr("padding") == b"VALID":
        source, pads = before
        if all(2 * pad <= size for pad, size in zip(pads, [*kernel, *kernel], strict=True)):
            x = source
            attributes |= {} if largest else {"count_include_pad": 1}
        else:
            pads = [0] * 2 * axes
    if any(pads):
        attributes["pads"] = pads
    kind = "MaxPool" if largest else "AveragePool"
    end = _flat(ctx, operation, x, kernel, strides, pads)
    if end is not None:
        own, squeezed = end
        attributes = {key: value if key == "count_include_pad" else value[1:] for key, value in attributes.items()}
        attributes.pop("pads", None)
        attributes |= {"pads": [pads[1], pads[3]]} if any(pads) else {}
        value = ctx.net.node(kind, name_of(squeezed), [ctx.image(own)], attributes)
        ctx.put_image(squeezed.outputs[0], value)
        ctx.done.add(squeezed.name)
        return
    value = ctx.net.node(kind, name_of(operation), [image_value(ctx, x, operation)], attributes)
    put_image(ctx, operation.outputs[0], value, operation)


def _image_part(operation: Operation, name: str, first: bool) -> list[int]:
    values = [int(number) for number in operation.get_attr(name)]
    rest = values[:2] if first else [values[0], values[-1]]
    if rest != [1, 1]:
        raise Refusal(f"its {name} are {values}; only those over the image are in the profile")
    return values[2:] if first else values[1:-1]


def _padding(ctx: Translation, operation: Operation, largest: bool) -> tuple[Any, list[int]] | None:
    """Return what is padded before a pool by what does not change its maximum, or by zeros."""
    x = operation.inputs[0]
    if not largest:
        return padding_before(ctx, x, is_channels_first(operation))
    if x.op.type != "PadV2" or not x.dtype.is_floating:
        return None
    value, amounts = static(x.op.inputs[2]), static(x.op.inputs[1])
    if value is None or not np.isneginf(value).all() or amounts is None or (amounts < 0).any():
        return None
    image, rest = (amounts[2:], amounts[:2]) if is_channels_first(operation) else (amounts[1:-1], amounts[[0, -1]])
    return None if rest.any() else (x.op.inputs[0], [int(number) for number in (*image[:, 0], *image[:, 1])])


def _flat(
    ctx: Translation, operation: Operation, x: Any, kernel: list[int], strides: list[int], pads: list[int]
) -> tuple[Any, Operation] | None:
    """Return input and end of a pool of one axis: height 1 goes on before it and off behind it."""
    users = operation.outputs[0].consumers()
    if len(kernel) != 2 or x.op.type != "ExpandDims" or len(users) != 1 or users[0].type != "Squeeze":
        return None
    axis = static(x.op.inputs[1])
    gone = [int(number) % 4 for number in users[0].get_attr("squeeze_dims")]
    plain = kernel[0] == strides[0] == 1 and not pads[0] and not pads[2] and not is_channels_first(operation)
    if axis is None or int(axis) % 4 != 1 or gone != [1] or not plain:
        return None
    return x.op.inputs[0], users[0]


def resize(ctx: Translation, operation: Operation) -> None:
    """Add ResizeBilinear and ResizeNearestNeighbor."""
    x, size = operation.inputs
    target = static(size)
    coordinates = _COORDINATES.get((operation.get_attr("align_corners"), operation.get_attr("half_pixel_centers")))
    if coordinates is None:
        raise Refusal("it aligns corners and has half pixel centers, which exclude each other")
    name = name_of(operation)
    linear = operation.type == "ResizeBilinear"
    attributes = {"mode": "linear" if linear else "nearest", "coordinate_transformation_mode": coordinates}
    if not linear:
        attributes["nearest_mode"] = _ROUNDINGS[coordinates]
    value = ctx.image(x)
    known = x.shape.as_list()
    if target is not None and None not in known[1:]:
        height, width = (int(number) for number in target)
        scales = np.array([1, 1, height / known[1], width / known[2]], np.float32)
        if all(int(s * n + 1e-6) == t for s, n, t in zip(scales[2:], known[1:3], (height, width), strict=True)):
            given = ctx.net.constant(f"{name}.scales", scales, np.float32)
            ctx.put_image(operation.outputs[0], ctx.net.node("Resize", name, [value, None, given], attributes))
            return
    whole = ctx.net.node("Shape", f"{name}.shape", [value], {"start": 0, "end": 2})
    if target is not None:
        wanted = ctx.net.constant(f"{name}.image", [int(number) for number in target])
    else:
        wanted = ctx.net.node("Cast", f"{name}.image", [ctx.value(size)], {"to": 7})
    sizes = ctx.net.node("Concat", f"{name}.sizes", [whole, wanted], {"axis": 0})
    ctx.put_image(operation.outputs[0], ctx.net.node("Resize", name, [value, None, None, sizes], attributes))
