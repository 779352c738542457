"""How a network is written as Python source: its modules, its forward pass, and the functions that this needs."""

from __future__ import annotations

import ast
import inspect
import keyword
import math
import operator
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from mopruning.backends.pytorch.lowering import functions
from mopruning.backends.pytorch.lowering.context import Lowering

_INFIX = {
    operator.add: "+",
    operator.sub: "-",
    operator.mul: "*",
    operator.truediv: "/",
    operator.floordiv: "//",
    operator.mod: "%",
}
_UNSAFE = r"[^\w.\-/:]"  # in a comment
_LITERAL = 16  # numbers; a longer constant goes into the file of weights
_TAB = "    "


def modules(low: Lowering) -> list[str]:
    """Return the statements of `__init__` that build all modules, parameters and buffers."""
    lines = []
    for name, child in low.root.named_children():
        target = f"self.{name}" if _plain(name) else None
        built = _module(low, name, child, 0)
        lines += f"{target} = {built}".splitlines() if target else f"self.add_module({name!r}, {built})".splitlines()
    for path, module in low.root.named_modules():
        if path in low.layers:
            continue
        owner = _access(low, path)
        for name, parameter in module.named_parameters(recurse=False):
            value = f"nn.Parameter({_empty(parameter)})"
            lines.append(
                f"{owner}.{name} = {value}" if _plain(name) else f"{owner}.register_parameter({name!r}, {value})"
            )
        for name, buffer in module.named_buffers(recurse=False):
            lines.append(f"{owner}.register_buffer({name!r}, {_empty(buffer)})")
    return lines


def ties(low: Lowering, joined: Mapping[str, str]) -> list[str]:
    """Return the statements of `__init__` that make one parameter of two names: name -> the other name."""
    pairs = [(_access(low, name), _access(low, first), name.rpartition(".")[2]) for name, first in joined.items()]
    return [f"{target} = {source}" for target, source, last in pairs if target.endswith(f".{last}")]


def large_constants(low: Lowering) -> dict[str, torch.Tensor]:
    """Return the constants that belong into the file of weights, by their names there."""
    return {
        f"{path}.value": module.value
        for path, module in low.root.named_modules()
        if isinstance(module, functions.Constant) and isinstance(module.value, torch.Tensor) and not _is_literal(module)
    }


def forward(low: Lowering) -> tuple[list[str], list[str]]:
    """Return the arguments of `forward` and its statements."""
    printer = _Forward(low)
    return printer.arguments, list(printer.lines())


def helpers(low: Lowering) -> str:
    """Return the source of the functions and classes that a network uses, in their order, with what they need."""
    used = {
        node.target.__name__ for node in low.graph.nodes if getattr(node.target, "__module__", "") == functions.__name__
    }
    used |= {layer.kind.__name__ for layer in low.layers.values() if layer.kind.__module__ == functions.__name__}
    source = inspect.getsource(functions)
    parts = {part.name: part for part in ast.parse(source).body if isinstance(part, (ast.FunctionDef, ast.ClassDef))}
    while True:
        inner = {
            node.id for name in used for node in ast.walk(parts[name]) if isinstance(node, ast.Name)
        } & parts.keys()
        if inner <= used:
            break
        used |= inner
    texts = [ast.get_source_segment(source, part) or "" for name, part in parts.items() if name in used]
    return "\n\n\n".join(texts)


def _module(low: Lowering, path: str, module: nn.Module, depth: int) -> str:
    """Return an expression that builds a module and all below it."""
    layer = low.layers.get(path)
    if layer is not None:
        if isinstance(module, functions.Constant):
            return _constant(module)
        own = layer.kind.__module__ == functions.__name__
        arguments = [f"{name}={_text(value)}" for name, value in layer.arguments.items()]
        return f"{'' if own else 'nn.'}{layer.kind.__name__}({', '.join(arguments)})"
    inside, end = _TAB * (depth + 1), _TAB * depth
    children = [(name, _module(low, f"{path}.{name}", child, depth + 1)) for name, child in module.named_children()]
    if not children:
        return "nn.Module()"
    if _is_list(module):
        return "nn.ModuleList([\n" + "".join(f"{inside}{text},\n" for _, text in children) + f"{end}])"
    return "nn.ModuleDict({\n" + "".join(f"{inside}{name!r}: {text},\n" for name, text in children) + f"{end}}})"


def _constant(module: functions.Constant) -> str:
    value = module.value
    assert isinstance(value, torch.Tensor)
    if _is_literal(module):
        return f"Constant(torch.tensor({_text(value.tolist())}, dtype={value.dtype}))"
    return f"Constant({_empty(value)}, persistent=True)"


def _is_literal(module: functions.Constant) -> bool:
    value = module.value
    return isinstance(value, torch.Tensor) and value.numel() <= _LITERAL and value.dtype != torch.bfloat16


def _empty(value: torch.Tensor) -> str:
    dtype = "" if value.dtype == torch.float32 else f", dtype={value.dtype}"
    return f"torch.empty({tuple(value.shape)}{dtype})"


