"""Operators that work element by element, activations and reductions; they take any order of axes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any

import numpy as np
import tensorflow.compat.v1 as tf
from onnx_ir import Node

from mopruning.backends.tensorflow1.lowering.context import Lowering, Order, Refusal, Tensor, tf_dtype
from mopruning.backends.tensorflow1.orders import Held, plain
from mopruning.ir.attributes import attribute
from mopruning.ir.lowering import lowers, operands
from mopruning.ir.nodes import cast_type, is_usual_selu

_UNARY: Mapping[str, Callable[..., Any]] = {
    "Relu": tf.nn.relu,
    "Sigmoid": tf.sigmoid,
    "Tanh": tf.tanh,
    "Softplus": tf.nn.softplus,
    "Abs": tf.abs,
    "Neg": tf.negative,
    "Sign": tf.sign,
    "Sqrt": tf.sqrt,
    "Reciprocal": tf.math.reciprocal,
    "Exp": tf.exp,
    "Log": tf.math.log,
    "Erf": tf.math.erf,
    "Sin": tf.sin,
    "Cos": tf.cos,
    "Floor": tf.floor,
    "Ceil": tf.math.ceil,
    "Round": tf.round,
    "IsNaN": tf.math.is_nan,
    "Not": tf.logical_not,
}
"""Operators of one tensor and nothing else."""

_BINARY: Mapping[str, Callable[..., Any]] = {
    "Add": tf.add,
    "Sub": tf.subtract,
    "Mul": tf.multiply,
    "Div": tf.realdiv,
    "Equal": tf.equal,
    "Greater": tf.greater,
    "GreaterOrEqual": tf.greater_equal,
    "Less": tf.less,
    "LessOrEqual": tf.less_equal,
    "And": tf.logical_and,
    "Or": tf.logical_or,
    "Xor": tf.math.logical_xor,
    "Mod": tf.math.floormod,
}
_VARIADIC = {"Min": tf.minimum, "Max": tf.maximum, "Sum": tf.add}
_REDUCTIONS: Mapping[str, Callable[..., Any]] = {
    "ReduceMean": tf.reduce_mean,
    "ReduceSum": tf.reduce_sum,
    "ReduceMax": tf.reduce_max,
    "ReduceMin": tf.reduce_min,
    "ReduceProd": tf.reduce_prod,
    "ReduceLogSumExp": lambda x, *axes, **options: _log_sum_exp(x, *axes, **options),
    "ReduceL1": lambda x, *axes, **options: tf.reduce_sum(tf.abs(x), *axes, **options),
    "ReduceL2": lambda x, *axes, name, **options: tf.sqrt(tf.reduce_sum(tf.square(x), *axes, **options), name=name),
    "ReduceSumSquare": lambda x, *axes, **options: tf.reduce_sum(tf.square(x), *axes, **options),
}


def _log_sum_exp(x: Tensor, axes: list[int], keepdims: bool, name: str) -> Tensor:
    largest = tf.stop_gradient(tf.reduce_max(x, axes, keepdims=True))  # so that nothing overflows
    total = tf.math.log(tf.reduce_sum(tf.exp(x - largest), axes, keepdims=True)) + largest
    return tf.identity(total, name=name) if keepdims else tf.squeeze(total, axes, name=name)


@lowers(*_UNARY)
def unary(low: Lowering, node: Node) -> None:
    """Lower an operator of one tensor."""
    _each(low, node, _UNARY[node.op_type])


def _each(low: Lowering, node: Node, function: Callable[..., Any]) -> None:
    """Add a function of each element, which leaves axes and features where they lie."""
    held = low.held(operands(node)[0])
    name = low.scoped(node)
    with tf.name_scope(name):
        low.put(node, function(held.tensor, name=name), held.order, held.scatter)


@lowers("LeakyRelu", "Elu", "Selu", "Gelu", "HardSigmoid", "HardSwish", "Mish")
def activation(low: Lowering, node: Node) -> None:
    """Lower an activation with attributes, or of several steps."""
    _each(low, node, lambda x, name: _activated(node, x, name))


def _activated(node: Node, x: Tensor, name: str) -> Tensor:
    kind, alpha, beta = node.op_type, attribute(node, "alpha"), attribute(node, "beta")
    if kind == "LeakyRelu":
        return tf.nn.leaky_relu(x, alpha, name=name)
    if kind == "Elu":
        if alpha == 1.0:
            return tf.nn.elu(x, name=name)
        return tf.where(x > 0, x, alpha * tf.math.expm1(tf.minimum(x, 0)), name=name)
    if kind == "Selu":
        gamma = attribute(node, "gamma")
        if is_usual_selu(node):
            return tf.nn.selu(x, name=name)
        return tf.multiply(tf.where(x > 0, x, alpha * tf.math.expm1(tf.minimum(x, 0))), gamma, name=name)
    if kind == "Gelu":
        if attribute(node, "approximate") == "tanh":
            inner = np.sqrt(2 / np.pi) * (x + 0.044715 * x * x * x)
            return tf.multiply(0.5 * x, 1 + tf.tanh(inner), name=name)
        return tf.multiply(0.5 * x, 1 + tf.math.erf(x * np.sqrt(0.5)), name=name)
    if kind == "HardSigmoid":
        return tf.minimum(tf.nn.relu(x * alpha + beta), tf.ones([], x.dtype), name=name)
    if kind == "HardSwish":
        return tf.multiply(x, tf.nn.relu6(x + 3) * (1 / 6), name=name)
    assert kind == "Mish"
    return tf.multiply(x, tf.tanh(tf.nn.softplus(x)), name=name)


@lowers("Softmax", "LogSoftmax")
def softmax(low: Lowering, node: Node) -> None:
    """Lower Softmax and LogSoftmax."""
    function = tf.nn.softmax if node.op_type == "Softmax" else tf.nn.log_softmax
    (x,) = operands(node)
    rank = low.rank(x)
    axis = attribute(node, "axis") % rank
    own = low.held(x).order
    order = (*(other for other in own if other != axis), axis)  # TensorFlow's own works on the last axis
    low.put(node, function(low.tensor(x, order), name=low.scoped(node)), order)


def _along(low: Lowering, node: Node) -> tuple[Order, int]:
    """Return the order in which a node's input lies, and where the axis is on which it works."""
    x = operands(node)[0]
    held = low.held(x)
    order = held.order if held.scatter is None else plain(low.rank(x))
    return order, order.index(attribute(node, "axis") % low.rank(x))


