"""The operator profile: every operator a network of the IR may use, one row an operator.

Semantics are those of ONNX opset 20 (https://onnx.ai/onnx/operators). The profile holds what image networks,
transformers and recurrent networks compute with; it leaves out what only one framework can express.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

OPSET = 20
"""Version of ONNX's default operator set that gives every operator its meaning."""

IR_VERSION = 10
"""Version of ONNX's file structure that models are built in: the one that came with the operator set."""

DTYPES = ("float32", "float16", "bfloat16", "float64", "int8", "uint8", "int32", "int64", "bool")
"""Types that values may have, by NumPy's (and ml_dtypes') names."""

MANY = (1 << 31) - 1
"""Upper bound on the inputs or outputs of an operator that takes or gives any number."""


@dataclass(frozen=True)
class Operator:
    """What the profile says about one operator.

    Args:
        name: ONNX's name, in the default domain.
        kind: Section of the table: "linear", "normalisation", "pooling", "recurrent", "activation", "element-wise",
            "comparison", "reduction", "shape", "resampling" or "training".
        inputs: Fewest and most inputs.
        attributes: Names of the attributes it may have.
        only: For an attribute of which not every value is allowed, those that are; an absent attribute counts with
            ONNX's default.
        parameters: Index of each input that is a trained parameter -> what it is and how it lies. Those called
            "weight" are canonical in this layout and can be pruned.
        outputs: Fewest and most outputs.
        pytorch: What PyTorch calls it.
        note: What else there is to know.
    """

    name: str
    kind: str
    inputs: tuple[int, int] = (1, 1)
    attributes: tuple[str, ...] = ()
    only: Mapping[str, tuple[int | float | str, ...]] = field(default_factory=dict)
    parameters: Mapping[int, str] = field(default_factory=dict)
    outputs: tuple[int, int] = (1, 1)
    pytorch: str = ""
    note: str = ""

    @property
    def weights(self) -> dict[int, str]:
        """Return the inputs that can be pruned and their layout.

        >>> OPERATORS["Conv"].weights
        {1: '[out, in/groups, *kernel]'}
        """
        return {
            index: text.removeprefix("weight ") for index, text in self.parameters.items() if text.startswith("weight ")
        }


def _table(*rows: Iterable[Operator]) -> dict[str, Operator]:
    return {row.name: row for section in rows for row in section}


_WINDOW = ("auto_pad", "dilations", "kernel_shape", "pads", "strides")
_EXPLICIT: Mapping[str, tuple[int | float | str, ...]] = {"auto_pad": ("NOTSET",)}
_GATES = ("activations", "direction", "hidden_size", "layout")
_AFFINE = {1: "scale [channels]", 2: "bias [channels]"}
_REDUCE = ("keepdims", "noop_with_empty_axes")

_LINEAR = (
    Operator(
        *("Conv", "linear", (2, 3), (*_WINDOW, "group"), _EXPLICIT),
        parameters={1: "weight [out, in/groups, *kernel]", 2: "bias [out]"},
        pytorch="nn.Conv1d, nn.Conv2d, nn.Conv3d",
        note="padding is explicit",
    ),
    Operator(
        *("ConvTranspose", "linear", (2, 3), (*_WINDOW, "group", "output_padding"), _EXPLICIT),
        parameters={1: "weight [in, out/groups, *kernel]", 2: "bias [out]"},
        pytorch="nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d",
        note="output_shape is written as pads and output_padding",
    ),
    Operator(
        *("Gemm", "linear", (2, 3), ("alpha", "beta", "transA", "transB")),
        only={"alpha": (1.0,), "beta": (1.0,), "transA": (0,)},
        parameters={1: "weight [out, in]", 2: "bias [out]"},
        pytorch="nn.Linear",
        note="transB = 1 is canonical; with transB = 0 the weight lies as [in, out]",
    ),
    Operator(
        *("MatMul", "linear", (2, 2)),
        parameters={1: "weight [in, out]"},
        pytorch="torch.matmul; nn.Linear on more than two axes",
        note="a weight is a Transpose of [out, in], or a constant [in, out]; both inputs may be computed",
    ),
)

