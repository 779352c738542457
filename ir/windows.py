"""Windows of convolutions and pools in the profile's form: their padding in numbers, not as a rule."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir
from onnx_ir import Graph, Node

_WINDOWED = ("Conv", "ConvTranspose", "MaxPool", "AveragePool")


def explicit_padding(graph: Graph) -> None:
    """Replace auto_pad and output_shape by the pads they stand for, in place.

    A rule whose padding depends on a size that is open stays, and validation refuses it.

    Args:
        graph: A graph of opset 20, with shapes as far as they are known.
    """
    for node in graph:
        if node.domain or node.op_type not in _WINDOWED:
            continue
        rule = node.attributes["auto_pad"].as_string() if "auto_pad" in node.attributes else "NOTSET"
        kernel = _kernel(node)
        if kernel is None:
            continue
        if node.op_type == "ConvTranspose":
            _transposed(node, rule, kernel)
        elif rule != "NOTSET":
            _forward(node, rule, kernel)


def same_pads(size: int | None, span: int, stride: int) -> tuple[int, int] | None:
    """Return the padding of one axis that makes ceil(size / stride) windows (ONNX, Conv: auto_pad=SAME_UPPER).

    Of an odd padding the larger half is at the end.

    Args:
        size: Elements of the axis, None if that is open.
        span: Length of a window, dilation included.
        stride: Distance between windows.

    Returns:
        Padding before and behind; None where it depends on a size that is open.

    >>> same_pads(224, 7, 2), same_pads(225, 7, 2), same_pads(None, 3, 1), same_pads(None, 3, 2)
    ((2, 3), (3, 3), (1, 1), None)
    """
    if size is None and stride > 1:
        return None
    # without a stride every position has a window, whatever the size
    total = span - 1 if size is None or stride == 1 else max(0, (-(-size // stride) - 1) * stride + span - size)
    return total // 2, total - total // 2


def _forward(node: Node, rule: str, kernel: Sequence[int]) -> None:
    """Set the pads of a convolution or pool, in place (ONNX, Conv: auto_pad)."""
    totals = [0] * len(kernel)
    if rule != "VALID":
        strides, spans = _numbers(node, "strides", kernel), _spans(node, kernel)
        for axis, (size, stride, span) in enumerate(zip(_sizes(node, kernel), strides, spans, strict=True)):
            pads = same_pads(size, span, stride)
            if pads is None:
                return
            totals[axis] = sum(pads)
    _set_pads(node, rule, totals)


def _transposed(node: Node, rule: str, kernel: Sequence[int]) -> None:
    """Set the pads of a transposed convolution, in place (ONNX, ConvTranspose: output_shape, auto_pad)."""
    asked = node.attributes.get("output_shape")
    if rule in ("NOTSET", "VALID") and asked is None:
        if rule == "VALID":
            _set_pads(node, rule, [0] * len(kernel))
        return
    strides, spans = _numbers(node, "strides", kernel), _spans(node, kernel)
    extra = _numbers(node, "output_padding", kernel, 0)
    totals, sizes = [], _sizes(node, kernel)
    for axis, (stride, span) in enumerate(zip(strides, spans, strict=True)):
        size = sizes[axis]
        if asked is None:  # the output is the input's size times the stride
            totals.append(span - stride + extra[axis])
        elif size is None:
            return
        else:
            totals.append(stride * (size - 1) + extra[axis] + span - asked.as_ints()[axis])
    # a longer output than the windows reach is padded at its end
    extra = [number + max(0, -total) for number, total in zip(extra, totals, strict=True)]
    node.attributes.pop("output_shape", None)
    if any(extra):
        node.attributes["output_padding"] = onnx_ir.AttrInt64s("output_padding", extra)
    _set_pads(node, rule, [max(0, total) for total in totals])


def _set_pads(node: Node, rule: str, totals: Sequence[int]) -> None:
    """Share padding out over the two ends, in place: an odd one goes to the end, or to the start if SAME_LOWER."""
    # ConvTranspose shares the other way round: what is taken off most stands at the start unless SAME_UPPER.
    at_start = rule != "SAME_UPPER" if node.op_type == "ConvTranspose" else rule == "SAME_LOWER"
    starts = [total - total // 2 if at_start else total // 2 for total in totals]
    ends = [total - start for total, start in zip(totals, starts, strict=True)]
    node.attributes.pop("auto_pad", None)
    node.attributes["pads"] = onnx_ir.AttrInt64s("pads", [*starts, *ends])


def _kernel(node: Node) -> list[int] | None:
    if "kernel_shape" in node.attributes:
        return list(node.attributes["kernel_shape"].as_ints())
    weight = node.inputs[1].shape if len(node.inputs) > 1 and node.inputs[1] is not None else None
    sizes = [] if weight is None else list(weight)[2:]
    known = [size for size in sizes if isinstance(size, int)]
    return known if known and len(known) == len(sizes) else None


def _sizes(node: Node, kernel: Sequence[int]) -> list[int | None]:
    """Return the spatial sizes of the input, None where one is open."""
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    if shape is None or len(shape) != len(kernel) + 2:
        return [None] * len(kernel)
    return [size if isinstance(size, int) else None for size in list(shape)[2:]]


def _spans(node: Node, kernel: Sequence[int]) -> list[int]:
    dilations = _numbers(node, "dilations", kernel)
    return [(size - 1) * dilation + 1 for size, dilation in zip(kernel, dilations, strict=True)]


def _numbers(node: Node, name: str, kernel: Sequence[int], default: int = 1) -> list[int]:
    attribute = node.attributes.get(name)
    return [default] * len(kernel) if attribute is None else list(attribute.as_ints())
