"""`mopruning convert`: every pair of formats computes the same, and what does not is not left behind."""

import doctest
import re
import subprocess
import sys

import numpy as np
import onnx_ir
import pytest

from mopruning import model_files
from mopruning.cli import input_shapes, running, staging
from mopruning.cli.input_shapes import InputShapeError
from mopruning.cli.running import CheckError, difference
from mopruning.errors import FormatError
from mopruning.ir import mopir
from mopruning.ir.builder import Builder
from mopruning.ir.lazy import lazy
from mopruning.ir.onnx_files import read_onnx, write_onnx
from mopruning.ir.weight_files import read_weights, write_lazily, write_weights
from mopruning.model_files import FORMAT_ROWS, GRAPH_FORMATS, graph_format_of, read_model, write_model
from tests.cli.networks import NAMES, arrays, pruned, put
from tests.cli.test_program import LIST_MODULES

ENDINGS = {".mopir": "net.mopir", ".onnx": "net.onnx", ".json": "net.json"}


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def lenet(tmp_path):
    mopir.save(pruned("lenet5"), tmp_path / "in.mopir")
    return tmp_path / "in.mopir"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("source", ENDINGS)
@pytest.mark.parametrize("target", ENDINGS)
def test_network_arrives_with_its_weights_and_zeros(run, tmp_path, name, source, target):
    model = pruned(name)
    write_model(model, tmp_path / f"in{source}")
    code, out, err = run("convert", tmp_path / f"in{source}", tmp_path / f"out{target}")
    assert (code, err) == (0, "")
    assert out.startswith("check: largest difference ")
    expected, got = arrays(model), arrays(read_model(tmp_path / f"out{target}"))
    assert set(got) == set(expected)
    for own, array in expected.items():
        np.testing.assert_array_equal(got[own], array, strict=True, err_msg=own)
    size = sum(path.stat().st_size for path in tmp_path.glob("out.*"))
    assert f"out{target}: {size:,} bytes" in out


def test_output_is_that_of_the_source(run, tmp_path):
    model = pruned("resnet8_cifar", "2:4", 0.5)
    write_onnx(model, tmp_path / "in.onnx", sparse=True)
    assert run("convert", tmp_path / "in.onnx", tmp_path / "out.mopir")[0] == 0
    assert run("convert", tmp_path / "out.mopir", tmp_path / "out.onnx")[0] == 0
    x = np.random.default_rng(1).standard_normal((3, 3, 32, 32), dtype=np.float32)
    before, after = (running.run_onnx(tmp_path / f"{name}.onnx", [x])[0] for name in ("in", "out"))
    np.testing.assert_array_equal(after, before)


@pytest.mark.parametrize("name", NAMES)
def test_folder_runs_without_the_package(run, torch, tmp_path, name):
    model = pruned(name)
    write_onnx(model, tmp_path / "in.onnx")
    code, out, _ = run("convert", tmp_path / "in.onnx", f"{tmp_path / 'net'}/")
    assert code == 0
    assert float(out.split("largest difference ")[1].split()[0].rstrip(",")) < 1e-4
    assert names(tmp_path / "net") == ["model.py", "weights.safetensors"]
    shape = tuple(model.graph.inputs[0].shape)[1:]
    x = np.random.default_rng(1).standard_normal((1, *shape), dtype=np.float32)
    np.save(tmp_path / "x.npy", x)
    code = (
        "import sys, numpy, torch, model; y = model.load().eval()(torch.from_numpy(numpy.load('../x.npy')));"
        "numpy.save('../y.npy', y.detach().numpy()); assert 'mopruning' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path / "net", check=True)
    expected = running.run_onnx(tmp_path / "in.onnx", [x])[0]
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected, atol=1e-5 * np.ptp(expected))


