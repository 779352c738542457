"""From the IR to the nodes of a Moffett graph."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import onnx_ir
from onnx_ir import Node, Value

from mopruning.errors import FormatError
from mopruning.ir.moffett_graph import BIAS_ID, ID
from mopruning.ir.validation import Problem, UnsupportedOperators

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"
Call: TypeAlias = "tuple[str, list[Value], dict[str, Any] | None, str]"
"""An operator of the format, what it reads, its attributes, and the key of its id in the node's metadata."""

_PASSED_ON = ("Dropout", "Identity", "Unsqueeze")  # the last one only lays out a bias


class _NoOperatorError(Exception):
    """Why a node cannot be written."""


def to_nodes(model: onnx_ir.Model) -> tuple[str, dict[str, NumPyArray], tuple[int, ...]]:
    """Return the JSON of a model, its parameters by name, and the ids of its outputs.

    Raises:
        UnsupportedOperators: If the format has no operator for some nodes; all are listed.
    """
    writer = _Writer(model)
    problems = []
    for node in model.graph:
        try:
            writer.add(node)
        except _NoOperatorError as error:
            problems.append(Problem(node.name or "", node.op_type, f"{error}; a Moffett graph cannot express that"))
    if problems:
        raise UnsupportedOperators(model.graph.name or "", tuple(problems))
    return writer.finished(model.graph.outputs)


class _Writer:
    """The list of nodes as it grows."""

    def __init__(self, model: onnx_ir.Model) -> None:
        self.entries: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.arrays: dict[str, NumPyArray] = {}
        self.places: dict[Value, int] = {}
        for value in model.graph.inputs:
            sizes = [1, *list(value.shape or ())[1:]]
            if value.shape is None or not all(isinstance(size, int) for size in sizes):
                raise FormatError(f"input {value.name!r}: its sizes must be known but for the batch, got {value.shape}")
            entry = {"node_type": "Var", "node_name": value.name, "op_type": "Const", "shape": sizes}
            self.places[value] = self._append(entry, value.metadata_props.get(ID))

    def add(self, node: Node) -> None:
        """Add the one or two nodes that do what a node of the IR does."""
        if node.op_type in _PASSED_ON and node.inputs[0] is not None:
            if node.op_type == "Unsqueeze" and _array(node.inputs[0]) is None:
                raise _NoOperatorError("it is applied to a computed value")
            if node.op_type != "Unsqueeze":
                self.places[node.outputs[0]] = self._place(node.inputs[0])
            return
        convert = _CONVERSIONS.get(node.op_type)
        if node.domain or convert is None:
            raise _NoOperatorError(f"known are {', '.join((*_CONVERSIONS, *_PASSED_ON[:2]))}")
        place = -1
        for number, (operator, operands, attributes, key) in enumerate(convert(node)):
            sources: list[Any] = [self._source(operand) for operand in operands]
            if number:  # a bias is added to what the layer before it gives
                sources.insert(0, place)
            entry = {"node_type": "Call", "op_type": operator, "inputs": sources, "attrs": attributes}
            place = self._append(entry, node.metadata_props.get(key))
        self.places[node.outputs[0]] = place

    def finished(self, outputs: Sequence[Value]) -> tuple[str, dict[str, NumPyArray], tuple[int, ...]]:
        """Return text, arrays and the ids of the outputs."""
        ids = _ids(self.keys)
        ready = []
        for number, entry in zip(ids, self.entries, strict=True):
            sources = [ids[source] if isinstance(source, int) else source for source in entry.get("inputs", ())]
            ready.append({"node_id": number, **entry, **({"inputs": sources} if "inputs" in entry else {})})
        text = "[\n" + ",\n".join(json.dumps(entry) for entry in ready) + "\n]\n"
        return text, self.arrays, tuple(ids[self._place(value)] for value in outputs)

    def _append(self, entry: dict[str, Any], key: str | None) -> int:
        self.entries.append(entry)
        self.keys.append(key)
        return len(self.entries) - 1

    def _place(self, value: Value) -> int:
        if value not in self.places:
            raise _NoOperatorError(f"it reads {value.name!r}, a constant or what a node gives that cannot be written")
        return self.places[value]

    def _source(self, operand: Value) -> Any:
        array = _array(operand)
        if array is None:
            return self._place(operand)
        self.arrays[str(operand.name)] = array
        return str(operand.name)


def _conv(node: Node) -> list[Call]:
    data, weight, bias = _operands(node)
    shape = _weight(weight, 4)
    groups = _integer(node, "group", 1)
    attributes = {
        **_window(node),
        "kernel_size": shape[2:],
        "W_shape": shape,
        **({"groups": groups} if groups != 1 else {}),
    }
    channels = shape[0]
    name = "nn.conv2d"
    if node.op_type == "ConvTranspose":
        name, channels = "nn.conv2d_transpose", shape[1] * groups
        extra = _numbers(node, "output_padding", [0, 0])
        attributes |= {"channels": channels} | ({"output_padding": extra} if any(extra) else {})
    return [(name, [data, weight], attributes, ID), *_bias(bias, channels)]


