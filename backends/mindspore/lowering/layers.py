"""Layers with weights: convolutions, dense layers, normalisation, embeddings."""

from __future__ import annotations

import math
from typing import Any

from onnx_ir import Node, Value

from mopruning.backends.mindspore.lowering.context import Lowering, Var, dtype_option, literal, pair
from mopruning.ir.attributes import attribute
from mopruning.ir.lowering import Refusal, Window, lowers, operands, sizes_of, weight_shape, window_of


@lowers("Conv")
def conv(low: Lowering, node: Node) -> None:
    """Lower Conv: one axis is two of which the first has one place."""
    x, weight, bias = operands(node, 3)
    outputs, inputs, *kernel = weight_shape(weight)
    window, group = window_of(node, len(kernel)), attribute(node, "group")
    if len(kernel) == 3 and group != 1:
        raise Refusal("a convolution of three axes in groups")
    if len(kernel) not in (1, 2, 3):
        raise Refusal(f"a convolution of {len(kernel)} axes")
    if len(kernel) == 2:
        options = _options(window, group, bias)
        built = f"nn.Conv2d({inputs * group}, {outputs}, {pair(kernel)}{options}{dtype_option(weight)})"
        layer = low.layer(built, {"weight": weight, "bias": bias})
        if layer is not None:
            low.put(node, f"{layer}({{}})", low.tensor(x))
            return
    result = _convolved(low, low.tensor(x), low.tensor(weight), outputs, kernel, window, group)
    low.set(node.outputs[0], _biased(low, result, bias, len(kernel)))


def _options(window: Window, group: int, bias: Any) -> str:
    """Return the arguments of a convolution for how it moves."""
    text = "" if set(window.strides) == {1} else f", stride={pair(window.strides)}"
    text += ', pad_mode="pad"' if any(window.pads) else ', pad_mode="valid"'
    if any(window.pads):
        text += f", padding={_padding(window)}"
    text += "" if set(window.dilations) == {1} else f", dilation={pair(window.dilations)}"
    text += "" if group == 1 else f", group={group}"
    return text + ("" if bias is None else ", has_bias=True")


def _padding(window: Window) -> str:
    """Return padding as MindSpore has it: start and end of one axis after the other."""
    return pair([amount for both in zip(window.starts, window.ends, strict=True) for amount in both])


def _convolved(low: Lowering, x: Var, weight: Var, outputs: int, kernel: list[int], window: Window, group: int) -> Var:
    axes = len(kernel)
    if axes == 1:
        x, weight = (low.emit("ops.expand_dims({}, 2)", one) for one in (x, weight))
        kernel, window = [1, *kernel], _flat(window)
    name = "Conv3D" if axes == 3 else "Conv2D"
    pads = literal(tuple(amount for both in zip(window.starts, window.ends, strict=True) for amount in both))
    built = (
        f'ops.{name}({outputs}, {literal(tuple(kernel))}, pad_mode="pad", pad={pads}, stride={literal(window.strides)}'
        f", dilation={literal(window.dilations)}" + (f", group={group})" if group != 1 else ")")
    )
    result = low.emit(f"{low.primitive(built, name.lower())}({{}}, {{}})", x, weight)
    return low.emit("ops.squeeze({}, 2)", result) if axes == 1 else result


def _flat(window: Window) -> Window:
    """Return a window of two axes of which the first has one place."""
    return Window((1, *window.strides), (1, *window.dilations), (0, *window.starts, 0, *window.ends))


def _biased(low: Lowering, x: Var, bias: Value | None, axes: int) -> Var:
    if bias is None:
        return x
    shaped = low.emit(f"ops.reshape({{}}, {literal((-1, *[1] * axes))})", low.tensor(bias))
    return low.emit("{} + {}", x, shaped)