_NORMALISATION = (
    Operator(
        *("BatchNormalization", "normalisation", (5, 5), ("epsilon", "momentum", "training_mode")),
        only={"training_mode": (0,)},
        parameters=_AFFINE,
        pytorch="nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d",
        note="inputs 3 and 4 are the running mean and variance; ONNX's momentum is 1 - PyTorch's",
    ),
    Operator(
        *("LayerNormalization", "normalisation", (2, 3), ("axis", "epsilon", "stash_type")),
        only={"stash_type": (1,)},
        parameters={1: "scale [*normalised axes]", 2: "bias [*normalised axes]"},
        pytorch="nn.LayerNorm",
    ),
    Operator(
        *("InstanceNormalization", "normalisation", (3, 3), ("epsilon",)),
        parameters=_AFFINE,
        pytorch="nn.InstanceNorm2d; part of nn.GroupNorm",
    ),
)

_POOLING = (
    Operator(
        *("MaxPool", "pooling", (1, 1), (*_WINDOW, "ceil_mode", "storage_order")),
        only={**_EXPLICIT, "storage_order": (0,)},
        pytorch="nn.MaxPool2d",
    ),
    Operator(
        *("AveragePool", "pooling", (1, 1), (*_WINDOW, "ceil_mode", "count_include_pad"), _EXPLICIT),
        pytorch="nn.AvgPool2d",
    ),
    Operator("GlobalAveragePool", "pooling", pytorch="nn.AdaptiveAvgPool2d(1)"),
    Operator("GlobalMaxPool", "pooling", pytorch="nn.AdaptiveMaxPool2d(1)"),
)

_RECURRENT = (
    Operator(
        *("LSTM", "recurrent", (3, 7), (*_GATES, "input_forget")),
        only={"layout": (0,), "input_forget": (0,)},
        parameters={
            1: "weight [directions, 4*hidden, in]",
            2: "weight [directions, 4*hidden, hidden]",
            3: "bias [directions, 8*hidden]",
        },
        outputs=(1, 3),
        pytorch="nn.LSTM",
        note="gates input, output, forget, cell (PyTorch's: input, forget, cell, output); usual activations, no "
        "sequence_lens",
    ),
    Operator(
        *("GRU", "recurrent", (3, 6), (*_GATES, "linear_before_reset")),
        only={"layout": (0,), "linear_before_reset": (1,)},
        parameters={
            1: "weight [directions, 3*hidden, in]",
            2: "weight [directions, 3*hidden, hidden]",
            3: "bias [directions, 6*hidden]",
        },
        outputs=(1, 2),
        pytorch="nn.GRU",
        note="gates update, reset, hidden (PyTorch's: reset, update, hidden); usual activations, no sequence_lens",
    ),
)

_ACTIVATION = (
    Operator("Relu", "activation", pytorch="nn.ReLU"),
    Operator("LeakyRelu", "activation", attributes=("alpha",), pytorch="nn.LeakyReLU"),
    Operator("PRelu", "activation", (2, 2), parameters={1: "slope [channels, 1, ...]"}, pytorch="nn.PReLU"),
    Operator("Elu", "activation", attributes=("alpha",), pytorch="nn.ELU"),
    Operator("Selu", "activation", attributes=("alpha", "gamma"), pytorch="nn.SELU"),
    Operator("Sigmoid", "activation", pytorch="nn.Sigmoid"),
    Operator("HardSigmoid", "activation", attributes=("alpha", "beta"), pytorch="nn.Hardsigmoid, with alpha = 1/6"),
    Operator("HardSwish", "activation", pytorch="nn.Hardswish"),
    Operator("Tanh", "activation", pytorch="nn.Tanh"),
    Operator("Gelu", "activation", attributes=("approximate",), pytorch="nn.GELU"),
    Operator("Mish", "activation", pytorch="nn.Mish"),
    Operator("Softplus", "activation", pytorch="nn.Softplus"),
    Operator("Softmax", "activation", attributes=("axis",), pytorch="nn.Softmax"),
    Operator("LogSoftmax", "activation", attributes=("axis",), pytorch="nn.LogSoftmax"),
    Operator("Clip", "activation", (1, 3), pytorch="torch.clamp; nn.ReLU6 with 0 and 6", note="bounds are inputs"),
)

