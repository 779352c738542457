"""Writer: an IR model becomes a TensorFlow graph that trains."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

import onnx_ir
import tensorflow.compat.v1 as tf
from onnx_ir import Node, Value

from mopruning.backends.tensorflow1.exporting.notes import NOTES
from mopruning.backends.tensorflow1.lowering import arithmetic, layers, pooling, recurrent, shapes
from mopruning.backends.tensorflow1.lowering.context import Lowering, tf_dtype
from mopruning.backends.tensorflow1.naming import to_name
from mopruning.backends.tensorflow1.network import Network
from mopruning.backends.tensorflow1.orders import channels_last, ordered, plain
from mopruning.errors import FormatError
from mopruning.ir.lowering import lowerings
from mopruning.ir.operators import OPERATORS
from mopruning.ir.passes.constants import fold_constants
from mopruning.ir.passes.shapes import infer_shapes
from mopruning.ir.validation import validate

LOWERINGS: Mapping[str, Callable[[Lowering, Node], None]] = lowerings(arithmetic, layers, pooling, recurrent, shapes)
"""Operator -> the function that adds it to a graph: every row of the operator profile."""

_SPATIAL = frozenset(
    (
        *("Conv", "ConvTranspose", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"),
        *("BatchNormalization", "InstanceNormalization", "Resize", "DepthToSpace", "SpaceToDepth", "PRelu"),
    )
)
_PASSED_ON = frozenset(
    name
    for name, row in OPERATORS.items()
    if row.kind in ("activation", "element-wise", "comparison")
    or name in ("Concat", "Dropout", "Pad", "Slice", "Split")
)


def from_ir(model: onnx_ir.Model) -> Network:
    """Build a graph that computes and trains as the model says.

    Images are NHWC, inputs and outputs among them; kernels lie as TensorFlow has them, and the rows of a dense layer's
    weight in the order in which the features before it are flattened, so that nothing is transposed at run time.
    Variables have the names of the parameters (`mopruning.backends.tensorflow1.naming` for those that TensorFlow does
    not allow), and are resource variables; those of running statistics are not trainable. Loops and conditions are
    TensorFlow 1's own (Switch and Merge).

    Args:
        model: A model within the operator profile. It is not changed.

    Returns:
        The network; its weights come into a session by `load`, or `session`.

    Raises:
        UnsupportedOperators: If the model is outside the profile, or TensorFlow cannot express some nodes of it; all of
            them are listed.
        FormatError: If the model has no inputs.

    >>> from mopruning.ir.builder import Builder
    >>> net = Builder("tiny")
    >>> x = net.batch_norm(net.conv(net.input("x", (3, 8, 8)), "conv1", 4, 3), "bn1")
    >>> network = from_ir(net.model({"output": net.relu(x, "relu")}))
    >>> network.variables["conv1.weight"].name, network.outputs["output"].shape.as_list()
    ('conv1.weight:0', [None, 6, 6, 4])
    """
    low, inputs, outputs = lowered(model, frozen=False)
    orders = {name: tuple(order) for name, order in low.notes.orders.items()}
    name = model.graph.name or "network"
    return Network(name, low.graph, inputs, outputs, low.training, low.variables, orders, low.contents)


def lowered(model: onnx_ir.Model, *, frozen: bool) -> tuple[Lowering, dict[str, tf.Tensor], dict[str, tf.Tensor]]:
    """Lower a whole model: the finished graph, and its inputs and outputs by name.

    Args:
        model: The model.
        frozen: Make weights constants, and leave out what only training needs.
    """
    validate(model)
    prepared = fold_constants(infer_shapes(model))
    inputs = [value for value in prepared.graph.inputs if not value.is_initializer()]
    if not inputs:
        raise FormatError(f"model {model.graph.name!r} has no inputs: there is nothing to compute")
    low = Lowering(prepared, LOWERINGS, frozen=frozen)
    with low.graph.as_default():
        low.reserve()
        placeholders = {str(value.name): _input(low, value) for value in inputs}
        if not frozen:
            low.training = tf.placeholder_with_default(False, [], name=low.graph.unique_name("training") + "/")
        low.run()
        outputs = {str(value.name): _output(low, value) for value in prepared.graph.outputs}
        noted = {
            **vars(low.notes),
            "inputs": {name: tensor.op.name for name, tensor in placeholders.items()},
            "outputs": {name: tensor.op.name for name, tensor in outputs.items()},
            "training": None if low.training is None else low.training.op.name,
            "name": model.graph.name,
            "metadata": dict(model.metadata_props),
        }
        tf.constant(json.dumps(noted), name=NOTES)
    return low, placeholders, outputs


def _input(low: Lowering, value: Value) -> tf.Tensor:
    """Add a placeholder; of an image, NHWC."""
    if value.shape is None:
        raise FormatError(f"input {value.name!r} has no shape; TensorFlow needs to know how many axes it has")
    rank = len(value.shape)
    order = channels_last(rank) if rank > 2 and is_image(value) else plain(rank)
    dtype = tf.float32 if value.dtype is None else tf_dtype(value.dtype)
    name = low.graph.unique_name(to_name(str(value.name)))
    placeholder = tf.placeholder(dtype, ordered(low.sizes(value), order), name=f"{name}/")
    low.put_value(value, placeholder, order)
    if order != plain(rank):
        low.notes.orders[str(value.name)] = list(order)
    return placeholder


def _output(low: Lowering, value: Value) -> tf.Tensor:
    """Return the tensor of an output, under its name; an image stays NHWC."""
    lowered_value = low.held(value)
    rank = len(lowered_value.order)
    image = rank > 2 and lowered_value.order == channels_last(rank)
    tensor = low.tensor(value, lowered_value.order) if image else low.tensor(value)
    if image:
        low.notes.orders[str(value.name)] = list(lowered_value.order)
    if tensor.op.name == to_name(str(value.name)) and tensor.op.type not in ("Placeholder", "VarHandleOp", "Const"):
        return tensor
    return tf.identity(tensor, name=f"{low.graph.unique_name(to_name(str(value.name)))}/")


def is_image(value: Value) -> bool:
    """Whether a value comes to an operator that takes channels first, through operators that take any order."""
    seen, waiting = {id(value)}, [value]
    while waiting:
        for use in waiting.pop().uses():
            node = use.node
            if node.op_type in _SPATIAL and use.idx == 0:
                return True
            if node.op_type in _PASSED_ON:
                for output in node.outputs:
                    if id(output) not in seen:
                        seen.add(id(output))
                        waiting.append(output)
    return False
