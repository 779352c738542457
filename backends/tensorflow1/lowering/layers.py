"""Convolutions and dense layers, normalisations and dropout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow.compat.v1 as tf
from onnx_ir import Node, Value

from mopruning.backends.tensorflow1.lowering.context import (
    Form,
    Lowering,
    Refusal,
    Tensor,
    conditionals_of_version_1,
)
from mopruning.backends.tensorflow1.lowering.windows import explicit_list, pad_image, padding_of
from mopruning.backends.tensorflow1.orders import Held, channels_last, plain
from mopruning.ir.attributes import attribute
from mopruning.ir.lowering import Window, lowers, operands, weight_shape, window_of


@lowers("Conv")
def conv(low: Lowering, node: Node) -> None:
    """Lower Conv: on NHWC, with SAME or VALID padding where these mean the same."""
    x, weight, bias = operands(node, 3)
    shape = weight_shape(weight)
    axes = len(shape) - 2
    if axes not in (1, 2, 3):
        raise Refusal(f"it has convolutions of 1 to 3 axes, this one has {axes}")
    group, window = attribute(node, "group"), window_of(node, axes)
    features, sizes = low.image(x), low.sizes(x)[2:]
    with tf.name_scope(low.scoped(node)) as name:
        if _is_depthwise(shape, group, window):
            result = _depthwise(low, features, weight, window, sizes, name if bias is None else None)
        else:
            result = _convolution(low, features, weight, window, sizes, group, name if bias is None else None)
        low.put_image(node, _with_bias(low, result, bias, name))


def _is_depthwise(shape: list[int], group: int, window: Window) -> bool:
    # TensorFlow 2.21 on a CPU: strides that differ fail in training, and so do dilations, or give wrong gradients
    even = len(set(window.strides)) == 1 and set(window.dilations) == {1}
    return len(shape) == 4 and shape[1] == 1 and group > 1 and even


def _depthwise(
    low: Lowering, x: Tensor, weight: Value, window: Window, sizes: list[int | None], name: str | None
) -> Tensor:
    outputs, _, *kernel = weight_shape(weight)
    channels = x.shape.as_list()[-1]
    form = Form("depthwise", multiplier=outputs // channels)
    held = low.parameter(weight, form)
    if held is None:
        turned = low.tensor(weight, (2, 3, 0, 1))
        held = tf.reshape(turned, [*kernel, channels, outputs // channels])
    padding = padding_of(window, sizes, kernel)
    return tf.raw_ops.DepthwiseConv2dNative(
        input=x,
        filter=held,
        strides=[1, *window.strides, 1],
        padding=padding,
        explicit_paddings=explicit_list(window.pads) if padding == "EXPLICIT" else [],
        name=name,
    )


def _convolution(
    low: Lowering, x: Tensor, weight: Value, window: Window, sizes: list[int | None], group: int, name: str | None
) -> Tensor:
    axes = len(sizes)
    kernel = weight_shape(weight)[2:]
    held = low.weight(weight, (*range(2, axes + 2), 1, 0))
    padding = padding_of(window, sizes, kernel)
    dilations = window.dilations
    if axes == 3 and set(dilations) != {1}:  # TensorFlow 2.21 has no dilated Conv3D on a CPU
        held, dilations = dilated_kernel(held, dilations), (1, 1, 1)
    # gradients of a convolution with EXPLICIT padding and groups or dilations are missing on a CPU (2.21)
    plain_one = axes == 2 and group == 1 and set(dilations) == {1}
    if padding == "EXPLICIT" and not plain_one:
        x, padding = pad_image(x, window.pads), "VALID"
    options: dict[str, Any] = {"padding": padding}
    if padding == "EXPLICIT":
        options["explicit_paddings"] = explicit_list(window.pads)
    if axes == 3:
        options |= {"strides": [1, *window.strides, 1]}
        if group == 1:
            return tf.raw_ops.Conv3D(input=x, filter=held, name=name, **options)
        parts = zip(tf.split(x, group, -1), tf.split(held, group, -1), strict=True)
        return tf.concat([tf.raw_ops.Conv3D(input=a, filter=b, **options) for a, b in parts], -1, name=name)
    if axes == 1:
        x, held = tf.expand_dims(x, 1), tf.expand_dims(held, 0)
        strides, dilations = (1, *window.strides), (1, *dilations)
        result = tf.raw_ops.Conv2D(
            input=x, filter=held, strides=[1, *strides, 1], dilations=[1, *dilations, 1], **options
        )
        return tf.squeeze(result, [1], name=name)
    options |= {"strides": [1, *window.strides, 1], "dilations": [1, *dilations, 1]}
    return tf.raw_ops.Conv2D(input=x, filter=held, name=name, **options)


def dilated_kernel(kernel: Tensor, dilations: tuple[int, ...]) -> Tensor:
    """Return a kernel [*sizes, in, out] with zeros between its numbers, which needs no dilation."""
    sizes = kernel.shape.as_list()
    for axis, dilation in enumerate(dilations):
        if dilation > 1:
            apart = tf.expand_dims(kernel, axis + 1)
            apart = tf.pad(apart, [[0, dilation - 1 if place == axis + 1 else 0] for place in range(len(sizes) + 1)])
            length = (sizes[axis] - 1) * dilation + 1
            whole = [*sizes[:axis], sizes[axis] * dilation, *sizes[axis + 1 :]]
            sizes[axis] = length
            kernel = tf.slice(tf.reshape(apart, whole), [0] * len(sizes), sizes)
    return kernel


def _with_bias(low: Lowering, result: Tensor, bias: Value | None, name: str) -> Tensor:
    return result if bias is None else tf.nn.bias_add(result, low.tensor(bias), name=name)


@lowers("ConvTranspose")
def conv_transpose(low: Lowering, node: Node) -> None:
    """Lower ConvTranspose: the gradient of a convolution over the result; its size follows from the input's."""
    x, weight, bias = operands(node, 3)
    shape = weight_shape(weight)
    axes = len(shape) - 2
    if axes not in (1, 2, 3):
        raise Refusal(f"it has convolutions of 1 to 3 axes, this one has {axes}")
    group, window = attribute(node, "group"), window_of(node, axes)
    features = low.image(x)
    with tf.name_scope(low.scoped(node)) as name:
        kernel = low.weight(weight, (*range(2, axes + 2), 1, 0))
        if set(window.dilations) != {1}:
            kernel = dilated_kernel(kernel, window.dilations)
        strides, starts, ends = list(window.strides), list(window.starts), list(window.ends)
        extra = attribute(node, "output_padding", [0] * axes)
        if axes == 1:
            features, kernel = tf.expand_dims(features, 1), tf.expand_dims(kernel, 0)
            strides, starts, ends, extra = [1, *strides], [0, *starts], [0, *ends], [0, *extra]
        whole = _Deconvolution(strides, starts, ends, extra)
        parts = zip(tf.split(features, group, -1), tf.split(kernel, group, -1), strict=True) if group > 1 else ()
        result = tf.concat([whole.add(*part) for part in parts], -1) if parts else whole.add(features, kernel)
        result = tf.squeeze(result, [1]) if axes == 1 else result
        low.put_image(node, tf.identity(result, name=name) if bias is None else _with_bias(low, result, bias, name))