@lowers("ConvTranspose")
def conv_transpose(low: Lowering, node: Node) -> None:
    """Lower ConvTranspose.

    MindSpore's `output_padding` appends zeros, behind the bias (2.10). So it is taken off the padding at the end, which
    gives the values that belong there; only what no window reaches is zeros, and gets the bias afterwards.
    """
    x, weight, bias = operands(node, 3)
    inputs, outputs, *kernel = weight_shape(weight)
    axes, group = len(kernel), attribute(node, "group")
    window = window_of(node, axes)
    extra = list(attribute(node, "output_padding", [0] * axes))
    ends = [max(0, end - more) for end, more in zip(window.ends, extra, strict=True)]
    beyond = [max(0, more - end) for end, more in zip(window.ends, extra, strict=True)]
    window = Window(window.strides, window.dilations, (*window.starts, *ends))
    if axes == 2 and not (any(beyond) and bias is not None):
        options = _options(window, group, bias)
        options += f", output_padding={literal(tuple(beyond))}" if any(beyond) else ""
        if any(beyond) and "valid" in options:
            options = options.replace('"valid"', '"pad"')
        built = f"nn.Conv2dTranspose({inputs}, {outputs * group}, {pair(kernel)}{options}{dtype_option(weight)})"
        layer = low.layer(built, {"weight": weight, "bias": bias})
        if layer is not None:
            low.put(node, f"{layer}({{}})", low.tensor(x))
            return
    features, kernels = low.tensor(x), low.tensor(weight)
    if axes == 1:
        features, kernels = (low.emit("ops.expand_dims({}, 2)", one) for one in (features, kernels))
        kernel, window, beyond = [1, *kernel], _flat(window), [0, *beyond]
    pads = literal(tuple(amount for both in zip(window.starts, window.ends, strict=True) for amount in both))
    common = f"pad={pads}, stride={literal(window.strides)}, dilation={literal(window.dilations)}, group={group}"
    if axes == 3:
        built = f'ops.Conv3DTranspose({inputs}, {outputs * group}, {literal(tuple(kernel))}, pad_mode="pad", {common})'
        result = low.emit(f"{low.primitive(built, 'conv3d_transpose')}({{}}, {{}})", features, kernels)
    elif axes < 3:
        sizes = sizes_of(node.outputs[0])[2:]
        sizes = [1, *sizes] if axes == 1 else sizes
        if None in sizes:
            raise Refusal("its output has an open size; give the graph's inputs shapes")
        reached = tuple(size - more for size, more in zip(sizes, beyond, strict=True) if size is not None)
        built = f'ops.Conv2DTranspose({inputs}, {literal(tuple(kernel))}, pad_mode="pad", {common})'
        function = low.primitive(built, "conv2d_transpose")
        shape = f"({{}}.shape[0], {outputs * group}, {reached[0]}, {reached[1]})"
        result = low.emit(f"{function}({{}}, {{}}, {shape})", features, kernels, features)
    else:
        raise Refusal(f"a transposed convolution of {axes} axes")
    if any(beyond):
        amounts = literal(tuple(amount for more in reversed(beyond) for amount in (0, more)))
        result = low.emit(f"ops.pad({{}}, {amounts})", result)
    if axes == 1:
        result = low.emit("ops.squeeze({}, 2)", result)
    low.set(node.outputs[0], _biased(low, result, bias, axes))


@lowers("Gemm")
def gemm(low: Lowering, node: Node) -> None:
    """Lower Gemm: nn.Dense where the weight is [out, in]."""
    x, weight, bias = operands(node, 3)
    rows, columns = weight_shape(weight)
    turned = bool(attribute(node, "transB"))
    outputs, inputs = (rows, columns) if turned else (columns, rows)
    if turned and (bias is None or weight_shape(bias) == [outputs]):
        layer = _dense(low, weight, bias, inputs, outputs)
        if layer is not None:
            low.put(node, f"{layer}({{}})", low.tensor(x))
            return
    template = "ops.matmul({}, {}.T)" if turned else "ops.matmul({}, {})"
    result = low.emit(template, low.tensor(x), low.tensor(weight))
    low.set(node.outputs[0], result if bias is None else low.emit("{} + {}", result, low.operand(bias)))


def _dense(low: Lowering, weight: Value, bias: Value | None, inputs: int, outputs: int) -> str | None:
    has = ", has_bias=False" if bias is None else ""
    return low.layer(f"nn.Dense({inputs}, {outputs}{has}{dtype_option(weight)})", {"weight": weight, "bias": bias})


@lowers("MatMul")
def matmul(low: Lowering, node: Node) -> None:
    """Lower MatMul; with the transpose of a weight, and the bias behind it, it is nn.Dense."""
    x, right = operands(node, 2)
    weight = low.dense_weight(right)
    if weight is not None:
        outputs, inputs = weight_shape(weight)
        add, bias = low.dense_bias(node.outputs[0], outputs)
        layer = _dense(low, weight, bias, inputs, outputs)
        if layer is not None:
            features = low.tensor(x)
            last = node if add is None else add
            low.put(last, f"{layer}({{}})", features)
            low.done.add(id(last))
            return
    low.put(node, "ops.matmul({}, {})", low.tensor(x), low.tensor(right))


