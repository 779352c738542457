"""Attributes of nodes as JSON: the part of `mopruning.ir.graph_text` that tells one type from another."""

from __future__ import annotations

import base64
import math
from typing import Any

import numpy as np
import onnx_ir
from onnx_ir import AttributeType, DataType

from mopruning.errors import FormatError
from mopruning.ir.json_text import expect, items, sizes

LARGEST_TENSOR = 1 << 16  # bytes of a tensor in an attribute; anything larger is a weight and so an initializer

_SINGLE = {int: AttributeType.INT, float: AttributeType.FLOAT, str: AttributeType.STRING}
_LIST = {int: AttributeType.INTS, float: AttributeType.FLOATS, str: AttributeType.STRINGS}
_NAMES = {"ints": AttributeType.INTS, "floats": AttributeType.FLOATS, "strings": AttributeType.STRINGS}
_ENDLESS = ("nan", "inf", "-inf")  # which JSON has no numbers for


def to_json(attribute: onnx_ir.Attr) -> Any:
    """Write an attribute's value.

    Raises:
        FormatError: If it is a graph, a reference, a large tensor or of a rarer type.

    >>> to_json(onnx_ir.AttrInt64s("pads", [])), to_json(onnx_ir.AttrFloat32("alpha", 1.0))
    ({'ints': []}, 1.0)
    """
    name, kind, value = attribute.name, attribute.type, attribute.value
    if attribute.is_ref():
        raise FormatError(f"attribute {name!r} refers to a function's attribute")
    if kind == AttributeType.FLOAT and not math.isfinite(value):
        return {"float": str(value)}
    if kind in _SINGLE.values():
        return value
    if kind in _LIST.values():
        spelt = [str(one) if isinstance(one, float) and not math.isfinite(one) else one for one in value]
        clear = len(spelt) > 0 and spelt == list(value)
        return spelt if clear else {next(text for text, one in _NAMES.items() if one == kind): spelt}
    if kind == AttributeType.TENSOR:
        if value.nbytes > LARGEST_TENSOR:
            raise FormatError(f"attribute {name!r} is a tensor of {value.nbytes} bytes: make it an initializer")
        return {"tensor": [value.dtype.short_name(), list(value.shape), base64.b64encode(value.tobytes()).decode()]}
    raise FormatError(f"attribute {name!r} is of type {kind.name}, which .mopir cannot hold")


def from_json(name: str, content: Any, where: str) -> onnx_ir.Attr:
    """Read an attribute that `to_json` wrote.

    Args:
        name: Its name.
        content: What JSON holds; it is not trusted.
        where: The place, for messages.

    Raises:
        FormatError: If it is anything else.

    >>> from_json("pads", [0, 1], "node 0")
    Attr('pads', INTS, (0, 1))
    """
    if isinstance(content, list):
        kinds = {type(one) for one in content}
        expect(len(kinds) == 1 and kinds <= _LIST.keys(), where, "a list of numbers or of texts", content)
        _check_range(content, where)
        return onnx_ir.Attr(name, _LIST[kinds.pop()], content)
    if isinstance(content, dict):
        expect(len(content) == 1, where, "one type", content)
        ((kind, value),) = content.items()
        if kind == "tensor":
            return onnx_ir.Attr(name, AttributeType.TENSOR, _tensor(value, where))
        if kind == "float":
            return onnx_ir.Attr(name, AttributeType.FLOAT, _floats([value], where)[0])
        if kind == "floats":
            return onnx_ir.Attr(name, AttributeType.FLOATS, _floats(value, where))
        expect(kind in _NAMES and value == [], where, "an empty list of ints or strings", content)
        return onnx_ir.Attr(name, _NAMES[kind], [])
    expect(type(content) in _SINGLE, where, "a number or text", content)
    _check_range([content], where)
    return onnx_ir.Attr(name, _SINGLE[type(content)], content)


def dtype_of(text: Any, where: str) -> DataType:
    """Return the type that a short name such as "f32" stands for.

    Raises:
        FormatError: If there is none.
    """
    try:
        found = DataType.from_short_name(text)
    except TypeError:  # for what cannot be a key, too
        found = DataType.UNDEFINED
    expect(found != DataType.UNDEFINED, where, "a type such as 'f32'", text)
    return found


def _check_range(content: list[Any], where: str) -> None:
    fits = all(type(one) is not int or -(2**63) <= one < 2**63 for one in content)
    expect(fits, where, "whole numbers of 64 bits", content)


def _floats(content: Any, where: str) -> list[float]:
    numbers = items(content, where)
    fits = all(type(one) is float or (isinstance(one, str) and one in _ENDLESS) for one in numbers)
    expect(fits, where, "numbers with a point, or 'nan', 'inf', '-inf'", content)
    return [float(one) for one in numbers]


def _tensor(content: Any, where: str) -> onnx_ir.TensorProtocol:
    expect(isinstance(content, list) and len(content) == 3, where, "type, shape and base64", content)
    dtype, shape = dtype_of(content[0], where), sizes(content[1], where)
    expect(dtype != DataType.STRING and dtype.bitwidth % 8 == 0, where, "a type of whole bytes", content[0])
    try:
        data = base64.b64decode(content[2], validate=True)
    except (TypeError, ValueError):
        data = None
    # the product of the sizes that are not 0 is what NumPy limits
    fits = data is not None and len(data) <= LARGEST_TENSOR and math.prod(size or 1 for size in shape) < 2**59
    expect(fits and len(data or b"") == math.prod(shape) * dtype.bitwidth // 8, where, "bytes that fill it", content)
    return onnx_ir.Tensor(np.frombuffer(data or b"", dtype.numpy().newbyteorder("<")).reshape(shape), dtype)
