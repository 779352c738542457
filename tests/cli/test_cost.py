"""`mopruning cost`: the published numbers of dense networks, and the zeros of pruned ones."""

import json

import onnx_ir
import pytest

from mopruning.ir import mopir, passes, zoo
from mopruning.ir.onnx_files import write_onnx
from mopruning.model_files import write_model
from tests.cli.networks import NAMES, pruned


def test_resnet20_has_its_published_numbers(run, tmp_path):
    mopir.save(zoo.build("resnet20_cifar"), tmp_path / "net.mopir")
    code, out, err = run("cost", tmp_path / "net.mopir")
    assert (code, err) == (0, "")
    assert "MACs: 40,813,184, effective 40,813,184 (1.0000)" in out
    assert "parameters: 272,282, " in out


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("ending", [".mopir", ".onnx", ".json"])
def test_json_is_the_report(run, tmp_path, name, ending):
    model = pruned(name, "unstructured", 0.5)
    write_model(model, tmp_path / f"net{ending}")
    code, out, _ = run("cost", tmp_path / f"net{ending}", "--json")
    assert code == 0
    total = json.loads(out)["total"]
    assert total == passes.cost(model).to_dict()["total"]
    assert total["effective_macs"] == pytest.approx(0.5 * total["macs"], rel=0.01)


def test_one_row_a_layer(run, tmp_path):
    write_onnx(pruned("lenet5"), tmp_path / "net.onnx")
    out = run("cost", tmp_path / "net.onnx")[1]
    for name in ("conv1", "conv2", "fc1", "fc2", "fc3", "total"):
        assert f" {name} " in out
    assert "for input 1x1x28x28" in out


def test_input_shape(run, fails, tmp_path):
    model = pruned("resnet8_cifar")
    model.graph.inputs[0].shape = onnx_ir.Shape(["N", 3, "H", "W"])
    write_onnx(model, tmp_path / "net.onnx")
    err = fails("cost", tmp_path / "net.onnx")
    assert "--input-shape" in err
    assert "image=" not in err
    total = {}
    for shape in ("1,3,32,32", "2,3,32,32", "1x3x64x64"):
        out = run("cost", tmp_path / "net.onnx", "--json", "--input-shape", shape)[1]
        total[shape] = json.loads(out)["total"]["macs"]
    conv = total["1,3,32,32"] - 640  # the last layer does not grow with the image
    assert total["2,3,32,32"] == 2 * total["1,3,32,32"]
    assert total["1x3x64x64"] == 4 * conv + 640
    assert "takes input as N,3,H,W" in fails("cost", tmp_path / "net.onnx", "--input-shape", "1,1,32,32")


def test_weights_alone_have_no_cost(fails, source):
    assert f"unknown suffix '{source.suffix}'" in fails("cost", source)
    mopir.save_weights({}, source.with_name("net.mopir"))
    assert "without a graph" in fails("cost", source.with_name("net.mopir"))
