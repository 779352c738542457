""".mopir files: what is loaded is what was saved, weights stay in the file until used, and a save is all or nothing."""

import copy
import doctest
import importlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx_ir
import pytest

from mopruning import BankBalanced, Recipe, mask
from mopruning import files as weight_formats
from mopruning.errors import FormatError
from mopruning.ir import container, mopir
from mopruning.ir.container import StoredArray
from mopruning.ir.graph_text import to_text
from tests.ir.small_models import INT64, Weights, array, content, encoder, model, node, put, recurrent, resnet20, run


def every_attribute():
    """A model with attributes of each type, open sizes, inputs left out and an initializer that is an input too."""
    weights = Weights()
    names = [weights.make("w", 1, 12, 5), weights.make("r", 1, 12, 3)]
    weights["clip.max"] = np.float32(6)
    weights["resize.scales"] = np.array([1, 1, 2], np.float32)
    nodes = [
        node("LSTM", "rnn", f"x {' '.join(names)}", "out last", hidden_size=3, activations=["Sigmoid", "Tanh", "Tanh"]),
        node("Clip", "clip", "last _ clip.max"),
        node("LeakyRelu", "leaky", "clip", alpha=0.1),
        node("Resize", "resize", "leaky _ resize.scales", mode="nearest"),
        node("Transpose", "swap", "resize", perm=[2, 0, 1]),
    ]
    return model({"x": ["T", "N", 5]}, nodes, ["swap", "out"], weights)


def no_nodes():
    """A model that hands its input and a weight through."""
    x = onnx_ir.val("x", onnx_ir.DataType.FLOAT, ["N"])
    weight = onnx_ir.val("w", const_value=onnx_ir.tensor(np.ones(3, np.float32), name="w"))
    graph = onnx_ir.Graph([x], [x, weight], nodes=[], initializers=[weight], opset_imports={"": 20}, name="net")
    return onnx_ir.Model(graph, ir_version=10)


MODELS = {
    "resnet20": lambda: resnet20(32),
    "encoder": encoder,
    "lstm": lambda: recurrent("LSTM"),
    "gru": lambda: recurrent("GRU"),
    "every attribute": every_attribute,
    "no nodes": no_nodes,
}


def prune(net, sparsity=0.9):
    """Zero the smallest of each weight in place."""
    for name, value in net.graph.initializers.items():
        weight = value.const_value.numpy()
        if weight.ndim > 1 and weight.dtype.kind == "f":
            put(net, name, np.where(mask(np.abs(weight), "unstructured", sparsity), weight, 0))
    return net


def saved(tmp_path, net, **notes):
    path = tmp_path / "net.mopir"
    mopir.save(net, path, **notes)
    return path


def header(path):
    raw = path.read_bytes()
    return json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])


# ---- networks


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("sparsity", [0.0, 0.9])
def test_what_is_loaded_is_what_was_saved(name, sparsity, tmp_path):
    net = prune(MODELS[name](), sparsity)
    before = content(net)
    loaded = mopir.load(saved(tmp_path, net))
    assert content(net) == before
    assert content(loaded) == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["net.mopir"]


def test_a_loaded_network_computes_the_same(tmp_path):
    net = prune(resnet20(32))
    feeds = {"image": np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype(np.float32)}
    np.testing.assert_array_equal(run(mopir.load(saved(tmp_path, net)), feeds), run(net, feeds))


def test_a_loaded_network_is_saved_alike_even_over_its_own_file(tmp_path):
    path = saved(tmp_path, prune(resnet20(32)), provenance={"from": "here"})
    first = path.read_bytes()
    loaded = mopir.load(path)
    mopir.save(loaded, path)
    assert path.read_bytes() == first
    mopir.save(mopir.load(path), path)
    assert path.read_bytes() == first
    assert array(loaded, "fc.weight").size == 640  # from the file that has been replaced since


def test_what_the_text_does_not_keep_is_left_out_and_nothing_else(tmp_path):
    net = resnet20(32)
    net.metadata_props["mopruning.layout"] = "NCHW"
    net.producer_name, net.producer_version = "someone", "1.2"
    net.graph.node(0).metadata_props["stack_trace"] = "line 1\n" * 1000
    net.graph.node(0).doc_string = "long"
    next(iter(net.graph.initializers.values())).metadata_props["odd"] = "thing"
    loaded = mopir.load(saved(tmp_path, net))
    assert loaded.metadata_props == {"mopruning.layout": "NCHW"}
    assert (loaded.producer_name, loaded.producer_version) == ("someone", "1.2")
    assert not loaded.graph.node(0).metadata_props
    assert "line 1" not in header(tmp_path / "net.mopir")["__metadata__"]["graph"]


# ---- laziness


