"""LSTM and GRU: a loop over the sequence, with the weights as the IR has them."""

from __future__ import annotations

from typing import Any

import tensorflow.compat.v1 as tf
from onnx_ir import Node

from mopruning.backends.tensorflow1.lowering.context import Lowering, Tensor, conditionals_of_version_1
from mopruning.ir.attributes import attribute
from mopruning.ir.lowering import lowers, operands


@lowers("LSTM", "GRU")
def recurrent(low: Lowering, node: Node) -> None:
    """Lower LSTM and GRU (https://onnx.ai/onnx/operators/onnx__LSTM.html, GRU with linear_before_reset=1)."""
    values = operands(node, 7)
    direction = attribute(node, "direction")
    name = low.scoped(node)
    with tf.name_scope(name), conditionals_of_version_1():
        x, weights, recurrence = (low.tensor(value) for value in values[:3])
        biases = None if values[3] is None else low.tensor(values[3])
        initial = [None if value is None else low.tensor(value) for value in values[5:7]]
        hidden = recurrence.shape.as_list()[2]
        states = 2 if node.op_type == "LSTM" else 1
        outputs, finals = [], []
        for number in range(weights.shape.as_list()[0]):
            back = direction == "reverse" or number == 1
            start = [
                tf.zeros([tf.shape(x)[1], hidden], x.dtype) if state is None else state[number]
                for state in initial[:states]
            ]
            layer = _Layer(weights[number], recurrence[number], None if biases is None else biases[number], hidden)
            step = layer.lstm if node.op_type == "LSTM" else layer.gru
            output, final = _loop(tf.reverse(x, [0]) if back else x, layer, step, start)
            outputs.append(tf.reverse(output, [0]) if back else output)
            finals.append(final)
        given = [None if value is None else low.tensor(value) for value in node.inputs]
        results = [tf.stack(outputs, 1, name=name)]
        results += [tf.stack([final[index] for final in finals]) for index in range(states)]
        for output, result in zip(node.outputs, results, strict=False):
            if output.name:
                low.put_value(output, result)
        kinds = ("hidden_size", "direction", "linear_before_reset")
        attributes = {kind: attribute(node, kind) for kind in kinds} | {"hidden_size": hidden}
        low.notes.recurrent[name.rstrip("/")] = {
            "operator": node.op_type,
            "attributes": {kind: value for kind, value in attributes.items() if value is not None},
            "inputs": ["" if tensor is None else tensor.name for tensor in given],
            "outputs": [result.op.name for result in results],
            "shapes": [result.shape.as_list() for result in results],
        }


class _Layer:
    """One direction of a layer."""

    def __init__(self, weights: Tensor, recurrence: Tensor, biases: Tensor | None, hidden: int) -> None:
        self.weights, self.recurrence, self.hidden = weights, recurrence, hidden
        self.biases = [0.0, 0.0] if biases is None else tf.split(biases, 2)

    def project(self, x: Tensor) -> Tensor:
        """Return what all steps add of the input [time, N, in]."""
        return tf.matmul(x, self.weights, transpose_b=True) + self.biases[0]

    def lstm(self, projected: Tensor, state: list[Tensor]) -> list[Tensor]:
        """Return the next hidden and cell states."""
        gates = projected + tf.matmul(state[0], self.recurrence, transpose_b=True) + self.biases[1]
        into, out, forget, cell = tf.split(gates, 4, -1)
        memory = tf.sigmoid(forget) * state[1] + tf.sigmoid(into) * tf.tanh(cell)
        return [tf.sigmoid(out) * tf.tanh(memory), memory]

    def gru(self, projected: Tensor, state: list[Tensor]) -> list[Tensor]:
        """Return the next hidden state."""
        own = tf.matmul(state[0], self.recurrence, transpose_b=True) + self.biases[1]
        inputs, recurrent = tf.split(projected, 3, -1), tf.split(own, 3, -1)
        update, reset = (tf.sigmoid(a + b) for a, b in zip(inputs[:2], recurrent[:2], strict=True))
        new = tf.tanh(inputs[2] + reset * recurrent[2])
        return [(1 - update) * new + update * state[0]]


def _loop(x: Tensor, layer: _Layer, step: Any, start: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Run a layer over a sequence [time, N, in] and return its outputs [time, N, hidden] and last states."""
    projected = layer.project(x)
    length = tf.shape(x)[0]
    outputs = tf.TensorArray(x.dtype, length, element_shape=[None, layer.hidden])

    def body(time: Tensor, outputs: Any, *state: Tensor) -> list[Any]:
        after = step(projected[time], list(state))
        return [time + 1, outputs.write(time, after[0]), *after]

    _, outputs, *states = tf.while_loop(
        lambda time, *_: time < length, body, [tf.constant(0), outputs, *start], parallel_iterations=1
    )
    return outputs.stack(), states
