"""Tensors of a graph as arrays, so that the core's scores can be built into it."""

from __future__ import annotations

from typing import Any

import tensorflow.compat.v1 as tf


class SymbolicArray:
    """A tensor whose values come to be when the graph runs, with as much of the Python array API as scores need.

    Scores made of gradients add up at every step; built into the graph they need no Python there.

    Args:
        tensor: The tensor.
    """

    def __init__(self, tensor: tf.Tensor) -> None:
        self.tensor = tensor

    @property
    def dtype(self) -> Any:
        return self.tensor.dtype.base_dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensor.shape.as_list())

    def __array_namespace__(self, api_version: str | None = None) -> type[Operations]:
        return Operations

    def __mul__(self, other: SymbolicArray) -> SymbolicArray:
        return SymbolicArray(self.tensor * other.tensor)

    def __neg__(self) -> SymbolicArray:
        return SymbolicArray(-self.tensor)


class Operations:
    """The functions and dtypes of the array API, for symbolic arrays."""

    uint8, float32, float64 = tf.uint8, tf.float32, tf.float64

    @staticmethod
    def isdtype(dtype: Any, kind: str) -> bool:
        """Tell whether a dtype is "bool" or "real floating"."""
        return bool({"bool": dtype == tf.bool, "real floating": dtype.is_floating}[kind])

    @staticmethod
    def astype(array: SymbolicArray, dtype: Any) -> SymbolicArray:
        """Return the values in another dtype."""
        return SymbolicArray(tf.cast(array.tensor, dtype))

    @staticmethod
    def abs(array: SymbolicArray) -> SymbolicArray:
        """Return absolute values."""
        return SymbolicArray(tf.abs(array.tensor))
