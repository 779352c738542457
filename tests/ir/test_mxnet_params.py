"""MXNet's .params format, without MXNet: all its versions, every type, and files that are damaged."""

from __future__ import annotations

import doctest
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mopruning.errors import FormatError
from mopruning.ir import mxnet_params
from mopruning.ir.mxnet_params import arrays_of, open_weights, read, read_lazily, write, write_weights

ARRAYS = {
    "arg:conv.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "aux:mean": np.arange(5, dtype=np.int64),
    "double": np.linspace(0, 1, 3),
    "half": np.float16([1.5, -0.0, np.nan]),
    "flags": np.array([True, False, True]),
    **{f"whole {name}": np.arange(3, dtype=name) for name in ("int8", "uint8", "int16", "uint16", "int32", "uint32")},
}


def same(actual, expected):
    assert list(actual) == list(expected)
    for name, array in expected.items():
        assert (actual[name].dtype, actual[name].shape) == (array.dtype, array.shape)
        assert actual[name].tobytes() == array.tobytes()


def test_docstrings():
    assert doctest.testmod(mxnet_params).failed == 0


def test_arrays_come_back_bit_for_bit(tmp_path):
    write(tmp_path / "net.params", ARRAYS)
    same(read(tmp_path / "net.params"), ARRAYS)
    found = arrays_of(tmp_path / "net.params")
    assert found["arg:conv.weight"].shape == (2, 3, 4)
    assert not found["arg:conv.weight"].read().flags.writeable


def test_single_numbers_and_empty_arrays_have_a_form_of_their_own(tmp_path):
    arrays = {"scalar": np.float32(3).reshape(()), "empty": np.zeros((0, 4), np.float32), "row": np.ones(2, np.float32)}
    write(tmp_path / "net.params", arrays)
    same(read(tmp_path / "net.params"), arrays)


def test_bfloat16(tmp_path):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    arrays = {"weight": np.array([1, 2.5], ml_dtypes.bfloat16)}
    write(tmp_path / "net.params", arrays)
    same(read(tmp_path / "net.params"), arrays)


def file_of(shape: bytes, body: bytes, names: bytes = struct.pack("<QQ", 1, 1) + b"w") -> bytes:
    return struct.pack("<QQQ", 0x112, 0, 1) + shape + body + names


BODY = struct.pack("<iii", 1, 0, 0) + np.arange(6, dtype=np.float32).tobytes()
VERSIONS = {
    "before 0.11": struct.pack("<3I", 2, 2, 3),
    "0.11": struct.pack("<II2q", 0xF993FAC8, 2, 2, 3),
    "1.0": struct.pack("<Iii2q", 0xF993FAC9, 0, 2, 2, 3),
    "1.6": struct.pack("<Iii2q", 0xF993FACA, 0, 2, 2, 3),
}


@pytest.mark.parametrize("version", VERSIONS)
def test_files_of_all_versions(version, tmp_path):
    path = tmp_path / "net.params"
    path.write_bytes(file_of(VERSIONS[version], BODY))
    same(read(path), {"w": np.arange(6, dtype=np.float32).reshape(2, 3)})
    path.write_bytes(file_of(VERSIONS[version], BODY, struct.pack("<Q", 0)))
    assert list(read(path)) == ["0"]


V2 = struct.pack("<I", 0xF993FAC9)
DAMAGED = {
    "empty": (b"", "truncated: the header"),
    "other": (b"PK" + bytes(30), "no .params file"),
    "too many arrays": (struct.pack("<QQQ", 0x112, 0, 1 << 60), "do not fit"),
    "sparse": (file_of(V2 + struct.pack("<i", 1), b""), "row_sparse"),
    "many axes": (file_of(V2 + struct.pack("<ii", 0, 1 << 30), b""), "axes"),
    "old form of many axes": (file_of(struct.pack("<I", 1 << 30), b""), "axes"),
    "negative": (file_of(V2 + struct.pack("<iiq", 0, 1, -4), BODY), "shape"),
    "huge": (file_of(V2 + struct.pack("<ii2q", 0, 2, 1 << 40, 1 << 40), BODY), "does not fit"),
    "type": (file_of(V2 + struct.pack("<iiqiii", 0, 1, 1, 1, 0, 99), b""), "type 99"),
    "more names": (file_of(VERSIONS["1.0"], BODY, struct.pack("<Q", 2)), "2 names"),
    "long name": (file_of(VERSIONS["1.0"], BODY, struct.pack("<QQ", 1, 1 << 50)), "name 0 does not fit"),
    "name": (file_of(VERSIONS["1.0"], BODY, struct.pack("<QQ", 1, 1) + b"\xff"), "no text"),
    "rest": (file_of(VERSIONS["1.0"], BODY) + b"!", "1 bytes follow"),
    "names alike": (
        struct.pack("<QQQ", 0x112, 0, 2)
        + 2 * (VERSIONS["1.0"] + BODY)
        + struct.pack("<Q", 2)
        + 2 * (struct.pack("<Q", 1) + b"w"),
        "two arrays are called 'w'",
    ),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_damage_is_an_error_that_names_the_file(what, tmp_path):
    content, words = DAMAGED[what]
    path = tmp_path / "net.params"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=r"net\.params") as raised:
        read(path)
    assert words in str(raised.value)


