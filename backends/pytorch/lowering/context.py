"""Lowering: builds the fx graph and the modules that hold its parameters, value by value."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import onnx_ir
import torch
from onnx_ir import Node, Value
from torch import Tensor, fx, nn

from mopruning.backends.pytorch.lowering import functions
from mopruning.backends.pytorch.notes import Notes
from mopruning.errors import FormatError
from mopruning.ir import lowering

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"

INDEX = (onnx_ir.DataType.INT64, onnx_ir.DataType.INT32)


@dataclass(frozen=True)
class Sizes:
    """Whole numbers that are known before the network computes, or follow from the shapes of its tensors.

    ONNX computes with shapes as with any tensor; in PyTorch they are plain numbers, which cost nothing on a GPU.

    Args:
        items: Numbers, or fx nodes that give one.
        scalar: Whether this stands for a tensor without axes.
    """

    items: tuple[int | fx.Node, ...]
    scalar: bool = False


Lowered: TypeAlias = "fx.Node | Sizes | NumPyArray"
"""What stands for an ONNX value: an fx node that gives a tensor, sizes, or a constant."""


@dataclass(frozen=True)
class Layer:
    """One module of the network and how to build it again.

    Args:
        kind: Its class.
        arguments: Keyword arguments of the class.
    """

    kind: type[nn.Module]
    arguments: Mapping[str, Any] = field(default_factory=dict)


class Lowering(lowering.Lowering["fx.Node | Sizes"]):
    """Builds an fx graph from an IR graph; one function an operator tells it what to add.

    Args:
        model: The IR model, with shapes inferred.
        notes: What PyTorch knows beyond the graph.
        operators: Operator -> the function that adds it.

    Attributes:
        graph: The fx graph so far.
        root: Holds modules, parameters and buffers under their paths.
        layers: Path of each module -> how it was built.
    """

    def __init__(
        self,
        model: onnx_ir.Model,
        notes: Notes,
        operators: Mapping[str, Callable[[Lowering, Node], None]],
    ) -> None:
        super().__init__(model, operators, "PyTorch")
        self.notes = notes
        self.graph = fx.Graph()
        self.root = nn.Module()
        self.layers: dict[str, Layer] = {}
        self.first_input: fx.Node | None = None
        self._owned: dict[str, str] = {}  # initializer -> path of the module that holds it
        self._fetched: dict[str, fx.Node] = {}
        kept = [name for name in model.graph.initializers if self.roles[name] != "constant"]
        parents = ([*name.split(".")[:-1]] for name in kept)
        self._reserved = {".".join(parts[: i + 1]) for parts in parents for i in range(len(parts))} | set(kept)

    # Values

    def tensor(self, value: Value) -> fx.Node:
        """Return the fx node of a tensor."""
        return self.as_tensor(self.get(value), str(value.name))

    def as_tensor(self, lowered: Lowered, name: str) -> fx.Node:
        """Turn sizes or a constant into a tensor."""
        if isinstance(lowered, fx.Node):
            return lowered
        if isinstance(lowered, Sizes):
            numbers = lowered.items[0] if lowered.scalar else list(lowered.items)
            return self.call(functions.sizes, numbers, self.first_input, name=name)
        layer = Layer(functions.Constant)
        return self.once(lowered, lambda: self.call_module(name, functions.Constant(to_torch(lowered)), layer))

    def operand(self, value: Value) -> fx.Node | int | float | bool:
        """Return a tensor, or the number of a constant or size without axes, which PyTorch takes as well."""
        lowered = self.get(value)
        if isinstance(lowered, Sizes) and lowered.scalar:
            return lowered.items[0]
        if isinstance(lowered, np.ndarray) and lowered.ndim == 0:
            number = lowered.item()
            return (
                number if isinstance(number, (bool, int, float)) else float(number)
            )  # ml_dtypes has numbers of its own
        return self.as_tensor(lowered, str(value.name))

    def constant(self, value: Value | None) -> NumPyArray | None:
        """Return the content of a constant, or None."""
        if value is None or (value.is_initializer() and self.roles[str(value.name)] != "constant"):
            return None
        lowered = self.get(value)
        if isinstance(lowered, Sizes) and all(isinstance(item, int) for item in lowered.items):
            return np.array(lowered.items, np.int64).reshape(() if lowered.scalar else -1)
        return lowered if isinstance(lowered, np.ndarray) else None

    def sizes(self, value: Value) -> Sizes | None:
        """Return whole numbers on at most one axis, or None if they are computed from numbers of a tensor."""
        lowered = self.get(value)
        if isinstance(lowered, np.ndarray) and lowered.ndim < 2 and lowered.dtype.kind in "iu":
            return Sizes(tuple(int(number) for number in lowered.reshape(-1)), lowered.ndim == 0)
        return lowered if isinstance(lowered, Sizes) else None

    def numbers(self, value: Value) -> list[int | fx.Node] | fx.Node:
        """Return whole numbers, from a shape or axes input; an fx node that gives a list where they are computed."""
        found = self.sizes(value)
        return list(found.items) if found is not None else self.method("tolist", self.tensor(value))

    # The graph

    def call(self, function: Callable[..., Any], *args: Any, name: str | None = None, **kwargs: Any) -> fx.Node:
        """Add a function call."""
        return self._node("call_function", function, args, kwargs, name)

    def method(self, method: str, *args: Any, name: str | None = None, **kwargs: Any) -> fx.Node:
        """Add a method call."""
        return self._node("call_method", method, args, kwargs, name)

    def call_module(self, path: str, module: nn.Module, layer: Layer, *args: Any) -> fx.Node:
        """Add a module without parameters, near `path`, and call it."""
        own = ".".join(part or "_" for part in re.sub(r"[^\w.\-/]", "_", path).split("."))
        while not self._is_free(own):
            own = own.replace(".", "_") + ("_" if own.count(".") == 0 else "")
        self.put(own, module)
        self.layers[own] = layer
        return self._node("call_module", own, args, {}, path)

    def layer(
        self,
        name: str,
        kind: type[nn.Module],
        arguments: Mapping[str, Any],
        tensors: Mapping[str, Value | None],
        *args: Any,
    ) -> fx.Node | None:
        """Call the module that holds some initializers, which is built when it is first called.

        Args:
            name: Name of the fx node.
            kind: Class of the module.
            arguments: Its keyword arguments.
            tensors: Attribute of the module -> initializer; None where the module has none.
            args: Arguments of the call.

        Returns:
            The call; None if no module can hold these initializers under their names: the names do not end in the
            attributes behind one path, or another module holds one of them.
        """
        given = {attribute: value for attribute, value in tensors.items() if value is not None}
        path = self._common_path(given)
        if path is None:
            return None
        dtype = to_dtype(next(iter(given.values())).const_value.dtype)  # type: ignore[union-attr]
        layer = Layer(kind, dict(arguments) | ({} if dtype == torch.float32 else {"dtype": dtype}))
        names = [str(value.name) for value in given.values()]
        if any(own in self._owned for own in names):
            if self.layers.get(path) != layer or any(self._owned.get(own) != path for own in names):
                return None
        elif not self._fits(path, names):
            return None
        else:
            module = kind(**layer.arguments, device="meta")
            for attribute, value in tensors.items():
                setattr(module, attribute, None if value is None else self._content(value))
            self.put(path, module)
            self.layers[path] = layer
            self._owned |= dict.fromkeys(names, path)
        return self._node("call_module", path, args, {}, name)

    def _node(self, op: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any], name: str | None) -> fx.Node:
        node = self.graph.create_node(op, target, args, kwargs, name and name.replace(".", "_"))
        node.meta["place"] = self.place
        if getattr(target, "__module__", "") == functions.__name__:
            node.meta["is_wrapped"] = True  # unpickling traces the source anew, and must not look inside
        return node

    def _common_path(self, tensors: Mapping[str, Value]) -> str | None:
        paths = set()
        for attribute, value in tensors.items():
            path, dot, last = str(value.name).rpartition(".")
            expected = "buffer" if attribute.startswith("running_") else "parameter"
            if not dot or last != attribute or self.roles.get(str(value.name)) != expected:
                return None
            paths.add(path)
        return paths.pop() if len(paths) == 1 else None

    def _fits(self, path: str, names: Sequence[str]) -> bool:
        """Whether a module at `path` would hold these initializers and no others."""
        if path in self.model.graph.initializers or path in self.layers:
            return False
        if {name for name in self._reserved if name.startswith(path + ".")} != set(names):
            return False
        if self._reachable(path):
            return True
        try:  # a container of some of these, which were read before: the module takes its place
            there = self.root.get_submodule(path)
        except AttributeError:
            return False
        return type(there) is nn.Module and not there._modules

    def _is_free(self, path: str) -> bool:
        return path not in self._reserved and self._reachable(path)

    def _reachable(self, path: str) -> bool:
        """Whether nothing is at `path` yet, and only plain containers above it."""
        *parents, last = path.split(".")
        module = self.root
        for i, part in enumerate(parents):
            if ".".join(parents[: i + 1]) in self.layers:
                return False
            module = getattr(module, part, nn.Module())
            if type(module) is not nn.Module:
                return False
        return bool(last) and not hasattr(module, last)

    def fetch(self, name: str) -> fx.Node:
        """Return the node that reads a parameter or buffer, wherever it is held."""
        if name not in self._fetched:
            if name not in self._owned:
                self.put(name, self._content(self.model.graph.initializers[name]))
            self._fetched[name] = self._node("get_attr", name, (), {}, name)
        return self._fetched[name]

    def _content(self, value: Value) -> Tensor:
        assert value.const_value is not None
        tensor = to_torch(value.const_value.numpy())
        return nn.Parameter(tensor) if self.roles[str(value.name)] == "parameter" else tensor

    def put(self, path: str, what: nn.Module | Tensor) -> None:
        """Register a module, parameter or buffer under its path."""
        *parents, last = path.split(".")
        module = self.root
        try:
            if not path.isprintable() or '"' in path or "\\" in path:  # it becomes part of the source of `forward`
                raise KeyError("it has quotes, backslashes or unprintable letters")
            for part in parents:
                if part not in module._modules:
                    module.add_module(part, nn.Module())
                module = getattr(module, part)
            if isinstance(what, nn.Module):
                module.add_module(last, what)
            elif isinstance(what, nn.Parameter):
                module.register_parameter(last, what)
            else:
                module.register_buffer(last, what)
        except (KeyError, AttributeError, TypeError) as error:
            raise FormatError(
                f"{path!r} cannot be a name in a PyTorch module ({error.args[0]}); rename the initializer: its "
                "parts between dots must not be empty, nor clash with other names"
            ) from None


def to_torch(array: NumPyArray) -> Tensor:
    """Copy an array into a tensor of its own, bit for bit; bfloat16 comes in ml_dtypes' form."""
    copied: NumPyArray = np.array(array, array.dtype.newbyteorder("="), order="C")
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(copied.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(copied)


def to_dtype(dtype: onnx_ir.DataType) -> torch.dtype:
    """Return PyTorch's name of a type."""
    names = {onnx_ir.DataType.FLOAT: "float32", onnx_ir.DataType.DOUBLE: "float64"}
    return getattr(torch, names.get(dtype, dtype.name.lower()))  # type: ignore[no-any-return]
