"""Initial weights: drawn from a seed and the weight's name, when they are first used."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnx_ir

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"


@dataclass(frozen=True)
class Initial:
    """The initial values of one weight, float32.

    Seed and name select a stream of NumPy's Philox generator, so a weight does not depend on what else the network
    holds. (NumPy promises no fixed `standard_normal`; releases 1.26 and 2.4 were seen to agree.)

    Args:
        law: "normal" with the standard deviation `scale`, or "uniform" from ``-scale`` to ``scale``.
        scale: Width of the distribution.
        shape: Canonical shape of the weight.
        seed: Seed of the network, 0 or more.
        name: Name of the weight.

    >>> Initial("uniform", 0.5, (2, 2), seed=0, name="fc.weight")().numpy().dtype
    dtype('float32')
    """

    law: str
    scale: float
    shape: tuple[int, ...]
    seed: int
    name: str

    def __call__(self) -> onnx_ir.Tensor[NumPyArray]:
        """Draw the values; every call draws the same."""
        stream = np.random.SeedSequence((self.seed, zlib.crc32(self.name.encode())))
        generator = np.random.Generator(np.random.Philox(stream))
        if self.law == "normal":
            values = generator.standard_normal(self.shape, dtype=np.float32)
        else:
            values = generator.random(self.shape, dtype=np.float32)
            values -= np.float32(0.5)
            values *= np.float32(2.0)
        values *= np.float32(self.scale)
        return onnx_ir.Tensor(values, name=self.name)

    def tensor(self) -> onnx_ir.LazyTensor:
        """Return a tensor that draws its values at the first use and keeps them."""
        shape = onnx_ir.Shape(self.shape)
        return onnx_ir.LazyTensor(self, onnx_ir.DataType.FLOAT, shape, cache=True, name=self.name)


def kaiming_normal(name: str, shape: tuple[int, ...], fan_out: int, seed: int) -> Initial:
    """Return the initial weight that keeps the size of the gradients behind a ReLU.

    Args:
        name: Name of the weight.
        shape: Its canonical shape.
        fan_out: How many outputs each input reaches, within one group: depthwise layers keep their signal so.
        seed: Seed of the network.

    Source: He et al., "Delving deep into rectifiers", 2015, equation 14: variance ``2 / fan_out``.
    """
    return Initial("normal", math.sqrt(2.0 / fan_out), shape, seed, name)


def uniform_dense(name: str, shape: tuple[int, ...], inputs: int, seed: int) -> Initial:
    """Return the initial weight or bias of a dense layer: uniform within ``1 / sqrt(inputs)``, as PyTorch draws it."""
    return Initial("uniform", 1.0 / math.sqrt(inputs), shape, seed, name)
