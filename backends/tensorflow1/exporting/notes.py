"""What a graph says beside what it computes: notes of the writer, and how running statistics are updated."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mopruning.backends.tensorflow1.exporting.nodes import Nodes, Reference
from mopruning.backends.tensorflow1.exporting.recurrent import Recurrent, recurrent_layers

NOTES = "mopruning/notes"
"""Name of the constant in which a written graph says what it does not tell by itself."""

_UPDATES = frozenset({"AssignSub", "AssignSubVariableOp"})
_KEPT = ("mopruning.source", "mopruning.layout", "mopruning.roles")


@dataclass(frozen=True)
class Notes:
    """What a written graph says.

    Args:
        name: Name of the network.
        inputs: Input -> name of its tensor.
        outputs: Output -> name of its tensor.
        orders: Input or output -> order of its tensor's axes.
        momentum: Running mean -> momentum.
        dropout: Identity -> the ratio that it drops.
        metadata: The model's metadata.
        recurrent: The recurrent layers.
    """

    name: str = ""
    inputs: Mapping[str, str] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)
    orders: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    momentum: Mapping[str, float] = field(default_factory=dict)
    dropout: Mapping[str, float] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    recurrent: tuple[Recurrent, ...] = ()

    @classmethod
    def of(cls, nodes: Nodes) -> Notes:
        """Read the notes of a graph; what is not as expected counts as absent, since any program may write there."""
        node = nodes.by_name.get(NOTES)
        if node is None or node.op != "Const":
            return cls()
        content = nodes.content(node)
        try:
            noted = json.loads(content.item()) if content.size == 1 else None
        except (ValueError, TypeError, RecursionError):
            noted = None
        noted = noted if isinstance(noted, dict) else {}
        name = noted.get("name")
        orders = {
            key: tuple(order)
            for key, order in _mapping(noted, "orders").items()
            if isinstance(order, list)
            and all(type(axis) is int for axis in order)
            and sorted(order) == list(range(len(order)))
        }
        return cls(
            name if isinstance(name, str) else "",
            _texts(noted, "inputs"),
            _texts(noted, "outputs"),
            orders,
            _shares(noted, "momentum"),
            _shares(noted, "dropout"),
            _texts(noted, "metadata"),
            tuple(recurrent_layers(noted.get("recurrent"))),
        )

    def kept_metadata(self) -> dict[str, str]:
        """Return the metadata that stay true of the network wherever it is: not those on layout or source."""
        return {key: text for key, text in self.metadata.items() if key not in _KEPT}


def _mapping(noted: Mapping[str, Any], key: str) -> dict[str, Any]:
    content = noted.get(key)
    return content if isinstance(content, dict) else {}


def _texts(noted: Mapping[str, Any], key: str) -> dict[str, str]:
    return {name: text for name, text in _mapping(noted, key).items() if isinstance(text, str)}


def _shares(noted: Mapping[str, Any], key: str) -> dict[str, float]:
    shares = _mapping(noted, key).items()
    return {name: float(share) for name, share in shares if type(share) in (int, float) and 0 <= share <= 1}


def momenta(nodes: Nodes) -> dict[str, float]:
    """Return, for each variable that is a moving average, how much of it an update keeps.

    An update is ``variable -= (variable - batch) * (1 - momentum)``.
    """
    found = {}
    for node in nodes.by_name.values():
        inputs = nodes.inputs(node)
        if node.op not in _UPDATES or len(inputs) != 2:
            continue
        change = nodes.by_name.get(nodes.through(inputs[1])[0])
        if change is None or change.op != "Mul":
            continue
        for factor in nodes.inputs(change):
            share = _number(nodes, factor, 0)
            if share is not None and 0 < share < 1:
                found[nodes.through(inputs[0])[0]] = round(1.0 - share, 7)
    return found


def _number(nodes: Nodes, reference: Reference, depth: int) -> float | None:
    """Return a number as it is in training: of two branches, the one that changes anything."""
    constant = nodes.constant(reference)
    if constant is not None:
        return float(constant.reshape(-1)[0]) if constant.size == 1 and constant.dtype.kind == "f" else None
    node = nodes.by_name.get(nodes.through(reference)[0])
    if node is None or depth > 8:
        return None
    parts = [_number(nodes, one, depth + 1) for one in nodes.inputs(node)]
    known = [part for part in parts if part is not None]
    if node.op == "Cast" and known:
        return known[0]
    if node.op == "Sub" and len(known) == 2:
        return known[0] - known[1]
    if node.op in ("Merge", "Select", "SelectV2"):
        return next((part for part in known if 0 < part < 1), None)
    return None
