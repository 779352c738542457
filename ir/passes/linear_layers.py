"""Layers that add up channels times weights: their weight laid out by groups, outputs and inputs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from onnx_ir import Node, Value

from mopruning.ir.attributes import attribute
from mopruning.ir.coupling.groups import Coupling
from mopruning.ir.passes.constants import constant

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"


@dataclass(frozen=True, eq=False)
class LinearLayer:
    """A convolution, dense or recurrent layer, or a product with a weight.

    Args:
        node: The node.
        value: What it reads.
        axis: Axis of that along which it adds up.
        out_axis: Axis of its output along which the results stand; -1 if there is none.
        weight: Array [groups, outputs of a group, inputs of a group, kernel]; a view where strides allow one.
        place: Which input of the node the weight is.
        uniform: Whether a constant input channel adds a constant to the output; with padding it adds less at the edge.
    """

    node: Node
    value: Value
    axis: int
    out_axis: int
    weight: NumPyArray
    place: int
    uniform: bool

    @property
    def groups(self) -> int:
        """How many groups of channels there are that do not mix."""
        return int(self.weight.shape[0])

    @property
    def inputs(self) -> int:
        """How many channels it reads."""
        return int(self.weight.shape[0] * self.weight.shape[2])

    @property
    def outputs(self) -> int:
        """How many channels it makes."""
        return int(self.weight.shape[0] * self.weight.shape[1])

    @property
    def mixes(self) -> bool:
        """Whether channels are added up; a depthwise convolution keeps each to itself."""
        return self.groups == 1 or self.weight.shape[2] > 1

    @cached_property
    def nonzero(self) -> NumPyArray:
        """Bool [groups, outputs, inputs]: whether any weight between them is not zero."""
        found: NumPyArray = (self.weight != 0).any(-1)
        return found

    def response(self, inputs: NumPyArray) -> NumPyArray:
        """Return what constant inputs make, without the bias.

        Args:
            inputs: float64 [groups, inputs]; NaN for those that are not constant.

        Returns:
            float64 [groups, outputs]; NaN where the output is not constant.
        """
        unknown = np.isnan(inputs) | ((inputs != 0) & (not self.uniform))
        result = np.zeros(self.weight.shape[:2])
        for group in range(self.groups):
            nonzero = self.nonzero[group]
            columns = np.flatnonzero(~unknown[group] & (inputs[group] != 0))
            if columns.size:
                weight = self.weight[group][:, columns].astype(np.float64).sum(-1)
                result[group] = weight @ inputs[group][columns]
            result[group][nonzero[:, unknown[group]].any(1)] = np.nan
        return result


def linear_layer(node: Node, found: Coupling) -> LinearLayer | None:
    """Return a node as such a layer; None for another operator, or if its weight is computed from the input."""
    if node.domain or node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU"):
        return None
    place = 1
    weight = constant(node.inputs[1])
    if weight is None and node.op_type == "MatMul":
        place, weight = 0, constant(node.inputs[0])
    value = node.inputs[1 - place]
    if weight is None or value is None:
        return None
    blocks = lay_out(node, place, weight)
    if blocks is None:
        return None
    if node.op_type in ("LSTM", "GRU"):
        return LinearLayer(node, value, 2, -1, blocks, 1, False)
    if node.op_type != "MatMul":
        uniform = node.op_type == "Gemm" or (node.op_type == "Conv" and not any(attribute(node, "pads", [0])))
        return LinearLayer(node, value, 1, 1, blocks, 1, uniform)
    shape = found.shapes.get(value)
    if shape is None or len(shape) < 2:
        return None
    axis = len(shape) - (1 if place == 1 else 2)
    return LinearLayer(node, value, axis, axis, blocks, place, place == 1)


def lay_out(node: Node, place: int, weight: NumPyArray) -> NumPyArray | None:
    """Return a node's weight as [groups, outputs of a group, inputs of a group, kernel]; a view where strides allow.

    Args:
        node: The node.
        place: Which input of it the weight is.
        weight: The weight as the node sees it. Stacks of matrices are not laid out: None.
    """
    if node.op_type in ("Conv", "ConvTranspose"):
        groups = int(attribute(node, "group"))
        rows = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
        return rows if node.op_type == "Conv" else rows.swapaxes(1, 2)
    if node.op_type in ("LSTM", "GRU"):
        return weight.reshape(1, -1, weight.shape[2], 1)
    if weight.ndim != 2:
        return None
    canonical = attribute(node, "transB") if node.op_type == "Gemm" else place == 0
    return (weight if canonical else weight.T)[None, :, :, None]
