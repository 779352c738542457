"""What functions and operations make of constants, in float64: those that are smooth enough to be told exactly."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
from onnx_ir import Node

from mopruning.ir.attributes import attribute

Floats: TypeAlias = "np.ndarray[Any, np.dtype[np.float64]]"
Function: TypeAlias = "Callable[[Floats], Floats]"

_erf = np.vectorize(math.erf, otypes=[np.float64])


def _number(node: Node, name: str) -> float:
    return float(attribute(node, name))


def _selu(node: Node) -> Function:
    alpha, gamma = _number(node, "alpha"), _number(node, "gamma")
    return lambda x: gamma * np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def _gelu(node: Node) -> Function:
    if attribute(node, "approximate") == "tanh":
        return lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return lambda x: 0.5 * x * (1 + _erf(x / math.sqrt(2)))


FUNCTIONS: Mapping[str, Callable[[Node], Function]] = {
    "Relu": lambda _: lambda x: np.maximum(x, 0),
    "LeakyRelu": lambda node: lambda x: np.where(x < 0, _number(node, "alpha") * x, x),
    "Elu": lambda node: lambda x: np.where(x > 0, x, _number(node, "alpha") * np.expm1(np.minimum(x, 0))),
    "Selu": _selu,
    "Sigmoid": lambda _: lambda x: 1 / (1 + np.exp(-x)),
    "HardSigmoid": lambda node: lambda x: np.clip(_number(node, "alpha") * x + _number(node, "beta"), 0, 1),
    "HardSwish": lambda _: lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "Tanh": lambda _: np.tanh,
    "Gelu": _gelu,
    "Mish": lambda _: lambda x: x * np.tanh(np.logaddexp(x, 0)),
    "Softplus": lambda _: lambda x: np.logaddexp(x, 0),
    "Abs": lambda _: np.abs,
    "Neg": lambda _: np.negative,
    "Reciprocal": lambda _: lambda x: 1 / x,
    "Sqrt": lambda _: np.sqrt,
    "Exp": lambda _: np.exp,
    "Log": lambda _: np.log,
    "Erf": lambda _: _erf,
    "Sin": lambda _: np.sin,
    "Cos": lambda _: np.cos,
}
"""Operator -> from its node, the function of one number that it is; steps such as Floor would magnify rounding."""

OPERATIONS: Mapping[str, Callable[[Floats, Floats], Floats]] = {
    "Add": np.add,
    "Sum": np.add,
    "Sub": np.subtract,
    "Mul": lambda left, right: np.where((left == 0) | (right == 0), 0.0, left * right),
    "Div": lambda left, right: np.where((left == 0) & (right != 0) & ~np.isnan(right), 0.0, left / right),
    "Min": np.minimum,
    "Max": np.maximum,
    "PRelu": lambda x, slope: np.where(x < 0, slope * x, x),
}
"""Operator -> the operation of two numbers, NaN for one that is not known."""
