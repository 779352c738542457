"""Nodes of an ONNX file as the profile has them: with names, in inference form, reading initializers themselves."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx
import onnx_ir
from onnx_ir import Graph, Node, Value

from mopruning.ir.operators import OPSET


def name_nodes(graph: Graph) -> None:
    """Give each node a name of its own, in place: an unnamed one that of its module, as its weight says, or a number.

    >>> x, w = onnx_ir.val("x", "FLOAT", ["N", 3, 8, 8]), onnx_ir.Value(name="features.0.weight")
    >>> w.const_value = onnx_ir.tensor([[[[0.5]], [[0.5]], [[0.5]]]])
    >>> conv = onnx_ir.node("Conv", [x, w], name="")
    >>> relu = onnx_ir.node("Relu", conv.outputs, name="")
    >>> graph = onnx_ir.Graph([x], relu.outputs, nodes=[conv, relu], initializers=[w], opset_imports={"": 20})
    >>> name_nodes(graph)
    >>> [node.name for node in graph]
    ['features.0', 'relu_1']
    """
    taken = {node.name for node in graph if node.name}
    seen: set[str | None] = set()
    for index, node in enumerate(graph):
        if node.name and node.name not in seen:
            seen.add(node.name)
            continue
        wanted = node.name or _module(node) or f"{node.op_type.lower()}_{index}"
        name, number = wanted, 0
        while name in taken:
            number += 1
            name = f"{wanted}_{number}"
        node.name = name
        taken.add(name)
        seen.add(name)


def name_constants(graph: Graph, kept: Collection[str]) -> None:
    """Make constants that the conversion added initializers called ``<node>.<what>``, in place.

    Args:
        graph: A graph whose nodes have names.
        kept: Names of the initializers that the file had, which stay.
    """
    for node in list(graph):
        if node.op_type == "Constant" and not node.domain and "value" in node.attributes:
            constant = node.outputs[0]
            if constant.is_graph_output() or not constant.uses():
                continue
            tensor = node.attributes["value"].as_tensor()
            value = _initializer(graph, _purpose(constant), tensor)
            constant.replace_all_uses_with(value)
            graph.remove(node, safe=True)
    for name, value in list(graph.initializers.items()):
        if name not in kept and value.uses() and name != _purpose(value) and value.const_value is not None:
            value.replace_all_uses_with(_initializer(graph, _purpose(value), value.const_value))
            del graph.initializers[name]


def join_identities(graph: Graph) -> None:
    """Let nodes read initializers themselves where a node passes one on, in place.

    Exporters store equal weights once and give each further one as an Identity under its own name: it gets that name
    back, and the same content.
    """
    for node in list(graph):
        source = node.inputs[0] if node.op_type == "Identity" and not node.domain and node.inputs else None
        if source is None or not source.is_initializer() or source.const_value is None:
            continue
        passed_on = node.outputs[0]
        if passed_on.is_graph_output():
            continue
        tensor, name = source.const_value, str(passed_on.name)
        users = list(passed_on.uses())
        graph.remove(node, safe=False)
        passed_on.name = None  # so that the initializer can have it
        value = _initializer(graph, name, tensor)
        for use in users:
            use.node.replace_input_with(use.idx, value)


def inference_form(graph: Graph) -> None:
    """Drop, in place, what nodes have for training only and nobody reads: statistics, masks, a false training_mode."""
    for node in graph:
        if node.domain or node.op_type not in ("BatchNormalization", "Dropout", "MaxPool", "LayerNormalization"):
            continue
        count = len(node.outputs)
        while count > 1 and not node.outputs[count - 1].uses() and not node.outputs[count - 1].is_graph_output():
            count -= 1
        node.resize_outputs(count)
        if node.op_type == "Dropout":
            _dropout(graph, node)


def short_numbers(graph: Graph) -> None:
    """Give float attributes the shortest decimals that mean the same in the file's float32, in place.

    An epsilon of 1e-5 comes out of a file as 9.999999747378752e-06, which no framework takes for its default.

    >>> x = onnx_ir.val("x", onnx_ir.DataType.FLOAT, ["N", 3])
    >>> node = onnx_ir.node("LeakyRelu", [x], {"alpha": 0.10000000149011612}, name="relu")
    >>> short_numbers(onnx_ir.Graph([x], node.outputs, nodes=[node], opset_imports={"": 20}))
    >>> node.attributes["alpha"].value
    0.1
    """
    for node in graph:
        for name, attribute in node.attributes.items():
            if attribute.type == onnx_ir.AttributeType.FLOAT and not attribute.is_ref():
                short = float(str(np.float32(attribute.as_float())))
                node.attributes[name] = onnx_ir.AttrFloat32(name, short)


def _dropout(graph: Graph, node: Node) -> None:
    training = node.inputs[2] if len(node.inputs) > 2 else None
    if training is not None and training.const_value is not None and not training.const_value.numpy().any():
        node.resize_inputs(2)
    ratio = node.inputs[1] if len(node.inputs) > 1 else None
    wanted = f"{node.name}.ratio"
    if ratio is not None and ratio.const_value is not None and ratio.is_initializer() and ratio.name != wanted:
        node.replace_input_with(1, _initializer(graph, wanted, ratio.const_value))
        if not ratio.uses() and not ratio.is_graph_output():
            del graph.initializers[str(ratio.name)]


def _module(node: Node) -> str:
    """Return the module that a node's parameter says it is: "layer1.conv" for "layer1.conv.weight"."""
    value = node.inputs[1] if len(node.inputs) > 1 else None
    if value is None or value.const_value is None or value.const_value.size < 2:
        return ""
    return str(value.name).rpartition(".")[0]


def _purpose(constant: Value) -> str:
    """Return ``<node>.<what>`` for a constant, after the first node that reads it."""
    use = min(constant.uses(), key=lambda use: (str(use.node.name), use.idx))
    schema = onnx.defs.get_schema(use.node.op_type, OPSET)
    return f"{use.node.name}.{schema.inputs[min(use.idx, len(schema.inputs) - 1)].name}"


def _initializer(graph: Graph, name: str, tensor: onnx_ir.TensorProtocol) -> Value:
    """Add a constant under a name, in place; if the name is taken, under one with a number."""
    own, number = name, 0
    taken = {value.name for node in graph for value in node.outputs} | {value.name for value in graph.inputs}
    while own in graph.initializers or own in taken:
        number += 1
        own = f"{name}_{number}"
    value = Value(name=own, shape=onnx_ir.Shape(tensor.shape.numpy()), type=onnx_ir.TensorType(tensor.dtype))
    value.const_value = onnx_ir.Tensor(tensor.numpy(), tensor.dtype, name=own)
    graph.register_initializer(value)
    return value
