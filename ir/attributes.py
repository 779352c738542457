"""Attributes of ONNX nodes, with the defaults of the operator set."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import onnx
from onnx_ir import Node

from mopruning.ir.operators import OPSET


def attribute(node: Node, name: str, otherwise: Any = None) -> Any:
    """Return an attribute, else ONNX's default, else `otherwise`; a float as short as float32 needs.

    >>> import onnx_ir
    >>> attribute(onnx_ir.node("Elu", [], {"alpha": float(np.float32(0.1))}), "alpha")
    0.1
    """
    given = node.attributes.get(name)
    value = _defaults(node.op_type).get(name) if given is None else given.value
    if value is None:
        return otherwise
    if isinstance(value, float):
        return shortest(value)
    return list(value) if isinstance(value, tuple) else value


def shortest(number: float) -> float:
    """Return the number with the fewest digits that is the same in float32: ONNX's 0.1 is PyTorch's again."""
    return float(str(np.float32(number)))


@cache
def _defaults(op_type: str) -> dict[str, Any]:
    defaults = {}
    for name, formal in onnx.defs.get_schema(op_type, OPSET).attributes.items():
        if formal.default_value.type != onnx.AttributeProto.UNDEFINED:
            value = onnx.helper.get_attribute_value(formal.default_value)
            defaults[name] = value.decode() if isinstance(value, bytes) else value
    return defaults
