"""Stripe lowering: a convolution pruned by stripes becomes the computation of the stripes that it keeps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnx_ir

from mopruning.ir.passes.constants import constant

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"

_BLOCK = 16  # filters that are computed together: runtimes lay channels out in blocks of 8 or 16 and slow down between
# What a kept stripe costs for each result besides its products with the input, counted in such products: it is shifted,
# added, and put in its filter's place, and the input is read again, which is bound by memory. Measured in onnxruntime
# 1.31 on one core (AVX-512): 60 to 120 where the input stays in a cache, 170 to 250 where it does not.
_SHIFT, _FAR = 64, 250
_CACHED = 1 << 20  # numbers in an image of the input that stay in a cache


def lower_stripes(model: onnx_ir.Model, gain: float = 1.1) -> onnx_ir.Model:
    """Return the model with each convolution of few stripes computed stripe by stripe, where that is faster.

    A stripe is one kernel position of one filter, over all input channels. A kept stripe is a 1x1 convolution; what it
    gives is shifted to its position by a depthwise convolution with a single 1 in its kernel, which also takes over
    strides, dilations and padding, and a filter is the sum of its stripes. Filters are sorted by how many stripes they
    keep and computed in blocks with as many; a last Gather puts them in their order. So a convolution with a share s
    of its stripes needs about s of the products, by dense kernels that every runtime has. Only rounding changes.

    A convolution stays as it is where that does not pay by a rough count: with few input channels, most stripes kept,
    an image too large for a cache, or an input much larger than the output (strides), all of which is computed. So do
    grouped ones, and those whose weight is computed. Shapes help to count (`infer_shapes`). Fold BatchNormalization
    first (`fold_batchnorm`): runtimes do so themselves after a convolution, and not after a Gather.

    Args:
        model: The model; it is not changed, and its other weights are shared.
        gain: How many times fewer products are wanted, by that count, for a convolution to be lowered.

    Source of the stripes: Meng et al., "Pruning filter in filter", 2020.

    >>> x, w = onnx_ir.val("x", onnx_ir.DataType.FLOAT, ["N", 512, 14, 14]), np.zeros((16, 512, 3, 3), np.float32)
    >>> w[:, :, 1, 1] = w[:, :, 0, 0] = 1.0  # two stripes of nine in each filter
    >>> weight = onnx_ir.val("w", const_value=onnx_ir.tensor(w, name="w"))
    >>> conv = onnx_ir.node("Conv", [x, weight], {"pads": [1, 1, 1, 1]}, name="conv")
    >>> graph = onnx_ir.Graph([x], conv.outputs, nodes=[conv], initializers=[weight], opset_imports={"": 20})
    >>> [node.op_type for node in lower_stripes(onnx_ir.Model(graph, ir_version=10)).graph]
    ['Conv', 'Conv', 'Conv', 'Conv', 'Add']
    """
    result = model.clone()
    taken = {value.name for node in result.graph for value in node.outputs} | set(result.graph.initializers)
    taken |= {value.name for value in result.graph.inputs}
    for node in list(result.graph):
        if node.op_type == "Conv" and not node.domain:
            _lower(result.graph, node, gain, taken)
    return result


@dataclass(frozen=True)
class _Filters:
    """Filters that are computed together.

    Args:
        stripes: How many stripes each of them gets, 1 or more; some may be zero.
        index: Which filters they are.
    """

    stripes: int
    index: tuple[int, ...]


def _lower(graph: onnx_ir.Graph, conv: onnx_ir.Node, gain: float, taken: set[str | None]) -> None:
    """Lower one convolution in place, where that is possible and pays."""
    weight = constant(conv.inputs[1])
    if weight is None or weight.ndim < 3 or math.prod(weight.shape[2:]) < 2 or not weight.size:
        return
    if "group" in conv.attributes and conv.attributes["group"].as_int() != 1:
        return
    kept = (weight != 0).any(axis=1).reshape(weight.shape[0], -1)
    parts = _parts(kept)
    if _products(parts, weight.shape[1], conv) * gain > weight.size:
        return
    name = str(conv.name or conv.outputs[0].name)
    new = _Nodes(f"{name}.stripes", taken)
    results = [_computed(new, conv, weight, kept, part) for part in parts]
    result = results[0] if len(results) == 1 else new.node("Concat", results, {"axis": 1})
    order = [index for part in parts for index in part.index]
    if order != sorted(order):
        place = new.weight("order", np.argsort(order).astype(np.int64))
        result = new.node("Gather", [result, place], {"axis": 1})
    _replace(graph, conv, new, result)


def _parts(kept: NumPyArray) -> list[_Filters]:
    """Sort filters into parts that keep as many stripes each, a block of filters at least.

    Args:
        kept: Bool [filters, kernel positions].
    """
    counts = kept.sum(axis=1)
    order = np.argsort(-counts, kind="stable")
    found: dict[int, list[int]] = {}
    for start in range(0, len(order), _BLOCK):
        block = order[start : start + _BLOCK]
        found.setdefault(max(1, int(counts[block[0]])), []).extend(block.tolist())
    return [_Filters(stripes, tuple(sorted(index))) for stripes, index in found.items()]


def _products(parts: Sequence[_Filters], channels: int, conv: onnx_ir.Node) -> float:
    """Count the products for each result of a convolution, with what shifting costs counted as products.

    Args:
        parts: Its filters.
        channels: How many input channels it has.
        conv: Tells the sizes of its images, as far as they are known.
    """
    before, after = (_positions(value) for value in (conv.inputs[0], conv.outputs[0]))
    if before and after:
        ratio = before / after
    else:
        ratio = math.prod(conv.attributes["strides"].as_ints()) if "strides" in conv.attributes else 1.0
    shift = _FAR if before and channels * before > _CACHED else _SHIFT
    stripes = sum(part.stripes * len(part.index) for part in parts)
    filters = sum(len(part.index) for part in parts)
    return stripes * (channels * ratio + shift) + (filters * shift if len(parts) > 1 else 0)


def _positions(value: onnx_ir.Value | None) -> int | None:
    """Return how many positions an image has, None where that is open."""
    sizes = [] if value is None or value.shape is None else list(value.shape[2:])
    known = [size for size in sizes if isinstance(size, int)]
    return math.prod(known) if known and len(known) == len(sizes) else None


def _computed(new: _Nodes, conv: onnx_ir.Node, weight: NumPyArray, kept: NumPyArray, part: _Filters) -> onnx_ir.Value:
    """Add the nodes that compute some filters, and return what holds them."""
    filters, channels = len(part.index), weight.shape[1]
    ones = (1,) * (weight.ndim - 2)
    flat = weight.reshape(*weight.shape[:2], -1)
    bias = constant(conv.inputs[2]) if len(conv.inputs) > 2 and conv.inputs[2] is not None else None
    attributes: dict[str, Any] = dict(conv.attributes.items())
    total: onnx_ir.Value | None = None
    for turn in range(part.stripes):
        point = np.zeros((filters, channels), weight.dtype)
        shift = np.zeros((filters, kept.shape[1]), weight.dtype)
        for row, index in enumerate(part.index):
            positions = np.flatnonzero(kept[index])
            if turn < positions.size:
                point[row] = flat[index, :, positions[turn]]
                shift[row, positions[turn]] = 1
        here = new.node("Conv", [conv.inputs[0], new.weight("point", point.reshape(filters, channels, *ones))], {})
        inputs = [here, new.weight("shift", shift.reshape(filters, 1, *weight.shape[2:]))]
        if turn == 0 and bias is not None:
            inputs.append(new.weight("bias", np.ascontiguousarray(bias.reshape(-1)[list(part.index)])))
        here = new.node("Conv", inputs, {**attributes, "group": filters})
        total = here if total is None else new.node("Add", [total, here], {})
    assert total is not None
    return total


class _Nodes:
    """New nodes and weights, with names that are free."""

    def __init__(self, prefix: str, taken: set[str | None]) -> None:
        self._prefix, self._taken = prefix, taken
        self.nodes: list[onnx_ir.Node] = []
        self.weights: list[onnx_ir.Value] = []

    def node(self, operator: str, inputs: Sequence[onnx_ir.Value | None], attributes: dict[str, Any]) -> onnx_ir.Value:
        """Add a node and return its result."""
        name = self._free(operator.lower())
        self.nodes.append(onnx_ir.node(operator, inputs, attributes, name=name))
        result = self.nodes[-1].outputs[0]
        result.name = name
        if inputs[0] is not None and inputs[0].dtype is not None:
            result.dtype = inputs[0].dtype
        return result

    def weight(self, what: str, array: NumPyArray) -> onnx_ir.Value:
        """Add an initializer."""
        tensor = onnx_ir.Tensor(array, name=self._free(what))
        value = onnx_ir.Value(
            name=tensor.name,
            const_value=tensor,
            type=onnx_ir.TensorType(tensor.dtype),
            shape=onnx_ir.Shape(array.shape),
        )
        self.weights.append(value)
        return value

    def _free(self, what: str) -> str:
        number = 1
        while (name := f"{self._prefix}.{what}{number}") in self._taken:
            number += 1
        self._taken.add(name)
        return name


def _replace(graph: onnx_ir.Graph, conv: onnx_ir.Node, new: _Nodes, result: onnx_ir.Value) -> None:
    """Put new nodes in the place of a convolution; what it gave keeps its name."""
    for value in new.weights:
        graph.initializers.add(value)
    graph.insert_before(conv, new.nodes)
    old = conv.outputs[0]
    name, shape, kind = old.name, old.shape, old.type
    operands = [value for value in conv.inputs[1:] if value is not None]
    old.replace_all_uses_with(result, replace_graph_outputs=True)
    graph.remove(conv, safe=True)
    result.name, result.shape, result.type = name, shape, kind
    for value in operands:
        if value.name in graph.initializers and not value.uses() and not value.is_graph_output():
            graph.initializers.pop(str(value.name), None)
