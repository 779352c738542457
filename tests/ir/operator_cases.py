"""Every operator of the profile, with every attribute: one small model a case, for the tests of each framework."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir
from onnx import TensorProto, helper, numpy_helper

from mopruning.ir.operators import OPERATORS
from tests.ir.small_models import model, number, run, whole

RANDOM = np.random.default_rng(7)


def floats(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


IMAGE = floats(2, 6, 9, 8)
POSITIVE = np.abs(IMAGE) + np.float32(0.1)
TRUTH = IMAGE > 0
SIGNAL = floats(2, 4, 11)
VOLUME = floats(2, 3, 5, 6, 4)
FLAT = floats(3, 5)
SEQUENCE = floats(5, 2, 4)
INTEGERS = np.array([[-7, 5, 3], [8, -2, 9]], np.int64)


@dataclass(frozen=True)
class Case:
    """One node: `inputs` come from outside, `weights` are initializers; None leaves an input out."""

    operator: str
    inputs: Sequence[np.ndarray] = (IMAGE,)
    weights: Sequence[np.ndarray | None] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)
    outputs: int = 1
    tolerance: float = 1e-5

    def __str__(self) -> str:
        shown = [f"{key}={value}" for key, value in self.attributes.items() if not isinstance(value, TensorProto)]
        shapes = "x".join(str(value.shape) for value in (*self.inputs, *self.weights) if value is not None)
        return f"{self.operator} {shapes} {' '.join(shown)}".replace(" ", "_")

    def graph(self, names: Sequence[str]) -> onnx_ir.Model:
        """The model, its weights named as given, and the node's inputs as they come from outside."""
        given = [f"x{index}" for index in range(len(self.inputs))]
        held = dict(zip(names, self.weights, strict=False))
        own = [name if held[name] is not None else "" for name in held]
        results = [f"y{index}" for index in range(self.outputs)]
        made = helper.make_node(self.operator, [*given, *own], results, name="layer", **self.attributes)
        types = {n: helper.np_dtype_to_tensor_dtype(v.dtype) for n, v in zip(given, self.inputs, strict=True)}
        shapes = {n: list(v.shape) for n, v in zip(given, self.inputs, strict=True)}
        initializers = {name: value for name, value in held.items() if value is not None}
        return model(shapes, [made], results, initializers, types=types)

    def expected(self, names: Sequence[str]) -> list[Any]:
        """What onnxruntime computes of it."""
        return run(self.graph(names), {f"x{index}": value for index, value in enumerate(self.inputs)})


def case(operator: str, *inputs: np.ndarray, weights: Sequence[Any] = (), outputs: int = 1, **attributes: Any) -> Case:
    return Case(operator, inputs or (IMAGE,), weights, attributes, outputs)


CONV = floats(4, 3, 3, 2), floats(4)
LSTM = floats(1, 12, 4), floats(1, 12, 3), floats(1, 24)
BOTH = floats(2, 12, 4), floats(2, 12, 3), floats(2, 24)
GRU = floats(2, 9, 4), floats(2, 9, 3), floats(2, 18)
NORM = floats(6), floats(6), floats(6), np.abs(floats(6))

