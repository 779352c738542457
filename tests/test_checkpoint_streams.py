"""Checkpoints one tensor at a time: what is read and written is what torch reads and writes, in little memory."""

import doctest
import importlib
import io
import subprocess
import sys
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from mopruning.backends.pytorch import checkpoint, checkpoint_streams  # noqa: E402
from mopruning.backends.pytorch.checkpoint_streams import copy, read_lazily, write_lazily  # noqa: E402
from mopruning.errors import FormatError  # noqa: E402
from mopruning.ir import weight_files  # noqa: E402
from mopruning.ir.lazy import lazy, read_all  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
W = torch.randn(6, 4)
STATE = {
    "w": W,
    "tied": W,
    "view": W.t()[1:],
    "expanded": torch.ones(1).expand(5),
    "parameter": nn.Parameter(torch.arange(2.0)),
    "empty": torch.empty(0, 3),
    "scalar": torch.tensor(3),
    "bool": torch.tensor([True, False]),
    "double": W.double(),
    "half": W.half(),
    "bfloat16": W.bfloat16(),
    "float8": W.to(torch.float8_e4m3fn),
    "complex": torch.complex(W, W),
    "int8": torch.arange(5, dtype=torch.int8),
}


def same(got, expected):
    assert list(got) == list(expected)
    for name, tensor in expected.items():
        tensor = tensor.detach()
        assert got[name].dtype == tensor.dtype, name
        assert got[name].shape == tensor.shape, name
        bytes_of = [one.contiguous().flatten().view(torch.uint8) for one in (got[name], tensor)]
        assert torch.equal(*bytes_of), name


def test_tensors_are_read_in_place_and_written_as_torch_does(tmp_path, monkeypatch):
    torch.save(STATE, tmp_path / "in.pth")
    monkeypatch.setattr(checkpoint, "read_checkpoint", lambda _: pytest.fail("read as a whole"))
    tensors, metadata = read_lazily(tmp_path / "in.pth")
    assert metadata == {}
    for name, one in tensors.items():
        array = one.read()
        assert (array.dtype, array.shape) == (one.dtype, one.shape)
        assert array.shape == tuple(STATE[name].shape)
        assert not array.size or not array.flags.writeable
        one.release()
    write_lazily(tmp_path / "out.pth", tensors)
    same(torch.load(tmp_path / "out.pth", weights_only=True), STATE)
    same(torch.load(tmp_path / "out.pth", weights_only=True, mmap=True), STATE)
    same(read_tensors(tmp_path / "out.pth"), STATE)


def read_tensors(path):
    from mopruning.backends.pytorch.checkpoint import to_tensor

    return {name: to_tensor(name, array) for name, array in read_all(read_lazily(path)[0]).items()}


def test_the_archive_is_whole(tmp_path):
    write_lazily(tmp_path / "net.pth", {"w": lazy(W.numpy()), "n": lazy(np.array([1, 2], ">i8"))})
    with zipfile.ZipFile(tmp_path / "net.pth") as archive:
        assert archive.testzip() is None  # every checksum is that of what is there
        assert all(entry.CRC for entry in archive.infolist() if entry.file_size)
    raw = (tmp_path / "net.pth").read_bytes()
    begin = raw.index(W.numpy().tobytes())
    assert begin % 64 == 0  # as torch aligns tensors
    assert raw[begin + W.nbytes : begin + W.nbytes + 4] == b"PK\x07\x08"
    plain = io.BytesIO()
    torch.save({"w": W, "n": torch.tensor([1, 2])}, plain)
    names = [{entry.filename for entry in zipfile.ZipFile(one).infolist()} for one in (plain, tmp_path / "net.pth")]
    assert names[0] == names[1]


def test_same_content_gives_the_same_bytes(tmp_path):
    for name in ("1.pth", "2.pth"):
        write_lazily(tmp_path / name, {"w": lazy(W.numpy())})
    assert (tmp_path / "1.pth").read_bytes() == (tmp_path / "2.pth").read_bytes()


def legacy(state, path):
    torch.save(state, path, _use_new_zipfile_serialization=False)


def compressed(state, path):
    plain = io.BytesIO()
    torch.save(state, plain)
    with zipfile.ZipFile(plain) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))


@pytest.mark.parametrize("save", [legacy, compressed])
def test_other_layouts_are_read_as_a_whole(save, tmp_path):
    save({"w": W, "n": torch.tensor(2)}, tmp_path / "in.pth")
    assert checkpoint_streams._state(tmp_path / "in.pth") is None
    same(read_tensors(tmp_path / "in.pth"), {"w": W, "n": torch.tensor(2)})
    copy(tmp_path / "in.pth", tmp_path / "out.pth")
    same(torch.load(tmp_path / "out.pth", weights_only=True), {"w": W, "n": torch.tensor(2)})


def test_conjugated_views_are_what_they_mean(tmp_path):
    torch.save({"w": torch.complex(W, W).conj()}, tmp_path / "in.pth")
    np.testing.assert_array_equal(read_lazily(tmp_path / "in.pth")[0]["w"].read(), torch.complex(W, -W).numpy())