def test_existing_folder_needs_force_and_keeps_other_files(run, fails, torch, tmp_path, lenet):
    folder = tmp_path / "net"
    folder.mkdir()
    assert run("convert", lenet, folder)[0] == 0  # an empty one does not
    (folder / "notes.txt").write_text("mine")
    (folder / "model.py").write_text("old")
    assert "exists" in fails("convert", lenet, folder)
    assert (folder / "model.py").read_text() == "old"
    assert run("convert", lenet, folder, "--force")[0] == 0
    assert names(folder) == ["model.py", "notes.txt", "weights.safetensors"]
    assert "class Lenet5" in (folder / "model.py").read_text()
    assert names(tmp_path) == ["in.mopir", "net"]


def saboteur(monkeypatch, change):
    """Let .mopir files hold other weights than they should."""
    save = mopir.save

    def other(model, path):
        wrong = model.clone()
        put(wrong, "fc3.bias", change(arrays(model)["fc3.bias"]))
        save(wrong, path)

    monkeypatch.setattr(mopir, "save", other)


@pytest.mark.parametrize("force", [[], ["--force"]])
@pytest.mark.parametrize("change", [lambda bias: bias + np.float32(0.1), lambda bias: bias * np.float32(np.nan)])
def test_failed_check_is_exit_code_1_and_leaves_nothing(run, tmp_path, monkeypatch, lenet, force, change):
    write_onnx(mopir.load(lenet), tmp_path / "in.onnx")
    if force:
        (tmp_path / "out.mopir").write_bytes(b"old")
    before = names(tmp_path)
    saboteur(monkeypatch, change)
    code, out, err = run("convert", tmp_path / "in.onnx", tmp_path / "out.mopir", *force)
    assert (code, out) == (1, "")
    assert err.startswith("mopruning: check: largest difference ")
    assert "out.mopir was not written" in err
    assert names(tmp_path) == before
    assert not force or (tmp_path / "out.mopir").read_bytes() == b"old"


def test_small_difference_passes_and_is_printed(run, tmp_path, monkeypatch, lenet):
    saboteur(monkeypatch, lambda bias: bias + np.float32(1e-5))
    code, out, _ = run("convert", lenet, tmp_path / "out.mopir")
    assert code == 0
    assert 5e-6 < float(out.split("largest difference ")[1].split(",")[0]) < 2e-5


def test_no_check_writes_whatever_comes(run, tmp_path, monkeypatch, lenet):
    saboteur(monkeypatch, lambda bias: bias + np.float32(1))
    code, out, _ = run("convert", lenet, tmp_path / "out.mopir", "--no-check")
    assert code == 0
    assert out.startswith("not checked\n")
    assert (tmp_path / "out.mopir").exists()


def test_without_onnxruntime_the_check_runs_in_the_reference(run, tmp_path, monkeypatch, lenet):
    monkeypatch.setattr(running, "runtime", lambda: "onnx.reference")
    code, out, _ = run("convert", lenet, tmp_path / "out.onnx")
    assert code == 0
    assert "check: largest difference 0 (random input 2x1x28x28, in onnx.reference)" in out


def test_sparse_and_external(run, fails, tmp_path):
    model = pruned("mnist_cnn")
    mopir.save(model, tmp_path / "in.mopir")
    assert run("convert", tmp_path / "in.mopir", tmp_path / "dense.onnx")[0] == 0
    assert run("convert", tmp_path / "in.mopir", tmp_path / "sparse.onnx", "--sparse")[0] == 0
    assert run("convert", tmp_path / "in.mopir", tmp_path / "outside.onnx", "--external")[0] == 0
    size = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert size["sparse.onnx"] < size["dense.onnx"] / 3
    assert size["outside.onnx"] < 20_000
    got = arrays(read_onnx(tmp_path / "outside.onnx"))
    np.testing.assert_array_equal(got["conv3.weight"], arrays(model)["conv3.weight"])
    assert "mopir is not written sparse" in fails("convert", tmp_path / "in.mopir", tmp_path / "x.mopir", "--sparse")


