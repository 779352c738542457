"""Writer: an IR model becomes an MXNet network that trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx_ir
from onnx_ir import Node

from mopruning.backends.mxnet.framework import mx
from mopruning.backends.mxnet.lowering import arithmetic, layers, pooling, recurrent, shapes
from mopruning.backends.mxnet.lowering.context import Lowering
from mopruning.backends.mxnet.network import Network
from mopruning.errors import FormatError
from mopruning.ir.lowering import lowerings
from mopruning.ir.passes.constants import fold_constants
from mopruning.ir.passes.shapes import infer_shapes
from mopruning.ir.validation import validate

LOWERINGS: Mapping[str, Callable[[Lowering, Node], None]] = lowerings(arithmetic, layers, pooling, recurrent, shapes)
"""Operator -> the function that adds it to a symbol: every row of the operator profile but Range."""


def from_ir(model: onnx_ir.Model) -> Network:
    """Build a Gluon network that computes and trains as the model says.

    It is a `gluon.SymbolBlock`, the hybrid block whose parameters keep the names they have: it trains with any
    `gluon.Trainer`, and can be cast, exported and saved. Batch normalisation updates its running statistics, and
    dropout drops, under `autograd.record`. Running statistics, and tables that operators need, have `grad_req="null"`.

    Args:
        model: A model within the operator profile. It is not changed, and shares no memory with the network.

    Returns:
        The network on the CPU. It takes the inputs of the graph in order, and returns an array, or a list of them. A
        single number, an array without axes in ONNX, is an array of one axis.

    Raises:
        UnsupportedOperators: If the model is outside the profile, or MXNet cannot express some nodes; all are listed.
        FormatError: If it has no inputs, or a name that no variable can have.

    >>> from mopruning.ir.builder import Builder
    >>> net = Builder("tiny")
    >>> x = net.batch_norm(net.conv(net.input("x", (3, 8, 8)), "conv1", 4, 3), "bn1")
    >>> network = from_ir(net.model({"output": net.relu(x, "relu")}))
    >>> list(network.collect_params())[:3], network(mx.nd.zeros((2, 3, 8, 8))).shape
    (['conv1.weight', 'bn1.weight', 'bn1.bias'], (2, 4, 6, 6))
    """
    low, outputs = lowered(model)
    inputs = [low.get(value) for value in low.model.graph.inputs]
    trained = {name for name, kind in low.kinds.items() if kind == "parameter"}
    return Network(outputs, inputs, low.contents, trained)


def lowered(model: onnx_ir.Model) -> tuple[Lowering, list[Any]]:
    """Lower a whole model: the contents of its variables, and the symbols of its outputs."""
    validate(model)
    prepared = infer_shapes(model)
    if any(node.op_type in ("Shape", "Size") for node in prepared.graph):
        prepared = infer_shapes(fold_constants(prepared))
    graph = prepared.graph
    inputs = [value for value in graph.inputs if not value.is_initializer()]
    names = [str(value.name) for value in (*inputs, *graph.initializers.values())]
    for name in names:
        if not name.isprintable() or not name:
            raise FormatError(f"{name!r} cannot be the name of a variable in MXNet; rename it to printable letters")
    if not inputs:
        raise FormatError(f"model {graph.name!r} has no inputs: there is nothing to compute")
    low = Lowering(prepared, LOWERINGS)
    for index, value in enumerate(inputs):
        low.input(value, index)
    low.run()
    return low, [_output(low, value) for value in graph.outputs]


def _output(low: Lowering, value: onnx_ir.Value) -> Any:
    """Return the symbol of an output, under the output's name."""
    symbol = low.symbol(value)
    name = str(value.name)
    computed = value.producer() is not None and not isinstance(low.get(value), np.ndarray)
    if computed and len(symbol.list_outputs()) == 1 and symbol.name == name:
        return symbol
    return mx.sym.identity(symbol, name=name)