LAYERS = [
    case("Conv", weights=CONV, group=2),
    case("Conv", weights=(floats(4, 6, 1, 1),)),
    case("Conv", weights=CONV, group=2, pads=[1, 0, 1, 0], strides=[2, 1], dilations=[1, 2], kernel_shape=[3, 2]),
    case("Conv", weights=CONV, group=2, pads=[0, 1, 2, 3]),
    case("Conv", weights=(floats(6, 1, 3, 3), floats(6)), group=6, pads=[1, 1, 1, 1]),
    case("Conv", SIGNAL, weights=(floats(3, 4, 3), floats(3)), pads=[2, 1]),
    case("Conv", VOLUME, weights=(floats(2, 3, 2, 2, 2), floats(2)), strides=[2, 2, 2]),
    case("ConvTranspose", weights=(floats(6, 2, 3, 3), floats(4)), group=2, pads=[1, 1, 1, 1], strides=[2, 2]),
    case("ConvTranspose", weights=(floats(6, 2, 3, 3),), strides=[2, 3], output_padding=[1, 2], pads=[1, 0, 1, 0]),
    case("ConvTranspose", weights=(floats(6, 2, 4, 3), floats(2)), strides=[2, 2], pads=[0, 1, 2, 0]),
    case("ConvTranspose", weights=(floats(6, 2, 2, 2), floats(2)), strides=[2, 2], output_padding=[1, 1], pads=[0] * 4),
    case("ConvTranspose", SIGNAL, weights=(floats(4, 3, 4), floats(3)), dilations=[2], pads=[1, 3]),
    case("ConvTranspose", VOLUME, weights=(floats(3, 2, 2, 2, 2), floats(2)), strides=[2, 2, 2]),
    case("Gemm", FLAT, weights=(floats(4, 5), floats(4)), transB=1),
    case("Gemm", FLAT, weights=(floats(4, 5),), transB=1),
    case("Gemm", FLAT, weights=(floats(4, 5), floats(3, 1)), transB=1),
    case("Gemm", FLAT, weights=(floats(5, 4), floats(4))),
    case("MatMul", IMAGE, weights=(floats(8, 5),)),
    case("MatMul", IMAGE, floats(2, 6, 8, 3)),
    case("BatchNormalization", weights=NORM, epsilon=1e-3, momentum=0.8),
    case("BatchNormalization", SIGNAL, weights=[value[:4] for value in NORM]),
    case("BatchNormalization", FLAT, weights=[value[:5] for value in NORM]),
    case("BatchNormalization", VOLUME, weights=[value[:3] for value in NORM]),
    case("LayerNormalization", weights=(floats(8), floats(8))),
    case("LayerNormalization", weights=(floats(9, 8),), axis=2, epsilon=1e-3),
    case("LayerNormalization", weights=(floats(8), floats(1)), axis=-2),
    case("InstanceNormalization", weights=(floats(6), floats(6)), epsilon=1e-3),
    case("InstanceNormalization", SIGNAL, weights=(floats(4), floats(4))),
    case("PRelu", weights=(floats(6, 1, 1),)),
    case("PRelu", weights=(floats(1),)),
    case("PRelu", weights=(floats(8),)),
    case("Gather", IMAGE, INTEGERS % 4 - 2, axis=1),
    case("LSTM", SEQUENCE, weights=LSTM, hidden_size=3, outputs=3),
    case("LSTM", SEQUENCE, weights=LSTM[:2], hidden_size=3, outputs=1, direction="reverse"),
    case("LSTM", SEQUENCE, weights=BOTH, hidden_size=3, outputs=3, direction="bidirectional"),
    case("LSTM", SEQUENCE, weights=(*LSTM, None, floats(1, 2, 3), floats(1, 2, 3)), hidden_size=3, outputs=3),
    case("GRU", SEQUENCE, weights=GRU, hidden_size=3, outputs=2, linear_before_reset=1, direction="bidirectional"),
    case("GRU", SEQUENCE, weights=[v[:1] for v in GRU], hidden_size=3, linear_before_reset=1, direction="reverse"),
    case("GRU", SEQUENCE, weights=(*(v[:1] for v in GRU), None, floats(1, 2, 3)), hidden_size=3, linear_before_reset=1),
]

WINDOWS = [
    {"kernel_shape": [2, 2], "strides": [2, 2]},
    {"kernel_shape": [3, 2], "strides": [1, 2], "pads": [1, 0, 1, 0]},
    {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1], "ceil_mode": 1},
    {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 1, 2, 0]},
    {"kernel_shape": [3, 3], "strides": [2, 3], "pads": [0, 1, 1, 0], "ceil_mode": 1},
    {"kernel_shape": [2, 3], "dilations": [2, 1], "pads": [0, 1, 1, 0]},
    {"kernel_shape": [2, 3], "dilations": [2, 3]},
]
POOLS = [
    *(case("MaxPool", **window) for window in WINDOWS),
    *(case("AveragePool", **window) for window in WINDOWS),
    *(case("AveragePool", count_include_pad=1, **window) for window in WINDOWS),
    *(case(name, SIGNAL, kernel_shape=[3], pads=[1, 1], strides=[2]) for name in ("MaxPool", "AveragePool")),
    *(case(name, VOLUME, kernel_shape=[2, 2, 2], pads=[1, 0, 0, 0, 1, 0]) for name in ("MaxPool", "AveragePool")),
    *(case(name, x) for name in ("GlobalAveragePool", "GlobalMaxPool") for x in (SIGNAL, IMAGE, VOLUME)),
]

