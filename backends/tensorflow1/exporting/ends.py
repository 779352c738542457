"""The ends of a graph, where nobody names them: which tensors are the outputs, which inputs are images."""

from __future__ import annotations

from typing import Any

from mopruning.backends.tensorflow1.exporting.inference import Inference
from mopruning.backends.tensorflow1.exporting.nodes import PLACEHOLDERS, Reference
from mopruning.backends.tensorflow1.exporting.notes import NOTES
from mopruning.backends.tensorflow1.orders import channels_first, plain
from mopruning.errors import FormatError

_SPATIAL = frozenset(
    (
        *("Conv2D", "DepthwiseConv2dNative", "Conv3D", "MaxPool", "AvgPool", "MaxPool3D", "AvgPool3D"),
        *("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3", "ResizeBilinear", "ResizeNearestNeighbor"),
        *("DepthToSpace", "SpaceToDepth", "SpaceToBatchND", "BiasAdd"),
    )
)
_PASSED_ON = frozenset(
    (
        *("Add", "AddV2", "Sub", "Mul", "RealDiv", "Div", "Maximum", "Minimum", "Relu", "Relu6", "LeakyRelu"),
        *("Elu", "Selu", "Sigmoid", "Tanh", "Softplus", "Abs", "Neg", "Square", "Identity", "Cast", "Pad"),
        *("PadV2", "MirrorPad", "ConcatV2", "Split", "SplitV", "StridedSlice", "Slice", "ClipByValue"),
        "ReverseV2",
    )
)
_NO_RESULT = ("Assign", "Apply", "Save", "Restore", "Summary", "Queue", "Iterator", "Print", "NoOp", "Assert")


def outputs_of(inference: Inference) -> list[str]:
    """Return the names of the nodes that nothing reads, and that depend on an input.

    Raises:
        FormatError: If there are none, or several in a graph that trains.
    """
    nodes = inference.nodes
    read = {one[0] for node in nodes.by_name.values() for one in nodes.inputs(node)}
    read |= {name for node in nodes.by_name.values() for name in nodes.controls(node)}
    ends = [
        name
        for name, node in nodes.by_name.items()
        if name not in read and name != NOTES and not any(word in node.op for word in _NO_RESULT)
    ]
    found = [name for name in ends if _computed(inference, (name, 0))]
    trains = any("Apply" in node.op or "gradients/" in name for name, node in nodes.by_name.items())
    if not found or (trains and len(found) > 1):
        shown = ", ".join(repr(name) for name in found[:8]) or "none"
        raise FormatError(
            f"{inference.source.name}: which tensors are its outputs? Name them by outputs= (convert: --outputs); "
            f"nothing reads {shown}"
        )
    return found


def _computed(inference: Inference, end: Reference) -> bool:
    """Whether a node depends on an input that is no flag."""
    seen, waiting = {end[0]}, [end[0]]
    while waiting:
        node = inference.nodes.by_name.get(waiting.pop())
        if node is None or not node.op:
            continue
        if node.op in PLACEHOLDERS and inference.flag((node.name, 0)) is None:
            return True
        for one in inference.nodes.inputs(node):
            if one[0] not in seen:
                seen.add(one[0])
                waiting.append(one[0])
    return False


def input_order(placeholder: Any) -> tuple[int, ...]:
    """Return the order of axes that the IR's input has: NCHW for an image that the network takes as NHWC."""
    rank = int(placeholder.shape.rank)
    if rank in (3, 4, 5) and _is_image(placeholder, rank):
        return channels_first(rank)
    return plain(rank)


def _is_image(placeholder: Any, rank: int) -> bool:
    seen, waiting = {placeholder.name}, [placeholder]
    while waiting:
        tensor = waiting.pop()
        for user in tensor.consumers():
            if user.type in _SPATIAL and user.inputs[0].name == tensor.name:
                data_format = _data_format(user)
                if user.type != "BiasAdd" or rank == 4:
                    return not data_format.startswith("NC")
            flat = user.type == "ExpandDims" and rank == 3
            if user.type in _PASSED_ON or flat:
                for output in user.outputs:
                    if output.name not in seen:
                        seen.add(output.name)
                        waiting.append(output)
    return False


def _data_format(operation: Any) -> str:
    try:
        return str(operation.get_attr("data_format").decode())
    except ValueError:
        return "NHWC"
