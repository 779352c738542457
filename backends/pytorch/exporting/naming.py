"""Names of nodes, values and constants: the path of the module they come from."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import onnx
import onnx_ir
from onnx_ir import Model, Node, Value

from mopruning.backends.pytorch.exporting.spelling import PART, PATH, SOURCE
from mopruning.ir.operators import OPSET

_SCOPES = "pkg.torch.onnx.name_scopes"  # metadata of torch.onnx: paths of the modules around a node, then its own name
_SMALL = 64  # numbers; a larger constant is shared by the nodes that use it
_OPERANDS = {"A": "value", "B": "value", "X": "input", "data": "input", "data_0": "input", "inputs": "input"}


def locate(model: Model) -> None:
    """Note in place, on each node, the path of the module it comes from."""
    for node in model.graph:
        scopes: Sequence[str] = re.findall(r"'([^']*)'", node.metadata_props.get(_SCOPES, ""))[:-1]
        node.meta[PATH] = scopes[-1] if scopes and not scopes[-1].startswith("_empty") else ""


def rename(model: Model, outputs: Sequence[str]) -> None:
    """Name everything in place; constants become initializers called ``<node>.<what>``."""
    graph = model.graph
    taken = set(graph.initializers)
    for value in graph.inputs:
        value.name = _unique(str(value.name), taken)
    names = _node_names([node for node in graph if node.op_type != "Constant"])
    for node in graph:
        if node.op_type != "Constant":
            node.name = _unique(names[id(node)], taken)
    _place_constants(model, taken)
    for node in graph:
        _name_outputs(node, taken)
    for value, name in zip(graph.outputs, outputs, strict=True):
        if value.name != name:
            value.name = _unique(name, taken)


def _unique(name: str, taken: set[str]) -> str:
    """Return a name that is not taken, numbered if need be, and take it."""
    own, number = name, 0
    while own in taken:
        number += 1
        own = f"{name}_{number}"
    taken.add(own)
    return own


def _node_names(nodes: Sequence[Node]) -> dict[int, str]:
    """Return by `id` the name each node would like."""
    operators: dict[str, set[str]] = defaultdict(set)  # without those that play a lesser part in their layer
    containers = {""}
    for node in nodes:
        path = node.meta.get(PATH, "")
        if not node.meta.get(PART):
            operators[path].add(node.op_type)
        parts = path.split(".")
        containers |= {".".join(parts[:i]) for i in range(1, len(parts))}
    return {id(node): _wish(node, containers, operators) for node in nodes}


def _wish(node: Node, containers: set[str], operators: dict[str, set[str]]) -> str:
    path, part = node.meta.get(PATH, ""), node.meta.get(PART)
    if path not in containers and not part and len(operators[path]) == 1:
        return str(path)
    own = part or re.sub(r"(?<=[a-z])(?=[A-Z])", "_", node.op_type).lower()
    return f"{path}.{own}" if path else str(own)


def _place_constants(model: Model, taken: set[str]) -> None:
    """Turn constants into initializers, a small one of its own for every node that uses it."""
    graph = model.graph
    shared: dict[int, Value] = {}
    old = [value for value in graph.initializers.values() if SOURCE not in value.meta]
    for node in list(graph):
        if node.op_type == "Constant":
            continue
        for index, value in enumerate(node.inputs):
            tensor = None if value is None or SOURCE in value.meta else _content(value)
            if tensor is None or value is None:
                continue
            new = shared.get(id(value)) if tensor.size > _SMALL else None
            if new is None:
                new = _initializer(_unique(f"{node.name}.{_operand(node, index)}", taken), tensor)
                graph.initializers.add(new)
                shared[id(value)] = new
            node.replace_input_with(index, new)
    for index, value in enumerate(graph.outputs):
        tensor = None if SOURCE in value.meta else _content(value)
        if tensor is not None:
            new = _initializer(_unique("constant", taken), tensor)
            graph.initializers.add(new)
            graph.outputs[index] = new
    for value in old:
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[str(value.name)]
    for node in list(graph):
        if node.op_type == "Constant":
            graph.remove(node, safe=True)


def _content(value: Value) -> onnx_ir.TensorProtocol | None:
    if value.is_initializer():
        return value.const_value
    node = value.producer()
    if node is None or node.op_type != "Constant":
        return None
    (attribute,) = node.attributes.values()
    if attribute.name == "value":
        return attribute.as_tensor()
    dtype = onnx_ir.DataType.FLOAT if "float" in attribute.name else onnx_ir.DataType.INT64
    content: Any = attribute.value
    return onnx_ir.tensor(content, dtype=dtype)


def _initializer(name: str, tensor: onnx_ir.TensorProtocol) -> Value:
    own = onnx_ir.Tensor(tensor.numpy(), tensor.dtype, name=name)
    value = Value(name=name, type=onnx_ir.TensorType(tensor.dtype), const_value=own)
    value.shape = onnx_ir.Shape(own.shape)
    return value


def _operand(node: Node, index: int) -> str:
    """Return what an operator calls one of its inputs."""
    formal = onnx.defs.get_schema(node.op_type, OPSET).inputs
    name = formal[min(index, len(formal) - 1)].name
    if len(formal) == 1:
        return f"{_OPERANDS.get(name, name.lower())}{index}"
    return "bias" if name == "B" and len(formal) > 2 else _OPERANDS.get(name, name.lower())


def _name_outputs(node: Node, taken: set[str]) -> None:
    formal = onnx.defs.get_schema(node.op_type, OPSET).outputs
    optional = onnx.defs.OpSchema.FormalParameterOption.Optional
    while (
        len(node.outputs) > 1
        and formal[min(len(node.outputs), len(formal)) - 1].option == optional
        and not (node.outputs[-1].uses() or node.outputs[-1].is_graph_output())
    ):
        node.resize_outputs(len(node.outputs) - 1)
    if len(node.outputs) == 1:
        node.outputs[0].name = node.name
        return
    for index, value in enumerate(node.outputs):
        value.name = _unique(f"{node.name}.{index}", taken)
