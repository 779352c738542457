"""Shrinking: filters of zeros are taken out, and a smaller dense network is left that computes the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import onnx_ir
from onnx_ir import Value

from mopruning.ir.coupling.analysis import coupling
from mopruning.ir.coupling.groups import PRODUCES, Axis, ChannelGroup, Coupling
from mopruning.ir.parameters import source
from mopruning.ir.passes.channels import Absorption, Removal
from mopruning.ir.passes.linear_layers import LinearLayer, lay_out
from mopruning.ir.passes.shape_numbers import ask_for_less
from mopruning.ir.table import aligned

if TYPE_CHECKING:
    from rich.table import Table

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"
Kept: TypeAlias = "dict[Value, dict[int, NumPyArray]]"

_COLUMNS = ("parameter", "filters", "left", "zero filters that stay", "why")


@dataclass(frozen=True)
class ShrunkRow:
    """What has become of the filters of one weight.

    Args:
        parameter: Its name.
        filters: How many it had.
        left: How many it has now.
        zeros: How many of these are still zeros throughout.
        why: Why those stay; "" if there are none.
    """

    parameter: str
    filters: int
    left: int
    zeros: int
    why: str

    def texts(self) -> tuple[str, ...]:
        """Return the row as text, one for each column of the table."""
        return self.parameter, f"{self.filters:,}", f"{self.left:,}", f"{self.zeros:,}", self.why or "-"


@dataclass(frozen=True, eq=False)
class Shrunk:
    """A network without its zero filters, and what has become of each weight.

    Args:
        model: The smaller network.
        rows: The weights, in the order they are used in.
    """

    model: onnx_ir.Model
    rows: tuple[ShrunkRow, ...]

    @property
    def filters(self) -> int:
        """How many filters there were."""
        return sum(row.filters for row in self.rows)

    @property
    def left(self) -> int:
        """How many filters are left."""
        return sum(row.left for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain numbers, lists and dictionaries."""
        weights = [
            {"parameter": r.parameter, "filters": r.filters, "left": r.left, "zeros": r.zeros, "why": r.why}
            for r in self.rows
        ]
        return {"filters": self.filters, "left": self.left, "weights": weights}

    def table(self) -> Table:
        """Return the report as a rich table, for a terminal or a notebook."""
        from rich.table import Table
        from rich.text import Text

        table = Table(show_footer=True)
        for index, (column, footer) in enumerate(zip(_COLUMNS, self._total(), strict=True)):
            table.add_column(column, footer, justify="right" if index in (1, 2, 3) else "left", overflow="fold")
        for row in self.rows:
            table.add_row(*(Text(text) for text in row.texts()))
        return table

    def __str__(self) -> str:
        return aligned([_COLUMNS, *(row.texts() for row in self.rows), self._total()], right=(1, 2, 3))

    def _total(self) -> tuple[str, ...]:
        return "total", f"{self.filters:,}", f"{self.left:,}", f"{sum(row.zeros for row in self.rows):,}", ""


def shrink(model: onnx_ir.Model) -> onnx_ir.Model:
    """Return the model without the filters and channels that are zero or that nothing reads.

    A channel is taken out of every weight along which it runs, of its normalisation, bias and slope. What a zero filter
    leaves behind, a constant, is added to the bias of the layers that read it, or to the weights of another constant
    channel where padding makes it less at the edges. The outputs stay what they were, up to rounding. Channels that
    cannot go without changing them stay; `shrink_report` says which, and why.

    Args:
        model: The model; it is not changed, and what stays as it is is shared.

    Returns:
        A new model with smaller weights of the same names, which can be trained on.

    >>> from mopruning.ir.builder import Builder
    >>> net = Builder("net")
    >>> x = net.relu(net.conv(net.input("x", (1, 8, 8)), "conv1", 4, 3, padding=1), "relu")
    >>> model = net.model({"y": net.conv(x, "conv2", 2, 3, padding=1)})
    >>> weight = model.graph.initializers["conv1.weight"]
    >>> weight.const_value = onnx_ir.Tensor(weight.const_value.numpy() * np.float32([1, 0, 0, 1]).reshape(4, 1, 1, 1))
    >>> small = shrink(model).graph.initializers
    >>> small["conv1.weight"].shape, small["conv2.weight"].shape
    (Shape([2, 1, 3, 3]), Shape([2, 2, 3, 3]))
    """
    return shrink_report(model).model


