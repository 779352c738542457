"""The part of a graph that computes in inference: flags of training are false, and conditions on them are decided."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mopruning.backends.tensorflow1.exporting.dropouts import dropped
from mopruning.backends.tensorflow1.exporting.functions import inlined, result_of
from mopruning.backends.tensorflow1.exporting.nodes import (
    MERGES,
    PASSING,
    PLACEHOLDERS,
    SWITCHES,
    VARIABLES,
    NodeDef,
    Nodes,
    Reference,
    Source,
    content_of,
    parsed,
    shown,
)
from mopruning.errors import FormatError
from mopruning.ir.validation import Problem

_BOOL = 10  # TensorFlow's number of the type
_LOOPS = frozenset({"Enter", "Exit", "NextIteration", "LoopCond", "RefEnter", "RefExit", "RefNextIteration"})


class Inference:
    """Walks a graph as it computes in inference.

    Args:
        source: The graph.

    Attributes:
        nodes: The nodes, calls replaced by what they call.
        problems: Conditions that cannot be decided.
        dropouts: Name of a node that stands for a dropout -> its ratio, None where that is not known.
        layers: Name of a node that gives an output of a noted layer -> the tensors that the layer reads, and the shape
            of the output.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        source.graph_def = inlined(source, self._flag_in)
        self.nodes = Nodes(source)
        names = self.nodes.by_name.keys()
        if source.outputs is not None:
            source.outputs = [result_of(text, names) for text in source.outputs]
        source.titles = {result_of(text, names): title for text, title in source.titles.items()}
        self.problems: list[Problem] = []
        self.dropouts: dict[str, float | None] = {}
        self.layers: dict[str, tuple[tuple[str, ...], tuple[int | None, ...]]] = {}
        self._live: dict[Reference, bool] = {}

    # Flags

    def flag(self, reference: Reference) -> bool | None:
        """Return what a boolean is in inference, None where that depends on what the network computes."""
        return self._flag(self.nodes.by_name, reference, 0)

    def _flag_in(self, graph: Any, text: str) -> bool | None:
        return self._flag({node.name: node for node in graph.node}, parsed(text), 0)

    def _flag(self, by_name: dict[str, NodeDef], reference: Reference, depth: int) -> bool | None:
        node = by_name.get(reference[0])
        if node is None or depth > 100:
            return None
        inputs = [parsed(text) for text in node.input if not text.startswith("^")]
        if node.op in PLACEHOLDERS and node.attr["dtype"].type == _BOOL:
            shape = node.attr["shape"].shape
            scalar = shape.unknown_rank or not shape.dim
            return self.source.flags.get(node.name, False) if scalar else None
        if node.op == "Const" and node.attr["dtype"].type == _BOOL:
            content = content_of(node, self.source.name)
            return bool(content.reshape(-1)[0]) if content.size == 1 else None
        if node.op in PASSING | SWITCHES and inputs:
            return self._flag(by_name, inputs[0], depth + 1)
        if node.op == "LogicalNot" and inputs:
            found = self._flag(by_name, inputs[0], depth + 1)
            return None if found is None else not found
        if node.op in ("LogicalAnd", "LogicalOr") and len(inputs) == 2:
            both = [self._flag(by_name, one, depth + 1) for one in inputs]
            decides = bool(node.op == "LogicalOr")
            if decides in both:
                return decides
            return None if None in both else not decides
        return None

    # What is computed

    def live(self, reference: Reference) -> bool:
        """Whether a tensor is computed at all: not in a branch that is not taken."""
        waiting, started = [reference], set()
        while waiting:
            top = waiting[-1]
            node = self.nodes.by_name.get(top[0])
            if top in self._live or node is None or node.op in _LOOPS | PLACEHOLDERS | VARIABLES:
                self._live.setdefault(top, True)
                waiting.pop()
                continue
            inputs = self.nodes.inputs(node)
            needed = inputs if node.op in MERGES else [*inputs, *((name, -1) for name in self.nodes.controls(node))]
            missing = [one for one in needed if one not in self._live and one not in started]
            if top not in started and missing:
                started.add(top)
                waiting += missing
                continue
            known = [self._live.get(one, True) for one in needed]  # what is not known is a loop, and says nothing
            alive = any(known) if node.op in MERGES else all(known)
            if node.op in SWITCHES and top[1] >= 0 and len(inputs) == 2:
                taken = self.flag(inputs[1])
                alive = alive and (taken is None or int(taken) == top[1])
            self._live[top] = alive
            waiting.pop()
        return self._live[reference]

    def resolve(self, reference: Reference, reader: str = "") -> Reference:
        """Return the tensor that a tensor stands for in inference, behind switches, merges and dropouts."""
        for _ in range(len(self.nodes.by_name) + 1):
            node = self.nodes.node(reference, reader)
            inputs = self.nodes.inputs(node)
            if node.op in SWITCHES and len(inputs) == 2:
                if self.flag(inputs[1]) is None:
                    why = "a condition that depends on what the network computes is not in the profile"
                    self.problems.append(Problem(node.name, node.op, why))
                    return reference
                reference = inputs[0]
            elif node.op in MERGES:
                taken = [one for one in inputs if self.live(one)]
                if not taken:
                    raise FormatError(f"{self.source.name}: node {node.name!r} ({node.op}): none of its inputs is live")
                other = [one for one in inputs if one not in taken]
                if len(taken) == 1 and other and self._is_dropout(node, taken[0], other[0]):
                    return reference
                reference = taken[0]
            else:
                return reference
        raise FormatError(f"{self.source.name}: node {reference[0]!r} depends on itself")

    def _is_dropout(self, merge: NodeDef, kept: Reference, dead: Reference) -> bool:
        """Whether a Merge has a dropout in the branch that is not taken, and what it drops in the other."""
        found = dropped(self.nodes, dead)
        if found is None or self.nodes.through(found[0]) != self.nodes.through(kept):
            return False
        self.dropouts[merge.name] = found[1]
        return True

    def reads(self, node: NodeDef) -> list[Reference]:
        """Return what a node reads in inference; of a dropout, what it drops."""
        if node.name in self.layers:
            return [self.resolve(parsed(text), node.name) for text in self.layers[node.name][0] if text]
        if node.name in self.dropouts:
            if node.op in MERGES:
                return [self.nodes.through(next(one for one in self.nodes.inputs(node) if self.live(one)))]
            if node.op in PASSING:
                return [self.resolve(self.nodes.inputs(node)[0], node.name)]
        found = dropped(self.nodes, (node.name, 0))
        if found is not None:
            self.dropouts[node.name] = found[1]
            return [self.resolve(found[0], node.name)]
        if node.op in VARIABLES | {"Const", "Placeholder", "PlaceholderV2"}:
            return []
        return [self.resolve(one, node.name) for one in self.nodes.inputs(node)]

    def needed(self, outputs: list[Reference], stops: set[Reference]) -> Iterator[tuple[NodeDef, list[Reference]]]:
        """Return the nodes that outputs are computed from, each after what it reads, and what each reads."""
        done: dict[str, bool] = {}  # False while what a node reads is looked at
        stack: list[tuple[str, list[Reference] | None]] = [(output[0], None) for output in reversed(outputs)]
        while stack:
            name, found = stack.pop()
            if found is not None:
                done[name] = True
                yield self.nodes.node((name, 0)), found
            elif name not in done:
                done[name] = False
                reads = [] if (name, 0) in stops else self.reads(self.nodes.node((name, 0)))
                stack.append((name, reads))
                for one in reversed(reads):
                    self.nodes.node(one, name)
                    if done.get(one[0]) is False:
                        raise FormatError(f"{self.source.name}: node {shown(one)!r} depends on itself")
                    if one[0] not in done:
                        stack.append((one[0], None))
