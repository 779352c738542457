"""The twelve operators of a Moffett graph, in one table: their attributes, and what they are in ONNX.

They are called as in TVM Relay (https://tvm.apache.org/docs), whose padding is given as height and width, or as top,
left, bottom, right; ONNX orders pads in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from mopruning.errors import FormatError
from mopruning.ir.moffett_nodes import MoffettNode

Attributes: TypeAlias = "dict[str, Any]"
Readers: TypeAlias = "Mapping[str, tuple[Callable[[Any], Any], Any]]"
"""Attribute -> how it is read, and its default; None where it must be given."""


_LARGEST = 1 << 31


@dataclass(frozen=True)
class MoffettOperator:
    """What is known about one operator.

    Args:
        name: Its name in the file.
        onnx: The ONNX operator that does the same.
        operands: What its inputs are: "x" for the value of a node, else a parameter.
        attributes: Attribute -> how it is read, and its default; None where it must be given.
        convert: Attributes as read -> ONNX's.
    """

    name: str
    onnx: str
    operands: tuple[str, ...]
    attributes: Readers
    convert: Callable[[Attributes], Attributes]

    def read(self, node: MoffettNode) -> Attributes:
        """Return the attributes of a node, checked, with defaults where the file has none.

        Raises:
            FormatError: If one is missing, unknown or of no possible value.
        """
        unknown = sorted(set(node.attributes) - set(self.attributes) - set(_FIXED))
        if unknown:
            known = ", ".join(self.attributes) or "none"
            raise FormatError(f"{node}: its attribute {unknown[0]!r} is not known; known: {known}")
        for name, allowed in _FIXED.items():
            if node.attributes.get(name, allowed[0]) not in allowed:
                raise FormatError(f"{node}: its {name} is {node.attributes[name]!r:.80}, expected {allowed[0]!r}")
        result = {}
        for name, (read, default) in self.attributes.items():
            value = node.attributes.get(name)
            if value is None and default is None:
                raise FormatError(f"{node}: its attribute {name!r} is missing")
            try:
                result[name] = read(default if value is None else value)
            except ValueError as error:
                raise FormatError(f"{node}: its {name} {error}, got {value!r:.80}") from None
        return result


def integer(value: Any) -> int:
    """Read a number of at least 0."""
    if type(value) is not int or not 0 <= value < _LARGEST:
        raise ValueError("must be a whole number of 0 or more")
    return value


def positive(value: Any) -> int:
    """Read a number of at least 1."""
    if integer(value) < 1:
        raise ValueError("must be 1 or more")
    return int(value)


def flag(value: Any) -> bool:
    """Read a truth value."""
    if value not in (True, False, 0, 1) or isinstance(value, float):
        raise ValueError("must be true or false")
    return bool(value)


def real(value: Any) -> float:
    """Read a number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
        raise ValueError("must be a number from 0 to 1")
    return float(value)


def numbers(value: Any) -> list[int]:
    """Read a shape; () stands for one that is not given."""
    if not isinstance(value, (list, tuple)):
        raise ValueError("must be a list of whole numbers")
    return [integer(one) for one in value]


def pair(value: Any) -> list[int]:
    """Read height and width, or one number for both."""
    both = [value, value] if type(value) is int else value
    if not isinstance(both, (list, tuple)) or len(both) != 2:
        raise ValueError("must be two numbers")
    return [positive(one) for one in both]


