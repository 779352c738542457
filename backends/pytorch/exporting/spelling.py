"""Spelling: replaces one node of our domain by nodes of ONNX, keeping where in the module they come from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx_ir
from onnx_ir import Node, Value

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"

SOURCE = "source"
"""Key of `Value.meta`: "parameter" or "buffer", for an initializer that the module has under that name."""
PATH = "path"
"""Key of `Node.meta`: path of the module that a node comes from."""
PART = "part"
"""Key of `Node.meta`: what the node is there; "" for the one that bears the module's name."""


class Spelling:
    """Records the nodes that take the place of one node.

    Args:
        node: The node to replace, in its graph.
    """

    def __init__(self, node: Node) -> None:
        self.node = node
        self.nodes: list[Node] = []

    def __getitem__(self, attribute: str) -> Any:
        """Return an attribute of the node that is replaced."""
        return self.node.attributes[attribute].value

    def op(self, op_type: str, inputs: Sequence[Value | None], part: str = "", **attributes: Any) -> Value:
        """Add a node with one output and return that; `part` says what it is in its module."""
        return self.ops(op_type, inputs, part, 1, **attributes)[0]

    def ops(
        self, op_type: str, inputs: Sequence[Value | None], part: str, outputs: int, **attributes: Any
    ) -> Sequence[Value]:
        """Add a node with several outputs and return those."""
        node = onnx_ir.node(op_type, inputs, attributes, num_outputs=outputs)
        node.meta[PATH], node.meta[PART] = self.node.meta.get(PATH, ""), part
        self.nodes.append(node)
        return node.outputs

    def constant(self, numbers: Any, like: Value | None = None) -> Value:
        """Add a constant: int64, or of the type of another value."""
        dtype = onnx_ir.DataType.INT64 if like is None or like.dtype is None else like.dtype
        array = np.asarray(numbers).astype(dtype.numpy())
        return self.op("Constant", [], value=onnx_ir.Tensor(array, dtype))

    def finish(self, outputs: Sequence[Value]) -> None:
        """Put the recorded nodes into the graph in place of the old one; `outputs` take over from its outputs."""
        graph = self.node.graph
        assert graph is not None
        graph.insert_before(self.node, self.nodes)
        for old, new in zip(self.node.outputs, outputs, strict=True):
            if new.shape is None:
                new.shape = old.shape
            if new.type is None:
                new.type = old.type
            old.replace_all_uses_with(new, replace_graph_outputs=True)
        graph.remove(self.node, safe=True)


def shape_of(value: Value | None) -> tuple[Any, ...]:
    """Return a value's shape: an int where an axis is fixed, text where it is open."""
    assert value is not None
    assert value.shape is not None, value
    return tuple(size if isinstance(size, int) else str(size.value) for size in value.shape)


def number_of(value: Value | None) -> NumPyArray | None:
    """Return the content of a constant or initializer, None of a computed value."""
    if value is None:
        return None
    if value.const_value is not None:
        return value.const_value.numpy()
    node = value.producer()
    if node is None or node.op_type != "Constant":
        return None
    (attribute,) = node.attributes.values()
    if attribute.name == "value":
        return attribute.as_tensor().numpy()
    return np.asarray(attribute.value, np.float32 if "float" in attribute.name else np.int64)
