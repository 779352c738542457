"""Graphs as compact JSON text, without their weights: what a .mopir file keeps besides its tensors.

    {"ir_version": 10, "opset": 20, "name": "net", "producer": ["mopruning", "0.1.0"], "metadata": {text: text},
     "inputs": [VALUE, ...], "outputs": [name, ...], "nodes": [NODE, ...]}

    VALUE      [name, type, shape]: type as onnx_ir spells it in short ("f32", "i64", "bf16") or null; shape a list of
               numbers, names of open sizes and null, or null where even the rank is unknown
    NODE       [operator, [input, ...], [VALUE, ...], {ATTRIBUTE}], and after these its name unless it is that of its
               first output; "" is an input or output that is left out
    ATTRIBUTE  name: 1 (INT), 1.0 (FLOAT), "text" (STRING), or a list of these that is not empty; anything else by its
               type: {"ints": []}, {"float": "inf"}, {"floats": [1.0, "nan"]},
               {"tensor": [type, shape, base64 of little-endian bytes]}

Nodes stand in an order in which every value is made before it is used. Initializers are the tensors of the file, by
name. Documentation strings and the metadata of nodes and values, such as the stack traces of an exporter, are left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeAlias

import onnx_ir
from onnx_ir import Value

from mopruning.errors import FormatError
from mopruning.ir import attribute_text
from mopruning.ir.json_text import compact, expect, items, parse, sizes, texts

Tensors: TypeAlias = Mapping[str, onnx_ir.TensorProtocol]

_KEYS = {"ir_version", "opset", "name", "producer", "metadata", "inputs", "outputs", "nodes"}
_SIZE = re.compile(r"(?!.*(\*\*|<<))[\w .+\-*/%(),]{1,100}")  # of an open axis: a name or a term, no power in it


# ---- graph -> text


def to_text(model: onnx_ir.Model, metadata: Mapping[str, str] | None = None) -> str:
    """Write a model's graph as text.

    Args:
        model: The model; its weights are not read.
        metadata: What to write as the model's metadata; its own by default.

    Raises:
        FormatError: If it has what the format does not: functions, subgraphs, operators of other domains, nodes out of
            order, names given twice.

    >>> x = onnx_ir.val("x", onnx_ir.DataType.FLOAT, ["N", 3])
    >>> y = onnx_ir.val("y", onnx_ir.DataType.FLOAT, ["N", 3])
    >>> node = onnx_ir.node("Relu", [x], outputs=[y], name="relu")
    >>> graph = onnx_ir.Graph([x], [y], nodes=[node], opset_imports={"": 20}, name="net")
    >>> print(to_text(onnx_ir.Model(graph, ir_version=10)).partition('"inputs":')[2])
    [["x","f32",["N",3]]],"outputs":["y"],"nodes":[["Relu",["x"],[["y","f32",["N",3]]],{},"relu"]]}
    """
    graph = model.graph
    if model.functions:
        raise FormatError(f"model {graph.name!r} has functions of its own, which .mopir cannot hold: inline them")
    names = _Names(graph)
    for value in (*graph.inputs, *(one for one in graph.initializers.values() if not one.is_graph_input())):
        names.define(value)
    if "" not in model.opset_imports:
        raise FormatError(f"model {graph.name!r} does not say which version of ONNX's operators it uses")
    content: dict[str, Any] = {
        "ir_version": model.ir_version,
        "opset": model.opset_imports[""],
        "name": graph.name or "",
        "producer": [model.producer_name or "", model.producer_version or ""],
        "metadata": dict(model.metadata_props if metadata is None else metadata),
        "inputs": [_value_row(value) for value in graph.inputs],
        "outputs": None,
        "nodes": [_node_row(node, names) for node in graph],
    }
    content["outputs"] = [names.use(value, "the graph") for value in graph.outputs]
    return compact(content)


class _Names:
    """The names of values, checked: each given once, and before it is used."""

    def __init__(self, graph: onnx_ir.Graph) -> None:
        self.graph = graph
        self.values: dict[str, Value] = {}

    def define(self, value: Value) -> None:
        if not value.name:
            raise FormatError(f"model {self.graph.name!r}: an input or initializer has no name")
        if value.name in self.values:
            raise FormatError(f"model {self.graph.name!r}: two values are called {value.name!r}")
        self.values[value.name] = value

    def use(self, value: Value, by: str) -> str:
        if value.name is None or self.values.get(value.name) is not value:
            raise FormatError(f"model {self.graph.name!r}: {by} uses {value.name!r} before it is made")
        return value.name


def _node_row(node: onnx_ir.Node, names: _Names) -> list[Any]:
    where = f"node {node.name!r} ({node.op_type})"
    if node.domain or node.overload:
        raise FormatError(f"{where}: .mopir holds ONNX's own operators only, this one is of {node.domain!r}")
    inputs = ["" if value is None else names.use(value, where) for value in node.inputs]
    for value in node.outputs:
        if value.name:
            names.define(value)
    try:
        attributes = {name: attribute_text.to_json(attribute) for name, attribute in node.attributes.items()}
    except FormatError as error:
        raise FormatError(f"{where}: {error}") from None
    row = [node.op_type, inputs, [_value_row(value) for value in node.outputs], attributes]
    return row if node.outputs and node.name == node.outputs[0].name else [*row, node.name or ""]


def _value_row(value: Value) -> list[Any]:
    dtype = None
    if value.type is not None:
        if not isinstance(value.type, onnx_ir.TensorType):
            raise FormatError(f"value {value.name!r} is a {value.type}; .mopir holds tensors only")
        dtype = value.type.dtype.short_name()
    shape = None if value.shape is None else [_size_row(size) for size in value.shape]
    return [value.name or "", dtype, shape]


def _size_row(size: int | onnx_ir.SymbolicDim) -> int | str | None:
    """Write the size of an axis; a term that `_SIZE` does not admit becomes an unknown size."""
    if isinstance(size, int):
        return size
    return size.value if size.value is not None and _SIZE.fullmatch(size.value) else None


# ---- text -> graph


def from_text(text: str, tensors: Tensors) -> onnx_ir.Model:
    """Read a model's graph; nothing in the text is trusted.

    Args:
        text: What `to_text` wrote.
        tensors: The initializers by name.

    Raises:
        FormatError: If the text is anything else; the message says what was expected where.

    >>> text = '{"ir_version":10,"opset":20,"name":"net","producer":["",""],"metadata":{},"inputs":[["x","f32",["N"]]],'
    >>> text += '"outputs":["y"],"nodes":[["Relu",["x"],[["y","f32",["N"]]],{},"relu"]]}'
    >>> from_text(text, {}).graph.node(0).op_type
    'Relu'
    """
    content = parse(text)
    expect(isinstance(content, dict) and content.keys() == _KEYS, "the graph", f"an object of {sorted(_KEYS)}", content)
    for key in ("ir_version", "opset"):
        expect(type(content[key]) is int and 0 < content[key] < 1000, key, "a version", content[key])
    expect(isinstance(content["name"], str), "name", "text", content["name"])
    producer, metadata = texts(content["producer"], "producer"), content["metadata"]
    expect(len(producer) == 2, "producer", "name and version", producer)
    expect(isinstance(metadata, dict), "metadata", "an object", metadata)
    texts(list(metadata.values()), "metadata")

    values = {name: _initializer(name, tensor) for name, tensor in tensors.items()}
    initializers = list(values.values())
    inputs: dict[str, Value] = {}
    for row in items(content["inputs"], "inputs"):
        made = _value(row, "inputs")
        name = str(made.name)
        expect(bool(name) and name not in inputs, "inputs", "names, each given once", name)
        inputs[name] = values.setdefault(name, made)
    nodes = [_node(row, f"node {index}", values) for index, row in enumerate(items(content["nodes"], "nodes"))]
    outputs = texts(content["outputs"], "outputs")
    expect(all(name in values for name in outputs), "outputs", "values that are made", outputs)
    graph = onnx_ir.Graph(
        list(inputs.values()),
        [values[name] for name in outputs],
        nodes=nodes,
        initializers=initializers,
        opset_imports={"": content["opset"]},
        name=content["name"],
    )
    return onnx_ir.Model(
        graph,
        ir_version=content["ir_version"],
        producer_name=producer[0] or None,
        producer_version=producer[1] or None,
        metadata_props=dict(metadata),
    )


def _initializer(name: str, tensor: onnx_ir.TensorProtocol) -> Value:
    shape = onnx_ir.Shape(tensor.shape.numpy())
    return Value(name=name, shape=shape, type=onnx_ir.TensorType(tensor.dtype), const_value=tensor)


def _node(row: Any, where: str, values: dict[str, Value]) -> onnx_ir.Node:
    """Read a node and add its outputs to `values`."""
    expect(isinstance(row, list) and len(row) in (4, 5), where, "operator, inputs, outputs, attributes", row)
    operator, inputs, outputs, attributes = row[:4]
    expect(isinstance(operator, str) and bool(re.fullmatch(r"\w+", operator)), where, "an operator", operator)
    where = f"{where} ({operator})"
    names = texts(inputs, f"{where}, inputs")
    unknown = [name for name in names if name and name not in values]
    expect(not unknown, f"{where}, inputs", "values made before", unknown)
    made = [_value(one, f"{where}, outputs") for one in items(outputs, f"{where}, outputs")]
    for value in made:
        expect(not value.name or value.name not in values, f"{where}, outputs", "names given once", value.name)
        if value.name:
            values[value.name] = value
    expect(isinstance(attributes, dict), f"{where}, attributes", "an object", attributes)
    name = row[4] if len(row) == 5 else made[0].name if made else None
    expect(isinstance(name, str), where, "a name", name)
    return onnx_ir.Node(
        "",
        operator,
        [values[one] if one else None for one in names],
        [attribute_text.from_json(key, one, f"{where}, attribute {key!r}") for key, one in attributes.items()],
        outputs=made,
        name=name,
    )


def _value(row: Any, where: str) -> Value:
    expect(isinstance(row, list) and len(row) == 3 and isinstance(row[0], str), where, "name, type and shape", row)
    name, dtype, shape = row
    if shape is not None:
        open_sizes = [size for size in sizes(shape, where, names=True) if isinstance(size, str)]
        expect(all(_SIZE.fullmatch(size) for size in open_sizes), where, "names of open sizes", open_sizes)
    return Value(
        name=name,
        type=None if dtype is None else onnx_ir.TensorType(attribute_text.dtype_of(dtype, where)),
        shape=None if shape is None else onnx_ir.Shape(shape),
    )