@lowers(*_BINARY)
def binary(low: Lowering, node: Node) -> None:
    """Lower an operator of two operands, which broadcast."""
    left = operands(node)[0]
    function = _BINARY[node.op_type]
    whole = left.dtype is not None and not left.dtype.is_floating_point()
    name = low.scoped(node)
    with tf.name_scope(name):
        (a, b), order = low.together(operands(node), node.outputs[0])
        if node.op_type == "Div" and whole:
            function = _truncated
        if node.op_type == "Mod" and attribute(node, "fmod"):
            function = tf.truncatemod
        low.put(node, function(a, b, name=name), order)


def _truncated(a: Tensor, b: Tensor, name: str) -> Tensor:
    return tf.truncatediv(a, b, name=name)


@lowers(*_VARIADIC)
def variadic(low: Lowering, node: Node) -> None:
    """Lower Min, Max and Sum of any number of operands."""
    function = _VARIADIC[node.op_type]
    name = low.scoped(node)
    with tf.name_scope(name):
        tensors, order = low.together(operands(node), node.outputs[0])
        if len(tensors) == 1:
            low.put(node, tf.identity(tensors[0], name=name), order)
            return
        first = reduce(function, tensors[:-1])
        low.put(node, function(first, tensors[-1], name=name), order)


@lowers("Pow")
def power(low: Lowering, node: Node) -> None:
    """Lower Pow, whose result has the type of the base."""
    name = low.scoped(node)
    with tf.name_scope(name):
        (base, exponent), order = low.together(operands(node), node.outputs[0])
        if base.dtype == exponent.dtype:
            low.put(node, tf.pow(base, exponent, name=name), order)
            return
        dtype = base.dtype if base.dtype.is_floating else exponent.dtype
        result = tf.pow(tf.cast(base, dtype), tf.cast(exponent, dtype))
        low.put(node, tf.cast(result, base.dtype, name=name), order)


@lowers("Where")
def where(low: Lowering, node: Node) -> None:
    """Lower Where."""
    name = low.scoped(node)
    with tf.name_scope(name):
        (condition, yes, no), order = low.together(operands(node), node.outputs[0])
        low.put(node, tf.raw_ops.SelectV2(condition=condition, t=yes, e=no, name=name), order)