def _is_list(module: nn.Module) -> bool:
    names = [name for name, _ in module.named_children()]
    return bool(names) and names == [str(i) for i in range(len(names))]


def _access(low: Lowering, path: str) -> str:
    """Return the expression that reaches a path from `self`."""
    text, module = "self", low.root
    for depth, name in enumerate(path.split(".") if path else []):
        if _is_list(module) and depth:
            text += f"[{name}]"
        elif _plain(name) and not (depth and hasattr(nn.ModuleDict, name)):
            text += f".{name}"
        elif isinstance(module, nn.Module) and name in module._modules and depth:
            text += f"[{name!r}]"
        else:
            text = f"getattr({text}, {name!r})"
        module = getattr(module, name)
    return text


def _plain(name: str) -> bool:
    return name.isidentifier() and not keyword.iskeyword(name)


class _Forward:
    """Writes the statements of a forward pass; a variable is used again as soon as its value is not needed."""

    def __init__(self, low: Lowering) -> None:
        self.low = low
        self.names: dict[fx.Node, str] = {}
        self.taken: set[str] = {"self", "torch", "nn", "F", "math"}
        self.arguments: list[str] = []
        nodes = list(low.graph.nodes)
        order = {node: position for position, node in enumerate(nodes)}
        self.last = {node: max((order[user] for user in node.users), default=-1) for node in nodes}
        self.order = order
        for node in nodes:
            if node.op == "placeholder":
                name = str(node.target)
                while not _plain(name) or name in self.taken:
                    name = f"x_{name}"
                self.names[node] = name
                self.taken.add(name)
                self.arguments.append(name)

    def lines(self) -> Iterator[str]:
        block = ""
        for node in self.low.graph.nodes:
            if node.op in ("placeholder", "get_attr"):
                continue
            if node.op == "output":
                yield f"return {self.text(node.args[0])}"
                return
            place = str(node.meta.get("place", "")).rpartition(".")[0]
            if place != block and place:
                yield f"# {re.sub(_UNSAFE, '_', place)}"
            block = place or block
            text = self.expression(node)
            yield f"{self.name(node)} = {text}"

    def name(self, node: fx.Node) -> str:
        """Name the variable of a node, taking over that of a value that is no longer needed."""
        here = self.order[node]
        free = [self.names[arg] for arg in node.all_input_nodes if arg in self.names and self.last[arg] == here]
        self.taken -= set(free)
        number = node.op == "call_method" and node.target in ("size", "numel")
        choices = _sequence("nmk" if number else "xyzuvw")
        own = next(name for name in choices if name not in self.taken)
        self.names[node] = own
        if node.users:
            self.taken.add(own)
        return own

    def expression(self, node: fx.Node) -> str:
        args = [self.text(arg) for arg in node.args]
        args += [f"{key}={self.text(value)}" for key, value in node.kwargs.items()]
        if node.op == "call_module":
            return f"{_access(self.low, str(node.target))}({', '.join(args)})"
        if node.op == "call_method":
            if node.target == "size":
                return f"{args[0]}.shape[{args[1]}]"
            return f"{args[0]}.{node.target}({', '.join(args[1:])})"
        function: Any = node.target
        if function in _INFIX:
            return f"{args[0]} {_INFIX[function]} {args[1]}"
        if function is operator.getitem:
            return f"{args[0]}[{self.subscript(node.args[1])}]"
        if function is getattr:
            return f"{args[0]}.{node.args[1]}"
        return f"{_function(function)}({', '.join(args)})"

    def subscript(self, index: Any) -> str:
        if not isinstance(index, tuple):
            index = (index,)
        return ", ".join(self.range(part) if isinstance(part, slice) else self.text(part) for part in index)

    def range(self, part: slice) -> str:
        texts = ["" if bound is None else self.text(bound) for bound in (part.start, part.stop)]
        return ":".join(texts) + ("" if part.step is None else f":{self.text(part.step)}")

    def text(self, value: Any) -> str:
        if isinstance(value, fx.Node):
            return _access(self.low, str(value.target)) if value.op == "get_attr" else self.names[value]
        if isinstance(value, (list, tuple)):
            inner = ", ".join(self.text(item) for item in value)
            if isinstance(value, list):
                return f"[{inner}]"
            return f"({inner},)" if len(value) == 1 else f"({inner})"
        return _text(value)


def _text(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    if isinstance(value, list):
        return "[" + ", ".join(_text(item) for item in value) + "]"
    return repr(value)


def _function(function: Any) -> str:
    name = function.__name__
    if getattr(function, "__module__", "") == functions.__name__:
        return str(name)
    for prefix, place in (("F", F), ("torch", torch), ("torch.linalg", torch.linalg)):
        for candidate in (name, name.removeprefix("linalg_")):
            if getattr(place, candidate, None) is function:
                return f"{prefix}.{candidate}"
    raise ValueError(f"cannot write the function {function!r} as source")  # pragma: no cover  a mistake in a lowering


def _sequence(letters: str) -> Iterable[str]:
    yield from letters
    number = 1
    while True:
        yield f"{letters[0]}{number}"
        number += 1
