"""What layers become on the way to ONNX: one node each, in a domain of our own, that `layers` spells out later.

PyTorch's exporter writes some layers in many nodes, folds others together and leaves Dropout out. A node of this domain
passes through it, and through constant folding, untouched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import onnx
import onnx_ir
import onnxscript
import torch

DOMAIN = "mopruning"

aten: Any = torch.ops.aten

_KINDS = {
    int: onnx.defs.OpSchema.AttrType.INT,
    float: onnx.defs.OpSchema.AttrType.FLOAT,
    str: onnx.defs.OpSchema.AttrType.STRING,
    tuple: onnx.defs.OpSchema.AttrType.INTS,
}
_TYPES = [
    f"tensor({name})" for name in ("float", "double", "float16", "bfloat16", "bool", "int64", "int32", "int8", "uint8")
]

UNSUPPORTED = "Unsupported"
"""Operator of our domain that stands for what has no form in ONNX, until all of it is found."""

_SEVERAL = "an index by several tensors, or by a mask, is not in the profile; index one axis at a time, by numbers"
_GROUPED = "enable_gqa=True is not in the profile; repeat the keys and values instead"

_library: Any = torch.library.Library(DOMAIN, "DEF")
_library.define("dropout(Tensor x, float ratio, str kind) -> Tensor")
_library.impl("dropout", lambda x, ratio, kind: x.clone(), "CompositeExplicitAutograd")

DROPOUTS = {
    "aten::dropout": "elements",
    "aten::dropout_": "elements",
    "aten::feature_dropout": "channels",
    "aten::feature_dropout_": "channels",
    "aten::alpha_dropout": "alpha",
    "aten::alpha_dropout_": "alpha",
    "aten::feature_alpha_dropout": "alpha channels",
    "aten::feature_alpha_dropout_": "alpha channels",
}
"""PyTorch's dropouts -> what they drop. Traced for inference they would vanish."""


def keep_dropouts(program: torch.export.ExportedProgram) -> None:
    """Replace dropouts in place by an operator that the exporter does not take out."""
    for node in program.graph.nodes:
        kind = DROPOUTS.get(node.target.name().partition(".")[0]) if hasattr(node.target, "_schema") else None
        if kind is not None:
            ratio = float(node.args[1])
            node.target = torch.ops.mopruning.dropout.default
            node.args, node.kwargs = (node.args[0], ratio, kind), {}
    program.graph_module.recompile()


def _node(name: str, *inputs: Any, outputs: int = 1, **attributes: Any) -> Any:
    """Record one node of our domain; inputs that are None are left out."""
    given = [value for value in inputs if value is not None]
    schema = onnx.defs.OpSchema(
        *(name, DOMAIN, 1),
        inputs=[onnx.defs.OpSchema.FormalParameter(f"input{i}", f"T{i}") for i in range(len(given))],
        outputs=[onnx.defs.OpSchema.FormalParameter(f"output{i}", "T0") for i in range(outputs)],
        type_constraints=[(f"T{i}", _TYPES, "") for i in range(len(given))],
        attributes=[onnx.defs.OpSchema.Attribute(key, _KINDS[type(value)], "") for key, value in attributes.items()],
    )
    return onnxscript.values.Op(onnxscript.values.Opset(DOMAIN, 1), name, schema)(*given, **attributes)


def stand_in(x: Any, operator: str, why: str, outputs: int = 1) -> Any:
    """Record that an operator has no form in ONNX, so that the translation goes on and finds the others."""
    return _node(UNSUPPORTED, x, outputs=outputs, operator=operator, why=why)


def _linear(x: Any, weight: Any, bias: Any = None) -> Any:
    return _node("Linear", x, weight, bias)


