"""What the exporter writes at length, said briefly: fixed shapes, no detours, operators that others know."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np
import onnx
import onnx_ir
from onnx_ir import Graph, Model, Node, Value

from mopruning.backends.pytorch.exporting.spelling import PART, PATH, SOURCE, number_of, shape_of
from mopruning.ir.operators import OPSET

_END = 1 << 62  # an end of a slice at least as large means the end of the axis


def simplify(model: Model) -> None:
    """Rewrite in place: each node by its rule, then remove what nothing uses."""
    for node in list(model.graph):
        rule = _RULES.get(node.op_type)
        same = rule(node) if rule is not None else None
        if same is not None:
            _bypass(model.graph, node, same)
    remove_unused(model)


def remove_unused(model: Model) -> None:
    """Remove nodes and initializers in place that no output depends on."""
    graph = model.graph
    for node in reversed(list(graph)):
        if not any(value.uses() or value.is_graph_output() for value in node.outputs):
            graph.remove(node, safe=True)
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[name]


def drop_defaults(model: Model) -> None:
    """Remove attributes in place that say what ONNX takes for granted, and missing inputs at the end."""
    for node in model.graph:
        for name, default in _defaults(node.op_type).items():
            attribute = node.attributes.get(name)
            if attribute is not None and attribute.value == default:
                del node.attributes[name]
        axes = len(node.attributes["kernel_shape"].as_ints()) if "kernel_shape" in node.attributes else 0
        for name, number in (("pads", 0), ("dilations", 1), ("strides", 1), ("output_padding", 0)):
            if axes and name in node.attributes and not any(n != number for n in node.attributes[name].as_ints()):
                del node.attributes[name]
        if node.op_type == "AveragePool" and not {"pads", "ceil_mode"} & set(node.attributes):
            node.attributes.pop("count_include_pad", None)
        while node.inputs and node.inputs[-1] is None:
            node.resize_inputs(len(node.inputs) - 1)


@cache
def _defaults(op_type: str) -> dict[str, Any]:
    defaults = {}
    for name, attribute in onnx.defs.get_schema(op_type, OPSET).attributes.items():
        if attribute.default_value.type != onnx.AttributeProto.UNDEFINED:
            value = onnx.helper.get_attribute_value(attribute.default_value)
            defaults[name] = value.decode() if isinstance(value, bytes) else value
    return defaults


def _bypass(graph: Graph, node: Node, same: Value) -> None:
    """Let the users of a node's output use `same`, unless an output of the graph needs a node of its own."""
    (output,) = node.outputs
    if output.is_graph_output() and (same.is_graph_output() or same.producer() is None):
        if node.op_type != "Identity":
            _replace(node, "Identity", [same])
        return
    if same.shape is None:
        same.shape = output.shape
    output.replace_all_uses_with(same, replace_graph_outputs=True)
    graph.remove(node, safe=True)


def _replace(node: Node, op_type: str, inputs: list[Value | None], **attributes: Any) -> Node:
    """Put another node in the place of one with a single output."""
    new = onnx_ir.node(op_type, inputs, attributes)
    new.meta.update({key: node.meta[key] for key in (PATH, PART) if key in node.meta})
    new.outputs[0].shape, new.outputs[0].type = node.outputs[0].shape, node.outputs[0].type
    graph = node.graph
    assert graph is not None
    graph.insert_before(node, [new])
    node.outputs[0].replace_all_uses_with(new.outputs[0], replace_graph_outputs=True)
    graph.remove(node, safe=True)
    return new


def _before(node: Node, op_type: str, inputs: list[Value | None], **attributes: Any) -> Value:
    """Add a node with a single output before another one."""
    new = onnx_ir.node(op_type, inputs, attributes)
    new.meta[PATH] = node.meta.get(PATH, "")
    assert node.graph is not None
    node.graph.insert_before(node, [new])
    return new.outputs[0]


def _constant(node: Node, array: Any) -> Value:
    """Add a constant int64 before a node."""
    return _before(node, "Constant", [], value=onnx_ir.tensor(np.asarray(array, np.int64)))


def _known(value: Value | None) -> bool:
    return value is not None and value.shape is not None


def _identity(node: Node) -> Value | None:
    return node.inputs[0]


