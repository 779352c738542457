"""Layers of MINDIR graphs in the IR: convolutions, dense layers, normalisation, pooling."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx_ir import Value

from mopruning.backends.mindspore.exporting.context import Reading, Unsupported
from mopruning.backends.mindspore.exporting.graph import MindNode, Parameter
from mopruning.ir.attributes import shortest
from mopruning.ir.windows import same_pads


def _layer_name(read: Reading, *operands: int) -> str:
    """Return the path of the parameters that a node reads, else of where it stands."""
    for index in operands:
        found = read.get(index)
        if isinstance(found, Parameter) and "." in found.name:
            return found.name.rpartition(".")[0]
    return read.name()


def conv(read: Reading, node: MindNode) -> Value:
    """Read Conv2D and Conv3D, with the bias behind it."""
    _check_format(read)
    x, weight = read.x(0), read.x(1)
    axes = len(read.dims(x)) - 2
    window = _window(read, axes, read.dims(x)[2:], read.dims(weight)[2:])
    window["group"] = read.option(None, "group", 1)
    return _with_bias(read, node, "Conv", [x, weight], window)


def _with_bias(read: Reading, node: MindNode, op_type: str, inputs: list[Value], attributes: dict[str, Any]) -> Value:
    bias = read.bias_behind(node)
    result = read.net.node(op_type, _layer_name(read, 1, 0), [*inputs, *([] if bias is None else [bias])], attributes)
    if bias is not None:
        read.done(node, result)
    return result


def _check_format(read: Reading) -> None:
    layout = read.option(None, "format", "NCHW")
    if layout not in ("NCHW", "NCDHW", "NCW"):
        raise Unsupported(f"data format {layout}; only NCHW and NCDHW are read")


def _spatial(read: Reading, name: str, axes: int, otherwise: Any = 1) -> list[int]:
    """Return a setting for each spatial axis; files give it with or without batch and channels."""
    found = read.integers(None, name, otherwise)
    if len(found) == 1:
        found = found * axes
    if len(found) < axes:
        raise Unsupported(f"its {name} is {list(found)}, expected {axes} numbers")
    return [int(number) for number in found[-axes:]]


def _window(
    read: Reading, axes: int, sizes: tuple[int, ...], kernel: tuple[int, ...], stride: str = "stride"
) -> dict[str, Any]:
    """Return the attributes for how a convolution or pool moves."""
    strides, dilations = _spatial(read, stride, axes), _spatial(read, "dilation", axes)
    mode = str(read.option(None, "pad_mode", "valid")).upper()
    spans = [(size - 1) * dilation + 1 for size, dilation in zip(kernel, dilations, strict=True)]
    if mode == "PAD":
        pads = _pads(read, axes)
    elif mode == "SAME":
        pads = _same(sizes, strides, spans)
    else:
        pads = [0] * axes * 2
    return {"kernel_shape": list(kernel), "strides": strides, "dilations": dilations, "pads": pads}


def _pads(read: Reading, axes: int) -> list[int]:
    """Return padding, starts first; files have start and end of one axis after the other."""
    for name in ("pad_list", "pad", "pads"):
        found = read.integers(None, name, ())
        if len(found) == axes:
            return [*found, *found]
        if len(found) >= 2 * axes and min(found) >= 0:
            found = found[-2 * axes :]
            return [*found[::2], *found[1::2]]
        if len(found) == 1:
            return list(found) * axes * 2
    raise Unsupported("its padding is not given")


def _same(sizes: tuple[int, ...], strides: list[int], spans: list[int]) -> list[int]:
    if -1 in sizes and set(strides) != {1}:
        raise Unsupported("pad_mode 'same' on an image of open size")
    pairs = [
        same_pads(None if size == -1 else size, span, stride) or (0, 0)
        for size, stride, span in zip(sizes, strides, spans, strict=True)
    ]
    return [*(start for start, _ in pairs), *(end for _, end in pairs)]


def conv_transpose(read: Reading, node: MindNode) -> Value:
    """Read Conv2DTranspose and Conv3DTranspose: what its output is longer than its windows reach is output_padding."""
    _check_format(read)
    x, weight = read.x(0), read.x(1)
    axes = len(read.dims(x)) - 2
    kernel = read.dims(weight)[2:]
    strides, dilations = _spatial(read, "stride", axes), _spatial(read, "dilation", axes)
    mode = str(read.option(None, "pad_mode", "valid")).upper()
    before, after = read.dims(x)[2:], read.given()[2:]
    if -1 in before or -1 in after:
        raise Unsupported("an image of open size")
    pads, extra = (_pads(read, axes) if mode == "PAD" else [0] * 2 * axes), []
    for axis in range(axes):
        reach = (before[axis] - 1) * strides[axis] + (kernel[axis] - 1) * dilations[axis] + 1
        left = after[axis] - (reach - pads[axis] - pads[axes + axis])
        if left < 0 and mode == "SAME":
            pads[axis], pads[axes + axis] = -left // 2, -left - -left // 2
            left = 0
        if left < 0:
            raise Unsupported(f"its output of {after[axis]} is shorter than its windows reach")
        extra.append(left)
    attributes: dict[str, Any] = {"strides": strides, "dilations": dilations, "pads": pads}
    attributes |= {"kernel_shape": list(kernel), "group": read.option(None, "group", 1)}
    if any(extra):
        attributes["output_padding"] = extra
    return _with_bias(read, node, "ConvTranspose", [x, weight], attributes)


def bias_add(read: Reading, node: MindNode) -> Value:
    """Read a BiasAdd that stands alone."""
    x, bias = read.x(0), read.x(1)
    axes = len(read.dims(x)) - 2
    if axes > 0:
        bias = read.add_numbers("Unsqueeze", bias, range(1, axes + 1))
    return read.add("Add", [x, bias])


def matmul(read: Reading, node: MindNode) -> Value:
    """Read MatMul, BatchMatMul and the like; with a parameter it is a dense layer."""
    first, second = read.get(0), read.get(1)
    left = bool(read.option(2, "transpose_a", False)) if len(node.inputs) > 2 else False
    right = bool(read.option(3, "transpose_b", False)) if len(node.inputs) > 3 else False
    if not node.inputs[2:]:
        left = bool(read.option(None, "transpose_a", read.option(None, "transpose_x1", False)))
        right = bool(read.option(None, "transpose_b", read.option(None, "transpose_x2", False)))
    x = _turned(read, read.value_of(first)) if left else read.value_of(first)
    if isinstance(second, Parameter) and len(second.dims) == 2 and right:
        weight, bias = read.parameter(second), read.bias_behind(node)
        result = read.net.dense(_layer_name(read, 1), x, weight, bias, axes=len(read.dims(x)))
        if bias is not None:
            read.done(node, result)
        return result
    y = read.value_of(second)
    return read.add("MatMul", [x, _turned(read, y) if right else y])


def dense(read: Reading, node: MindNode) -> Value:
    """Read Dense: a product with a weight [out, in], and a bias."""
    x, weight = read.x(0), read.x(1)
    bias = read.x(2) if read.has(2) else None
    return read.net.dense(_layer_name(read, 1), x, weight, bias, axes=len(read.dims(x)))


def _turned(read: Reading, x: Value) -> Value:
    dims = read.dims(x)
    order = [*range(len(dims) - 2), len(dims) - 1, len(dims) - 2]
    turned = read.net.node("Transpose", read.name("transpose"), [x], {"perm": order})
    return read.noted(turned, [dims[axis] for axis in order], read.dtype(x))


def batch_norm(read: Reading, node: MindNode) -> Any:
    """Read BatchNorm in inference."""
    if read.option(5, "is_training", False):
        raise Unsupported("it normalises with the statistics of the batch even in inference")
    eps, rest = read.option(6, "epsilon", 1e-5), read.option(7, "momentum", 0.1)
    mean = read.get(3)
    kept = read.momenta.get(mean.name) if isinstance(mean, Parameter) else None
    attributes = {"epsilon": shortest(eps), "momentum": shortest(1 - shortest(rest)) if kept is None else kept}
    inputs = [read.x(index) for index in range(5)]
    return (read.net.node("BatchNormalization", _layer_name(read, 1, 3), inputs, attributes),)


def layer_norm(read: Reading, node: MindNode) -> Any:
    """Read LayerNorm."""
    axis, behind = read.option(3, "begin_norm_axis", 1), read.option(4, "begin_params_axis", 1)
    x = read.x(0)
    rank = len(read.dims(x))
    if axis % rank != behind % rank:
        raise Unsupported("its parameters do not begin at the axis at which it begins")
    attributes = {"axis": axis, "epsilon": shortest(read.option(5, "epsilon", 1e-7))}
    return (read.net.node("LayerNormalization", _layer_name(read, 1), [x, read.x(1), read.x(2)], attributes),)


def layer_norm_ext(read: Reading, node: MindNode) -> Any:
    """Read LayerNormExt, which has the shape of the normalised axes."""
    shape, eps = read.integers(1, "normalized_shape"), read.option(4, "eps", 1e-5)
    inputs = [read.x(0), read.x(2), read.x(3)]
    attributes = {"axis": -len(shape), "epsilon": shortest(eps)}
    return (read.net.node("LayerNormalization", _layer_name(read, 2), inputs, attributes),)


def group_norm(read: Reading, node: MindNode) -> Any:
    """Read GroupNorm as ONNX spells it: an instance normalisation of reshaped channels."""
    x, groups = read.x(0), read.option(1, "num_groups")
    dims, dtype = read.dims(x), np.dtype(read.dtype(x) or "float32")
    name = _layer_name(read, 2)
    flat = read.add_numbers("Reshape", x, (0, groups, -1))
    ones = read.net.constant(f"{name}.ones", np.ones(groups), dtype)
    zeros = read.net.constant(f"{name}.zeros", np.zeros(groups), dtype)
    eps = {"epsilon": shortest(read.option(4, "eps", 1e-5))}
    normal = read.net.node("InstanceNormalization", name, [flat, ones, zeros], eps)
    back = read.add_numbers("Reshape", normal, (0, *dims[1:]))
    axes = range(1, len(dims) - 1)
    scale, bias = (read.add_numbers("Unsqueeze", read.x(index), axes) for index in (2, 3))
    return (read.add("Add", [read.add("Mul", [back, scale]), bias]),)


def pool(read: Reading, node: MindNode) -> Any:
    """Read MaxPool, AvgPool and their forms of three axes."""
    _check_format(read)
    x = read.x(0)
    dims = read.dims(x)
    axes = len(dims) - 2
    name = next((key for key in ("kernel_size", "ksize") if key in node.attributes), "kernel_size")
    if node.operator == "AvgPool" and len(node.inputs) > 3:  # settings are operands: kernel, strides, mode, format
        kernel, strides = (list(read.integers(index, what))[-axes:] for index, what in ((1, "kernel"), (2, "strides")))
        mode = {1: "SAME", 2: "VALID", "SAME": "SAME", "VALID": "VALID"}.get(read.option(3, "pad_mode"))
        if mode is None:
            raise Unsupported(f"pad_mode {read.option(3, 'pad_mode')!r}")
        pads = [0] * 2 * axes if mode == "VALID" else _same(dims[2:], strides, kernel)
        window: dict[str, Any] = {"kernel_shape": kernel, "strides": strides, "pads": pads}
    else:
        kernel = _spatial(read, name, axes)
        if node.operator.endswith("WithArgmax") and "pads" in node.attributes and "pad_mode" not in node.attributes:
            window = {"kernel_shape": kernel, "strides": _spatial(read, "strides", axes), "pads": _pads(read, axes)}
            window["dilations"] = _spatial(read, "dilation", axes)
        else:
            window = _window(read, axes, dims[2:], tuple(kernel), "strides")
    if read.option(None, "ceil_mode", False):
        window["ceil_mode"] = 1
    largest = node.operator.startswith("Max")
    lifted = _lifted_from(read, x, window)
    if lifted is not None:
        x = lifted
        window = {key: _image_only(value) if isinstance(value, list) else value for key, value in window.items()}
    if not largest:
        window.pop("dilations", None)
        if read.option(None, "divisor_override", 0):
            raise Unsupported("divisor_override")
        if any(window["pads"]) and read.option(None, "count_include_pad", False) and "pad_list" in node.attributes:
            window["count_include_pad"] = 1
    result = read.add("MaxPool" if largest else "AveragePool", [x], window)
    if lifted is not None:
        given = read.given()
        result = read.add_numbers("Unsqueeze", read.noted(result, (*given[:2], *given[3:]), read.dtype(x)), (2,))
    return (result, None) if node.operator.endswith("WithArgmax") else result


def _lifted_from(read: Reading, x: Value, window: dict[str, Any]) -> Value | None:
    """Return the image that a pool of three axes works on, where MindSpore gave it a third one of one place."""
    before = x.producer()
    if before is None or before.op_type != "Unsqueeze" or len(window["kernel_shape"]) != 3 or read.dims(x)[2] != 1:
        return None
    axes = before.inputs[1].const_value if before.inputs[1] is not None else None
    plain = (window["kernel_shape"][0], window["pads"][0], window["pads"][3]) == (1, 0, 0)
    return before.inputs[0] if plain and axes is not None and axes.numpy().tolist() == [2] else None


def _image_only(numbers: list[int]) -> list[int]:
    """Leave out the first of three axes."""
    return [*numbers[1:3], *numbers[4:]]


def adaptive(read: Reading, node: MindNode) -> Any:
    """Read AdaptiveAvgPool and AdaptiveMaxPool to sizes that divide those of the image."""
    x = read.x(0)
    before, after = read.dims(x)[2:], read.given()[2:]
    largest = "Max" in node.operator
    if set(after) == {1}:
        result = read.add("GlobalMaxPool" if largest else "GlobalAveragePool", [x])
    elif all(old > 0 and new > 0 and old % new == 0 for old, new in zip(before, after, strict=True)):
        steps = [old // new for old, new in zip(before, after, strict=True)]
        result = read.add("MaxPool" if largest else "AveragePool", [x], {"kernel_shape": steps, "strides": steps})
    else:
        raise Unsupported(f"an adaptive pool from {list(before)} to {list(after)}")
    return (result, None) if largest else result


def dropout(read: Reading, node: MindNode) -> Any:
    """Read Dropout, which drops nothing in inference."""
    return _dropped(read, read.x(0), 1 - float(read.option(None, "keep_prob", 0.5)), read.name()), None


def _dropped(read: Reading, x: Value, share: float, name: str) -> Value:
    ratio = read.net.constant(f"{name}.ratio", share, np.float32)
    return read.noted(read.net.node("Dropout", name, [x, ratio]), read.dims(x), read.dtype(x))


def marked_dropout(read: Reading, x: Value, mark: str, share: float) -> Value:
    """Add the Dropout that a marker in a live network stands for."""
    return _dropped(read, x, shortest(share), mark or "dropout")