def _convolution(axes: int) -> Callable[..., Any]:
    def convolution(
        x: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
    ) -> Any:
        if isinstance(padding, str):  # the excess of an odd sum goes to the end
            spans = [(size - 1) * step for size, step in zip(weight.shape[2:], _each(dilation, axes), strict=True)]
            sums = spans if padding == "same" else [0] * axes
            pads = (*(total // 2 for total in sums), *(total - total // 2 for total in sums))
        else:
            pads = _each(padding, axes) * 2
        return _node(
            *("Conv", x, weight, bias),
            pads=pads,
            strides=_each(stride, axes),
            dilations=_each(dilation, axes),
            group=int(groups),
        )

    return convolution


def _deconvolution(axes: int) -> Callable[..., Any]:
    def deconvolution(
        x: Any,
        weight: Any,
        bias: Any = None,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        dilation: Any = 1,
    ) -> Any:
        return _node(
            *("ConvTranspose", x, weight, bias),
            pads=_each(padding, axes) * 2,
            strides=_each(stride, axes),
            dilations=_each(dilation, axes),
            output_padding=_each(output_padding, axes),
            group=int(groups),
        )

    return deconvolution


def _batch_norm(x: Any, scale: Any, bias: Any, mean: Any, variance: Any, momentum: float, epsilon: float) -> Any:
    present = int(scale is not None) + 2 * int(bias is not None)
    shared: dict[str, Any] = {"momentum": 1.0 - momentum, "epsilon": float(epsilon), "present": present}
    return _node("BatchNormalization", x, mean, variance, scale, bias, outputs=3, **shared)


def _group_norm(
    x: Any, groups: int, scale: Any = None, bias: Any = None, epsilon: float = 1e-5, cudnn_enabled: bool = True
) -> Any:
    present = int(scale is not None) + 2 * int(bias is not None)
    return _node("GroupNorm", x, scale, bias, groups=int(groups), epsilon=float(epsilon), present=present)


def _dropout(x: Any, ratio: float, kind: str) -> Any:
    return _node("Dropout", x, ratio=float(ratio), kind=kind)


def _adaptive_average(axes: int) -> Callable[..., Any]:
    def pool(x: Any, output_size: Any) -> Any:
        sizes = [x.shape[axis - axes] if size is None else size for axis, size in enumerate(_each(output_size, axes))]
        return _node("AdaptiveAveragePool", x, size=tuple(sizes))

    return pool


def _attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    if enable_gqa:
        return stand_in(query, "scaled_dot_product_attention", _GROUPED)
    factor = query.shape[-1] ** -0.5 if scale is None else float(scale)
    shared: dict[str, Any] = {"scale": factor, "ratio": float(dropout_p), "causal": int(is_causal)}
    return _node("Attention", query, key, value, attn_mask, **shared)


def _recurrent(operator: str, states: int) -> Callable[..., Any]:
    def recurrent(
        x: Any,
        state: Any,
        weights: Sequence[Any],
        has_biases: bool,
        layers: int,
        dropout: float,
        train: bool,
        bidirectional: bool,
        batch_first: bool,
    ) -> Any:
        initial = list(state) if states == 2 else [state]
        flags = {"biases": int(has_biases), "bidirectional": int(bidirectional), "batch_first": int(batch_first)}
        # A plain tuple where the exporter wants one value for each output of the operator.
        return _node(
            operator, x, *initial, *weights, outputs=1 + states, layers=int(layers), ratio=float(dropout), **flags
        )

    return recurrent


def _celu(x: Any, alpha: float = 1.0) -> Any:
    return _node("Celu", x, alpha=float(alpha))


def _softplus(x: Any, beta: float = 1.0, threshold: float = 20.0) -> Any:
    return _node("Softplus", x, beta=float(beta))


def _log_sigmoid(x: Any) -> Any:
    return _node("LogSigmoid", x)


def _index(x: Any, indices: Sequence[Any]) -> Any:
    given = [axis for axis, index in enumerate(indices) if index is not None]
    if len(given) != 1 or indices[given[0]].dtype == onnx_ir.DataType.BOOL:
        return stand_in(x, "index", _SEVERAL)
    return _node("Gather", x, indices[given[0]], axis=given[0])


def _each(value: Any, axes: int) -> tuple[int, ...]:
    """Return one number for each axis."""
    numbers = tuple(value) if isinstance(value, Sequence) else (value,)
    return numbers * axes if len(numbers) == 1 else numbers


def translations() -> Mapping[Any, Callable[..., Any]]:
    """Return the table that PyTorch's exporter takes: operator -> what it becomes."""
    return {
        torch.ops.mopruning.dropout.default: _dropout,
        aten.linear.default: _linear,
        aten.conv1d.default: _convolution(1),
        aten.conv1d.padding: _convolution(1),
        aten.conv2d.default: _convolution(2),
        aten.conv2d.padding: _convolution(2),
        aten.conv3d.default: _convolution(3),
        aten.conv3d.padding: _convolution(3),
        aten.conv_transpose1d.default: _deconvolution(1),
        aten.conv_transpose2d.input: _deconvolution(2),
        aten.conv_transpose3d.input: _deconvolution(3),
        aten._native_batch_norm_legit_no_training.default: _batch_norm,
        aten.group_norm.default: _group_norm,
        aten.adaptive_avg_pool1d.default: _adaptive_average(1),
        aten.adaptive_avg_pool2d.default: _adaptive_average(2),
        aten.adaptive_avg_pool3d.default: _adaptive_average(3),
        aten.scaled_dot_product_attention.default: _attention,
        aten.celu.default: _celu,
        aten.softplus.default: _softplus,
        aten.log_sigmoid.default: _log_sigmoid,
        aten.index.Tensor: _index,
        aten.lstm.input: _recurrent("LSTM", 2),
        aten.gru.input: _recurrent("GRU", 1),
    }
