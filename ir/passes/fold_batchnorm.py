"""BatchNorm folding: an inference-time normalisation becomes part of the layer before it."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import onnx_ir

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"

_EPSILON = 1e-5  # ONNX's default
_OUTPUT_AXIS = {"Conv": 0, "ConvTranspose": 1}


def fold_batchnorm(model: onnx_ir.Model) -> onnx_ir.Model:
    """Return the model with each BatchNormalization folded into the Conv, ConvTranspose or Gemm before it.

    With scale s = gamma / sqrt(variance + epsilon) of each output channel, the weight becomes s * weight and the bias
    s * (bias - mean) + beta, computed in float64 and rounded once. Pruned weights stay exact zeros. The layer keeps its
    name and its weight's name; a layer without a bias gets one named "<node>.bias".

    A normalisation stays where the layer's result also goes elsewhere, where its weight is shared or computed, or where
    something else than such a layer comes before it.

    Source: Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
    Inference", equation 14.

    Args:
        model: The model; it is not changed, and its other weights are shared.

    >>> x = onnx_ir.val("x", onnx_ir.DataType.FLOAT, ["N", 2])
    >>> content = {"w": np.eye(2), "gamma": np.full(2, 3), "beta": np.ones(2), "mean": np.zeros(2), "var": np.ones(2)}
    >>> values = [onnx_ir.val(k, const_value=onnx_ir.tensor(np.float32(a), name=k)) for k, a in content.items()]
    >>> layer = onnx_ir.node("Gemm", [x, values[0]], {"transB": 1}, name="fc")
    >>> norm = onnx_ir.node("BatchNormalization", [layer.outputs[0], *values[1:]], {"epsilon": 0.0}, name="norm")
    >>> graph = onnx_ir.Graph([x], norm.outputs, nodes=[layer, norm], initializers=values, opset_imports={"": 20})
    >>> folded = fold_batchnorm(onnx_ir.Model(graph, ir_version=10)).graph
    >>> [node.name for node in folded], folded.initializers["w"].const_value.numpy()
    (['fc'], array([[3., 0.],
           [0., 3.]], dtype=float32))
    >>> list(folded.initializers)
    ['w', 'fc.bias']
    """
    result = model.clone()
    for node in list(result.graph):
        if node.op_type == "BatchNormalization" and not node.domain:
            _fold(result.graph, node)
    return result


def _fold(graph: onnx_ir.Graph, norm: onnx_ir.Node) -> None:
    """Fold one normalisation in place, where that is possible."""
    between = norm.inputs[0]
    layer = between.producer() if between is not None else None
    affine = [_array(value) for value in norm.inputs[1:]]
    if (
        layer is None
        or between is None
        or layer.op_type not in ("Conv", "ConvTranspose", "Gemm")
        or len(between.uses()) != 1
        or between.is_graph_output()
        or any(array is None or affine[0] is None or array.shape != affine[0].shape for array in affine)
        or ("training_mode" in norm.attributes and norm.attributes["training_mode"].as_int())
    ):
        return
    weight, bias = layer.inputs[1], layer.inputs[2] if len(layer.inputs) > 2 else None
    content, offset = _array(weight), _array(bias)
    if weight is None or content is None or len(weight.uses()) != 1 or weight.is_graph_output():
        return
    gamma, beta, mean, variance = (np.asarray(array, np.float64) for array in affine)
    epsilon = norm.attributes["epsilon"].as_float() if "epsilon" in norm.attributes else _EPSILON
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = gamma / np.sqrt(variance + epsilon)
    if not np.isfinite(scale).all() or (bias is not None and (offset is None or offset.size not in (1, scale.size))):
        return
    per_output = _per_output(layer, scale, content.shape)
    if per_output is None:
        return
    _replace(graph, layer, 1, _scaled(content, per_output), str(weight.name))
    start = np.zeros_like(mean) if offset is None else np.asarray(offset, np.float64).reshape(-1)
    folded = (scale * (start - mean) + beta).astype(content.dtype)
    alone = bias is not None and len(bias.uses()) == 1 and not bias.is_graph_output()
    if len(layer.inputs) < 3:
        layer.resize_inputs(3)
    _replace(graph, layer, 2, folded, str(bias.name) if bias is not None and alone else _unused(graph, layer))
    _bypass(graph, norm)


def _per_output(layer: onnx_ir.Node, scale: NumPyArray, shape: tuple[int, ...]) -> NumPyArray | None:
    """Lay the scales of the output channels along a weight's shape; None where they do not fit."""
    if layer.op_type == "Gemm":
        axis = 0 if "transB" in layer.attributes and layer.attributes["transB"].as_int() else 1
        others = [name for name in ("alpha", "beta") if name in layer.attributes and layer.attributes[name].value != 1]
        if others:
            return None
    else:
        axis = _OUTPUT_AXIS[layer.op_type]
    if layer.op_type == "ConvTranspose":  # [in, out/groups, ...]: each group of inputs has outputs of its own
        groups = layer.attributes["group"].as_int() if "group" in layer.attributes else 1
        if scale.size != groups * shape[1]:
            return None
        rows = np.repeat(scale.reshape(groups, shape[1]), shape[0] // groups, axis=0)
        return rows.reshape(*shape[:2], *(1 for _ in shape[2:]))
    if scale.size != shape[axis]:
        return None
    return scale.reshape([-1 if index == axis else 1 for index in range(len(shape))])


def _scaled(weight: NumPyArray, scale: NumPyArray) -> NumPyArray:
    """Scale a weight; a zero keeps its sign, as -0.0 would no longer count as pruned in a file."""
    scaled = (np.asarray(weight, np.float64) * scale).astype(weight.dtype)
    return np.where(weight == 0, weight, scaled)


def _replace(graph: onnx_ir.Graph, layer: onnx_ir.Node, index: int, array: NumPyArray, name: str) -> None:
    """Give a node another initializer in place, in the position of the one of that name if there is one."""
    array = np.ascontiguousarray(array)
    tensor = onnx_ir.Tensor(array, name=name)
    value = graph.initializers.get(name)
    if value is None:
        value = onnx_ir.Value(name=name)
    value.const_value = tensor
    value.type = onnx_ir.TensorType(tensor.dtype)
    value.shape = onnx_ir.Shape(array.shape)
    if name not in graph.initializers:
        graph.initializers.add(value)
    layer.replace_input_with(index, value)


def _bypass(graph: onnx_ir.Graph, norm: onnx_ir.Node) -> None:
    """Take a normalisation out in place; what it gave is now given, under its name, by the layer before it."""
    source, target = norm.inputs[0], norm.outputs[0]
    assert source is not None
    name, shape, kind = target.name, target.shape, target.type
    operands = list(norm.inputs[1:])
    target.replace_all_uses_with(source, replace_graph_outputs=True)
    graph.remove(norm, safe=True)
    source.name = name
    source.shape = shape if shape is not None else source.shape
    source.type = kind if kind is not None else source.type
    for value in operands:
        if value is None or value.name is None or value.uses() or value.is_graph_output():
            continue
        graph.initializers.pop(value.name, None)


def _unused(graph: onnx_ir.Graph, layer: onnx_ir.Node) -> str:
    """Return a name for the bias of a layer."""
    taken = {value.name for node in graph for value in node.outputs} | {value.name for value in graph.inputs}
    name = wanted = f"{layer.name}.bias"
    number = 1
    while name in graph.initializers or name in taken:
        name, number = f"{wanted}_{number}", number + 1
    return name


def _array(value: onnx_ir.Value | None) -> NumPyArray | None:
    if value is None or not value.is_initializer() or value.is_graph_input() or value.const_value is None:
        return None
    return value.const_value.numpy()
