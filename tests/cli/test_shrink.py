"""`mopruning shrink`: a smaller network in any format, checked, and what stays is told."""

import doctest

import numpy as np
import onnx_ir
import pytest

from mopruning.cli import running, targets
from mopruning.cli.running import Difference
from mopruning.ir import mopir, zoo
from mopruning.ir.onnx_files import read_onnx
from mopruning.ir.passes import cost
from mopruning.ir.weight_files import write_weights
from mopruning.model_files import read_model
from tests.ir.channel_graphs import shake, zero_filters


@pytest.fixture
def source(tmp_path):
    model = zoo.build("resnet8_cifar", image=16)
    shake(model)
    zero_filters(model, 0.5)
    mopir.save(model, tmp_path / "in.mopir", recipe={"sparsity": 0.5, "granularity": "filter"})
    return tmp_path / "in.mopir"


def test_doctests():
    assert doctest.testmod(targets).failed == 0


@pytest.mark.parametrize("ending", [".mopir", ".onnx", ".json"])
def test_network_gets_smaller_in_every_format(run, tmp_path, source, ending):
    code, out, err = run("shrink", source, tmp_path / f"out{ending}")
    assert (code, err) == (0, "")
    before, after = cost(read_model(source)), cost(read_model(tmp_path / f"out{ending}"))
    assert after.parameters < 0.4 * before.parameters
    assert f"parameters: {before.parameters:,} -> {after.parameters:,} (" in out
    assert f"MACs: {before.macs:,} -> {after.macs:,} (" in out
    assert "a constant that layer1.0.conv1 needs" in out
    assert "check: largest difference " in out
    assert f"in.mopir: {source.stat().st_size:,} bytes -> " in out


def test_recipe_travels_on(run, tmp_path, source):
    assert run("shrink", source, tmp_path / "out.mopir")[0] == 0
    assert "mopruning.recipe" in mopir.load(tmp_path / "out.mopir").metadata_props


def test_open_sizes_need_a_shape_or_no_check(run, fails, tmp_path, source):
    model = mopir.load(source)
    model.graph.inputs[0].shape = onnx_ir.Shape(["N", 3, "H", "W"])
    for node in model.graph:
        for value in node.outputs:
            value.shape = None
    mopir.save(model, tmp_path / "open.mopir")
    assert "give them with --input-shape" in fails("shrink", tmp_path / "open.mopir", tmp_path / "out.onnx")
    code, out, _ = run("shrink", tmp_path / "open.mopir", tmp_path / "out.onnx", "--no-check")
    assert code == 0
    assert "not checked" in out
    assert "MACs" not in out
    shape = read_onnx(tmp_path / "out.onnx").graph.inputs[0].shape
    assert [size if isinstance(size, int) else size.value for size in shape] == ["N", 3, "H", "W"]


def test_nothing_to_remove_is_said(run, tmp_path):
    mopir.save(zoo.build("lenet5"), tmp_path / "in.mopir")
    code, out, _ = run("shrink", tmp_path / "in.mopir", tmp_path / "out.mopir")
    assert code == 0
    assert "nothing could be removed" in out
    assert "filters: 236 -> 236 (1.0000)" in out


def test_failed_check_leaves_nothing(run, monkeypatch, tmp_path, source):
    monkeypatch.setattr(running, "difference", lambda before, after: Difference(1.0, np.nan, 0))
    code, _, err = run("shrink", source, tmp_path / "out.onnx")
    assert code == 1
    assert "the check fails, and out.onnx was not written" in err
    assert [path.name for path in tmp_path.iterdir()] == ["in.mopir"]


def test_files_are_not_overwritten(run, fails, tmp_path, source):
    (tmp_path / "out.onnx").write_text("mine")
    assert "exists; name another OUT or add --force" in fails("shrink", source, tmp_path / "out.onnx")
    assert "is the input" in fails("shrink", source, source, "--force")
    assert run("shrink", source, tmp_path / "out.onnx", "--force")[0] == 0
    assert read_onnx(tmp_path / "out.onnx").graph.name == "resnet8_cifar"


def test_weights_alone_are_no_network(fails, tmp_path):
    write_weights(tmp_path / "in.npz", {"w": np.zeros((2, 2), np.float32)})
    assert "in.npz" in fails("shrink", tmp_path / "in.npz", tmp_path / "out.mopir")
    assert "gone.onnx" in fails("shrink", tmp_path / "gone.onnx", tmp_path / "out.mopir")


def test_convolutions_of_few_stripes(run, tmp_path):
    model = zoo.build("vgg8_cifar", image=16)
    weight = model.graph.initializers["block4.0.weight"]
    kept = weight.const_value.numpy().copy()
    kept[:, :, :, 1:] = 0  # three stripes of nine
    weight.const_value = onnx_ir.tensor(kept, name="block4.0.weight")
    mopir.save(model, tmp_path / "in.mopir")
    code, out, err = run("shrink", tmp_path / "in.mopir", tmp_path / "out.onnx", "--lower-stripes")
    assert (code, err) == (0, "")
    assert "computed by stripes: block4.0\n" in out
    assert cost(read_model(tmp_path / "out.onnx")).macs < cost(model).macs
    assert not any(node.op_type == "BatchNormalization" for node in read_model(tmp_path / "out.onnx").graph)
    code, out, _ = run("shrink", tmp_path / "in.mopir", tmp_path / "dense.onnx")
    assert "stripes" not in out