class _Deconvolution:
    """One transposed convolution, which several groups share."""

    def __init__(self, strides: list[int], starts: list[int], ends: list[int], extra: list[int]) -> None:
        self.strides, self.starts, self.ends, self.extra = strides, starts, ends, extra

    def add(self, x: Tensor, kernel: Tensor) -> Tensor:
        """Add it for one group."""
        axes = len(self.strides)
        known, shape = x.shape.as_list(), tf.shape(x)
        spans = kernel.shape.as_list()[:axes]
        # what lies behind the last window is no part of a convolution's gradient, but of zeros put there afterwards
        fits = all(more < stride for more, stride in zip(self.extra, self.strides, strict=True))
        crop = not fits or axes == 3
        sizes: list[Any] = []
        for axis in range(axes):
            size = known[axis + 1] if known[axis + 1] is not None else shape[axis + 1]
            full = (size - 1) * self.strides[axis] + spans[axis]
            cut = self.starts[axis] + self.ends[axis] - self.extra[axis]
            sizes.append(full if crop else full - cut)
        target = tf.stack([shape[0], *sizes, kernel.shape.as_list()[-2]])
        options: dict[str, Any] = {"strides": [1, *self.strides, 1], "padding": "VALID"}
        if crop:
            result = self._gradient(x, kernel, target, options)
            return self._cropped(result)
        window = Window(tuple(self.strides), (1,) * axes, (*self.starts, *self.ends))
        own = [size if isinstance(size, int) else None for size in sizes]
        options["padding"] = padding_of(window, own, spans)
        if options["padding"] == "EXPLICIT":
            options["explicit_paddings"] = explicit_list(window.pads)
        return self._gradient(x, kernel, target, options)

    def _gradient(self, x: Tensor, kernel: Tensor, target: Tensor, options: dict[str, Any]) -> Tensor:
        operation = tf.raw_ops.Conv3DBackpropInputV2 if len(self.strides) == 3 else tf.raw_ops.Conv2DBackpropInput
        return operation(input_sizes=target, filter=kernel, out_backprop=x, **options)

    def _cropped(self, x: Tensor) -> Tensor:
        more = [extra - end for extra, end in zip(self.extra, self.ends, strict=True)]
        x = pad_image(x, [*[0] * len(more), *[max(0, number) for number in more]])
        begins = [0, *self.starts, 0]
        ends = [0, *[min(0, number) for number in more], 0]
        return x[tuple(slice(begin or None, end or None) for begin, end in zip(begins, ends, strict=True))]


