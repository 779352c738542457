"""`mopruning prune --granularity filter:group`: the network's own graph says which filters go together."""

import numpy as np

from mopruning.ir import zoo
from mopruning.model_files import read_model, write_model
from tests.cli.networks import arrays


def test_filters_that_go_together_go_together(run, tmp_path):
    """The graph says which they are; one that is left dense keeps its partners."""
    net, file = zoo.build("resnet8_cifar", seed=1), tmp_path / "in.onnx"
    write_model(net, file)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("{sparsity: 0.5, granularity: 'filter:group', skip: [layer2.0.downsample.weight]}")
    code, out, err = run("prune", file, tmp_path / "out.onnx", "--recipe", recipe)
    assert (code, err) == (0, "")
    before, after = arrays(net), arrays(read_model(tmp_path / "out.onnx"))
    weights = {name: array for name, array in after.items() if array.ndim > 1}
    held = {name: (array == 0) & (before[name] != 0) for name, array in after.items() if "running" not in name}
    gone = {name: (array == 0).reshape(len(array), -1).all(axis=1) for name, array in weights.items()}
    counts = {name: (len(one), int(one.sum())) for name, one in gone.items() if one.any()}
    pairs = [("conv1.weight", "layer1.0.conv2.weight"), ("layer3.0.conv2.weight", "layer3.0.downsample.weight")]
    alone = ["layer1.0.conv1.weight", "layer2.0.conv1.weight", "layer3.0.conv1.weight"]
    assert counts == {name: (len(gone[name]), len(gone[name]) // 2) for name in (*sum(pairs, ()), *alone)}
    readers = [("layer1.0.conv1.weight", "layer2.0.conv1.weight", "layer2.0.downsample.weight"), ("linear.weight",)]
    for pair, reading in zip(pairs, readers, strict=True):
        one, other = pair
        np.testing.assert_array_equal(gone[one], gone[other])
        made, read = (
            sum(
                np.abs(np.moveaxis(before[name], axis, 0)).reshape(len(gone[one]), -1).sum(axis=1, dtype=np.float64)
                for name in names
            )
            for axis, names in ((0, pair), (1, reading))
        )
        assert (made * read)[gone[one]].max() < (made * read)[~gone[one]].min()
        for norm in ("weight", "bias"):
            follower = f"{one.removesuffix('.weight').replace('conv', 'bn')}.{norm}"
            np.testing.assert_array_equal(held[follower], gone[one] & (before[follower] != 0))
    assert "follows layer1.0.conv2.weight" in " ".join(out.split())
    assert "coupled with layer2.0.downsample.weight, which stays dense" in " ".join(out.split())
    assert "every channel must stay" in out


def test_weights_alone_do_not_tell_what_goes_together(fails, source):
    message = fails("prune", source, source.with_stem("out"), "--granularity", "filter:group", "--sparsity", 0.5)
    assert f"{source}: filter:group needs the network" in message
    assert "this file holds weights alone" in message
    assert not source.with_stem("out").exists()
