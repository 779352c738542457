"""`mopruning inspect` on networks and .mopir files: the graph, how weights are stored, and their canonical patterns."""

import doctest
import json
import tracemalloc

import numpy as np
import pytest

from mopruning import ir
from mopruning.cli import graph_summary, inspect, notes
from mopruning.cli.contents import contents
from mopruning.cli.opening import READABLE
from mopruning.conformity import conformity
from mopruning.files import parameters as by_name
from mopruning.ir import container
from mopruning.ir.mopir import save_weights
from mopruning.ir.weight_files import read_weights
from mopruning.model_files import write_model
from tests.cli.mixed_network import WEIGHTS, damage, mixed, other_way, pruned_by_hand
from tests.cli.networks import arrays, pruned, put
from tests.ir.small_models import encoder

ENDINGS = (".mopir", ".onnx", ".json")


@pytest.fixture
def sparse_mixed():
    net = mixed()
    for name, array in pruned_by_hand(arrays(net), "2:4").items():
        put(net, name, array)
    return net


def rows(out):
    """The cells of each row of a table, by the first."""
    cells = ([cell.strip() for cell in line.strip("│┃").split("│")] for line in out.splitlines() if "│" in line)
    return {row[0]: row[1:] for row in cells}


@pytest.mark.parametrize("tested", [graph_summary, inspect, notes])
def test_doctests(tested):
    assert doctest.testmod(tested).failed == 0


@pytest.mark.parametrize("ending", ENDINGS)
def test_graph_stands_ahead_of_the_weights(run, tmp_path, ending):
    write_model(pruned("mnist_cnn", "bank:64", 0.9375), tmp_path / f"net{ending}")
    code, out, err = run("inspect", tmp_path / f"net{ending}")
    assert (code, err) == (0, "")
    lines = [line.split(maxsplit=1) for line in out.partition("┏")[0].splitlines()]
    head = dict(lines)
    name, output = {".json": ("net", "dense_11")}.get(ending, ("mnist_cnn", "output"))
    assert head == {
        "graph": f"{name}, 11 nodes, 380,362 parameters, opset 20",
        "operators": "3 Conv, 3 BatchNormalization, 3 Relu, 1 Flatten, 1 Gemm",
        "input": "input: float32 [N, 1, 28, 28]",
        "output": f"{output}: float32 [N, 10]",
        "source": "moffett" if ending == ".json" else "zoo",
    }
    assert rows(out)["fc.weight"][:3] == ["10x1024", "10,240", "0.9375"]
    assert rows(out)["fc.weight"][-2] == "4 of 64"
    assert "also in the file: 6 x running statistic" in out


def test_weights_are_seen_as_layers_do(run, tmp_path, sparse_mixed):
    ir.save(sparse_mixed, tmp_path / "net.mopir")
    found = json.loads(run("inspect", tmp_path / "net.mopir", "--json")[1])["parameters"]
    for name in WEIGHTS:
        seen = other_way(name, arrays(sparse_mixed)[name])
        assert found[name]["shape"] == list(seen.shape), name
        assert found[name]["conformity"] == conformity(np.ascontiguousarray(seen)).to_dict(), name
        assert found[name]["conformity"]["nm"]["4"] == 2, name
    assert (found["shared.weight"]["node"], found["turned.weight"]["operator"]) == ("first", "MatMul")
    assert found["positions"]["operator"] == "Add"