def test_what_another_format_cannot_hold_is_refused_as_ever(tmp_path):
    torch.save({"epoch": 3, "state_dict": {"w": W}}, tmp_path / "in.pth")
    with pytest.raises(FormatError, match=r"holds epoch beside the weights, which only \.pth and \.pt"):
        read_lazily(tmp_path / "in.pth")
    for odd in (torch.eye(2).to_sparse(), torch.ones(2, device="meta"), {"scale": 1}):
        torch.save({"w": W, "odd": odd}, tmp_path / "in.pth")
        with pytest.raises(FormatError, match="'odd' is no dense tensor"):
            read_lazily(tmp_path / "in.pth")
    torch.save(nn.Linear(2, 2), tmp_path / "in.pth")
    for use in (read_lazily, lambda path: copy(path, tmp_path / "out.pth")):
        with pytest.raises(FormatError, match=r"refused: it contains code"):
            use(tmp_path / "in.pth")
    with pytest.raises(FormatError, match=r"out\.pth: \.pth has no place for graph"):
        write_lazily(tmp_path / "out.pth", {"w": lazy(W.numpy())}, {"graph": ""})
    with pytest.raises(FormatError, match="tensor 't': PyTorch has no dtype"):
        write_lazily(tmp_path / "out.pth", {"w": lazy(W.numpy()), "t": lazy(np.array(["text"]))})
    assert [path.name for path in tmp_path.iterdir()] == ["in.pth"]


def test_no_truncation_or_damage_gets_past_as_another_error(tmp_path):
    torch.save({"w": W, "n": torch.arange(9)}, tmp_path / "whole.pth")
    raw = (tmp_path / "whole.pth").read_bytes()
    rng = np.random.default_rng(0)
    for length in rng.integers(0, len(raw), 60):
        (tmp_path / "cut.pth").write_bytes(raw[:length])
        with pytest.raises(FormatError, match=r"cut\.pth"):
            read_lazily(tmp_path / "cut.pth")
    for place in rng.integers(0, len(raw), 300):
        changed = bytearray(raw)
        changed[place] ^= int(rng.integers(1, 256))
        (tmp_path / "cut.pth").write_bytes(changed)
        with suppress(FormatError):  # or it is read: torch checks no checksum
            assert set(read_all(read_lazily(tmp_path / "cut.pth")[0])) <= {"w", "n"} or place < 1000


def test_a_tensor_that_claims_more_than_its_part_is_refused(tmp_path):
    torch.save({"w": torch.zeros(2**20)}, tmp_path / "in.pth")
    with zipfile.ZipFile(tmp_path / "in.pth") as old, zipfile.ZipFile(tmp_path / "cut.pth", "w") as new:
        for entry in old.infolist():
            new.writestr(entry.filename, b"" if entry.filename.endswith("data/0") else old.read(entry))
    with pytest.raises(FormatError, match=r"cut\.pth"):
        read_all(read_lazily(tmp_path / "cut.pth")[0])


def test_an_interrupted_write_leaves_nothing(tmp_path):
    def interrupted():
        raise KeyboardInterrupt

    one = lazy(W.numpy())
    with pytest.raises(KeyboardInterrupt):
        write_lazily(tmp_path / "net.pth", {"w": one, "v": type(one)(one.dtype, one.shape, interrupted)})
    assert list(tmp_path.iterdir()) == []


STREAM = """
import resource, sys
from pathlib import Path
import conftest
from mopruning.cli.convert_weights import convert_weights
source, target, small = map(Path, sys.argv[1:])
for path in (small.with_suffix(source.suffix), small.with_suffix(target.suffix)):  # what is made once is not counted
    convert_weights(small, path, check=True)
    small = path
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(convert_weights(source, target, check=True), file=sys.stderr)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
TENSOR, TENSORS = 16 << 20, 12


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="measures memory as Linux does")
@pytest.mark.parametrize(("source", "target"), [(".pth", ".safetensors"), (".mopir", ".pt")])
def test_memory_does_not_grow_with_the_file(source, target, tmp_path):
    weight = np.random.default_rng(0).random((4096, TENSOR // 4 // 4096), np.float32)
    weight[weight < 0.9] = 0
    write = write_lazily if source == ".pth" else weight_files.write_lazily
    write(tmp_path / f"in{source}", {f"{index}.weight": lazy(weight) for index in range(TENSORS)})
    weight_files.write_weights(tmp_path / "small.npz", {"w": weight[:16]})
    arguments = [str(tmp_path / name) for name in (f"in{source}", f"out{target}", "small.npz")]
    done = subprocess.run(
        [sys.executable, "-c", STREAM, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "12 tensors, the same bit for bit" in done.stderr
    assert int(done.stdout) * 1024 < 2 * TENSOR + (48 << 20), "of 192 MiB"
    if target.startswith(".pt"):
        last = torch.load(tmp_path / f"out{target}", weights_only=True)[f"{TENSORS - 1}.weight"]
        np.testing.assert_array_equal(last.numpy(), weight)


def test_doctests():
    result = doctest.testmod(importlib.import_module("mopruning.backends.pytorch.checkpoint_streams"))
    assert result.attempted
    assert result.failed == 0
