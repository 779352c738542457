"""`mopruning prune`: it writes what the masks say, and refuses everything else in one line."""

import os

import ml_dtypes
import numpy as np
import pytest

from mopruning import BankBalanced, mask
from mopruning.cli.prune import one_shot
from mopruning.files import open_weights
from mopruning.ir.mindspore_ckpt import Checkpoint, read_checkpoint
from mopruning.ir.weight_files import read_weights, write_weights
from mopruning.recipe import Recipe


def pruned_by_hand(weights, granularity, sparsity, names=("conv.weight", "fc.weight")):
    masked = {n: np.where(mask(abs(weights[n]), granularity, sparsity), weights[n], 0) for n in names}
    return weights | masked


def assert_same(got, expected):
    assert set(got) == set(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(got[name], array, strict=True, err_msg=name)


def test_prune_does_what_the_mask_says_and_nothing_else(run, source, network):
    before = source.read_bytes()
    target = source.with_stem("out")
    code, out, err = run("prune", source, target, "--granularity", "bank:64", "--sparsity", 0.9375)
    assert (code, err) == (0, "")
    assert_same(read_weights(target), pruned_by_hand(network, "bank:64", 0.9375))
    assert source.read_bytes() == before
    assert sorted(entry.name for entry in source.parent.iterdir()) == sorted([source.name, target.name])
    assert BankBalanced(64).misfit((8, 127, 3, 3)) in out
    assert "1-D (bias or normalisation)" in out
    share = 0.9375 * (network["conv.weight"].size + network["fc.weight"].size)
    share /= sum(network[name].size for name in ("conv.weight", "conv.bias", "odd.weight", "fc.weight"))
    assert f"sparsity: 0.9375 of the pruned parameters, {share:.4f} of all (was 0.0000)" in out
    assert "also in the file: 1 x int64 numbers, 1 x running statistic" in out
    assert f"{target}: {target.stat().st_size:,} bytes" in out


def test_pruned_weights_are_plus_zero(run, source):
    target = source.with_stem("out")
    run("prune", source, target, "--sparsity", 0.5)
    weight = read_weights(target)["fc.weight"]
    assert not np.signbit(weight[weight == 0]).any()


def test_prune_changes_the_format_where_nothing_is_lost(run, source, network):
    target = source.with_name("out.npz" if source.suffix == ".safetensors" else "out.safetensors")
    assert run("prune", source, target, "--granularity", "2:4")[0] == 0
    assert_same(read_weights(target), pruned_by_hand(network, "2:4", 0.5))


@pytest.mark.parametrize("allocation", ["global", "lamp", "erk"])
def test_prune_shares_out_a_total(run, source, allocation):
    recipe = source.with_name("recipe.yaml")
    recipe.write_text(f"sparsity: 0.8\nallocation: {allocation}\nschedule: {{start: 100, length: 900}}\n")
    target = source.with_stem("out")
    assert run("prune", source, target, "--recipe", recipe)[0] == 0
    got = read_weights(target)
    names = ("conv.weight", "odd.weight", "fc.weight")
    zeros, size = (sum(f(got[name]) for name in names) for f in (lambda a: (a == 0).sum(), np.size))
    assert abs(zeros - 0.8 * size) <= (1 if allocation != "erk" else len(names))
    assert len({round((got[name] == 0).mean(), 3) for name in names}) > 1


def test_prune_follows_a_recipe_with_names_and_globs(run, source, network):
    recipe = source.with_name("recipe.yaml")
    recipe.write_text("layers: {fc.*: 0.9, conv.weight: {granularity: filter, sparsity: 0.25}}\n")
    target = source.with_stem("out")
    assert run("prune", source, target, "--recipe", recipe)[0] == 0
    expected = pruned_by_hand(network, "unstructured", 0.9, ["fc.weight"])
    assert_same(read_weights(target), pruned_by_hand(expected, "filter", 0.25, ["conv.weight"]))


def test_published_recipe_is_accepted(run, source):
    recipe = source.with_name("prune_config.yaml")
    recipe.write_text("prune_ratio:\n  module.fc.weight: m4n2\n  module.conv.weight: 0.5\n")
    target = source.with_stem("out")
    assert run("prune", source, target, "--recipe", recipe)[0] == 0
    got = read_weights(target)
    assert ((got["fc.weight"].reshape(10, 32, 4) != 0).sum(axis=2) == 2).all()


def test_bfloat16_stays_bfloat16(run, tmp_path):
    weight = np.random.default_rng(0).standard_normal((4, 64)).astype(ml_dtypes.bfloat16)
    write_weights(tmp_path / "in.safetensors", {"w": weight})
    assert run("prune", tmp_path / "in.safetensors", tmp_path / "out.safetensors", "--sparsity", 0.5)[0] == 0
    got = read_weights(tmp_path / "out.safetensors")["w"]
    expected = np.where(mask(abs(weight.astype(np.float32)), "unstructured", 0.5), weight, np.zeros_like(weight))
    np.testing.assert_array_equal(got, expected, strict=True)


def test_big_endian_weights_stay_big_endian(run, tmp_path):
    write_weights(tmp_path / "in.npz", {"w": np.arange(1.0, 9.0).reshape(1, 8).astype(">f4")})
    assert run("prune", tmp_path / "in.npz", tmp_path / "out.npz", "--sparsity", 0.5)[0] == 0
    expected = np.array([[0, 0, 0, 0, 5, 6, 7, 8]], ">f4")
    np.testing.assert_array_equal(read_weights(tmp_path / "out.npz")["w"], expected, strict=True)


def test_checkpoint_is_pruned_with_everything_beside_it(run, tmp_path, network):
    torch = pytest.importorskip("torch")
    state = {name: torch.from_numpy(array) for name, array in network.items()}
    torch.save({"epoch": 3, "state_dict": {**state, "tied.weight": state["fc.weight"]}}, tmp_path / "in.pth")
    code, out, err = run(
        "prune", tmp_path / "in.pth", tmp_path / "out.pth", "--granularity", "bank:64", "--sparsity", 0.9375
    )
    assert (code, err) == (0, "")
    assert "tied to fc.weight" in out
    assert "(was 0.0000)" in out
    got = torch.load(tmp_path / "out.pth", weights_only=True)
    assert got["epoch"] == 3
    tied = got["state_dict"].pop("tied.weight")
    assert tied.data_ptr() == got["state_dict"]["fc.weight"].data_ptr()
    assert_same({name: t.numpy() for name, t in got["state_dict"].items()}, pruned_by_hand(network, "bank:64", 0.9375))
    before = torch.load(tmp_path / "in.pth", weights_only=True)["state_dict"]
    assert torch.equal(before["fc.weight"], state["fc.weight"])


def test_one_shot_leaves_the_given_weights_alone(network):
    given = {name: array.copy() for name, array in network.items()}
    plan = Recipe(sparsity=0.5).plan({name: array.shape for name, array in given.items()})
    pruned = one_shot(plan, given)
    assert set(pruned) == {"conv.weight", "odd.weight", "fc.weight"}
    assert_same(given, network)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weight_that_cannot_be_ranked_is_named_and_nothing_written(fails, tmp_path, value, network):
    network["fc.weight"][3, 5] = value
    write_weights(tmp_path / "in.npz", network)
    assert "fc.weight: " in fails("prune", tmp_path / "in.npz", tmp_path / "out.npz", "--sparsity", 0.5)
    assert [entry.name for entry in tmp_path.iterdir()] == ["in.npz"]


def test_misspelt_name_is_an_error_with_the_nearest(fails, source):
    recipe = source.with_name("recipe.yaml")
    recipe.write_text("layers: {fc.wieght: 0.9}\n")
    message = fails("prune", source, source.with_stem("out"), "--recipe", recipe)
    assert "'fc.wieght' matches no parameter; did you mean 'fc.weight'" in message
    assert not source.with_stem("out").exists()


def test_existing_target_is_replaced_by_force_only(run, fails, source):
    target = source.with_stem("out")
    target.write_text("precious")
    assert "out" in fails("prune", source, target, "--sparsity", 0.5)
    assert target.read_text() == "precious"
    assert run("prune", source, target, "--sparsity", 0.5, "--force")[0] == 0
    assert (read_weights(target)["fc.weight"] == 0).mean() == 0.5


def test_input_is_never_the_output(fails, source):
    before = source.read_bytes()
    link, hard = source.with_stem("link"), source.with_stem("hard")
    link.symlink_to(source)
    os.link(source, hard)
    for target in (source, link, hard, source.parent / "." / source.name):
        assert "is the input, which is never changed" in fails("prune", source, target, "--sparsity", 0.5, "--force")
    assert source.read_bytes() == before


def test_failing_write_leaves_no_file(fails, source, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert "No space left" in fails("prune", source, source.with_stem("out"), "--sparsity", 0.5)
    assert [entry.name for entry in source.parent.iterdir()] == [source.name]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "nothing would be pruned: give --sparsity"),
        (("--granularity", "bank:64"), "nothing would be pruned: give --sparsity"),
        (("--sparsity", "0"), "nothing would be pruned"),
        (("--sparsity", "90"), "for 90 percent write 0.9"),
        (("--granularity", "bnak:64", "--sparsity", "0.9"), "unknown granularity 'bnak:64'"),
        (("--granularity", "bank:256", "--sparsity", "0.9"), "nothing would be pruned (conv."),
        (("--recipe", "none.yaml"), "none.yaml"),
        (("--recipe", "none.yaml", "--sparsity", "0.9"), "either --recipe or --granularity and --sparsity"),
    ],
)
def test_impossible_requests_are_told(fails, source, arguments, message):
    assert message in fails("prune", source, source.with_stem("out"), *arguments)
    assert not source.with_stem("out").exists()


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("{sparsity: 0.5, score: movement}", "score 'movement' needs gradients"),
        ("{sparsity: 0.5, score: taylor}", "use magnitude, fpgm, bn_scale, random"),
        ("fix_sparsity: true", "fix_sparsity keeps the zeros that are there"),
    ],
)
def test_recipes_that_need_a_training_are_refused(fails, source, recipe, message):
    path = source.with_name("recipe.yaml")
    path.write_text(recipe)
    assert message in fails("prune", source, source.with_stem("out"), "--recipe", path)


