"""Lowering: collects the attributes and statements of a Cell, value by value, as the text of its source."""

from __future__ import annotations

import keyword
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnx_ir
from mindspore import nn
from onnx_ir import Node, Value

from mopruning.ir import lowering
from mopruning.ir.lowering import Refusal, sizes_of

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"

TYPES = ("float32", "float64", "float16", "bfloat16", "uint8", "int32", "int8", "int64", "bool")
_LITERAL = 16  # numbers; a longer constant goes into the checkpoint
_WORDS = ("ms", "np", "nn", "ops", "Parameter", "Tensor", "Path", "self", "construct", "named", "lstm", "gru")


@dataclass(frozen=True, eq=False)
class Var:
    """A tensor in the written network.

    Args:
        text: Expression that always gives it, such as "self.scale"; "" for a variable, which is named when printed.
    """

    text: str = ""


@dataclass(frozen=True)
class Statement:
    """One line of `construct`.

    Args:
        target: What it gives.
        template: Its expression, with {} for each operand.
        operands: Variables and expressions.
        place: Name of the node that it stands for.
    """

    target: Var
    template: str
    operands: tuple[Var, ...]
    place: str


class Lowering(lowering.Lowering[Var]):
    """Writes down the network of an IR graph; one function an operator tells it what to add.

    Args:
        model: The IR model, with shapes inferred.
        operators: Operator -> the function that adds it.

    Attributes:
        attributes: Attribute of the Cell -> expression that builds it, in the order of `__init__`.
        statements: What `construct` does.
        inputs: Names and variables of the inputs.
        contents: Parameter -> its numbers.
        constants: Attribute -> the numbers of a constant that is kept in the checkpoint.
        outputs: What `construct` returns.
    """

    def __init__(self, model: onnx_ir.Model, operators: Mapping[str, Callable[[Lowering, Node], None]]) -> None:
        super().__init__(model, operators, "MindSpore")
        self.attributes: dict[str, str] = {}
        self.statements: list[Statement] = []
        self.inputs: dict[str, Var] = {}
        self.contents: dict[str, NumPyArray] = {}
        self.constants: dict[str, NumPyArray] = {}
        self.outputs: list[Var] = []
        self._open: dict[str, tuple[Var, int]] = {}
        self._owned: dict[str, str] = {}  # initializer -> attribute of the layer that holds it
        self._fetched: dict[str, Var] = {}
        self._cells: dict[str, Var] = {}

    def input(self, value: Value, name: str) -> None:
        """Add an input of the graph."""
        variable = Var()
        self.inputs[name] = variable
        self.set(value, variable)
        for axis, size in enumerate(value.shape or ()):
            if not isinstance(size, int) and size.value is not None:
                self._open.setdefault(str(size.value), (variable, axis))

    # Values

    def tensor(self, value: Value) -> Var:
        """Return what stands for a value, a constant as a tensor."""
        lowered = self.get(value)
        return self.held(lowered, str(value.name)) if isinstance(lowered, np.ndarray) else lowered

    def operand(self, value: Value) -> Var:
        """Return what stands for a value; a constant of one number without axes as that number."""
        lowered = self.get(value)
        if not isinstance(lowered, np.ndarray):
            return lowered
        if lowered.ndim == 0 and lowered.dtype.name in TYPES:
            return Var(literal(lowered.item() if lowered.dtype.name != "bfloat16" else float(lowered)))
        return self.held(lowered, str(value.name))

    def held(self, array: NumPyArray, name: str) -> Var:
        """Return an attribute that holds a constant."""
        return self.once(array, lambda: Var(f"self.{self._constant(array, name)}"))

    def _constant(self, array: NumPyArray, name: str) -> str:
        dtype = ms_dtype(array.dtype.name)
        if array.size <= _LITERAL and array.size:
            numbers = array.astype(np.float64) if array.dtype.name == "bfloat16" else array
            return self.attribute(f"Tensor({literal(numbers.tolist())}, {dtype})", name)
        attribute = self._unused(name)
        self.attributes[attribute] = f"constants[{attribute!r}]"
        self.constants[attribute] = array
        return attribute

    def shape_of(self, value: Value, *, reshape: bool = True) -> str:
        """Return the text of a shape, where an open axis is -1, or for anything but a reshape what an input has.

        Raises:
            Refusal: If it is not known before the network runs.
        """
        sizes = sizes_of(value)
        if reshape and sizes.count(None) <= 1:
            return literal(tuple(-1 if size is None else size for size in sizes))
        texts = []
        for size in value.shape or ():
            if isinstance(size, int):
                texts.append(str(size))
                continue
            symbol = str(size.value)
            if symbol not in self._open:
                raise Refusal(f"the shape of {value.name!r} is {list(value.shape or ())}, which no input has")
            variable, axis = self._open[symbol]
            texts.append(f"{self._input_name(variable)}.shape[{axis}]")
        return "(" + ", ".join(texts) + ("," if len(texts) == 1 else "") + ")"

    def _input_name(self, variable: Var) -> str:
        return next(name for name, one in self.inputs.items() if one is variable)

    # Attributes

    def attribute(self, expression: str, name: str) -> str:
        """Add an attribute and return its name."""
        own = self._unused(name)
        self.attributes[own] = expression
        return own

    def primitive(self, expression: str, name: str) -> str:
        """Add an operator that has settings, once for all places that are alike; return how it is called."""
        if expression not in self._cells:
            self._cells[expression] = Var(f"self.{self.attribute(expression, name)}")
        return self._cells[expression].text

    def layer(self, expression: str, tensors: Mapping[str, Value | None]) -> str | None:
        """Return how the layer is called that holds some initializers; it is added when it is first used.

        Args:
            expression: What builds it.
            tensors: Attribute of the layer -> initializer; None where the layer has none.

        Returns:
            "self.conv1"; None if another layer holds one of the initializers, or one is of the wrong kind.
        """
        given = {attribute: value for attribute, value in tensors.items() if value is not None}
        for attribute, value in given.items():
            expected = "buffer" if attribute.startswith("moving_") else "parameter"
            if self.roles.get(str(value.name)) != expected:
                return None
        names = {attribute: str(value.name) for attribute, value in given.items()}
        paths = {name.rpartition(".")[0] for name in names.values()}
        usual = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
        usual["embedding_table"] = "weight"
        path = paths.pop() if len(paths) == 1 else ""
        if path and all(name == f"{path}.{usual.get(key, key)}" for key, name in names.items()):
            built = f"named({expression}, {path!r})"
        else:
            built = f"named({expression}, {', '.join(f'{key}={name!r}' for key, name in names.items())})"
        owners = {self._owned.get(name) for name in names.values()}
        if owners != {None}:
            (owner, *others) = owners
            return f"self.{owner}" if not others and owner and self.attributes.get(owner) == built else None
        if any(name in self._fetched for name in names.values()):
            return None
        attribute = self.attribute(built, path or self.place)
        for name in names.values():
            self._owned[name] = attribute
            self.contents[name] = self._content(name)
        return f"self.{attribute}"

    def fetch(self, name: str) -> Var:
        """Return what reads a parameter or buffer, in whatever layer it is."""
        if name not in self._fetched:
            if name in self._owned:
                owner, built = self._owned[name], self.attributes[self._owned[name]]
                attribute = _attribute_of(built, name)
                self._fetched[name] = Var(f"self.{owner}.{attribute}")
            else:
                content = self._content(name)
                self.contents[name] = content
                empty = f"ops.zeros({literal(content.shape)}, {ms_dtype(content.dtype.name)})"
                frozen = "" if self.roles[name] == "parameter" else ", requires_grad=False"
                attribute = self.attribute(f"Parameter({empty}, name={name!r}{frozen})", name)
                self._fetched[name] = Var(f"self.{attribute}")
        return self._fetched[name]

    def _content(self, name: str) -> NumPyArray:
        content = self.model.graph.initializers[name].const_value
        assert content is not None
        array = content.numpy()
        ms_dtype(array.dtype.name)
        return array

    def _unused(self, name: str) -> str:
        own = re.sub(r"\W", "_", name, flags=re.ASCII)
        own = own if re.match(r"[A-Za-z]", own) else f"layer_{own}"
        base, number = own, 1
        while (
            own in self.attributes or keyword.iskeyword(own) or own in _WORDS or hasattr(nn.Cell, own) or own in _HELD
        ):
            own, number = f"{base}_{number}", number + 1
        return own

    # Statements

    def emit(self, template: str, *operands: Var) -> Var:
        """Add a statement and return the variable that it sets."""
        target = Var()
        self.statements.append(Statement(target, template, operands, self.place))
        return target

    def put(self, node: Node, template: str, *operands: Var) -> None:
        """Add a statement that gives the first output of a node."""
        self.set(node.outputs[0], self.emit(template, *operands))

    def reshape(self, x: Var, like: Value) -> Var:
        """Give a tensor the shape of a value."""
        return self.emit(f"ops.reshape({{}}, {self.shape_of(like)})", x)


