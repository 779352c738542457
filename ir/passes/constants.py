"""Constant folding: nodes whose inputs are all known are computed once and become initializers."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx
import onnx_ir

from mopruning.ir.operators import OPERATORS
from mopruning.ir.roles import roles_of

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"

LARGEST = 1 << 20
"""Numbers that one folded node may give, or as many as it takes: a larger result costs more in a file than the node."""

_SMALL = 1024  # numbers; only inputs as short as this say how large a result is
_FLOATS = (onnx_ir.DataType.FLOAT, onnx_ir.DataType.FLOAT16, onnx_ir.DataType.BFLOAT16, onnx_ir.DataType.DOUBLE)

# onnx::Mul_12, /act/Constant_output_0, const_fold_opt__7, val_3; names in a source are words, and paths of words
_MADE = re.compile(r"[^\w.]|const|^_|_\d+$|^.$|(^|_)(scalar|tensor|val|value)(_|$)", re.IGNORECASE)


def fold_constants(model: onnx_ir.Model, *, weights: bool = False) -> onnx_ir.Model:
    """Return the model with constant nodes computed: Constant, Shape of a known shape, and what follows from them.

    A folded node's output becomes an initializer of the same name. Weights stay as they are: a node that computes from
    one is left, as the Transpose of a weight is. Weights are floating initializers (and Constant nodes) of more than
    one number, and those of one number that the source trains or keeps: a slope, a temperature. The model's metadata,
    the operator or the name tells these from numbers that an exporter made, such as ``onnx::Mul_12``. Nodes that give
    an output of the graph, or more than `LARGEST` numbers, are left too.

    Args:
        model: The model, of any opset; it is not changed. Shapes are taken as they are declared; `infer_shapes` knows
            more of them.
        weights: Compute from weights as well: each result is a new dense copy, no larger than what it is made from, and
            the weight goes if nothing else uses it.

    >>> two, three = (onnx_ir.node("Constant", [], {"value_int": n}, name=f"c{n}") for n in (2, 3))
    >>> product = onnx_ir.node("Mul", [two.outputs[0], three.outputs[0]], name="six")
    >>> x = onnx_ir.val("x", onnx_ir.DataType.INT64, [1])
    >>> total = onnx_ir.node("Add", [product.outputs[0], x], name="total")
    >>> graph = onnx_ir.Graph([x], total.outputs, nodes=[two, three, product, total], opset_imports={"": 20})
    >>> folded = fold_constants(onnx_ir.Model(graph, ir_version=10))
    >>> [node.name for node in folded.graph], [v.const_value.numpy() for v in folded.graph.initializers.values()]
    (['total'], [array(6)])
    """
    result = model.clone()
    graph = result.graph
    opset = result.opset_imports.get("", 0)
    used = {name for name, value in graph.initializers.items() if value.uses()}
    kept = set() if weights else _weights(result)
    for node in list(graph):
        if any(value.is_graph_output() for value in node.outputs):
            continue
        if node.op_type not in ("Identity", "Shape") and any(v is not None and v.name in kept for v in node.inputs):
            continue
        folded = _fold(node, opset)
        if folded is None:
            continue
        for old, new in zip(node.outputs, folded, strict=True):
            old.replace_all_uses_with(new)
        graph.remove(node, safe=True)
        for new in folded:
            if new.name and not new.is_initializer():
                graph.initializers.add(new)
                used.add(new.name)
                if node.op_type == "Constant" and not weights and _is_weight(new):
                    kept.add(new.name)  # old exporters put weights there
    for name in used:
        value = graph.initializers[name]
        if not value.uses() and not value.is_graph_output() and not value.is_graph_input():
            del graph.initializers[name]
    return result


def constant(value: onnx_ir.Value | None, varying: set[onnx_ir.Node] | None = None) -> NumPyArray | None:
    """Compute a value that follows from initializers alone, such as a weight on its way to a node.

    Args:
        value: Any value of a graph.
        varying: Nodes that are known to depend on an input; more that are found to are added to it. Who asks for many
            values of a graph that does not change meanwhile gives the same set each time, and no way is walked twice.

    Returns:
        Its content, a view of the initializer wherever the operators between allow one; None if it depends on an input
        of the graph.
    """
    if value is None or value.const_value is not None:
        return _content(value, {})
    nodes = _nodes_before(value, set() if varying is None else varying)
    if nodes is None:
        return None
    known: dict[onnx_ir.Value, NumPyArray] = {}
    last = {operand: node for node in nodes for operand in node.inputs}
    for node in nodes:
        arrays = [_content(operand, known) for operand in node.inputs]
        if any(a is None and v is not None for a, v in zip(arrays, node.inputs, strict=True)):
            return None  # the nodes go round in a circle
        results = _result(node, arrays)
        if results is None:
            return None
        for operand in node.inputs:
            if operand is not None and last[operand] is node:
                known.pop(operand, None)  # what follows from a weight may take as much memory as the weight
        known.update(zip(node.outputs, results, strict=True))
    return known[value]


def _nodes_before(value: onnx_ir.Value, varying: set[onnx_ir.Node]) -> list[onnx_ir.Node] | None:
    """Return the nodes that a value follows from, each once and in an order to run them in; None if inputs are there.

    `constant` looks before it computes, and each node once: where values are used several times, as around the blocks
    of a residual network, there are more ways up than can be walked.
    """
    order: list[onnx_ir.Node] = []
    seen: set[onnx_ir.Node] = set()
    waiting = [(value.producer(), False)]
    while waiting:
        node, entered = waiting.pop()
        if node is None or node.graph is None or not node.inputs or node in varying:
            varying.update(below for below, entered in waiting if entered and below is not None)
            return None
        if entered:
            order.append(node)
        elif node not in seen:
            seen.add(node)
            waiting.append((node, True))  # after all that it takes
            waiting += [(v.producer(), False) for v in node.inputs if v is not None and v.const_value is None]
    return order


def _content(value: onnx_ir.Value | None, known: Mapping[onnx_ir.Value, NumPyArray]) -> NumPyArray | None:
    """Return the content of an initializer, or of what was computed."""
    if value is None:
        return None
    return known.get(value) if value.const_value is None else value.const_value.numpy()


def _result(node: onnx_ir.Node, arrays: Sequence[NumPyArray | None]) -> Sequence[NumPyArray] | None:
    """Run one node on the arrays that it takes; None where that cannot be done."""
    if node.op_type == "Transpose":  # a view, where the evaluator would copy
        order = node.attributes.get("perm")
        return None if arrays[0] is None else [arrays[0].transpose(None if order is None else order.as_ints())]
    assert node.graph is not None  # `_nodes_before` gives no other
    return _evaluate(node, arrays, node.graph.opset_imports.get("", 0))


def _fold(node: onnx_ir.Node, opset: int) -> list[onnx_ir.Value] | None:
    """Return the values that take the place of a node's outputs, or None where it has to stay."""
    if node.domain:
        return None
    if node.op_type == "Constant":
        tensor = _constant_tensor(node)
        return None if tensor is None else [_initializer(node.outputs[0], tensor)]
    if node.op_type == "Shape":
        sizes = _shape_of(node)
        return None if sizes is None else [_initializer(node.outputs[0], onnx_ir.tensor(sizes))]
    if not node.inputs or any(value is not None and not _is_constant(value) for value in node.inputs):
        return None
    if node.op_type == "Identity" and node.inputs[0] is not None:
        return [node.inputs[0]]
    arrays = [None if value is None else value.const_value.numpy() for value in node.inputs]  # type: ignore[union-attr]
    results = _evaluate(node, arrays, opset)
    if results is None:
        return None
    return [_initializer(old, onnx_ir.tensor(array)) for old, array in zip(node.outputs, results, strict=True)]


