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
        note: What else there is to know.
    """

    name: str
    kind: str
    inputs: tuple[int, int] = (1, 1)
    attributes: tuple[str, ...] = ()
    only: Mapping[str, tuple[int | float | str, ...]] = field(default_factory=dict)
    parameters: Mapping[int, str] = field(default_factory=dict)
    outputs: tuple[int, int] = (1, 1)
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
        note="padding is explicit",
    ),
    Operator(
        *("ConvTranspose", "linear", (2, 3), (*_WINDOW, "group", "output_padding"), _EXPLICIT),
        parameters={1: "weight [in, out/groups, *kernel]", 2: "bias [out]"},
        note="output_shape is written as pads and output_padding",
    ),
    Operator(
        *("Gemm", "linear", (2, 3), ("alpha", "beta", "transA", "transB")),
        only={"alpha": (1.0,), "beta": (1.0,), "transA": (0,)},
        parameters={1: "weight [out, in]", 2: "bias [out]"},
        note="transB = 1 is canonical; with transB = 0 the weight lies as [in, out]",
    ),
    Operator(
        *("MatMul", "linear", (2, 2)),
        parameters={1: "weight [in, out]"},
        note="a weight is a Transpose of [out, in], or a constant [in, out]; both inputs may be computed",
    ),
)

_NORMALISATION = (
    Operator(
        *("BatchNormalization", "normalisation", (5, 5), ("epsilon", "momentum", "training_mode")),
        only={"training_mode": (0,)},
        parameters=_AFFINE,
        note="inputs 3 and 4 are the running mean and variance; ONNX's momentum is 1 - PyTorch's",
    ),
    Operator(
        *("LayerNormalization", "normalisation", (2, 3), ("axis", "epsilon", "stash_type")),
        only={"stash_type": (1,)},
        parameters={1: "scale [*normalised axes]", 2: "bias [*normalised axes]"},
    ),
    Operator(
        *("InstanceNormalization", "normalisation", (3, 3), ("epsilon",)),
        parameters=_AFFINE,
    ),
)

_POOLING = (
    Operator(
        *("MaxPool", "pooling", (1, 1), (*_WINDOW, "ceil_mode", "storage_order")),
        only={**_EXPLICIT, "storage_order": (0,)},
    ),
    Operator(
        *("AveragePool", "pooling", (1, 1), (*_WINDOW, "ceil_mode", "count_include_pad"), _EXPLICIT),
    ),
    Operator("GlobalAveragePool", "pooling"),
    Operator("GlobalMaxPool", "pooling"),
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
        note="gates update, reset, hidden (PyTorch's: reset, update, hidden); usual activations, no sequence_lens",
    ),
)

_ACTIVATION = (
    Operator("Relu", "activation"),
    Operator("LeakyRelu", "activation", attributes=("alpha",)),
    Operator("PRelu", "activation", (2, 2), parameters={1: "slope [channels, 1, ...]"}),
    Operator("Elu", "activation", attributes=("alpha",)),
    Operator("Selu", "activation", attributes=("alpha", "gamma")),
    Operator("Sigmoid", "activation"),
    Operator("HardSigmoid", "activation", attributes=("alpha", "beta")),
    Operator("HardSwish", "activation"),
    Operator("Tanh", "activation"),
    Operator("Gelu", "activation", attributes=("approximate",)),
    Operator("Mish", "activation"),
    Operator("Softplus", "activation"),
    Operator("Softmax", "activation", attributes=("axis",)),
    Operator("LogSoftmax", "activation", attributes=("axis",)),
    Operator("Clip", "activation", (1, 3), note="bounds are inputs"),
)

_ELEMENT_WISE = (
    Operator("Add", "element-wise", (2, 2)),
    Operator("Sub", "element-wise", (2, 2)),
    Operator("Mul", "element-wise", (2, 2)),
    Operator("Div", "element-wise", (2, 2), note="whole numbers are divided towards zero"),
    Operator("Mod", "element-wise", (2, 2), ("fmod",)),
    Operator("Pow", "element-wise", (2, 2)),
    Operator("Min", "element-wise", (1, MANY)),
    Operator("Max", "element-wise", (1, MANY)),
    Operator("Sum", "element-wise", (1, MANY)),
    Operator("Abs", "element-wise"),
    Operator("Neg", "element-wise"),
    Operator("Sign", "element-wise"),
    Operator("Reciprocal", "element-wise"),
    Operator("Sqrt", "element-wise"),
    Operator("Exp", "element-wise"),
    Operator("Log", "element-wise"),
    Operator("Erf", "element-wise"),
    Operator("Sin", "element-wise"),
    Operator("Cos", "element-wise"),
    Operator("Floor", "element-wise"),
    Operator("Ceil", "element-wise"),
    Operator("Round", "element-wise", note="halves to the even number"),
    Operator("Cast", "element-wise", attributes=("saturate", "to"), only={"saturate": (1,)}),
    Operator("CastLike", "element-wise", (2, 2), ("saturate",), {"saturate": (1,)}),
    Operator("Identity", "element-wise"),
)

_COMPARISON = (
    Operator("Equal", "comparison", (2, 2)),
    Operator("Greater", "comparison", (2, 2)),
    Operator("GreaterOrEqual", "comparison", (2, 2)),
    Operator("Less", "comparison", (2, 2)),
    Operator("LessOrEqual", "comparison", (2, 2)),
    Operator("And", "comparison", (2, 2)),
    Operator("Or", "comparison", (2, 2)),
    Operator("Xor", "comparison", (2, 2)),
    Operator("Not", "comparison"),
    Operator("IsNaN", "comparison"),
    Operator("Where", "comparison", (3, 3)),
)

_REDUCTION = (
    Operator("ReduceMean", "reduction", (1, 2), _REDUCE, note="axes are an input, in every row"),
    Operator("ReduceSum", "reduction", (1, 2), _REDUCE),
    Operator("ReduceMax", "reduction", (1, 2), _REDUCE),
    Operator("ReduceMin", "reduction", (1, 2), _REDUCE),
    Operator("ReduceProd", "reduction", (1, 2), _REDUCE),
    Operator("ReduceL1", "reduction", (1, 2), _REDUCE),
    Operator("ReduceL2", "reduction", (1, 2), _REDUCE),
    Operator("ReduceSumSquare", "reduction", (1, 2), _REDUCE),
    Operator("ReduceLogSumExp", "reduction", (1, 2), _REDUCE),
    Operator("ArgMax", "reduction", (1, 1), ("axis", "keepdims", "select_last_index")),
    Operator("ArgMin", "reduction", (1, 1), ("axis", "keepdims", "select_last_index")),
    Operator("CumSum", "reduction", (2, 2), ("exclusive", "reverse")),
    Operator("TopK", "reduction", (2, 2), ("axis", "largest", "sorted"), outputs=(2, 2)),
)

_SHAPE = (
    Operator("Reshape", "shape", (2, 2), ("allowzero",)),
    Operator("Flatten", "shape", attributes=("axis",), note="always gives two axes"),
    Operator("Transpose", "shape", attributes=("perm",)),
    Operator("Squeeze", "shape", (1, 2)),
    Operator("Unsqueeze", "shape", (2, 2)),
    Operator("Concat", "shape", (1, MANY), ("axis",)),
    Operator("Split", "shape", (1, 2), ("axis", "num_outputs"), outputs=(1, MANY)),
    Operator("Slice", "shape", (3, 5)),
    Operator(
        *("Gather", "shape", (2, 2), ("axis",)),
        parameters={0: "weight [rows, features]"},
    ),
    Operator("GatherElements", "shape", (2, 2), ("axis",)),
    Operator("Expand", "shape", (2, 2)),
    Operator("Tile", "shape", (2, 2)),
    Operator("Pad", "shape", (2, 4), ("mode",), {"mode": ("constant", "reflect", "edge")}),
    Operator("Shape", "shape", attributes=("end", "start")),
    Operator("Size", "shape"),
    Operator("ConstantOfShape", "shape", attributes=("value",)),
    Operator("Range", "shape", (3, 3)),
    Operator("Trilu", "shape", (1, 2), ("upper",)),
    Operator("DepthToSpace", "shape", attributes=("blocksize", "mode")),
    Operator("SpaceToDepth", "shape", attributes=("blocksize",)),
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
        note="scales or sizes give every axis",
    ),
    Operator(
        *("Dropout", "training", (1, 3), ("seed",)),
        note="input 1 is the ratio; it drops nothing until the network is trained, so training_mode is absent or false",
    ),
)

OPERATORS: Mapping[str, Operator] = _table(
    *(_LINEAR, _NORMALISATION, _POOLING, _RECURRENT, _ACTIVATION, _ELEMENT_WISE),
    *(_COMPARISON, _REDUCTION, _SHAPE, _OTHER),
)
"""Operator name -> row: the whole profile."""
