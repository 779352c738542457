"""Layers with parameters, and products."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from onnx_ir import Value

from mopruning.backends.mxnet.exporting.network import Call, Translation, Values, known, sizes_of
from mopruning.errors import FormatError
from mopruning.ir.lowering import Refusal

_CHANNELS_FIRST = ("", "NCW", "NCHW", "NCDHW")


def convolution(call: Call) -> Values:
    """Translate Convolution."""
    node = call.node
    kernel, axes = _window(call)
    attributes = {
        "kernel_shape": kernel,
        "strides": _each(call, "stride", axes, 1),
        "pads": _each(call, "pad", axes, 0) * 2,
        "dilations": _each(call, "dilate", axes, 1),
        "group": node.integer("num_group", 1),
    }
    return call.add("Conv", _operands(call, "no_bias", False), **_unusual(attributes, axes))


def deconvolution(call: Call) -> Values:
    """Translate Deconvolution."""
    node = call.node
    kernel, axes = _window(call)
    strides, dilations = _each(call, "stride", axes, 1), _each(call, "dilate", axes, 1)
    pads, extra = _each(call, "pad", axes, 0), _each(call, "adj", axes, 0)
    target = node.integers("target_shape")
    if any(target):  # src/operator/nn/deconvolution-inl.h, DeconvolutionParam::InferPad
        sizes = known(call.sizes()[2:])
        spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
        rest = [s * (n - 1) + span - t for s, n, span, t in zip(strides, sizes, spans, target, strict=True)]
        if min(rest) < 0:
            raise FormatError(f"{node}: its target_shape {target} is larger than what it gives")
        pads, extra = [(r + 1) // 2 for r in rest], [r % 2 for r in rest]
    attributes = {
        "kernel_shape": kernel,
        "strides": strides,
        "pads": pads * 2,
        "dilations": dilations,
        "output_padding": extra,
        "group": node.integer("num_group", 1),
    }
    return call.add("ConvTranspose", _operands(call, "no_bias", True), **_unusual(attributes, axes))


def upsampling(call: Call) -> Values:
    """Translate UpSampling: the nearest element, or a transposed convolution a channel."""
    scale, kind = call.node.integer("scale", 0), call.node.text("sample_type")
    if kind == "nearest":
        if len(call.inputs) != 1:
            raise Refusal("it upsamples several arrays at once")
        scales = call.constant("scales", [1, 1, scale, scale], np.float32)
        rule = {"coordinate_transformation_mode": "asymmetric", "mode": "nearest", "nearest_mode": "floor"}
        return call.add("Resize", [call.x, None, scales], **rule)
    # src/operator/nn/upsampling-inl.h, UpSamplingParam: what bilinear upsampling deconvolves with
    kernel, pad = 2 * scale - scale % 2, math.ceil((scale - 1) / 2)
    group = call.node.integer("num_filter", 0)
    attributes: dict[str, Any] = {
        "kernel_shape": [kernel] * 2,
        "strides": [scale] * 2,
        "pads": [pad] * 4,
        "group": group,
    }
    return call.add("ConvTranspose", [call.x, call.input(1)], **attributes)


def dense(call: Call) -> Values:
    """Translate FullyConnected."""
    x, weight, *bias = _operands(call, "no_bias", False)
    axes = None if x.shape is None else len(x.shape)
    if call.node.flag("flatten", True) and axes != 2:
        x, axes = call.part("Flatten", "flatten", [x], axis=1), 2
    if axes is None:
        raise Refusal("the shape of what it reads is not known; give the shapes of the network's inputs")
    return call.network.dense(call.name, x, weight, *bias, axes=axes)


def batch_norm(call: Call) -> Values:
    """Translate BatchNorm; the reader has set a fixed scale to 1."""
    axis = call.node.integer("axis", 1)
    attributes = {"epsilon": call.node.number("eps", 1e-3), "momentum": call.node.number("momentum", 0.9)}
    if call.node.flag("output_mean_var"):
        raise Refusal("it gives the statistics of the batch as well")
    operands = [call.input(index) for index in range(1, 5)]
    if axis == 1:
        return call.add("BatchNormalization", [call.x, *operands], **attributes)
    rank = call.rank()
    order = [0, rank - 1, *range(1, rank - 1)]
    if call.checked(axis, rank) != rank - 1:
        raise Refusal(f"its channels are axis {axis}; they must be the second or the last")
    turned = call.network.transpose(f"{call.name}.channels_first", call.x, order)
    y = call.part("BatchNormalization", "normalised", [turned, *operands], **attributes)
    return call.network.transpose(call.name, y, [0, *range(2, rank), 1])


def layer_norm(call: Call) -> Values:
    """Translate LayerNorm."""
    axis, rank = call.axis("axis", -1), call.rank()
    attributes = {"epsilon": call.node.number("eps", 1e-5)}
    if axis == rank - 1:
        return call.add("LayerNormalization", [call.input(index) for index in range(3)], axis=-1, **attributes)
    order = [*(other for other in range(rank) if other != axis), axis]
    turned = call.network.transpose(f"{call.name}.last", call.x, order)
    y = call.part("LayerNormalization", "normalised", [turned, call.input(1), call.input(2)], axis=-1, **attributes)
    return call.network.transpose(call.name, y, [int(place) for place in np.argsort(order)])


def instance_norm(call: Call) -> Values:
    """Translate InstanceNorm."""
    operands = [call.input(index) for index in range(3)]
    return call.add("InstanceNormalization", operands, epsilon=call.node.number("eps", 1e-3))


def group_norm(call: Call) -> Values:
    """Translate GroupNorm, whose scales are one a group until 1.9 and stand before the affine part."""
    groups, sizes = call.node.integer("num_groups", 1), call.sizes()
    (channels,) = known(sizes[1:2])
    if not 1 <= groups <= 1 << 20 or channels % groups:
        raise FormatError(f"{call.node}: {channels} channels do not make {groups} groups")
    ones, zeros = (call.constant(what, np.full(groups, fill), np.float32) for what, fill in (("ones", 1), ("zeros", 0)))
    rows = call.network.reshape(f"{call.name}.groups", call.x, [0, groups, -1])
    attributes = {"epsilon": call.node.number("eps", 1e-5)}
    y = call.part("InstanceNormalization", "normalised", [rows, ones, zeros], **attributes)
    y = call.part("Reshape", "image", [y, call.part("Shape", "shape", [call.x])])
    affine = []
    for index, what in ((1, "scale"), (2, "bias")):
        (count,) = known(call.sizes(index))
        if count != channels:
            raise Refusal("it has a scale a group, not a channel")
        spread = [channels, *[1] * (len(sizes) - 2)]
        affine.append(call.network.reshape(f"{call.name}.{what}", call.input(index), spread))
    return call.add("Add", [call.part("Mul", "scaled", [y, affine[0]]), affine[1]])


def local_response(call: Call) -> Values:
    """Translate LRN: x / (knorm + alpha mean(x^2))^beta, the mean over nsize channels, by a pool of a volume."""
    node = call.node
    size = node.integer("nsize", 5)
    if size % 2 == 0:
        raise Refusal("its window has no middle")
    squares = call.part(
        "Unsqueeze", "volume", [call.part("Mul", "squares", [call.x, call.x]), call.constant("axis", [1])]
    )
    around = [size // 2, 0, 0]
    attributes = {"kernel_shape": [size, 1, 1], "pads": around * 2, "count_include_pad": 1, "strides": [1, 1, 1]}
    means = call.part("AveragePool", "means", [squares], **attributes)
    means = call.part("Squeeze", "image", [means, call.constant("axis", [1])])
    scaled = call.part("Mul", "scaled", [means, call.number("alpha", node.number("alpha", 1e-4), call.x)])
    shifted = call.part("Add", "shifted", [scaled, call.number("knorm", node.number("knorm", 2.0), call.x)])
    divisor = call.part("Pow", "divisor", [shifted, call.number("beta", node.number("beta", 0.75), call.x)])
    return call.add("Div", [call.x, divisor])


def l2_normalisation(call: Call) -> Values:
    """Translate L2Normalization: x / sqrt(sum(x^2) + eps)."""
    rank, mode = call.rank(), call.node.text("mode", "instance")
    axes = {"instance": list(range(1, rank)), "channel": [1], "spatial": list(range(2, rank))}[mode]
    total = call.part("ReduceSumSquare", "squares", [call.x, call.constant("axes", axes)], keepdims=1)
    epsilon = call.number("eps", call.node.number("eps", 1e-10), call.x)
    return call.add("Div", [call.x, call.part("Sqrt", "length", [call.part("Add", "shifted", [total, epsilon])])])


def dropout(call: Call) -> Values:
    """Translate Dropout."""
    if call.node.integers("axes"):
        raise Refusal("it drops whole axes at once")
    return call.add("Dropout", [call.x, call.constant("ratio", call.node.number("p", 0.5), np.float32)])


def embedding(call: Call) -> Values:
    """Translate Embedding."""
    return call.add("Gather", [call.input(1), index_of(call, call.x)], axis=0)


def dot(call: Call) -> Values:
    """Translate dot on matrices, and on an array and a matrix."""
    left, right = call.x, call.input(1)
    ranks = call.rank(0), call.rank(1)
    flags = [call.node.flag(f"transpose_{side}") for side in "ab"]
    if ranks[1] > 2 or (ranks[0] > 2 and any(flags)):
        raise Refusal("it multiplies arrays of more than two axes")
    if not flags[0] and flags[1] and ranks == (2, 2):
        return call.add("Gemm", [left, right], transB=1)
    turned = [
        call.part("Transpose", f"transpose_{side}", [value], perm=[1, 0]) if flag and rank == 2 else value
        for side, value, flag, rank in zip("ab", (left, right), flags, ranks, strict=True)
    ]
    return call.add("MatMul", turned)


def batch_dot(call: Call) -> Values:
    """Translate batch_dot."""
    return call.add("MatMul", _matrices(call))


def gemm2(call: Call) -> Values:
    """Translate linalg_gemm2: alpha times a product of matrices."""
    if call.node.integer("axis", -2) != -2:
        raise Refusal("its matrices do not stand in the last axes")
    alpha = call.node.number("alpha", 1.0)
    if alpha == 1.0:
        return call.add("MatMul", _matrices(call))
    product = call.part("MatMul", "product", _matrices(call))
    return call.add("Mul", [product, call.number("alpha", alpha, product)])


def matmul(call: Call) -> Values:
    """Translate NumPy's matmul."""
    return call.add("MatMul", [call.x, call.input(1)])


