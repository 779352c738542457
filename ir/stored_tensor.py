"""Initializers that lie in a file until someone asks for their numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import onnx_ir

from mopruning.ir.lazy import LazyArray


@dataclass(frozen=True, eq=False)
class Reading:
    """What a lazy tensor calls at its first use.

    Args:
        name: Name of the tensor.
        stored: Where its numbers are.
    """

    name: str
    stored: LazyArray

    def __call__(self) -> onnx_ir.Tensor[Any]:
        return onnx_ir.Tensor(self.stored.read(), name=self.name)

    def __deepcopy__(self, memo: dict[int, Any]) -> Reading:
        return self  # never changes, and a mapped file cannot be copied


def stored_tensor(name: str, stored: LazyArray) -> onnx_ir.LazyTensor:
    """Return a tensor that reads its numbers, which are read-only, at the first use and keeps them."""
    dtype = onnx_ir.DataType.from_numpy(stored.dtype)
    return onnx_ir.LazyTensor(Reading(name, stored), dtype, onnx_ir.Shape(stored.shape), cache=True, name=name)


def lazy_array(tensor: onnx_ir.TensorProtocol) -> LazyArray:
    """Return a tensor as an array that is read when asked for; one from a file is not kept in memory thereby."""
    if isinstance(tensor, onnx_ir.LazyTensor) and isinstance(tensor.raw, Reading):
        return tensor.raw.stored
    return LazyArray(tensor.dtype.numpy(), tuple(tensor.shape.numpy()), tensor.numpy)