def test_scales_are_not_guessed_from_sorted_names(run, fails, tmp_path):
    weights = {"b.weight": np.ones((4, 4)), "c.weight": np.arange(4.0), "a.weight": np.arange(4.0)[::-1]}
    (tmp_path / "recipe.yaml").write_text("{score: bn_scale, granularity: filter, sparsity: 0.5}")
    for suffix in (".npz", ".safetensors"):
        write_weights(tmp_path / f"in{suffix}", weights)
    options = ("--recipe", tmp_path / "recipe.yaml")
    message = fails("prune", tmp_path / "in.safetensors", tmp_path / "out.safetensors", *options)
    assert "name the scale of 'b.weight' in bn_scales" in message
    assert run("prune", tmp_path / "in.npz", tmp_path / "out.npz", *options)[0] == 0
    assert read_weights(tmp_path / "out.npz")["b.weight"].any(axis=1).tolist() == [False, False, True, True]


def test_loss_by_changing_the_format_is_refused(fails, tmp_path):
    write_weights(tmp_path / "in.safetensors", {"w": np.ones((2, 2), ml_dtypes.bfloat16)})
    assert ".npz has no dtype" in fails("prune", tmp_path / "in.safetensors", tmp_path / "out.npz", "--sparsity", 0.5)
    assert not (tmp_path / "out.npz").exists()


