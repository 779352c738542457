"""What stands around an operation and belongs to it: weights, biases, padding."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mopruning.backends.tensorflow1.exporting.context import Operation, Tensor, Translation, Weight
from mopruning.backends.tensorflow1.exporting.fixed import static

_PLUS = frozenset({"Add", "AddV2"})


def only_user(tensor: Tensor) -> Operation | None:
    """Return the one operation that reads a tensor, None if there are none or several."""
    users = tensor.consumers()
    return users[0] if len(users) == 1 else None


def bias_behind(ctx: Translation, tensor: Tensor, channels: int) -> tuple[Operation, Tensor] | None:
    """Return the operation that alone reads a tensor and adds a bias to its channels, and the bias."""
    user = only_user(tensor)
    if user is None or tensor.name in ctx.outputs or user.type not in _PLUS | {"BiasAdd", "BiasAddV1"}:
        return None
    first, second = user.inputs
    bias = second if first.name == tensor.name else first
    if user.type in ("BiasAdd", "BiasAddV1") and first.name != tensor.name:
        return None
    weight = ctx.weight_behind(bias)
    size = tensor.shape[channels]
    if weight is None or (ctx.is_constant(weight) and user.type in _PLUS):
        return None
    shape = list(bias.shape.as_list())
    own = [1] * (len(shape) - 1)
    if user.type in _PLUS:
        last = channels == -1
        if not last or shape != [*own, size] or len(shape) > len(tensor.shape):
            return None
    return user, bias


def padding_before(ctx: Translation, tensor: Tensor, channels_first: bool) -> tuple[Tensor, list[int]] | None:
    """Return what is padded with zeros over the image alone to give a tensor, and by how much."""
    operation = tensor.op
    if operation.type not in ("Pad", "PadV2"):
        return None
    if operation.type == "PadV2":
        value = static(operation.inputs[2])
        if value is None or value.any():
            return None
    amounts = static(operation.inputs[1])
    if amounts is None or amounts.ndim != 2 or (amounts < 0).any():
        return None
    image = amounts[2:] if channels_first else amounts[1:-1]
    rest = amounts[:2] if channels_first else amounts[[0, -1]]
    if rest.any():
        return None
    return operation.inputs[0], [int(number) for number in (*image[:, 0], *image[:, 1])]


@dataclass(frozen=True)
class Groups:
    """A layer of several groups that is spelled as one layer for each, between a Split and a Concat.

    Args:
        x: What is split.
        kernel: The kernel of all groups, which is split likewise.
        count: How many there are.
        end: The Concat.
        parts: The layers, the first of which stands for all.
    """

    x: Tensor
    kernel: Tensor
    count: int
    end: Operation
    parts: tuple[Operation, ...]


def groups_around(operation: Operation, x: Tensor, kernel: Tensor) -> Groups | None:
    """Return the groups that a layer is the first of, None if it is none."""
    end = only_user(operation.outputs[0])
    splits = x.op, kernel.op
    if end is None or end.type != "ConcatV2" or any(split.type not in ("Split", "SplitV") for split in splits):
        return None
    count = len(splits[0].outputs)
    tensors = list(end.inputs)[:-1]
    parts = tuple(tensor.op for tensor in tensors)
    if len(splits[1].outputs) != count or len(parts) != count or any(part.type != operation.type for part in parts):
        return None
    places = [[tensor.name for tensor in operation.inputs].index(one.name) for one in (x, kernel)]
    for number, part in enumerate(parts):
        wanted = [splits[i].outputs[number].name for i in range(2)]
        if [part.inputs[place].name for place in places] != wanted or only_user(part.outputs[0]) is None:
            return None
        if part.node_def.attr != operation.node_def.attr:
            return None
    sources, axes = [], []
    for split in splits:
        value, axis = (
            (split.inputs[1], split.inputs[0]) if split.type == "Split" else (split.inputs[0], split.inputs[2])
        )
        sources.append(value)
        axes.append(static(axis))
        sizes = [one.shape.as_list() for one in split.outputs]
        if any(size != sizes[0] for size in sizes):
            return None
    axes.append(static(end.inputs[-1]))
    ranks = [len(sources[0].shape), len(sources[1].shape), len(end.outputs[0].shape)]
    if any(axis is None or int(axis) % rank != rank - 1 for axis, rank in zip(axes, ranks, strict=True)):
        return None
    return Groups(sources[0], sources[1], count, end, parts)


def weight_and_dilations(ctx: Translation, tensor: Tensor, axes: int) -> tuple[Weight, list[int]] | None:
    """Return the weight that a kernel is, and how far zeros that are put into it pull it apart on each axis.

    The zeros are those of `mopruning.backends.tensorflow1.lowering.layers.dilated_kernel`.
    """
    found = _pulled_apart(ctx, tensor)
    if found is None:
        return None
    weight, dilations = found
    return weight, [dilations.get(axis, 1) for axis in range(axes)]


def _pulled_apart(ctx: Translation, tensor: Tensor) -> tuple[Weight, dict[int, int]] | None:
    weight = ctx.weight_behind(tensor)
    if weight is not None:
        return weight, {}
    operation = tensor.op
    if operation.type == "ExpandDims" and (axis := static(operation.inputs[1])) is not None and int(axis) == 0:
        inner = _pulled_apart(ctx, operation.inputs[0])
        if inner is None:
            return None
        flat = inner[0].then(("expand", 0), lambda array: np.expand_dims(array, 0))
        return flat, {axis + 1: dilation for axis, dilation in inner[1].items()}
    chain = [operation]
    for kind in ("Slice", "Reshape", "Pad", "ExpandDims"):
        if chain[-1].type != kind:
            return None
        chain.append(chain[-1].inputs[0].op)
    begin, amounts, axis = static(operation.inputs[1]), static(chain[2].inputs[1]), static(chain[3].inputs[1])
    inner = _pulled_apart(ctx, chain[3].inputs[0])
    if inner is None or begin is None or begin.any() or amounts is None or axis is None or amounts[:, 0].any():
        return None
    place, dilation = int(axis) - 1, int(amounts[int(axis), 1]) + 1
    before, after = chain[3].inputs[0].shape.as_list(), tensor.shape.as_list()
    wanted = [(size - 1) * dilation + 1 if one == place else size for one, size in enumerate(before)]
    if int(np.count_nonzero(amounts)) != 1 or after != wanted:
        return None
    return inner[0], {**inner[1], place: dilation}