def damage(path, name):
    """Flip a bit in the middle of a tensor's bytes."""
    begin, end = header(path)[name]["data_offsets"]
    raw = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(raw[:8], "little")
    raw[start + (begin + end) // 2] ^= 8
    path.write_bytes(raw)


@pytest.mark.parametrize("part", ["fc.bias", "conv1.weight.values", "conv1.weight.gaps"])
def test_a_damaged_weight_is_told_at_its_first_use_and_not_before(part, tmp_path):
    path = saved(tmp_path, prune(resnet20(32)))
    damage(path, part)
    loaded = mopir.load(path)
    name = "fc.bias" if part == "fc.bias" else "conv1.weight"
    what = "bytes" if part == "fc.bias" else part.rpartition(".")[2]
    with pytest.raises(FormatError, match=rf"net\.mopir: tensor '{name}': damaged: the CRC32 of its {what} does not"):
        array(loaded, name)
    assert array(loaded, "fc.weight").shape == (10, 64)
    with pytest.raises(FormatError, match=f"tensor '{name}'"):
        mopir.load_weights(path)


def test_a_weight_is_decoded_once_and_read_only(tmp_path, monkeypatch):
    path = saved(tmp_path, prune(resnet20(32)))
    decoded = []
    decode = container.decode
    monkeypatch.setattr(container, "decode", lambda encoded: (decoded.append(encoded.encoding), decode(encoded))[1])
    loaded = mopir.load(path)
    assert decoded == []
    first = array(loaded, "fc.weight")
    assert decoded == ["gaps"]
    assert array(loaded, "fc.weight") is first
    assert array(copy.deepcopy(loaded.graph.initializers["fc.weight"].const_value) and loaded, "fc.weight") is first
    assert decoded == ["gaps"]
    for name in ("fc.weight", "fc.bias"):
        with pytest.raises(ValueError, match="read-only"):
            array(loaded, name)[...] = 1


def test_tensors_say_what_they_are_without_being_read(tmp_path):
    path = saved(tmp_path, prune(resnet20(32)))
    damage(path, "fc.weight.values")
    value = mopir.load(path).graph.initializers["fc.weight"]
    assert (list(value.shape), value.dtype, value.const_value.nbytes) == ([10, 64], onnx_ir.DataType.FLOAT, 2560)
    assert copy.deepcopy(value.const_value).shape == (10, 64)
    stored, texts = container.read(path)
    assert isinstance(stored["fc.weight"], StoredArray)
    assert (stored["fc.weight"].encoding, stored["fc.weight"].stored) == ("gaps", 64 * 4 + 64)
    assert list(texts) == ["graph"]


# ---- notes


def test_recipe_and_provenance_travel_along(tmp_path):
    recipe = Recipe(sparsity=0.9, granularity="bank:64", layers={"fc*": 0.5})
    path = saved(tmp_path, resnet20(32), recipe=recipe, provenance={"program": "test", "epochs": 3})
    loaded = mopir.load(path)
    assert Recipe.load(json.loads(loaded.metadata_props["mopruning.recipe"])) == recipe
    assert json.loads(loaded.metadata_props["mopruning.provenance"]) == {"program": "test", "epochs": 3}
    mopir.save(loaded, tmp_path / "again.mopir", provenance={"program": "other"})
    again = mopir.load(tmp_path / "again.mopir").metadata_props
    assert again["mopruning.recipe"] == loaded.metadata_props["mopruning.recipe"]
    assert json.loads(again["mopruning.provenance"]) == {"program": "other"}


def test_notes_that_are_no_json_are_refused(tmp_path):
    with pytest.raises(FormatError, match="provenance cannot be written as JSON"):
        mopir.save(resnet20(32), tmp_path / "net.mopir", provenance={"when": object()})
    with pytest.raises(FormatError, match="recipe cannot be written as JSON"):
        mopir.save_weights({}, tmp_path / "net.mopir", recipe={"sparsity": float("nan")})


# ---- other programs


def test_weights_of_a_network_are_read_alone(tmp_path):
    net = prune(resnet20(32))
    weights = mopir.load_weights(saved(tmp_path, net))
    assert list(weights) == list(net.graph.initializers)
    for name, weight in weights.items():
        np.testing.assert_array_equal(weight, array(net, name), strict=True)


def test_any_safetensors_reader_opens_it(tmp_path, torch):
    from safetensors import safe_open
    from safetensors.torch import load_file

    path = saved(tmp_path, prune(resnet20(32)))
    with safe_open(path, "np") as file:
        assert file.metadata()["format"] == "mopir"
        assert file.metadata()["format_version"] == "1"
        rows = json.loads(file.metadata()["tensors"])
        assert set(rows["fc.weight"]) == {"encoding", "dtype", "shape", "crc32"}
        parts = {part for name in rows for part in file.keys() if part == name or part.startswith(f"{name}.")}  # noqa: SIM118
        assert parts == set(file.keys())
        np.testing.assert_array_equal(file.get_tensor("fc.bias"), mopir.load_weights(path)["fc.bias"])
        assert file.get_tensor("fc.weight.values").size == np.count_nonzero(mopir.load_weights(path)["fc.weight"])
    assert load_file(path)["conv1.weight.gaps"].dtype == torch.uint8


def test_a_graph_with_an_input_that_has_a_default_survives(tmp_path):
    net = model({"x": [2], "w": [2]}, [node("Add", "y", "x w")], ["y"], {"w": np.ones(2, np.float32)})
    assert content(mopir.load(saved(tmp_path, net))) == content(net)


def test_an_optional_output_survives(tmp_path):
    weights = Weights()
    names = f"{weights.make('w', 1, 12, 5)} {weights.make('r', 1, 12, 3)}"
    layer = node("LSTM", "rnn", f"x {names}", "_ last", hidden_size=3)
    net = model({"x": ["T", "N", 5]}, [layer], ["last"], weights)
    assert content(mopir.load(saved(tmp_path, net))) == content(net)


def test_other_types_of_values_survive(tmp_path):
    net = model({"x": [2]}, [node("Abs", "y", "x")], ["y"], types={"x": INT64})
    assert content(mopir.load(saved(tmp_path, net))) == content(net)


# ---- all or nothing


SAVER = """
import sys
import conftest
import numpy as np
from mopruning.ir import mopir
folder, seed = sys.argv[1], 0
while True:
    seed += 1
    weight = np.random.default_rng(seed).standard_normal((400, 1000), dtype=np.float32)
    weight[np.abs(weight) < 1.5] = 0
    mopir.save_weights({"w": weight, "seed": np.array(seed)}, folder + "/net.mopir")
    print(seed, flush=True)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_save_that_is_killed_leaves_the_old_file_or_the_new_one(tmp_path):
    root = Path(__file__).resolve().parents[2]
    seen = 0
    for attempt in range(6):
        process = subprocess.Popen(
            [sys.executable, "-c", SAVER, str(tmp_path)], cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        with process:
            assert process.stdout.readline(), process.stderr.read().decode()
            process.stdout.readline()
            time.sleep(0.002 + 0.007 * attempt)
            process.send_signal(signal.SIGKILL)
        weights = mopir.load_weights(tmp_path / "net.mopir")
        seed = int(weights["seed"])
        expected = np.random.default_rng(seed).standard_normal((400, 1000), dtype=np.float32)
        expected[np.abs(expected) < 1.5] = 0
        np.testing.assert_array_equal(weights["w"], expected)
        seen = max(seen, seed)
    assert seen >= 2


# ---- as one of the formats of weights


def test_weights_are_pruned_in_the_file_and_the_graph_stays(tmp_path):
    path = saved(tmp_path, resnet20(32), provenance={"from": "here"})
    opened = weight_formats.open_weights(path)
    assert opened.ordered
    assert opened.aliases == {}
    weights, others = weight_formats.parameters(opened.weights())
    assert set(others.values()) == {"running statistic"}
    opened.replace({"fc.weight": np.where(np.arange(64) % 2, weights["fc.weight"], np.float32(0))})
    weight_formats.save_weights(opened, tmp_path / "out.mopir")
    out = mopir.load(tmp_path / "out.mopir")
    assert np.count_nonzero(array(out, "fc.weight")) == 320
    assert np.count_nonzero(mopir.load_weights(path)["fc.weight"]) == 640
    assert "mopruning.provenance" in out.metadata_props
    assert to_text(out) == to_text(mopir.load(path))
    with pytest.raises(FormatError, match=r"only \.mopir can hold its graph and provenance; write that format"):
        weight_formats.save_weights(opened, tmp_path / "out.npz")
    with pytest.raises(ValueError, match="expected float32"):
        opened.replace({"fc.weight": np.zeros(3)})


# ---- sizes


@pytest.mark.slow
def test_resnet50_is_as_small_as_promised(tmp_path):
    from mopruning.ir import zoo

    net = zoo.build("resnet50")
    weights = {name: value.const_value.numpy() for name, value in net.graph.initializers.items()}
    trained = [name for name in weights if not name.endswith(("running_mean", "running_var"))]
    assert sum(weights[name].size for name in trained) == 25_557_032
    rng = np.random.default_rng(0)
    for granularity, sparsity, limit in (("unstructured", 0.9, 13.5e6), (BankBalanced(bank=64), 0.9375, 8.0e6)):
        for name, weight in weights.items():
            if weight.ndim < 2:
                put(net, name, rng.standard_normal(weight.shape, dtype=np.float32))  # as after training
            elif name != "conv1.weight" or granularity == "unstructured":
                put(net, name, np.where(mask(np.abs(weight), granularity, sparsity), weight, 0))
            else:
                put(net, name, weight)
        assert saved(tmp_path, net).stat().st_size <= limit


@pytest.mark.parametrize(
    "name", ["attribute_text", "graph_text", "json_text", "lazy", "mopir", "safetensors", "weight_files"]
)
def test_doctests(name):
    failed, attempted = doctest.testmod(importlib.import_module(f"mopruning.ir.{name}"))
    assert attempted
    assert not failed
