"""The types of a graph's values: their names, and whether those of a node go together."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import cache

import onnx
import onnx_ir

from mopruning.ir.operators import DTYPES, OPERATORS, OPSET

_OWN_NAMES = {onnx_ir.DataType.FLOAT: "float32", onnx_ir.DataType.DOUBLE: "float64"}
_ONNX_NAMES = {"float32": "tensor(float)", "float64": "tensor(double)"}


def dtype_of(value: onnx_ir.Value) -> str | None:
    """Return NumPy's name of a value's type, None where it is not known.

    >>> dtype_of(onnx_ir.val("x", onnx_ir.DataType.BFLOAT16))
    'bfloat16'
    """
    dtype = value.dtype if value.const_value is None else value.const_value.dtype
    return None if dtype is None else _OWN_NAMES.get(dtype, dtype.name.lower())


@cache
def schema_of(name: str) -> onnx.defs.OpSchema:
    """Return ONNX's definition of an operator in the profile's version."""
    return onnx.defs.get_schema(name, OPSET)


def clashes(graph: onnx_ir.Graph) -> Iterator[tuple[onnx_ir.Node, str]]:
    """Find the nodes whose inputs cannot be of the types that they are, or that do not give what is declared.

    Types are followed through the graph from its inputs and initializers; where one is not known, nothing is said.

    Args:
        graph: A graph; nodes outside the profile are passed over.

    Yields:
        A node, and what is wrong with its types.
    """
    known = {value: dtype_of(value) for value in (*graph.inputs, *graph.initializers.values())}
    for node in graph:
        if node.op_type not in OPERATORS or node.domain:
            known |= {value: dtype_of(value) for value in node.outputs}
            continue
        schema = schema_of(node.op_type)
        allowed = {row.type_param_str: row.allowed_type_strs for row in schema.type_constraints}
        bound: dict[str, str] = {}
        for index, value in enumerate(node.inputs):
            kind = schema.inputs[min(index, len(schema.inputs) - 1)].type_str
            dtype = None if value is None else known.get(value)
            if value is None or dtype is None:
                continue
            if bound.setdefault(kind, dtype) != dtype:
                yield node, f"its input {value.name!r} is {dtype}, where another one is {bound[kind]}"
            elif not _is_allowed(dtype, allowed.get(kind, [kind])):
                yield node, f"its input {value.name!r} cannot be {dtype}"
        for index, value in enumerate(node.outputs):
            kind = schema.outputs[min(index, len(schema.outputs) - 1)].type_str
            declared, found = dtype_of(value), bound.get(kind)
            if declared is not None and found is not None and declared != found:
                yield node, f"its output {value.name!r} is declared as {declared}, but is {found}"
            elif declared is not None and declared not in DTYPES:
                yield node, f"its output {value.name!r} is {declared}; known types are {', '.join(DTYPES)}"
            known[value] = found or declared


def _is_allowed(dtype: str, allowed: Collection[str]) -> bool:
    # Opset 20 has no bfloat16 convolution, for one; later versions do, with the same meaning.
    names = [dtype, "float16"] if dtype == "bfloat16" else [dtype]
    return any(_ONNX_NAMES.get(name, f"tensor({name})") in allowed for name in names)
