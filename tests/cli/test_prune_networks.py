"""`mopruning prune` on networks: masks on canonical weights, everything else as it was, in every format."""

import doctest
import json
import os

import numpy as np
import pytest

from mopruning import ir
from mopruning.cli import graph_summary, network_file, notes, opening
from mopruning.cli.network_file import NetworkFile, as_stored
from mopruning.cli.opening import READABLE
from mopruning.errors import FormatError
from mopruning.files import open_weights
from mopruning.ir.mopir import load_weights, save_weights
from mopruning.ir.parameters import Parameter
from mopruning.ir.ties import ties_metadata
from mopruning.ir.weight_files import read_weights
from mopruning.model_files import read_model, write_model
from tests.cli.mixed_network import WEIGHTS, damage, mixed, pruned_by_hand
from tests.cli.networks import arrays, put
from tests.ir.small_models import Weights, content, encoder, model, node, recurrent
from tests.ir.small_models import run as compute

ENDINGS = (".mopir", ".onnx", ".json")


def zoo_file(folder, ending, name="mnist_cnn"):
    net = ir.zoo.build(name, seed=1)
    write_model(net, folder / f"in{ending}")
    return net, folder / f"in{ending}"


def assert_same(got, expected):
    assert set(got) == set(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(got[name], array, strict=True, err_msg=name)
        assert got[name].tobytes() == array.tobytes(), name  # also the signs of zeros


@pytest.mark.parametrize("tested", [graph_summary, network_file, notes, opening])
def test_doctests(tested):
    assert doctest.testmod(tested).failed == 0


@pytest.mark.parametrize(("granularity", "sparsity"), [("2:4", 0.5), ("unstructured", 0.7), ("filter", 0.5)])
def test_weights_are_pruned_as_layers_see_them(run, tmp_path, granularity, sparsity):
    net = mixed()
    ir.save(net, tmp_path / "in.mopir")
    before = (tmp_path / "in.mopir").read_bytes()
    options = ("--granularity", granularity, "--sparsity", sparsity)
    code, out, err = run("prune", tmp_path / "in.mopir", tmp_path / "out.mopir", *options)
    assert (code, err) == (0, "")
    expected = pruned_by_hand(arrays(net), granularity, sparsity)
    got = ir.load(tmp_path / "out.mopir")
    assert_same(arrays(got), expected)
    assert sum((expected[name] == 0).sum() for name in WEIGHTS) > 0
    assert (tmp_path / "in.mopir").read_bytes() == before
    assert [str(one) for one in got.graph] == [str(one) for one in net.graph]
    assert "positions" in out
    assert "no weight of a layer" in out
    assert "also in the file: 2 x constant, 2 x running statistic" in out


def test_pruned_network_computes_what_the_masked_one_does(run, tmp_path):
    net, x = mixed(), np.random.default_rng(0).standard_normal((2, 8, 6, 6)).astype(np.float32)
    ir.save(net, tmp_path / "in.mopir")
    dense = compute(net, {"x": x})[0]
    assert run("prune", tmp_path / "in.mopir", tmp_path / "out.onnx", "--granularity", "2:4")[0] == 0
    for name, array in pruned_by_hand(arrays(net), "2:4").items():
        put(net, name, array)
    masked = compute(net, {"x": x})[0]
    got = compute(read_model(tmp_path / "out.onnx"), {"x": x})[0]
    np.testing.assert_allclose(got, masked, rtol=1e-5, atol=1e-6)
    assert np.abs(got - dense).max() > 0.01


@pytest.mark.parametrize("out", ENDINGS)
@pytest.mark.parametrize("source", ENDINGS)
def test_any_format_of_networks_becomes_any_other(run, tmp_path, source, out):
    net, file = zoo_file(tmp_path, source)
    target = tmp_path / f"out{out}"
    assert run("prune", file, target, "--granularity", "bank:64", "--sparsity", 0.9375)[0] == 0
    names = ("conv2.weight", "conv3.weight", "fc.weight")
    assert_same(arrays(read_model(target)), pruned_by_hand(arrays(net), "bank:64", 0.9375, names))
    beside = {f"in{end}" for end in ((source, ".npz") if source == ".json" else (source,))}
    beside |= {f"out{end}" for end in ((out, ".npz") if out == ".json" else (out,))}
    assert {entry.name for entry in tmp_path.iterdir()} == beside


def test_folder_is_source_that_computes_the_same(run, tmp_path):
    pytest.importorskip("torch")
    net, file = zoo_file(tmp_path, ".onnx")
    assert run("prune", file, tmp_path / "out", "--sparsity", 0.8)[0] == 0
    names = ("conv1.weight", "conv2.weight", "conv3.weight", "fc.weight")
    assert (tmp_path / "out" / "model.py").is_file()
    assert_same(
        read_weights(tmp_path / "out" / "weights.safetensors"),
        pruned_by_hand(arrays(net), "unstructured", 0.8, names),
    )


@pytest.mark.parametrize("ending", [".npz", ".safetensors", ".pth"])
def test_weights_alone_lie_as_the_network_stores_them(run, tmp_path, ending):
    if ending == ".pth":
        pytest.importorskip("torch")
    net = mixed()
    ir.save(net, tmp_path / "in.mopir")
    target = tmp_path / f"out{ending}"
    code, out, _ = run("prune", tmp_path / "in.mopir", target, "--granularity", "2:4")
    assert code == 0
    assert f"{target} holds parameters and running statistics, without the network" in out
    expected = pruned_by_hand(arrays(net), "2:4")
    del expected["low"], expected["high"]
    assert_same({name: np.asarray(one) for name, one in open_weights(target).arrays().items()}, expected)


def test_recipe_and_provenance_travel_along(run, tmp_path):
    _, file = zoo_file(tmp_path, ".onnx")
    ir.save(read_model(file), tmp_path / "a.mopir", recipe={"sparsity": 0.1}, provenance={"seed": 1})
    options = ("--granularity", "bank:64", "--sparsity", 0.9375)
    for source, target in (("a.mopir", "b.onnx"), ("b.onnx", "c.mopir")):
        assert run("prune", tmp_path / source, tmp_path / target, *options)[0] == 0
    carried = ir.load(tmp_path / "c.mopir").metadata_props
    recipe = json.loads(carried["mopruning.recipe"])
    assert (recipe["sparsity"], recipe["granularity"]) == (0.9375, "bank:64")
    assert json.loads(carried["mopruning.provenance"]) == {"seed": 1, "pruned_from": "b.onnx"}
    assert carried["mopruning.source"] == "zoo"


def test_weights_without_a_network_keep_recipe_and_provenance(run, tmp_path, source, network):
    assert run("prune", source, tmp_path / "a.mopir", "--granularity", "2:4")[0] == 0
    assert run("prune", tmp_path / "a.mopir", tmp_path / "b.mopir", "--sparsity", 0.75)[0] == 0
    texts = open_weights(tmp_path / "b.mopir").texts
    assert json.loads(texts["provenance"]) == {"pruned_from": "a.mopir"}
    assert json.loads(texts["recipe"])["sparsity"] == 0.75
    assert (load_weights(tmp_path / "b.mopir")["fc.weight"] == 0).mean() == 0.75
    code, out, _ = run("prune", tmp_path / "b.mopir", tmp_path / "c.npz", "--sparsity", 0.8)
    assert code == 0
    assert f"{tmp_path / 'c.npz'} has no place for provenance and recipe" in out
    assert read_weights(tmp_path / "c.npz").keys() == network.keys()


def test_shared_weight_is_one_parameter(run, tmp_path):
    ir.save(mixed(), tmp_path / "in.mopir")
    _, out, _ = run("prune", tmp_path / "in.mopir", tmp_path / "out.mopir", "--sparsity", 0.5)
    assert out.count("shared.weight") == 1
    assert (load_weights(tmp_path / "out.mopir")["shared.weight"] == 0).mean() == 0.5


def test_tied_weight_is_pruned_once_and_has_all_its_names_in_a_file_of_weights(run, tmp_path):
    net = mixed()
    net.metadata_props.update(ties_metadata({"again.weight": "gemm.weight"}))
    ir.save(net, tmp_path / "in.mopir")
    _, out, _ = run("prune", tmp_path / "in.mopir", tmp_path / "out.npz", "--granularity", "2:4")
    assert "1 x tied to gemm.weight" in out
    got = read_weights(tmp_path / "out.npz")
    np.testing.assert_array_equal(got["again.weight"], pruned_by_hand(arrays(net), "2:4")["gemm.weight"])
    np.testing.assert_array_equal(got["again.weight"], got["gemm.weight"])
    assert "tied to gemm.weight" in run("inspect", tmp_path / "in.mopir")[1]


@pytest.mark.parametrize("operator", ["LSTM", "GRU"])
def test_recurrent_weights_are_pruned_and_biases_are_not(run, tmp_path, operator):
    net = recurrent(operator)
    ir.save(net, tmp_path / "in.mopir")
    assert run("prune", tmp_path / "in.mopir", tmp_path / "out.mopir", "--sparsity", 0.5)[0] == 0
    before, got = arrays(net), load_weights(tmp_path / "out.mopir")
    np.testing.assert_array_equal(got["b"], before["b"])
    for name in ("w", "r"):
        rows = before[name].reshape(-1, before[name].shape[-1])
        expected = pruned_by_hand({name: rows}, "unstructured", 0.5, [name])[name]
        np.testing.assert_array_equal(got[name], expected.reshape(before[name].shape))


def test_what_is_no_weight_is_pruned_where_the_recipe_names_it(run, tmp_path):
    ir.save(mixed(), tmp_path / "in.mopir")
    (tmp_path / "recipe.yaml").write_text("layers: {positions: 0.5}")
    assert run("prune", tmp_path / "in.mopir", tmp_path / "out.mopir", "--recipe", tmp_path / "recipe.yaml")[0] == 0
    got = load_weights(tmp_path / "out.mopir")
    assert (got["positions"] == 0).sum() == 6
    assert (got["gemm.weight"] != 0).all()


def crossed():
    """Two convolutions whose normalisations stand in the other order, one of them behind an activation."""
    w = Weights(seed=1)
    for name in ("a", "b"):
        w.make(f"{name}.weight", 4, 4, 1, 1)
    norms = {name: w.norm(f"bn_{name}", 4) for name in ("b", "a")}
    w["bn_a.weight"], w["bn_b.weight"] = np.float32([1, 2, 3, 4]), np.float32([4, 3, 2, 1])
    nodes = [
        node("Conv", "a", "x a.weight"),
        node("Conv", "b", "x b.weight"),
        node("Relu", "relu", "b"),
        node("BatchNormalization", "bn_b", f"relu {norms['b']}"),
        node("BatchNormalization", "bn_a", f"a {norms['a']}"),
        node("Add", "y", "bn_a bn_b"),
    ]
    return model({"x": ["N", 4, 2, 2]}, nodes, ["y"], w)


def test_scales_are_those_of_the_normalisation_that_follows_in_the_graph(run, tmp_path):
    ir.save(crossed(), tmp_path / "in.mopir")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("{score: bn_scale, granularity: filter, sparsity: 0.5}")
    assert run("prune", tmp_path / "in.mopir", tmp_path / "out.onnx", "--recipe", recipe)[0] == 0
    got = arrays(read_model(tmp_path / "out.onnx"))
    assert got["a.weight"].any(axis=(1, 2, 3)).tolist() == [False, False, True, True]
    assert got["b.weight"].any(axis=(1, 2, 3)).tolist() == [True, True, False, False]


def test_named_scales_count_over_those_of_the_graph(run, tmp_path):
    ir.save(crossed(), tmp_path / "in.mopir")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("{score: bn_scale, granularity: filter, sparsity: 0.5, bn_scales: {a.weight: bn_b.weight}}")
    assert run("prune", tmp_path / "in.mopir", tmp_path / "out.onnx", "--recipe", recipe)[0] == 0
    got = arrays(read_model(tmp_path / "out.onnx"))
    assert got["a.weight"].any(axis=(1, 2, 3)).tolist() == [True, True, False, False]


def test_weight_without_a_normalisation_is_told(fails, tmp_path):
    ir.save(ir.zoo.build("lenet5"), tmp_path / "in.mopir")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("{score: bn_scale, granularity: filter, sparsity: 0.5}")
    message = fails("prune", tmp_path / "in.mopir", tmp_path / "out.mopir", "--recipe", recipe)
    assert "no normalisation of 6 channels follows" in message
    assert not (tmp_path / "out.mopir").exists()


def test_replacing_changes_no_model_that_was_read():
    net = mixed()
    before = content(net)
    file = NetworkFile("in.mopir", net)
    old = file.weights()["up.weight"]
    file.replace({"up.weight": np.zeros_like(old)})
    assert content(net) == before
    assert not arrays(file.model)["up.weight"].any()
    assert file.model.graph.initializers["positions"].const_value is net.graph.initializers["positions"].const_value
    with pytest.raises(ValueError, match=r"up.weight: expected float32 \(8, 4, 2, 2\)"):
        file.replace({"up.weight": np.zeros((1, 4, 2, 2), np.float32)})


@pytest.mark.parametrize(
    ("shape", "settings"),
    [
        ((6, 5, 3, 3), {"layout": "deconvolution", "groups": 2}),
        ((6, 5, 3), {"layout": "deconvolution"}),
        ((4, 7), {"layout": "transposed"}),
        ((2, 4, 7), {"layout": "transposed"}),
        ((4, 7), {"layout": "transposed", "order": (1, 0)}),
        ((2, 12, 5), {"layout": "stacked"}),
        ((12, 2, 5), {"layout": "stacked", "order": (1, 0, 2)}),
        ((3, 4, 2, 2), {"order": (1, 0, 2, 3)}),
        ((0, 4), {"layout": "transposed"}),
        ((5,), {}),
    ],
)
def test_what_was_shown_goes_back_to_where_it_was(shape, settings):
    known = Parameter(None, None, **settings)
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    np.testing.assert_array_equal(as_stored(known, known.canonical(array).copy(), shape), array, strict=True)


# ---- what cannot be done


@pytest.mark.parametrize("target", ["out.onnx", "out.json", "out"])
def test_a_network_cannot_be_made_of_weights(fails, tmp_path, source, target):
    save_weights(read_weights(source), tmp_path / "weights.mopir")
    for file in (source, tmp_path / "weights.mopir"):
        message = fails("prune", file, tmp_path / target, "--sparsity", 0.5)
        assert f"{file} holds weights without a network, which {target} needs; write one of .safetensors" in message
        assert "or prune a file that holds the network" in message
        assert not (tmp_path / target).exists()


@pytest.mark.parametrize("ending", ENDINGS)
def test_weight_that_cannot_be_ranked_is_named(fails, tmp_path, ending):
    net, file = zoo_file(tmp_path, ending)
    weight = arrays(net)["fc.weight"].copy()
    weight[3, 5] = np.nan
    put(net, "fc.weight", weight)
    write_model(net, file)
    assert "fc.weight: 1 NaN and 0 infinite" in fails("prune", file, tmp_path / "out.mopir", "--sparsity", 0.5)
    assert not (tmp_path / "out.mopir").exists()


def test_misspelt_name_is_an_error_with_the_nearest(fails, tmp_path):
    _, file = zoo_file(tmp_path, ".onnx")
    (tmp_path / "recipe.yaml").write_text("layers: {conv2.wieght: 0.9}")
    message = fails("prune", file, tmp_path / "out.mopir", "--recipe", tmp_path / "recipe.yaml")
    assert "'conv2.wieght' matches no parameter; did you mean 'conv2.weight'" in message


@pytest.mark.parametrize("ending", ENDINGS)
def test_damaged_files_are_one_line_and_nothing_is_written(fails, tmp_path, ending):
    _, file = zoo_file(tmp_path, ending)
    file.write_bytes(file.read_bytes()[:-40])
    before = {entry.name for entry in tmp_path.iterdir()}
    assert str(file) in fails("prune", file, tmp_path / "out.mopir", "--sparsity", 0.5)
    assert {entry.name for entry in tmp_path.iterdir()} == before


def test_flipped_bit_in_a_weight_names_it(fails, tmp_path):
    ir.save(mixed(), tmp_path / "in.mopir")
    damage(tmp_path / "in.mopir", arrays(mixed())["gemm.weight"])
    message = fails("prune", tmp_path / "in.mopir", tmp_path / "out.onnx", "--sparsity", 0.5)
    assert "tensor 'gemm.weight': damaged: the CRC32 of its bytes does not match" in message
    assert [entry.name for entry in tmp_path.iterdir()] == ["in.mopir"]


def test_a_tensor_that_cannot_be_decoded_is_named(monkeypatch):
    net = mixed()
    tensor = net.graph.initializers["gemm.weight"].const_value
    monkeypatch.setattr(type(tensor), "numpy", lambda self: 1 / 0)
    with pytest.raises(FormatError, match=r"in.onnx: tensor 'gemm.weight': division by zero"):
        NetworkFile("in.onnx", net).tensors()["gemm.weight"].read()


def test_no_part_of_the_input_is_ever_the_output(fails, tmp_path):
    _, file = zoo_file(tmp_path, ".json")
    before = {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()}
    for target in (file, tmp_path / "in.npz"):
        assert "is the input, which is never changed" in fails("prune", file, target, "--sparsity", 0.5, "--force")
    assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == before


def test_no_part_of_the_output_is_replaced_without_leave(run, fails, tmp_path):
    _, file = zoo_file(tmp_path, ".mopir")
    (tmp_path / "out.npz").write_text("precious")
    assert "out.npz: exists" in fails("prune", file, tmp_path / "out.json", "--sparsity", 0.5)
    assert (tmp_path / "out.npz").read_text() == "precious"
    assert run("prune", file, tmp_path / "out.json", "--sparsity", 0.5, "--force")[0] == 0
    assert (arrays(read_model(tmp_path / "out.json"))["fc.weight"] == 0).mean() == 0.5


@pytest.mark.parametrize("ending", [*ENDINGS, ".npz", ""])
def test_failing_write_leaves_no_file(fails, tmp_path, monkeypatch, ending):
    def full(*_):
        raise OSError(28, "No space left on device")

    _, file = zoo_file(tmp_path, ".mopir")
    monkeypatch.setattr(os, "fsync", full)
    assert "No space left" in fails("prune", file, tmp_path / f"out{ending}", "--sparsity", 0.5)
    assert [entry.name for entry in tmp_path.iterdir()] == [file.name]


def test_what_a_format_cannot_express_is_told(fails, tmp_path):
    ir.save(encoder(), tmp_path / "in.mopir")
    assert "(LayerNormalization)" in fails("prune", tmp_path / "in.mopir", tmp_path / "out.json", "--sparsity", 0.5)
    assert [entry.name for entry in tmp_path.iterdir()] == ["in.mopir"]


def test_pair_needs_both_files(fails, tmp_path):
    _, file = zoo_file(tmp_path, ".json")
    (tmp_path / "in.npz").unlink()
    assert "in.npz: No such file or directory" in fails("prune", file, tmp_path / "out.mopir", "--sparsity", 0.5)


def test_suffixes_that_stand_for_nothing_list_those_that_do(fails, tmp_path):
    _, file = zoo_file(tmp_path, ".onnx")
    message = fails("prune", file, tmp_path / "out.tflite", "--sparsity", 0.5)
    assert f"known: {', '.join(READABLE)}, or a folder of PyTorch source" in message
    assert "known: .safetensors" in fails("prune", tmp_path / "folder", tmp_path / "out.mopir", "--sparsity", 0.5)


# ---- from one end to the other


def test_prune_inspect_verify_compare_and_convert_back(run, tmp_path):
    pytest.importorskip("onnxruntime")
    net, file = zoo_file(tmp_path, ".onnx")
    sparse, back = tmp_path / "out.mopir", tmp_path / "back.onnx"
    assert run("prune", file, sparse, "--granularity", "2:4")[0] == 0
    _, out, _ = run("inspect", sparse, "--json")
    found = json.loads(out)["parameters"]
    pruned = ("conv2.weight", "conv3.weight", "fc.weight")
    assert {name: found[name]["conformity"]["nm"]["4"] for name in pruned} == dict.fromkeys(pruned, 2)
    code, out, _ = run("verify", sparse)
    assert (code, f"OK: {sparse} (mopir, {sparse.stat().st_size:,} bytes)" in out) == (0, True)
    code, out, _ = run("compare", file, sparse)
    assert code == 1
    assert "graphs: identical" in out
    assert "weights: 3 of 17 differ" in out
    code, out, _ = run("convert", sparse, back)
    assert (code, "check: largest difference 0 " in out) == (0, True)
    assert run("compare", sparse, back)[0] == 0
    assert_same(arrays(read_model(back)), pruned_by_hand(arrays(net), "2:4", names=pruned))
