"""The analysis of coupling: follows the channels through a graph, and puts together what belongs together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx_ir
from onnx_ir import Node, Value

from mopruning.ir.coupling import elements, linear, shaping  # noqa: F401  they fill the table of rules
from mopruning.ir.coupling.classes import NONE, Classes, Numbers
from mopruning.ir.coupling.groups import FOLLOWS, PRODUCES, Axis, ChannelGroup, Coupling
from mopruning.ir.coupling.walk import Sizes, Use, Walk
from mopruning.ir.parameters import Parameter, parameters, source
from mopruning.ir.passes.shapes import infer_shapes


def coupling(model: onnx_ir.Model) -> Coupling:
    """Find out which channels of a model can only stay or go together.

    Channels are what a layer makes of one filter: an output channel of a convolution, an output feature of a dense
    layer. Residual sums, depthwise and grouped convolutions, normalisations, concatenations and all that rearranges
    numbers carry them on. Channels stay where they are inputs or outputs of the graph, are normalised or summed over,
    or meet an operator that has no rule.

    Args:
        model: The model; it is not changed, and no large weight is read.

    Returns:
        The groups of channels, each with every axis of a weight along which it runs.

    >>> from mopruning.ir.builder import Builder
    >>> net = Builder("net")
    >>> x = net.conv(net.input("x", (3, 8, 8)), "conv1", 4, 3, padding=1)
    >>> y = net.conv(net.add(net.conv(x, "conv2", 4, 3, padding=1), x, "add"), "conv3", 2, 1)
    >>> print(coupling(net.model({"y": y})).groups[0])
    conv1.weight: 4 channels, 4 of them free
      produces  conv1.weight  axis 0  4  conv1 (Conv)
      produces  conv2.weight  axis 0  4  conv2 (Conv)
      reads     conv2.weight  axis 1  4  conv2 (Conv)
      reads     conv3.weight  axis 1  4  conv3 (Conv)
    """
    shapes = _shapes(model)
    walk = Walk(shapes)
    walk.run(model.graph)
    tracks = {value: walk.of(value) for value in list(walk.tracks)}
    weights = _Weights(model.graph)
    groups, numbers = _number(walk, tracks, weights)
    named = {
        value: {axis: _look_up(numbers, classes) for axis, classes in found.items()} for value, found in tracks.items()
    }
    return Coupling(_describe(model, walk, groups, named, numbers, weights), named, walk.moves, shapes)


def _shapes(model: onnx_ir.Model) -> dict[Value, Sizes | None]:
    """Return the shape of each value, as declared where that says all, else inferred."""
    graph = model.graph
    made = [value for node in graph for value in node.outputs]
    if not all(value.shape is not None and all(isinstance(size, int) for size in value.shape[1:]) for value in made):
        inferred = infer_shapes(model).graph
        theirs = [value for node in inferred for value in node.outputs]
        shapes = {old: new.shape for old, new in zip(made, theirs, strict=True)}
    else:
        shapes = {value: value.shape for value in made}
    shapes |= {value: value.shape for value in graph.inputs}
    return {
        value: None if shape is None else tuple(size if isinstance(size, int) else str(size.value) for size in shape)
        for value, shape in shapes.items()
    }


class _Weights:
    """From which initializers a value is made, where it is made of initializers alone.

    Args:
        graph: The graph, with its nodes in order.
    """

    def __init__(self, graph: onnx_ir.Graph) -> None:
        self._found: dict[Value, list[Value]] = {}
        for node in graph:
            parts = [self.of(value) for value in node.inputs if value is not None]
            if parts and all(part is not None for part in parts):
                made_of = [one for part in parts for one in part or ()]
                self._found |= dict.fromkeys(node.outputs, made_of)

    def of(self, value: Value) -> list[Value] | None:
        """Return these initializers, None where the value depends on an input."""
        return [value] if value.is_initializer() else self._found.get(value)


def _number(
    walk: Walk, tracks: Mapping[Value, Mapping[int, Numbers]], weights: _Weights
) -> tuple[list[Numbers], Numbers]:
    """Put classes that one weight makes into one group, and number them group after group.

    Returns:
        For each group its classes; and for each class its number among all, -1 where no weight makes it.
    """
    made = [tracks[use.value][use.axis] for use in walk.uses if _produces(use, tracks, weights)]
    linked = Classes()
    linked.fresh(walk.classes.count)
    for classes in made:
        own = classes[classes >= 0]
        linked.join(own[:1].repeat(own.size), own, "")
    numbers = np.full(walk.classes.count, NONE, np.int64)
    everything = np.concatenate([*made, np.empty(0, np.int64)])
    everything = everything[everything >= 0]
    unique, first = np.unique(everything, return_index=True)
    unique = unique[np.argsort(first)]  # in the order in which the weights have them
    homes = linked.find(unique)
    _, start, home = np.unique(homes, return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(start))[home.reshape(-1)]
    order = np.argsort(rank, kind="stable")
    unique, rank = unique[order], rank[order]
    numbers[unique] = np.arange(unique.size)
    return [unique[rank == group] for group in range(start.size)], numbers


def _produces(use: Use, tracks: Mapping[Value, Mapping[int, Numbers]], weights: _Weights) -> bool:
    return use.role == PRODUCES and use.axis in tracks.get(use.value, {}) and weights.of(use.value) is not None


def _look_up(numbers: Numbers, classes: Numbers) -> Numbers:
    return np.where(classes < 0, NONE, numbers[classes])


def _describe(
    model: onnx_ir.Model,
    walk: Walk,
    groups: list[Numbers],
    named: Mapping[Value, Mapping[int, Numbers]],
    numbers: Numbers,
    weights: _Weights,
) -> tuple[ChannelGroup, ...]:
    offsets = np.cumsum([0, *(classes.size for classes in groups)])
    axes: list[list[Axis]] = [[] for _ in groups]
    known = parameters(model)
    roles = _roles(walk, named, weights)
    for value, user in _used(model.graph):
        for axis, along in named.get(value, {}).items():
            role, node, blocks = roles.get((value, axis), (FOLLOWS, user, 1))
            homes = np.searchsorted(offsets, along, side="right") - 1
            for home in np.unique(homes[along >= 0]):
                channels = np.where((homes == home) & (along >= 0), along - offsets[home], NONE)
                canonical = _canonical(known.get(str(value.name)), axis)
                axes[home].append(Axis(str(value.name), axis, canonical, channels, role, node, blocks))
    fixed = [np.zeros(classes.size, np.bool_) for classes in groups]
    reasons: list[list[str]] = [[] for _ in groups]
    for why, classes in walk.classes.fixed().items():
        stuck = _look_up(numbers, classes)
        stuck = stuck[stuck >= 0]
        homes = np.searchsorted(offsets, stuck, side="right") - 1
        for home in np.unique(homes):
            fixed[home][stuck[homes == home] - offsets[home]] = True
            reasons[home].append(why)
    result = []
    for home, classes in enumerate(groups):
        name = next((axis.name for axis in axes[home] if axis.role == PRODUCES), axes[home][0].name)
        result.append(ChannelGroup(name, classes.size, fixed[home], tuple(reasons[home]), tuple(axes[home])))
    return tuple(result)


def _used(graph: onnx_ir.Graph) -> Iterable[tuple[Value, Node]]:
    """Return every initializer in the order of use, with the first node that does more than rearrange it."""
    seen: set[Value] = set()
    for node in graph:
        for value in node.inputs:
            if value is not None and value.is_initializer() and value not in seen:
                seen.add(value)
                yield value, _consumer(node)


def _consumer(node: Node) -> Node:
    while all(value is None or value.is_initializer() for value in node.inputs):
        users = list(node.outputs[0].uses())
        if not users:
            break
        following = users[0].node
        if following.op_type not in ("Transpose", "Reshape", "Unsqueeze", "Squeeze", "Cast", "Identity"):
            return following
        node = following
    return node


def _roles(
    walk: Walk, named: Mapping[Value, Mapping[int, Numbers]], weights: _Weights
) -> dict[tuple[Value, int], tuple[str, Node, int]]:
    """Say for axes of initializers what channels do there; the first node that uses one counts."""
    roles: dict[tuple[Value, int], tuple[str, Node, int]] = {}
    for use in walk.uses:
        made_of = weights.of(use.value)
        seen = named.get(use.value, {}).get(use.axis)
        if made_of is None or seen is None:
            continue
        first, order = source(use.value)
        if first is not None and order is not None:
            axis = order[use.axis] if order else use.axis
            roles.setdefault((first, axis), (use.role, use.node, use.blocks))
            continue
        for value in made_of:  # rearranged further: the axis along which the same channels run
            for axis, along in named.get(value, {}).items():
                if np.isin(along[along >= 0], seen).any():
                    roles.setdefault((value, axis), (use.role, use.node, use.blocks))
    return roles


def _canonical(parameter: Parameter | None, axis: int) -> int:
    """Return where a stored axis is in the canonical form of a weight."""
    if parameter is None:
        return axis
    place = parameter.order.index(axis) if parameter.order else axis
    rank = len(parameter.value.const_value.shape) if parameter.value.const_value is not None else 0
    if parameter.layout == "transposed" and place >= rank - 2:
        place = 2 * rank - 3 - place
    elif parameter.layout == "deconvolution" and place < 2:
        place = 1 - place
    return max(0, place - (rank - 2)) if parameter.layout in ("stacked", "transposed") and rank > 2 else place
