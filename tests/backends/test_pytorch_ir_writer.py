"""What `from_ir` builds: real modules, names that clash or lie, hostile names, and the folder of source."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx_ir = pytest.importorskip("onnx_ir")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

from torch import nn  # noqa: E402

from mopruning.backends import pytorch  # noqa: E402
from mopruning.errors import FormatError  # noqa: E402
from mopruning.ir.builder import Builder  # noqa: E402
from mopruning.ir.validation import UnsupportedOperators  # noqa: E402
from tests.backends.pytorch_ir_networks import NETWORKS, assert_close, loss_of, outputs_of, run, sent  # noqa: E402
from tests.ir.small_models import INT64, model, node  # noqa: E402

RANDOM = np.random.default_rng(5)


def floats(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


def compared(net, *inputs):
    """Build the network, compare it with onnxruntime, and return it."""
    network = pytorch.from_ir(net)
    for actual, expected in zip(outputs_of(network, inputs), run(net, inputs), strict=True):
        assert_close(actual, expected)
    return network


@pytest.mark.parametrize("name", NETWORKS)
def test_modules_are_of_the_kind_they_were(name):
    module, _, net = sent(name)
    network = pytorch.from_ir(net)
    for path, part in module.named_modules():
        held = [key for key, _ in part.named_parameters(recurse=False)]
        if not held or isinstance(part, nn.MultiheadAttention) or not path:
            continue
        returned = network.get_submodule(path)
        # the projection of an attention is a kind of nn.Linear
        assert issubclass(type(part), type(returned)), path
        assert type(returned) is not nn.Module, path
        if isinstance(part, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            assert part.extra_repr().replace("padding=same", "padding=(2, 0)") == returned.extra_repr(), path
    dropouts = [part.p for part in module.modules() if isinstance(part, nn.modules.dropout._DropoutNd)]
    returned_dropouts = [part.p for part in network.modules() if isinstance(part, nn.modules.dropout._DropoutNd)]
    assert len(returned_dropouts) >= len(dropouts)


def test_states_of_networks_without_a_counter_load_in_any_form():
    net = Builder("net")
    x = net.batch_norm(net.conv(net.input("x", (3, 4, 4)), "conv", 2, 1), "bn")
    network = pytorch.from_ir(net.model({"output": x}))
    assert "bn.num_batches_tracked" not in network.state_dict()
    original = nn.ModuleDict({"conv": nn.Conv2d(3, 2, 1, bias=False), "bn": nn.BatchNorm2d(2)})
    network.load_state_dict(original.state_dict())
    network.load_state_dict(dict(original.state_dict()))
    network.load_state_dict(dict(network.state_dict()))
    original.load_state_dict(network.state_dict())
    original.load_state_dict(dict(network.state_dict()))
    network.load_state_dict(network.state_dict())
    with pytest.raises(RuntimeError, match="Missing key"):
        network.load_state_dict({})


def test_names_that_no_module_gives():
    weights = {
        "conv0_weight": floats(4, 3, 3, 3),
        "conv0_bias": floats(4),
        "bn0_gamma": floats(4),
        "bn0_beta": floats(4),
        "bn0_mean": floats(4),
        "bn0_var": np.abs(floats(4)),
        "scope/fc/kernel:0": floats(2, 4),
        "fc.b": floats(2),
    }
    nodes = [
        node("Conv", "conv0", "x conv0_weight conv0_bias"),
        node("BatchNormalization", "bn0", "conv0 bn0_gamma bn0_beta bn0_mean bn0_var"),
        node("GlobalAveragePool", "bn0_gamma_pool", "bn0"),
        node("Flatten", "flat", "bn0_gamma_pool"),
        node("Gemm", "fc", "flat scope/fc/kernel:0 fc.b", transB=1),
        node("Dropout", "fc.b.drop", "fc"),
        node("Dropout", "conv0_bias", "fc.b.drop", "y"),
    ]
    network = compared(model({"x": ["N", 3, 6, 6]}, nodes, ["y"], weights), torch.randn(2, 3, 6, 6))
    assert set(network.state_dict()) == set(weights)
    assert {name for name, _ in network.named_buffers()} == {"bn0_mean", "bn0_var"}
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network.train()
    loss_of(network, (torch.randn(4, 3, 6, 6),)).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    assert not torch.equal(before["bn0_mean"], network.state_dict()["bn0_mean"])
    assert sum(type(part) is nn.Dropout for part in network.modules()) == 2


def test_one_weight_in_layers_of_different_kinds():
    weights = {"a.weight": floats(4, 4), "a.bias": floats(4), "b.weight": floats(4, 4, 1, 1)}
    nodes = [
        node("Gemm", "a", "x a.weight a.bias", transB=1),
        node("Gemm", "again", "a a.weight", transB=1),
        node("Transpose", "turned", "a.weight", perm=[1, 0]),
        node("MatMul", "back", "again turned"),
        node("Reshape", "image", "back shape"),
        node("Conv", "b", "image b.weight"),
        node("Conv", "b2", "b b.weight", strides=[2, 2]),
    ]
    weights["shape"] = np.array([-1, 4, 2, 2], np.int64)
    network = compared(model({"x": [4, 4]}, nodes, ["b2"], weights), torch.randn(4, 4))
    assert set(network.state_dict()) == {"a.weight", "a.bias", "b.weight"}
    assert type(network.a) is nn.Linear
    assert [name for name, _ in network.named_parameters()] == ["a.weight", "a.bias", "b.weight"]


def test_shapes_are_numbers_not_tensors():
    nodes = [
        node("Shape", "shape", "x"),
        node("Gather", "n", "shape zero"),
        node("Unsqueeze", "n1", "n axis"),
        node("Gather", "c", "shape one"),
        node("Mul", "twice", "c two"),
        node("Div", "half", "twice four"),
        node("Unsqueeze", "half1", "half axis"),
        node("Concat", "target", "n1 half1 rest", axis=0),
        node("Reshape", "y", "x target"),
        node("Slice", "front", "y start half1 one_axis"),
        node("Cast", "count", "n", to=1),
        node("Mul", "z", "front count"),
        node("Expand", "w", "vector n1"),
    ]
    whole = {"zero": 0, "one": 1, "two": 2, "four": 4, "axis": [0], "rest": [-1], "start": [0], "one_axis": [1]}
    weights = {name: np.array(value, np.int64) for name, value in whole.items()} | {"vector": floats(1)}
    net = model({"x": ["N", 6, 2, 2]}, nodes, ["z", "shape", "w"], weights)
    network = compared(net, torch.randn(3, 6, 2, 2))
    assert "tolist" not in network.code
    compiled = torch.compile(network.eval(), backend="aot_eager", fullgraph=True)
    assert_close(compiled(torch.ones(3, 6, 2, 2))[0], run(net, (torch.ones(3, 6, 2, 2),))[0])


def test_shapes_that_are_computed_from_a_tensor():
    net = model({"x": [4, 3], "shape": [2]}, [node("Reshape", "y", "x shape")], ["y"], types={"shape": INT64})
    compared(net, torch.randn(4, 3), torch.tensor([2, 6]))
    bounds = {"x": [4, 3], "start": [1], "end": [1]}
    net = model(bounds, [node("Slice", "y", "x start end")], ["y"], types={"start": INT64, "end": INT64})
    with pytest.raises(FormatError, match="'start' is computed"):
        pytorch.from_ir(net)


def test_models_outside_the_profile_are_refused():
    with pytest.raises(UnsupportedOperators, match="Einsum"):
        pytorch.from_ir(model({"x": [2, 3]}, [node("Einsum", "y", "x", equation="ij->ji")], ["y"]))


HOSTILE = ['x");import os;os._exit(7);("', "a\nimport os;os._exit(7)", "a\\", "a..b", "", ".", "forward", "a.training"]


@pytest.mark.parametrize("name", [name for name in HOSTILE if name])
def test_hostile_names_run_no_code(name, tmp_path):
    """Names of weights end up in the source of `forward`; those that could be more than names are refused."""
    nodes = [node("Gemm", "fc", "x weight", transB=1)]
    net = model({"x": [2, 3]}, nodes, ["fc"], {"weight": floats(2, 3)})
    net.graph.initializers["weight"].name = name
    with pytest.raises(FormatError):
        pytorch.from_ir(net)
    with pytest.raises(FormatError):
        pytorch.to_folder(net, tmp_path)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_of_nodes_inputs_and_graphs_are_made_harmless(name, tmp_path):
    nodes = [node("Dropout", "drop", "x"), node("Relu", "relu", "drop"), node("Add", "y", "relu mask")]
    net = model({"x": [2, 3]}, nodes, ["y"], {"mask": floats(1, 3)})
    net.graph.name = name
    for value in (*net.graph.inputs, *(one.outputs[0] for one in net.graph)):
        value.name = f"{name}{value.name}"
    for one in net.graph:
        one.name = f"{name}{one.name}.part"
    compared(net, torch.randn(2, 3))
    pytorch.to_folder(net, tmp_path)
    done = subprocess.run([sys.executable, "model.py"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


SCRIPT = """
import sys, types
sys.modules["mopruning"] = sys.modules["onnx"] = None
import torch
from model import load
torch.manual_seed(0)
network = load().eval()
inputs = torch.load("inputs.pt", weights_only=True)
with torch.no_grad():
    outputs = network(*inputs)
