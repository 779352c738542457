"""MindSpore's checkpoints: what is written is what MindSpore reads, and the other way round; damage is refused."""

from __future__ import annotations

from contextlib import suppress

import ml_dtypes
import numpy as np
import pytest

from mopruning.errors import FormatError
from mopruning.ir import mindspore_ckpt, weight_files
from mopruning.ir.mindspore_ckpt import read_checkpoint, write_weights

WEIGHTS = {
    "conv1.weight": np.random.default_rng(0).standard_normal((4, 3, 2, 2)).astype(np.float32),
    "bn1.running_mean": np.array([0.0, -0.0, np.nan, 1e-40], np.float32),
    "half": np.arange(6, dtype=np.float16).reshape(2, 3),
    "brain": np.arange(3, dtype=np.float32).astype(ml_dtypes.bfloat16),
    "numbers": np.array([[1, -2]], np.int64),
    "truth": np.array([True, False]),
    "scalar": np.array(2.5, np.float32),
}


def same(found, wanted) -> bool:
    return list(found) == list(wanted) and all(
        found[name].dtype == wanted[name].dtype
        and found[name].shape == wanted[name].shape
        and found[name].tobytes() == wanted[name].tobytes()
        for name in wanted
    )


def test_what_is_written_is_read(tmp_path):
    write_weights(tmp_path / "net.ckpt", WEIGHTS)
    file = read_checkpoint(tmp_path / "net.ckpt")
    assert same(file.weights(), WEIGHTS)
    assert same(file.arrays(), WEIGHTS)
    file.replace({"half": WEIGHTS["half"] * 2})
    file.save(tmp_path / "again.ckpt")
    assert same(read_checkpoint(tmp_path / "again.ckpt").tensors, {**WEIGHTS, "half": WEIGHTS["half"] * 2})
    assert same(read_checkpoint(tmp_path / "net.ckpt").tensors, WEIGHTS)


def test_large_tensors_in_slices(tmp_path, monkeypatch):
    monkeypatch.setattr(mindspore_ckpt, "_SLICE", 16)
    write_weights(tmp_path / "net.ckpt", WEIGHTS)
    assert same(read_checkpoint(tmp_path / "net.ckpt").tensors, WEIGHTS)


def test_mindspore_reads_and_writes_the_same(tmp_path):
    ms = pytest.importorskip("mindspore")
    write_weights(tmp_path / "ours.ckpt", WEIGHTS)
    theirs = ms.load_checkpoint(str(tmp_path / "ours.ckpt"))
    assert list(theirs) == list(WEIGHTS)
    for name, value in WEIGHTS.items():
        if name != "brain":
            np.testing.assert_array_equal(theirs[name].asnumpy(), value)
    saved = [
        {"name": name, "data": ms.Tensor(WEIGHTS[name])} for name in ("conv1.weight", "numbers", "truth", "scalar")
    ]
    ms.save_checkpoint(saved, str(tmp_path / "theirs.ckpt"), append_dict={"note": "so"}, crc_check=True)
    file = read_checkpoint(tmp_path / "theirs.ckpt")
    assert same(file.tensors, {one["name"]: WEIGHTS[one["name"]] for one in saved})
    assert list(file.texts) == ["note"]
    assert file.checked
    file.save(tmp_path / "kept.ckpt")
    assert (tmp_path / "kept.ckpt").read_bytes() == (tmp_path / "theirs.ckpt").read_bytes()
    with pytest.raises(FormatError, match=r"only \.ckpt can hold .*note"):
        file.arrays()


def test_damage_is_refused(tmp_path):
    path = tmp_path / "net.ckpt"
    write_weights(path, WEIGHTS)
    whole = path.read_bytes()
    for end in range(0, len(whole) - 1, 7):
        path.write_bytes(whole[:end])
        with suppress(FormatError):  # between two tensors a shorter file is a whole one
            assert set(read_checkpoint(path).tensors) < set(WEIGHTS)
    random = np.random.default_rng(0)
    for _ in range(300):
        changed = bytearray(whole)
        changed[int(random.integers(len(whole)))] = int(random.integers(256))
        path.write_bytes(changed)
        with suppress(FormatError):
            read_checkpoint(path)
    path.write_bytes(b"")
    with pytest.raises(FormatError, match="is empty"):
        read_checkpoint(path)
    path.write_bytes(b"PK\x03\x04 something else")
    with pytest.raises(FormatError, match="damaged or encrypted, or no MindSpore checkpoint"):
        read_checkpoint(path)
    path.write_bytes(whole + b"crc_num" + bytes(10))
    with pytest.raises(FormatError, match="the CRC32"):
        read_checkpoint(path)


def test_dtypes_that_the_format_lacks(tmp_path):
    with pytest.raises(FormatError, match="no dtype complex64"):
        write_weights(tmp_path / "net.ckpt", {"odd": np.zeros(2, np.complex64)})
    assert not (tmp_path / "net.ckpt").exists()


def test_weights_stream_to_other_formats_and_back(tmp_path):
    arrays = {"fc.weight": np.eye(3, dtype=np.float32), "bn.mean": np.arange(3, dtype=np.float64)}
    write_weights(tmp_path / "net.ckpt", arrays)
    weight_files.convert(tmp_path / "net.ckpt", tmp_path / "net.npz", reader=mindspore_ckpt.read_lazily)
    weight_files.convert(tmp_path / "net.npz", tmp_path / "back.ckpt", writer=mindspore_ckpt.write_lazily)
    mindspore_ckpt.copy(tmp_path / "net.ckpt", tmp_path / "copy.ckpt")
    content = (tmp_path / "net.ckpt").read_bytes()
    assert (tmp_path / "back.ckpt").read_bytes() == (tmp_path / "copy.ckpt").read_bytes() == content
    with pytest.raises(FormatError, match=r"net\.ckpt: \.ckpt has no place for recipe"):
        mindspore_ckpt.write_lazily(tmp_path / "net.ckpt", {}, {"recipe": "{}"})
