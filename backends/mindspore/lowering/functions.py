"""What a written network needs besides MindSpore; nothing but MindSpore is used here, so that it can be copied.

`source` writes those that a network uses into its file, as they stand here.
"""

from __future__ import annotations

from typing import Any

from mindspore import nn, ops

NATIVE = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}


def named(layer: nn.Cell, path: str = "", **names: str) -> nn.Cell:
    """Name the parameters of a layer as in the checkpoint, in place: after its path, or each by itself."""
    for attribute, parameter in layer.parameters_and_names():
        own = NATIVE.get(attribute, "weight" if attribute == "embedding_table" else attribute)
        parameter.name = names.get(attribute, f"{path}.{own}")
    return layer


def lstm(x: Any, weight: Any, recurrence: Any, bias: Any, hidden: Any, cell: Any, back: bool) -> Any:
    """Run one direction over a sequence [time, N, in]; gates stand in the order input, output, forget, cell."""
    projected = ops.matmul(x, weight.T) + bias
    outputs = []
    for step in range(x.shape[0]):
        time = x.shape[0] - 1 - step if back else step
        into, out, forget, new = ops.split(projected[time] + ops.matmul(hidden, recurrence.T), hidden.shape[-1], -1)
        cell = ops.sigmoid(forget) * cell + ops.sigmoid(into) * ops.tanh(new)
        hidden = ops.sigmoid(out) * ops.tanh(cell)
        outputs.append(hidden)
    if back:
        outputs = outputs[::-1]
    return ops.stack(outputs), hidden, cell


def gru(x: Any, weight: Any, recurrence: Any, bias: Any, added: Any, hidden: Any, back: bool) -> Any:
    """Run one direction over a sequence [time, N, in]; gates stand in the order update, reset, new."""
    projected = ops.matmul(x, weight.T) + bias
    outputs = []
    for step in range(x.shape[0]):
        time = x.shape[0] - 1 - step if back else step
        a = ops.split(projected[time], hidden.shape[-1], -1)
        b = ops.split(ops.matmul(hidden, recurrence.T) + added, hidden.shape[-1], -1)
        update = ops.sigmoid(a[0] + b[0])
        new = ops.tanh(a[2] + ops.sigmoid(a[1] + b[1]) * b[2])
        hidden = (1 - update) * new + update * hidden
        outputs.append(hidden)
    if back:
        outputs = outputs[::-1]
    return ops.stack(outputs), hidden
