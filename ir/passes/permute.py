"""N:M channel permutation: the channels of a network are reordered so that N:M pruning keeps more magnitude."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import numpy as np
import onnx_ir

from mopruning.errors import WeightError
from mopruning.granularity import NM
from mopruning.ir.coupling.analysis import coupling
from mopruning.ir.coupling.groups import ChannelGroup, Coupling
from mopruning.ir.parameters import Parameter, parameters
from mopruning.ir.passes.channel_readers import Reader, reader
from mopruning.ir.passes.movable import obstacle, places
from mopruning.ir.passes.permuted import Permuted, PermutedGroup, PermutedLayer
from mopruning.permutation import Permutation, kept, kept_at_best, search
from mopruning.permutation.search import Method

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"


def permute(
    model: onnx_ir.Model,
    n: int = 2,
    m: int = 4,
    *,
    names: Collection[str] | None = None,
    method: str = "auto",
    window: int | None = None,
    escapes: int = 100,
    seed: int = 1,
    advance: Callable[[str, int, int], None] | None = None,
) -> Permuted:
    """Reorder the channels of a network so that pruning to n of every m input channels keeps more magnitude.

    An order is searched for on all weights together that read the same channels, and followed by whoever produces
    them: filters, biases, normalisations. So the network computes what it did, without a step more; only sums are taken
    in another order, which changes their last digits. Channels stay where something keeps them: inputs and outputs of
    the network, what is split, or read in groups that hold parts of channels.

    Source: Pool and Yu, "Channel permutations for N:M sparsity", NeurIPS 2021.

    Args:
        model: The model; it is not changed, and weights that stay as they are are shared.
        n: Weights that pruning keeps of every m consecutive input channels.
        m: Weights in such a group.
        names: Weights that are going to be pruned, all that N:M fits unless given.
        method: As for `mopruning.permutation.search`, and so are `window`, `escapes` and `seed`.
        window: Columns of a group of stripes.
        escapes: Random swaps to go on from.
        seed: Of the random numbers, which start anew for each group.
        advance: Called with the name of each group that is searched, its number and how many there are.

    Returns:
        The permuted network, and what was gained where.

    Raises:
        RecipeError: If the settings of the search are impossible.
        WeightError: If a weight holds NaN or infinity.

    >>> from mopruning.ir.builder import Builder
    >>> net = Builder("net", seed=1)
    >>> x = net.relu(net.conv(net.input("x", (3, 8, 8)), "conv1", 16, 3), "relu")
    >>> print(permute(net.model({"y": net.conv(x, "conv2", 8, 3)})))
    weight        shape     before   after  at best  efficacy  order of its input channels
    conv2.weight  8x16x3x3  75.30%  76.47%   78.95%     32.2%  searched
    total                   75.30%  76.47%   78.95%     32.2%  1 of 2 groups moved
    """
    fits = NM(n, m).misfit
    weights = {
        name: one
        for name, one in parameters(model).items()
        if one.role == "weight" and (names is None or name in names) and len(_shape(one)) > 1 and not fits(_shape(one))
    }
    arrays = {name: one.canonical(_content(one)) for name, one in weights.items()}
    found = coupling(model)
    plans = [_plan(model, found, group, weights, m) for group in found.groups]
    searched = [plan for plan in plans if not plan.reason]
    groups: list[PermutedGroup] = []
    orders: list[tuple[ChannelGroup, NumPyArray]] = []
    for plan in plans:
        permutation = None
        if not plan.reason:
            if advance is not None:
                advance(plan.group.name, len(orders) + 1, len(searched))
            matrices = [one.matrix(arrays[one.name]) for one in plan.readers]
            how = cast("Method", method)
            try:
                permutation = search(matrices, n, m, method=how, window=window, escapes=escapes, seed=seed)
            except WeightError as error:
                raise WeightError(f"{', '.join(one.name for one in plan.readers)}: {error}") from None
            orders.append((plan.group, permutation.order))
        groups.append(_outcome(plan, permutation))
    result = _reordered(model, orders)
    after = parameters(result)
    layers = []
    for name, one in weights.items():
        reason = _standing(name, found, groups)
        before = _matrix(arrays[name])
        now = before if reason else _matrix(after[name].canonical(_content(after[name])))
        values = kept(before, n, m), kept(now, n, m), kept_at_best(before, n, m), kept(before, m, m)
        layers.append(PermutedLayer(name, _shape(one), *values, reason))
    return Permuted(result, tuple(groups), tuple(layers))


@dataclass(frozen=True)
class _Plan:
    """A group, the weights to search on, and why it is left if it is."""

    group: ChannelGroup
    readers: tuple[Reader, ...] = ()
    reason: str = ""


def _plan(
    model: onnx_ir.Model, found: Coupling, group: ChannelGroup, weights: Mapping[str, Parameter], m: int
) -> _Plan:
    if group.fixed.any():
        return _Plan(group, reason=group.reasons[0])
    reading = [axis for axis in group.axes if axis.name in weights and axis.canonical == 1]  # an embedding's too
    seen = [reader(axis, weights[axis.name], group.channels, m) for axis in reading]
    readers = tuple(one for one in seen if isinstance(one, Reader))
    reasons = [one for one in seen if isinstance(one, str)]
    if not reasons and not readers:
        reasons = ["their order makes no difference" if seen else "no weight that is pruned reads them"]
    reason = reasons[0] if reasons else obstacle(model, found, group)
    return _Plan(group, readers, reason)


def _outcome(plan: _Plan, permutation: Permutation | None) -> PermutedGroup:
    reason = plan.reason if permutation is None else permutation.reason
    names = tuple(one.name for one in plan.readers)
    return PermutedGroup(plan.group.name, plan.group.channels, names, None if reason else permutation, reason)


def _standing(name: str, found: Coupling, groups: Sequence[PermutedGroup]) -> str:
    """Say why the input channels of a weight stand as they did; "" if some of them moved."""
    reading = [
        outcome
        for group, outcome in zip(found.groups, groups, strict=True)
        for axis in group.axes
        if axis.name == name and axis.canonical == 1
    ]
    if any(group.found is not None and name in group.weights for group in reading):
        return ""
    if not reading:
        return "no layer was found that produces them"
    return next((group.reason for group in reading if group.reason), "their order makes no difference")


def _reordered(model: onnx_ir.Model, orders: Sequence[tuple[ChannelGroup, NumPyArray]]) -> onnx_ir.Model:
    """Return the model with the channels of some groups in other orders."""
    result = model.clone()  # shares the tensors
    changes: dict[str, list[tuple[int, NumPyArray]]] = {}
    for group, order in orders:
        for axis in group.axes:
            moved = places(axis.channels, order)
            assert moved is not None  # or there would have been an obstacle
            if (moved != np.arange(moved.size)).any():
                changes.setdefault(axis.name, []).append((axis.axis, moved))
    for name, moves in changes.items():
        tensor = result.graph.initializers[name].const_value
        assert tensor is not None  # it has channels
        array = tensor.numpy()
        for index, moved in moves:
            array = np.take(array, moved, axis=index)
        result.graph.initializers[name].const_value = onnx_ir.Tensor(array, tensor.dtype, name=name)
    return result


def _content(parameter: Parameter) -> NumPyArray:
    tensor = parameter.value.const_value
    assert tensor is not None  # or it would be no parameter
    return tensor.numpy()


def _shape(parameter: Parameter) -> tuple[int, ...]:
    tensor = parameter.value.const_value
    assert tensor is not None
    return parameter.canonical(np.broadcast_to(np.False_, tensor.shape.numpy())).shape


def _matrix(weight: NumPyArray) -> NumPyArray:
    """Return a canonical weight as [rows, input channels]."""
    return np.moveaxis(weight, 1, -1).reshape(-1, weight.shape[1])
