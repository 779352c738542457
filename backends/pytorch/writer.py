"""Writer: an IR model becomes a PyTorch network that trains."""

from __future__ import annotations

import keyword
import re
from collections.abc import Callable, Mapping

import onnx_ir
from onnx_ir import Node
from torch import fx

from mopruning.backends.pytorch.lowering import arithmetic, layers, pooling, recurrent, shapes
from mopruning.backends.pytorch.lowering.context import Lowering
from mopruning.backends.pytorch.notes import Notes
from mopruning.backends.pytorch.tying import tie, untied
from mopruning.errors import FormatError
from mopruning.ir.lowering import lowerings
from mopruning.ir.passes.shapes import infer_shapes
from mopruning.ir.ties import ties_of
from mopruning.ir.validation import validate

LOWERINGS: Mapping[str, Callable[[Lowering, Node], None]] = lowerings(arithmetic, layers, pooling, recurrent, shapes)
"""Operator -> the function that adds it to a network: every row of the operator profile."""


def from_ir(model: onnx_ir.Model) -> fx.GraphModule:
    """Build a network that computes and trains as the model says.

    Layers are real modules (`nn.Conv2d`, `nn.BatchNorm2d`, `nn.Linear`, `nn.LSTM`, ...) at the paths that the names of
    their parameters give; the keys of the state dict are those names. A layer whose parameters have names that no
    module could give them, or share them with another layer, is a function of parameters held under those names. A
    weight that PyTorch had under several names (tied ones) is one parameter under all of them again. Batch
    normalisation counts its batches (`num_batches_tracked`) where the model comes from PyTorch.

    Args:
        model: A model within the operator profile. It is not changed, and shares no memory with the network.

    Returns:
        The network on the CPU, in training mode as any new module: call `eval()` before comparing its outputs. It
        takes the inputs of the graph in order, and returns a tensor, or a tuple where there are several outputs.

    Raises:
        UnsupportedOperators: If the model is outside the profile.
        FormatError: If PyTorch cannot express it: a name that no parameter can have, an axis or bound that is computed
            from the content of a tensor.

    >>> import torch
    >>> from mopruning.ir.builder import Builder
    >>> net = Builder("tiny")
    >>> x = net.batch_norm(net.conv(net.input("x", (3, 8, 8)), "conv1", 4, 3), "bn1")
    >>> module = from_ir(net.model({"output": net.relu(x, "relu")}))
    >>> module.conv1, list(module.state_dict())[:2]
    (Conv2d(3, 4, kernel_size=(3, 3), stride=(1, 1), bias=False), ['conv1.weight', 'bn1.weight'])
    >>> module.eval()(torch.zeros(2, 3, 8, 8)).shape
    torch.Size([2, 4, 6, 6])
    """
    low = lowered(untied(model))
    tie(low, ties_of(model))
    return fx.GraphModule(low.root, low.graph, class_name=class_name(model))


def lowered(model: onnx_ir.Model) -> Lowering:
    """Lower a whole model: the finished fx graph, and the modules that it calls."""
    validate(model)
    prepared = infer_shapes(model)
    low = Lowering(prepared, Notes.of(model), LOWERINGS)
    graph = prepared.graph
    for value in graph.inputs:
        placeholder = low.graph.placeholder(identifier(str(value.name)))
        low.first_input = low.first_input or placeholder
        low.set(value, placeholder)
    low.run()
    outputs = [low.tensor(value) for value in graph.outputs]
    low.graph.output(outputs[0] if len(outputs) == 1 else tuple(outputs))
    for fx_node in reversed(low.graph.nodes):
        if not fx_node.users and fx_node.op not in ("placeholder", "output"):
            low.graph.erase_node(fx_node)
    low.graph.lint()
    if not low.first_input:
        raise FormatError(f"model {graph.name!r} has no inputs: there is nothing to compute")
    return low


def class_name(model: onnx_ir.Model) -> str:
    """Return the name of a graph as that of a class.

    >>> class_name(onnx_ir.Model(onnx_ir.Graph([], [], nodes=[], name="resnet50_v1d"), ir_version=10))
    'Resnet50V1d'
    """
    name = identifier(model.graph.name or "network")
    camel = "".join(part.capitalize() for part in name.split("_")) if name == name.lower() else name
    return camel if camel.isidentifier() else "Network"


def identifier(name: str) -> str:
    """Return a name that can stand in Python source; nothing in a file decides what is in source otherwise."""
    own = re.sub(r"[^0-9A-Za-z_]", "_", name)
    return own if own.isidentifier() and not keyword.iskeyword(own) else f"x_{own}"
