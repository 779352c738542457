"""The nodes of a Moffett graph: read from JSON, edited, and the part of them that is asked for."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from mopruning.errors import FormatError
from mopruning.ir.json_text import items, parse, sizes, texts

Edits: TypeAlias = "Mapping[int, Mapping[str, Any]] | Iterable[Mapping[str, Any] | tuple[int, Mapping[str, Any]]]"

_ALIASES = {"stride": "strides", "kernel": "kernel_size", "pad": "padding", "pads": "padding", "dilations": "dilation"}
_POOLS = ("nn.max_pool2d", "nn.avg_pool2d")


@dataclass(frozen=True)
class MoffettNode:
    """One node: an input of the network, or a call of an operator.

    Args:
        number: Its id, by which others refer to it.
        operator: What it calls, such as "nn.conv2d"; "" for an input.
        inputs: What it reads: ids of nodes, and names of parameters.
        attributes: Its attributes as the file has them.
        name: Name of an input.
        shape: Shape of an input, batch included.
    """

    number: int
    operator: str = ""
    inputs: tuple[int | str, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""
    shape: tuple[int, ...] = ()

    @property
    def sources(self) -> tuple[int, ...]:
        """Return the ids of the nodes it reads."""
        return tuple(source for source in self.inputs if isinstance(source, int))

    def __str__(self) -> str:
        return f"node {self.number} ({self.operator or 'input'})"


def read_nodes(text: str) -> dict[int, MoffettNode]:
    """Read the nodes of a graph by id, in the order of the file.

    Raises:
        FormatError: If the text is no such graph; the message names the node.

    >>> list(read_nodes('[{"node_id": 4, "node_type": "Call", "op_type": "nn.relu", "inputs": [1], "attrs": null}]'))
    [4]
    """
    nodes: dict[int, MoffettNode] = {}
    later: dict[int, MoffettNode] = {}
    for entry in items(parse(text), "the graph"):
        node = _node(entry)
        if node.number in nodes:
            raise FormatError(f"{node}: its id is given twice")
        if node.number in later:
            raise FormatError(f"{later[node.number]}: reads node {node.number}, which comes only later")
        nodes[node.number] = node
        later.update(dict.fromkeys((source for source in node.sources if source not in nodes), node))
    return nodes


def edited(nodes: Mapping[int, MoffettNode], edits: Edits) -> dict[int, MoffettNode]:
    """Return the nodes with other attributes.

    Args:
        nodes: Nodes by id.
        edits: Id -> attributes to set; or pairs of the two; or mappings that carry the id as "node_id". The names that
            PyTorch's modules have for attributes ("stride", "kernel_size" of a pool) are known, too. Whether an
            attribute fits its operator is checked where the operator is read.

    Raises:
        FormatError: If an id names no operator.

    >>> pool = MoffettNode(299, "nn.max_pool2d", (291,), {"pool_size": [3, 3], "strides": [2, 2]})
    >>> edited({299: pool}, {299: {"kernel_size": [1, 1], "stride": 1}})[299].attributes
    {'pool_size': [1, 1], 'strides': 1}
    """
    result = dict(nodes)
    for number, attributes in _pairs(edits):
        node = result.get(number)
        if node is None or not node.operator:
            operators = [other.number for other in nodes.values() if other.operator]
            raise FormatError(f"update_node_cfg: {missing('node', number, operators)}")
        renamed = {_attribute(node, name): value for name, value in attributes.items()}
        result[number] = replace(node, attributes={**node.attributes, **renamed})
    return result


def selected(
    nodes: Mapping[int, MoffettNode], inputs: Sequence[int], outputs: Sequence[int]
) -> tuple[list[MoffettNode], list[int], list[int]]:
    """Choose the nodes that compute some values from others.

    Args:
        nodes: Nodes by id, in order.
        inputs: Ids of the nodes whose values are given from outside. By default these are the inputs of the network
            and the ids that are read and not there.
        outputs: Ids of the nodes whose values are wanted. By default those that nothing reads, and that follow from
            `inputs` where these are given.

    Returns:
        The operators in order, the ids of the inputs, and those of the outputs.

    Raises:
        FormatError: If an id is unknown, or the outputs need other inputs than those given.
    """
    read = {source for node in nodes.values() for source in node.sources}
    for what, wanted in (("input_node_ids", inputs), ("output_node_ids", outputs)):
        for number in wanted:
            if number not in nodes and not (what == "input_node_ids" and number in read):
                raise FormatError(f"{what}: {missing('node', number, nodes)}")
        if len(set(wanted)) != len(wanted):
            raise FormatError(f"{what}: {list(wanted)} names a node twice")
    ends = list(outputs) or [number for number, node in nodes.items() if node.operator and number not in read]
    if inputs and not outputs:
        following = _following(nodes, inputs)
        ends = [number for number in ends if number in following and number not in inputs]
    needed, starts = _needed(nodes, ends, set(inputs))
    if not ends or not needed:
        raise FormatError(f"no operator lies between the inputs {list(inputs)} and the outputs {list(outputs)}")
    if inputs:
        _check_starts(starts, inputs, ends)
    ordered = [node for number, node in nodes.items() if number in needed]
    given = list(inputs) or [number for number in nodes if number in starts] + sorted(starts - nodes.keys())
    return ordered, given, ends


def missing(what: str, wanted: int | str, known: Iterable[int | str]) -> str:
    """Return what to say of a node or parameter that is not there, with the nearest ones.

    >>> missing("node", 281, [12, 278, 287, 299])
    'there is no node 281; did you mean 278 or 287?'
    """
    if isinstance(wanted, int):
        near = sorted((int(one) for one in known), key=lambda one: abs(one - wanted))[:2]
        return f"there is no {what} {wanted}" + (f"; did you mean {' or '.join(map(str, near))}?" if near else "")
    names = [str(one) for one in known]
    alike = difflib.get_close_matches(wanted, names, n=3, cutoff=0.5)
    offered = f"did you mean {' or '.join(map(repr, alike))}?" if alike else f"there are {len(names)} others"
    return f"there is no {what} {wanted!r}; {offered}"


def _node(entry: Any) -> MoffettNode:
    if not isinstance(entry, dict) or type(entry.get("node_id")) is not int or entry["node_id"] < 0:
        raise FormatError(f"expected a node with a whole number as its node_id, got {repr(entry)[:200]}")
    number = entry["node_id"]
    where = f"node {number}"
    if entry.get("node_type") == "Var":
        (name,) = texts([entry.get("node_name")], f"{where}: node_name")
        return MoffettNode(number, name=name, shape=tuple(sizes(entry.get("shape"), f"{where}: shape")))
    if entry.get("node_type") != "Call":
        raise FormatError(f"{where}: expected the node_type 'Var' or 'Call', got {entry.get('node_type')!r:.80}")
    (operator,) = texts([entry.get("op_type")], f"{where}: op_type")
    sources = items(entry.get("inputs"), f"{where}: inputs")
    if any(type(source) not in (int, str) for source in sources):
        raise FormatError(f"{where}: inputs are node ids and parameter names, got {repr(sources)[:200]}")
    attributes = entry.get("attrs") or {}
    if not isinstance(attributes, dict):
        raise FormatError(f"{where}: expected attrs as an object or null, got {repr(attributes)[:200]}")
    return MoffettNode(number, operator, tuple(sources), attributes)


def _pairs(edits: Edits) -> Iterable[tuple[int, Mapping[str, Any]]]:
    listed: Iterable[Any] = edits.items() if isinstance(edits, Mapping) else edits
    for edit in listed:
        if isinstance(edit, Mapping):
            number, attributes = edit.get("node_id"), {name: edit[name] for name in edit if name != "node_id"}
            if set(attributes) == {"attrs"}:
                attributes = attributes["attrs"]
        else:
            number, attributes = edit
        if isinstance(number, str) and number.isdecimal():  # as the keys of JSON are
            number = int(number)
        if type(number) is not int or not isinstance(attributes, Mapping):
            raise FormatError(f"update_node_cfg: expected a node id and a mapping of attributes, got {edit!r:.200}")
        yield number, attributes


def _attribute(node: MoffettNode, name: str) -> str:
    own = _ALIASES.get(name, name)
    return "pool_size" if own == "kernel_size" and node.operator in _POOLS else own


def _following(nodes: Mapping[int, MoffettNode], inputs: Sequence[int]) -> set[int]:
    reached = set(inputs)
    for number, node in nodes.items():  # in order, so that one pass is enough
        if not reached.isdisjoint(node.sources):
            reached.add(number)
    return reached


def _needed(nodes: Mapping[int, MoffettNode], ends: Sequence[int], cut: set[int]) -> tuple[set[int], set[int]]:
    """Return the operators that lead to some nodes, and the inputs these start from."""
    needed: set[int] = set()
    starts: set[int] = set()
    waiting = list(ends)
    while waiting:
        number = waiting.pop()
        if number in needed or number in starts:
            continue
        node = nodes.get(number)
        if number in cut or node is None or not node.operator:
            starts.add(number)
        else:
            needed.add(number)
            waiting.extend(node.sources)
    return needed, starts


def _check_starts(starts: set[int], inputs: Sequence[int], ends: Sequence[int]) -> None:
    more, fewer = sorted(starts - set(inputs)), sorted(set(inputs) - starts)
    if more:
        raise FormatError(f"input_node_ids: the outputs {list(ends)} need node {more[0]} as well; name it too")
    if fewer:
        raise FormatError(f"input_node_ids: node {fewer[0]} does not lead to the outputs {list(ends)}")
