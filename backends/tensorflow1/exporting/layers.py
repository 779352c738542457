"""Convolutions and transposed ones, with what TensorFlow spells around them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx_ir import Value

from mopruning.backends.tensorflow1.exporting.context import (
    Operation,
    Tensor,
    Translation,
    Weight,
    name_of,
    numbers,
    sizes_of,
)
from mopruning.backends.tensorflow1.exporting.fixed import static
from mopruning.backends.tensorflow1.exporting.neighbours import (
    bias_behind,
    groups_around,
    only_user,
    padding_before,
    weight_and_dilations,
)
from mopruning.errors import FormatError
from mopruning.ir.lowering import Refusal
from mopruning.ir.windows import same_pads


@dataclass(frozen=True)
class Layer:
    """A convolution before it is added.

    Args:
        x: What it reads.
        kernel: Its weight.
        end: The operation whose output is its own, behind what belongs to it.
        attributes: ONNX's attributes.
        flat: Whether it is one of one axis, spelled as one of two.
    """

    x: Tensor
    kernel: Weight
    end: Operation
    attributes: dict[str, Any]
    flat: bool = False


def window(operation: Operation, axes: int) -> tuple[list[int], list[int]]:
    """Return strides and dilations of an operation on images of so many axes.

    Raises:
        Refusal: If it moves over batch or channels.
    """
    found = []
    for name in ("strides", "dilations"):
        try:
            values = list(operation.get_attr(name))
        except ValueError:
            values = [1] * (axes + 2)
        if is_channels_first(operation):
            values = [values[0], *values[2:], values[1]]
        if len(values) != axes + 2 or values[0] != 1 or values[-1] != 1:
            raise Refusal(f"its {name} are {values}; only those over the image are in the profile")
        found.append([int(number) for number in values[1:-1]])
    return found[0], found[1]


def is_channels_first(operation: Operation) -> bool:
    """Whether an operation takes images as NCHW."""
    try:
        return bool(operation.get_attr("data_format")[:2] == b"NC")
    except ValueError:
        return False


def image_value(ctx: Translation, tensor: Tensor, operation: Operation) -> Value:
    """Return the image that an operation reads, as NCHW."""
    return ctx.value(tensor) if is_channels_first(operation) else ctx.image(tensor)


def put_image(ctx: Translation, tensor: Tensor, value: Value, operation: Operation) -> None:
    """Say that an image NCHW stands for what an operation gives."""
    if is_channels_first(operation):
        ctx.put(tensor, value)
    else:
        ctx.put_image(tensor, value)


def spatial(tensor: Tensor, operation: Operation) -> list[int | None]:
    """Return the sizes of the axes of an image that are neither batch nor channels."""
    sizes = sizes_of(tensor)
    return sizes[2:] if is_channels_first(operation) else sizes[1:-1]


def pads_of(
    operation: Operation,
    sizes: Sequence[int | None],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> list[int]:
    """Return the padding of an operation in numbers, the starts and then the ends.

    Raises:
        Refusal: If it depends on a size that is open.
    """
    rule = operation.get_attr("padding").decode()
    axes = len(kernel)
    if rule == "VALID":
        return [0] * (2 * axes)
    if rule == "EXPLICIT":
        pairs = np.reshape(operation.get_attr("explicit_paddings"), (-1, 2)).tolist()
        pairs = pairs[2:] if is_channels_first(operation) else pairs[1:-1]
        return [*(int(pair[0]) for pair in pairs), *(int(pair[1]) for pair in pairs)]
    starts, ends = [], []
    for axis, size in enumerate(sizes):
        found = same_pads(size, (kernel[axis] - 1) * dilations[axis] + 1, strides[axis])
        if found is None:
            raise Refusal("its SAME padding depends on a size that is open; give the inputs' shapes")
        starts.append(found[0])
        ends.append(found[1])
    return [*starts, *ends]


def conv(ctx: Translation, operation: Operation) -> None:
    """Add Conv2D, Conv3D or DepthwiseConv2dNative."""
    x, kernel = operation.inputs
    groups = groups_around(operation, x, kernel)
    if groups is not None:
        x, kernel = groups.x, groups.kernel
        ctx.done |= {part.name for part in groups.parts}
    end = operation if groups is None else groups.end
    axes = 3 if operation.type == "Conv3D" else 2
    _add(ctx, "Conv", _layer(ctx, operation, x, *_kernel(ctx, operation, kernel, axes), end))


def _kernel(ctx: Translation, operation: Operation, kernel: Tensor, axes: int) -> tuple[Weight, list[int]]:
    """Return the weight of a layer, and its dilations, whether the layer has them or zeros in the kernel."""
    found = weight_and_dilations(ctx, kernel, axes)
    if found is None:
        raise Refusal("its kernel is computed; only weights are in the profile")
    own = window(operation, axes)[1]
    return found[0], [a * b for a, b in zip(own, found[1], strict=True)]


def _layer(
    ctx: Translation, operation: Operation, x: Tensor, weight: Weight, dilations: list[int], end: Operation
) -> Layer:
    axes = len(dilations)
    kernel = weight_sizes(weight)
    strides, _ = window(operation, axes)
    around = x.op if x.op.type == "SpaceToBatchND" else None
    sizes = spatial(x, operation)
    if around is not None:
        user = only_user(operation.outputs[0])
        if user is None or user.type != "BatchToSpaceND" or set(dilations) != {1}:
            raise Refusal("blocks are moved into the batch in a way that no dilation is")
        x, end, dilations, pads = _dilated(around, user, axes)
    else:
        pads = pads_of(operation, sizes, kernel[:axes], strides, dilations)
        more = padding_before(ctx, x, is_channels_first(operation))
        if more is not None and operation.get_attr("padding") != b"SAME":
            x, extra = more
            pads = [a + b for a, b in zip(pads, extra, strict=True)]
    channels = sizes_of(x)[1 if is_channels_first(operation) else -1]
    attributes: dict[str, Any] = {"kernel_shape": kernel[:axes], "strides": strides, "pads": pads}
    if set(dilations) != {1}:
        attributes["dilations"] = dilations
    if operation.type == "DepthwiseConv2dNative":
        height, width, inputs, multiplier = kernel
        group = inputs
        weight = weight.then(
            ("depthwise", multiplier),
            lambda array: array.transpose(2, 3, 0, 1).reshape(inputs * multiplier, 1, height, width),
        )
    else:
        if channels is None:
            channels = kernel[axes]
        if not kernel[axes] or channels % kernel[axes]:
            raise Refusal(f"its kernel takes {kernel[axes]} channels, which do not divide {channels}")
        group = channels // kernel[axes]
        flat = _flat(x, weight, end, axes)
        if flat is not None:
            return _of_one_axis(ctx, *flat, attributes, group, operation)
        order = (axes + 1, axes, *range(axes))
        weight = weight.then(("order", order), lambda array: array.transpose(order))
    if group != 1:
        attributes["group"] = group
    return Layer(x, weight, end, attributes)


def _dilated(around: Operation, user: Operation, axes: int) -> tuple[Tensor, Operation, list[int], list[int]]:
    """Return input, end, dilations and padding of a convolution between blocks that go into the batch and back."""
    blocks = numbers(around.inputs[1], "blocks")
    back = numbers(user.inputs[1], "blocks")
    pads, crops = (static(one.inputs[2]) for one in (around, user))
    if pads is None or crops is None:
        raise Refusal("its padding is computed; give the inputs' shapes")
    pads = np.asarray(pads) - np.asarray(crops)
    if blocks != back or len(blocks) > axes or (pads < 0).any():
        raise Refusal("blocks are moved into the batch in a way that no dilation is")
    missing = axes - len(blocks)
    dilations = [*blocks, *[1] * missing]
    starts, ends = ([int(n) for n in pads[:, i]] + [0] * missing for i in (0, 1))
    return around.inputs[0], user, dilations, [*starts, *ends]


def weight_sizes(weight: Weight) -> list[int]:
    """Return the shape of a weight in the form that it has."""
    return [int(size) for size in weight.change(np.broadcast_to(np.zeros((), np.int8), weight.leaf.shape)).shape]


def _flat(x: Tensor, weight: Weight, end: Operation, axes: int) -> tuple[Tensor, Weight, Operation] | None:
    """Return input, weight and end of a convolution of one axis: height 1 goes on before it and off behind it."""
    user = only_user(end.outputs[0])
    if axes != 2 or x.op.type != "ExpandDims" or user is None or user.type != "Squeeze":
        return None
    if not weight.steps or weight.steps[-1][0] != "expand" or weight.steps[-1][1] != 0:
        return None
    axis = static(x.op.inputs[1])
    gone = [int(number) % 4 for number in user.get_attr("squeeze_dims")]
    if axis is None or int(axis) % 4 != 1 or gone != [1]:
        return None
    return x.op.inputs[0], weight, user


def _of_one_axis(
    ctx: Translation,
    x: Tensor,
    weight: Weight,
    end: Operation,
    attributes: dict[str, Any],
    group: int,
    operation: Operation,
) -> Layer:
    if is_channels_first(operation):
        raise Refusal("it is a convolution of one axis with channels first")
    own = {key: value[1:] for key, value in attributes.items() if key != "pads"}
    own["pads"] = [attributes["pads"][1], attributes["pads"][3]]
    own |= {"group": group} if group != 1 else {}
    weight = weight.then(("flat", 2), lambda array: array[0].transpose(2, 1, 0))
    return Layer(x, weight, end, own, flat=True)


def _add(ctx: Translation, kind: str, layer: Layer, weight: Value | None = None) -> None:
    """Add a convolution with the bias behind it."""
    end = layer.end
    channels_first = not layer.flat and is_channels_first(end)
    outputs = end.outputs[0]
    bias = bias_behind(ctx, outputs, 1 if channels_first else -1)
    own = ctx.form(layer.kernel, "conv", lambda array: array) if weight is None else weight
    inputs = [ctx.value(layer.x) if channels_first else ctx.image(layer.x), own]
    if bias is not None:
        end, vector = bias
        inputs.append(ctx.vector(vector))
        ctx.done.add(end.name)
    ctx.done.add(layer.end.name)
    value = ctx.net.node(kind, name_of(end), inputs, layer.attributes)
    for tensor in {outputs.name: outputs, end.outputs[0].name: end.outputs[0]}.values():
        if channels_first:
            ctx.put(tensor, value)
        else:
            ctx.put_image(tensor, value)


def conv_transpose(ctx: Translation, operation: Operation) -> None:
    """Add Conv2DBackpropInput or Conv3DBackpropInputV2, where it is a layer: a transposed convolution."""
    _, kernel, x = operation.inputs
    groups = groups_around(operation, x, kernel)
    end = operation
    if groups is not None:
        kernel, x, end = groups.kernel, groups.x, groups.end
        ctx.done |= {part.name for part in groups.parts}
    axes = 3 if operation.type.startswith("Conv3D") else 2
    weight, dilations = _kernel(ctx, operation, kernel, axes)
    sizes = weight_sizes(weight)
    strides, _ = window(operation, axes)
    result, given = spatial(operation.outputs[0], operation), spatial(x, operation)
    pads, extra = [], []
    spans = [(size - 1) * dilation + 1 for size, dilation in zip(sizes, dilations, strict=False)]
    rule = operation.get_attr("padding").decode()
    if rule == "SAME":
        starts, ends = [], []
        for axis in range(axes):
            size = result[axis]
            total = max(spans[axis] - strides[axis], 0)
            if size is not None and given[axis] is not None:
                total = max(0, (given[axis] - 1) * strides[axis] + spans[axis] - size)  # type: ignore[operator]
            starts.append(total // 2)
            ends.append(total - total // 2)
        pads = [*starts, *ends]
    else:
        pads = pads_of(operation, result, sizes[:axes], strides, dilations)
    for axis in range(axes):
        size, before = result[axis], given[axis]
        if size is None or before is None:
            # what the network computes from its input's size: as long as the windows reach, or stride times the size
            extra.append(max(0, strides[axis] - spans[axis]) if rule == "SAME" else 0)
            continue
        extra.append(size - ((before - 1) * strides[axis] + spans[axis] - pads[axis] - pads[axes + axis]))
    if min(extra) < 0:
        raise FormatError(f"node {operation.name!r} ({operation.type}): its output is shorter than its windows reach")
    order = (axes + 1, axes, *range(axes))
    weight = weight.then(("order", order), lambda array: array.transpose(order))
    attributes: dict[str, Any] = {"kernel_shape": sizes[:axes], "strides": strides, "pads": pads}
    attributes |= {"dilations": dilations} if set(dilations) != {1} else {}
    attributes |= {"output_padding": extra} if any(extra) else {}
    attributes |= {} if groups is None else {"group": groups.count}
    flat = False
    user = only_user(end.outputs[0])
    if axes == 2 and x.op.type == "ExpandDims" and user is not None and user.type == "Squeeze" and sizes[0] == 1:
        expanded = static(x.op.inputs[1])
        if expanded is not None and int(expanded) % 4 == 1 and list(user.get_attr("squeeze_dims")) == [1]:
            attributes = {key: value if key == "group" else value[1:] for key, value in attributes.items()}
            attributes["pads"] = [pads[1], pads[3]]
            attributes.pop("output_padding", None)
            attributes |= {"output_padding": extra[1:]} if any(extra[1:]) else {}
            weight = weight.then(("flat", 2), lambda array: array[:, :, 0])
            x, end, flat = x.op.inputs[0], user, True
    _add(ctx, "ConvTranspose", Layer(x, weight, end, attributes, flat))