torch.save(outputs, "outputs.pt")
network.train()
outputs = network(*inputs)
sum(x.square().mean() for x in (outputs if isinstance(outputs, tuple) else (outputs,))).backward()
print(*network.state_dict())
print(all(p.grad is not None for p in network.parameters()))
"""


@pytest.mark.parametrize("name", ["decoder", "vit", "bert", "recurrent"])
def test_folder_runs_without_this_package(name, tmp_path):
    _, inputs, net = sent(name)
    folder = tmp_path / "new" / "net"
    pytorch.to_folder(net, folder)
    assert sorted(path.name for path in folder.iterdir()) == ["model.py", "weights.safetensors"]
    torch.save(inputs, folder / "inputs.pt")
    (folder / "main.py").write_text(SCRIPT)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error", "main.py"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    names, trained = done.stdout.splitlines()
    network = pytorch.from_ir(net)
    assert set(network.state_dict()) <= set(names.split())
    assert trained == "True"
    outputs = torch.load(folder / "outputs.pt", weights_only=True)
    for actual, expected in zip(
        outputs if isinstance(outputs, tuple) else (outputs,), outputs_of(network, inputs), strict=True
    ):
        assert_close(actual, expected)


def test_source_reads_like_what_people_write(tmp_path):
    pytorch.to_folder(sent("resnet")[2], tmp_path)
    text = (tmp_path / "model.py").read_text()
    assert "self.layer1 = nn.ModuleList([" in text
    assert '            "conv1"' not in text
    assert re.search(r"x = self\.conv1\(x\)\n +x = self\.bn1\(x\)\n +x = F\.relu\(x\)", text)
    assert "self.layer1[0].conv1(" in text
    assert "nn.Conv2d(in_channels=3, out_channels=8, kernel_size=3, padding=1, bias=False)" in text
    assert "mopruning" not in text.replace("mopruning installed", "")
    assert max(map(len, text.splitlines())) < 140


def test_folder_is_written_whole_or_not_at_all(tmp_path):
    net = Builder("net")
    good = net.model({"output": net.relu(net.input("x", (3,)), "relu")})
    pytorch.to_folder(good, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    bad = model({"x": [2, 3]}, [node("Einsum", "y", "x", equation="ij->ji")], ["y"])
    with pytest.raises(UnsupportedOperators):
        pytorch.to_folder(bad, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        pytorch.to_folder(good, Path(tmp_path / "file"))
