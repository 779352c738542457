"""Whether a model keeps to the operator profile, and what is in it, as text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import onnx
import onnx_ir

from mopruning.errors import FormatError
from mopruning.ir.dtypes import clashes, dtype_of, schema_of
from mopruning.ir.operators import DTYPES, MANY, OPERATORS, OPSET, Operator
from mopruning.ir.parameters import parameters
from mopruning.ir.passes.shapes import ShapeError, infer_shapes
from mopruning.ir.table import aligned

_CONSTANT = "a constant is an initializer in this profile: run mopruning.ir.passes.fold_constants first"
_ACTIVATIONS = {"LSTM": ("sigmoid", "tanh", "tanh"), "GRU": ("sigmoid", "tanh")}


@dataclass(frozen=True)
class Problem:
    """One thing that does not fit the profile.

    Args:
        node: Name of the node, or "" where the graph as a whole is meant.
        operator: The node's operator, or "".
        why: What is wrong with it.
    """

    node: str
    operator: str
    why: str

    def __str__(self) -> str:
        return f"node {self.node!r} ({self.operator}): {self.why}" if self.operator else f"graph: {self.why}"


class UnsupportedOperators(FormatError):  # noqa: N818 - it lists operators, and is an error by its base
    """A model outside the operator profile, or beyond a framework; the message lists everything that is wrong with it.

    Args:
        name: Name of the model.
        problems: Everything that was found.
        reason: What the problems mean for the model.
    """

    def __init__(
        self, name: str, problems: tuple[Problem, ...], reason: str = "is outside the operator profile"
    ) -> None:
        self.problems = problems
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        lines = "".join(f"\n  {problem}" for problem in problems)
        super().__init__(f"model {name!r} {reason}, {count}:{lines}")


def validate(model: onnx_ir.Model) -> None:
    """Check that a model keeps to the operator profile of `mopruning.ir.operators`.

    Checked are the version of the operator set; each node's domain, operator, numbers of inputs and outputs, attributes
    and their types; the absence of subgraphs and functions; that every value is given once and before it is used, that
    names are there and unique, that initializers have content, and that types agree. Shapes are checked by
    `mopruning.ir.passes.infer_shapes`.

    Args:
        model: The model; it is not changed.

    Raises:
        UnsupportedOperators: If anything is wrong; `problems` holds all of it.

    >>> x = onnx_ir.val("x", onnx_ir.DataType.FLOAT, ["N", 3])
    >>> node = onnx_ir.node("Einsum", [x], {"equation": "ij->ji"}, name="swap")
    >>> graph = onnx_ir.Graph([x], node.outputs, nodes=[node], opset_imports={"": 20}, name="net")
    >>> validate(onnx_ir.Model(graph, ir_version=10))
    Traceback (most recent call last):
    ...
    mopruning.ir.validation.UnsupportedOperators: model 'net' is outside the operator profile, 1 problem:
      node 'swap' (Einsum): this operator is not in the profile
    """
    problems = [*_graph_problems(model), *_flow_problems(model.graph)]
    problems += [Problem(str(node.name), node.op_type, why) for node in model.graph for why in _node_problems(node)]
    problems += [Problem(str(node.name), node.op_type, why) for node, why in clashes(model.graph)]
    if problems:
        raise UnsupportedOperators(model.graph.name or "", tuple(problems))


def _graph_problems(model: onnx_ir.Model) -> Iterator[Problem]:
    graph = model.graph
    opset = model.opset_imports.get("")
    if opset != OPSET:
        yield Problem("", "", f"expected opset {OPSET}, got {opset}; convert the model to opset {OPSET} first")
    if model.functions:
        yield Problem("", "", f"has {len(model.functions)} functions of its own; inline them")
    names = Counter(node.name or "" for node in graph)
    for name, count in names.items():
        if not name:
            yield Problem("", "", f"{count} nodes have no name: {_some([node for node in graph if not node.name])}")
        elif count > 1:
            yield Problem("", "", f"{count} nodes are called {name!r}")
    for name, value in graph.initializers.items():
        tensor = value.const_value
        if tensor is None:
            yield Problem("", "", f"initializer {name!r} has no content")
        elif value.shape is not None and tuple(value.shape) != tuple(tensor.shape):
            yield Problem(
                "", "", f"initializer {name!r} is declared as {_shape(value)}, its content is {list(tensor.shape)}"
            )
    for value in (*graph.inputs, *graph.initializers.values()):
        dtype = dtype_of(value)
        if value.type is not None and not isinstance(value.type, onnx_ir.TensorType):
            yield Problem("", "", f"{value.name!r} is no tensor but {value.type}; only tensors are in the profile")
        elif dtype not in DTYPES:
            yield Problem("", "", f"{value.name!r} is of type {dtype}; known are {', '.join(DTYPES)}")


def _flow_problems(graph: onnx_ir.Graph) -> Iterator[Problem]:
    """Check that every value is given once, and before it is used."""
    given = {id(value): value for value in (*graph.inputs, *graph.initializers.values())}
    names = Counter(value.name or "" for value in given.values())
    for node in graph:
        for value in node.inputs:
            if value is not None and id(value) not in given:
                late = value.producer() is not None and value.producer().graph is graph  # type: ignore[union-attr]
                why = "comes only later: sort the nodes" if late else "is given by nothing"
                yield Problem(node.name or "", node.op_type, f"its input {value.name!r} {why}")
        given |= {id(value): value for value in node.outputs}
        names.update(value.name for value in node.outputs if value.name)
    if names[""]:
        yield Problem("", "", f"{names['']} inputs or initializers have no name")
    for name, count in names.items():
        if name and count > 1:
            yield Problem("", "", f"{count} values are called {name!r}")
    if not graph.outputs:
        yield Problem("", "", "has no outputs")
    for value in graph.outputs:
        if id(value) not in given:
            yield Problem("", "", f"nothing gives the output {value.name!r}")


def _node_problems(node: onnx_ir.Node) -> Iterator[str]:
    if node.domain:
        yield f"its domain is {node.domain!r}; only ONNX's own operators are in the profile"
        return
    if any(value.type in (onnx_ir.AttributeType.GRAPH, onnx_ir.AttributeType.GRAPHS) for value in _attributes(node)):
        yield "has a subgraph; control flow is not in the profile"
        return
    row = OPERATORS.get(node.op_type)
    if row is None:
        yield _CONSTANT if node.op_type == "Constant" else "this operator is not in the profile"
        return
    schema = schema_of(row.name)
    optional = [formal.option == onnx.defs.OpSchema.FormalParameterOption.Optional for formal in schema.inputs]
    given = [value is not None for value in node.inputs]
    if not row.inputs[0] <= len(given) <= row.inputs[1]:
        yield f"has {len(given)} inputs, expected {_range(row.inputs)}"
    for index, there in enumerate(given):
        if not there and not (index < len(optional) and optional[index]):
            yield f"its input {index} is missing"
    produced = [value for value in node.outputs if value.name]
    if not row.outputs[0] <= len(produced) or len(node.outputs) > row.outputs[1]:
        yield f"has {len(produced)} outputs, expected {_range(row.outputs)}"
    yield from _attribute_problems(node, row, schema)
    if row.kind == "recurrent":
        yield from _recurrent_problems(node)
    if row.name == "Dropout" and len(given) > 2 and given[2]:
        training = node.inputs[2].const_value  # type: ignore[union-attr]
        if training is None or training.numpy().any():
            yield "its training_mode must be absent or a constant false"


def _attribute_problems(node: onnx_ir.Node, row: Operator, schema: onnx.defs.OpSchema) -> Iterator[str]:
    for name, attribute in node.attributes.items():
        if name not in row.attributes:
            known = ", ".join(row.attributes) or "none"
            yield f"its attribute {name!r} is not in the profile; known: {known}"
        elif attribute.is_ref():
            yield f"its attribute {name!r} refers to a function's attribute"
        elif attribute.type != _kind(schema, name):
            wanted = _kind(schema, name).name
            yield f"its attribute {name!r} is of type {attribute.type.name}, expected {wanted}"
    for name, formal in schema.attributes.items():
        if formal.required and name not in node.attributes:
            yield f"its attribute {name!r} is missing"
    for name, allowed in row.only.items():
        given = node.attributes.get(name)
        if given is not None and (given.is_ref() or given.type != _kind(schema, name)):
            continue  # told above
        value = _default(schema, name) if given is None else given.value
        if value not in allowed:
            yield f"its attribute {name!r} is {value!r}; only {' and '.join(map(repr, allowed))} are in the profile"


def _recurrent_problems(node: onnx_ir.Node) -> Iterator[str]:
    texts = {
        name: node.attributes[name].value
        for name, kind in (("direction", onnx_ir.AttributeType.STRING), ("activations", onnx_ir.AttributeType.STRINGS))
        if name in node.attributes and node.attributes[name].type == kind and not node.attributes[name].is_ref()
    }
    usual = _ACTIVATIONS[node.op_type] * (2 if texts.get("direction") == "bidirectional" else 1)
    if tuple(name.lower() for name in texts.get("activations", usual)) != usual:
        given = ", ".join(texts["activations"])
        yield f"its attribute 'activations' is {given}; only {', '.join(usual)} are in the profile"
    if len(node.inputs) > 4 and node.inputs[4] is not None:
        yield "has sequence_lens; only sequences of one length are in the profile"


def _attributes(node: onnx_ir.Node) -> list[onnx_ir.Attr]:
    return list(node.attributes.values())


def _kind(schema: onnx.defs.OpSchema, name: str) -> onnx_ir.AttributeType:
    number: Any = schema.attributes[name].type  # an IntEnum, which onnx's stubs do not tell
    return onnx_ir.AttributeType(int(number))


def _default(schema: onnx.defs.OpSchema, name: str) -> Any:
    value = onnx.helper.get_attribute_value(schema.attributes[name].default_value)
    return value.decode() if isinstance(value, bytes) else value


def _shape(value: onnx_ir.Value) -> str:
    if value.shape is None:
        return "[?]"
    return "[" + ", ".join(str(size) if isinstance(size, int) else str(size.value or "?") for size in value.shape) + "]"


def _range(bounds: tuple[int, int]) -> str:
    low, high = bounds
    return str(low) if low == high else f"{low} or more" if high == MANY else f"{low} to {high}"


def _some(nodes: list[onnx_ir.Node]) -> str:
    return ", ".join(node.op_type for node in nodes[:5]) + (", ..." if len(nodes) > 5 else "")


def describe(model: onnx_ir.Model) -> str:
    """Return a model as a readable table: its inputs and outputs, then a line for each node.

    Args:
        model: The model; it is not changed, and no weight is read. Shapes are inferred where they can be.

    >>> x = onnx_ir.val("x", onnx_ir.DataType.FLOAT, ["N", 3])
    >>> node = onnx_ir.node("Relu", [x], name="relu")
    >>> graph = onnx_ir.Graph([x], node.outputs, nodes=[node], opset_imports={"": 20}, name="net")
    >>> print(describe(onnx_ir.Model(graph, ir_version=10)))
    net: 1 node, 0 parameters, opset 20
    input   x      float32 [N, 3]
    output  val_0  float32 [N, 3]
    <BLANKLINE>
    node  operator  inputs  output  parameters
    relu  Relu      x       [N, 3]
    """
    with suppress(ShapeError, RuntimeError):  # a damaged model can be looked at all the same
        model = infer_shapes(model)
    graph = model.graph
    owned: dict[onnx_ir.Node, list[str]] = {}
    size = 0
    for name, parameter in parameters(model).items():
        tensor = parameter.value.const_value
        if tensor is None:
            continue
        shape = list(tensor.shape.numpy())
        size += tensor.size
        owned.setdefault(parameter.node, []).append(f"{name} {shape}")
    ends = [("input", value) for value in graph.inputs if not value.is_initializer()]
    ends += [("output", value) for value in graph.outputs]
    rows = [("node", "operator", "inputs", "output", "parameters")]
    for node in graph:
        computed = [str(v.name) for v in node.inputs if v is not None and not v.is_initializer()]
        shapes = " ".join(_shape(value) for value in node.outputs if value.name)
        mine = ", ".join(owned.get(node, []))
        rows.append((str(node.name), node.op_type, ", ".join(computed), shapes, mine))
    nodes = "1 node" if len(graph) == 1 else f"{len(graph)} nodes"
    head = f"{graph.name}: {nodes}, {size:,} parameters, opset {model.opset_imports.get('')}"
    values = aligned([(what, str(value.name), f"{dtype_of(value)} {_shape(value)}") for what, value in ends])
    return "\n".join([head, values, "", aligned(rows)])
