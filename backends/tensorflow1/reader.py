"""Reader: a TensorFlow graph becomes an IR model, as it computes in inference, under its own names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx_ir
import onnx_ir.passes.common as common
import tensorflow.compat.v1 as tf

from mopruning.backends.tensorflow1.exporting import arithmetic, dense, layers, pooling, shapes
from mopruning.backends.tensorflow1.exporting.context import Operation, Spoilt, Translation
from mopruning.backends.tensorflow1.exporting.ends import input_order, outputs_of
from mopruning.backends.tensorflow1.exporting.fixed import static
from mopruning.backends.tensorflow1.exporting.importing import Imported, imported
from mopruning.backends.tensorflow1.exporting.inference import Inference
from mopruning.backends.tensorflow1.exporting.nodes import VARIABLES, Source, parsed, refuse, shown
from mopruning.backends.tensorflow1.exporting.notes import Notes, momenta
from mopruning.backends.tensorflow1.exporting.recurrent import Recurrent, recurrent
from mopruning.backends.tensorflow1.naming import from_name
from mopruning.backends.tensorflow1.network import Network
from mopruning.backends.tensorflow1.orders import moves, ordered, plain
from mopruning.errors import FormatError
from mopruning.ir.lowering import Refusal
from mopruning.ir.roles import noted_roles
from mopruning.ir.validation import Problem

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"

TRANSLATIONS: Mapping[str, Callable[[Translation, Operation], None]] = {
    **dict.fromkeys(("Conv2D", "Conv3D", "DepthwiseConv2dNative"), layers.conv),
    **dict.fromkeys(("Conv2DBackpropInput", "Conv3DBackpropInputV2"), layers.conv_transpose),
    **dict.fromkeys(("MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3"), dense.matmul),
    **dict.fromkeys(("BiasAdd", "BiasAddV1"), dense.bias_add),
    **dict.fromkeys(("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3"), dense.batch_norm),
    **dict.fromkeys(arithmetic.UNARY, arithmetic.unary),
    **dict.fromkeys(arithmetic.BINARY, arithmetic.binary),
    **dict.fromkeys(arithmetic.REDUCTIONS, arithmetic.reduction),
    **dict.fromkeys(
        ("Relu6", "LeakyRelu", "Elu", "Rsqrt", "Expm1", "Log1p", "Square", "Softsign"), arithmetic.activation
    ),
    **dict.fromkeys(("Softmax", "LogSoftmax"), arithmetic.softmax),
    "SquaredDifference": arithmetic.squared_difference,
    "NotEqual": arithmetic.not_equal,
    "FloorDiv": arithmetic.floor_div,
    "Select": arithmetic.select,
    "ClipByValue": arithmetic.clip,
    "Cast": arithmetic.cast,
    **dict.fromkeys(("ZerosLike", "OnesLike"), arithmetic.filled_like),
    **dict.fromkeys(("ArgMax", "ArgMin"), arithmetic.extreme),
    "Cumsum": arithmetic.cumulative,
    "TopKV2": arithmetic.top_k,
    **dict.fromkeys(("MaxPool", "AvgPool", "MaxPool3D", "AvgPool3D"), pooling.pool),
    **dict.fromkeys(("ResizeBilinear", "ResizeNearestNeighbor"), pooling.resize),
    **dict.fromkeys(("Identity", "StopGradient", "PreventGradient", "Snapshot", "CheckNumerics"), shapes.identity),
    **dict.fromkeys(("Reshape", "Squeeze", "ExpandDims"), shapes.reshape),
    "Transpose": shapes.transpose,
    **dict.fromkeys(("ConcatV2", "Concat"), shapes.concat),
    "Pack": shapes.pack,
    "Unpack": shapes.unpack,
    **dict.fromkeys(("Split", "SplitV"), shapes.split),
    "Slice": shapes.slice_,
    "StridedSlice": shapes.strided_slice,
    **dict.fromkeys(("Gather", "GatherV2"), shapes.gather),
    "BroadcastTo": shapes.broadcast,
    "Tile": shapes.tile,
    **dict.fromkeys(("Pad", "PadV2", "MirrorPad"), shapes.pad),
    "Shape": shapes.shape,
    "Size": shapes.size,
    "Fill": shapes.fill,
    "Range": shapes.range_,
    "ReverseV2": shapes.reverse,
    **dict.fromkeys(("DepthToSpace", "SpaceToDepth"), shapes.depth_to_space),
}
"""Operation -> the function that adds it to a model."""

_PART_OF_A_LAYER = frozenset({"SpaceToBatchND", "BatchToSpaceND"})
_SOURCES = frozenset({"Placeholder", "Const"})

Ends: TypeAlias = "Sequence[str | Any] | None"


def to_ir(
    source: Any,
    inputs: Ends = None,
    outputs: Ends = None,
    *,
    session: Any = None,
    name: str | None = None,
    flags: Mapping[str, bool] | None = None,
    shapes: Mapping[str, Sequence[int | None]] | None = None,
) -> onnx_ir.Model:
    """Translate a graph and the weights in a session to the IR.

    The graph is read as it computes in inference: boolean placeholders, such as one that says whether the network
    trains, are false, and conditions on them are decided. Batch normalisation and dropout stay, so that the network can
    be trained where it arrives. Images become NCHW, without transposes but where a network has them.

    Args:
        source: A `tf.Session`, a `tf.Graph`, or a `Network` of `from_ir`.
        inputs: Tensors that are the inputs, or their names; None for the placeholders that the outputs depend on.
        outputs: Tensors that are the outputs, or their names; None for those that nothing reads.
        session: Session that has the weights, where `source` is none; the default session if there is one. A `Network`
            has weights of its own without one.
        name: Name of the model.
        flags: Name of a boolean placeholder -> what it is, where it is not false.
        shapes: Name of an input -> its shape, as in the graph, where the graph does not tell it.

    Returns:
        The model. Its metadata say that the source's images were NHWC.

    Raises:
        UnsupportedOperators: If the graph computes with operations outside the profile; all of them are listed.
        FormatError: If inputs or outputs are not in the graph, or are not to be found.

    >>> graph = tf.Graph()
    >>> with graph.as_default():
    ...     x = tf.placeholder(tf.float32, [None, 8, 8, 3], name="x")
    ...     kernel = tf.get_variable("conv/kernel", [3, 3, 3, 4], use_resource=True)
    ...     y = tf.nn.relu(tf.nn.conv2d(x, kernel, 1, "SAME", name="conv"), name="y")
    ...     start = tf.global_variables_initializer()
    >>> with tf.Session(graph=graph) as session:
    ...     session.run(start)
    ...     model = to_ir(session, outputs=[y])
    >>> [node.op_type for node in model.graph], model.graph.outputs[0].shape
    (['Conv', 'Relu'], Shape([SymbolicDim('N'), 4, 8, 8]))
    """
    network = source if isinstance(source, Network) else None
    if network is not None:
        graph = network.graph
        inputs = list(network.inputs.values()) if inputs is None else inputs
        outputs = list(network.outputs.values()) if outputs is None else outputs
    elif isinstance(source, tf.Graph):
        graph = source
    elif hasattr(source, "graph") and hasattr(source, "run"):
        graph, session = source.graph, source if session is None else session
    else:
        raise TypeError(f"expected a tf.Session, a tf.Graph or a Network, got {type(source).__name__}")
    session = tf.get_default_session() if session is None else session
    if network is not None and session is None:
        contents = {variable.op.name: network.contents[own] for own, variable in network.variables.items()}
    else:
        contents = _contents(graph, session)
    return read(
        Source(
            name or (network.name if network is not None else "network"),
            graph.as_graph_def(),
            contents,
            _names(inputs),
            _names(outputs),
            flags or {},
            shapes or {},
        )
    )


def _names(ends: Ends) -> list[str] | None:
    return None if ends is None else [str(getattr(end, "name", end)) for end in ends]


def _contents(graph: Any, session: Any) -> dict[str, Callable[[], NumPyArray]]:
    """Return what reads the variables of a graph; each is read when it is asked for, once."""
    variables = {variable.op.name: variable for variable in _variables(graph)}
    if variables and session is None:
        raise FormatError("the weights live in a session: pass session=, or call this inside `with session:`")

    def reader(variable: Any) -> Callable[[], NumPyArray]:
        content = np.asarray(session.run(variable))  # now: training goes on
        return lambda: content

    with graph.as_default():
        return {name: reader(variable) for name, variable in variables.items()}


def _variables(graph: Any) -> list[Any]:
    found = graph.get_collection(tf.GraphKeys.GLOBAL_VARIABLES) + graph.get_collection(tf.GraphKeys.LOCAL_VARIABLES)
    return [part for variable in found for part in getattr(variable, "values", [variable])]


def read(source: Source) -> onnx_ir.Model:
    """Translate a graph with its weights; `to_ir` and the readers of files come here."""
    inference = Inference(source)
    notes = Notes.of(inference.nodes)
    if source.inputs is None and source.outputs is None and notes.inputs:
        source.inputs = [tensor for tensor in notes.inputs.values() if parsed(tensor)[0] in inference.nodes.by_name]
    if source.titles and set(source.titles.values()) == {*notes.inputs, *notes.outputs}:  # in the order of the model
        tensors = {title: tensor for tensor, title in source.titles.items()}
        source.inputs, source.outputs = ([tensors[title] for title in ends] for ends in (notes.inputs, notes.outputs))
    if source.inputs is not None:
        source.inputs = [shown(parsed(tensor)) for tensor in source.inputs]
    outputs = source.outputs or [
        tensor for tensor in notes.outputs.values() if parsed(tensor)[0] in inference.nodes.by_name
    ]
    references = [parsed(tensor) for tensor in outputs or outputs_of(inference)]
    for reference in [*references, *(parsed(tensor) for tensor in source.inputs or ())]:
        inference.nodes.node(reference)
    inference.dropouts.update(notes.dropout)
    noted_layers = {output: layer for layer in notes.recurrent for output in layer.outputs}
    for layer in notes.recurrent:
        if all(parsed(text)[0] in inference.nodes.by_name for text in layer.inputs if text):
            inference.layers |= {
                one: (layer.inputs, shape) for one, shape in zip(layer.outputs, layer.shapes, strict=True)
            }
    known = TRANSLATIONS.keys() | _SOURCES | VARIABLES | _PART_OF_A_LAYER
    graph = imported(inference, references, known)
    model_roles = _roles(notes)
    momentum = {**momenta(inference.nodes), **notes.momentum}
    ctx = Translation(notes.name or source.title or source.name, graph, model_roles, momentum)
    given_titles = {shown(parsed(tensor)): title for tensor, title in source.titles.items()}
    names = {tensor: name for name, tensor in notes.inputs.items()} | given_titles
    for tensor in graph.inputs:
        _add_input(ctx, names.get(tensor, from_name(tensor)), tensor, notes, source)
    _translate(ctx, graph, {one: layer for one, layer in noted_layers.items() if one in inference.layers})
    titles = {tensor: name for name, tensor in notes.outputs.items()} | given_titles
    given = {}
    for reference, tensor in zip(references, graph.outputs, strict=True):
        title = titles.get(shown(reference), from_name(shown(reference)))
        given[title] = _output(ctx, ctx.tensor(tensor), title, notes)
    metadata = {**notes.kept_metadata(), "mopruning.layout": "NHWC"}
    model = ctx.net.model(given, source="tensorflow1", metadata=metadata)
    common.RemoveUnusedNodesPass()(model)  # padding that became a convolution's, shapes that turned out to be known
    return model


def _roles(notes: Notes) -> dict[str, str]:
    bare = onnx_ir.Model(onnx_ir.Graph([], [], nodes=[]), ir_version=10, metadata_props=dict(notes.metadata))
    return noted_roles(bare)


def _add_input(ctx: Translation, name: str, tensor: str, notes: Notes, source: Source) -> None:
    """Add an input in place: of an image NHWC, one NCHW."""
    placeholder = ctx.tensor(tensor)
    rank = placeholder.shape.rank
    if rank is None:
        raise FormatError(f"{source.name}: input {tensor!r} has no shape; give it by shapes={{{tensor!r}: ...}}")
    noted = notes.orders.get(name) if name in notes.inputs else None
    if noted is not None and len(noted) == rank:
        order = moves(noted, plain(rank))
    else:
        order = plain(rank) if name in notes.inputs else input_order(placeholder)
    sizes = ordered(placeholder.shape.as_list(), order)
    shown_sizes = ["N" if place == 0 and size is None else size for place, size in enumerate(sizes)]
    value = ctx.net.input(name, shown_sizes, placeholder.dtype.as_numpy_dtype)
    ctx.put(placeholder, value, order)


def _output(ctx: Translation, tensor: Any, title: str, notes: Notes) -> onnx_ir.Value:
    """Return the value of an output: of an image NHWC, one NCHW."""
    held = ctx.held(tensor)
    rank = len(held.order)
    noted = notes.orders.get(title) if title in notes.outputs else None
    if noted is not None and len(noted) == rank:
        return ctx.value(tensor, moves(noted, plain(rank)))
    if ctx.is_image(tensor) and title not in notes.outputs:
        return ctx.image(tensor)
    return ctx.value(tensor)


def _translate(ctx: Translation, graph: Imported, noted_layers: Mapping[str, Recurrent]) -> None:
    """Translate all operations, in place, in the order in which they can be computed."""
    for operation in graph.graph.get_operations():
        if operation.name in ctx.done:
            continue
        if operation.name in graph.leaves:
            ctx.put(operation.outputs[0], ctx.given(operation.outputs[0]))
            continue
        noted_layer = noted_layers.get(operation.name)
        if noted_layer is None and (operation.type in _SOURCES or operation.type in _PART_OF_A_LAYER):
            continue
        try:
            if noted_layer is not None:
                recurrent(ctx, operation, noted_layer)
                continue
            if not _folded(ctx, operation):
                TRANSLATIONS[operation.type](ctx, operation)
        except Refusal as refusal:
            if not isinstance(refusal, Spoilt):
                ctx.problems.append(Problem(operation.name, operation.type, str(refusal)))
            ctx.spoilt.update(tensor.name for tensor in operation.outputs)
    refuse(ctx.net.name, ctx.problems)


def _folded(ctx: Translation, operation: Operation) -> bool:
    """Put what follows from constants and shapes alone as a constant, and say whether that is so."""
    if len(operation.outputs) != 1 or operation.type in ("Identity", "Reshape", "ExpandDims", "Squeeze"):
        return False
    result = operation.outputs[0]
    if not result.dtype.is_integer and not result.dtype.is_bool:
        return False
    array = static(result)
    if array is None:
        return False
    ctx.put(result, ctx.net.constant(from_name(operation.name), array, array.dtype))
    return True