def test_weights_beside_go_with_the_network_they_are_of(run, tmp_path):
    for name, weights in (("a", pruned("mnist_cnn")), ("b", pruned("mnist_cnn", "2:4", 0.5))):
        mopir.save(weights, tmp_path / f"{name}.mopir")
    assert run("convert", tmp_path / "a.mopir", tmp_path / "net.onnx", "--external")[0] == 0
    (first,) = tmp_path.glob("net.onnx.*.data")
    stranger = tmp_path / f"net.onnx.{0:016x}.data"
    stranger.write_bytes(b"mine")
    assert run("convert", tmp_path / "a.mopir", tmp_path / "net.onnx", "--external", "--force")[0] == 0
    assert first.exists()  # the same weights have the same name
    assert run("convert", tmp_path / "b.mopir", tmp_path / "net.onnx", "--external", "--force")[0] == 0
    (second,) = set(tmp_path.glob("net.onnx.*.data")) - {stranger}
    assert second != first
    got = arrays(read_onnx(tmp_path / "net.onnx"))
    np.testing.assert_array_equal(got["conv3.weight"], arrays(mopir.load(tmp_path / "b.mopir"))["conv3.weight"])
    assert run("convert", tmp_path / "b.mopir", tmp_path / "net.onnx", "--force")[0] == 0
    assert names(tmp_path) == ["a.mopir", "b.mopir", "net.onnx", stranger.name]


def test_formats_by_name(run, fails, tmp_path, lenet):
    write_onnx(mopir.load(lenet), tmp_path / "in.bin")
    assert run("convert", tmp_path / "in.bin", tmp_path / "out.xyz", "--from", "onnx", "--to", "mopir")[0] == 0
    assert len(mopir.load(tmp_path / "out.xyz").graph) == len(mopir.load(lenet).graph)
    assert "unknown suffix '.bin'" in fails("convert", tmp_path / "in.bin", tmp_path / "x.onnx")
    known = ", ".join(row.name for row in FORMAT_ROWS)
    assert f"known: {known}" in fails("convert", lenet, tmp_path / "x", "--to", "onxx")
    assert "pytorch is only written" in fails("convert", lenet, tmp_path / "x.onnx", "--from", "pytorch")


def open_sizes(tmp_path):
    model = pruned("resnet8_cifar")
    model.graph.inputs[0].shape = onnx_ir.Shape(["N", 3, "H", "W"])
    write_onnx(model, tmp_path / "in.onnx")
    return tmp_path / "in.onnx"


def test_input_shape_fills_what_is_open(run, fails, tmp_path):
    source = open_sizes(tmp_path)
    assert "are open (N,3,H,W): give them with --input-shape" in fails("convert", source, tmp_path / "out.mopir")
    assert names(tmp_path) == ["in.onnx"]
    code, out, err = run("convert", source, tmp_path / "out.mopir", "--input-shape", "1,3,64,48")
    assert (code, err) == (0, "")
    assert "random input 1x3x64x48" in out
    shape = mopir.load(tmp_path / "out.mopir").graph.inputs[0].shape
    assert [size if isinstance(size, int) else size.value for size in shape] == ["N", 3, 64, 48]


@pytest.mark.parametrize("text", ["1,4,32,32", "1,3", "0,3,32,32", "a", "image:1,3,32,32"])
def test_wrong_input_shapes(fails, tmp_path, text):
    assert f"--input-shape {text}" in fails(
        "convert", open_sizes(tmp_path), tmp_path / "o.mopir", "--input-shape", text
    )


def test_input_shapes_of_several_inputs():
    net = Builder("two")
    a, b = net.input("a", (4,)), net.input("b", (4,))
    model = net.model({"output": net.add(a, b, "add")})
    assert input_shapes.parse(["a:3,4", "b:3,4"], model) == {"a": (3, 4), "b": (3, 4)}
    with pytest.raises(InputShapeError, match="the inputs a, b; name one"):
        input_shapes.parse(["3,4"], model)