@lowers("Gemm")
def gemm(low: Lowering, node: Node) -> None:
    """Lower Gemm: a dense layer on two axes. The weight takes features as they were flattened."""
    x, weight, bias = operands(node, 3)
    canonical = attribute(node, "transB") == 1
    with tf.name_scope(low.scoped(node)) as name:
        result = _product(low, x, weight, canonical, None if bias is not None else name)
        low.put(node, _added(low, result, bias, name))


def _product(low: Lowering, x: Value, weight: Value, canonical: bool, name: str | None = None) -> Tensor:
    features = low.held(x)
    order = (1, 0) if canonical else (0, 1)
    if features.scatter is not None:
        own = low.parameter(weight, Form("dense", scatter=features.scatter)) if canonical else None
        if own is not None:
            return tf.matmul(features.tensor, own, name=name)
    kernel = low.parameter(weight, Form("order", order))
    if kernel is not None:
        return tf.matmul(low.tensor(x), kernel, name=name)
    other = low.held(weight)  # tied to what reads it as it lies, or a constant
    lies = other.order != order
    return tf.matmul(low.tensor(x), other.tensor, transpose_b=lies, name=name)


def _added(low: Lowering, result: Tensor, bias: Value | None, name: str | None = None) -> Tensor:
    if bias is None:
        return result
    own = low.tensor(bias)
    if own.shape.rank == 1 and own.shape[0] == result.shape[-1] and result.dtype.is_floating:
        return tf.nn.bias_add(result, own, name=name)
    return tf.add(result, own, name=name)


@lowers("MatMul")
def matmul(low: Lowering, node: Node) -> None:
    """Lower MatMul; with the Transpose of a weight, and an Add of its bias behind it, it is a dense layer."""
    x, right = operands(node)
    weight = low.dense_weight(right)
    if weight is None:
        low.put(node, _matmul(low, x, right, low.scoped(node)))
        return
    add, bias = low.dense_bias(node.outputs[0], weight_shape(weight)[0])
    with tf.name_scope(low.scoped(node)) as name:
        kernel = low.parameter(weight, Form("order", (1, 0)))
        lies = kernel is None
        if kernel is None:
            other = low.held(weight)
            kernel, lies = other.tensor, other.order == (0, 1)
        result = tf.matmul(low.tensor(x), kernel, transpose_b=lies)
        result = _added(low, result, bias, name)
    low.put(node, result)
    if add is not None:
        low.put(add, result)
        low.done.add(id(add))


def _matmul(low: Lowering, x: Value, y: Value, name: str) -> Tensor:
    a, b = low.tensor(x), low.weight(y, plain(low.rank(y)))
    if 1 not in (low.rank(x), low.rank(y)):
        return tf.matmul(a, b, name=name)
    a = a[None] if low.rank(x) == 1 else a
    b = b[:, None] if low.rank(y) == 1 else b
    gone = [axis for axis, value in ((-2, x), (-1, y)) if low.rank(value) == 1]
    return tf.squeeze(tf.matmul(a, b), gone, name=name)


@lowers("BatchNormalization")
def batch_norm(low: Lowering, node: Node) -> None:
    """Lower BatchNormalization: in training it normalises by the batch, and updates stand in UPDATE_OPS."""
    x, scale, bias, mean, variance = operands(node, 5)
    epsilon, momentum = attribute(node, "epsilon"), attribute(node, "momentum")
    features, rank = low.image(x), low.rank(x)
    given = [low.tensor(value) for value in (scale, bias, mean, variance)]
    name = low.scoped(node)
    with tf.name_scope(name):
        wide = features.dtype == tf.float64
        work = features
        if rank != 4 and not wide:
            work = tf.reshape(features, [-1, 1, 1, low.sizes(x)[1]])
        if not wide:
            given = [value if value.dtype == tf.float32 else tf.cast(value, tf.float32) for value in given]
        norm: Callable[..., list[Tensor]] = _plain_norm if wide else _fused_norm
        running = all(str(value.name) in low.variables for value in (mean, variance))
        if low.training is None or not running:
            result = norm(work, *given, epsilon, False, name if work is features else None)[0]
        else:
            with conditionals_of_version_1():
                result, *batch = tf.cond(
                    low.training,
                    lambda: norm(work, *given, epsilon, True),
                    lambda: norm(work, *given, epsilon, False),
                )
            with tf.name_scope("AssignMovingAvg"):
                decay = tf.where(low.training, 1.0 - momentum, 0.0)
                for value, old, new in zip((mean, variance), given[2:], batch, strict=True):
                    variable = low.variables[str(value.name)]
                    change = tf.cast((old - new) * tf.cast(decay, old.dtype), variable.dtype)
                    tf.add_to_collection(tf.GraphKeys.UPDATE_OPS, variable.assign_sub(change, read_value=False))
            result = tf.identity(result, name=name if work is features else None)
        if work is not features:
            result = tf.reshape(result, _shape(low, x, features), name=name)
        low.put_image(node, result)
    low.notes.momentum[str(mean.name)] = momentum


