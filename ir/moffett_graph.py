"""From the nodes of a Moffett graph to the IR."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx_ir
from onnx_ir import Node, Value

from mopruning.errors import FormatError, MopruningError
from mopruning.ir.moffett_nodes import MoffettNode, missing, selected
from mopruning.ir.moffett_operators import OPERATORS, Attributes, operator_of, weight_problem
from mopruning.ir.operators import IR_VERSION, OPSET
from mopruning.ir.passes.shapes import infer_shapes
from mopruning.ir.validation import Problem, UnsupportedOperators

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"
Size: TypeAlias = "int | str | None"

ID = "moffett.node_id"
"""Key under which a node's or an input's metadata have its id in the file."""
BIAS_ID = "moffett.bias_add_id"
"""The same for the bias_add that a convolution or dense layer took in."""

_TAKE_BIAS = ("Conv", "ConvTranspose", "Gemm")
_SAME_SHAPE = ("nn.relu", "sigmoid", "add")
_AXES = {"nn.batch_flatten": 2, "nn.dense": 2, **dict.fromkeys((*_SAME_SHAPE, "nn.bias_add", "nn.batch_norm"), 0)}


def build(
    name: str,
    nodes: Mapping[int, MoffettNode],
    parameters: Mapping[str, NumPyArray],
    inputs: Sequence[int] = (),
    outputs: Sequence[int] = (),
) -> onnx_ir.Model:
    """Make a model of the nodes that lead from some inputs to some outputs.

    Raises:
        UnsupportedOperators: If these call operators that the format does not have; all are listed.
        FormatError: If nodes, parameters and the ids asked for do not go together.
    """
    ordered, given, ends = selected(nodes, inputs, outputs)
    unknown = [
        Problem(f"node {node.number}", node.operator, f"unknown; known are {', '.join(OPERATORS)}")
        for node in ordered
        if node.operator not in OPERATORS
    ]
    if unknown:
        raise UnsupportedOperators(name, tuple(unknown))
    graph = _Graph(parameters, Counter([*ends, *(source for node in ordered for source in node.sources)]))
    shapes = _cut_shapes(name, nodes, parameters, [number for number in given if number in nodes])
    hints = _hints(ordered, parameters)
    for number in given:
        graph.add_input(number, nodes.get(number), shapes.get(number) or hints.get(number, ["N", None, None, None]))
    for node in ordered:
        graph.add(node)
    model = onnx_ir.Model(
        onnx_ir.Graph(
            graph.inputs,
            [graph.output(end) for end in ends],
            nodes=graph.nodes,
            initializers=list(graph.initializers.values()),
            opset_imports={"": OPSET},
            name=name,
        ),
        ir_version=IR_VERSION,
        metadata_props={"mopruning.source": "moffett", "mopruning.layout": "NCHW"},
    )
    try:
        return infer_shapes(model)
    except MopruningError as error:
        raise FormatError(f"its shapes do not fit together: {error}") from error


class _Graph:
    """The graph as it grows."""

    def __init__(self, parameters: Mapping[str, NumPyArray], readers: Mapping[int, int]) -> None:
        self.parameters = parameters
        self.readers = readers  # id -> how often it is read, an output of the network counting as well
        self.values: dict[int, Value] = {}
        self.axes: dict[int, int] = {}
        self.inputs: list[Value] = []
        self.nodes: list[Node] = []
        self.initializers: dict[str, Value] = {}
        self.dtype = _dtype(parameters)

    def add_input(self, number: int, node: MoffettNode | None, shape: Sequence[Size]) -> None:
        """Add a value that is given from outside."""
        if node is not None and not node.operator:
            shape = ("N", *node.shape[1:])
        name = node.name if node is not None and node.name else f"node_{number}"
        if name in self.parameters or name in (value.name for value in self.inputs):
            name = f"node_{number}"
        value = Value(name=name, shape=onnx_ir.Shape(shape), type=onnx_ir.TensorType(self.dtype))
        value.metadata_props[ID] = str(number)
        self.inputs.append(value)
        self.values[number], self.axes[number] = value, len(shape)

    def add(self, node: MoffettNode) -> None:
        """Add a node; a bias goes into the layer before it where nothing else reads that one's output."""
        row = operator_of(node)
        read = row.read(node)
        sources = [self.values[source] for source in node.sources]
        axes = _AXES.get(node.operator, 4)
        self.axes[node.number] = axes or self.axes[node.sources[0]]
        weights = [self.parameter(str(source), node) for source in node.inputs if isinstance(source, str)]
        if node.operator == "nn.batch_norm":
            self._check_channels(node, read, weights)
        if node.operator == "nn.bias_add":
            self._check_channels(node, read, weights)
            if self._take_bias(node, weights[0]):
                return
            weights = [self._spread(node, weights[0])]
        elif row.operands[1:] == ("weight",):
            weights = [self._laid_out(node, read, weights[0])]
        name = f"{node.operator.removeprefix('nn.')}_{node.number}"
        attributes = row.convert(read)
        if row.onnx in ("Conv", "ConvTranspose"):
            attributes["kernel_shape"] = [int(size) for size in _array(weights[0]).shape[2:]]
        made = onnx_ir.node(row.onnx, [*sources, *weights], attributes, name=name)
        made.outputs[0].name = name
        made.metadata_props[ID] = str(node.number)
        self.nodes.append(made)
        self.values[node.number] = made.outputs[0]

    def output(self, number: int) -> Value:
        """Return the value of an output; one that is only passed on needs a node that gives it."""
        value = self.values[number]
        if value not in self.inputs:
            return value
        node = onnx_ir.node("Identity", [value], name=f"output_{number}")
        node.outputs[0].name = str(node.name)
        self.nodes.append(node)
        return node.outputs[0]

    def parameter(self, name: str, node: MoffettNode) -> Value:
        """Return the initializer of a parameter, added on first use."""
        if name not in self.initializers:
            if name not in self.parameters:
                raise FormatError(f"{node}: {missing('parameter', name, self.parameters)}")
            array = self.parameters[name]
            if onnx_ir.DataType.from_numpy(array.dtype) != self.dtype:
                raise FormatError(f"{node}: parameter {name!r} is {array.dtype}, others are {self.dtype.numpy()}")
            self.initializers[name] = _initializer(name, array)
        return self.initializers[name]

    def _check_channels(self, node: MoffettNode, read: Attributes, weights: Sequence[Value]) -> None:
        sizes = {_array(weight).shape for weight in weights}
        stated = tuple(read["_shape"])
        if len(sizes) != 1 or any(len(size) != 1 for size in sizes) or (len(stated) == 1 and stated not in sizes):
            shown = " and ".join(str(list(size)) for size in sorted(sizes))
            raise FormatError(f"{node}: its parameters must be of one length, got {shown}, _shape {read['_shape']}")
        if read["axis"] != 1:
            raise FormatError(f"{node}: its axis is {read['axis']}, expected 1: images are NCHW")

    def _laid_out(self, node: MoffettNode, read: Attributes, weight: Value) -> Value:
        """Return a weight as ONNX has it; one of a transposed convolution may lie as [out, in] in the file."""
        row, array, channels = OPERATORS[node.operator], _array(weight), read.get("channels", 0)
        if row.onnx == "ConvTranspose" and array.ndim == 4 and read["groups"] == 1 and _is_swapped(array, channels):
            if read["W_shape"] == list(array.shape):
                read = {**read, "W_shape": []}
            if weight.uses():
                raise FormatError(f"{node}: its weight {weight.name!r} is shared, but lies as [out, in]")
            array = np.ascontiguousarray(array.swapaxes(0, 1))
            weight = self.initializers[str(weight.name)] = _initializer(str(weight.name), array)
        problem = weight_problem(row, read, array.shape)
        if problem:
            raise FormatError(f"{node}: {problem}")
        return weight

    def _take_bias(self, node: MoffettNode, bias: Value) -> bool:
        """Give a bias to the layer before it, if that has none and nothing else reads what it computes."""
        (source,) = node.sources
        layer = self.values[source].producer()
        if layer is None or layer.op_type not in _TAKE_BIAS or self.readers[source] != 1:
            return False
        if len(layer.inputs) != 2:  # it has a bias already
            return False
        weight = _array(layer.inputs[1])
        groups = layer.attributes["group"].as_int() if "group" in layer.attributes else 1
        features = weight.shape[1] * groups if layer.op_type == "ConvTranspose" else weight.shape[0]
        if _array(bias).shape != (features,):
            raise FormatError(f"{node}: its bias has {_array(bias).size} numbers for {features} channels")
        layer.resize_inputs(3)
        layer.replace_input_with(2, bias)
        layer.metadata_props[BIAS_ID] = str(node.number)
        self.values[node.number] = self.values[source]
        return True

    def _spread(self, node: MoffettNode, bias: Value) -> Value:
        """Return a bias that adds to every pixel of its channel."""
        if self.axes[node.sources[0]] == 2:
            return bias
        name = f"bias_{node.number}"
        axes = _initializer(f"{name}.axes", np.array([1, 2], np.int64))
        self.initializers[f"{name}.axes"] = axes
        made = onnx_ir.node("Unsqueeze", [bias, axes], name=name)
        made.outputs[0].name = name
        self.nodes.append(made)
        return made.outputs[0]


