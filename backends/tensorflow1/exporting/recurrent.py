"""LSTM and GRU, which a written graph notes: in the graph they are loops, which the IR has no word for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from onnx_ir import Value

from mopruning.backends.tensorflow1.exporting.context import Operation, Translation
from mopruning.backends.tensorflow1.naming import from_name
from mopruning.backends.tensorflow1.orders import plain

_ATTRIBUTES: Mapping[str, type] = {"hidden_size": int, "direction": str, "linear_before_reset": int}


@dataclass(frozen=True)
class Recurrent:
    """One layer, as it is noted.

    Args:
        name: Name of the node.
        operator: "LSTM" or "GRU".
        attributes: ONNX's attributes.
        inputs: Names of the tensors that it reads, "" for one that is left out.
        outputs: Names of the tensors that it gives.
        shapes: Their shapes, None for each open axis.
    """

    name: str
    operator: str
    attributes: Mapping[str, int | str]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    shapes: tuple[tuple[int | None, ...], ...]


def recurrent_layers(noted: Any) -> list[Recurrent]:
    """Read what is noted of recurrent layers; what is not as expected counts as absent."""
    found = []
    for name, content in noted.items() if isinstance(noted, dict) else ():
        if not isinstance(content, dict) or content.get("operator") not in ("LSTM", "GRU"):
            continue
        inputs, outputs, shapes = (content.get(key) for key in ("inputs", "outputs", "shapes"))
        attributes = content.get("attributes")
        if not isinstance(inputs, list) or not isinstance(outputs, list) or not isinstance(attributes, dict):
            continue
        if not all(isinstance(text, str) for text in (*inputs, *outputs)):
            continue
        if any(not isinstance(value, _ATTRIBUTES.get(key, ())) for key, value in attributes.items()):
            continue
        if not isinstance(shapes, list) or len(shapes) != len(outputs) or not all(map(_is_shape, shapes)):
            continue
        sizes = tuple(map(tuple, shapes))
        found.append(Recurrent(name, content["operator"], attributes, tuple(inputs), tuple(outputs), sizes))
    return found


def _is_shape(content: Any) -> bool:
    return isinstance(content, list) and all(size is None or (type(size) is int and size >= 0) for size in content)


def recurrent(ctx: Translation, operation: Operation, layer: Recurrent) -> None:
    """Add a layer, once for all of its outputs."""
    tensors = [None if not name else ctx.tensor(name) for name in layer.inputs]
    values: list[Value | None] = []
    for number, tensor in enumerate(tensors):
        weight = None if tensor is None else ctx.weight_behind(tensor)
        if tensor is None:
            values.append(None)
        elif weight is not None and number in (1, 2, 3):
            values.append(ctx.operand(weight, trained=True))
        else:
            values.append(ctx.value(tensor))
    results = ctx.net.nodes(layer.operator, from_name(layer.name), values, len(layer.outputs), layer.attributes)
    there = {one.name for one in ctx.graph.get_operations()}
    for name, shape, result in zip(layer.outputs, layer.shapes, results, strict=False):
        if name in there:
            ctx.done.add(name)
            ctx.put(ctx.tensor(name), result, plain(len(shape)))
