"""Groups of filters as plain data, for pruning by coupled groups."""

from __future__ import annotations

import numpy as np
import onnx_ir

from mopruning.coupling import Coupled, FilterGroup
from mopruning.ir.coupling.analysis import coupling
from mopruning.ir.coupling.classes import Numbers
from mopruning.ir.coupling.groups import FOLLOWS, PRODUCES, READS, Axis
from mopruning.ir.operators import OPERATORS
from mopruning.ir.parameters import Parameter, parameters

_HARMLESS = ("Add", "Sub", "Sum", "Mul", "Max", "Min")
_SAME_NUMBERS = ("Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose", "Expand")


def filter_groups(model: onnx_ir.Model) -> tuple[FilterGroup, ...]:
    """Return the filters of a model that can only be removed together.

    Args:
        model: The model; it is not changed, and no large weight is read.

    Returns:
        A group for each set of weights that make the same channels, by the names of the parameters. Channels that
        must stay are `fixed`: those of the network's outputs, and those that something else than filters also makes,
        such as an embedding. Trained parameters with a number for each channel follow: biases, scales, shifts, slopes.
        Weights that the channels are inputs of read them.

    >>> from mopruning.ir.zoo import build
    >>> groups = filter_groups(build("resnet8_cifar", image=8))
    >>> groups[0].names, len(groups[0].fixed)
    (('conv1.weight', 'layer1.0.conv2.weight'), 0)
    >>> [follower.name for follower in groups[0].followers]
    ['bn1.weight', 'bn1.bias', 'layer1.0.bn2.weight', 'layer1.0.bn2.bias']
    >>> [reader.name for reader in groups[0].readers]
    ['layer1.0.conv1.weight', 'layer2.0.conv1.weight', 'layer2.0.downsample.weight']
    """
    known = parameters(model)
    result = []
    for group in coupling(model).groups:
        fixed = group.fixed.copy()
        members: dict[str, Coupled] = {}
        for axis in group.along(PRODUCES):
            channels = _channels(known.get(axis.name), axis, 0)
            if channels is None:
                fixed[axis.channels[axis.channels >= 0]] = True
            else:
                members.setdefault(axis.name, Coupled(axis.name, tuple(channels.tolist())))
        if members:
            stay = tuple(int(channel) for channel in np.flatnonzero(fixed))
            followers = {
                axis.name: Coupled(axis.name, tuple(axis.channels.tolist()))
                for axis in group.along(FOLLOWS)
                if _follows(known.get(axis.name), axis)
            }
            readers = {
                axis.name: Coupled(axis.name, tuple(channels.tolist()))
                for axis in group.along(READS)
                if (channels := _channels(known.get(axis.name), axis, 1)) is not None
            }
            parts = (tuple(found.values()) for found in (members, followers, readers))
            result.append(FilterGroup(group.channels, stay, *parts))
    return tuple(result)


def _follows(parameter: Parameter | None, axis: Axis) -> bool:
    """Tell whether a parameter is trained, has its channels along its first axis, and may be zero where filters are."""
    return axis.axis == 0 and parameter is not None and _may_be_zero(parameter.value)


def _may_be_zero(value: onnx_ir.Value) -> bool:
    """Tell whether all that is done with a value leaves a channel of zeros zero where the value is zero as well.

    A divisor or an exponent does not.
    """
    return all(_leaves_zero(use.node, use.idx) for use in value.uses())


def _leaves_zero(node: onnx_ir.Node, index: int) -> bool:
    row = None if node.domain else OPERATORS.get(node.op_type)
    if row is None or row.name in _HARMLESS:
        return row is not None
    if row.name in _SAME_NUMBERS:
        return _may_be_zero(node.outputs[0])
    return row.parameters.get(index, "weight").partition(" ")[0] != "weight"


def _channels(parameter: Parameter | None, axis: Axis, place: int) -> Numbers | None:
    """Return the channel of each filter of a weight, or of each input; None where the axis does not run along them.

    Args:
        parameter: The weight.
        axis: Where the channels run along it.
        place: 0 for its filters, its canonical axis 0; 1 for its inputs.
    """
    if parameter is None or parameter.role != "weight" or parameter.value.const_value is None:
        return None
    sizes = parameter.value.const_value.shape.numpy()
    along = axis.channels.reshape([-1 if one == axis.axis else 1 for one in range(len(sizes))])
    lying = parameter.canonical(np.broadcast_to(along, sizes)[_corner(parameter, len(sizes))])
    rows: Numbers = np.moveaxis(lying, place, 0)
    rows = rows.reshape(len(rows), -1)
    return rows[:, 0] if rows.size and (rows == rows[:, :1]).all() else None


def _corner(parameter: Parameter, rank: int) -> tuple[slice, ...]:
    """Return what takes one number of each kernel, so that no array as large as the weight is made."""
    if parameter.order or parameter.layout == "stacked" or rank < 3:
        return (slice(None),) * rank
    return (slice(None), slice(None), *(slice(0, 1) for _ in range(rank - 2)))