def _cast(node: Node) -> Value | None:
    x = node.inputs[0]
    return x if x is not None and x.dtype is not None and int(x.dtype) == node.attributes["to"].as_int() else None


def _cast_like(node: Node) -> Value | None:
    x, like = node.inputs
    if x is None or like is None or like.dtype is None:
        return None
    if x.dtype == like.dtype:
        return x
    _replace(node, "Cast", [x], to=int(like.dtype))
    return None


def _transpose(node: Node) -> Value | None:
    order = node.attributes.get("perm")
    return node.inputs[0] if order is not None and list(order.as_ints()) == sorted(order.as_ints()) else None


def _expand(node: Node) -> Value | None:
    x = node.inputs[0]
    if _known(x) and _known(node.outputs[0]) and shape_of(x) == shape_of(node.outputs[0]):
        return x
    return None


def _slice(node: Node) -> Value | None:
    """Drop a slice that takes everything."""
    numbers = [number_of(value) for value in node.inputs[1:]]
    if any(number is None for number in numbers):
        return None
    starts, ends, _, steps = (*numbers, None, None)[:4]
    assert starts is not None
    assert ends is not None
    whole = not starts.any() and bool((ends >= _END).all()) and (steps is None or bool((steps == 1).all()))
    return node.inputs[0] if whole else None


def _reshape(node: Node) -> Value | None:
    """Give a reshape a constant target, and call it Flatten where it is one."""
    x, target = node.inputs
    output = node.outputs[0]
    known = number_of(target)
    if known is not None and known.tolist() == [-1]:  # a size on its way from Shape to a list of sizes
        squeeze = x.producer() if x is not None else None
        if squeeze is not None and squeeze.op_type == "Squeeze" and _known(squeeze.inputs[0]):
            source = squeeze.inputs[0]
            return source if shape_of(source) == (1,) else None
    if not _known(x) or not _known(output):
        return None
    old, new = shape_of(x), shape_of(output)
    if old == new:
        return x
    open_axes = [axis for axis, size in enumerate(new) if not isinstance(size, int)]
    if len(open_axes) > 1 or 0 in new:
        return None
    if len(new) == 2 and len(old) > 2 and new[0] == old[0] and all(isinstance(size, int) for size in old[1:]):
        _replace(node, "Flatten", [x], axis=1)
        return None
    kept = {axis for axis in open_axes if axis < len(old) and old[axis] == new[axis]}
    sizes = [0 if axis in kept else size if isinstance(size, int) else -1 for axis, size in enumerate(new)]
    if known is None or known.tolist() != sizes or "allowzero" in node.attributes:
        _replace(node, "Reshape", [x, _constant(node, sizes)])
    return None


def _times_one(node: Node) -> Value | None:
    """Drop a product with 1, or a division by it."""
    x, factor = node.inputs
    number = number_of(factor) if factor is not None and SOURCE not in factor.meta else None
    return x if number is not None and number.ndim == 0 and number == 1 else None


def _squeeze(node: Node) -> Value | None:
    """Drop axes longer than 1, which PyTorch leaves as they are and ONNX refuses."""
    x = node.inputs[0]
    axes = number_of(node.inputs[1]) if len(node.inputs) > 1 else None
    if axes is None or not _known(x):
        return None
    fitting = [
        axis for axis in axes.reshape(-1).tolist() if shape_of(x)[axis] == 1 or not isinstance(shape_of(x)[axis], int)
    ]
    if len(fitting) < axes.size and fitting:
        _replace(node, "Squeeze", [x, _constant(node, fitting)])
    return None if fitting else x


def _reduce(node: Node) -> Value | None:
    """Call the mean or maximum over a whole image what it is."""
    x = node.inputs[0]
    axes = number_of(node.inputs[1]) if len(node.inputs) > 1 else None
    keep = node.attributes.get("keepdims")
    if axes is None or not _known(x) or (keep is not None and not keep.as_int()):
        return None
    rank = len(shape_of(x))
    if 3 <= rank <= 5 and sorted(axis % rank for axis in axes.tolist()) == list(range(2, rank)):
        _replace(node, {"ReduceMean": "GlobalAveragePool", "ReduceMax": "GlobalMaxPool"}[node.op_type], [x])
    return None


