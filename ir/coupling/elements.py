"""Rules for operators that keep each channel to itself: element-wise ones, normalisations, pooling, reductions."""

from __future__ import annotations

from collections.abc import Sequence

from onnx_ir import Node

from mopruning.ir.attributes import attribute
from mopruning.ir.coupling.classes import Numbers
from mopruning.ir.coupling.walk import Unclear, Walk, couples, whole_numbers


def take_together(walk: Walk, node: Node, operands: Sequence[int], rank: int, but: int = 0) -> dict[int, Numbers]:
    """Join the channels of operands that are broadcast together, in place; return what runs along the result's axes.

    Args:
        walk: What is known so far.
        node: The node.
        operands: Indices of its inputs.
        rank: Axes of the result.
        but: How many axes at the end are not broadcast.
    """
    result: dict[int, Numbers] = {}
    given = [value for index in operands if (value := node.inputs[index]) is not None]
    tracks = [(walk.sizes(value), walk.of(value)) for value in given]
    for axis in range(rank - but):
        met: Numbers | None = None
        wide = [
            found.get(place)
            for sizes, found in tracks
            if (place := axis - rank + len(sizes)) >= 0 and sizes[place] != 1
        ]
        if all(numbers is None for numbers in wide):
            continue
        met = wide[0]
        for numbers in wide[1:]:
            met = walk.meet(node, met, numbers)
        if met is not None:
            result[axis] = walk.classes.find(met)
    return result


@couples(
    *("Add", "Sub", "Mul", "Div", "Mod", "Pow", "Min", "Max", "Sum", "PRelu", "Where"),
    *("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "And", "Or", "Xor"),
)
def together(walk: Walk, node: Node) -> None:
    """Join operands, which are broadcast as numbers are."""
    ranks = [len(walk.sizes(value)) for value in node.inputs if value is not None]
    for axis, numbers in take_together(walk, node, range(len(node.inputs)), max(ranks)).items():
        walk.set(node.outputs[0], axis, numbers)


@couples(
    *("Relu", "LeakyRelu", "Elu", "Selu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Gelu", "Mish", "Softplus"),
    *("Clip", "Abs", "Neg", "Sign", "Reciprocal", "Sqrt", "Exp", "Log", "Erf", "Sin", "Cos", "Floor", "Ceil", "Round"),
    *("Cast", "CastLike", "Identity", "Not", "IsNaN", "Dropout"),
)
def alone(walk: Walk, node: Node) -> None:
    """Keep every channel."""
    axes = {axis: axis for axis in walk.of(node.inputs[0])}
    for output in range(len(node.outputs)):
        walk.keep_axes(node, axes, output)


@couples("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool")
def pooling(walk: Walk, node: Node) -> None:
    """Keep the channels; windows move over the other axes."""
    for output in range(len(node.outputs)):
        walk.keep_axes(node, {0: 0, 1: 1}, output)


@couples("BatchNormalization", "InstanceNormalization")
def per_channel_norm(walk: Walk, node: Node) -> None:
    """Join each channel with its scale, bias and statistics."""
    walk.fix_others(node, 0, (0, 1))
    met = walk.of(node.inputs[0]).get(1)
    for index in range(1, len(node.inputs)):
        met = walk.meet(node, met, walk.of(node.inputs[index]).get(0))
    for axis, numbers in {**walk.of(node.inputs[0]), 1: met}.items():
        if numbers is not None and axis < 2:
            walk.set(node.outputs[0], axis, walk.classes.find(numbers))


@couples("LayerNormalization")
def layer_norm(walk: Walk, node: Node) -> None:
    """Fix what is normalised over: without a channel, mean and variance would be others."""
    x = node.inputs[0]
    if x is None:
        raise Unclear("it lacks an input")
    rank = len(walk.sizes(x))
    first = int(attribute(node, "axis")) % rank
    why = f"{node.name} ({node.op_type}) normalises over them"
    for index in range(1, len(node.inputs)):
        value = node.inputs[index]
        if value is not None:  # its scale and bias belong to the same channels
            shift = rank - len(walk.sizes(value))
            for axis, numbers in walk.of(value).items():
                walk.meet(node, numbers, walk.of(x).get(axis + shift))
                walk.classes.fix(numbers, why)
    for axis, numbers in walk.of(x).items():
        if axis >= first:
            walk.classes.fix(numbers, why)
    for axis, numbers in walk.of(x).items():
        walk.set(node.outputs[0], axis, numbers)


@couples("Softmax", "LogSoftmax")
def softmax(walk: Walk, node: Node) -> None:
    """Fix what is normalised over."""
    x = node.inputs[0]
    if x is None:
        raise Unclear("it lacks an input")
    own = int(attribute(node, "axis")) % len(walk.sizes(x))
    for axis, numbers in walk.of(x).items():
        if axis == own:
            walk.classes.fix(numbers, f"{node.name} ({node.op_type}) normalises over them")
        walk.set(node.outputs[0], axis, numbers)


@couples(
    *("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare"),
    *("ReduceLogSumExp", "ArgMax", "ArgMin"),
)
def reduction(walk: Walk, node: Node) -> None:
    """Fix what is reduced; the other axes move up where the reduced ones go."""
    x = node.inputs[0]
    if x is None:
        raise Unclear("it lacks an input")
    rank = len(walk.sizes(x))
    if node.op_type in ("ArgMax", "ArgMin"):
        reduced = {int(attribute(node, "axis")) % rank}
    elif len(node.inputs) > 1 and node.inputs[1] is not None:
        reduced = {axis % rank for axis in whole_numbers(node.inputs[1], "axes")}
    else:
        reduced = set() if attribute(node, "noop_with_empty_axes") else set(range(rank))
    left = [axis for axis in range(rank) if axis not in reduced]
    stays = bool(attribute(node, "keepdims"))
    walk.keep_axes(node, {axis: axis if stays else place for place, axis in enumerate(left)})


@couples("CumSum")
def cumulative(walk: Walk, node: Node) -> None:
    """Fix what is added up."""
    x = node.inputs[0]
    if x is None:
        raise Unclear("it lacks an input")
    own = whole_numbers(node.inputs[1], "axis")[0] % len(walk.sizes(x))
    for axis, numbers in walk.of(x).items():
        if axis == own:
            walk.classes.fix(numbers, f"{node.name} (CumSum) adds them up")
        walk.set(node.outputs[0], axis, numbers)