@pytest.mark.parametrize("graph", [True, False], ids=["network", "weights"])
def test_mopir_shows_how_each_weight_is_stored(run, tmp_path, sparse_mixed, graph):
    file = tmp_path / "net.mopir"
    tensors = arrays(sparse_mixed)
    notes = {"recipe": {"sparsity": 0.5, "score": "magnitude"}, "provenance": {"seed": 7}}
    ir.save(sparse_mixed, file, **notes) if graph else save_weights(tensors, file, **notes)
    stored, _ = container.read(file)
    code, out, err = run("inspect", file)
    assert (code, err) == (0, "")
    shown = rows(out)
    trained = by_name(tensors)[0].keys() - ({"low", "high"} if graph else set())
    assert shown.keys() - {"total"} == trained
    for name in trained:
        assert shown[name][3:5] == [stored[name].encoding, f"{stored[name].stored:,}"]
    assert {shown[name][3] for name in trained} > {"dense", "bank"}
    assert shown["total"][4] == f"{sum(stored[name].stored for name in trained):,}"
    size, dense = file.stat().st_size, sum(array.nbytes for array in tensors.values())
    assert f"{size:,} bytes; as dense numbers its tensors take {dense:,}, {dense / size:.1f} times as much" in out
    assert 'recipe      {"sparsity": 0.5}\n' in out  # the score is the usual one
    assert 'provenance  {"seed": 7}\n' in out
    assert out.startswith("graph" if graph else "recipe")


