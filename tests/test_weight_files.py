"""Weight files: what is read is what was written, damaged and unsafe files are refused, writing is all or nothing."""

import contextlib
import doctest
import io
import json
import pickle
import sys
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mopruning import files
from mopruning.errors import FormatError
from mopruning.files import open_weights, parameters, save_weights
from mopruning.ir import weight_files
from mopruning.ir.weight_files import read_weights, write_weights

SUFFIXES = (".safetensors", ".npz")
DTYPES = ["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?", "c8"]


def network():
    rng = np.random.default_rng(0)
    return {
        "conv.weight": rng.standard_normal((4, 3, 3, 3), dtype=np.float32),
        "file": np.arange(3),  # a name that numpy.savez cannot write
        "a/b.bias": np.zeros(0, np.float16),
        "steps": np.array(7),
    }


def assert_same(got, expected):
    assert set(got) == set(expected)
    for name, array in expected.items():
        assert got[name].dtype == array.dtype, name
        np.testing.assert_array_equal(got[name], array, strict=True)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_is_read_is_what_was_written(suffix, tmp_path):
    path = tmp_path / f"net{suffix}"
    write_weights(path, network())
    assert_same(read_weights(path), network())
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@settings(deadline=None, max_examples=30)
@given(st.sampled_from(SUFFIXES), st.sampled_from(DTYPES), st.lists(st.integers(0, 3), max_size=4), st.integers(0, 2))
def test_every_dtype_and_shape_survives(tmp_path_factory, suffix, dtype, shape, layout):
    array = np.arange(np.prod(shape, dtype=int)).astype(dtype).reshape(shape)
    array = [array, array.T, array[::-1] if shape else array][layout]  # as it is, Fortran order, negative stride
    path = tmp_path_factory.getbasetemp() / f"one{suffix}"
    write_weights(path, {"w": array})
    assert_same(read_weights(path), {"w": array})


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn])
def test_bfloat16_survives_in_safetensors_only(dtype, tmp_path):
    array = np.array([1.5, -0.0, 3e-2]).astype(dtype)
    write_weights(tmp_path / "net.safetensors", {"w": array})
    got = read_weights(tmp_path / "net.safetensors")["w"]
    assert got.dtype == array.dtype
    assert got.tobytes() == array.tobytes()
    with pytest.raises(FormatError, match=r"tensor 'w': \.npz has no dtype .*float.*; write \.safetensors"):
        write_weights(tmp_path / "net.npz", {"w": array})
    assert not (tmp_path / "net.npz").exists()


def test_bfloat16_without_ml_dtypes_says_what_to_install(tmp_path, monkeypatch):
    write_weights(tmp_path / "net.safetensors", {"w": np.ones(2, ml_dtypes.bfloat16)})
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(FormatError, match="tensor 'w': dtype BF16 needs ml_dtypes: pip install ml_dtypes"):
        read_weights(tmp_path / "net.safetensors")


def test_big_endian_numbers_keep_their_values(tmp_path):
    array = np.array([1.0, 2.0], ">f4")
    for suffix in SUFFIXES:
        write_weights(tmp_path / f"net{suffix}", {"w": array})
        np.testing.assert_array_equal(read_weights(tmp_path / f"net{suffix}")["w"], array)


def test_other_programs_read_the_files(tmp_path):
    from safetensors.numpy import load_file

    for suffix, load in ((".safetensors", load_file), (".npz", np.load)):
        write_weights(tmp_path / f"net{suffix}", network())
        got = load(tmp_path / f"net{suffix}")
        assert_same({name: got[name] for name in network()}, network())


def test_files_of_other_programs_are_read(tmp_path):
    from safetensors.numpy import save_file

    save_file(network(), tmp_path / "net.safetensors")
    np.savez_compressed(tmp_path / "net.npz", **{name: array for name, array in network().items() if name != "file"})
    assert_same(read_weights(tmp_path / "net.safetensors"), network())
    assert_same(read_weights(tmp_path / "net.npz"), {n: a for n, a in network().items() if n != "file"})


