"""Weight files turn into each other one tensor at a time: nothing is lost, and memory does not grow with the file."""

import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from mopruning.errors import FormatError
from mopruning.ir import mopir, safetensors
from mopruning.ir.lazy import MappedFile, lazy, read_all
from mopruning.ir.weight_files import convert, read_lazily, read_weights, write_lazily, write_weights

ROOT = Path(__file__).resolve().parents[2]
SUFFIXES = (".safetensors", ".npz", ".mopir")
PAIRS = [(one, other) for one in SUFFIXES for other in SUFFIXES]


def some_weights():
    rng = np.random.default_rng(0)
    sparse = np.where(rng.random((64, 64)) < 0.1, rng.standard_normal((64, 64)), 0).astype(np.float32)
    return {
        "conv.weight": sparse,
        "bias": np.arange(3.0),
        "file": np.array(7),
        "half": sparse.astype(np.float16).T,
        "big-endian": np.array([1.0, 2.0], ">f4"),
        "empty": np.zeros((0, 3), np.int8),
    }


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_every_format_turns_into_every_other(source, target, tmp_path):
    write_lazily(tmp_path / f"in{source}", {name: lazy(weight) for name, weight in some_weights().items()})
    convert(tmp_path / f"in{source}", tmp_path / f"out{target}")
    got = read_all(read_lazily(tmp_path / f"out{target}")[0])
    assert set(got) == set(some_weights())
    for name, weight in some_weights().items():
        np.testing.assert_array_equal(got[name], weight, strict=False)
        assert got[name].dtype == weight.dtype.newbyteorder("=") or target == source == ".npz"
        assert got[name].shape == weight.shape
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [f"in{source}", f"out{target}"]


def test_a_file_may_be_converted_onto_itself(tmp_path):
    write_weights(tmp_path / "net.safetensors", some_weights())
    before = read_weights(tmp_path / "net.safetensors")
    convert(tmp_path / "net.safetensors", tmp_path / "net.safetensors")
    after = read_weights(tmp_path / "net.safetensors")
    assert {name: array.tobytes() for name, array in after.items()} == {n: a.tobytes() for n, a in before.items()}


def test_metadata_stays_or_is_missed(tmp_path):
    safetensors.write(tmp_path / "in.safetensors", {"w": np.ones(3)}, {"format": "pt", "licence": "free"})
    convert(tmp_path / "in.safetensors", tmp_path / "out.safetensors")
    assert read_lazily(tmp_path / "out.safetensors")[1] == {"format": "pt", "licence": "free"}
    for suffix in (".npz", ".mopir"):
        with pytest.raises(FormatError, match=rf"out{suffix}: {suffix} has no place for licence"):
            convert(tmp_path / "in.safetensors", tmp_path / f"out{suffix}")
    mopir.save_weights({"w": np.ones(3)}, tmp_path / "in.mopir", recipe={"sparsity": 0.5})
    convert(tmp_path / "in.mopir", tmp_path / "out.mopir")
    assert read_lazily(tmp_path / "out.mopir")[1] == {"recipe": '{"sparsity":0.5}'}
    with pytest.raises(FormatError, match=r"\.npz has no place for recipe"):
        convert(tmp_path / "in.mopir", tmp_path / "out.npz")


def test_what_has_no_place_or_is_unknown_is_refused(tmp_path):
    write_weights(tmp_path / "in.safetensors", {"w": np.ones(3, ml_dtypes.bfloat16)})
    with pytest.raises(FormatError, match=r"tensor 'w': \.npz has no dtype bfloat16"):
        convert(tmp_path / "in.safetensors", tmp_path / "out.npz")
    with pytest.raises(FormatError, match=r"expected a \.safetensors, \.npz or \.mopir file, got suffix '\.bin'"):
        convert(tmp_path / "in.safetensors", tmp_path / "out.bin")
    with pytest.raises(FormatError, match=r"expected a \.safetensors, \.npz or \.mopir file, got suffix '\.bin'"):
        convert(tmp_path / "in.bin", tmp_path / "out.npz")
    with pytest.raises(FileNotFoundError):
        convert(tmp_path / "none.npz", tmp_path / "out.mopir")
    assert [entry.name for entry in tmp_path.iterdir()] == ["in.safetensors"]


def test_damage_is_told_when_it_is_met_and_nothing_is_written(tmp_path):
    write_weights(tmp_path / "in.npz", {"v": np.ones(3), "w": np.arange(1000.0)})
    raw = bytearray((tmp_path / "in.npz").read_bytes())
    raw[raw.index(np.float64(777.0).tobytes())] ^= 1
    (tmp_path / "in.npz").write_bytes(raw)
    assert set(read_lazily(tmp_path / "in.npz")[0]) == {"v", "w"}
    for suffix in SUFFIXES:
        with pytest.raises(FormatError, match=r"in\.npz: tensor 'w' is damaged: Bad CRC-32"):
            convert(tmp_path / "in.npz", tmp_path / f"out{suffix}")
    assert [entry.name for entry in tmp_path.iterdir()] == ["in.npz"]


def test_released_memory_is_still_what_the_file_holds(tmp_path):
    (tmp_path / "file").write_bytes(np.arange(100_000, dtype=np.int32).tobytes())
    file = MappedFile(tmp_path / "file")
    view = file.content.view(np.int32)
    assert view[50_000] == 50_000
    for start, stop in ((0, 400_000), (5, 399_999), (0, 10), (4096, 4096)):
        file.release(start, stop)
    np.testing.assert_array_equal(view, np.arange(100_000))
    (tmp_path / "file").write_bytes(b"")
    assert MappedFile(tmp_path / "file").content.size == 0


STREAM = """
import resource, sys
import conftest
from mopruning.ir.weight_files import convert
convert(sys.argv[3], sys.argv[3] + ".mopir")  # what is imported and made once is not counted
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
convert(sys.argv[1], sys.argv[2])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
TENSOR = 16 << 20  # bytes
TENSORS = 12


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="measures memory as Linux does")
@pytest.mark.parametrize(
    ("source", "target", "sparsity"),
    [
        (".safetensors", ".npz", 0.0),
        (".npz", ".safetensors", 0.0),
        (".safetensors", ".mopir", 0.0),
        (".npz", ".mopir", 0.5),
        (".mopir", ".safetensors", 0.5),
        (".mopir", ".mopir", 0.9),
    ],
)
def test_memory_does_not_grow_with_the_file(source, target, sparsity, tmp_path):
    weight = np.random.default_rng(0).random((4096, TENSOR // 4 // 4096), np.float32)
    weight[weight < sparsity] = 0
    write_lazily(tmp_path / f"in{source}", {f"{index}.weight": lazy(weight) for index in range(TENSORS)})
    write_weights(tmp_path / "small.npz", {"w": weight[:16]})
    arguments = [str(tmp_path / name) for name in (f"in{source}", f"out{target}", "small.npz")]
    done = subprocess.run(
        [sys.executable, "-c", STREAM, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) * 1024 < 2 * TENSOR + (48 << 20), "of 192 MiB"
    last = read_lazily(tmp_path / f"out{target}")[0][f"{TENSORS - 1}.weight"].read()
    np.testing.assert_array_equal(last, weight)