def _batch_norm(node: Node) -> list[Call]:
    _, scale, *_ = node.inputs
    epsilon = node.attributes["epsilon"].as_float() if "epsilon" in node.attributes else 1e-5
    attributes = {"epsilon": float(str(np.float32(epsilon))), "axis": 1, "_shape": _weight(scale, 1)}
    return [("nn.batch_norm", [value for value in node.inputs if value is not None], attributes, ID)]


def _pool(node: Node) -> list[Call]:
    attributes = {
        "pool_size": _numbers(node, "kernel_shape", []),
        **_window(node),
        "layout": "NCHW",
        "ceil_mode": bool(_integer(node, "ceil_mode", 0)),
    }
    if len(attributes["pool_size"]) != 2:
        raise _NoOperatorError("it has not two axes")
    top, left, bottom, right = attributes["padding"]
    if (top, left) == (bottom, right):
        attributes["padding"] = [top, left]
    if node.op_type == "AveragePool":
        counted = bool(_integer(node, "count_include_pad", 0))
        return [("nn.avg_pool2d", _operands(node)[:1], attributes | {"count_include_pad": counted}, ID)]
    return [("nn.max_pool2d", _operands(node)[:1], attributes, ID)]


def _dense(node: Node) -> list[Call]:
    data, weight, bias = _operands(node)
    shape = _weight(weight, 2)
    if not _integer(node, "transB", 0):
        raise _NoOperatorError("its weight does not lie as [out, in]")
    return [("nn.dense", [data, weight], {"units": shape[0], "_shape": shape}, ID), *_bias(bias, shape[0])]


def _add(node: Node) -> list[Call]:
    for value, other in (node.inputs, node.inputs[::-1]):
        bias = _spread_bias(other, value)
        if bias is not None and value is not None:
            return [("nn.bias_add", [value, bias], {"axis": 1, "_shape": _weight(bias, 1)}, ID)]
    if any(_array(value) is not None for value in node.inputs):
        raise _NoOperatorError("it adds a constant that is no bias")
    return [("add", [value for value in node.inputs if value is not None], None, ID)]


def _flatten(node: Node) -> list[Call]:
    if _integer(node, "axis", 1) != 1:
        raise _NoOperatorError("its axis is not 1")
    return [("nn.batch_flatten", _operands(node)[:1], None, ID)]


def _plain(operator: str) -> Callable[[Node], list[Call]]:
    return lambda node: [(operator, _operands(node)[:1], None, ID)]


_CONVERSIONS: Mapping[str, Callable[[Node], list[Call]]] = {
    "Conv": _conv,
    "ConvTranspose": _conv,
    "BatchNormalization": _batch_norm,
    "Relu": _plain("nn.relu"),
    "Sigmoid": _plain("sigmoid"),
    "MaxPool": _pool,
    "AveragePool": _pool,
    "GlobalAveragePool": _plain("nn.global_avg_pool2d"),
    "Flatten": _flatten,
    "Gemm": _dense,
    "Add": _add,
}
"""ONNX operator -> the calls that do the same."""


def _bias(bias: Value | None, channels: int) -> list[Call]:
    if bias is None:
        return []
    if _weight(bias, 1) != [channels]:
        raise _NoOperatorError(f"its bias is {_weight(bias, 1)} for {channels} channels")
    return [("nn.bias_add", [bias], {"axis": 1, "_shape": [channels]}, BIAS_ID)]


def _window(node: Node) -> dict[str, Any]:
    dilation = _numbers(node, "dilations", [1, 1])
    attributes = {"strides": _numbers(node, "strides", [1, 1]), "padding": _numbers(node, "pads", [0, 0, 0, 0])}
    return attributes | ({"dilation": dilation} if dilation != [1, 1] else {})


def _spread_bias(value: Value | None, data: Value | None) -> Value | None:
    """Return the bias that an Unsqueeze lays out over the pixels of its channel, or that of a 2-D value."""
    array = _array(value)
    if array is not None and array.ndim == 1 and data is not None and data.shape is not None and len(data.shape) == 2:
        return value
    node = None if value is None else value.producer()
    if node is None or node.op_type != "Unsqueeze":
        return None
    axes, bias = _array(node.inputs[1]), _array(node.inputs[0])
    fits = axes is not None and bias is not None and bias.ndim == 1 and sorted(axes.tolist()) == [1, 2]
    return node.inputs[0] if fits else None


def _operands(node: Node) -> list[Any]:
    return [*node.inputs, None, None, None][:3]


def _weight(value: Value | None, axes: int) -> list[int]:
    array = _array(value)
    if array is None or array.ndim != axes:
        raise _NoOperatorError(f"a parameter of it is no constant of {axes} axes")
    return [int(size) for size in array.shape]


def _array(value: Value | None) -> NumPyArray | None:
    return None if value is None or value.const_value is None else value.const_value.numpy()


def _integer(node: Node, name: str, default: int) -> int:
    return node.attributes[name].as_int() if name in node.attributes else default


def _numbers(node: Node, name: str, default: list[int]) -> list[int]:
    return [int(one) for one in node.attributes[name].as_ints()] if name in node.attributes else default


def _ids(keys: Sequence[str | None]) -> list[int]:
    """Return an id for each node: those of the file the model came from if all are there and ascending."""
    if all(key is not None and key.isdecimal() for key in keys):
        numbers = [int(key) for key in keys if key is not None]
        if all(first < second for first, second in pairwise(numbers)):
            return numbers
    return list(range(len(keys)))