def test_metadata_and_compression_survive_a_rewrite(tmp_path):
    from safetensors import safe_open
    from safetensors.numpy import save_file

    metadata = {"format": "pt", "licence": "free", "ümlaut": '"quoted"\n'}
    save_file(network(), tmp_path / "in.safetensors", metadata)
    save_weights(open_weights(tmp_path / "in.safetensors"), tmp_path / "out.safetensors")
    with safe_open(tmp_path / "out.safetensors", "np") as file:
        assert file.metadata() == metadata
    zeros = {"w": np.zeros(10_000)}
    np.savez_compressed(tmp_path / "in.npz", **zeros)
    save_weights(open_weights(tmp_path / "in.npz"), tmp_path / "out.npz")
    assert (tmp_path / "out.npz").stat().st_size < 1000


def test_same_content_gives_the_same_bytes(tmp_path):
    for suffix in SUFFIXES:
        first, second = tmp_path / f"1{suffix}", tmp_path / f"2{suffix}"
        write_weights(first, network())
        write_weights(second, network())
        assert first.read_bytes() == second.read_bytes()


def test_formats_turn_into_each_other(tmp_path):
    write_weights(tmp_path / "1.npz", network())
    save_weights(open_weights(tmp_path / "1.npz"), tmp_path / "2.safetensors")
    save_weights(open_weights(tmp_path / "2.safetensors"), tmp_path / "3.npz")
    assert_same(read_weights(tmp_path / "3.npz"), network())


def test_metadata_is_not_lost_silently(tmp_path):
    from safetensors.numpy import save_file

    save_file(network(), tmp_path / "in.safetensors", {"licence": "free"})
    with pytest.raises(FormatError, match=r"only \.safetensors can hold its metadata \(licence\)"):
        save_weights(open_weights(tmp_path / "in.safetensors"), tmp_path / "out.npz")
    save_file(network(), tmp_path / "in.safetensors", {"format": "np"})
    save_weights(open_weights(tmp_path / "in.safetensors"), tmp_path / "out.npz")


def test_dtypes_without_a_place_are_refused(tmp_path):
    for suffix, array in ((".safetensors", np.array(["text"])), (".npz", np.array([None]))):
        with pytest.raises(FormatError, match=rf"tensor 'w': {suffix} has no dtype"):
            write_weights(tmp_path / f"net{suffix}", {"w": array})
    assert list(tmp_path.iterdir()) == []


def test_replacing_takes_the_same_shape_and_dtype_only(tmp_path):
    write_weights(tmp_path / "net.npz", network())
    file = open_weights(tmp_path / "net.npz")
    with pytest.raises(ValueError, match=r"conv\.weight: expected float32 \(4, 3, 3, 3\), got float64"):
        file.replace({"conv.weight": np.zeros((4, 3, 3, 3))})
    file.replace({"conv.weight": np.zeros((4, 3, 3, 3), np.float32)})
    assert not file.weights()["conv.weight"].any()
    assert_same(read_weights(tmp_path / "net.npz"), network())


# Damaged and hostile files


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_no_truncation_goes_unnoticed(suffix, tmp_path):
    path = tmp_path / f"net{suffix}"
    write_weights(path, network())
    content = path.read_bytes()
    for length in [0, 1, 7, 8, 9, *range(16, len(content), 37), len(content) - 1]:
        path.write_bytes(content[:length])
        with pytest.raises(FormatError, match=str(path)):
            read_weights(path)


def test_truncation_names_the_tensor(tmp_path):
    path = tmp_path / "net.safetensors"
    write_weights(path, {"fc.weight": np.ones((4, 4))})
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(
        FormatError, match=r"truncated: tensor 'fc\.weight' should end at byte 128 of the data, which has 127"
    ):
        read_weights(path)


