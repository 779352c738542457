"""What stands at the head of a network: its inputs, outputs and operators, without its weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx_ir


@dataclass(frozen=True)
class End:
    """An input or output of a graph.

    Args:
        name: Its name.
        dtype: NumPy's name of its type, None where it is not known.
        shape: Its sizes, a name or None for one that is open; None where nothing is known.
    """

    name: str
    dtype: str | None
    shape: tuple[int | str | None, ...] | None

    def __str__(self) -> str:
        sizes = "?" if self.shape is None else ", ".join("?" if size is None else str(size) for size in self.shape)
        return f"{self.name}: {self.dtype or '?'} [{sizes}]"


@dataclass(frozen=True)
class GraphSummary:
    """A graph without its nodes and weights.

    Args:
        name: Its name.
        opset: Version of ONNX's operator set.
        source: What it was read from first, such as "pytorch" or "onnx"; "" where it does not say.
        operators: How many nodes there are of each operator, most frequent first.
        inputs: What it takes.
        outputs: What it gives.
    """

    name: str
    opset: int | None
    source: str
    operators: Mapping[str, int]
    inputs: tuple[End, ...]
    outputs: tuple[End, ...]

    @property
    def nodes(self) -> int:
        """How many nodes there are."""
        return sum(self.operators.values())

    def lines(self, parameters: int) -> list[tuple[str, str]]:
        """Return it as pairs of a word and what there is to say.

        Args:
            parameters: How many trained numbers it has.
        """
        nodes = "1 node" if self.nodes == 1 else f"{self.nodes} nodes"
        found = [
            ("graph", f"{self.name}, {nodes}, {parameters:,} parameters, opset {self.opset}"),
            ("operators", ", ".join(f"{count} {operator}" for operator, count in self.operators.items())),
        ]
        found += [("input", str(end)) for end in self.inputs]
        found += [("output", str(end)) for end in self.outputs]
        return [*found, ("source", self.source)] if self.source else found

    def to_dict(self) -> dict[str, Any]:
        """Return the same as plain numbers, text, lists and dictionaries."""
        ends = {
            key: [{"name": end.name, "dtype": end.dtype, "shape": end.shape and list(end.shape)} for end in those]
            for key, those in (("inputs", self.inputs), ("outputs", self.outputs))
        }
        known = {"name": self.name, "opset": self.opset, "source": self.source or None, "nodes": self.nodes}
        return {**known, "operators": dict(self.operators), **ends}


def summary(model: onnx_ir.Model) -> GraphSummary:
    """Sum up a network; no weight is read, and shapes are inferred where they can be."""
    from mopruning.errors import MopruningError
    from mopruning.ir.passes import infer_shapes

    with suppress(MopruningError, RuntimeError):  # shapes that clash, and damage, are for `verify` to tell
        model = infer_shapes(model)
    graph = model.graph
    return GraphSummary(
        str(graph.name),
        model.opset_imports.get(""),
        model.metadata_props.get("mopruning.source", ""),
        dict(Counter(node.op_type for node in graph).most_common()),
        tuple(_end(value) for value in graph.inputs if not value.is_initializer()),
        tuple(_end(value) for value in graph.outputs),
    )


def _end(value: onnx_ir.Value) -> End:
    from mopruning.ir.dtypes import dtype_of

    shape = None if value.shape is None else tuple(s if isinstance(s, int) else s.value for s in value.shape)
    return End(str(value.name), dtype_of(value), shape)
