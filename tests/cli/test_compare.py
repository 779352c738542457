"""`mopruning compare`: exit code 0 only where nothing differs that counts."""

import doctest

import ml_dtypes
import numpy as np
import pytest

from mopruning.cli import compare
from mopruning.cli.compare import compare_graphs, compare_weights
from mopruning.ir import mopir, zoo
from mopruning.ir.builder import Builder
from mopruning.ir.weight_files import write_weights
from mopruning.model_files import write_model
from tests.cli.networks import NAMES, arrays, pruned, put


def line(out, name):
    return next(text for text in out.splitlines() if f" {name} " in text)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("ending", [".mopir", ".onnx", ".json"])
def test_one_network_in_two_formats(run, tmp_path, name, ending):
    model = pruned(name)
    mopir.save(model, tmp_path / "a.mopir")
    write_model(model, tmp_path / f"b{ending}")
    code, out, err = run("compare", tmp_path / "a.mopir", tmp_path / f"b{ending}")
    assert err == ""
    assert "\nweights: identical\n" in out
    if ending != ".json":
        assert "\ngraphs: identical\n" in out
        assert code == 0


def test_other_values_under_the_same_zeros(run, tmp_path):
    model = pruned("lenet5")
    mopir.save(model, tmp_path / "a.mopir")
    weight = arrays(model)["fc1.weight"].copy()
    at = tuple(np.argwhere(weight)[0])
    weight[at] += np.float32(0.25)
    put(model, "fc1.weight", weight)
    mopir.save(model, tmp_path / "b.mopir")
    code, out, _ = run("compare", tmp_path / "a.mopir", tmp_path / "b.mopir")
    assert code == 1
    assert "zeros identical" in line(out, "fc1.weight")
    assert "identical" in line(out, "fc2.weight")
    assert "weights: 1 of 10 differ, zeros identical, largest difference 0.25\n" in out


def test_other_zeros(run, tmp_path):
    models = {"a": pruned("lenet5", sparsity=0.9), "b": pruned("lenet5", sparsity=0.5)}
    for name, model in models.items():
        mopir.save(model, tmp_path / f"{name}.mopir")
    zeros = [int((arrays(model)["fc3.weight"] == 0).sum()) for model in models.values()]
    code, out, _ = run("compare", tmp_path / "a.mopir", tmp_path / "b.mopir")
    assert code == 1
    # magnitude masks are nested: what 0.5 prunes, 0.9 prunes
    assert f"zeros differ in {zeros[0] - zeros[1]:,} places" in line(out, "fc3.weight")
    assert ", zeros differ, largest difference " in out


def test_other_networks(run, tmp_path):
    mopir.save(pruned("lenet5"), tmp_path / "a.mopir")
    mopir.save(pruned("mnist_cnn"), tmp_path / "b.mopir")
    code, out, _ = run("compare", tmp_path / "a.mopir", tmp_path / "b.mopir")
    assert code == 1
    assert "graphs: differ: node 'conv1' in A, 'conv1' in B: " in out
    assert "only in A" in line(out, "fc3.bias")
    assert "only in B" in line(out, "bn1.bias")
    assert "shapes 6x1x5x5 and 64x1x3x3" in line(out, "conv1.weight")


def test_weights_against_a_network(run, torch, tmp_path):
    model = pruned("resnet8_cifar")
    mopir.save(model, tmp_path / "a.mopir")
    state = {name: torch.from_numpy(array.copy()) for name, array in arrays(model).items()}
    torch.save(state | {"bn1.num_batches_tracked": torch.tensor(3)}, tmp_path / "b.pth")
    code, out, _ = run("compare", tmp_path / "a.mopir", tmp_path / "b.pth")
    assert code == 0
    assert "only in B, does not count" in line(out, "bn1.num_batches_tracked")
    assert "b.pth holds weights alone" in out
    del state["linear.bias"]
    torch.save(state, tmp_path / "b.pth")
    assert run("compare", tmp_path / "a.mopir", tmp_path / "b.pth")[0] == 1


def test_two_files_of_weights(run, source, network):
    other = source.with_name("b.npz")
    write_weights(other, network)
    assert run("compare", source, other)[0] == 0
    write_weights(other, network | {"steps": np.array(4)})
    code, out, _ = run("compare", source, other)
    assert code == 1
    assert "weights: 1 of 6 differ" in out


def test_damaged_file_is_exit_code_2(fails, source):
    source.with_name("b.npz").write_bytes(b"PK")
    fails("compare", source, source.with_name("b.npz"))
    assert "there is no such file" in fails("compare", source, source.with_name("none.onnx"))


@pytest.mark.parametrize(
    ("left", "right", "verdict", "largest"),
    [
        (np.array([0.0, 1.0]), np.array([-0.0, 1.0]), "zeros identical, other signs of zero or NaN", 0.0),
        (np.array([0.0, 1.0]), np.array([0.5, 1.0]), "zeros differ in 1 places", 0.5),
        (np.array([np.nan, np.inf]), np.array([np.nan, np.inf]), "identical", 0.0),
        (np.array([np.nan, 1]), np.array([2.0, 1]), "zeros identical", np.nan),
        (np.ones(2, "f4"), np.ones(2, ml_dtypes.bfloat16), "zeros identical, float32 and bfloat16", 0.0),
        (np.ones(2, "<f4"), np.ones(2, ">f4"), "identical", 0.0),
        (np.ones(2), np.ones((2, 1)), "shapes 2 and 2x1", None),
    ],
)
def test_verdicts(left, right, verdict, largest):
    (row,) = compare_weights({"w": left}, {"w": right})
    assert row.verdict == verdict
    np.testing.assert_equal(row.largest, largest)


def small(name="fc", outputs=2, relu=True):
    net = Builder("net")
    x = net.gemm(net.input("x", (4,)), name, outputs)
    return net.model({"output": net.relu(x, f"{name}.act") if relu else x})


def test_graphs_are_compared_by_what_they_do():
    assert compare_graphs(small(), small()) == ""
    assert compare_graphs(zoo.build("lenet5"), zoo.build("lenet5", seed=3)) == ""
    assert compare_graphs(small(), small(relu=False)) == "2 nodes in A, 1 in B"
    assert "inputs" in compare_graphs(small(), small("other"))
    renamed = small()
    for node in renamed.graph:
        node.name = f"another_{node.name}"
    assert compare_graphs(small(), renamed) == ""
    changed = small()
    del changed.graph[0].attributes["transB"]
    assert "attributes" in compare_graphs(small(), changed)


def test_doctests():
    failed, attempted = doctest.testmod(compare)
    assert attempted
    assert not failed
