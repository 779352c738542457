"""Rules for layers that mix channels by a weight: what comes out is new, what comes in is read."""

from __future__ import annotations

import numpy as np
from onnx_ir import Node

from mopruning.ir.attributes import attribute
from mopruning.ir.coupling.classes import Numbers
from mopruning.ir.coupling.elements import take_together
from mopruning.ir.coupling.groups import PRODUCES, READS
from mopruning.ir.coupling.walk import Unclear, Walk, couples


@couples("Conv", "ConvTranspose")
def convolution(walk: Walk, node: Node) -> None:
    """Join input channels with the weight's; in groups of channels, the same place of each group."""
    x, weight = node.inputs[:2]
    if x is None or weight is None:
        raise Unclear("it lacks an input")
    groups = int(attribute(node, "group"))
    sizes = walk.sizes(weight)
    into, out = (1, 0) if node.op_type == "Conv" else (0, 1)
    if not isinstance(sizes[0], int) or not isinstance(sizes[1], int):
        raise Unclear("the shape of its weight is open")
    walk.fix_others(node, 0, (1,))
    walk.fix_others(node, 1, (0, 1))
    images, kernels = walk.of(x).get(1), walk.of(weight)
    deconvolution = node.op_type == "ConvTranspose"
    inputs = sizes[0] if deconvolution else sizes[1] * groups
    outputs = sizes[1] * groups if deconvolution else sizes[0]
    if groups > 1 and inputs == groups:
        _depthwise(walk, node, outputs // groups)
        return
    if groups == 1:
        walk.meet(node, images, kernels.get(into))
        made = kernels.get(out)
    else:
        # of each group the same places go, so that the groups stay alike
        rows = None if images is None else images.reshape(groups, -1)
        own = kernels.get(into)
        blocks = None if own is None else own.reshape(groups, -1) if deconvolution else np.tile(own, (groups, 1))
        for number in range(groups):
            walk.meet(node, *(None if part is None else part[number] for part in (rows, blocks)))
            if blocks is not None:
                walk.meet(node, blocks[0], blocks[number])
        made = kernels.get(out)
        if made is not None:
            made = np.tile(made, groups) if deconvolution else _tied(walk, node, made, groups)
    walk.use(node, 1, into, READS, 1 if deconvolution else groups)
    walk.use(node, 1, out, PRODUCES, groups if deconvolution else 1)
    if made is not None:
        walk.set(node.outputs[0], 1, walk.classes.find(made))
    _bias(walk, node, 2, 1)


def _tied(walk: Walk, node: Node, made: Numbers, groups: int) -> Numbers:
    rows = made.reshape(groups, -1)
    for row in rows[1:]:
        walk.meet(node, rows[0], row)
    return walk.classes.find(made)


def _depthwise(walk: Walk, node: Node, multiplier: int) -> None:
    """Join each input channel with the output channels that are made of it."""
    images, kernels = walk.of(node.inputs[0]).get(1), walk.of(node.inputs[1])
    made = kernels.get(0)
    if node.op_type == "Conv":
        joined = walk.meet(node, None if images is None else np.repeat(images, multiplier), made)
    else:
        joined = walk.meet(node, images, made)
        joined = None if joined is None else np.repeat(joined, multiplier)
        walk.fix_others(node, 1, (0,))
    walk.use(node, 1, 0, PRODUCES)
    if joined is not None:
        walk.set(node.outputs[0], 1, walk.classes.find(joined))
    _bias(walk, node, 2, 1)


def _bias(walk: Walk, node: Node, index: int, axis: int) -> None:
    """Join the channels of a bias with those of the output, along its last axis."""
    bias = node.inputs[index] if len(node.inputs) > index else None
    if bias is None:
        return
    made = walk.of(node.outputs[0]).get(axis)
    last = len(walk.sizes(bias)) - 1
    walk.fix_others(node, index, (last,))
    own = walk.of(bias).get(last)
    if own is not None:
        walk.meet(node, made, own)


@couples("Gemm")
def dense(walk: Walk, node: Node) -> None:
    """Join input features with the weight's."""
    turned = bool(attribute(node, "transB"))
    if attribute(node, "transA"):
        raise Unclear("its input is transposed")
    into, out = (1, 0) if turned else (0, 1)
    walk.fix_others(node, 0, (1,))
    weight = walk.of(node.inputs[1])
    walk.meet(node, walk.of(node.inputs[0]).get(1), weight.get(into))
    walk.use(node, 1, into, READS)
    walk.use(node, 1, out, PRODUCES)
    if out in weight:
        walk.set(node.outputs[0], 1, walk.classes.find(weight[out]))
    _bias(walk, node, 2, 1)


@couples("MatMul")
def product(walk: Walk, node: Node) -> None:
    """Join the axes that are summed over; rows come from the left factor, columns from the right one."""
    left, right = node.inputs[:2]
    if left is None or right is None:
        raise Unclear("it lacks an input")
    ranks = len(walk.sizes(left)), len(walk.sizes(right))
    summed = ranks[0] - 1, max(0, ranks[1] - 2)
    walk.meet(node, walk.of(left).get(summed[0]), walk.of(right).get(summed[1]))
    walk.use(node, 0, summed[0], READS)
    walk.use(node, 1, summed[1], READS)
    rank = max(*ranks) if min(ranks) > 1 else max(ranks) - 1
    stacked = take_together(walk, node, (0, 1), rank, but=2) if min(ranks) > 1 else {}
    made = {}
    if ranks[0] > 1:
        made[rank - 1 if ranks[1] == 1 else rank - 2] = walk.of(left).get(ranks[0] - 2)
        walk.use(node, 0, ranks[0] - 2, PRODUCES)
    if ranks[1] > 1:
        made[rank - 1] = walk.of(right).get(ranks[1] - 1)
        walk.use(node, 1, ranks[1] - 1, PRODUCES)
    if min(ranks) == 1:
        for index, rank_ in enumerate(ranks):
            walk.fix_others(node, index, (rank_ - 1, rank_ - 2))
    for axis, numbers in {**stacked, **made}.items():
        if numbers is not None:
            walk.set(node.outputs[0], axis, walk.classes.find(numbers))


@couples("LSTM", "GRU")
def recurrent(walk: Walk, node: Node) -> None:
    """Join input features with the weight's; the hidden state keeps its size."""
    walk.fix_others(node, 0, (2,))
    walk.fix_others(node, 1, (2,))
    walk.meet(node, walk.of(node.inputs[0]).get(2), walk.of(node.inputs[1]).get(2))
    walk.use(node, 1, 2, READS)
    for index in range(2, len(node.inputs)):
        walk.fix_others(node, index, ())