@lowers("Clip")
def clip(low: Lowering, node: Node) -> None:
    """Lower Clip; from 0 to 6 it is a ReLU6."""
    x, *bounds = operands(node, 3)
    held = low.held(x)
    ends = [low.number(value) for value in bounds]
    name = low.scoped(node)
    with tf.name_scope(name):
        result = held.tensor
        floating = result.dtype.is_floating
        if ends == [0.0, 6.0] and floating:
            low.put(node, tf.nn.relu6(result, name=name), held.order, held.scatter)
            return
        given = [None if value is None else low.tensor(value) for value in bounds]
        given = [None if bound is None else tf.reshape(bound, []) for bound in given]
        if given[0] is not None:
            result = tf.maximum(result, given[0], name=name if given[1] is None else None)
        if given[1] is not None:
            result = tf.minimum(result, given[1], name=name)
        if given == [None, None]:
            result = tf.identity(result, name=name)
        low.put(node, result, held.order, held.scatter)


@lowers("Cast", "CastLike")
def cast(low: Lowering, node: Node) -> None:
    """Lower Cast and CastLike."""
    dtype = cast_type(node)
    if dtype is None:
        raise Refusal("the type that it casts to is not known")
    _each(low, node, lambda x, name: tf.identity(tf.cast(x, tf_dtype(dtype)), name=name))


@lowers(*_REDUCTIONS)
def reduction(low: Lowering, node: Node) -> None:
    """Lower a reduction over some axes, or all."""
    x, axes = operands(node)[0], low.reduced_axes(node)
    rank, keep = low.rank(x), bool(attribute(node, "keepdims"))
    held = low.held(x)
    order = held.order if held.scatter is None else plain(rank)
    name = low.scoped(node)
    if axes is None:
        low.put(node, tf.identity(low.tensor(x, order), name=name), order)
        return
    places = [place for place, axis in enumerate(order) if axis in axes]
    kept = [axis for axis in order if axis not in axes]
    result_order = order if keep else tuple(sorted(kept).index(axis) for axis in kept)
    with tf.name_scope(name):
        result = _REDUCTIONS[node.op_type](low.tensor(x, order), places, keepdims=keep, name=name)
    low.put(node, result, result_order)


@lowers("ArgMax", "ArgMin")
def extreme(low: Lowering, node: Node) -> None:
    """Lower ArgMax and ArgMin."""
    order, place = _along(low, node)
    axis = order[place]
    function = tf.argmax if node.op_type == "ArgMax" else tf.argmin
    name = low.scoped(node)
    with tf.name_scope(name):
        x = low.tensor(operands(node)[0], order)
        if attribute(node, "select_last_index"):
            last = tf.shape(x, out_type=tf.int64)[place] - 1
            result = last - function(tf.reverse(x, [place]), place, output_type=tf.int64)
        else:
            result = function(x, place, output_type=tf.int64)
        kept = [other for other in order if other != axis]
        if attribute(node, "keepdims"):
            result, result_order = tf.expand_dims(result, place), order
        else:
            result_order = tuple(sorted(kept).index(other) for other in kept)
        low.put(node, tf.identity(result, name=name), result_order)


@lowers("CumSum")
def cumulative(low: Lowering, node: Node) -> None:
    """Lower CumSum."""
    x, axis = operands(node)
    (number,) = low.integers(axis, "axes")
    held = low.held(x)
    order = held.order if held.scatter is None else plain(low.rank(x))
    options = {"exclusive": bool(attribute(node, "exclusive")), "reverse": bool(attribute(node, "reverse"))}
    place = order.index(number % low.rank(x))
    low.put(node, tf.cumsum(low.tensor(x, order), place, name=low.scoped(node), **options), order)


@lowers("TopK")
def top_k(low: Lowering, node: Node) -> None:
    """Lower TopK, which in TensorFlow works on the last axis."""
    x, count = operands(node)
    (k,) = low.integers(count, "numbers")
    rank = low.rank(x)
    axis = attribute(node, "axis") % rank
    order = (*(other for other in range(rank) if other != axis), axis)
    name = low.scoped(node)
    with tf.name_scope(name):
        features = low.tensor(x, order)
        if attribute(node, "largest"):
            values, places = tf.math.top_k(features, k)
        else:
            values, places = tf.math.top_k(_upside_down(features), k)
            values = _upside_down(values)
        low.put_value(node.outputs[0], tf.identity(values, name=name), order)
        low.put_value(node.outputs[1], tf.cast(places, tf.int64), order)


def _upside_down(x: Tensor) -> Tensor:
    return -x if x.dtype.is_floating else tf.bitwise.invert(x)


@lowers("Identity")
def identity(low: Lowering, node: Node) -> None:
    """Lower Identity."""
    lowered = low.get(operands(node)[0])
    if isinstance(lowered, Held):
        low.put(node, tf.identity(lowered.tensor, name=low.scoped(node)), lowered.order, lowered.scatter)
    else:
        low.set(node.outputs[0], lowered)