@pytest.mark.parametrize(("name", "target"), [("in.bin", "out.npz"), ("in.npz", "out.onnxx")])
def test_unknown_suffix_lists_the_known_ones(fails, tmp_path, name, target):
    (tmp_path / name).write_text("")
    message = fails("prune", tmp_path / name, tmp_path / target, "--sparsity", 0.5)
    assert "known: .safetensors, .npz, .pth, .pt" in message


def test_missing_input_and_folder_are_told(fails, source, tmp_path):
    assert "there is no such file" in fails("prune", tmp_path / "none.npz", tmp_path / "out.npz", "--sparsity", 0.5)
    assert "there is no such folder" in fails("prune", source, tmp_path / "none" / "out.npz", "--sparsity", 0.5)


def test_what_else_a_checkpoint_of_mindspore_holds_is_kept(run, tmp_path, network):
    weights = {name: array for name, array in network.items() if array.shape}
    Checkpoint(tmp_path, weights, {"epoch_num": b"3"}, checked=True).save(tmp_path / "in.ckpt")
    options = ("--granularity", "bank:64", "--sparsity", 0.9375)
    code, out, err = run("prune", tmp_path / "in.ckpt", tmp_path / "out.ckpt", *options)
    assert (code, err) == (0, "")
    assert "no place" not in out
    pruned = read_checkpoint(tmp_path / "out.ckpt")
    assert_same(pruned.tensors, pruned_by_hand(weights, "bank:64", 0.9375))
    assert (pruned.texts, pruned.checked) == ({"epoch_num": b"3"}, True)
    for target in ("out.npz", "out.mopir"):
        code, out, _ = run("prune", tmp_path / "in.ckpt", tmp_path / target, *options)
        assert code == 0
        assert f"{tmp_path / target} has no place for epoch_num" in out
        assert_same(open_weights(tmp_path / target).weights(), pruned_by_hand(weights, "bank:64", 0.9375))