def _matrices(call: Call) -> list[Value]:
    result = []
    for index, side in enumerate("ab"):
        value = call.input(index)
        if call.node.flag(f"transpose_{side}"):
            rank = len(sizes_of(value))
            value = call.part("Transpose", f"transpose_{side}", [value], perm=[*range(rank - 2), rank - 1, rank - 2])
        result.append(value)
    return result


def index_of(call: Call, x: Value) -> Value:
    """Return an index as whole numbers: MXNet takes floats as well."""
    if x.dtype is not None and not x.dtype.is_floating_point():
        return x
    return call.part("Cast", "index", [x], to=7)


def _window(call: Call) -> tuple[list[int], int]:
    """Return the kernel of a convolution, and how many axes it has."""
    if call.node.text("layout") not in _CHANNELS_FIRST:
        raise Refusal(f"its layout is {call.node.text('layout')}; only those with the channels first are read")
    kernel = list(call.node.integers("kernel"))
    if not 1 <= len(kernel) <= 3:
        raise FormatError(f"{call.node}: its kernel is {kernel}, expected one to three sizes")
    return kernel, len(kernel)


def _each(call: Call, name: str, axes: int, otherwise: int) -> list[int]:
    found = list(call.node.integers(name))
    if len(found) not in (0, axes):
        raise FormatError(f"{call.node}: its {name} is {found}, expected {axes} numbers")
    return found or [otherwise] * axes