def shrink_report(model: onnx_ir.Model) -> Shrunk:
    """Return what `shrink` returns, with a table of each weight's filters before and after, and why zero filters stay.

    Args:
        model: The model; it is not changed.

    >>> from mopruning.ir.zoo import build
    >>> print(shrink_report(build("mnist_cnn")))
    parameter     filters  left  zero filters that stay  why
    conv1.weight       64    64                       0  -
    conv2.weight      128   128                       0  -
    conv3.weight      256   256                       0  -
    fc.weight          10    10                       0  -
    total             458   458                       0
    """
    rows: dict[str, ShrunkRow] = {}
    while True:
        # Until nothing goes: the stand-in of one layer may make that of another needless.
        model, found, less = _round(model)
        rows |= {row.parameter: replace(row, filters=rows.get(row.parameter, row).filters) for row in found}
        if not less:
            return Shrunk(model, tuple(rows.values()))


def _round(model: onnx_ir.Model) -> tuple[onnx_ir.Model, tuple[ShrunkRow, ...], bool]:
    """Return a new model without what can go from this one, what has become of its weights, and whether any went."""
    result = model.clone()
    found = coupling(result)
    removal = Removal(result, found)
    rows = tuple(_rows(found, removal, result.graph.initializers))
    if not removal.gone.any():
        return result, rows, False
    kept: Kept = {
        value: {
            axis: np.flatnonzero((numbers < 0) | ~removal.gone[numbers])
            for axis, numbers in axes.items()
            if (removal.gone[numbers] & (numbers >= 0)).any()
        }
        for value, axes in found.tracks.items()
    }
    changes = _absorbed(result.graph, removal.absorptions, kept)
    ask_for_less(result.graph, found, kept)  # while shapes still are what they were
    _take(result.graph, kept, changes)
    return result, rows, True


def _absorbed(graph: onnx_ir.Graph, absorptions: tuple[Absorption, ...], kept: Kept) -> dict[Value, NumPyArray]:
    """Return weights and biases, in full size, that take over what removed constant channels did.

    A layer that has no bias gets one in place.
    """
    changes: dict[Value, NumPyArray] = {}
    for one in absorptions:
        layer = one.layer
        constants = np.where(one.columns, one.constants, 0.0)
        if one.stand_in is not None:
            _take_over(changes, one, constants)
            continue
        more = layer.response(constants).reshape(-1)
        bias = one.bias if one.bias is not None else _new_bias(graph, layer, kept)
        assert bias.const_value is not None
        old = changes.get(bias, bias.const_value.numpy())
        changes[bias] = (old.astype(np.float64) + one.sign * more.reshape(old.shape)).astype(old.dtype)
    return changes


def _take_over(changes: dict[Value, NumPyArray], one: Absorption, constants: NumPyArray) -> None:
    """Add to the weights of one constant channel, in place, those of others, as many times as they are larger."""
    node, place = one.layer.node, one.layer.place
    value, order = source(node.inputs[place])
    assert value is not None
    assert value.const_value is not None
    assert order is not None
    array = changes.setdefault(value, value.const_value.numpy().copy())
    blocks = lay_out(node, place, array.transpose(order) if order else array)
    assert blocks is not None  # `Removal` has made sure that this is a view
    for group in np.flatnonzero(one.columns.any(1)):
        columns = np.flatnonzero(constants[group])
        shares = constants[group][columns] / one.constants[group][one.stand_in]
        weights = one.layer.weight[group][:, columns].astype(np.float64)
        more = np.einsum("oik,i->ok", weights, shares)
        blocks[group][:, one.stand_in] = (blocks[group][:, one.stand_in] + more).astype(array.dtype)