def _shape(low: Lowering, x: Value, tensor: Tensor) -> Any:
    sizes = low.sizes(x)
    return low.target([sizes[axis] for axis in channels_last(len(sizes))], lambda: tf.shape(tensor))


def _fused_norm(
    x: Tensor,
    scale: Tensor,
    bias: Tensor,
    mean: Tensor,
    variance: Tensor,
    epsilon: float,
    training: bool,
    name: str | None = None,
) -> list[Tensor]:
    empty = np.zeros(0, np.float32)
    y, *batch = tf.raw_ops.FusedBatchNormV3(
        x=x,
        scale=scale,
        offset=bias,
        mean=empty if training else mean,
        variance=empty if training else variance,
        epsilon=epsilon,
        is_training=training,
        name=name,
    )[:3]
    return [y, *batch] if training else [y, mean, variance]


def _plain_norm(
    x: Tensor,
    scale: Tensor,
    bias: Tensor,
    mean: Tensor,
    variance: Tensor,
    epsilon: float,
    training: bool,
    name: str | None = None,
) -> list[Tensor]:
    """Normalise numbers of 64 bits, which TensorFlow has no kernel for; the batch's variance counts n - 1."""
    used = [mean, variance]
    if training:
        axes = list(range(x.shape.rank - 1))
        used = list(tf.nn.moments(x, axes))
        count = tf.cast(tf.size(x) // tf.shape(x)[-1], x.dtype)
        mean, variance = used[0], used[1] * count / tf.maximum(count - 1, 1)
    return [tf.nn.batch_normalization(x, *used, bias, scale, epsilon, name=name), mean, variance]


@lowers("LayerNormalization")
def layer_norm(low: Lowering, node: Node) -> None:
    """Lower LayerNormalization."""
    x, scale, bias = operands(node, 3)
    axis = attribute(node, "axis") % low.rank(x)
    with tf.name_scope(low.scoped(node)):
        features = low.tensor(x)
        mean, variance = tf.nn.moments(features, list(range(axis, low.rank(x))), keepdims=True)
        result = (features - mean) * tf.rsqrt(variance + attribute(node, "epsilon")) * low.tensor(scale)
        low.put(node, result if bias is None else result + low.tensor(bias))


@lowers("InstanceNormalization")
def instance_norm(low: Lowering, node: Node) -> None:
    """Lower InstanceNormalization."""
    x, scale, bias = operands(node, 3)
    with tf.name_scope(low.scoped(node)):
        features = low.image(x)
        mean, variance = tf.nn.moments(features, list(range(1, low.rank(x) - 1)), keepdims=True)
        result = (features - mean) * tf.rsqrt(variance + attribute(node, "epsilon"))
        low.put_image(node, result * low.tensor(scale) + low.tensor(bias))


@lowers("Dropout")
def dropout(low: Lowering, node: Node) -> None:
    """Lower Dropout: it drops in training; a frozen graph has an Identity in its place."""
    x, share = operands(node)[0], low.dropped_share(node)
    if share is None:
        raise Refusal("its ratio is computed; it must be a constant")
    held = low.held(x)
    name = low.scoped(node)
    if low.training is None or share == 0:
        result = tf.identity(held.tensor, name=name)
        low.notes.dropout[str(result.op.name)] = share
    else:
        with tf.name_scope(name), conditionals_of_version_1():
            result = tf.cond(
                low.training,
                lambda: tf.nn.dropout(held.tensor, rate=share),
                lambda: tf.identity(held.tensor),
            )
            result = tf.identity(result, name=name)
    low.set(node.outputs[0], Held(result, held.order, held.scatter))
    if len(node.outputs) > 1 and node.outputs[1].name and (node.outputs[1].uses() or node.outputs[1].is_graph_output()):
        raise Refusal("its mask is used")


@lowers("PRelu")
def prelu(low: Lowering, node: Node) -> None:
    """Lower PRelu."""
    with tf.name_scope(low.scoped(node)):
        (x, slope), order = low.together(operands(node), node.outputs[0])
        low.put(node, tf.nn.relu(x) + slope * tf.minimum(x, tf.zeros([], x.dtype)), order)