@given(st.data())
def test_no_damage_raises_anything_else(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "damaged.params"
    write(path, {"arg:a": np.arange(4, dtype=np.float32), "b": np.ones((2, 2), np.int64)})
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(place, len(content)))])
    try:
        found = read(path)
    except FormatError:
        return
    assert sum(array.nbytes for array in found.values()) <= len(content)


def test_files_of_weights_keep_their_prefixes(tmp_path):
    write_weights(tmp_path / "net.params", ARRAYS)
    file = open_weights(tmp_path / "net.params")
    assert list(file.weights())[:3] == ["conv.weight", "mean", "double"]
    file.replace({"conv.weight": np.zeros((2, 3, 4), np.float32)})
    with pytest.raises(ValueError, match=r"conv\.weight: expected float32 \(2, 3, 4\)"):
        file.replace({"conv.weight": np.zeros((3, 4), np.float32)})
    file.save(tmp_path / "new.params")
    same(read(tmp_path / "new.params"), {**ARRAYS, "arg:conv.weight": np.zeros((2, 3, 4), np.float32)})
    same(read(tmp_path / "net.params"), ARRAYS)
    write(tmp_path / "two.params", {"arg:a": np.ones(1), "aux:a": np.ones(1)})
    with pytest.raises(FormatError, match="two arrays are called 'a'"):
        open_weights(tmp_path / "two.params")


def test_types_without_a_place_are_refused(tmp_path):
    with pytest.raises(FormatError, match="no dtype complex64"):
        write_weights(tmp_path / "net.params", {"a": np.ones(2, np.complex64)})
    assert not list(tmp_path.iterdir())


def test_mxnet_writes_and_reads_the_same_bytes(tmp_path):
    framework = pytest.importorskip("mopruning.backends.mxnet.framework", exc_type=ImportError)
    mx = framework.mx
    known = {name: array for name, array in ARRAYS.items() if array.dtype.name not in ("int16", "uint16", "uint32")}
    write(tmp_path / "net.params", known)
    loaded = mx.nd.load(str(tmp_path / "net.params"))
    same({name: array.asnumpy() for name, array in loaded.items()}, known)
    mx.nd.save(str(tmp_path / "own.params"), loaded)
    assert (tmp_path / "own.params").read_bytes() == (tmp_path / "net.params").read_bytes()


def test_weights_stream_without_their_prefixes(tmp_path):
    arrays = {"arg:fc.weight": np.eye(3, dtype=np.float32), "aux:bn.mean": np.arange(3, dtype=np.float64)}
    write(tmp_path / "net.params", arrays)
    tensors, metadata = read_lazily(tmp_path / "net.params")
    assert (list(tensors), metadata) == (["fc.weight", "bn.mean"], {})
    mxnet_params.write_lazily(tmp_path / "other.params", tensors)
    assert list(read(tmp_path / "other.params")) == ["fc.weight", "bn.mean"]
    mxnet_params.copy(tmp_path / "net.params", tmp_path / "copy.params")
    assert (tmp_path / "copy.params").read_bytes() == (tmp_path / "net.params").read_bytes()
    with pytest.raises(FormatError, match=r"other\.params: \.params has no place for recipe"):
        mxnet_params.write_lazily(tmp_path / "other.params", tensors, {"recipe": "{}"})