def _pool(node: Node) -> Value | None:
    """Take `ceil_mode` from a pool whose last window PyTorch drops: one that would start in the padding at the end.

    ONNX before opset 22 keeps that window.
    """
    x = node.inputs[0]
    ceil = node.attributes.get("ceil_mode")
    if ceil is None or not ceil.as_int() or not _known(x) or not _known(node.outputs[0]):
        return None
    kernel = node.attributes["kernel_shape"].as_ints()
    axes = len(kernel)
    read = {
        name: node.attributes[name].as_ints() for name in ("strides", "pads", "dilations") if name in node.attributes
    }
    strides, dilations = read.get("strides", (1,) * axes), read.get("dilations", (1,) * axes)
    pads = list(read.get("pads", (0,) * axes * 2))
    sizes, counts = shape_of(x)[-axes:], shape_of(node.outputs[0])[-axes:]
    if not all(isinstance(size, int) for size in sizes):
        return None
    rooms = [size + pads[i] + pads[axes + i] - (kernel[i] - 1) * dilations[i] - 1 for i, size in enumerate(sizes)]
    if all(-(-room // step) + 1 == count for room, step, count in zip(rooms, strides, counts, strict=True)):
        return None  # no window is dropped
    partial = [room // step + 1 != count for room, step, count in zip(rooms, strides, counts, strict=True)]
    for i in range(axes):
        if partial[i]:  # padding lets the last window in without ceil_mode; it does not count in a mean
            pads[axes + i] += -rooms[i] % strides[i]
    node.attributes["pads"] = onnx_ir.AttrInt64s("pads", pads)
    del node.attributes["ceil_mode"]
    return None


def _pad(node: Node) -> Value | None:
    """Spell out padding with the values of the other end, which only later operator sets know, as joined slices."""
    x = node.inputs[0]
    amounts = number_of(node.inputs[1])
    mode = node.attributes.get("mode")
    if mode is None or mode.as_string() != "wrap" or amounts is None or not _known(x) or len(node.inputs) > 2:
        return None
    rank = len(shape_of(x))
    result = x
    for axis in range(rank):
        begin, end = int(amounts[axis]), int(amounts[rank + axis])
        if not begin and not end:
            continue
        parts = [result]
        if begin:
            parts.insert(0, _before(node, "Slice", [result, *(_constant(node, [n]) for n in (-begin, _END, axis))]))
        if end:
            parts.append(_before(node, "Slice", [result, *(_constant(node, [n]) for n in (0, end, axis))]))
        result = _before(node, "Concat", parts, axis=axis)
    return result


def _resize(node: Node) -> Value | None:
    """Give a resize constant scales where the sizes of its images are fixed: the batch size is no part of it then."""
    x, output = node.inputs[0], node.outputs[0]
    sizes = node.inputs[3] if len(node.inputs) > 3 else None
    if sizes is None or number_of(sizes) is not None or not _known(x) or not _known(output):
        return None
    pairs = list(zip(shape_of(x), shape_of(output), strict=True))
    if not all(old == new or (isinstance(old, int) and isinstance(new, int)) for old, new in pairs):
        return None
    scales = np.array([1.0 if old == new else new / old for old, new in pairs], np.float32)
    if any(old != new and int(old * scale) != new for (old, new), scale in zip(pairs, scales, strict=True)):
        return None  # rounding would give another size
    kept = {name: attribute.value for name, attribute in node.attributes.items()}
    constant = _before(node, "Constant", [], value=onnx_ir.tensor(scales))
    _replace(node, "Resize", [x, None, constant], **kept)
    return None


_RULES: Mapping[str, Callable[[Node], Value | None]] = {
    "Identity": _identity,
    "Cast": _cast,
    "CastLike": _cast_like,
    "Transpose": _transpose,
    "Expand": _expand,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Reshape": _reshape,
    "ReduceMean": _reduce,
    "ReduceMax": _reduce,
    "Mul": _times_one,
    "Div": _times_one,
    "Pad": _pad,
    "Resize": _resize,
    "MaxPool": _pool,
    "AveragePool": _pool,
}
"""Operator -> a rule: it returns the input that the output equals, or rewrites the node itself and returns None."""
