"""Layers with parameters: real modules under the parameters' names, where these allow it, else functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from onnx_ir import Node, Value
from torch import fx, nn

from mopruning.backends.pytorch.lowering import functions, groups
from mopruning.backends.pytorch.lowering.context import Layer, Lowering
from mopruning.ir.attributes import attribute
from mopruning.ir.lowering import lowers, operands, weight_shape, window_of

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_DECONVOLUTIONS = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_BATCH_NORMS = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
_INSTANCE_NORMS = {3: nn.InstanceNorm1d, 4: nn.InstanceNorm2d, 5: nn.InstanceNorm3d}
_DROPOUTS = {
    ("channels", 3): nn.Dropout1d,
    ("channels", 4): nn.Dropout2d,
    ("channels", 5): nn.Dropout3d,
    ("alpha", 0): nn.AlphaDropout,
    ("alpha channels", 0): nn.FeatureAlphaDropout,
}


@lowers("Conv")
def conv(low: Lowering, node: Node) -> None:
    """Lower Conv; padding that differs between the ends goes first."""
    x, weight, bias = operands(node, 3)
    shape = weight_shape(weight)
    axes = len(shape) - 2
    window = window_of(node, axes)
    strides, dilations = list(window.strides), list(window.dilations)
    features = low.tensor(x)
    padding = list(window.starts)
    if window.starts != window.ends:
        around = [ends[i] for i in reversed(range(axes)) for ends in (window.starts, window.ends)]
        features, padding = low.call(F.pad, features, around), [0] * axes
    group = attribute(node, "group")
    arguments = {"in_channels": shape[1] * group, "out_channels": shape[0], "kernel_size": short(shape[2:])}
    arguments |= _unusual(stride=strides, padding=padding, dilation=dilations, groups=group)
    arguments |= {"bias": False} if bias is None else {}
    tensors = {"weight": weight, "bias": bias}
    result = low.layer(str(node.name), _CONVOLUTIONS[axes - 1], arguments, tensors, features)
    if result is None:
        function = (F.conv1d, F.conv2d, F.conv3d)[axes - 1]
        options = {"stride": strides, "padding": padding, "dilation": dilations, "groups": group}
        result = low.call(function, features, *_tensors(low, weight, bias), name=node.name, **options)
    low.set(node.outputs[0], result)


@lowers("ConvTranspose")
def conv_transpose(low: Lowering, node: Node) -> None:
    """Lower ConvTranspose; what is cut off by different amounts at the ends is cut off afterwards."""
    x, weight, bias = operands(node, 3)
    shape = weight_shape(weight)
    axes = len(shape) - 2
    window = window_of(node, axes)
    strides, dilations = list(window.strides), list(window.dilations)
    extra = attribute(node, "output_padding", [0] * axes)
    group = attribute(node, "group")
    features = low.tensor(x)
    result = None
    plain = all(more < max(s, d) for more, s, d in zip(extra, strides, dilations, strict=True))
    if plain and window.starts == window.ends:
        arguments = {"in_channels": shape[0], "out_channels": shape[1] * group, "kernel_size": short(shape[2:])}
        arguments |= _unusual(stride=strides, padding=window.starts, output_padding=extra, groups=group)
        arguments |= _unusual(dilation=dilations) | ({"bias": False} if bias is None else {})
        tensors = {"weight": weight, "bias": bias}
        result = low.layer(str(node.name), _DECONVOLUTIONS[axes - 1], arguments, tensors, features)
    if result is None:
        crop = [n for i in reversed(range(axes)) for n in (window.starts[i], window.ends[i] - extra[i])]
        own, added = _tensors(low, weight, bias)
        result = low.call(
            functions.deconvolution, features, own, added, strides, dilations, group, crop, name=node.name
        )
    low.set(node.outputs[0], result)


@lowers("Gemm")
def gemm(low: Lowering, node: Node) -> None:
    """Lower Gemm: a dense layer on two axes."""
    x, weight, bias = operands(node, 3)
    flat = bias is None or len(weight_shape(bias)) == 1
    canonical = attribute(node, "transB") == 1
    if canonical and flat:
        result = _linear(low, str(node.name), low.tensor(x), weight, bias)
    else:
        own, added = _tensors(low, weight, bias)
        turned = low.method("t", own) if canonical else own
        result = low.call(torch.matmul, low.tensor(x), turned, name=node.name)
        result = result if added is None else low.call(torch.add, result, added)
    low.set(node.outputs[0], result)


@lowers("MatMul")
def matmul(low: Lowering, node: Node) -> None:
    """Lower MatMul; with the Transpose of a weight, and an Add of its bias behind it, it is a dense layer."""
    x, right = (value for value in node.inputs if value is not None)
    weight = low.dense_weight(right)
    if weight is None:
        low.set(node.outputs[0], low.call(torch.matmul, low.tensor(x), low.tensor(right), name=node.name))
        return
    add, bias = low.dense_bias(node.outputs[0], weight_shape(weight)[0])
    result = _linear(low, str(node.name), low.tensor(x), weight, bias)
    low.set(node.outputs[0], result)
    if add is not None:
        low.set(add.outputs[0], result)
        low.done.add(id(add))


@lowers("BatchNormalization")
def batch_norm(low: Lowering, node: Node) -> None:
    """Lower BatchNormalization: in training it normalises by the batch and updates the running statistics."""
    x, scale, bias, mean, variance = operands(node, 5)
    numbers = [low.constant(value) if value.is_initializer() else None for value in (scale, bias)]
    plain = numbers[0] is not None and numbers[1] is not None and (numbers[0] == 1).all() and not numbers[1].any()
    path = str(mean.name).rpartition(".")[0]
    momentum = round(1.0 - attribute(node, "momentum"), 9)  # free of the rounding of 1 - 0.9
    arguments: dict[str, Any] = {
        "num_features": weight_shape(mean)[0],
        "eps": attribute(node, "epsilon"),
        "momentum": None if path in low.notes.cumulative else momentum,
        **({"affine": False} if plain else {}),
    }
    tensors = {
        "weight": None if plain else scale,
        "bias": None if plain else bias,
        "running_mean": mean,
        "running_var": variance,
    }
    features = low.tensor(x)
    if not (mean.is_initializer() and variance.is_initializer()):
        given = [low.tensor(value) for value in (scale, bias, mean, variance)]
        low.set(node.outputs[0], low.call(functions.normalised, features, *given, arguments["eps"], name=node.name))
        return
    result = low.layer(str(node.name), _BATCH_NORMS[low.rank(x)], arguments, tensors, features)
    if result is not None:
        _count_batches(low, str(result.target))
    else:
        momentum = arguments["momentum"] or 0.1
        kept = {"eps": arguments["eps"], "momentum": momentum}
        given = [low.tensor(value) for value in (scale, bias, mean, variance) if value is not None]
        module, layer = functions.RunningNorm(**kept), Layer(functions.RunningNorm, kept)
        result = low.call_module(str(node.name), module, layer, features, *given)
    low.set(node.outputs[0], result)


@lowers("LayerNormalization")
def layer_norm(low: Lowering, node: Node) -> None:
    """Lower LayerNormalization."""
    x, scale, bias = operands(node, 3)
    rank = low.rank(x)
    axis = attribute(node, "axis") % rank
    shape = tuple(weight_shape(scale))
    epsilon = attribute(node, "epsilon")
    features = low.tensor(x)
    if len(shape) != rank - axis or (bias is not None and tuple(weight_shape(bias)) != shape):
        shape = tuple(size for size in x.shape[axis:])
        result = low.call(F.layer_norm, features, shape, None, None, epsilon, name=node.name)
        result = low.call(torch.mul, result, low.tensor(scale))
        result = result if bias is None else low.call(torch.add, result, low.tensor(bias))
        low.set(node.outputs[0], result)
        return
    arguments = {"normalized_shape": shape, "eps": epsilon} | ({"bias": False} if bias is None else {})
    found = low.layer(str(node.name), nn.LayerNorm, arguments, {"weight": scale, "bias": bias}, features)
    if found is None:
        own, added = _tensors(low, scale, bias)
        ones = low.constant(scale) if scale.is_initializer() else None
        if ones is not None and (ones == 1).all():
            own = None
        found = low.call(F.layer_norm, features, shape, own, added, epsilon, name=node.name)
    low.set(node.outputs[0], found)


@lowers("InstanceNormalization")
def instance_norm(low: Lowering, node: Node) -> None:
    """Lower InstanceNormalization."""
    if groups.group_norm(low, node):
        return
    x, scale, bias = operands(node, 3)
    epsilon = attribute(node, "epsilon")
    features = low.tensor(x)
    arguments = {"num_features": weight_shape(scale)[0], "eps": epsilon, "affine": True}
    kind = _INSTANCE_NORMS.get(low.rank(x))
    result = None
    if kind is not None:
        result = low.layer(str(node.name), kind, arguments, {"weight": scale, "bias": bias}, features)
    if result is None:
        own, added = _tensors(low, scale, bias)
        options = {"weight": own, "bias": added, "eps": epsilon}
        result = low.call(F.instance_norm, features, name=node.name, **options)
    low.set(node.outputs[0], result)


@lowers("Dropout")
def dropout(low: Lowering, node: Node) -> None:
    """Lower Dropout: it drops in training."""
    x, share = operands(node)[0], low.dropped_share(node)
    share = 0.5 if share is None else share
    what = low.notes.dropouts.get(str(node.name), "")
    rank = low.rank(x) if what == "channels" else 0
    kind = _DROPOUTS.get((what, rank), nn.Dropout)
    layer = Layer(kind, {"p": share})
    low.set(node.outputs[0], low.call_module(str(node.name), kind(p=share), layer, low.tensor(x)))


@lowers("PRelu")
def prelu(low: Lowering, node: Node) -> None:
    """Lower PRelu: a module where the slopes are spread over the channels, as nn.PReLU does."""
    x, slope = operands(node, 2)
    features = low.tensor(x)
    weight = low.channel_slopes(node)
    result = None
    if weight is not None:
        arguments = {"num_parameters": weight_shape(weight)[0]}
        result = low.layer(str(node.name), nn.PReLU, arguments, {"weight": weight}, features)
    if result is None:
        negative = low.call(torch.mul, low.call(torch.clamp, features, max=0.0), low.tensor(slope))
        result = low.call(torch.add, low.call(F.relu, features), negative, name=node.name)
    low.set(node.outputs[0], result)


def embedding(low: Lowering, node: Node, table: Value, index: Value) -> fx.Node | None:
    """Return the call of an nn.Embedding for a Gather of rows of a weight; None if it is something else."""
    if not low.is_parameter(table) or len(weight_shape(table)) != 2 or low.constant(index) is not None:
        return None
    rows, features = weight_shape(table)
    arguments = {"num_embeddings": rows, "embedding_dim": features}
    padding = low.notes.paddings.get(str(table.name).rpartition(".")[0])
    if padding is not None and padding < rows:
        arguments["padding_idx"] = padding
    return low.layer(str(node.name), nn.Embedding, arguments, {"weight": table}, low.tensor(index))


def _linear(low: Lowering, name: str, x: fx.Node, weight: Value | None, bias: Value | None) -> fx.Node:
    outputs, inputs = weight_shape(weight)
    arguments = {"in_features": inputs, "out_features": outputs} | ({"bias": False} if bias is None else {})
    result = low.layer(name, nn.Linear, arguments, {"weight": weight, "bias": bias}, x)
    return low.call(F.linear, x, *_tensors(low, weight, bias), name=name) if result is None else result


def _count_batches(low: Lowering, path: str) -> None:
    """Give a batch normalisation the counter that a network from PyTorch has; others have none in the state dict."""
    module = low.root.get_submodule(path)
    assert isinstance(module, nn.modules.batchnorm._BatchNorm)
    seen = low.notes.batches.get(path, low.notes.batches.get("*"))
    if seen is not None or path in low.notes.cumulative:
        module.num_batches_tracked = torch.tensor(seen or 0)
    else:
        module.num_batches_tracked = None
        module._version = 1  # that of states without a counter: PyTorch's own networks load them
        hooked: Any = module
        if not module._load_state_dict_pre_hooks:
            hooked.register_load_state_dict_pre_hook(drop_counter)


def drop_counter(_module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Remove in place the counter that `load_state_dict` makes up or that a network from PyTorch brings."""
    state.pop(f"{prefix}num_batches_tracked", None)


def short(numbers: Sequence[int]) -> int | tuple[int, ...]:
    """Return one number where all are the same, as people write it."""
    return numbers[0] if len(set(numbers)) == 1 else tuple(numbers)


def _unusual(**numbers: Sequence[int] | int) -> dict[str, Any]:
    """Return the arguments of a convolution that differ from PyTorch's defaults."""
    usual = {"padding": 0, "output_padding": 0}
    values = {name: value if isinstance(value, int) else short(value) for name, value in numbers.items()}
    return {name: value for name, value in values.items() if value != usual.get(name, 1)}


def _tensors(low: Lowering, *values: Value | None) -> list[fx.Node | None]:
    return [None if value is None else low.tensor(value) for value in values]
