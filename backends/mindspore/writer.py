"""Writer: an IR model becomes a MindSpore Cell that trains, in GRAPH and in PYNATIVE mode."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import mindspore as ms
import numpy as np
import onnx_ir
from mindspore import Parameter, Tensor, nn
from mindspore.nn.utils import no_init_parameters
from onnx_ir import Node

from mopruning.backends.mindspore import printing
from mopruning.backends.mindspore.lowering import arithmetic, layers, pooling, recurrent, shapes
from mopruning.backends.mindspore.lowering.context import Lowering
from mopruning.backends.mindspore.sources import import_text
from mopruning.errors import FormatError
from mopruning.ir.lowering import lowerings
from mopruning.ir.passes.shapes import infer_shapes
from mopruning.ir.validation import validate

LOWERINGS: Mapping[str, Callable[[Lowering, Node], None]] = lowerings(arithmetic, layers, pooling, recurrent, shapes)
"""Operator -> the function that adds it to a network: every row of the operator profile."""


def from_ir(model: onnx_ir.Model) -> nn.Cell:
    """Build a network that computes and trains as the model says.

    Layers are Cells of MindSpore (`nn.Conv2d`, `nn.BatchNorm2d`, `nn.Dense`, ...); parameters and running statistics
    are called as in the model, so `parameters_dict()` and checkpoints have those names. The network is what
    `to_folder` writes; its source lies in a temporary file as long as the process lives, since GRAPH mode compiles
    from source.

    Args:
        model: A model within the operator profile; it is not changed.

    Returns:
        The network, not in training mode, as any new Cell: `set_train()` is what turns BatchNorm and Dropout on. It
        takes the inputs of the graph in order, and returns a tensor, or a tuple where there are several outputs.

    Raises:
        UnsupportedOperators: If the model is outside the profile, or MindSpore cannot express it; all nodes are named.
        FormatError: If its shapes do not fit together.

    >>> from mopruning.ir.builder import Builder
    >>> net = Builder("tiny")
    >>> x = net.batch_norm(net.conv(net.input("x", (3, 8, 8)), "conv1", 4, 3), "bn1")
    >>> cell = from_ir(net.model({"output": net.relu(x, "relu")}))
    >>> list(cell.parameters_dict())[:2], cell(ms.ops.zeros((2, 3, 8, 8))).shape
    (['conv1.weight', 'bn1.running_mean'], (2, 4, 6, 6))
    """
    low = lowered(model)
    name = printing.class_name(model)
    module = import_text(printing.source(name, low))
    with no_init_parameters():
        network = getattr(module, name)(*([tensors(low.constants)] if low.constants else []))
    load(network, low.contents)
    return network


def lowered(model: onnx_ir.Model) -> Lowering:
    """Lower a whole model to the statements of a Cell."""
    validate(model)
    prepared = infer_shapes(model)
    if not prepared.graph.inputs:
        raise FormatError(f"model {prepared.graph.name!r} has no inputs: there is nothing to compute")
    low = Lowering(prepared, LOWERINGS)
    taken: set[str] = set()
    for value in prepared.graph.inputs:
        low.input(value, printing.argument(str(value.name), taken))
    low.run()
    low.outputs = [low.tensor(value) for value in prepared.graph.outputs]
    return low


def tensors(arrays: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, Tensor]:
    """Return arrays as tensors of their own memory."""
    return {name: to_tensor(array) for name, array in arrays.items()}


def to_tensor(array: np.ndarray[Any, Any]) -> Tensor:
    """Copy an array into a tensor, bit for bit; bfloat16 comes in ml_dtypes' form."""
    if array.dtype.name == "bfloat16":
        return Tensor(array.astype(np.float32)).astype(ms.bfloat16)  # exact: float32 holds every bfloat16
    return Tensor(np.array(array, array.dtype.newbyteorder("="), order="C"))


def load(network: nn.Cell, contents: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """Give the parameters of a network their numbers, in place."""
    given = {name: Parameter(to_tensor(array), name=name) for name, array in contents.items()}
    ms.load_param_into_net(network, given, strict_load=True)
