"""Lowering: builds a symbol from an IR graph, operator by operator, and collects the contents of its variables."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
import onnx_ir
from onnx_ir import Node, Value

from mopruning.backends.mxnet.exporting.variables import NOTES
from mopruning.backends.mxnet.framework import mx
from mopruning.ir import lowering
from mopruning.ir.lowering import Refusal, open_shape, sizes_of
from mopruning.ir.roles import default_roles

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"
Symbol: TypeAlias = Any  # mx.sym.Symbol, which has no types

_TYPES = ("float32", "float64", "float16", "uint8", "int32", "int8", "int64", "bool")
_MODULES = (mx.sym, mx.sym._internal, mx.sym.contrib)


class Lowering(lowering.Lowering[Symbol]):
    """Builds a symbol from an IR graph; one function an operator tells it what to add.

    MXNet's older operators, which all of its programs know, have no arrays without axes: a single number is an array of
    one axis there.

    Args:
        model: The IR model, with shapes inferred.
        operators: Operator -> the function that adds it.

    Attributes:
        contents: Variable -> its numbers; inputs of the graph have none.
        kinds: Variable -> "parameter", "buffer" or "constant".
        open_input: An input of the graph whose first axis is open, and its symbol; None if there is none.
    """

    def __init__(self, model: onnx_ir.Model, operators: Mapping[str, Callable[[Lowering, Node], None]]) -> None:
        super().__init__(model, operators, "MXNet")
        self.contents: dict[str, NumPyArray] = {}
        self.kinds: dict[str, str] = {}
        self.open_input: tuple[Value, Symbol] | None = None
        self._fetched: dict[str, Symbol] = {}
        self._usual = default_roles(model)
        self._taken = {str(value.name) for value in (*model.graph.inputs, *model.graph.initializers.values())}

    # Variables

    def input(self, value: Value, index: int) -> Symbol:
        """Add a variable for an input of the graph, the `index`-th."""
        sizes = list(value.shape or ())
        shape = [size if isinstance(size, int) else str(size.value or "") for size in sizes]
        variable = self._variable(str(value.name), dtype_of(value), {"shape": shape, "index": index})
        self.set(value, variable)
        if shape and not isinstance(shape[0], int) and self.open_input is None:
            self.open_input = value, variable
        return variable

    def fetch(self, name: str) -> Symbol:
        """Return the variable of a parameter or buffer."""
        if name not in self._fetched:
            content = self.model.graph.initializers[name].const_value
            assert content is not None
            role = self.roles[name]
            notes = {"role": role} if role != self._usual.get(name) else {}
            self._fetched[name] = self._held(name, content.numpy(), role, notes)
        return self._fetched[name]

    def _held(self, name: str, content: NumPyArray, role: str, notes: Mapping[str, Any]) -> Symbol:
        if content.dtype.name not in _TYPES or not content.size:
            raise Refusal(f"{name!r} is {content.dtype.name} {list(content.shape)}, of which MXNet has no arrays")
        self.contents[name] = content if content.ndim else content.reshape(1)
        self.kinds[name] = role
        notes = dict(notes) if content.ndim else {**notes, "scalar": True}
        return self._variable(name, content.dtype.name, notes)

    def _variable(self, name: str, dtype: str, notes: Mapping[str, Any]) -> Symbol:
        text = json.dumps(dict(notes), separators=(",", ":"))
        return mx.sym.var(name, dtype=dtype, attr={NOTES: text} if notes else None)

    # Values

    def symbol(self, value: Value) -> Symbol:
        """Return the symbol that gives a value; a constant becomes a variable that does not train."""
        lowered = self.get(value)
        if not isinstance(lowered, np.ndarray):
            return lowered
        name = str(value.name)
        if value.is_initializer():
            return self.once(lowered, lambda: self._held(name, lowered, "constant", {"role": "constant"}))
        return self.once(lowered, lambda: self.constants(f"{name}.constant", lowered))

    # Operators

    def call(self, operator: str, *inputs: Symbol, name: str | None = None, **attributes: Any) -> Symbol:
        """Add one of MXNet's classic operators.

        Args:
            operator: Its name: "broadcast_add", "_maximum_scalar", "BilinearResize2D".
            inputs: Its inputs.
            name: Name of the node; made up where it does not stand for a whole node of the IR.
            attributes: Its attributes.
        """
        function = next(getattr(module, operator) for module in _MODULES if hasattr(module, operator))
        return function(*inputs, name=self._name(name), **attributes)

    def numpy(self, operator: str, *inputs: Symbol, name: str | None = None, **attributes: Any) -> Symbol:
        """Add an operator of MXNet's NumPy interface, between classic ones."""
        function = getattr(mx.sym.numpy._internal, operator)
        given = [one.as_np_ndarray() for one in inputs]
        return function(*given, name=self._name(name), **attributes).as_nd_ndarray()

    def scalar(self, operator: str, x: Symbol, number: float, name: str | None = None) -> Symbol:
        """Add a classic operator of an array and a number, such as "_plus_scalar"."""
        return self.call(operator, x, name=name, scalar=number)

    def shaped(self, x: Symbol, value: Value, name: str | None = None) -> Symbol:
        """Reshape to the shape that a value of the IR has.

        Raises:
            Refusal: If that is not known, or has no elements.
        """
        shape = open_shape(value)
        if 0 in shape:
            raise Refusal("it gives no elements, of which MXNet has no arrays")
        return self.call("reshape", x, name=name, shape=tuple(shape) or (1,))

    def sliced(self, x: Symbol, axis: int, start: int, stop: int | None) -> Symbol:
        """Cut a range out of an axis."""
        return self.call("slice_axis", x, axis=axis, begin=start, end=stop)

    def like_batch(self, x: Symbol, value: Value, axis: int) -> Symbol:
        """Repeat an array, of length 1 along `axis`, as often as a value has elements there: once a sample.

        Raises:
            Refusal: If that is not the open first axis of an input of the graph.
        """
        size = None if value.shape is None else value.shape[axis]
        if self.open_input is None or self.open_input[0].shape[0] != size:  # type: ignore[index]
            raise Refusal(f"the size of axis {axis} of {value.name!r} is computed; it must be known, or the batch")
        return self.call("broadcast_like", x, self.open_input[1], lhs_axes=(axis,), rhs_axes=(0,))

    def constants(self, name: str, numbers: NumPyArray) -> Symbol:
        """Add a table that an operator needs: a variable that does not train, or an operator where all are the same."""
        dtype = numbers.dtype.name
        if dtype in _TYPES[:3] and numbers.size and (numbers == numbers.reshape(-1)[0]).all():
            number = float(numbers.reshape(-1)[0])
            return self.call("_full", name=name, shape=numbers.shape or (1,), value=number, dtype=dtype)
        return self._held(self._unused(name), numbers, "constant", {"role": "constant"})

    def _name(self, name: str | None) -> str | None:
        """Keep the name of a node of the IR; of others MXNet makes one up, below that of the node they belong to."""
        return self._unused(name) if name else self._unused(f"{self.place}.part")

    def _unused(self, name: str) -> str:
        number, own = 0, name
        while own in self._taken:
            number, own = number + 1, f"{name}_{number + 1}"
        self._taken.add(own)
        return own


def dtype_of(value: Value) -> str:
    """Return NumPy's name of the type of a value.

    Raises:
        Refusal: If MXNet has no such type.
    """
    name = "float32" if value.dtype is None else value.dtype.numpy().name
    if name not in _TYPES:
        raise Refusal(f"{value.name!r} is {name}, of which MXNet has no arrays")
    return name


def spatial_sizes(value: Value) -> list[int]:
    """Return the sizes behind batch and channels.

    Raises:
        Refusal: If one is open.
    """
    sizes = sizes_of(value)[2:]
    if None in sizes:
        raise Refusal(f"the size of {value.name!r} is open; give the graph's inputs shapes")
    return [size for size in sizes if size is not None]