def test_json_holds_all_of_it(run, tmp_path, sparse_mixed):
    file = tmp_path / "net.mopir"
    ir.save(sparse_mixed, file, recipe={"sparsity": 0.5}, provenance={"seed": 7})
    content = json.loads(run("inspect", file, "--json")[1])
    stored, _ = container.read(file)
    assert list(content) == ["file", "total", "parameters", "bytes", "graph", "recipe", "provenance", "others"]
    assert content["bytes"] == {
        "file": file.stat().st_size,
        "dense": sum(array.nbytes for array in arrays(sparse_mixed).values()),
        "stored": sum(one.stored for one in stored.values()),
    }
    assert content["graph"] == {
        "name": "net",
        "opset": 20,
        "source": None,
        "nodes": 14,
        "operators": {
            "Conv": 3,
            "MatMul": 2,
            "BatchNormalization": 1,
            "Clip": 1,
            "Relu": 1,
            "ConvTranspose": 1,
            "GlobalAveragePool": 1,
            "Flatten": 1,
            "Gemm": 1,
            "Add": 1,
            "Transpose": 1,
        },
        "inputs": [{"name": "x", "dtype": "float32", "shape": ["N", 8, 6, 6]}],
        "outputs": [{"name": "y", "dtype": "float32", "shape": ["N", 4]}],
    }
    assert (content["recipe"], content["provenance"]) == ({"sparsity": 0.5}, {"seed": 7})
    up = content["parameters"]["up.weight"]
    assert (up["dtype"], up["encoding"], up["bytes"]) == ("float32", "bitmask", 128 // 8 + 64 * 4)
    statistics = dict.fromkeys(("bn.running_mean", "bn.running_var"), "running statistic")
    assert content["others"] == {**dict.fromkeys(("low", "high"), "constant"), **statistics}
    total = sum((arrays(sparse_mixed)[name] == 0).sum() for name in content["parameters"])
    assert content["total"]["zeros"] == total


def test_onnx_says_nothing_of_encodings(run, tmp_path, sparse_mixed):
    write_model(sparse_mixed, tmp_path / "net.onnx")
    content = json.loads(run("inspect", tmp_path / "net.onnx", "--json")[1])
    assert not any({"encoding", "bytes"} & entry.keys() for entry in content["parameters"].values())
    assert "stored" not in content["bytes"]
    assert "encoding" not in run("inspect", tmp_path / "net.onnx")[1]


def test_pair_counts_both_files(run, tmp_path):
    write_model(pruned("mnist_cnn"), tmp_path / "net.json")
    content = json.loads(run("inspect", tmp_path / "net.json", "--json")[1])
    both = [(tmp_path / f"net{ending}").stat().st_size for ending in (".json", ".npz")]
    assert content["bytes"]["file"] == sum(both)


def test_transformer_has_weights_whole_numbers_and_constants(run, tmp_path):
    ir.save(encoder(), tmp_path / "net.mopir")
    content = json.loads(run("inspect", tmp_path / "net.mopir", "--json")[1])
    assert content["parameters"]["embeddings.weight"]["operator"] == "Gather"
    assert content["others"]["root"] == "constant"
    assert content["others"]["heads"] == "int64 numbers"


@pytest.mark.parametrize("ending", ENDINGS)
def test_plot(run, tmp_path, ending):
    pytest.importorskip("matplotlib")
    write_model(pruned("lenet5"), tmp_path / f"net{ending}")
    assert run("inspect", tmp_path / f"net{ending}", "--plot", tmp_path / "bars.svg")[0] == 0
    assert b"<svg" in (tmp_path / "bars.svg").read_bytes()


def test_one_weight_is_decoded_at_a_time(run, tmp_path):
    rng = np.random.default_rng(0)
    one = rng.standard_normal((1024, 512), dtype=np.float32)  # 2 MB
    one[rng.random(one.shape) < 0.8] = 0
    saved = {f"layer{index}.weight": one for index in range(16)}
    save_weights(saved, tmp_path / "weights.mopir")
    run("inspect", tmp_path / "weights.mopir")  # imports
    tracemalloc.start()
    try:
        assert run("inspect", tmp_path / "weights.mopir")[0] == 0
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert one.nbytes < peak < 4 * one.nbytes


def test_network_keeps_no_weight_that_was_looked_at(tmp_path):
    ir.save(mixed(), tmp_path / "net.mopir")
    held = contents(tmp_path / "net.mopir")
    first = held.parameters["up.weight"].read()
    assert held.parameters["up.weight"].read() is not first
    cached = [value.const_value for value in held.model.graph.initializers.values()]
    assert [one._tensor for one in cached if one._tensor is not None] == []


# ---- what cannot be done


@pytest.mark.parametrize("ending", ENDINGS)
def test_truncated_files_are_one_line(fails, tmp_path, ending):
    file = tmp_path / f"net{ending}"
    write_model(pruned("lenet5"), file)
    file.write_bytes(file.read_bytes()[:-40])
    assert str(file) in fails("inspect", file)


def test_flipped_bit_is_told_with_the_weight(fails, tmp_path):
    ir.save(mixed(), tmp_path / "net.mopir")
    damage(tmp_path / "net.mopir", arrays(mixed())["turned.weight"])
    assert "tensor 'turned.weight': damaged: the CRC32" in fails("inspect", tmp_path / "net.mopir")


def test_flipped_bit_elsewhere_is_left_to_verify(run, fails, tmp_path):
    ir.save(mixed(), tmp_path / "net.mopir")
    damage(tmp_path / "net.mopir", arrays(mixed())["bn.running_var"])
    assert run("inspect", tmp_path / "net.mopir")[0] == 0
    message = fails("prune", tmp_path / "net.mopir", tmp_path / "out.onnx", "--sparsity", 0.5)
    assert "tensor 'bn.running_var': damaged: the CRC32 of its bytes does not match" in message


@pytest.mark.parametrize("ending", ENDINGS)
def test_missing_files_are_told(fails, tmp_path, ending):
    message = fails("inspect", tmp_path / f"none{ending}")
    assert f"none{ending}: " in message
    assert "o such file" in message


def test_unknown_suffix_lists_what_can_be_read(fails, tmp_path):
    (tmp_path / "net.tflite").write_text("")
    message = fails("inspect", tmp_path / "net.tflite")
    assert f"unknown suffix '.tflite'; known: {', '.join(READABLE)}\n" in message


def test_notes_that_are_no_json_are_shown_as_they_are(run, tmp_path):
    net = mixed()
    net.metadata_props["mopruning.recipe"] = "by hand"
    write_model(net, tmp_path / "net.onnx")
    assert 'recipe     "by hand"\n' in run("inspect", tmp_path / "net.onnx")[1]
    assert run("prune", tmp_path / "net.onnx", tmp_path / "out.npz", "--sparsity", 0.5)[0] == 0
    assert (read_weights(tmp_path / "out.npz")["gemm.weight"] == 0).mean() == 0.5