def _evaluate(node: onnx_ir.Node, arrays: Sequence[NumPyArray | None], opset: int) -> list[NumPyArray] | None:
    """Run one node in ONNX's reference evaluator; None if it is not in the profile, too large, or fails."""
    from onnx.reference import ReferenceEvaluator

    if node.domain or node.op_type not in OPERATORS:
        return None
    feeds = {
        str(value.name): array
        for value, array in zip(node.inputs, arrays, strict=True)
        if value is not None and array is not None
    }
    inputs = [
        onnx.helper.make_tensor_value_info(name, int(onnx_ir.tensor(array).dtype), array.shape)
        for name, array in feeds.items()
    ]
    outputs = [onnx.ValueInfoProto(name=value.name) for value in node.outputs if value.name]
    proto = onnx.helper.make_model(
        onnx.helper.make_graph([onnx_ir.serde.serialize_node(node)], "node", inputs, outputs),
        opset_imports=[onnx.helper.make_opsetid("", opset)],
    )
    if not _fits(proto, feeds, max(LARGEST, sum(array.size for array in feeds.values()))):
        return None
    try:
        results = ReferenceEvaluator(proto).run(None, feeds)
    except Exception:  # whatever it stumbles over: the node stays, and `validate` says what is wrong with it
        return None
    found = iter(results)
    return [np.asarray(next(found)) if value.name else np.empty(0) for value in node.outputs]