_HELD = frozenset(vars(nn.Cell())) | {"training"}


def _attribute_of(built: str, name: str) -> str:
    """Return the attribute that holds a parameter in a layer that is built so."""
    found = re.search(rf"(\w+)={re.escape(repr(name))}", built)
    if found:
        return found[1]
    last = name.rpartition(".")[2]
    if "BatchNorm" in built or "LayerNorm" in built:
        native = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
        return native[last]
    return "embedding_table" if "nn.Embedding" in built else last


def ms_dtype(name: str) -> str:
    """Return how a type is written in source.

    Raises:
        Refusal: If MindSpore has no such type.
    """
    if name not in TYPES:
        raise Refusal(f"MindSpore has no {name}")
    return "ms.bool_" if name == "bool" else f"ms.{name}"


def dtype_of(value: Any) -> str:
    """Return how the type of a value is written in source."""
    dtype = value.dtype if value.const_value is None else value.const_value.dtype
    if dtype is None:
        raise Refusal(f"the type of {value.name!r} is not known")
    return ms_dtype(dtype.numpy().name)


def dtype_option(value: Any) -> str:
    """Return the argument of a layer for the type of its weights; "" for float32."""
    dtype = dtype_of(value)
    return "" if dtype == "ms.float32" else f", dtype={dtype}"


def literal(value: Any) -> str:
    """Return a number or a nested sequence of numbers as source."""
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    if isinstance(value, (list, tuple)):
        inner = ", ".join(literal(item) for item in value)
        if isinstance(value, list):
            return f"[{inner}]"
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    return repr(value)


def pair(values: Sequence[int]) -> str:
    """Return a number for each of two axes as source: one number where both are equal.

    >>> pair([3, 3]), pair([3, 5])
    ('3', '(3, 5)')
    """
    return literal(values[0]) if len(set(values)) == 1 else literal(tuple(values))
