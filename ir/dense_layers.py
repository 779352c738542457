"""Dense layers in the profile's form: the weight lies as [out, in] under its own name, whatever exporters made of it.

On two axes that is ``Gemm(x, weight, bias, transB=1)``, on more ``Add(MatMul(x, Transpose(weight)), bias)``.
"""

from __future__ import annotations

import numpy as np
import onnx_ir
from onnx_ir import DataType, Graph, Node, Value

from mopruning.ir.onnx_tensors import lazy

_FLOATS = (DataType.FLOAT, DataType.DOUBLE, DataType.FLOAT16, DataType.BFLOAT16)


def canonical_dense(graph: Graph) -> None:
    """Bring every dense layer of a graph to the profile's form, in place; the graph computes what it did.

    A weight that other nodes read as it lies, such as one tied to an embedding, is left as it is, and so is a product
    of two computed values. Alpha, beta and transA of a Gemm become nodes.

    Args:
        graph: A graph of opset 20 whose constants are initializers.

    >>> x, w = onnx_ir.val("x", "FLOAT", ["N", 2]), onnx_ir.Value(name="fc.weight")
    >>> w.const_value = onnx_ir.tensor(np.ones((2, 3), np.float32))
    >>> node = onnx_ir.node("MatMul", [x, w], name="fc")
    >>> graph = onnx_ir.Graph([x], node.outputs, nodes=[node], initializers=[w], opset_imports={"": 20})
    >>> canonical_dense(graph)
    >>> [node.op_type for node in graph], list(graph.initializers["fc.weight"].shape)
    (['Gemm'], [3, 2])
    """
    names = {node.name for node in graph} | {value.name for node in graph for value in node.outputs}
    names |= {value.name for value in (*graph.inputs, *graph.initializers.values())}
    layers = _Layers(graph, names)
    for node in list(graph):
        if node.op_type == "Gemm" and not node.domain:
            layers.plain_gemm(node)
    for weight in list(graph.initializers.values()):
        layers.turn(weight)
    for node in list(graph):
        if node.op_type == "MatMul" and not node.domain:
            layers.to_gemm(node)


class _Layers:
    """The rewriting of one graph, and the names in it."""

    def __init__(self, graph: Graph, names: set[str | None]) -> None:
        self.graph = graph
        self.names = names

    def plain_gemm(self, node: Node) -> None:
        """Put nodes of their own for what a Gemm does besides: alpha, beta and transA."""
        alpha, beta = (_float(node, name) for name in ("alpha", "beta"))
        first, second, bias = (*node.inputs, None)[:3]
        if _integer(node, "transA") and first is not None:
            first = self._before(node, "input", "Transpose", [first], {"perm": [1, 0]}, _reversed(first))
        if alpha != 1.0 and first is not None:
            factor = self._constant(f"{node.name}.alpha", alpha, first)
            first = self._before(node, "scaled", "Mul", [first, factor], {}, first.shape)
        if bias is not None and beta == 0.0:
            bias = None
        elif bias is not None and beta != 1.0:
            factor = self._constant(f"{node.name}.beta", beta, bias)
            bias = self._before(node, "scaled_bias", "Mul", [bias, factor], {}, bias.shape)
        elif bias is not None:
            _flatten_bias(bias)
        source = _transposed_initializer(second)
        if source is not None and not _integer(node, "transB"):
            transpose, second = second, source
            node.attributes["transB"] = onnx_ir.AttrInt64("transB", 1)
        for index, value in enumerate((first, second, bias)[: len(node.inputs)]):
            node.replace_input_with(index, value)
        if source is not None:
            self._drop_unused(transpose)
        for name in ("alpha", "beta", "transA"):
            node.attributes.pop(name, None)

    def turn(self, weight: Value) -> None:
        """Store a weight as [out, in] if every node that reads it reads [in, out]."""
        tensor, uses = weight.const_value, list(weight.uses())
        if tensor is None or len(tensor.shape) != 2 or tensor.dtype not in _FLOATS or weight.is_graph_output():
            return
        if not uses or not all(use.idx == 1 and _reads_as_it_lies(use.node) for use in uses):
            return
        rows, columns = tensor.shape.numpy()
        content = tensor  # as it is now: the value gets another one below

        def turned() -> onnx_ir.TensorProtocol:
            return onnx_ir.Tensor(np.ascontiguousarray(content.numpy().T), content.dtype, name=weight.name)

        # in memory it is turned at once, so that the old one can go; one in a file stays there until it is used
        later = lazy(turned, tensor.dtype, (columns, rows), str(weight.name))
        weight.const_value = turned() if isinstance(tensor, onnx_ir.Tensor) else later
        weight.shape = onnx_ir.Shape((columns, rows))
        for use in uses:
            if use.node.op_type == "Gemm":
                use.node.attributes["transB"] = onnx_ir.AttrInt64("transB", 1)
            else:
                shape = onnx_ir.Shape((rows, columns))
                value = self._before(use.node, "transpose", "Transpose", [weight], {"perm": [1, 0]}, shape)
                use.node.replace_input_with(1, value)

    def to_gemm(self, node: Node) -> None:
        """Make a product of a 2-D value and a transposed weight, and the bias behind it, one Gemm."""
        first, second = node.inputs
        weight = _transposed_initializer(second)
        if weight is None or first is None or first.shape is None or len(first.shape) != 2:
            return
        if weight.const_value is None or weight.const_value.dtype not in _FLOATS:
            return
        add, bias = _bias_behind(node, weight.const_value.shape.numpy()[0])
        last = node if add is None else add
        inputs = [first, weight] if bias is None else [first, weight, bias]
        gemm = onnx_ir.node("Gemm", inputs, {"transB": 1}, name=node.name)
        old = [node] if add is None else [node, add]
        onnx_ir.convenience.replace_nodes_and_values(
            self.graph, last, old, [gemm], [last.outputs[0]], [gemm.outputs[0]]
        )
        self._drop_unused(second)

    def _before(
        self,
        node: Node,
        what: str,
        op_type: str,
        inputs: list[Value],
        attributes: dict[str, list[int]],
        shape: onnx_ir.Shape | None,
    ) -> Value:
        """Insert a node before another one and return its output."""
        name = self._unused(f"{node.name}.{what}")
        output = Value(name=name, shape=shape, type=inputs[0].type)
        if output.type is None and inputs[0].const_value is not None:
            output.type = onnx_ir.TensorType(inputs[0].const_value.dtype)
        self.graph.insert_before(node, onnx_ir.node(op_type, inputs, attributes, name=name, outputs=[output]))
        return output

    def _constant(self, name: str, number: float, like: Value) -> Value:
        dtype = like.dtype or (like.const_value.dtype if like.const_value is not None else DataType.FLOAT)
        tensor = onnx_ir.Tensor(np.array(number, dtype.numpy()), dtype, name=self._unused(name))
        value = Value(name=tensor.name, shape=onnx_ir.Shape(()), type=onnx_ir.TensorType(dtype), const_value=tensor)
        self.graph.register_initializer(value)
        return value

    def _drop_unused(self, value: Value | None) -> None:
        node = None if value is None else value.producer()
        if value is not None and node is not None and not value.uses() and not value.is_graph_output():
            self.graph.remove(node, safe=True)

    def _unused(self, name: str) -> str:
        number, own = 0, name
        while own in self.names:
            number, own = number + 1, f"{name}_{number + 1}"
        self.names.add(own)
        return own


