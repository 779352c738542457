"""Layers with parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx_ir import Node, Value

from mopruning.backends.mxnet.lowering.context import Lowering, Symbol, dtype_of
from mopruning.ir.attributes import attribute
from mopruning.ir.lowering import Refusal, lowers, operands, sizes_of, weight_shape, window_of

_SMALLEST = 1e-5
"""Epsilon below which cuDNN's batch normalisation refuses to work; MXNet's own takes any."""


@lowers("Conv")
def conv(low: Lowering, node: Node) -> None:
    """Lower Conv; padding that differs between the ends goes first."""
    x, weight, bias = operands(node, 3)
    shape = weight_shape(weight)
    axes = len(shape) - 2
    _check_axes(axes)
    window = window_of(node, axes)
    features, pads = low.symbol(x), window.starts
    if window.starts != window.ends:
        features, pads = padded(low, features, window.starts, window.ends), (0,) * axes
    result = low.call(
        "Convolution",
        *(features, low.symbol(weight), *([] if bias is None else [low.symbol(bias)])),
        name=node.name,
        kernel=tuple(shape[2:]),
        stride=window.strides,
        dilate=window.dilations,
        pad=pads,
        num_filter=shape[0],
        num_group=attribute(node, "group"),
        no_bias=bias is None,
    )
    low.set(node.outputs[0], result)


@lowers("ConvTranspose")
def conv_transpose(low: Lowering, node: Node) -> None:
    """Lower ConvTranspose; what is cut off by different amounts at the ends is cut off afterwards."""
    x, weight, bias = operands(node, 3)
    shape = weight_shape(weight)
    axes = len(shape) - 2
    _check_axes(axes)
    window, group = window_of(node, axes), attribute(node, "group")
    extra = attribute(node, "output_padding", [0] * axes)
    plain = window.starts == window.ends and all(e < s for e, s in zip(extra, window.strides, strict=True))
    features = low.symbol(x)
    options: dict[str, Any] = {"kernel": tuple(shape[2:]), "stride": window.strides, "dilate": window.dilations}
    options |= {"num_filter": shape[1] * group, "num_group": group}
    if plain:
        given = [features, low.symbol(weight), *([] if bias is None else [low.symbol(bias)])]
        options |= {"pad": window.starts, "adj": tuple(extra), "no_bias": bias is None}
        low.set(node.outputs[0], low.call("Deconvolution", *given, name=node.name, **options))
        return
    result = low.call("Deconvolution", features, low.symbol(weight), no_bias=True, **options)
    crops = [end - more for end, more in zip(window.ends, extra, strict=True)]
    longer = [max(0, -crop) for crop in crops]
    if any(longer):
        result = padded(low, result, [0] * axes, longer)
    for axis, (start, crop) in enumerate(zip(window.starts, crops, strict=True)):
        if start or crop > 0:
            result = low.sliced(result, axis + 2, start, -crop if crop > 0 else None)
    if bias is not None:
        result = low.call("broadcast_add", result, low.call("reshape", low.symbol(bias), shape=(1, -1, *[1] * axes)))
    low.set(node.outputs[0], result)


@lowers("Gemm")
def gemm(low: Lowering, node: Node) -> None:
    """Lower Gemm: a dense layer on two axes."""
    x, weight, bias = operands(node, 3)
    if attribute(node, "transB") == 1 and (bias is None or len(weight_shape(bias)) == 1):
        low.set(node.outputs[0], _dense(low, str(node.name), low.symbol(x), weight, bias))
        return
    result = low.call("dot", low.symbol(x), low.symbol(weight), transpose_b=attribute(node, "transB") == 1)
    result = result if bias is None else low.call("broadcast_add", result, low.symbol(bias))
    low.set(node.outputs[0], result)


@lowers("MatMul")
def matmul(low: Lowering, node: Node) -> None:
    """Lower MatMul; with the Transpose of a weight, and an Add of its bias behind it, it is a dense layer."""
    x, right = operands(node, 2)
    weight = low.dense_weight(right)
    if weight is not None and low.rank(x) > 1:
        add, bias = low.dense_bias(node.outputs[0], weight_shape(weight)[0])
        result = _dense(low, str(node.name), low.symbol(x), weight, bias)
        low.set(node.outputs[0], result)
        if add is not None:
            low.set(add.outputs[0], result)
            low.done.add(id(add))
        return
    if not dtype_of(x).startswith("float"):
        raise Refusal("products of whole numbers have no operator there")
    ranks = low.rank(x), low.rank(right)
    given = low.symbol(x), low.symbol(right)
    if ranks == (2, 2):
        result = low.call("dot", *given, name=node.name)
    elif ranks == (3, 3) and _same_batch(x, right):
        result = low.call("batch_dot", *given, name=node.name)
    else:
        result = low.numpy("matmul", *given, name=node.name)
    low.set(node.outputs[0], result if low.rank(node.outputs[0]) else low.shaped(result, node.outputs[0]))


@lowers("BatchNormalization")
def batch_norm(low: Lowering, node: Node) -> None:
    """Lower BatchNormalization: in training it normalises by the batch and updates the running statistics."""
    x, scale, bias, mean, variance = operands(node, 5)
    given = [low.symbol(value) for value in (x, scale, bias, mean, variance)]
    epsilon = attribute(node, "epsilon")
    if not (mean.is_initializer() and variance.is_initializer()):
        low.set(node.outputs[0], _normalised(low, node, given, epsilon, low.rank(x)))
        return
    content = low.constant(scale)
    fixed = content is not None and bool((content == 1).all())
    for value in (mean, variance):
        low.kinds[str(value.name)] = "statistic"
    result = low.call(
        "BatchNorm",
        *given,
        name=node.name,
        eps=epsilon,
        momentum=attribute(node, "momentum"),
        fix_gamma=fixed,
        use_global_stats=False,
        **({"cudnn_off": True} if epsilon < _SMALLEST else {}),
    )
    low.set(node.outputs[0], result)


@lowers("LayerNormalization")
def layer_norm(low: Lowering, node: Node) -> None:
    """Lower LayerNormalization; several axes count as one."""
    x, scale, bias = operands(node, 3)
    sizes = sizes_of(x)
    axis = attribute(node, "axis") % len(sizes)
    if None in sizes[axis:]:
        raise Refusal("it normalises over an axis whose size is open")
    own = [size for size in sizes[axis:] if size is not None]
    flat = len(own) > 1
    features = low.call("reshape", low.symbol(x), shape=(*[0] * axis, -1)) if flat else low.symbol(x)
    affine = [_spread(low, value, own, fill) for value, fill in ((scale, 1.0), (bias, 0.0))]
    name = None if flat else node.name
    result = low.call("LayerNorm", features, *affine, name=name, axis=axis, eps=attribute(node, "epsilon"))
    low.set(node.outputs[0], low.shaped(result, node.outputs[0], name=node.name) if flat else result)


@lowers("InstanceNormalization")
def instance_norm(low: Lowering, node: Node) -> None:
    """Lower InstanceNormalization."""
    given = [low.symbol(value) for value in operands(node, 3)]
    low.set(node.outputs[0], low.call("InstanceNorm", *given, name=node.name, eps=attribute(node, "epsilon")))


@lowers("Dropout")
def dropout(low: Lowering, node: Node) -> None:
    """Lower Dropout: it drops while `autograd.record` is on."""
    x, share = operands(node)[0], low.dropped_share(node)
    if share is None:
        raise Refusal("its ratio is computed; it must be a constant")
    low.set(node.outputs[0], low.call("Dropout", low.symbol(x), name=node.name, p=share))


@lowers("PRelu")
def prelu(low: Lowering, node: Node) -> None:
    """Lower PRelu: an operator of its own where there is a slope a channel, or one for all."""
    x, slope = operands(node, 2)
    features, weight = low.symbol(x), low.channel_slopes(node)
    if weight is not None:
        result = low.call("LeakyReLU", features, low.symbol(weight), name=node.name, act_type="prelu")
    else:
        negative = low.call("broadcast_mul", low.scalar("_minimum_scalar", features, 0.0), low.symbol(slope))
        result = low.call("broadcast_add", low.call("relu", features), negative, name=node.name)
    low.set(node.outputs[0], result)


def padded(
    low: Lowering,
    x: Symbol,
    starts: Sequence[int],
    ends: Sequence[int],
    value: float = 0.0,
    *,
    mode: str = "constant",
    name: str | None = None,
) -> Symbol:
    """Pad the axes behind batch and channels: with a number, or, where there are two or three, by what is inside."""
    pairs = [(0, 0), (0, 0), *zip(starts, ends, strict=True)]
    if len(pairs) in (4, 5):
        flat = tuple(number for pair in pairs for number in pair)
        return low.call("Pad", x, name=name, mode=mode, pad_width=flat, constant_value=value)
    return low.numpy("pad", x, name=name, mode=mode, pad_width=tuple(pairs), constant_value=value)


def _check_axes(axes: int) -> None:
    if not 1 <= axes <= 3:
        raise Refusal(f"convolutions have one to three axes there, not {axes}")


def _dense(low: Lowering, name: str, x: Symbol, weight: Value, bias: Value | None) -> Symbol:
    given = [x, low.symbol(weight), *([] if bias is None else [low.symbol(bias)])]
    options = {"num_hidden": weight_shape(weight)[0], "no_bias": bias is None, "flatten": False}
    return low.call("FullyConnected", *given, name=name, **options)


def _same_batch(left: Value, right: Value) -> bool:
    sizes = [None if value.shape is None else value.shape[0] for value in (left, right)]
    return sizes[0] is not None and sizes[0] == sizes[1]


def _normalised(low: Lowering, node: Node, given: list[Symbol], epsilon: float, rank: int) -> Symbol:
    """Normalise by statistics that are computed: y = (x - mean) / sqrt(variance + epsilon) * scale + bias."""
    x, *vectors = given
    scale, bias, mean, variance = (low.call("reshape", one, shape=(1, -1, *[1] * (rank - 2))) for one in vectors)
    factor = low.call("broadcast_mul", scale, low.call("rsqrt", low.scalar("_plus_scalar", variance, epsilon)))
    centred = low.call("broadcast_sub", x, mean)
    return low.call("broadcast_add", low.call("broadcast_mul", centred, factor), bias, name=node.name)


def _spread(low: Lowering, value: Value | None, sizes: list[int], fill: float) -> Symbol:
    """Return scales or biases as one row of numbers, whatever they are given as."""
    if value is None:
        return low.constants(f"{low.place}.{'ones' if fill else 'zeros'}", np.full(np.prod(sizes), fill, np.float32))
    symbol = low.symbol(value)
    if weight_shape(value) == sizes:
        return symbol if len(sizes) == 1 else low.call("reshape", symbol, shape=(-1,))
    symbol = low.call("reshape", symbol, shape=(*[1] * (len(sizes) - low.rank(value)), *weight_shape(value)))
    return low.call("reshape", low.call("broadcast_to", symbol, shape=tuple(sizes)), shape=(-1,))