_ELEMENT_WISE = (
    Operator("Add", "element-wise", (2, 2), pytorch="torch.add"),
    Operator("Sub", "element-wise", (2, 2), pytorch="torch.sub"),
    Operator("Mul", "element-wise", (2, 2), pytorch="torch.mul"),
    Operator("Div", "element-wise", (2, 2), pytorch="torch.div", note="whole numbers are divided towards zero"),
    Operator("Mod", "element-wise", (2, 2), ("fmod",), pytorch="torch.remainder; torch.fmod with fmod = 1"),
    Operator("Pow", "element-wise", (2, 2), pytorch="torch.pow"),
    Operator("Min", "element-wise", (1, MANY), pytorch="torch.minimum"),
    Operator("Max", "element-wise", (1, MANY), pytorch="torch.maximum"),
    Operator("Sum", "element-wise", (1, MANY), pytorch="torch.add"),
    Operator("Abs", "element-wise", pytorch="torch.abs"),
    Operator("Neg", "element-wise", pytorch="torch.neg"),
    Operator("Sign", "element-wise", pytorch="torch.sign"),
    Operator("Reciprocal", "element-wise", pytorch="torch.reciprocal"),
    Operator("Sqrt", "element-wise", pytorch="torch.sqrt"),
    Operator("Exp", "element-wise", pytorch="torch.exp"),
    Operator("Log", "element-wise", pytorch="torch.log"),
    Operator("Erf", "element-wise", pytorch="torch.erf"),
    Operator("Sin", "element-wise", pytorch="torch.sin"),
    Operator("Cos", "element-wise", pytorch="torch.cos"),
    Operator("Floor", "element-wise", pytorch="torch.floor"),
    Operator("Ceil", "element-wise", pytorch="torch.ceil"),
    Operator("Round", "element-wise", pytorch="torch.round", note="halves to the even number"),
    Operator("Cast", "element-wise", attributes=("saturate", "to"), only={"saturate": (1,)}, pytorch="x.to(dtype)"),
    Operator("CastLike", "element-wise", (2, 2), ("saturate",), {"saturate": (1,)}, pytorch="x.to(other.dtype)"),
    Operator("Identity", "element-wise", pytorch="nn.Identity"),
)

_COMPARISON = (
    Operator("Equal", "comparison", (2, 2), pytorch="torch.eq"),
    Operator("Greater", "comparison", (2, 2), pytorch="torch.gt"),
    Operator("GreaterOrEqual", "comparison", (2, 2), pytorch="torch.ge"),
    Operator("Less", "comparison", (2, 2), pytorch="torch.lt"),
    Operator("LessOrEqual", "comparison", (2, 2), pytorch="torch.le"),
    Operator("And", "comparison", (2, 2), pytorch="torch.logical_and"),
    Operator("Or", "comparison", (2, 2), pytorch="torch.logical_or"),
    Operator("Xor", "comparison", (2, 2), pytorch="torch.logical_xor"),
    Operator("Not", "comparison", pytorch="torch.logical_not"),
    Operator("IsNaN", "comparison", pytorch="torch.isnan"),
    Operator("Where", "comparison", (3, 3), pytorch="torch.where"),
)

_REDUCTION = (
    Operator("ReduceMean", "reduction", (1, 2), _REDUCE, pytorch="torch.mean", note="axes are an input, in every row"),
    Operator("ReduceSum", "reduction", (1, 2), _REDUCE, pytorch="torch.sum"),
    Operator("ReduceMax", "reduction", (1, 2), _REDUCE, pytorch="torch.amax"),
    Operator("ReduceMin", "reduction", (1, 2), _REDUCE, pytorch="torch.amin"),
    Operator("ReduceProd", "reduction", (1, 2), _REDUCE, pytorch="torch.prod"),
    Operator("ReduceL1", "reduction", (1, 2), _REDUCE, pytorch="torch.norm(p=1)"),
    Operator("ReduceL2", "reduction", (1, 2), _REDUCE, pytorch="torch.norm"),
    Operator("ReduceSumSquare", "reduction", (1, 2), _REDUCE, pytorch="torch.sum(x * x)"),
    Operator("ReduceLogSumExp", "reduction", (1, 2), _REDUCE, pytorch="torch.logsumexp"),
    Operator("ArgMax", "reduction", (1, 1), ("axis", "keepdims", "select_last_index"), pytorch="torch.argmax"),
    Operator("ArgMin", "reduction", (1, 1), ("axis", "keepdims", "select_last_index"), pytorch="torch.argmin"),
    Operator("CumSum", "reduction", (2, 2), ("exclusive", "reverse"), pytorch="torch.cumsum"),
    Operator("TopK", "reduction", (2, 2), ("axis", "largest", "sorted"), outputs=(2, 2), pytorch="torch.topk"),
)