def _reads_as_it_lies(node: Node) -> bool:
    return not node.domain and (node.op_type == "MatMul" or (node.op_type == "Gemm" and not _integer(node, "transB")))


def _transposed_initializer(value: Value | None) -> Value | None:
    """Return the 2-D initializer whose transpose a value is, or None."""
    node = None if value is None else value.producer()
    if node is None or node.op_type != "Transpose" or node.domain:
        return None
    (source,) = node.inputs
    if source is None or source.const_value is None or not source.is_initializer():
        return None
    if len(source.const_value.shape) != 2:
        return None
    order = node.attributes.get("perm")
    return source if order is None or list(order.as_ints()) == [1, 0] else None


def _bias_behind(node: Node, features: int) -> tuple[Node | None, Value | None]:
    """Return the Add of a bias [features] that alone reads a node's output, and the bias."""
    output = node.outputs[0]
    uses = list(output.uses())
    if len(uses) != 1 or output.is_graph_output() or uses[0].node.op_type != "Add" or uses[0].node.domain:
        return None, None
    add = uses[0].node
    bias = add.inputs[1 - uses[0].idx]
    if bias is None or bias.const_value is None or not bias.is_initializer():
        return None, None
    return (add, bias) if tuple(bias.const_value.shape) == (features,) else (None, None)


def _flatten_bias(bias: Value) -> None:
    """Store a bias [1, out] that one node reads as [out], in place."""
    tensor = bias.const_value
    if tensor is None or not bias.is_initializer() or len(bias.uses()) != 1 or bias.is_graph_output():
        return
    if len(tensor.shape) == 2 and tensor.shape[0] == 1:
        content, size = tensor, tensor.shape.numpy()[1]
        bias.const_value = lazy(
            lambda: onnx_ir.Tensor(content.numpy().reshape(-1), content.dtype, name=bias.name),
            *(tensor.dtype, (size,), str(bias.name)),
        )
        bias.shape = onnx_ir.Shape((size,))


def _reversed(value: Value) -> onnx_ir.Shape | None:
    return None if value.shape is None else onnx_ir.Shape(tuple(value.shape)[::-1])


def _integer(node: Node, name: str) -> int:
    attribute = node.attributes.get(name)
    return 0 if attribute is None else attribute.as_int()


def _float(node: Node, name: str) -> float:
    attribute = node.attributes.get(name)
    return 1.0 if attribute is None else attribute.as_float()