def _new_bias(graph: onnx_ir.Graph, layer: LinearLayer, kept: Kept) -> Value:
    """Give a layer a bias of zeros in place; it has as many numbers as there are outputs before anything goes."""
    node = layer.node
    taken = {value.name for other in graph for value in (*other.inputs, *other.outputs) if value is not None}
    weight, _ = source(node.inputs[1])
    name = own = f"{str(weight.name if weight is not None else '').rpartition('.')[0] or node.name}.bias"
    number = 1
    while own in taken or own in graph.initializers:
        own, number = f"{name}_{number}", number + 1
    zeros = np.zeros(layer.outputs, layer.weight.dtype)
    tensor = onnx_ir.Tensor(zeros, name=own)
    bias = Value(name=own, shape=onnx_ir.Shape(zeros.shape), type=onnx_ir.TensorType(tensor.dtype), const_value=tensor)
    graph.initializers.add(bias)
    if len(node.inputs) < 3:
        node.resize_inputs(3)
    node.replace_input_with(2, bias)
    outputs = kept.get(node.outputs[0], {})
    kept[bias] = {0: outputs[layer.out_axis]} if layer.out_axis in outputs else {}
    return bias


def _take(graph: onnx_ir.Graph, kept: Kept, changes: Mapping[Value, NumPyArray]) -> None:
    """Cut every weight and declared shape down to what is kept, in place."""
    for value, axes in kept.items():
        if value.is_initializer():
            _cut(value, axes, changes.get(value))
        elif axes and value.shape is not None:
            value.shape = onnx_ir.Shape([axes[i].size if i in axes else size for i, size in enumerate(value.shape)])
    for value, array in changes.items():
        if value not in kept:
            _cut(value, {}, array)


def _cut(value: Value, axes: Mapping[int, NumPyArray], changed: NumPyArray | None) -> None:
    """Give an initializer other content in place, where it has any."""
    if value.const_value is None or (not axes and changed is None):
        return
    array = value.const_value.numpy() if changed is None else changed
    for axis, places in axes.items():
        array = array.take(places, axis)
    tensor = onnx_ir.Tensor(np.ascontiguousarray(array), value.const_value.dtype, name=value.name)
    value.const_value = tensor
    value.shape = onnx_ir.Shape(array.shape)


def _rows(found: Coupling, removal: Removal, values: Mapping[str, Value]) -> Iterator[ShrunkRow]:
    """Say of each weight that makes channels what becomes of its filters."""
    parts: dict[str, list[tuple[NumPyArray, list[str]]]] = {}
    for group, offset in zip(found.groups, found.offsets[:-1], strict=True):
        makers = [(axis, _zero_filters(axis, values[axis.name])) for axis in group.along(PRODUCES)]
        for axis, empty in makers:
            own = axis.channels >= 0
            gone = np.zeros(own.size, np.bool_)
            gone[own] = removal.gone[axis.channels[own] + offset]
            stay = np.flatnonzero(own & empty & ~gone)
            why = [_reason(group, int(axis.channels[place]), int(offset), removal, makers) for place in stay]
            counts = np.array([own.sum(), (own & ~gone).sum(), stay.size]) * axis.blocks
            parts.setdefault(axis.name, []).append((counts, why))
    for name, found_ in parts.items():  # several groups make channels of one weight where it is cut
        filters, left, zeros = np.sum([counts for counts, _ in found_], 0).tolist()
        reasons = dict.fromkeys(reason for _, why in found_ for reason in why)
        yield ShrunkRow(name, filters, left, zeros, "; ".join(reasons))


def _zero_filters(axis: Axis, value: Value) -> NumPyArray:
    """Return along an axis of a weight where everything is zero."""
    assert value.const_value is not None
    array = value.const_value.numpy()
    zeros: NumPyArray = ~(array != 0).any(tuple(other for other in range(array.ndim) if other != axis.axis))
    return zeros


def _reason(
    group: ChannelGroup, channel: int, offset: int, removal: Removal, makers: list[tuple[Axis, NumPyArray]]
) -> str:
    """Say why a zero filter stays."""
    if group.fixed[channel]:
        return "; ".join(group.reasons)
    others = [axis.name for axis, empty in makers if (~empty[axis.channels == channel]).any()]
    if others:
        return f"not zero in {others[0]}" + (f" and {len(others) - 1} more" if len(others) > 1 else "")
    return removal.reason(channel + offset)