def _operands(call: Call, flag: str, otherwise: bool) -> list[Value]:
    """Return data, weight and, unless a flag says there is none, the bias."""
    return [call.input(index) for index in range(2 if call.node.flag(flag, otherwise) else 3)]


def _unusual(attributes: dict[str, Any], axes: int) -> dict[str, Any]:
    """Return the attributes without those that say what would hold without them, as the zoo writes them."""
    usual = {"dilations": [1] * axes, "output_padding": [0] * axes, "group": 1}
    return {name: value for name, value in attributes.items() if usual.get(name) != value}


TRANSLATIONS: dict[str, Translation] = {
    **dict.fromkeys(("Convolution", "Convolution_v1"), convolution),
    "Deconvolution": deconvolution,
    "UpSampling": upsampling,
    "FullyConnected": dense,
    **dict.fromkeys(("BatchNorm", "BatchNorm_v1", "_contrib_SyncBatchNorm"), batch_norm),
    "LayerNorm": layer_norm,
    "InstanceNorm": instance_norm,
    "GroupNorm": group_norm,
    "LRN": local_response,
    "L2Normalization": l2_normalisation,
    "Dropout": dropout,
    **dict.fromkeys(("Embedding", "_contrib_SparseEmbedding"), embedding),
    "dot": dot,
    "batch_dot": batch_dot,
    **dict.fromkeys(("_linalg_gemm2", "linalg_gemm2"), gemm2),
    "_npi_matmul": matmul,
}
"""MXNet's operator -> its translation."""
