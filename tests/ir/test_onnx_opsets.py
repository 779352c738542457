"""Every operator of the profile in every version that ONNX gave it: read into opset 20, it computes what it did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from mopruning.ir.onnx_files import read_onnx
from mopruning.ir.onnx_opsets import NEWEST, OLDEST
from mopruning.ir.operators import OPERATORS
from tests.ir.small_models import number, run, whole

RANDOM = np.random.default_rng(0)


def floats(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


X = floats(2, 6, 8, 8)
POSITIVE = np.abs(X) + np.float32(0.1)
TRUTH = X > 0
SEQUENCE = floats(5, 2, 4)
NOTHING = np.zeros(0, np.float32)


@dataclass(frozen=True)
class Case:
    """One node: an operator in the opsets between two, the first input from outside, the others constants."""

    operator: str
    oldest: int = OLDEST
    newest: int = NEWEST
    inputs: Sequence[np.ndarray | None] = (X,)
    attributes: Mapping[str, Any] = field(default_factory=dict)
    outputs: int = 1

    def __str__(self) -> str:
        shown = {name: value for name, value in self.attributes.items() if not isinstance(value, onnx.TensorProto)}
        return f"{self.operator}-{self.oldest}-{shown}"

    def opsets(self) -> list[int]:
        """The first opset of each version of the operator in the range, and the range's ends."""
        starts = {schema.since_version for schema in VERSIONS[self.operator]}
        return [opset for opset in range(self.oldest, self.newest + 1) if opset in starts or opset == self.oldest]

    def model(self, opset: int, free_axes: bool) -> onnx.ModelProto:
        names = ["" if array is None else f"i{index}" for index, array in enumerate(self.inputs)]
        first = self.inputs[0]
        assert first is not None
        shape = ["N", *first.shape[1:]] if free_axes and first.ndim else first.shape
        outputs = [f"o{index}" for index in range(self.outputs)]
        made = helper.make_node(self.operator, names, outputs, **self.attributes)
        constants = [
            numpy_helper.from_array(array, f"i{index}")
            for index, array in enumerate(self.inputs)
            if index and array is not None
        ]
        graph = helper.make_graph(
            [made],
            "net",
            [helper.make_tensor_value_info("i0", helper.np_dtype_to_tensor_dtype(first.dtype), shape)],
            [onnx.ValueInfoProto(name=name) for name in outputs],
            constants,
        )
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
        return onnx.shape_inference.infer_shapes(proto)


VERSIONS: dict[str, list[onnx.defs.OpSchema]] = {name: [] for name in (*OPERATORS, "Upsample")}
for one in onnx.defs.get_all_schemas_with_history():
    if not one.domain and one.name in VERSIONS:
        VERSIONS[one.name].append(one)

WINDOW = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}
CEIL = {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}
PADDED = whole(0, 0, 1, 1, 0, 0, 2, 0)
PADS = PADDED.tolist()
SIZES = whole(2, 6, 12, 13)
SCALES = np.array([1, 1, 1.5, 1.5], np.float32)
LSTM = [SEQUENCE, floats(1, 12, 4), floats(1, 12, 3), floats(1, 24)]
GRU = [SEQUENCE, floats(1, 9, 4), floats(1, 9, 3), floats(1, 18)]
HALF = numpy_helper.from_array(np.array([2.5], np.float32))