_SHAPE = (
    Operator("Reshape", "shape", (2, 2), ("allowzero",), pytorch="torch.reshape"),
    Operator("Flatten", "shape", attributes=("axis",), pytorch="nn.Flatten", note="always gives two axes"),
    Operator("Transpose", "shape", attributes=("perm",), pytorch="torch.permute"),
    Operator("Squeeze", "shape", (1, 2), pytorch="torch.squeeze"),
    Operator("Unsqueeze", "shape", (2, 2), pytorch="torch.unsqueeze"),
    Operator("Concat", "shape", (1, MANY), ("axis",), pytorch="torch.cat"),
    Operator("Split", "shape", (1, 2), ("axis", "num_outputs"), outputs=(1, MANY), pytorch="torch.split"),
    Operator("Slice", "shape", (3, 5), pytorch="x[start:end:step]"),
    Operator(
        *("Gather", "shape", (2, 2), ("axis",)),
        parameters={0: "weight [rows, features]"},
        pytorch="nn.Embedding; torch.index_select",
    ),
    Operator("GatherElements", "shape", (2, 2), ("axis",), pytorch="torch.gather"),
    Operator("Expand", "shape", (2, 2), pytorch="x.expand"),
    Operator("Tile", "shape", (2, 2), pytorch="torch.tile"),
    Operator("Pad", "shape", (2, 4), ("mode",), {"mode": ("constant", "reflect", "edge")}, pytorch="F.pad"),
    Operator("Shape", "shape", attributes=("end", "start"), pytorch="x.shape"),
    Operator("Size", "shape", pytorch="x.numel()"),
    Operator("ConstantOfShape", "shape", attributes=("value",), pytorch="torch.full"),
    Operator("Range", "shape", (3, 3), pytorch="torch.arange"),
    Operator("Trilu", "shape", (1, 2), ("upper",), pytorch="torch.triu, torch.tril"),
    Operator("DepthToSpace", "shape", attributes=("blocksize", "mode"), pytorch="nn.PixelShuffle, with mode CRD"),
    Operator("SpaceToDepth", "shape", attributes=("blocksize",), pytorch="nn.PixelUnshuffle, its channels reordered"),
)

_OTHER = (
    Operator(
        *("Resize", "resampling", (1, 4)),
        (
            *("antialias", "coordinate_transformation_mode", "cubic_coeff_a", "exclude_outside", "extrapolation_value"),
            *("keep_aspect_ratio_policy", "mode", "nearest_mode"),
        ),
        only={
            "antialias": (0,),
            "coordinate_transformation_mode": ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"),
            "cubic_coeff_a": (-0.75,),
            "exclude_outside": (0,),
            "keep_aspect_ratio_policy": ("stretch",),
        },
        pytorch="F.interpolate",
        note="scales or sizes give every axis",
    ),
    Operator(
        *("Dropout", "training", (1, 3), ("seed",)),
        pytorch="nn.Dropout",
        note="input 1 is the ratio; it drops nothing until the network is trained, so training_mode is absent or false",
    ),
)

OPERATORS: Mapping[str, Operator] = _table(
    *(_LINEAR, _NORMALISATION, _POOLING, _RECURRENT, _ACTIVATION, _ELEMENT_WISE),
    *(_COMPARISON, _REDUCTION, _SHAPE, _OTHER),
)
"""Operator name -> row: the whole profile."""