def test_flipped_bit_in_an_npz_is_noticed(tmp_path):
    path = tmp_path / "net.npz"
    write_weights(path, {"fc.weight": np.ones((4, 4))})
    content = bytearray(path.read_bytes())
    content[content.index(np.float64(1).tobytes()) + 6] ^= 1
    path.write_bytes(content)
    with pytest.raises(FormatError, match=r"tensor 'fc\.weight' is damaged: Bad CRC-32"):
        read_weights(path)


@settings(deadline=None, max_examples=100)
@given(st.sampled_from(SUFFIXES), st.integers(0, 10_000), st.integers(1, 255))
def test_damage_gives_an_array_or_a_format_error(tmp_path_factory, suffix, place, change):
    path = tmp_path_factory.getbasetemp() / f"damaged{suffix}"
    write_weights(path, network())
    content = bytearray(path.read_bytes())
    content[place % len(content)] ^= change
    path.write_bytes(content)
    with contextlib.suppress(FormatError):
        assert all(isinstance(array, np.ndarray) for array in read_weights(path).values())


def safetensors(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(dtype="F32", shape=(1,), offsets=(0, 4)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"hello, this is text", "do not give the length of a header"),
        (safetensors(b"{"), "no JSON"),
        (safetensors(b"\xff\xfe"), "no JSON"),
        (safetensors(b"[" * 100_000), "no JSON"),
        (safetensors([1]), "JSON list, expected an object"),
        (safetensors(b'{"a": 1, "a": 2}'), "a name is given twice"),
        (safetensors({"w": 3}), "tensor 'w': expected a dtype"),
        (safetensors({"w": {"dtype": "F32"}}), "tensor 'w': expected a dtype"),
        (safetensors({"w": entry(dtype="F31")}, bytes(4)), "tensor 'w': unknown dtype 'F31'"),
        (safetensors({"w": entry(dtype=["F32"])}, bytes(4)), "tensor 'w': unknown dtype"),
        (safetensors({"w": entry(shape=(-1, -1))}, bytes(4)), "must be whole numbers"),
        (safetensors({"w": entry(shape=(True,))}, bytes(4)), "must be whole numbers"),
        (safetensors({"w": entry(shape=(1.0,))}, bytes(4)), "must be whole numbers"),
        (safetensors({"w": entry(shape=(2**20, 2**20))}, bytes(4)), "4 bytes do not hold the shape"),
        (safetensors({"w": entry(shape=(2**62, 2**62))}, bytes(4)), "larger than any array"),
        (safetensors({"w": entry(shape=(0, 2**70), offsets=(0, 0))}), "larger than any array"),
        (safetensors({"w": entry(shape=(1,) * 33)}, bytes(4)), "at most 32, got 33 axes"),
        (safetensors({"w": entry(shape=(10**18,) * 100_000)}, bytes(4)), "at most 32, got 100000 axes"),
        (safetensors({"w": entry(offsets=(0.0, 4))}, bytes(4)), "offsets must be whole numbers"),
        (safetensors({"w": entry(offsets=(4, 0))}, bytes(4)), "truncated: tensor 'w'"),
        (safetensors({"w": entry(), "v": entry()}, bytes(4)), "starts at byte 0, but the tensors before it end at 4"),
        (safetensors({"w": entry(offsets=(4, 8))}, bytes(8)), "starts at byte 4"),
        (safetensors({"w": entry()}, bytes(5)), "holds 5 bytes of tensors, but its header accounts for 4"),
        (safetensors({"__metadata__": {"a": 1}}), "metadata must map text to text"),
        (safetensors({"__metadata__": "a"}), "metadata must map text to text"),
    ],
)
def test_hostile_safetensors_are_refused(content, reason, tmp_path):
    path = tmp_path / "net.safetensors"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=reason):
        read_weights(path)