UNARY = [name for name, row in OPERATORS.items() if row.kind in ("activation", "element-wise") and row.inputs == (1, 1)]
COMPARED = ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")
BINARY = ("Add", "Sub", "Mul", "Div", "Min", "Max", "Sum")
REDUCED = [name for name in OPERATORS if name.startswith("Reduce")]
ELEMENTS = [
    *(case(name, POSITIVE if name in ("Sqrt", "Log") else IMAGE) for name in UNARY if name != "Cast"),
    *(case("IsNaN", np.array([1, np.nan], np.float32)), case("Not", TRUTH)),
    *(case(name, IMAGE, floats(8)) for name in (*BINARY, *COMPARED)),
    *(case(name, IMAGE, weights=(number(0.5),)) for name in (*BINARY, *COMPARED)),
    *(case(name, INTEGERS, INTEGERS[::-1].copy()) for name in (*BINARY, *COMPARED) if name != "Sum"),
    *(case(name, FLAT, FLAT * 2, floats(5)) for name in ("Min", "Max", "Sum")),
    *(case(name, TRUTH, IMAGE > 1) for name in ("And", "Or", "Xor")),
    *(case("Pow", POSITIVE, weights=(number(power),)) for power in (2, 0.5, -1)),
    case("Pow", POSITIVE, floats(8)),
    case("Pow", IMAGE, whole(2)),
    case("Mod", INTEGERS, INTEGERS[::-1].copy()),
    case("Mod", INTEGERS, INTEGERS[::-1].copy(), fmod=1),
    case("Mod", IMAGE, weights=(number(0.7),), fmod=1),
    case("Where", TRUTH, IMAGE, floats(8)),
    case("Where", TRUTH, IMAGE, weights=(number(-2),)),
    *(case("Clip", weights=bounds) for bounds in ((), (number(-0.5),), (None, number(0.5)), (number(0), number(6)))),
    *(case("Cast", x, to=to) for x in (IMAGE, INTEGERS, TRUTH) for to in (TensorProto.FLOAT, TensorProto.INT64)),
    *(case("Cast", x, to=TensorProto.BOOL) for x in (IMAGE, INTEGERS)),
    case("CastLike", IMAGE, weights=(whole(1),)),
    *(case("LeakyRelu", alpha=0.3), case("Elu", alpha=0.7), case("Selu", alpha=1.1, gamma=0.9)),
    *(case("HardSigmoid", alpha=1 / 6, beta=0.5), case("Gelu", approximate="tanh")),
    *(case(name, axis=axis) for name in ("Softmax", "LogSoftmax") for axis in (1, -2)),
    *(case(name, POSITIVE, weights=(axes,)) for name in REDUCED for axes in (whole(1), whole(-1, 1))),
    *(case(name, POSITIVE, weights=(whole(2),), keepdims=0) for name in REDUCED),
    *(case(name, POSITIVE, keepdims=keep) for name in REDUCED if name != "ReduceProd" for keep in (0, 1)),
    *(case(name, POSITIVE, noop_with_empty_axes=1) for name in ("ReduceSum", "ReduceMean")),
    *(case(name, axis=2, keepdims=keep) for name in ("ArgMax", "ArgMin") for keep in (0, 1)),
    *(case(name, np.round(IMAGE), axis=1, select_last_index=1) for name in ("ArgMax", "ArgMin")),
    *(case("CumSum", weights=(np.array(2, np.int64),), exclusive=a, reverse=b) for a in (0, 1) for b in (0, 1)),
    *(case("TopK", weights=(whole(3),), axis=1, largest=largest, outputs=2) for largest in (0, 1)),
]

