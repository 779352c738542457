"""Networks for the tests of MindSpore's readers and writers."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir
from mindspore import Tensor, nn, ops

from mopruning import Unstructured, mask
from mopruning.cli.running import run_onnx
from mopruning.ir import zoo
from mopruning.ir.builder import Builder
from mopruning.ir.parameters import parameters
from mopruning.ir.roles import roles_of

Array = np.ndarray


def tiny() -> onnx_ir.Model:
    """A network with what the zoo's small ones lack: padded pools, groups, dropout, a transposed convolution."""
    net = Builder("tiny", seed=3)
    x = net.conv(net.input("x", (3, 9, 8)), "stem.conv", 8, 3, stride=2, padding=1, bias=True)
    x = net.relu(net.batch_norm(x, "stem.bn"), "stem.relu")
    x = net.max_pool(x, "pool", 3, stride=2, padding=1)
    x = net.conv(x, "mix", 8, 3, padding=1, groups=4)
    x = net.relu(net.conv_transpose(x, "up", 6, 2, stride=2), "up.relu")
    x = net.dropout(net.flatten(net.global_average_pool(x, "gap"), "flatten"), "dropout", 0.05)
    return net.model({"output": net.gemm(x, "fc", 5)})


def network(name: str) -> onnx_ir.Model:
    """A network whose larger weights are pruned to 90%."""
    model = tiny() if name == "tiny" else zoo.build(name)
    for parameter in parameters(model).values():
        content = parameter.value.const_value.numpy()
        if parameter.role == "weight" and content.size > 100:
            kept = mask(np.abs(content), Unstructured(), 0.9)
            parameter.value.const_value = onnx_ir.Tensor(np.where(kept, content, 0), name=parameter.value.name)
    return model


def images(model: onnx_ir.Model, batch: int = 2) -> Array:
    sizes = list(model.graph.inputs[0].shape)[1:]
    return np.random.default_rng(batch).standard_normal((batch, *sizes)).astype(np.float32)


def expected(model: onnx_ir.Model, *inputs: Array) -> list[Array]:
    """What onnxruntime computes."""
    return run_onnx(onnx_ir.to_proto(model).SerializeToString(), inputs)


def outputs(cell: nn.Cell, *inputs: Array) -> list[Array]:
    found = cell(*(Tensor(one.copy()) for one in inputs))
    return [one.asnumpy() for one in (found if isinstance(found, tuple) else (found,))]


def distance(actual: list[Array], wanted: list[Array]) -> float:
    """Largest difference, as a share of the range of each output; of its size, where it is one number."""
    assert [one.shape for one in actual] == [one.shape for one in wanted]
    return max(
        float(np.abs(a - b).max() / (np.ptp(b) or np.abs(b).max() or 1)) for a, b in zip(actual, wanted, strict=True)
    )


def weights(model: onnx_ir.Model) -> dict[str, bytes]:
    """Parameters and buffers by name, bit for bit."""
    roles = roles_of(model)
    return {
        name: value.const_value.numpy().tobytes()
        for name, value in model.graph.initializers.items()
        if roles[name] != "constant"
    }


def held(cell: nn.Cell) -> dict[str, bytes]:
    return {parameter.name: parameter.asnumpy().tobytes() for parameter in cell.get_parameters()}


class Losses(nn.Cell):
    """Trains a network on one batch."""

    def __init__(self, cell: nn.Cell, optimizer: Any) -> None:
        super().__init__(auto_prefix=False)
        loss = nn.WithLossCell(cell, nn.SoftmaxCrossEntropyWithLogits(sparse=True, reduction="mean"))
        self.step = nn.TrainOneStepCell(loss, optimizer)
        self.set_train()

    def run(self, x: Array, steps: int) -> list[float]:
        labels = Tensor(np.arange(len(x), dtype=np.int32) % 5)
        return [float(self.step(Tensor(x), labels).asnumpy()) for _ in range(steps)]


class Native(nn.Cell):
    """A Cell as one writes it in MindSpore, with its own names and habits."""

    def __init__(self) -> None:
        super().__init__()
        self.same = nn.Conv2d(3, 8, 3, stride=2)
        self.norm = nn.GroupNorm(2, 8)
        self.line = nn.Conv1d(8, 8, 3, pad_mode="pad", padding=1, has_bias=True)
        self.largest = nn.MaxPool2d(3, 2, pad_mode="pad", padding=1)
        self.mean = nn.AvgPool2d(3, 1, pad_mode="pad", padding=1, count_include_pad=False)
        self.up = nn.Conv2dTranspose(8, 4, 2, stride=2)
        self.bn = nn.BatchNorm1d(4, momentum=0.7)
        self.ln = nn.LayerNorm((4,))
        self.fc = nn.Dense(4, 6, activation="relu")
        self.acts = nn.CellList(
            [nn.GELU(), nn.HSwish(), nn.HSigmoid(), nn.LeakyReLU(), nn.SiLU(), nn.ReLU6(), nn.ELU()]
        )
        self.slope = nn.PReLU(6)
        self.embed = nn.Embedding(10, 6)
        self.drop = nn.Dropout(p=0.3)
        self.scale = Tensor(np.arange(6, dtype=np.float32))

    def construct(self, x: Any, tokens: Any) -> Any:
        batch = x.shape[0]
        x = self.norm(self.same(x))
        x = self.largest(x + self.line(x.reshape(batch, 8, -1)).view(batch, 8, 8, 8))
        x = self.up(self.mean(x)).mean((2, 3))
        x = self.slope(self.fc(self.ln(self.bn(x))))
        for act in self.acts:
            x = x + act(x)
        x = self.drop(x) * self.scale
        rows = self.embed(tokens)
        attention = ops.softmax(ops.bmm(rows, rows.transpose(0, 2, 1)) / 2.0, -1)
        rows = ops.matmul(attention, rows).sum(1)
        first, second = ops.split(ops.concat((x, rows), 1), 6, 1)
        return first * second, ops.clamp(first, 0, 1), ops.amax(ops.stack([first, second]), 0)


class Unusual(nn.Cell):
    """Computes with two operators that the IR does not have."""

    def construct(self, x: Any) -> Any:
        return ops.lgamma(x) + ops.atan(x)