class Payload:
    """Creates a file when unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def test_pickled_array_is_refused_and_not_run(tmp_path):
    marker = tmp_path / "marker"
    np.savez(tmp_path / "net.npz", good=np.ones(2), bad=np.array([Payload(marker)], object))
    with pytest.raises(FormatError, match=r"net\.npz: refused: tensor 'bad' is a pickle"):
        read_weights(tmp_path / "net.npz")
    assert not marker.exists()


def test_pickle_under_a_weight_files_name_is_refused_and_not_run(tmp_path):
    marker = tmp_path / "marker"
    for suffix in SUFFIXES:
        (tmp_path / f"net{suffix}").write_bytes(pickle.dumps(Payload(marker)))
        with pytest.raises(FormatError):
            read_weights(tmp_path / f"net{suffix}")
    assert not marker.exists()


def test_npz_that_lies_about_a_shape_is_refused(tmp_path):
    for shape in ((2**40,), (3,), (2**62, 2**62)):
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": shape})
        with zipfile.ZipFile(tmp_path / "net.npz", "w") as archive:
            archive.writestr("w.npy", header.getvalue() + bytes(32))
        with pytest.raises(FormatError, match="tensor 'w' is damaged"):
            read_weights(tmp_path / "net.npz")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("names", "reason"), [(["readme.txt"], "'readme.txt' is no array"), (["w.npy", "w.npy"], "'w.npy' is there twice")]
)
def test_archive_of_something_else_is_refused(names, reason, tmp_path):
    stored = io.BytesIO()
    np.lib.format.write_array(stored, np.ones(2))
    with zipfile.ZipFile(tmp_path / "net.npz", "w") as archive:
        for name in names:
            archive.writestr(name, stored.getvalue())
    with pytest.raises(FormatError, match=reason):
        read_weights(tmp_path / "net.npz")


def test_single_npy_array_is_no_npz(tmp_path):
    np.save(tmp_path / "net.npy", np.ones(2))
    (tmp_path / "net.npy").rename(tmp_path / "net.npz")
    with pytest.raises(FormatError, match=r"truncated, or no \.npz file"):
        read_weights(tmp_path / "net.npz")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_missing_files_are_an_os_error(suffix, tmp_path):
    with pytest.raises(FileNotFoundError):
        read_weights(tmp_path / f"none{suffix}")


def test_unknown_suffix_lists_the_known_ones(tmp_path):
    with pytest.raises(
        FormatError, match=r"net\.bin: unknown suffix '\.bin'; known: \.safetensors, \.npz, \.pth, \.pt"
    ):
        open_weights(tmp_path / "net.bin")
    with pytest.raises(FormatError, match=r"expected a \.safetensors or \.npz file, got suffix ''"):
        read_weights(tmp_path / "net")


# Whole or not at all


def test_failing_write_leaves_everything_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "net.npz"
    write_weights(path, {"w": np.ones(3)})
    before = path.read_bytes()
    with pytest.raises(FormatError):
        write_weights(path, {"good": np.ones(1000), "bad": np.array([None])})

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array", full)
    with pytest.raises(OSError, match="No space left"):
        write_weights(path, {"w": np.zeros(3)})
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["net.npz"]


# What is a parameter


def test_parameters_are_floating_and_no_running_statistics():
    weights = {
        "w": np.ones(2, np.float16),
        "b": np.ones(2, ml_dtypes.bfloat16),
        "bn.running_var": np.ones(2),
        "bn.moving_mean": np.ones(2),
        "bn.num_batches_tracked": np.array(3),
        "index": np.arange(2),
        "z": np.ones(2, np.complex64),
        "raw": np.zeros(2, "V2"),
    }
    trained, others = parameters(weights)
    assert list(trained) == ["w", "b"]
    assert set(trained) | set(others) == set(weights)
    assert others["index"] == "int64 numbers"


@pytest.mark.parametrize("module", [weight_files, files])
def test_doctests(module):
    failed, attempted = doctest.testmod(module)
    assert attempted
    assert not failed
