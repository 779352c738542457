"""Symbols as their files hold them: nodes, attributes and outputs, checked before anything is built of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mopruning.errors import FormatError
from mopruning.ir.json_text import expect, items, parse

_TRUE, _FALSE = ("True", "true", "1"), ("False", "false", "0")
_OLD = (
    "param",
    "attr",
    "attrs",
)  # where attributes stand: until 0.8, until 0.12, since 1.0; more than one may be there
_NUMBERS = re.compile(r"[\[\](),\s]*(?:(?:-?\d+L?|None)(?:[\[\](),\s]+|$))*")


@dataclass(frozen=True)
class SymbolNode:
    """One node: a variable, or an operator.

    Args:
        name: Its name.
        operator: What it calls; "" for a variable.
        inputs: What it reads: numbers of nodes, and which of their outputs.
        attributes: Its attributes, as text.
    """

    name: str
    operator: str
    inputs: tuple[tuple[int, int], ...] = ()
    attributes: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"node {self.name!r} ({self.operator or 'variable'})"

    def text(self, name: str, otherwise: str = "") -> str:
        """Return an attribute as text; `otherwise` where there is none, or it is "None"."""
        given = self.attributes.get(name, "None")
        return otherwise if given == "None" else given

    def flag(self, name: str, otherwise: bool = False) -> bool:
        """Return an attribute that is true or false."""
        given = self.text(name)
        if given not in (*_TRUE, *_FALSE, ""):
            raise FormatError(f"{self}: its {name} is {given!r:.80}, expected True or False")
        return given in _TRUE if given else otherwise

    def integer(self, name: str, otherwise: int) -> int:
        """Return an attribute that is a whole number."""
        return int(self._number(name, int, otherwise))

    def number(self, name: str, otherwise: float) -> float:
        """Return an attribute that is a number."""
        return float(self._number(name, float, otherwise))

    def integers(self, name: str, otherwise: tuple[int, ...] = ()) -> tuple[int, ...]:
        """Return an attribute that is a tuple of whole numbers, or one such number."""
        found = self.optional(name, otherwise)
        if None in found:
            raise FormatError(f"{self}: its {name} is {self.text(name)!r:.80}, expected whole numbers")
        return tuple(number for number in found if number is not None)

    def optional(self, name: str, otherwise: tuple[int | None, ...] = ()) -> tuple[int | None, ...]:
        """Return an attribute that is a tuple of whole numbers and None."""
        given = self.text(name)
        if not given:
            return otherwise
        if len(given) > 4096 or not _NUMBERS.fullmatch(given):
            raise FormatError(f"{self}: its {name} is {given!r:.80}, expected whole numbers")
        words = re.findall(r"-?\d+|None", given)
        return tuple(None if word == "None" else int(word[:20]) for word in words)

    def _number(self, name: str, kind: type[int] | type[float], otherwise: float) -> float:
        given = self.text(name)
        if not given:
            return otherwise
        try:
            return kind(given)
        except ValueError:
            raise FormatError(f"{self}: its {name} is {given!r:.80}, expected a number") from None


@dataclass(frozen=True)
class SymbolFile:
    """A symbol.

    Args:
        nodes: Its nodes, each after those it reads.
        heads: Its outputs: numbers of nodes, and which of their outputs.
    """

    nodes: tuple[SymbolNode, ...]
    heads: tuple[tuple[int, int], ...]

    def needed(self) -> set[int]:
        """Return the numbers of the nodes that lead to an output."""
        found: set[int] = set()
        pending = [node for node, _ in self.heads]
        while pending:
            number = pending.pop()
            if number not in found:
                found.add(number)
                pending += [node for node, _ in self.nodes[number].inputs]
        return found


def read_text(text: str) -> SymbolFile:
    """Read the JSON of a symbol, of MXNet 0.8 to 1.9.

    Raises:
        FormatError: If it is no symbol; the message names the node.

    >>> text = '{"nodes": [{"op": "null", "name": "x", "inputs": []}], "arg_nodes": [0], "heads": [[0, 0, 0]]}'
    >>> read_text(text).nodes[0].name
    'x'
    """
    content = parse(text)
    expect(isinstance(content, dict) and "nodes" in content, "the symbol", "an object with nodes", content)
    nodes: list[SymbolNode] = []
    for entry in items(content["nodes"], "nodes"):
        nodes.append(_node(entry, len(nodes)))
    heads = tuple(_entry(one, "heads", len(nodes)) for one in items(content.get("heads"), "heads"))
    if not heads:
        raise FormatError("the symbol has no outputs")
    return SymbolFile(tuple(nodes), heads)


def _node(entry: Any, number: int) -> SymbolNode:
    where = f"node {number}"
    expect(isinstance(entry, dict), where, "an object", entry)
    name, operator = entry.get("name"), entry.get("op")
    expect(isinstance(name, str), where, "a name", name)
    expect(isinstance(operator, str), where, "an operator", operator)
    attributes: dict[str, str] = {}
    for key in _OLD:
        given = entry.get(key) or {}
        fits = isinstance(given, dict) and all(isinstance(value, str) for value in given.values())
        expect(fits, f"{where} ({name!r})", "attributes that are texts", given)
        attributes |= given
    if "subgraphs" in entry:
        raise FormatError(f"{where} ({name!r}, {operator}): has a subgraph; control flow is not in the profile")
    inputs = tuple(_entry(one, where, number) for one in items(entry.get("inputs", []), where))
    return SymbolNode(name, "" if operator == "null" else operator, inputs, attributes)


def _entry(one: Any, where: str, count: int) -> tuple[int, int]:
    fits = isinstance(one, list) and 2 <= len(one) <= 3 and all(type(part) is int for part in one)
    expect(fits, where, "[node, output]", one)
    expect(0 <= one[0] < count, where, "a node that comes before", one)
    expect(0 <= one[1] < 1 << 16, where, "the number of an output", one)
    return one[0], one[1]
