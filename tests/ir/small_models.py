"""Models made by hand with onnx.helper, and onnxruntime to run them: what the tests of the IR compare with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def node(operator: str, name: str, inputs: str, outputs: str = "", **attributes: Any) -> onnx.NodeProto:
    """A node; inputs and outputs are names between blanks, "_" for one left out; it gives its own name by default."""
    given = ["" if word == "_" else word for word in inputs.split()]
    gives = ["" if word == "_" else word for word in (outputs or name).split()]
    return helper.make_node(operator, given, gives, name=name, **attributes)


def model(
    inputs: Mapping[str, Sequence[int | str]],
    nodes: Sequence[onnx.NodeProto],
    outputs: Sequence[str],
    weights: Mapping[str, np.ndarray] | None = None,
    *,
    types: Mapping[str, int] | None = None,
    opsets: Mapping[str, int] | None = None,
    functions: Sequence[onnx.FunctionProto] = (),
) -> onnx_ir.Model:
    """A model; inputs are float32 unless `types` says otherwise, and nothing but inputs declares a shape."""
    kinds = types or {}
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info(name, kinds.get(name, FLOAT), shape) for name, shape in inputs.items()],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()],
    )
    imports = [helper.make_opsetid(domain, version) for domain, version in (opsets or {"": 20}).items()]
    proto = helper.make_model(graph, opset_imports=imports, ir_version=10, functions=functions)
    return onnx_ir.from_proto(proto)


def whole(*numbers: int) -> np.ndarray:
    """Whole numbers, as shapes and axes are."""
    return np.array(numbers, np.int64)


def number(value: float) -> np.ndarray:
    """A number without axes."""
    return np.array(value, np.float32)


def run(net: onnx_ir.Model, feeds: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None) -> list[Any]:
    """Run a model in onnxruntime, as it is; `outputs` may name any value of it."""
    proto = onnx_ir.to_proto(net)
    if outputs is not None:
        del proto.graph.output[:]
        proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, dict(feeds))


def content(net: onnx_ir.Model) -> bytes:
    """All there is in a model, to see whether it was changed."""
    return onnx_ir.to_proto(net).SerializeToString(deterministic=True)


def array(net: onnx_ir.Model, name: str) -> np.ndarray:
    """The content of an initializer."""
    return net.graph.initializers[name].const_value.numpy()


def put(net: onnx_ir.Model, name: str, values: np.ndarray) -> None:
    """Change the content of an initializer in place."""
    net.graph.initializers[name].const_value = onnx_ir.Tensor(values, name=name)


class Weights(dict[str, np.ndarray]):
    """Random weights by name, made as they are asked for."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.random = np.random.default_rng(seed)

    def make(self, name: str, *shape: int, positive: bool = False) -> str:
        """Add a weight and return its name."""
        values = self.random.standard_normal(shape) * 0.5
        self[name] = (np.abs(values) + 0.5 if positive else values).astype(np.float32)
        return name

    def norm(self, name: str, channels: int) -> str:
        """Add what a batch normalisation needs and return the names."""
        parts = [self.make(f"{name}.{part}", channels) for part in ("weight", "bias", "running_mean")]
        return " ".join([*parts, self.make(f"{name}.running_var", channels, positive=True)])


