"""Sub-graph extraction: the part of a model between some of its values."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

import onnx_ir

from mopruning.errors import MopruningError
from mopruning.ir.passes.shapes import infer_shapes


class ExtractError(MopruningError, ValueError):
    """A part of a model that cannot be cut out as asked."""


def extract(model: onnx_ir.Model, inputs: Sequence[str] = (), outputs: Sequence[str] = ()) -> onnx_ir.Model:
    """Return the part of a model that computes some values from others, with the weights it needs.

    Args:
        model: The model; it is not changed.
        inputs: Names of the values that the part starts from, in the order its inputs shall have. A node's name stands
            for what the node gives, so that the part starts behind that node. Without any, the model's own inputs that
            are needed.
        outputs: Names of the values that it shall give; likewise. Without any, the model's own outputs.

    Returns:
        A new model; its weights are shared with `model`, and keep their names.

    Raises:
        ExtractError: If a name is unknown, the outputs need an input that is not given, or an input is not needed.

    >>> x = onnx_ir.val("x", onnx_ir.DataType.FLOAT, ["N", 3])
    >>> relu = onnx_ir.node("Relu", [x], name="relu")
    >>> tanh = onnx_ir.node("Tanh", relu.outputs, name="tanh")
    >>> graph = onnx_ir.Graph([x], tanh.outputs, nodes=[relu, tanh], opset_imports={"": 20})
    >>> [node.name for node in extract(onnx_ir.Model(graph, ir_version=10), inputs=["relu"]).graph]
    ['tanh']
    """
    model = infer_shapes(model)  # a new input has to declare what the model only implied
    graph = model.graph
    named = _names(graph)
    starts = _find(named, inputs, "inputs")
    ends = _find(named, outputs, "outputs") or list(graph.outputs)
    nodes, needed = _reached(ends, starts)
    sources = [value for value in graph.inputs if value in needed and not value.is_initializer()]
    if starts:
        missing = [str(value.name) for value in sources if value not in starts]
        if missing:
            raise ExtractError(
                f"extract: the outputs also need {', '.join(map(repr, missing))}, besides the given inputs "
                f"{', '.join(map(repr, inputs))}; give it as an input too, or choose inputs that cut it off"
            )
        unneeded = [str(value.name) for value in starts if value not in needed]
        if unneeded:
            raise ExtractError(f"extract: the outputs do not depend on the input {', '.join(map(repr, unneeded))}")
    view = onnx_ir.GraphView(
        starts or sources,
        ends,
        nodes=[node for node in graph if node in nodes],
        initializers=[value for value in graph.initializers.values() if value in needed and value not in starts],
        opset_imports=graph.opset_imports,
        name=graph.name,
        doc_string=graph.doc_string,
        metadata_props=graph.metadata_props,
    )
    return onnx_ir.Model(
        view.clone(),
        ir_version=model.ir_version,
        producer_name=model.producer_name,
        producer_version=model.producer_version,
        metadata_props=dict(model.metadata_props),
    )


def _names(graph: onnx_ir.Graph) -> dict[str, list[onnx_ir.Value]]:
    """Return what each name stands for; a value's own name goes before a node's."""
    named = {str(node.name): [value for value in node.outputs if value.name] for node in graph if node.name}
    for value in (*graph.inputs, *graph.initializers.values(), *(v for node in graph for v in node.outputs)):
        if value.name:
            named[value.name] = [value]
    return named


def _find(named: dict[str, list[onnx_ir.Value]], wanted: Iterable[str], where: str) -> list[onnx_ir.Value]:
    if isinstance(wanted, str):
        wanted = [wanted]
    found: dict[onnx_ir.Value, None] = {}  # a value asked for twice is one
    for name in wanted:
        if name not in named:
            near = difflib.get_close_matches(name, named, n=3, cutoff=0.4)
            hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
            raise ExtractError(f"extract: {where}: {name!r} is neither a value nor a node of the model{hint}")
        found |= dict.fromkeys(named[name])
    return list(found)


def _reached(
    ends: Iterable[onnx_ir.Value], starts: Iterable[onnx_ir.Value]
) -> tuple[set[onnx_ir.Node], set[onnx_ir.Value]]:
    """Return the nodes between `starts` and `ends`, and every value that is needed on the way."""
    stops = set(starts)
    nodes: set[onnx_ir.Node] = set()
    needed: set[onnx_ir.Value] = set()
    waiting = list(ends)
    while waiting:
        value = waiting.pop()
        if value in needed:
            continue
        needed.add(value)
        node = value.producer()
        if value in stops or node is None or node in nodes:
            continue
        nodes.add(node)
        waiting += [operand for operand in node.inputs if operand is not None]
    return nodes, needed