SHAPES = [
    *(case("Reshape", weights=(whole(*target),)) for target in ((0, -1), (2, 3, 2, -1), (0, 0, 72), (-1,))),
    case("Reshape", np.zeros((0, 3), np.float32), weights=(whole(3, 0),), allowzero=1),
    *(case("Flatten", axis=axis) for axis in (0, 1, 2, 4, -1)),
    case("Flatten", FLAT),
    *(case("Transpose"), case("Transpose", perm=[0, 2, 3, 1])),
    *(case("Squeeze", floats(1, 3, 1), weights=axes) for axes in ((), (whole(0),), (whole(-1, 0),))),
    *(case("Unsqueeze", FLAT, weights=(whole(*axes),)) for axes in ((0,), (-1, 1), (3, 0))),
    *(case("Concat", IMAGE, IMAGE, weights=(floats(2, 6, 9, 8),), axis=axis) for axis in (1, -1)),
    case("Split", weights=(whole(1, 2, 3),), axis=1, outputs=3),
    *(case("Split", axis=axis, num_outputs=3, outputs=3) for axis in (1, 2, -1)),
    case("Slice", weights=(whole(1), whole(3))),
    case("Slice", weights=(whole(1, -5), whole(1 << 40, -1), whole(1, -2), whole(2, 3))),
    case("Slice", weights=(whole(-1, 7), whole(-(1 << 40), 2), whole(1, 3), whole(-1, -2))),
    case("Slice", weights=(whole(3), whole(3), whole(1), whole(-1))),
    case("Slice", weights=(whole(-100), whole(100), whole(2))),
    *(case("Gather", weights=(index,), axis=axis) for axis in (0, -1) for index in (np.array(-1), whole(0, 1, -2))),
    case("Gather", weights=(np.array([[0, 1], [5, -6]]),), axis=1),
    case("GatherElements", FLAT, np.array([[0, -1], [2, 1], [4, -5]]), axis=1),
    *(case("Expand", floats(3, 1), weights=(whole(*shape),)) for shape in ((3, 4), (2, 3, 4), (1, 5), (2, 1, 1))),
    case("Tile", FLAT, weights=(whole(2, 3),)),
    *(case("Pad", weights=(whole(0, 0, 1, 2, 0, 0, 3, 0),), mode=mode) for mode in ("constant", "reflect", "edge")),
    *(case("Pad", weights=(whole(1, 2, 1, 2, 1, 3, 3, 0),), mode=mode) for mode in ("constant", "reflect", "edge")),
    *(case("Pad", SIGNAL, weights=(whole(0, 0, 1, 0, 0, 3),), mode=mode) for mode in ("constant", "reflect", "edge")),
    case("Pad", weights=(whole(0, 0, -1, 2, 0, 0, 3, -2), number(1.5))),
    case("Pad", weights=(whole(1, 2, 3, 0), None, whole(-1, 1))),
    *(case("Shape"), case("Shape", start=1), case("Shape", start=-3, end=-1), case("Size")),
    case("ConstantOfShape", whole(2, 3)),
    case("ConstantOfShape", whole(2, 3), value=numpy_helper.from_array(np.array([7], np.int64))),
    *(case("Range", *(np.array(n, np.int64) for n in bounds)) for bounds in ((0, 5, 1), (7, 1, -2))),
    case("Range", *(np.array(n, np.float32) for n in (0, 1, 0.25))),
    *(case("Trilu", upper=upper) for upper in (0, 1)),
    *(case("Trilu", weights=(np.array(k, np.int64),)) for k in (-1, 2)),
    *(case("DepthToSpace", floats(2, 12, 3, 4), blocksize=2, mode=mode) for mode in ("DCR", "CRD")),
    case("SpaceToDepth", floats(2, 3, 4, 6), blocksize=2),
    case("Dropout", weights=(number(0.5),)),
    case("Identity"),
]

COORDINATES = ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric")
ROUNDINGS = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
UP, DOWN = np.array([1, 1, 2, 1.5], np.float32), np.array([1, 1, 0.6, 0.5], np.float32)
RESIZES = [
    *(
        case("Resize", weights=(None, scales), mode=mode, coordinate_transformation_mode=coordinates)
        for scales in (UP, DOWN)
        for mode in ("nearest", "linear", "cubic")
        for coordinates in COORDINATES
    ),
    *(
        case("Resize", weights=(None, UP), nearest_mode=rounding, coordinate_transformation_mode=coordinates)
        for rounding in ROUNDINGS
        for coordinates in ("asymmetric", "half_pixel")
    ),
    *(
        case("Resize", weights=(None, None, whole(2, 6, *size)), mode=mode, coordinate_transformation_mode=coordinates)
        for size in ((13, 17), (4, 1))
        for mode in ("nearest", "linear", "cubic")
        for coordinates in COORDINATES
    ),
    *(case("Resize", SIGNAL, weights=(None, UP[1:]), mode=mode) for mode in ("nearest", "linear")),
    case("Resize", VOLUME, weights=(None, np.array([1, 1, 2, 1, 1.5], np.float32)), mode="linear"),
    case("Resize", weights=(None, np.array([1, 2, 1, 1], np.float32)), mode="linear"),
]

CASES = [*LAYERS, *POOLS, *ELEMENTS, *SHAPES, *RESIZES]
