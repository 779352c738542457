"""Weights in .mopir files without a graph: bits, order and names survive, and all of them are aligned."""

import json

import ml_dtypes
import numpy as np
import pytest

from mopruning import files as weight_formats
from mopruning.errors import FormatError
from mopruning.ir import container, mopir
from mopruning.ir.lazy import LazyArray, lazy


def header(path):
    raw = path.read_bytes()
    return json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])


def some_weights():
    rng = np.random.default_rng(0)
    sparse = np.where(rng.random((64, 64)) < 0.1, rng.standard_normal((64, 64)), 0)
    return {
        "conv.weight": sparse.astype(np.float32),
        "half": sparse.astype(np.float16),
        "brain": sparse.astype(ml_dtypes.bfloat16),
        "eight": (sparse * 9).astype(np.int8),
        "double": sparse,
        "marks": sparse != 0,
        "steps": np.array(7),
        "empty": np.zeros((0, 3), np.float32),
        "a/b c ü": np.arange(3, dtype=np.uint16),
    }


def assert_same(got, expected):
    assert list(got) == list(expected)
    for name, weight in expected.items():
        assert got[name].dtype == weight.dtype, name
        assert got[name].shape == weight.shape, name
        assert got[name].tobytes() == weight.tobytes(), name


def test_weights_survive_in_their_order(tmp_path):
    mopir.save_weights(some_weights(), tmp_path / "net.mopir")
    assert_same(mopir.load_weights(tmp_path / "net.mopir"), some_weights())
    with pytest.raises(FormatError, match="holds weights without a graph; read them with load_weights"):
        mopir.load(tmp_path / "net.mopir")


@pytest.mark.parametrize("kept", [0, 500, 1 << 20])
def test_what_is_not_kept_is_encoded_again_alike(kept, tmp_path, monkeypatch):
    mopir.save_weights(some_weights(), tmp_path / "1.mopir")
    monkeypatch.setattr(container, "KEPT", kept)
    mopir.save_weights(some_weights(), tmp_path / "2.mopir")
    assert (tmp_path / "1.mopir").read_bytes() == (tmp_path / "2.mopir").read_bytes()


def test_a_weight_that_changes_meanwhile_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(container, "KEPT", 0)
    mopir.save_weights({"w": np.ones(3)}, tmp_path / "net.mopir")
    before = (tmp_path / "net.mopir").read_bytes()
    moving = np.zeros((64, 64), np.float32)

    def read():
        moving[0, 0] += 1
        return moving.copy()

    with pytest.raises(FormatError, match="tensor 'w' changed while it was being written"):
        mopir.save_weights({"w": LazyArray(moving.dtype, moving.shape, read)}, tmp_path / "net.mopir")
    assert (tmp_path / "net.mopir").read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["net.mopir"]


def test_names_of_parts_may_be_taken(tmp_path):
    sparse = np.zeros((64, 64), np.float32)
    sparse[0] = 1.0
    weights = {"w": sparse, "w.values": sparse[:, ::-1], "w.values.gaps": np.ones(3), "v": sparse.T}
    mopir.save_weights(weights, tmp_path / "net.mopir")
    assert_same(mopir.load_weights(tmp_path / "net.mopir"), weights)
    found = {name: one.encoding for name, one in container.read(tmp_path / "net.mopir")[0].items()}
    assert found == {"w": "dense", "w.values": "dense", "w.values.gaps": "dense", "v": "bank"}


@pytest.mark.parametrize(
    ("weights", "reason"),
    [
        ({"w": np.zeros(3, np.complex128)}, r"tensor 'w': \.mopir has no dtype complex128"),
        ({"w": np.array(["text"])}, r"tensor 'w': \.mopir has no dtype str"),
        ({"w": np.array([None])}, r"tensor 'w': \.mopir has no dtype object"),
        ({"__metadata__": np.zeros(3)}, "keeps this name for its metadata"),
        ({"\ud800": np.zeros(3)}, "cannot be written as JSON"),
    ],
)
def test_what_has_no_place_is_refused(weights, reason, tmp_path):
    with pytest.raises(FormatError, match=reason):
        mopir.save_weights(weights, tmp_path / "net.mopir")
    assert not list(tmp_path.iterdir())


def test_every_tensor_is_aligned(tmp_path):
    mopir.save_weights(some_weights(), tmp_path / "net.mopir")
    start = 8 + int.from_bytes((tmp_path / "net.mopir").read_bytes()[:8], "little")
    assert start % 8 == 0
    for name, entry in header(tmp_path / "net.mopir").items():
        if name != "__metadata__":
            size = entry["data_offsets"][1] - entry["data_offsets"][0]
            items = int(np.prod(entry["shape"]))
            assert not items or entry["data_offsets"][0] % (size // items) == 0, name


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_weights_alone_go_to_and_from_other_formats(suffix, tmp_path):
    weights = {name: weight for name, weight in some_weights().items() if name != "brain"}
    mopir.save_weights(weights, tmp_path / "1.mopir")
    weight_formats.save_weights(weight_formats.open_weights(tmp_path / "1.mopir"), tmp_path / f"2{suffix}")
    opened = weight_formats.open_weights(tmp_path / f"2{suffix}")
    weight_formats.save_weights(opened, tmp_path / "3.mopir")
    got = mopir.load_weights(tmp_path / "3.mopir")
    assert_same({name: got[name] for name in weights}, weights)


def test_lazy_arrays_wrap_once():
    one = lazy(np.ones(3))
    assert lazy(one) is one
    assert one.nbytes == 24
