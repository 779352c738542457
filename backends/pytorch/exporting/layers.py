"""How each layer of our domain is spelt in ONNX: weights stay canonical, under their names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir
from onnx_ir import Model, Value

from mopruning.backends.pytorch.exporting.recurrent import gru, lstm
from mopruning.backends.pytorch.exporting.spelling import PATH, SOURCE, NumPyArray, Spelling, shape_of
from mopruning.backends.pytorch.exporting.translations import DOMAIN
from mopruning.errors import FormatError


def spell_out(model: Model) -> None:
    """Replace every node of our domain in place by what it means in ONNX."""
    for node in list(model.graph):
        if node.domain == DOMAIN:
            spelling = Spelling(node)
            if node.op_type in _WEIGHTED:
                node.meta[PATH] = _path_of(node.meta[PATH], node.inputs[1])
            spelling.finish(_SPELLINGS[node.op_type](spelling, node.inputs))
    model.opset_imports.pop(DOMAIN, None)


def _path_of(path: str, weight: Value | None) -> str:
    """Return the path of the layer that owns a weight, where a module around it computes with it."""
    if weight is None or SOURCE not in weight.meta:
        return path
    owner = str(weight.name).removesuffix("weight").rstrip("._")
    return owner if owner == path or not path or owner.startswith(path + ".") else path


def _linear(spelling: Spelling, inputs: Sequence[Value | None]) -> Sequence[Value]:
    x, weight, *bias = inputs
    if len(shape_of(x)) == 2:
        return [spelling.op("Gemm", [x, weight, *bias], transB=1)]
    turned = spelling.op("Transpose", [weight], "transpose", perm=[1, 0])
    product = spelling.op("MatMul", [x, turned])
    return [spelling.op("Add", [product, *bias], "add") if bias else product]


def _convolution(spelling: Spelling, inputs: Sequence[Value | None]) -> Sequence[Value]:
    x, weight, *bias = inputs
    if len(shape_of(x)) != len(shape_of(weight)):
        raise FormatError(
            f"{spelling.node.meta[PATH]}: expected a batch of {len(shape_of(weight)) - 2}-D samples, got the shape "
            f"{list(shape_of(x))}; give the example a batch axis"
        )
    names = ("pads", "strides", "dilations", "group")
    attributes = {name: spelling[name] for name in names}
    if spelling.node.op_type == "ConvTranspose":
        attributes["output_padding"] = spelling["output_padding"]
    attributes["kernel_shape"] = shape_of(weight)[2:]
    return [spelling.op(spelling.node.op_type, [x, weight, *bias], **attributes)]


def _batch_norm(spelling: Spelling, inputs: Sequence[Value | None]) -> Sequence[Value]:
    x, mean, variance, *affine = inputs
    scale, bias = _affine(spelling, x, affine, shape_of(x)[1])
    shared = {"momentum": spelling["momentum"], "epsilon": spelling["epsilon"]}
    output = spelling.op("BatchNormalization", [x, scale, bias, mean, variance], **shared)
    return [output, *spelling.node.outputs[1:]]


def _group_norm(spelling: Spelling, inputs: Sequence[Value | None]) -> Sequence[Value]:
    x, *affine = inputs
    groups = spelling["groups"]
    neutral = [spelling.constant(np.full(groups, value), like=x) for value in (1, 0)]
    grouped = spelling.op("Reshape", [x, spelling.constant([0, groups, -1])], "group")
    normal = spelling.op("InstanceNormalization", [grouped, *neutral], epsilon=spelling["epsilon"])
    result = spelling.op("Reshape", [normal, spelling.constant([0, *shape_of(x)[1:]])], "ungroup")
    axes = spelling.constant(range(1, len(shape_of(x)) - 1))
    given = iter(affine)
    for bit, operator, part in ((1, "Mul", "scale"), (2, "Add", "shift")):
        if spelling["present"] & bit:
            own = next(given)
            spread = spelling.op("Unsqueeze", [own, axes], f"{part}_spread") if len(shape_of(x)) > 2 else own
            result = spelling.op(operator, [result, spread], part)
    return [result]


def _affine(
    spelling: Spelling, x: Value | None, given: Sequence[Value | None], channels: int
) -> tuple[Value | None, Value | None]:
    """Return scale and bias; where a layer has none, what changes nothing."""
    found = iter(given)
    neutral = (np.ones(channels), np.zeros(channels))
    scale, bias = (
        next(found) if spelling["present"] & bit else spelling.constant(array, like=x)
        for bit, array in zip((1, 2), neutral, strict=True)
    )
    return scale, bias


def _dropout(spelling: Spelling, inputs: Sequence[Value | None]) -> Sequence[Value]:
    if spelling["ratio"] == 0.0:
        return [spelling.op("Identity", inputs)]
    ratio = spelling.op("Constant", [], value=onnx_ir.tensor(np.float32(spelling["ratio"])))
    output = spelling.op("Dropout", [*inputs, ratio])
    spelling.nodes[-1].meta["kind"] = spelling["kind"]
    return [output]


def _adaptive_average(spelling: Spelling, inputs: Sequence[Value | None]) -> Sequence[Value]:
    (x,) = inputs
    wanted = tuple(spelling["size"])
    axes = len(wanted)
    given = shape_of(x)[-axes:]
    if set(wanted) == {1}:
        if len(shape_of(x)) == axes + 2:
            return [spelling.op("GlobalAveragePool", [x])]
        return [spelling.op("ReduceMean", [x, spelling.constant(range(-axes, 0))], keepdims=1)]
    if not all(isinstance(size, int) for size in given):
        raise FormatError(f"{spelling.node.meta[PATH]}: an adaptive pool needs images of one size, got {list(given)}")
    if all(size % out == 0 for size, out in zip(given, wanted, strict=True)) and len(shape_of(x)) == axes + 2:
        kernel = [size // out for size, out in zip(given, wanted, strict=True)]
        return [spelling.op("AveragePool", [x], kernel_shape=kernel, strides=kernel)]
    if axes > 2:
        raise FormatError(
            f"{spelling.node.meta[PATH]}: cannot average {list(given)} into {list(wanted)}; choose sizes that divide"
        )
    # Averaging is linear, one axis after the other: as a matrix on the right, then on the left.
    result = spelling.op("MatMul", [x, spelling.constant(_averages(given[-1], wanted[-1]).T, like=x)], "columns")
    if axes == 2:
        result = spelling.op("MatMul", [spelling.constant(_averages(given[0], wanted[0]), like=x), result], "rows")
    return [result]


def _averages(size: int, wanted: int) -> NumPyArray:
    """Return the matrix [wanted, size] that averages as adaptive pooling does; its windows may overlap."""
    matrix = np.zeros((wanted, size))
    for row in range(wanted):
        start, end = row * size // wanted, -(-(row + 1) * size // wanted)
        matrix[row, start:end] = 1.0 / (end - start)
    return matrix


def _attention(spelling: Spelling, inputs: Sequence[Value | None]) -> Sequence[Value]:
    query, key, value, *mask = inputs
    axes = list(range(len(shape_of(key))))
    turned = spelling.op("Transpose", [key], "transpose", perm=[*axes[:-2], axes[-1], axes[-2]])
    scaled = spelling.op("Mul", [query, spelling.constant(spelling["scale"], like=query)], "scale")
    scores = spelling.op("MatMul", [scaled, turned], "scores")
    minus_infinity = spelling.constant(-np.inf, like=query)
    if spelling["causal"]:
        lengths = shape_of(query)[-2], shape_of(key)[-2]
        if not all(isinstance(length, int) for length in lengths):
            raise FormatError(f"{spelling.node.meta[PATH]}: causal attention needs one sequence length, got {lengths}")
        visible = spelling.op("Constant", [], value=onnx_ir.tensor(np.tril(np.ones(lengths, np.bool_))))
        scores = spelling.op("Where", [visible, scores, minus_infinity], "causal")
    elif mask and mask[0] is not None and mask[0].dtype == onnx_ir.DataType.BOOL:
        scores = spelling.op("Where", [mask[0], scores, minus_infinity], "mask")
    elif mask:
        scores = spelling.op("Add", [scores, mask[0]], "mask")
    weights = spelling.op("Softmax", [scores], "softmax", axis=-1)
    if spelling["ratio"]:
        ratio = spelling.op("Constant", [], value=onnx_ir.tensor(np.float32(spelling["ratio"])))
        weights = spelling.op("Dropout", [weights, ratio], "dropout")
    return [spelling.op("MatMul", [weights, value], "attention")]


def _celu(spelling: Spelling, inputs: Sequence[Value | None]) -> Sequence[Value]:
    (x,) = inputs
    alpha = spelling.constant(spelling["alpha"], like=x)
    unit = spelling.op("Elu", [spelling.op("Div", [x, alpha], "divide")], "elu")
    return [spelling.op("Mul", [unit, alpha], "multiply")]


def _softplus(spelling: Spelling, inputs: Sequence[Value | None]) -> Sequence[Value]:
    # PyTorch gives x itself above a threshold, 20 by default, where the logarithm adds less than float32 shows.
    (x,) = inputs
    beta = spelling.constant(spelling["beta"], like=x)
    unit = spelling.op("Softplus", [spelling.op("Mul", [x, beta], "multiply")])
    return [spelling.op("Div", [unit, beta], "divide")]


def _log_sigmoid(spelling: Spelling, inputs: Sequence[Value | None]) -> Sequence[Value]:
    # The logarithm of a sigmoid would lose its digits near 1.
    softplus = spelling.op("Softplus", [spelling.op("Neg", inputs, "flip")])
    return [spelling.op("Neg", [softplus], "negative")]


def _gather(spelling: Spelling, inputs: Sequence[Value | None]) -> Sequence[Value]:
    return [spelling.op("Gather", inputs, axis=spelling["axis"])]


_WEIGHTED = ("Linear", "Conv", "ConvTranspose")

_SPELLINGS: Mapping[str, Callable[[Spelling, Sequence[Value | None]], Sequence[Value]]] = {
    "Linear": _linear,
    "Conv": _convolution,
    "ConvTranspose": _convolution,
    "BatchNormalization": _batch_norm,
    "GroupNorm": _group_norm,
    "Dropout": _dropout,
    "AdaptiveAveragePool": _adaptive_average,
    "Attention": _attention,
    "Celu": _celu,
    "Softplus": _softplus,
    "LogSigmoid": _log_sigmoid,
    "Gather": _gather,
    "LSTM": lstm,
    "GRU": gru,
}