def resnet20(side: int | str = "H") -> onnx_ir.Model:
    """ResNet-20 for CIFAR (He 2016) with plain 1x1 convolutions as shortcuts, ten classes."""
    w, nodes = Weights(), []

    def conv(x: str, name: str, channels: tuple[int, int], kernel: int, stride: int) -> str:
        weight = w.make(f"{name}.weight", channels[1], channels[0], kernel, kernel)
        w[weight] *= np.float32(1 / np.sqrt(channels[0] * kernel**2))
        pads = [kernel // 2] * 4
        nodes.append(node("Conv", name, f"{x} {weight}", kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=pads))
        if kernel == 1:
            return name
        bn = name.replace("conv", "bn")
        nodes.append(node("BatchNormalization", bn, f"{name} {w.norm(bn, channels[1])}", epsilon=1e-5))
        return bn

    stem = conv("image", "conv1", (3, 16), 3, 1)
    nodes.append(node("Relu", "relu", stem))
    x, before = "relu", 16
    for stage, channels in enumerate((16, 32, 64), 1):
        for block in range(3):
            name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            inner = conv(x, f"{name}.conv1", (before, channels), 3, stride)
            nodes.append(node("Relu", f"{name}.relu1", inner))
            inner = conv(f"{name}.relu1", f"{name}.conv2", (channels, channels), 3, 1)
            short = conv(x, f"{name}.shortcut", (before, channels), 1, stride) if stride != 1 else x
            nodes.append(node("Add", f"{name}.add", f"{inner} {short}"))
            nodes.append(node("Relu", f"{name}.relu2", f"{name}.add"))
            x, before = f"{name}.relu2", channels
    nodes.append(node("GlobalAveragePool", "pool", x))
    nodes.append(node("Flatten", "flatten", "pool", axis=1))
    fc = f"{w.make('fc.weight', 10, 64)} {w.make('fc.bias', 10)}"
    nodes.append(node("Gemm", "fc", f"flatten {fc}", transB=1))
    return model({"image": ["N", 3, side, side]}, nodes, ["fc"], w)


def encoder(hidden: int = 16, heads: int = 4) -> onnx_ir.Model:
    """One layer of a BERT-like encoder; the head size is computed from shapes, as exporters write it."""
    w, nodes = Weights(), []

    def dense(x: str, name: str, outputs: int, inputs: int) -> str:
        weight = w.make(f"{name}.weight", outputs, inputs)
        nodes.append(node("Transpose", f"{name}.transpose", weight, perm=[1, 0]))
        nodes.append(node("MatMul", f"{name}.matmul", f"{x} {name}.transpose"))
        nodes.append(node("Add", name, f"{name}.matmul {w.make(f'{name}.bias', outputs)}"))
        return name

    def split(x: str, perm: list[int]) -> str:
        nodes.append(node("Reshape", f"{x}.heads", f"{x} split_shape"))
        nodes.append(node("Transpose", f"{x}.split", f"{x}.heads", perm=perm))
        return f"{x}.split"

    w |= {"zero": np.array([0]), "heads": np.array([heads]), "last": np.array([-1]), "two": np.array([0, 1])}
    w["root"] = np.float32(np.sqrt(hidden // heads))
    nodes += [
        node("Gather", "tokens", f"{w.make('embeddings.weight', 30, hidden)} ids", axis=0),
        node("Add", "embedded", f"tokens {w.make('positions', 1, 6, hidden)}"),
        node("Shape", "shape", "embedded"),
        node("Gather", "size", "shape last", axis=0),
        node("Div", "head_size", "size heads"),
        node("Gather", "rows", "shape two", axis=0),
        node("Concat", "split_shape", "rows heads head_size", axis=0),
    ]
    names = [dense("embedded", part, hidden, hidden) for part in ("query", "key", "value")]
    query, key, value = (
        split(name, perm) for name, perm in zip(names, ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]), strict=True)
    )
    nodes += [
        node("MatMul", "scores", f"{query} {key}"),
        node("Div", "scaled", "scores root"),
        node("Softmax", "attention", "scaled", axis=-1),
        node("MatMul", "mixed", f"attention {value}"),
        node("Transpose", "merged", "mixed", perm=[0, 2, 1, 3]),
        node("Reshape", "joined", "merged shape"),
    ]
    out = dense("joined", "output", hidden, hidden)
    nodes.append(node("Add", "residual", f"{out} embedded"))
    scale = f"{w.make('norm.weight', hidden)} {w.make('norm.bias', hidden)}"
    nodes.append(node("LayerNormalization", "norm", f"residual {scale}", axis=-1, epsilon=1e-5))
    nodes.append(node("Gelu", "gelu", dense("norm", "up", 4 * hidden, hidden)))
    nodes.append(node("Identity", "encoded", dense("gelu", "down", hidden, 4 * hidden)))
    return model({"ids": ["N", 6]}, nodes, ["encoded"], w, types={"ids": INT64})


def recurrent(operator: str) -> onnx_ir.Model:
    """A bidirectional LSTM or GRU: 5 inputs, 3 hidden units."""
    gates, w = {"LSTM": 4, "GRU": 3}[operator], Weights()
    names = [w.make("w", 2, gates * 3, 5), w.make("r", 2, gates * 3, 3), w.make("b", 2, gates * 6)]
    extra = {"linear_before_reset": 1} if operator == "GRU" else {}
    layer = node(operator, "rnn", f"x {' '.join(names)}", hidden_size=3, direction="bidirectional", **extra)
    return model({"x": ["T", "N", 5]}, [layer], ["rnn"], w)