def _cut_shapes(
    name: str, nodes: Mapping[int, MoffettNode], parameters: Mapping[str, NumPyArray], cuts: Sequence[int]
) -> dict[int, list[Size]]:
    """Return the shapes of values inside the network, as the part before them gives them; where it cannot, nothing."""
    shapes: dict[int, list[Size]] = {}
    for number in cuts:
        if nodes[number].operator:
            try:
                shape = build(name, nodes, parameters, (), [number]).graph.outputs[0].shape
            except MopruningError:  # what lies before a cut need not be readable
                continue
            if shape is not None:
                shapes[number] = [size if isinstance(size, int) else size.value for size in shape]
    return shapes


def _hints(nodes: Sequence[MoffettNode], parameters: Mapping[str, NumPyArray]) -> dict[int, list[Size]]:
    """Return what the operators that read a value tell of its shape, by id."""
    hints: dict[int, list[Size]] = {}
    for node in reversed(nodes):
        named = [source for source in node.inputs if isinstance(source, str)]
        size = next((parameters[name].shape for name in named if name in parameters), ())
        hint: list[Size] | None = None
        if node.operator == "nn.dense" and len(size) == 2:
            hint = ["N", size[1]]
        elif node.operator == "nn.conv2d" and len(size) == 4 and "groups" not in node.attributes:
            hint = ["N", size[1], None, None]
        elif node.operator == "nn.batch_norm" and size:
            hint = ["N", size[0], None, None]
        elif node.operator in _SAME_SHAPE:
            hint = hints.get(node.number)
        if hint is not None:
            hints.update(dict.fromkeys(node.sources, hint))
    return hints


def _is_swapped(array: NumPyArray, channels: int) -> bool:
    """Whether the weight of a transposed convolution lies as [out, in]."""
    return bool(channels) and array.shape[1] != channels and array.shape[0] == channels


def _initializer(name: str, array: NumPyArray) -> Value:
    tensor = onnx_ir.Tensor(array, name=name)
    return Value(name=name, shape=tensor.shape, type=onnx_ir.TensorType(tensor.dtype), const_value=tensor)


def _array(value: Value | None) -> NumPyArray:
    assert value is not None
    assert value.const_value is not None
    return value.const_value.numpy()


def _dtype(parameters: Mapping[str, NumPyArray]) -> onnx_ir.DataType:
    """Return the type of the parameters, float32 if there are none."""
    for array in parameters.values():
        if array.dtype.kind == "f":
            return onnx_ir.DataType.from_numpy(array.dtype)
    return onnx_ir.DataType.FLOAT