@pytest.mark.parametrize("name", ["in.mopir", "out.onnx", "net.npz"])
def test_what_is_there_is_kept(fails, tmp_path, lenet, name):
    for other in ("out.onnx", "net.npz"):
        (tmp_path / other).write_bytes(b"old")
    target = tmp_path / ("net.json" if name == "net.npz" else name)
    flag = ["--force"] if name == "in.mopir" else []
    assert name in fails("convert", lenet, target, *flag)
    assert (tmp_path / "out.onnx").read_bytes() == b"old"
    assert names(tmp_path) == ["in.mopir", "net.npz", "out.onnx"]


def test_errors_name_what_was_asked_for(fails, tmp_path, lenet):
    assert "there is no such file" in fails("convert", tmp_path / "none.onnx", tmp_path / "out.mopir")
    assert "there is no such folder" in fails("convert", lenet, tmp_path / "none" / "out.onnx")
    net = Builder("odd")
    x = net.input("input", (4, 5))
    mopir.save(net.model({"output": net.transpose(x, "turn", (2, 1))}), tmp_path / "turn.mopir")
    err = fails("convert", tmp_path / "turn.mopir", tmp_path / "out.json")
    assert "'turn' (Transpose)" in err
    (tmp_path / "cut.onnx").write_bytes(b"\x08\x0a\x12")
    assert "cut.onnx" in fails("convert", tmp_path / "cut.onnx", tmp_path / "out.mopir")
    assert ".mopruning-" not in err + " ".join(names(tmp_path))


def test_no_framework_is_imported_where_none_is_needed(process, tmp_path, lenet):
    done = process("convert", lenet, tmp_path / "out.onnx", before=LIST_MODULES)
    assert done.returncode == 0
    assert {"torch", "tensorflow", "mxnet", "mindspore", "mopruning.backends"}.isdisjoint(done.stderr.split())


# ---- weights without a network


@pytest.mark.parametrize("target", ["out.safetensors", "out.npz", "out.mopir"])
def test_weights_are_converted_bit_for_bit(run, source, network, target):
    target = source.with_name(target)
    code, out, err = run("convert", source, target)
    assert (code, err) == (0, "")
    assert out.startswith(f"check: {len(network)} tensors, the same bit for bit\n")
    got = mopir.load_weights(target) if target.suffix == ".mopir" else read_weights(target)
    assert set(got) == set(network)
    for name, array in network.items():
        np.testing.assert_array_equal(got[name], array, strict=True)


def test_checkpoints_become_weights_and_back(run, torch, tmp_path, network):
    torch.save({name: torch.from_numpy(array) for name, array in network.items()}, tmp_path / "in.pth")
    for source, target in (("in.pth", "a.mopir"), ("a.mopir", "b.pt"), ("in.pth", "c.pth")):
        assert run("convert", tmp_path / source, tmp_path / target)[0] == 0
    for name in ("b.pt", "c.pth"):
        got = torch.load(tmp_path / name, weights_only=True)
        assert all(np.array_equal(got[own].numpy(), array) for own, array in network.items())


def test_weights_that_are_not_the_same_are_not_left(fails, tmp_path, monkeypatch, network):
    from mopruning.ir import weight_files

    write_weights(tmp_path / "in.npz", network)
    monkeypatch.setattr(
        weight_files, "convert", lambda a, b, **_: write_weights(b, network | {"fc.weight": -network["fc.weight"]})
    )
    assert "tensor 'fc.weight' is not what it is" in fails("convert", tmp_path / "in.npz", tmp_path / "o.safetensors")
    assert names(tmp_path) == ["in.npz"]


def test_networks_and_weights_do_not_mix(fails, tmp_path, lenet, network):
    write_onnx(mopir.load(lenet), tmp_path / "in.onnx")
    write_weights(tmp_path / "in.npz", network)
    assert "cannot hold a network" in fails("convert", tmp_path / "in.onnx", tmp_path / "o.safetensors")
    assert "without a network" in fails("convert", tmp_path / "in.npz", tmp_path / "o.onnx")
    assert "graph" in fails("convert", lenet, tmp_path / "o.npz")
    assert "--sparse is for networks" in fails("convert", tmp_path / "in.npz", tmp_path / "o.mopir", "--sparse")
    assert names(tmp_path) == ["in.mopir", "in.npz", "in.onnx"]


