"""Which channels can be removed without a change of the outputs, and what has to be put in their place."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import onnx_ir
from onnx_ir import Node, Value

from mopruning.ir.coupling.groups import Coupling
from mopruning.ir.parameters import source
from mopruning.ir.passes.constant_channels import ConstantChannels, Floats
from mopruning.ir.passes.linear_layers import LinearLayer, lay_out, linear_layer

Numbers: TypeAlias = "np.ndarray[Any, np.dtype[np.int64]]"
Flags: TypeAlias = "np.ndarray[Any, np.dtype[np.bool_]]"

_CLOSE = 0.1
"""A channel that stands for others must be this large against them: a smaller one is a difference of larger numbers,
and what rounding has left of it would be multiplied."""


@dataclass(frozen=True, eq=False)
class Absorption:
    """What a layer has to do in place of removed channels that were constant.

    Args:
        layer: The layer.
        columns: Flags [groups, inputs]: the removed ones that it reads.
        constants: float64 [groups, inputs]: what these channels were.
        bias: The initializer that takes the sum over: a bias, or a running mean of the normalisation behind, from which
            it is subtracted; None where the layer has none yet.
        sign: 1, or -1 for a running mean.
        stand_in: Where there is no such sum: the input (index within its group) whose weights take theirs over.
    """

    layer: LinearLayer
    columns: Flags
    constants: Floats
    bias: Value | None = None
    sign: int = 1
    stand_in: int | None = None


@dataclass(eq=False)
class _Reader:
    """A place where channels are added up."""

    node: Node
    inputs: Numbers  # [groups, inputs]: numbers of the channels, -1 for one of no group
    outputs: Numbers | None  # [groups, outputs]
    constants: Floats  # [groups, inputs]
    layer: LinearLayer | None  # None where both factors are computed: everything counts as read
    bias: Value | None = None
    sign: int = 1
    adds: bool = False  # whether constants can go into a bias
    gathers: bool = False  # whether another channel can take weights over
    needed: Flags = field(init=False)  # [groups, inputs]: read by an output that stays
    _done: Flags | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.needed = np.zeros(self.inputs.shape, np.bool_)

    def update(self, keep: Flags) -> None:
        """Take in what outputs read that are now known to stay, in place."""
        if self.layer is None or self.outputs is None:
            self.needed[:] = True if self.layer is None else self.layer.nonzero.any(1)
            return
        rows = keep[self.outputs]
        fresh = rows if self._done is None else rows & ~self._done
        for group in np.flatnonzero(fresh.any(1)):
            self.needed[group] |= self.layer.nonzero[group][fresh[group]].any(0)
        self._done = rows


class Removal:
    """The choice of channels that go.

    Args:
        model: The model; its weights are read.
        found: The analysis of its channels.

    Attributes:
        gone: Flags [channels of all groups]: those that go.
        absorptions: What takes the place of constant ones.
    """

    def __init__(self, model: onnx_ir.Model, found: Coupling) -> None:
        self._found = found
        # the last one stands for -1, a channel of no group
        self._keep: Flags = np.concatenate([*(group.fixed for group in found.groups), np.ones(1, np.bool_)])
        self._why = np.full(self._keep.size, -1, np.int64)
        self._reasons: list[str] = []
        known = ConstantChannels(model.graph, found)
        self._readers = [reader for node in model.graph for reader in _readers(node, found, known)]
        self._axes = list(_distinct(found))
        while self._hold_read() or self._hold_stand_ins():
            pass
        self.gone = ~self._keep[:-1]
        self.absorptions = tuple(a for reader in self._readers if (a := self._absorption(reader)) is not None)

    def reason(self, channel: int) -> str:
        """Return why a channel that is not fixed stays."""
        return self._reasons[self._why[channel]] if self._why[channel] >= 0 else ""

    def _hold(self, channels: Numbers, why: str) -> bool:
        """Keep channels in place, and say whether that changed anything."""
        channels = channels[~self._keep[channels]]
        if channels.size:
            if why not in self._reasons:
                self._reasons.append(why)
            self._keep[channels] = True
            self._why[channels] = self._reasons.index(why)
        return bool(channels.size)

    def _hold_read(self) -> bool:
        """Keep what stays because an output that stays reads it, and one channel of each axis, in place."""
        changed = False
        for reader in reversed(self._readers):
            reader.update(self._keep)
            read = reader.needed & np.isnan(reader.constants)
            changed |= self._hold(reader.inputs[read], f"{reader.node.name} reads it")
        for numbers in self._axes:
            if not self._keep[numbers].any():
                changed |= self._hold(numbers[:1], "one has to stay")
        return changed

    def _hold_stand_ins(self) -> bool:
        """Keep channels that take over for others, in place; only after all that stays anyway is known."""
        changed = [self._hold_stand_in(reader) for reader in self._readers if not reader.adds]
        return any(changed)

    def _hold_stand_in(self, reader: _Reader) -> bool:
        """Keep one constant channel of those whose weights another has to take over, in place."""
        columns = self._to_absorb(reader)
        if not columns.any() or self._stand_in(reader, columns) is not None:
            return False
        sizes = np.where(reader.constants != 0, np.abs(reader.constants), np.nan)
        needed = columns.any(1)
        least = sizes[needed].min(0) if reader.gathers else np.full(sizes.shape[1], np.nan)
        own = columns.any(0) & ~np.isnan(least)
        if own.any():
            best = int(np.argmax(np.where(own, least, -1.0)))
            if least[best] >= _CLOSE * np.abs(reader.constants[columns]).max():
                return self._hold(reader.inputs[:, best], f"a constant that {reader.node.name} needs")
        return self._hold(reader.inputs[columns], f"a constant that {reader.node.name} needs")

    def _to_absorb(self, reader: _Reader) -> Flags:
        result: Flags = reader.needed & ~self._keep[reader.inputs] & (reader.constants != 0)
        return result

    def _stand_in(self, reader: _Reader, columns: Flags) -> int | None:
        """Return the input that stays and can take the weights of others over."""
        if not reader.gathers:
            return None
        needed = columns.any(1)
        sizes = np.abs(reader.constants[needed])
        stays = self._keep[reader.inputs].all(0)
        least = np.where(stays & ~np.isnan(sizes).any(0), sizes.min(0), 0.0)
        best = int(np.argmax(least))
        return best if least[best] >= _CLOSE * np.abs(reader.constants[columns]).max() else None

    def _absorption(self, reader: _Reader) -> Absorption | None:
        columns = self._to_absorb(reader)
        if reader.layer is None or not columns.any():
            return None
        if reader.adds:
            return Absorption(reader.layer, columns, reader.constants, reader.bias, reader.sign)
        return Absorption(reader.layer, columns, reader.constants, stand_in=self._stand_in(reader, columns))


def _distinct(found: Coupling) -> Iterator[Numbers]:
    """Return the channels along each axis of each value once, where nothing else stands along it."""
    seen = set()
    for axes in found.tracks.values():
        for numbers in axes.values():
            unique = np.unique(numbers)
            if unique[0] >= 0 and (key := unique.tobytes()) not in seen:
                seen.add(key)
                yield unique


def _readers(node: Node, found: Coupling, known: ConstantChannels) -> Iterator[_Reader]:
    layer = linear_layer(node, found)
    if layer is not None:
        inputs = found.tracks.get(layer.value, {}).get(layer.axis)
        if not layer.mixes or inputs is None:
            return
        outputs = found.tracks.get(node.outputs[0], {}).get(layer.out_axis)
        shape = (layer.groups, -1)
        reader = _Reader(
            node,
            inputs.reshape(shape),
            None if outputs is None else outputs.reshape(shape),
            known.of(layer.value, layer.axis, inputs.size).reshape(shape),
            layer,
        )
        _find_place(reader, layer)
        if not reader.adds and not reader.gathers:
            reader.constants = np.where(reader.constants == 0, 0.0, np.nan)
        yield reader
    elif node.op_type in ("MatMul", "Conv", "ConvTranspose", "Gemm", "LSTM", "GRU") and not node.domain:
        value, weight = node.inputs[:2]
        rank = len(known.shape(value) or ())
        axis = 2 if node.op_type in ("LSTM", "GRU") else rank - 1 if node.op_type == "MatMul" else 1
        inputs = None if value is None else found.tracks.get(value, {}).get(axis)
        if inputs is not None:
            zero = known.of(value, axis, inputs.size) == 0
            if node.op_type == "MatMul" and weight is not None:  # a product of two computed values: either may be 0
                zero |= known.of(weight, max(0, len(known.shape(weight) or ()) - 2), inputs.size) == 0
            yield _Reader(node, inputs[None], None, np.where(zero, 0.0, np.nan)[None], None)


def _find_place(reader: _Reader, layer: LinearLayer) -> None:
    """Note in place where a layer's constants can go: into a bias that is its own, or into its own weights."""
    node = layer.node
    weight, order = source(node.inputs[layer.place])
    if (
        weight is not None
        and weight.const_value is not None
        and order is not None
        and _is_own(node.inputs[layer.place])
    ):
        probe = np.empty(weight.const_value.shape.numpy(), np.bool_)
        laid = lay_out(node, layer.place, probe.transpose(order) if order else probe)
        reader.gathers = laid is not None and np.may_share_memory(laid, probe)
    if not layer.uniform:
        return
    users = list(node.outputs[0].uses()) if not node.outputs[0].is_graph_output() else []
    behind = users[0].node if len(users) == 1 else None
    bias = node.inputs[2] if node.op_type != "MatMul" and len(node.inputs) > 2 else None
    if bias is not None:
        reader.bias, reader.adds = bias, _is_bias(bias, layer.outputs)
    elif behind is not None and behind.op_type == "BatchNormalization" and users[0].idx == 0:
        mean = behind.inputs[3]
        reader.bias, reader.sign, reader.adds = mean, -1, _is_bias(mean, layer.outputs)
    elif behind is not None and behind.op_type == "Add" and node.op_type == "MatMul":
        addend = behind.inputs[1 - users[0].idx]
        reader.bias, reader.adds = addend, _is_bias(addend, layer.outputs)
    elif node.op_type in ("Conv", "Gemm"):
        reader.adds = True


def _is_own(value: Value | None) -> bool:
    """Whether nothing but one node uses an initializer, through whatever turns it."""
    while value is not None:
        if len(value.uses()) != 1 or value.is_graph_output() or value.is_graph_input():
            return False
        if value.is_initializer():
            return True
        node = value.producer()
        value = node.inputs[0] if node is not None and node.inputs else None
    return False


def _is_bias(value: Value | None, size: int) -> bool:
    """Whether a value is an initializer of one number an output, which nothing else uses."""
    if value is None or not value.is_initializer() or value.const_value is None or not _is_own(value):
        return False
    shape = value.const_value.shape.numpy()
    return bool(shape) and shape[-1] == size and value.const_value.size == size