def _fits(proto: onnx.ModelProto, feeds: dict[str, NumPyArray], largest: int) -> bool:
    """Whether the results are known to be small, before memory is taken for them."""
    probe = onnx.ModelProto()
    probe.CopyFrom(proto)
    for name, array in feeds.items():
        if array.size <= _SMALL:
            probe.graph.initializer.append(onnx_ir.serde.serialize_tensor(onnx_ir.tensor(array, name=name)))
    try:
        inferred = onnx.shape_inference.infer_shapes(probe, strict_mode=True, data_prop=True)
    except Exception:
        return False
    shapes = [info.type.tensor_type.shape for info in inferred.graph.output if info.type.tensor_type.HasField("shape")]
    known = [[dim.dim_value for dim in shape.dim if dim.HasField("dim_value")] for shape in shapes]
    return len(known) == len(inferred.graph.output) and all(
        len(sizes) == len(shape.dim) and math.prod(sizes) <= largest for sizes, shape in zip(known, shapes, strict=True)
    )


def _constant_tensor(node: onnx_ir.Node) -> onnx_ir.TensorProtocol | None:
    """Return the content of a Constant node that holds numbers."""
    for name, attribute in node.attributes.items():
        if name == "value":
            return attribute.as_tensor()
        if name in ("value_float", "value_floats"):
            return onnx_ir.tensor(np.asarray(attribute.value, np.float32))
        if name in ("value_int", "value_ints"):
            return onnx_ir.tensor(np.asarray(attribute.value, np.int64))
    return None


def _shape_of(node: onnx_ir.Node) -> NumPyArray | None:
    """Return what a Shape node gives, if every axis that it asks for is known."""
    value = node.inputs[0]
    shape = None if value is None else value.const_value.shape if value.const_value is not None else value.shape
    if shape is None:
        return None
    bounds = [node.attributes[name].as_int() if name in node.attributes else None for name in ("start", "end")]
    sizes = tuple(shape)[slice(*bounds)]
    return np.asarray(sizes, np.int64) if all(isinstance(size, int) for size in sizes) else None


def _initializer(old: onnx_ir.Value, tensor: onnx_ir.TensorProtocol) -> onnx_ir.Value:
    new = onnx_ir.Value(name=old.name, type=onnx_ir.TensorType(tensor.dtype), const_value=tensor)
    new.shape = onnx_ir.Shape(tensor.shape.numpy())
    return new


def _is_constant(value: onnx_ir.Value | None) -> bool:
    return value is not None and value.is_initializer() and value.const_value is not None and not value.is_graph_input()


def _weights(model: onnx_ir.Model) -> set[str]:
    """Return the names of the initializers that are the source's own."""
    roles = roles_of(model)
    noted = model.metadata_props.get("mopruning.source") == "pytorch"  # whose reader notes what each of them is
    return {
        name
        for name, value in model.graph.initializers.items()
        if value.const_value is not None
        and value.const_value.dtype in _FLOATS
        and (value.const_value.size > 1 or roles[name] != "constant" or not (noted or _is_made(value)))
    }


def _is_made(value: onnx_ir.Value) -> bool:
    """Whether a number has a name that an exporter, or a reader of this package (``<node>.<what>``), made up for it."""
    name = str(value.name)
    return bool(_MADE.search(name)) or any(name.rpartition(".")[0] == use.node.name for use in value.uses())


def _is_weight(value: onnx_ir.Value) -> bool:
    tensor = value.const_value
    return tensor is not None and tensor.dtype in _FLOATS and tensor.size > 1
