"""`mopruning verify`: whole files are counted, damaged ones refused."""

import numpy as np
import pytest

from mopruning.ir import container, mopir
from mopruning.ir.weight_files import write_weights
from mopruning.model_files import write_model
from tests.cli.networks import NAMES, arrays, pruned, put


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("ending", [".mopir", ".onnx", ".json"])
def test_whole_network(run, tmp_path, name, ending):
    model = pruned(name)
    write_model(model, tmp_path / f"net{ending}")
    code, out, err = run("verify", tmp_path / f"net{ending}")
    assert (code, err) == (0, "")
    assert out.startswith(f"OK: {tmp_path / f'net{ending}'} (")
    tensors = arrays(model).values()
    zeros, size = (sum(int(f(array)) for array in tensors) for f in (lambda a: (a == 0).sum(), np.size))
    assert f"\n{len(tensors)} tensors, {size:,} numbers, {zeros:,} of them zero ({zeros / size:.4f})\n" in out
    assert f": {len(model.graph)} nodes (" in out
    written = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert f"{written:,} bytes)" in out


def test_encodings_are_counted(run, tmp_path):
    mopir.save(pruned("mnist_cnn", "bank:64", 0.9375), tmp_path / "net.mopir")
    out = run("verify", tmp_path / "net.mopir")[1]
    stored, _ = container.read(tmp_path / "net.mopir")
    banks = [one.stored for one in stored.values() if one.encoding == "bank"]
    assert len(banks) >= 2
    assert f"{len(banks)} bank ({sum(banks):,} bytes)" in out


@pytest.mark.parametrize("ending", [".mopir", ".npz", ".safetensors", ".pth"])
def test_weights_without_a_graph(run, tmp_path, network, ending):
    path = tmp_path / f"net{ending}"
    if ending == ".pth":
        torch = pytest.importorskip("torch")
        torch.save({name: torch.from_numpy(array) for name, array in network.items()}, path)
    elif ending == ".mopir":
        mopir.save_weights(network, path)
    else:
        write_weights(path, network)
    code, out, _ = run("verify", path)
    assert code == 0
    assert "\nno graph\n" in out
    assert f"{len(network)} tensors, {sum(map(np.size, network.values())):,} numbers" in out


def test_numbers_that_are_not_finite_are_told(run, tmp_path):
    model = pruned("lenet5")
    put(model, "fc1.bias", np.full(120, np.nan, np.float32))
    mopir.save(model, tmp_path / "net.mopir")
    code, out, _ = run("verify", tmp_path / "net.mopir")
    assert code == 0
    assert out.endswith("not finite: fc1.bias\n")


def test_every_flipped_byte_of_a_tensor_is_noticed(fails, tmp_path):
    mopir.save(pruned("lenet5"), tmp_path / "net.mopir")
    whole = (tmp_path / "net.mopir").read_bytes()
    start = 8 + int.from_bytes(whole[:8], "little")
    for at in np.random.default_rng(0).integers(start, len(whole), 10):
        damaged = bytearray(whole)
        damaged[at] ^= 0x10
        (tmp_path / "net.mopir").write_bytes(damaged)
        err = fails("verify", tmp_path / "net.mopir")
        assert "CRC32" in err
        assert "tensor" in err


@pytest.mark.parametrize("ending", [".mopir", ".onnx", ".json"])
def test_truncated_file(fails, tmp_path, ending):
    path = tmp_path / f"net{ending}"
    write_model(pruned("lenet5"), path)
    path.write_bytes(path.read_bytes()[:-100])
    assert path.name in fails("verify", path)


def test_missing_and_unknown_files(fails, tmp_path):
    assert "there is no such file" in fails("verify", tmp_path / "none.onnx")
    (tmp_path / "net.bin").write_bytes(b"")
    assert "unknown suffix '.bin'" in fails("verify", tmp_path / "net.bin")
    assert "is a folder" in fails("verify", tmp_path)
    write_model(pruned("lenet5"), tmp_path / "net.json")
    (tmp_path / "net.npz").unlink()
    assert "net.npz: No such file or directory" in fails("verify", tmp_path / "net.json")
