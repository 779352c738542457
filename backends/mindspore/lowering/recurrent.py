"""LSTM and GRU: a loop over the sequence, with the weights as the IR has them."""

from __future__ import annotations

from onnx_ir import Node

from mopruning.backends.mindspore.lowering.context import Lowering, Var, dtype_of
from mopruning.ir.attributes import attribute
from mopruning.ir.lowering import lowers, operands, weight_shape


@lowers("LSTM", "GRU")
def recurrent(low: Lowering, node: Node) -> None:
    """Lower LSTM and GRU (https://onnx.ai/onnx/operators/onnx__LSTM.html, GRU with linear_before_reset=1)."""
    x, weight, recurrence, bias, _, hidden, cell = operands(node, 7)
    features, weights, recurrences = (low.tensor(value) for value in (x, weight, recurrence))
    biases = None if bias is None else low.tensor(bias)
    directions, _, size = weight_shape(recurrence)
    is_lstm = node.op_type == "LSTM"
    gates = (4 if is_lstm else 3) * size
    initial = [None if value is None else low.tensor(value) for value in ((hidden, cell) if is_lstm else (hidden,))]
    outputs: list[Var] = []
    finals: list[list[Var]] = [[] for _ in initial]
    for number in range(directions):
        back = attribute(node, "direction") == "reverse" or number == 1
        given = [low.emit(f"{{}}[{number}]", one) for one in (weights, recurrences)]
        if biases is None:
            given += [Var("0.0")] if is_lstm else [Var("0.0"), Var("0.0")]
        elif is_lstm:
            given.append(low.emit(f"{{0}}[{number}, :{gates}] + {{0}}[{number}, {gates}:]", biases))
        else:
            given += [low.emit(f"{{}}[{number}, {part}]", biases) for part in (f":{gates}", f"{gates}:")]
        for state in initial:
            if state is None:
                given.append(low.emit(f"ops.zeros(({{}}.shape[1], {size}), {dtype_of(x)})", features))
            else:
                given.append(low.emit(f"{{}}[{number}]", state))
        arguments = ", ".join("{}" for _ in range(len(given) + 1))
        results = low.emit(f"{'lstm' if is_lstm else 'gru'}({arguments}, {back})", features, *given)
        outputs.append(low.emit("{}[0]", results))
        for index, final in enumerate(finals):
            final.append(low.emit(f"{{}}[{index + 1}]", results))
    every = [low.emit(f"ops.stack({_tuple(outputs)}, 1)", *outputs)]
    every += [low.emit(f"ops.stack({_tuple(final)})", *final) for final in finals]
    for output, result in zip(node.outputs, every, strict=False):
        if output.name:
            low.set(output, result)


def _tuple(values: list[Var]) -> str:
    return "({})".format("{}," if len(values) == 1 else ", ".join("{}" for _ in values))