UNARY = [
    *("Relu", "Elu", "Selu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Gelu", "Mish", "Softplus", "Abs", "Neg"),
    *("Sign", "Reciprocal", "Exp", "Erf", "Sin", "Cos", "Floor", "Ceil", "Round", "Identity", "IsNaN", "Flatten"),
    *("GlobalAveragePool", "GlobalMaxPool", "Shape", "Size", "LeakyRelu"),
]
BINARY = ["Add", "Sub", "Mul", "Div", "Min", "Max", "Sum", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"]
REDUCTIONS = [name for name in OPERATORS if name.startswith("Reduce")]

CASES = [
    *(Case(name, max(OLDEST, min(s.since_version for s in VERSIONS[name]))) for name in UNARY),
    *(
        Case(name, max(8, min(s.since_version for s in VERSIONS[name])), inputs=(X, floats(8)))
        for name in BINARY
        if name != "Equal"
    ),
    Case("Equal", 11, inputs=(X, X.copy())),
    Case("Equal", 7, 10, inputs=(whole(1, 2), whole(1, 3))),
    *(Case(name, inputs=(TRUTH, X > 1)) for name in ("And", "Or", "Xor")),
    *(Case(name, inputs=(POSITIVE,)) for name in ("Sqrt", "Log")),
    Case("Pow", inputs=(POSITIVE, number(2))),
    Case("Mod", 10, inputs=(whole(5, 7), whole(3, 2))),
    Case("Mod", 10, inputs=(X, number(0.7)), attributes={"fmod": 1}),
    Case("Not", inputs=(TRUTH,)),
    Case("Where", 9, inputs=(TRUTH, X, floats(8))),
    Case("Cast", 9, attributes={"to": onnx.TensorProto.INT64}),
    Case("CastLike", 15, inputs=(X, whole(1))),
    *(Case(name, 7, 17, (POSITIVE,), {"axes": [1, 2], "keepdims": 0}) for name in REDUCTIONS if name != "ReduceSum"),
    *(Case(name, 11, 17, (POSITIVE,), {"axes": [-1]}) for name in REDUCTIONS if name != "ReduceSum"),
    *(Case(name, 7, inputs=(POSITIVE,)) for name in REDUCTIONS),
    *(Case(name, 18, inputs=(POSITIVE, whole(1))) for name in REDUCTIONS),
    Case("ReduceSum", 7, 12, attributes={"axes": [1], "keepdims": 0}),
    Case("ReduceSum", 13, inputs=(X, whole(1)), attributes={"keepdims": 0}),
    *(Case(name, attributes={"axis": 1, "keepdims": 0}) for name in ("ArgMax", "ArgMin")),
    Case("CumSum", 11, inputs=(X, whole(1)), attributes={"reverse": 1}),
    Case("TopK", 7, 9, attributes={"k": 2, "axis": 1}, outputs=2),
    Case("TopK", 10, inputs=(X, whole(2)), attributes={"axis": 1}, outputs=2),
    *(Case(name, 7, 12, attributes={"axis": 1}) for name in ("Softmax", "LogSoftmax")),
    *(Case(name, 7, 12) for name in ("Softmax", "LogSoftmax")),
    *(Case(name, 7, attributes={"axis": 3}) for name in ("Softmax", "LogSoftmax")),
    *(Case(name, 13) for name in ("Softmax", "LogSoftmax")),
    *(Case(name, 11, attributes={"axis": -1}) for name in ("Softmax", "LogSoftmax")),
    Case(
        "BatchNormalization",
        9,
        inputs=(X, floats(6), floats(6), floats(6), POSITIVE[0, :, 0, 0]),
        attributes={"epsilon": 1e-3},
    ),
    Case("BatchNormalization", 7, 8, inputs=(X, floats(6), floats(6), floats(6), POSITIVE[0, :, 0, 0])),
    Case("LayerNormalization", 17, inputs=(X, floats(8), floats(8)), attributes={"axis": -1}),
    Case("InstanceNormalization", inputs=(X, floats(6), floats(6))),
    Case("PRelu", inputs=(X, floats(6, 1, 1))),
    Case("Dropout", 7, 11, attributes={"ratio": 0.3}),
    Case("Dropout", 12, inputs=(X, number(0.3))),
    Case("Dropout", 12, inputs=(X, number(0.3), np.array(False))),
    Case(
        "Conv",
        inputs=(X, floats(6, 2, 3, 3), floats(6)),
        attributes={"group": 3, "pads": [1, 0, 1, 2], "dilations": [2, 1]},
    ),
    Case("Conv", inputs=(SEQUENCE, floats(3, 2, 2))),
    Case(
        "ConvTranspose",
        inputs=(X, floats(6, 2, 3, 3), floats(4)),
        attributes={"group": 2, "strides": [2, 2], "output_padding": [1, 0]},
    ),
    Case("MaxPool", attributes=WINDOW),
    Case("MaxPool", 10, attributes=CEIL),
    Case("AveragePool", attributes={**WINDOW, "count_include_pad": 1}),
    Case("AveragePool", attributes=WINDOW),
    Case("AveragePool", 10, attributes=CEIL),
    Case("Gemm", inputs=(floats(2, 3), floats(3, 4), floats(4))),
    Case("Gemm", 11, inputs=(floats(2, 3), floats(3, 4))),
    Case("MatMul", inputs=(floats(2, 3, 4), floats(4, 5))),
    Case("Clip", 7, 10, attributes={"min": -0.5, "max": 0.5}),
    Case("Clip", 7, 10, attributes={"max": 0.5}),
    Case("Clip", 11, inputs=(X, number(-0.5))),
    Case("Clip", 11, inputs=(X, None, number(0.5))),
    Case("Pad", 7, 10, attributes={"pads": PADS, "value": 0.5}),
    Case("Pad", 7, 10, attributes={"pads": PADS, "mode": "reflect"}),
    Case("Pad", 11, inputs=(X, PADDED), attributes={"mode": "edge"}),
    Case("Pad", 11, inputs=(X, PADDED, number(0.5))),
    Case("Upsample", 7, 8, attributes={"scales": [1.0, 1.0, 2.0, 2.0], "mode": "nearest"}),
    Case("Upsample", 9, 9, inputs=(X, SCALES), attributes={"mode": "nearest"}),
    Case("Upsample", 9, 9, inputs=(X, SCALES), attributes={"mode": "linear"}),
    Case("Resize", 10, 10, inputs=(X, SCALES), attributes={"mode": "linear"}),
    Case("Resize", 10, 10, inputs=(X, np.array([1, 1, 1.4, 1.7], np.float32)), attributes={"mode": "nearest"}),
    *(
        Case(
            "Resize",
            11,
            inputs=(X, NOTHING, SCALES),
            attributes={"mode": "linear", "coordinate_transformation_mode": mode},
        )
        for mode in ("align_corners", "half_pixel", "pytorch_half_pixel", "asymmetric")
    ),
    Case("Resize", 11, inputs=(X, NOTHING, NOTHING, SIZES), attributes={"mode": "nearest", "nearest_mode": "floor"}),
    Case("Resize", 13, inputs=(X, None, None, SIZES), attributes={"mode": "cubic"}),
    Case("Slice", 7, 9, attributes={"starts": [1, 2], "ends": [3, 100], "axes": [1, 2]}),
    Case("Slice", 10, inputs=(X, whole(1), whole(5), whole(1), whole(2))),
    Case("Split", 7, 12, attributes={"axis": 1, "split": [2, 4]}, outputs=2),
    Case("Split", 7, 17, attributes={"axis": 1}, outputs=3),
    Case("Split", 13, inputs=(X, whole(1, 5)), attributes={"axis": 1}, outputs=2),
    Case("Split", 18, attributes={"axis": 1, "num_outputs": 3}, outputs=3),
    Case("Squeeze", 7, 12, (floats(2, 1, 3, 1),), {"axes": [1]}),
    Case("Squeeze", 13, inputs=(floats(2, 1, 3, 1), whole(1, 3))),
    Case("Unsqueeze", 7, 12, (floats(2, 3),), {"axes": [0, 3]}),
    Case("Unsqueeze", 13, inputs=(floats(2, 3), whole(-1))),
    Case("Reshape", inputs=(X, whole(0, -1))),
    Case("Transpose", attributes={"perm": [0, 2, 3, 1]}),
    Case("Concat", inputs=(X, X.copy()), attributes={"axis": 1}),
    Case("Gather", inputs=(X, whole(1, 0)), attributes={"axis": 1}),
    Case("GatherElements", 11, inputs=(floats(3, 3), np.array([[0, 1, 2]]))),
    Case("Expand", 8, inputs=(floats(3, 1), whole(2, 3, 6))),
    Case("Tile", inputs=(X, whole(1, 2, 1, 1))),
    Case("ConstantOfShape", 9, inputs=(whole(2, 3),), attributes={"value": HALF}),
    Case("Range", 11, inputs=(number(0), number(5), number(1))),
    Case("Trilu", 14, attributes={"upper": 0}),
    Case("DepthToSpace", 11, inputs=(floats(1, 8, 2, 2),), attributes={"blocksize": 2, "mode": "CRD"}),
    Case("DepthToSpace", inputs=(floats(1, 8, 2, 2),), attributes={"blocksize": 2}),
    Case("SpaceToDepth", attributes={"blocksize": 2}),
    Case("LSTM", inputs=LSTM, attributes={"hidden_size": 3}, outputs=3),
    Case("GRU", inputs=GRU, attributes={"hidden_size": 3, "linear_before_reset": 1}, outputs=2),
]


def test_every_version_of_every_operator_is_tried():
    tried: dict[str, set[int]] = {name: set() for name in VERSIONS}
    for case in CASES:
        starts = sorted(schema.since_version for schema in VERSIONS[case.operator])
        tried[case.operator] |= {max(start for start in starts if start <= opset) for opset in case.opsets()}
    missing = [
        f"{name}-{schema.since_version}"
        for name, schemas in VERSIONS.items()
        for schema in schemas
        if OLDEST <= schema.since_version <= NEWEST
        and not schema.deprecated
        and schema.since_version not in tried[name]
    ]
    assert missing == []


@pytest.mark.parametrize("free_axes", [False, True], ids=["fixed", "free"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_it_computes_what_it_did(case: Case, free_axes: bool, tmp_path: Path):
    for opset in case.opsets():
        proto = case.model(opset, free_axes)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(proto.SerializeToString(), options)
        expected = session.run(None, {"i0": case.inputs[0]})
        (tmp_path / "net.onnx").write_bytes(proto.SerializeToString())
        net = read_onnx(tmp_path / "net.onnx")
        for got, wanted in zip(run(net, {"i0": case.inputs[0]}), expected, strict=True):
            np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6, err_msg=f"opset {opset}")
            assert got.dtype == wanted.dtype
