"""Tensors of ONNX files: sparse ones, external ones, and wrong ones."""

from __future__ import annotations

import doctest
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto

from mopruning.errors import FormatError
from mopruning.ir import onnx_tensors
from mopruning.ir.onnx_files import read_onnx, write_onnx
from tests.ir.onnx_cases import save, sparse_model
from tests.ir.small_models import FLOAT, array, model, node


@pytest.mark.parametrize("module", [onnx_tensors])
def test_doctests(module):
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0


@given(st.integers(0, 2**32 - 1), st.floats(0, 1), st.sampled_from(["f4", "f2", "f8", "i1", "bfloat16"]))
def test_sparse_form_keeps_every_bit_and_is_never_larger(tmp_path_factory, seed, density, kind):
    dtype = np.dtype(ml_dtypes.bfloat16 if kind == "bfloat16" else kind)
    random_ = np.random.default_rng(seed)
    values = random_.integers(0, 256, (40, 50, dtype.itemsize), np.uint8).view(dtype)[..., 0]  # NaN of all kinds, too
    values[random_.random(values.shape) >= density] = 0
    values[0, 0] = dtype.type(-0.0) if dtype.kind != "i" else 1
    net = model({}, [node("Identity", "y", "w")], ["y"])
    net.graph.register_initializer(onnx_ir.Value(name="w", const_value=onnx_ir.Tensor(values, name="w")))
    net.graph.node(0).replace_input_with(0, net.graph.initializers["w"])
    folder = tmp_path_factory.getbasetemp()
    for sparse in (True, False):
        write_onnx(net, folder / f"{sparse}.onnx", sparse=sparse)
    read = onnx.load(folder / "True.onnx").graph
    assert (folder / "True.onnx").stat().st_size <= (folder / "False.onnx").stat().st_size
    assert len(read.sparse_initializer) + len(read.initializer) == 1
    assert bool(read.sparse_initializer) or density > 0.2
    assert array(read_onnx(folder / "True.onnx"), "w").tobytes() == values.tobytes()


@pytest.mark.parametrize("indices", [[1, 5], [[0, 1], [1, 2]]])
def test_both_forms_of_coordinates_are_read(indices, tmp_path):
    assert array(read_onnx(save(tmp_path / "net.onnx", sparse_model(indices, [2, 3]))), "w").tolist() == [
        [0, 1, 0],
        [0, 0, 2],
    ]


@pytest.mark.parametrize(
    ("indices", "shape", "values", "message"),
    [
        ([1, 6], [2, 3], 2, "'w': its indices leave the shape"),
        ([-1, 4], [2, 3], 2, "'w': its indices leave the shape"),
        ([[0, 1], [0, 3]], [2, 3], 2, "'w': its indices leave the shape"),
        ([5, 1], [2, 3], 2, "'w': its indices are not in ascending order"),
        ([1, 1], [2, 3], 2, "'w': its indices are not in ascending order"),
        ([[1], [2]], [2, 3], 2, r"'w': expected int64 indices \[values\] or \[values, 2\]"),
        ([1, 5], [2, 3], 3, "'w': 3 values at 2 positions"),
        ([1, 5], [1 << 30, 1 << 30], 2, "'w': the shape .* takes more than"),
        ([1, 5], [-2, 3], 2, "'w': a sparse tensor needs a shape of whole numbers"),
    ],
)
def test_wrong_coordinates_are_refused(indices, shape, values, message, tmp_path):
    with pytest.raises(FormatError, match=message):
        read_onnx(save(tmp_path / "net.onnx", sparse_model(indices, shape, values)))


def external(tmp_path: Path, **entries: str) -> Path:
    net = onnx_ir.to_proto(model({"x": ["N", 4]}, [node("Gemm", "y", "x w", transB=1)], ["y"]))
    tensor = TensorProto(name="w", data_type=FLOAT, dims=[3, 4], data_location=TensorProto.EXTERNAL)
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    net.graph.initializer.append(tensor)
    (tmp_path / "model").mkdir()
    return save(tmp_path / "model" / "net.onnx", net)


@pytest.mark.parametrize(
    "location",
    ["../w.bin", "/etc/passwd", "a/../../w.bin", "..\\w.bin", "C:\\w.bin", "", "link/w.bin", "link.bin", "w\0.bin"],
)
def test_external_data_outside_the_folder_is_refused(location, tmp_path):
    path = external(tmp_path, location=location)
    (tmp_path / "w.bin").write_bytes(bytes(48))
    (tmp_path / "model" / "link").symlink_to(tmp_path)
    (tmp_path / "model" / "link.bin").symlink_to(tmp_path / "w.bin")
    with pytest.raises(FormatError, match=r"'w': refused: its external file .* is not in the model's folder"):
        read_onnx(path)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"location": "no.bin"}, "'w': its external file 'no.bin' is not there"),
        ({"location": "w.bin", "offset": "8"}, "'w': truncated: it should end at byte 56 of 'w.bin', which has 48"),
        ({"location": "w.bin", "offset": "-8"}, "'w': truncated"),
        ({"location": "w.bin", "length": "40"}, "'w': 40 bytes do not hold the shape"),
        ({"location": "w.bin", "length": "many"}, "'w': offset and length"),
    ],
)
def test_damaged_external_data_is_refused(entries, message, tmp_path):
    path = external(tmp_path, **entries)
    (path.parent / "w.bin").write_bytes(bytes(48))
    with pytest.raises(FormatError, match=message):
        read_onnx(path)
