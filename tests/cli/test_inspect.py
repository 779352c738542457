"""`mopruning inspect`: sparsity and patterns as table, JSON and plot; hostile files are one line and never run."""

import json

import numpy as np
import pytest

from mopruning import mask
from mopruning.files import format_of
from mopruning.ir.weight_files import read_weights, write_weights


@pytest.fixture
def sparse(network):
    """The small network with one bank-balanced weight and one that lost three filters."""
    weight = network["conv.weight"]
    network["conv.weight"] = np.where(mask(abs(weight), "bank:64", 0.9375), weight, 0)
    network["odd.weight"][:3] = 0.0
    return network


def test_inspect_shows_sparsity_and_patterns(run, tmp_path, sparse):
    long = "a_name_that_is_much_longer_than_any_terminal_is_wide_" * 3 + "weight"
    write_weights(tmp_path / "net.npz", sparse | {long: np.zeros((2, 4))})
    code, out, err = run("inspect", tmp_path / "net.npz")
    assert (code, err) == (0, "")
    lines = {line.split()[1]: line for line in out.splitlines() if len(line.split()) > 1}
    assert "0.9375" in lines["conv.weight"]
    assert "4 of 64" in lines["conv.weight"]
    assert "3 of 8 filters" in lines["odd.weight"]
    assert "0:4" in lines[long]
    assert "bn.running_mean" not in out
    assert "also in the file: 1 x int64 numbers, 1 x running statistic" in out
    weights = [array for name, array in sparse.items() if name not in ("bn.running_mean", "steps")]
    zeros, size = (sum(f(array) for array in weights) + 8 for f in (lambda a: (a == 0).sum(), np.size))
    assert f"{zeros / size:.4f}" in lines["total"]


def test_inspect_json_is_complete(run, tmp_path, sparse):
    write_weights(tmp_path / "net.safetensors", sparse)
    code, out, _ = run("inspect", tmp_path / "net.safetensors", "--json")
    content = json.loads(out)
    assert code == 0
    assert set(content) == {"file", "total", "parameters", "bytes", "others"}
    dense = sum(array.nbytes for array in sparse.values())
    assert content["bytes"] == {"file": (tmp_path / "net.safetensors").stat().st_size, "dense": dense}
    conv = content["parameters"]["conv.weight"]
    assert (conv["sparsity"], conv["dtype"], conv["shape"]) == (0.9375, "float32", [8, 64, 3, 3])
    assert conv["conformity"]["banks"]["64"] == [4, 4]
    assert content["parameters"]["conv.bias"]["conformity"] is None
    assert content["parameters"]["odd.weight"]["conformity"]["zero_filters"] == [3, 8]
    assert content["others"] == {"bn.running_mean": "running statistic", "steps": "int64 numbers"}


def test_inspect_plots(run, tmp_path, sparse):
    pytest.importorskip("matplotlib")
    write_weights(tmp_path / "net.npz", sparse)
    assert run("inspect", tmp_path / "net.npz", "--plot", tmp_path / "bars.png")[0] == 0
    assert (tmp_path / "bars.png").read_bytes().startswith(b"\x89PNG")


def test_plot_never_replaces_the_weights(fails, source, network):
    assert "images are written as" in fails("inspect", source, "--plot", source)
    np.testing.assert_array_equal(read_weights(source)["fc.weight"], network["fc.weight"])


def test_inspect_reads_a_checkpoint(run, tmp_path):
    torch = pytest.importorskip("torch")
    weight = torch.zeros(4, 64, dtype=torch.bfloat16)
    weight[:, ::32] = 1
    torch.save({"model": {"w": weight, "t": weight, "n": torch.tensor(3)}}, tmp_path / "net.pt")
    content = json.loads(run("inspect", tmp_path / "net.pt", "--json")[1])
    assert content["parameters"]["w"]["dtype"] == "bfloat16"
    assert content["parameters"]["w"]["conformity"]["banks"]["64"] == [2, 2]
    assert content["others"] == {"t": "tied to w", "n": "int64 numbers"}


def test_truncated_files_are_one_line(fails, source):
    source.write_bytes(source.read_bytes()[:-40])
    assert str(source) in fails("inspect", source)
    assert str(source) in fails("prune", source, source.with_stem("out"), "--sparsity", 0.5)
    assert not source.with_stem("out").exists()


def test_pickled_npz_is_refused_and_not_run(fails, tmp_path, payload):
    np.savez(tmp_path / "net.npz", w=np.array([payload], object))
    assert "refused: tensor 'w' is a pickle" in fails("inspect", tmp_path / "net.npz")
    assert "refused" in fails("prune", tmp_path / "net.npz", tmp_path / "out.npz", "--sparsity", 0.5)
    assert [entry.name for entry in tmp_path.iterdir()] == ["net.npz"]


def test_hostile_checkpoints_are_refused_and_not_run(fails, tmp_path, payload):
    torch = pytest.importorskip("torch")
    torch.save({"w": torch.ones(2), "x": payload}, tmp_path / "net.pth")
    assert "refused: it contains code" in fails("inspect", tmp_path / "net.pth")
    assert "refused" in fails("prune", tmp_path / "net.pth", tmp_path / "out.pth", "--sparsity", 0.5)
    (tmp_path / "net.pth").write_bytes((tmp_path / "net.pth").read_bytes()[:-100])
    assert "truncated" in fails("inspect", tmp_path / "net.pth")
    assert [entry.name for entry in tmp_path.iterdir()] == ["net.pth"]


def test_name_that_cannot_be_printed_is_one_line(process, tmp_path):
    header = b'{"\\ud800": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}'
    (tmp_path / "net.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    done = process("inspect", tmp_path / "net.safetensors")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("mopruning: error: ")


@pytest.mark.parametrize("suffix", [".ckpt", ".params"])
def test_files_of_other_frameworks_are_inspected_alike(run, tmp_path, sparse, suffix):
    weights = {name: array for name, array in sparse.items() if array.shape}
    format_of(f"net{suffix}").load().write_weights(tmp_path / f"net{suffix}", weights)
    write_weights(tmp_path / "net.npz", weights)
    (code, out, err), there = run("inspect", tmp_path / f"net{suffix}"), run("inspect", tmp_path / "net.npz")
    assert (code, err) == (0, "")
    assert out == there[1]