@pytest.fixture
def noted(tmp_path, network):
    """The file of weights alone with recipe and provenance."""
    weights = {name: array for name, array in network.items() if array.shape}
    mopir.save_weights(weights, tmp_path / "in.mopir", recipe={"sparsity": 0.5}, provenance={"seed": 1})
    return tmp_path / "in.mopir"


@pytest.mark.parametrize("suffix", [".npz", ".params", ".ckpt"])
def test_recipe_and_provenance_stay_behind_where_there_is_no_place(run, noted, suffix):
    target = noted.with_name(f"out{suffix}")
    code, out, err = run("convert", noted, target)
    assert (code, err) == (0, "")
    check, note, sizes = out.splitlines()
    assert check == "check: 5 tensors, the same bit for bit"
    assert note == f"{target} has no place for provenance and recipe"
    assert sizes.startswith(f"{noted}: ")
    assert run("convert", noted, target, "--force", "--no-check")[1].splitlines()[:2] == ["not checked", note]


def test_recipe_and_provenance_travel_where_there_is_a_place(run, noted):
    there, back = noted.with_name("out.safetensors"), noted.with_name("back.mopir")
    for source, target in ((noted, there), (there, back)):
        code, out, _ = run("convert", source, target)
        assert code == 0
        assert "no place" not in out
    assert mopir.open_weights(back).notes == mopir.open_weights(noted).notes
    assert "no place for provenance and recipe" in run("convert", there, noted.with_name("out.npz"))[1]


def test_other_metadata_is_never_left_behind(fails, tmp_path, network):
    notes = {"recipe": "{}", "licence": "none"}
    tensors = {name: lazy(array) for name, array in network.items()}
    write_lazily(tmp_path / "in.safetensors", tensors, notes)
    message = fails("convert", tmp_path / "in.safetensors", tmp_path / "out.npz")
    assert ".npz has no place for licence, recipe" in message
    assert names(tmp_path) == ["in.safetensors"]


# ---- parts


def test_formats_are_found_by_ending(tmp_path):
    assert {ending: graph_format_of(f"net{ending}").name for ending in GRAPH_FORMATS} == {
        ending: row.name for ending, row in GRAPH_FORMATS.items()
    }
    assert graph_format_of("NET.ONNX").name == "onnx"
    (tmp_path / "v1.0").mkdir()
    assert graph_format_of(tmp_path / "v1.0").name == "pytorch"
    known = ".mopir, .onnx, -symbol.json, .json, .meta, .pb, a folder, .mindir"
    with pytest.raises(FormatError, match=re.escape(f"unknown suffix '.bin'; known for networks: {known}")):
        graph_format_of("net.bin")


def test_difference_is_measured_against_the_range():
    before = [np.array([0.0, 10.0]), np.array([1.0, 1.5])]
    found = difference(before, [np.array([0.0, 10.1]), np.array([1.0, 1.55])])
    assert found.output == 1
    assert found.share == pytest.approx(0.1)
    assert difference(before, before).share == 0
    assert difference([np.array([2.0, 2.0])], [np.array([2.0, 2.2])]).share == pytest.approx(0.1)
    assert difference([np.array([np.nan, np.inf, 1])], [np.array([np.nan, np.inf, 1])]).share == 0
    assert not difference(before, [np.array([0.0, np.nan]), before[1]]).share <= 1
    with pytest.raises(CheckError, match="other shapes"):
        difference(before, before[:1])


def test_interrupted_pair_is_not_left(tmp_path):
    (tmp_path / "net.json").write_text("old")

    def interrupted():
        with staging.staged(tmp_path / "net.json") as path:
            path.write_text("new")
            path.with_suffix(".npz").write_text("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert names(tmp_path) == ["net.json"]
    assert (tmp_path / "net.json").read_text() == "old"


@pytest.mark.parametrize("module", [model_files, staging], ids=lambda module: module.__name__)
def test_doctests(module):
    failed, attempted = doctest.testmod(module)
    assert attempted
    assert not failed