@lowers("BatchNormalization")
def batch_norm(low: Lowering, node: Node) -> None:
    """Lower BatchNormalization: MindSpore's momentum is the share that stays, as ONNX's."""
    x, scale, bias, mean, variance = operands(node, 5)
    (channels,) = weight_shape(scale)
    eps, momentum = attribute(node, "epsilon"), attribute(node, "momentum")
    rank = low.rank(x)
    kind = "nn.BatchNorm1d" if rank == 2 else "nn.BatchNorm2d"
    built = f"{kind}({channels}, eps={eps!r}, momentum={momentum!r}{dtype_option(scale)})"
    tensors = {"gamma": scale, "beta": bias, "moving_mean": mean, "moving_variance": variance}
    if all(value.is_initializer() for value in tensors.values()):
        layer = low.layer(built, tensors)
        if layer is not None:
            features = low.tensor(x)
            if rank in (2, 4):
                low.put(node, f"{layer}({{}})", features)
                return
            sizes = sizes_of(x)[2:]
            rest = -1 if None in sizes else math.prod(size or 1 for size in sizes)
            if rest == -1 and sizes_of(x)[0] is None:
                raise Refusal("its input has more than one open size; give the graph's inputs shapes")
            first = sizes_of(x)[0]
            flat = low.emit(
                f"ops.reshape({{}}, {literal((-1 if first is None else first, channels, rest, 1))})", features
            )
            low.set(node.outputs[0], low.reshape(low.emit(f"{layer}({{}})", flat), node.outputs[0]))
            return
        held = [value for value in (mean, variance) if low.roles[str(value.name)] == "buffer"]
        if held:
            raise Refusal(f"{held[0].name!r} belongs to another layer, too, or its scale does not train")
    shape = literal((-1, *[1] * (rank - 2)))
    scale, bias, mean, variance = (
        low.emit(f"ops.reshape({{}}, {shape})", low.tensor(value)) for value in (scale, bias, mean, variance)
    )
    factor = low.emit(f"{{}} * ops.rsqrt({{}} + {eps!r})", scale, variance)
    low.put(node, "({} - {}) * {} + {}", low.tensor(x), mean, factor, bias)


@lowers("LayerNormalization")
def layer_norm(low: Lowering, node: Node) -> None:
    """Lower LayerNormalization."""
    x, scale, bias = operands(node, 3)
    rank, axis, eps = low.rank(x), attribute(node, "axis"), attribute(node, "epsilon")
    axis %= rank
    sizes = sizes_of(x)[axis:]
    features = low.tensor(x)
    usual = None not in sizes and weight_shape(scale) == sizes and bias is not None and weight_shape(bias) == sizes
    if usual:
        shape = literal(tuple(sizes))
        built = (
            f"nn.LayerNorm({shape}, begin_norm_axis={axis - rank}, begin_params_axis={axis - rank}, epsilon={eps!r}"
            f"{dtype_option(scale)})"
        )
        layer = low.layer(built, {"gamma": scale, "beta": bias})
        if layer is not None:
            low.put(node, f"{layer}({{}})", features)
            return
    normal = _normalised(low, features, tuple(range(axis, rank)), eps)
    result = low.emit("{} * {}", normal, low.operand(scale))
    low.set(node.outputs[0], result if bias is None else low.emit("{} + {}", result, low.operand(bias)))


def _normalised(low: Lowering, x: Var, axes: tuple[int, ...], eps: float) -> Var:
    """Bring mean and variance over some axes to 0 and 1."""
    centred = low.emit(f"{{}} - ops.mean({{}}, {literal(axes)}, True)", x, x)
    spread = low.emit(f"ops.mean(ops.square({{}}), {literal(axes)}, True)", centred)
    return low.emit(f"{{}} * ops.rsqrt({{}} + {eps!r})", centred, spread)


@lowers("InstanceNormalization")
def instance_norm(low: Lowering, node: Node) -> None:
    """Lower InstanceNormalization; MindSpore has its own for a GPU only (2.10)."""
    x, scale, bias = operands(node, 3)
    rank = low.rank(x)
    normal = _normalised(low, low.tensor(x), tuple(range(2, rank)), attribute(node, "epsilon"))
    shape = literal((-1, *[1] * (rank - 2)))
    scale, bias = (low.emit(f"ops.reshape({{}}, {shape})", low.tensor(value)) for value in (scale, bias))
    low.put(node, "{} * {} + {}", normal, scale, bias)


@lowers("PRelu")
def prelu(low: Lowering, node: Node) -> None:
    """Lower PRelu."""
    x, slope = operands(node, 2)
    features = low.tensor(x)
    low.put(node, "ops.relu({}) - {} * ops.relu(-{})", features, low.operand(slope), features)


@lowers("Dropout")
def dropout(low: Lowering, node: Node) -> None:
    """Lower Dropout: a layer of its own, so that the network's training flag tells it when to drop."""
    x, p = operands(node)[0], low.dropped_share(node)
    if p is None or (len(node.outputs) > 1 and node.outputs[1].uses()):
        raise Refusal("its ratio is computed, or its mask is used")
    if p >= 1:
        raise Refusal("a ratio of 1: nothing would be left")
    attributed = low.attribute(f"nn.Dropout(p={p!r})", low.place)
    low.put(node, f"self.{attributed}({{}})", low.tensor(x))


def embedding(low: Lowering, weight: Value, index: Value) -> Var | None:
    """Return the rows of a weight, looked up by a layer; None if it is no whole parameter."""
    if not low.is_parameter(weight) or low.constant(index) is not None:
        return None
    shape = weight_shape(weight)
    if len(shape) != 2:
        return None
    layer = low.layer(f"nn.Embedding({shape[0]}, {shape[1]}{dtype_option(weight)})", {"embedding_table": weight})
    return None if layer is None else low.emit(f"{layer}({{}})", low.tensor(index))
