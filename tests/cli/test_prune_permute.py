"""`mopruning prune --permute`: the channels of a network are reordered before N:M pruning, and files follow."""

import json

import numpy as np
import pytest

from mopruning import ir
from mopruning.granularity import NM
from mopruning.ir.builder import Builder
from mopruning.ir.parameters import parameters
from mopruning.model_files import read_model, write_model
from mopruning.permutation import kept
from tests.cli.mixed_network import pruned_by_hand
from tests.cli.networks import arrays
from tests.ir.small_models import run as compute


def network(folder, ending=".onnx"):
    net = Builder("net", seed=2)
    x = net.relu(net.conv(net.input("x", (3, 8, 8)), "conv1", 16, 3, bias=True), "relu1")
    x = net.relu(net.batch_norm(net.conv(x, "conv2", 16, 3), "bn2"), "relu2")
    x = net.gemm(net.flatten(net.global_average_pool(x, "pool"), "flatten"), "fc", 12)
    model = net.model({"y": x})
    write_model(model, folder / f"in{ending}")
    return model, folder / f"in{ending}"


def kept_in(weights):
    return sum(kept(np.moveaxis(weights[f"{name}.weight"], 1, -1).reshape(-1, 16)) for name in ("conv2", "fc"))


@pytest.mark.parametrize("ending", [".onnx", ".mopir"])
def test_permuted_network_keeps_more_and_computes_what_its_masked_self_does(run, tmp_path, ending):
    net, file = network(tmp_path, ending)
    before = file.read_bytes()
    code, out, err = run("prune", file, tmp_path / "out.mopir", "--granularity", "2:4", "--permute")
    assert (code, err, file.read_bytes()) == (0, "", before)
    assert "2 of 3 groups moved" in out
    assert "2 of 7 parameters pruned" in out
    got = read_model(tmp_path / "out.mopir")
    for name in ("conv2.weight", "fc.weight"):
        assert (arrays(got)[name] == 0).mean() == 0.5
    plain = pruned_by_hand(arrays(net), "2:4", names=("conv2.weight", "fc.weight"))
    assert kept_in(arrays(got)) > 1.01 * kept_in(plain)
    # the permuted network before pruning computes what the given one does
    moved = ir.passes.permute(net).model
    x = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
    np.testing.assert_allclose(compute(moved, {"x": x})[0], compute(net, {"x": x})[0], rtol=1e-5, atol=1e-6)
    for name, array in pruned_by_hand(arrays(moved), "2:4", names=("conv2.weight", "fc.weight")).items():
        np.testing.assert_array_equal(arrays(got)[name], array, err_msg=name)
    assert json.loads(got.metadata_props["mopruning.recipe"])["granularity"] == "2:4"


def test_only_what_the_recipe_prunes_is_searched(run, tmp_path):
    net, file = network(tmp_path)
    (tmp_path / "recipe.yaml").write_text("layers:\n  fc.weight: '1:4'\n")
    code, out, _ = run("prune", file, tmp_path / "out.npz", "--recipe", tmp_path / "recipe.yaml", "--permute")
    assert code == 0
    assert "1 of 3 groups moved" in out
    with np.load(tmp_path / "out.npz") as got:
        np.testing.assert_array_equal(got["conv1.weight"], arrays(net)["conv1.weight"])
        assert (got["conv2.weight"] != arrays(net)["conv2.weight"]).any()  # its filters are the channels of fc
        assert np.count_nonzero(got["fc.weight"]) == 12 * 16 // 4
    assert NM(1, 4).misfit(parameters(net)["fc.weight"].value.const_value.shape) is None


def test_what_cannot_be_permuted(fails, tmp_path):
    net, file = network(tmp_path)
    out = tmp_path / "out.mopir"
    message = fails("prune", file, out, "--sparsity", 0.5, "--permute")
    assert "--permute is for one N:M granularity, such as 2:4, in all layers" in message
    assert "is pruned unstructured" in message
    (tmp_path / "recipe.yaml").write_text("layers:\n  fc.weight: '1:4'\n  conv2.weight: '2:4'\n")
    message = fails("prune", file, out, "--recipe", tmp_path / "recipe.yaml", "--permute")
    assert "'conv2.weight' is pruned 2:4, 'fc.weight' is pruned 1:4" in message
    np.savez(tmp_path / "weights.npz", **arrays(net))
    message = fails("prune", tmp_path / "weights.npz", tmp_path / "out.npz", "--granularity", "2:4", "--permute")
    assert "weights.npz holds weights without a network, which --permute needs" in message
    assert not out.exists()
