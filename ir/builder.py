"""Builder: makes an IR graph layer by layer, with names as PyTorch gives them and seeded initial weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx_ir
from onnx_ir import DataType, Value

import mopruning
from mopruning.ir.geometry import GraphError, Pair, image_of, pair, sample_of, shape_of, windows
from mopruning.ir.initial import Initial, kaiming_normal, uniform_dense
from mopruning.ir.operators import IR_VERSION, OPSET

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"


class Builder:
    """Makes one IR graph: each method adds a layer and returns its output.

    A layer `name` is the path of its PyTorch module; its parameters are ``<name>.weight``, ``<name>.bias``, ... and its
    constants ``<name>.<what>``. A layer without parameters may repeat a name, as PyTorch repeats one ReLU module: the
    later ones get ``_1``, ``_2``. All values are float32, images are NCHW with the batch size "N" left open.

    Initial weights (`mopruning.ir.initial`): convolutions are normal with the variance ``2 / fan_out``, dense layers
    and their biases uniform within ``1 / sqrt(inputs)``, other biases 0; normalisations are the identity. They are
    drawn when first used, so that a graph whose weights nobody asks for costs no memory.

    Args:
        name: Name of the graph.
        seed: Whole number of 0 or more that selects the initial weights.

    Raises:
        GraphError: If `seed` is no such number; by every method, if shapes do not fit or a name is taken.

    >>> net = Builder("tiny")
    >>> x = net.relu(net.conv(net.input("input", (3, 8, 8)), "conv1", 16, 3, padding=1), "relu")
    >>> model = net.model({"output": net.gemm(net.flatten(net.global_average_pool(x, "pool"), "flatten"), "fc", 10)})
    >>> {name: list(value.shape) for name, value in model.graph.initializers.items()}
    {'conv1.weight': [16, 3, 3, 3], 'fc.weight': [10, 16], 'fc.bias': [10]}
    """

    def __init__(self, name: str, seed: int = 0) -> None:
        if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
            raise GraphError(f"{name}: seed must be a whole number of 0 or more, got {seed!r}")
        self.name = name
        self.seed = int(seed)
        self._inputs: list[Value] = []
        self._nodes: list[onnx_ir.Node] = []
        self._initializers: dict[str, Value] = {}
        self._taken: dict[str, int] = {}

    # What every layer is made of

    def input(self, name: str, shape: Sequence[int]) -> Value:
        """Add an input of the graph; `shape` is that of one sample, to which the batch axis "N" is added."""
        value = self._value(self._unused(name), ("N", *shape))
        self._inputs.append(value)
        return value

    def parameter(self, name: str, content: Initial | NumPyArray) -> Value:
        """Add a weight, bias or buffer under its full name."""
        tensor = content.tensor() if isinstance(content, Initial) else onnx_ir.Tensor(content, name=name)
        value = Value(
            name=self._unused(name), shape=tensor.shape, type=onnx_ir.TensorType(tensor.dtype), const_value=tensor
        )
        self._initializers[name] = value
        return value

    def constant(self, name: str, numbers: int | Sequence[int] | float) -> Value:
        """Add a constant that an operator needs: int64, or float32 if `numbers` is a float."""
        dtype = np.float32 if isinstance(numbers, float) else np.int64
        return self.parameter(name, np.asarray(numbers, dtype))

    def operation(
        self,
        op_type: str,
        name: str,
        inputs: Iterable[Value],
        shapes: Sequence[Sequence[int | str]],
        attributes: Mapping[str, Any] | None = None,
    ) -> tuple[Value, ...]:
        """Add any operator.

        Args:
            op_type: Its ONNX name.
            name: Name of the node, not yet in use.
            inputs: Its inputs in order.
            shapes: Shape of each output, batch axis included.
            attributes: Its ONNX attributes.

        Returns:
            Its outputs: one has the node's name, several are numbered ``<name>.0``, ``<name>.1``, ...
        """
        self._unused(name)
        names = [name] if len(shapes) == 1 else [self._unused(f"{name}.{index}") for index in range(len(shapes))]
        outputs = [self._value(own, shape) for own, shape in zip(names, shapes, strict=True)]
        self._nodes.append(onnx_ir.node(op_type, list(inputs), attributes or {}, name=name, outputs=outputs))
        return tuple(outputs)

    def model(self, outputs: Mapping[str, Value]) -> onnx_ir.Model:
        """Finish the graph; `outputs` names its outputs, in order."""
        for name, value in outputs.items():
            value.name = name if value.name == name else self._unused(name)
        graph = onnx_ir.Graph(
            self._inputs,
            list(outputs.values()),
            nodes=self._nodes,
            initializers=list(self._initializers.values()),
            opset_imports={"": OPSET},
            name=self.name,
        )
        return onnx_ir.Model(
            graph,
            ir_version=IR_VERSION,
            producer_name="mopruning",
            producer_version=mopruning.__version__,
            metadata_props={"mopruning.source": "builder", "mopruning.layout": "NCHW"},
        )

    # Layers with parameters

    def conv(
        self,
        x: Value,
        name: str,
        channels: int,
        kernel: Pair,
        *,
        stride: Pair = 1,
        padding: Pair = 0,
        dilation: Pair = 1,
        groups: int = 1,
        bias: bool = False,
        bias_value: float = 0.0,
        deviation: float | None = None,
    ) -> Value:
        """Add a convolution to `channels` output channels; its weight is [out, in/groups, height, width].

        `bias_value` and `deviation` replace the usual initial values: of the bias, and the weight's standard deviation.
        """
        inputs, *size = image_of(x, name)
        kernels, strides, dilations, paddings = pair(kernel), pair(stride), pair(dilation), pair(padding)
        self._check_groups(name, inputs, channels, groups)
        shape = (channels, inputs // groups, *kernels)
        weight = self._kernel(name, shape, channels // groups * math.prod(kernels), deviation)
        attributes: dict[str, Any] = {"kernel_shape": kernels, "strides": strides, "pads": paddings * 2}
        attributes |= {"dilations": dilations} if dilations != (1, 1) else {}
        attributes |= {"group": groups} if groups != 1 else {}
        spans = [(k - 1) * d + 1 for k, d in zip(kernels, dilations, strict=True)]
        result = (channels, *windows(name, size, spans, strides, paddings))
        operands = [x, weight, *self._biases(name, channels, bias, bias_value)]
        return self._layer("Conv", name, operands, result, attributes)

    def conv_transpose(
        self,
        x: Value,
        name: str,
        channels: int,
        kernel: Pair,
        *,
        stride: Pair = 1,
        padding: Pair = 0,
        output_padding: Pair = 0,
        dilation: Pair = 1,
        groups: int = 1,
        bias: bool = False,
    ) -> Value:
        """Add a transposed convolution to `channels` output channels; its weight is [in, out/groups, height, width]."""
        inputs, *size = image_of(x, name)
        kernels, strides, dilations, paddings = pair(kernel), pair(stride), pair(dilation), pair(padding)
        extra = pair(output_padding)
        self._check_groups(name, inputs, channels, groups)
        weight = self._kernel(name, (inputs, channels // groups, *kernels), channels // groups * math.prod(kernels))
        attributes: dict[str, Any] = {"kernel_shape": kernels, "strides": strides, "pads": paddings * 2}
        attributes |= {"output_padding": extra} if extra != (0, 0) else {}
        attributes |= {"dilations": dilations} if dilations != (1, 1) else {}
        attributes |= {"group": groups} if groups != 1 else {}
        sides = [
            (size[i] - 1) * strides[i] + (kernels[i] - 1) * dilations[i] + 1 - 2 * paddings[i] + extra[i]
            for i in range(2)
        ]
        operands = [x, weight, *self._biases(name, channels, bias, 0.0)]
        return self._layer("ConvTranspose", name, operands, (channels, *sides), attributes)

    def batch_norm(self, x: Value, name: str, *, epsilon: float = 1e-5, momentum: float = 0.1) -> Value:
        """Add a batch normalisation over axis 1; `momentum` is PyTorch's share of the new batch."""
        channels = sample_of(x)[0]
        parts = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}
        operands = [
            self.parameter(f"{name}.{part}", np.full(channels, value, np.float32)) for part, value in parts.items()
        ]
        attributes = {"epsilon": epsilon, "momentum": 1.0 - momentum}
        return self._layer("BatchNormalization", name, [x, *operands], sample_of(x), attributes)

    def gemm(self, x: Value, name: str, features: int, *, bias: bool = True) -> Value:
        """Add a dense layer on 2-D input; its weight is [out, in]."""
        if len(sample_of(x)) != 1:
            raise GraphError(f"{name}: a dense layer needs [N, inputs], got {list(shape_of(x))}; flatten it first")
        (inputs,) = sample_of(x)
        shapes = {"weight": (features, inputs), **({"bias": (features,)} if bias else {})}
        operands = [
            self.parameter(full, uniform_dense(full, shape, inputs, self.seed))
            for full, shape in ((f"{name}.{part}", shape) for part, shape in shapes.items())
        ]
        return self._layer("Gemm", name, [x, *operands], (features,), {"transB": 1})

    # Layers without parameters

    def relu(self, x: Value, name: str) -> Value:
        """Add ``max(x, 0)``."""
        return self._layer("Relu", self._repeatable(name), [x], sample_of(x))

    def sigmoid(self, x: Value, name: str) -> Value:
        """Add ``1 / (1 + exp(-x))``."""
        return self._layer("Sigmoid", self._repeatable(name), [x], sample_of(x))

    def clip(self, x: Value, name: str, low: float, high: float) -> Value:
        """Limit each value to low .. high; 0 and 6 make a ReLU6."""
        own = self._repeatable(name)
        limits = [self.constant(f"{own}.min", float(low)), self.constant(f"{own}.max", float(high))]
        return self._layer("Clip", own, [x, *limits], sample_of(x))

    def max_pool(
        self, x: Value, name: str, kernel: Pair, *, stride: Pair | None = None, padding: Pair = 0, ceil: bool = False
    ) -> Value:
        """Add a maximum over windows; `stride` is the kernel unless given, `ceil` keeps windows that cross the end."""
        return self._pool("MaxPool", x, name, kernel, stride, padding, ceil, {})

    def average_pool(
        self,
        x: Value,
        name: str,
        kernel: Pair,
        *,
        stride: Pair | None = None,
        padding: Pair = 0,
        ceil: bool = False,
        count_padding: bool = True,
    ) -> Value:
        """Add a mean over windows; `count_padding` says whether padded zeros count, PyTorch's default."""
        counted = {"count_include_pad": 1} if count_padding and pair(padding) != (0, 0) else {}
        return self._pool("AveragePool", x, name, kernel, stride, padding, ceil, counted)

    def global_average_pool(self, x: Value, name: str) -> Value:
        """Average each channel over the whole image, to [N, channels, 1, 1]."""
        channels, *_ = image_of(x, name)
        return self._layer("GlobalAveragePool", self._repeatable(name), [x], (channels, 1, 1))

    def flatten(self, x: Value, name: str) -> Value:
        """Flatten each sample, to [N, values]."""
        shape = (math.prod(sample_of(x)),)
        return self._layer("Flatten", self._repeatable(name), [x], shape, {"axis": 1})

    def dropout(self, x: Value, name: str, ratio: float = 0.5) -> Value:
        """Zero a share of the values in training; nothing happens in inference."""
        own = self._repeatable(name)
        return self._layer("Dropout", own, [x, self.constant(f"{own}.ratio", float(ratio))], sample_of(x))

    def add(self, left: Value, right: Value, name: str) -> Value:
        """Add two values of one shape."""
        if shape_of(left) != shape_of(right):
            raise GraphError(f"{name}: cannot add {list(shape_of(left))} and {list(shape_of(right))}")
        return self._layer("Add", self._repeatable(name), [left, right], sample_of(left))

    def concat(self, parts: Sequence[Value], name: str) -> Value:
        """Join values along axis 1, the channels."""
        shapes = [sample_of(part) for part in parts]
        if len({shape[1:] for shape in shapes}) != 1:
            raise GraphError(f"{name}: cannot join {' and '.join(str(list(shape_of(part))) for part in parts)}")
        joined = (sum(shape[0] for shape in shapes), *shapes[0][1:])
        return self._layer("Concat", self._repeatable(name), parts, joined, {"axis": 1})

    def split(self, x: Value, name: str, sizes: Sequence[int]) -> tuple[Value, ...]:
        """Cut a value along axis 1, the channels, into parts of the given sizes."""
        channels, *rest = sample_of(x)
        if sum(sizes) != channels:
            raise GraphError(f"{name}: parts of {list(sizes)} do not make up {channels} channels")
        own = self._repeatable(name)
        shapes = [(shape_of(x)[0], size, *rest) for size in sizes]
        return self.operation("Split", own, [x, self.constant(f"{own}.split", sizes)], shapes, {"axis": 1})

    def reshape(self, x: Value, name: str, shape: Sequence[int]) -> Value:
        """Give each sample another shape; the batch axis stays."""
        if math.prod(shape) != math.prod(sample_of(x)):
            raise GraphError(f"{name}: samples of {list(sample_of(x))} cannot become {list(shape)}")
        own = self._repeatable(name)
        target = self.constant(f"{own}.shape", (0, *shape))  # 0: as it was
        return self._layer("Reshape", own, [x, target], shape)

    def transpose(self, x: Value, name: str, order: Sequence[int]) -> Value:
        """Reorder the axes of each sample, counted from 1; the batch axis stays first."""
        if sorted(order) != list(range(1, len(sample_of(x)) + 1)):
            raise GraphError(f"{name}: {list(order)} is no order of the axes of {list(shape_of(x))} after the first")
        shape = [sample_of(x)[axis - 1] for axis in order]
        return self._layer("Transpose", self._repeatable(name), [x], shape, {"perm": (0, *order)})

    # How names, values and initial weights are made

    def _layer(
        self,
        op_type: str,
        name: str,
        inputs: Sequence[Value],
        sample: Sequence[int],
        attributes: Mapping[str, Any] | None = None,
    ) -> Value:
        """Add an operator with one output, given the shape of one sample of it."""
        return self.operation(op_type, name, inputs, [(shape_of(inputs[0])[0], *sample)], attributes)[0]

    def _unused(self, name: str) -> str:
        if name in self._taken:
            raise GraphError(f"{self.name}: the name {name!r} is given twice")
        self._taken[name] = 0
        return name

    def _repeatable(self, name: str) -> str:
        """Return the name, numbered if it is in use."""
        own = name
        while own in self._taken:
            self._taken[name] += 1
            own = f"{name}_{self._taken[name]}"
        return own

    def _value(self, name: str, shape: Sequence[int | str]) -> Value:
        return Value(name=name, shape=onnx_ir.Shape(shape), type=onnx_ir.TensorType(DataType.FLOAT))

    def _kernel(self, name: str, shape: tuple[int, ...], fan_out: int, deviation: float | None = None) -> Value:
        full = f"{name}.weight"
        if deviation is not None:
            return self.parameter(full, Initial("normal", deviation, shape, self.seed, full))
        return self.parameter(full, kaiming_normal(full, shape, fan_out, self.seed))

    def _biases(self, name: str, channels: int, wanted: bool, value: float) -> list[Value]:
        return [self.parameter(f"{name}.bias", np.full(channels, value, np.float32))] if wanted else []

    def _check_groups(self, name: str, inputs: int, channels: int, groups: int) -> None:
        if groups < 1 or inputs % groups or channels % groups:
            raise GraphError(f"{name}: {groups} groups must divide {inputs} input and {channels} output channels")

    def _pool(
        self,
        op_type: str,
        x: Value,
        name: str,
        kernel: Pair,
        stride: Pair | None,
        padding: Pair,
        ceil: bool,
        attributes: Mapping[str, int],
    ) -> Value:
        channels, *size = image_of(x, name)
        kernels, paddings = pair(kernel), pair(padding)
        strides = kernels if stride is None else pair(stride)
        shape = (channels, *windows(name, size, kernels, strides, paddings, ceil))
        own = {"kernel_shape": kernels, "strides": strides, "pads": paddings * 2, **attributes}
        own |= {"ceil_mode": 1} if ceil else {}
        return self._layer(op_type, self._repeatable(name), [x], shape, own)