def pads(value: Any) -> list[int]:
    """Read padding as top, left, bottom, right: from these four, from height and width, or from one number."""
    listed = [value] if type(value) is int else value
    if not isinstance(listed, (list, tuple)) or len(listed) not in (1, 2, 4):
        raise ValueError("must be one, two or four numbers")
    ends = [integer(one) for one in listed]
    return ends * (4 // len(ends))


def _extra(value: Any) -> list[int]:
    both = numbers([value, value] if type(value) is int else value)
    if len(both) != 2:
        raise ValueError("must be two numbers")
    return both


_FIXED: Mapping[str, tuple[Any, ...]] = {
    **dict.fromkeys(("layout", "data_layout"), ("NCHW",)),
    "kernel_layout": ("OIHW", "IOHW"),
    **dict.fromkeys(("center", "scale"), (True,)),
    **dict.fromkeys(("out_dtype", "out_layout"), ("", None, "NCHW", "float32")),
}
"""Attributes that any operator may have and that say nothing new."""

_WINDOW: Readers = {"strides": (pair, 1), "padding": (pads, 0), "dilation": (pair, 1)}
_KERNEL: Readers = {
    **_WINDOW,
    "kernel_size": (numbers, ()),
    "W_shape": (numbers, ()),
    "channels": (integer, 0),
    "groups": (positive, 1),
}
_POOL: Readers = {**_WINDOW, "pool_size": (pair, None), "ceil_mode": (flag, False)}


def _window(read: Attributes) -> Attributes:
    dilation = {"dilations": read["dilation"]} if read["dilation"] != [1, 1] else {}
    return {"strides": read["strides"], "pads": read["padding"], **dilation}


def _conv(read: Attributes) -> Attributes:
    return _window(read) | ({"group": read["groups"]} if read["groups"] != 1 else {})


def _deconv(read: Attributes) -> Attributes:
    return _conv(read) | ({"output_padding": read["output_padding"]} if any(read["output_padding"]) else {})


def _pool(read: Attributes) -> Attributes:
    counted = {"count_include_pad": 1} if read.get("count_include_pad") else {}
    rounded = {"ceil_mode": 1} if read["ceil_mode"] else {}
    return {"kernel_shape": read["pool_size"], **_window(read), **rounded, **counted}


def _none(read: Attributes) -> Attributes:
    return {}


_ROWS = (
    MoffettOperator("nn.conv2d", "Conv", ("x", "weight"), _KERNEL, _conv),
    MoffettOperator(
        *("nn.conv2d_transpose", "ConvTranspose", ("x", "weight")), {**_KERNEL, "output_padding": (_extra, 0)}, _deconv
    ),
    MoffettOperator(
        *("nn.batch_norm", "BatchNormalization", ("x", "gamma", "beta", "mean", "variance")),
        {"epsilon": (real, 1e-5), "axis": (positive, 1), "_shape": (numbers, ())},
        lambda read: {"epsilon": read["epsilon"]},
    ),
    MoffettOperator("nn.relu", "Relu", ("x",), {}, _none),
    MoffettOperator("sigmoid", "Sigmoid", ("x",), {}, _none),
    MoffettOperator("nn.max_pool2d", "MaxPool", ("x",), _POOL, _pool),
    MoffettOperator("nn.avg_pool2d", "AveragePool", ("x",), {**_POOL, "count_include_pad": (flag, False)}, _pool),
    MoffettOperator("nn.global_avg_pool2d", "GlobalAveragePool", ("x",), {}, _none),
    MoffettOperator("nn.batch_flatten", "Flatten", ("x",), {}, lambda read: {"axis": 1}),
    MoffettOperator(
        *("nn.dense", "Gemm", ("x", "weight")),
        {"units": (integer, 0), "_shape": (numbers, ())},
        lambda read: {"transB": 1},
    ),
    MoffettOperator("nn.bias_add", "Add", ("x", "bias"), {"axis": (positive, 1), "_shape": (numbers, ())}, _none),
    MoffettOperator("add", "Add", ("x", "x"), {}, _none),
)

OPERATORS: Mapping[str, MoffettOperator] = {row.name: row for row in _ROWS}
"""Name -> row: every operator of the format."""


def operator_of(node: MoffettNode) -> MoffettOperator:
    """Return the row of a node whose inputs are what it says.

    Raises:
        FormatError: If they are not.
    """
    row = OPERATORS[node.operator]
    if len(node.inputs) != len(row.operands):
        wanted = f"{len(row.operands)}: {', '.join(row.operands)}"
        raise FormatError(f"{node}: has {len(node.inputs)} inputs, expected {wanted}")
    for source, operand in zip(node.inputs, row.operands, strict=True):
        if isinstance(source, int) != (operand == "x"):
            wanted = "a node id" if operand == "x" else f"the name of its {operand}"
            raise FormatError(f"{node}: expected {wanted} among its inputs, got {source!r}")
    return row


def weight_problem(row: MoffettOperator, read: Attributes, shape: Sequence[int]) -> str:
    """Return what of a node's attributes does not fit its weight, "" if all does.

    >>> row = OPERATORS["nn.conv2d"]
    >>> weight_problem(row, row.read(MoffettNode(287, row.name, attributes={"kernel_size": [7, 7]})), (64, 3, 3, 3))
    'its kernel_size is [7, 7], but its weight is [64, 3, 3, 3]'
    """
    size = list(shape)
    if row.name == "nn.dense":
        stated = read["_shape"] or ([read["units"], *size[1:]] if read["units"] else size)
        return "" if len(size) == 2 and stated == size else f"its _shape is {stated}, but its weight is {size}"
    if len(size) != 4:
        return f"its weight must have four axes, got {size}"
    if read["kernel_size"] and read["kernel_size"] != size[2:]:
        return f"its kernel_size is {read['kernel_size']}, but its weight is {size}"
    if read["W_shape"] and read["W_shape"] != size:
        return f"its W_shape is {read['W_shape']}, but its weight is {size}"
    outputs = size[0] if row.onnx == "Conv" else size[1] * read["groups"]
    inputs = size[1] * read["groups"] if row.onnx == "Conv" else size[0]
    if read["channels"] not in (0, outputs):
        return f"its channels are {read['channels']}, but its weight is {size}"
    if inputs % read["groups"] or outputs % read["groups"]:
        return f"its {read['groups']} groups do not divide its channels; its weight is {size}"
    return ""
