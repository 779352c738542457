"""N:M channel permutation of networks: the same outputs, more magnitude kept, and reasons for what stays."""

import doctest
import importlib

import numpy as np
import onnx_ir
import pytest

from mopruning import ir
from mopruning.errors import RecipeError, WeightError
from mopruning.ir.builder import Builder
from mopruning.ir.parameters import parameters
from mopruning.ir.passes import permute
from mopruning.ir.validation import validate
from mopruning.permutation import kept
from tests.ir.small_models import Weights, array, content, encoder, model, node, put, run


@pytest.mark.parametrize("name", ["channel_readers", "movable", "permute", "permuted"])
def test_doctests(name):
    assert doctest.testmod(importlib.import_module(f"mopruning.ir.passes.{name}")).failed == 0


def trained(net):
    """Give every 1-D parameter numbers that differ from channel to channel, as training does."""
    random = np.random.default_rng(0)
    for name, value in net.graph.initializers.items():
        numbers = value.const_value.numpy()
        if numbers.ndim == 1 and numbers.dtype == np.float32:
            put(net, name, (numbers + random.uniform(0.1, 0.5, numbers.shape)).astype(np.float32))
    return net


def outputs(net):
    random = np.random.default_rng(1)
    feeds = {
        value.name: (random.standard_normal([size if isinstance(size, int) else 2 for size in value.shape]) * 4).astype(
            value.dtype.numpy()
        )
        for value in net.graph.inputs
    }
    return run(net, feeds)


def assert_same_network(net, **settings):
    """Permute a network, check that it computes what it did and keeps no less, and return what was found."""
    before, weights = content(net), {name: array(net, name) for name in net.graph.initializers}
    found = permute(net, **{"escapes": 0, **settings})
    assert content(net) == before
    validate(found.model)
    for old, new in zip(outputs(net), outputs(found.model), strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-5, atol=1e-5 * max(1.0, np.abs(old).max()))
    for group in found.groups:
        assert group.found is None or group.found.after >= group.found.before
    before, after, best, total = found.total()
    assert before * (1 - 1e-9) <= after <= best <= total  # one layer of a group may lose to another
    for name, old in weights.items():
        new = array(found.model, name)
        assert (new.shape, new.dtype) == (old.shape, old.dtype)
        np.testing.assert_array_equal(np.sort(new, axis=None), np.sort(old, axis=None))
    return found


def reasons(found):
    return {group.name: group.reason for group in found.groups if group.found is None}


# ---- networks of the zoo


def test_residual_network_keeps_more_in_every_group():
    net = trained(ir.zoo.build("resnet20_cifar", seed=1))
    found = assert_same_network(net)
    assert reasons(found) == {"linear.weight": "output is an output of the graph"}
    assert found.moved == 12
    assert found.groups[0].weights[:2] == ("layer1.0.conv1.weight", "layer1.1.conv1.weight")
    assert len(found.layers) == 21
    before, after, best, total = found.total()
    assert before < 0.745 * total < 0.75 * total < after < best < total
    known = parameters(found.model)
    for row in found.layers:
        weight = known[row.name].canonical(array(found.model, row.name))
        assert row.after == pytest.approx(kept(np.moveaxis(weight, 1, -1).reshape(-1, weight.shape[1])))
        assert row.reason == ""


# The order is drawn at random here, which needs no time: what is tested is that the network follows it.
@pytest.mark.parametrize(
    ("name", "moved", "groups"),
    [("vgg8_cifar", 5, 6), ("mobilenet_v2_cifar", 26, 27), ("squeezenet1_1", 25, 26), ("shufflenet_v2_cifar", 14, 22)],
)
def test_networks_compute_the_same(name, moved, groups):
    size = {"image": 32} if name == "squeezenet1_1" else {}
    found = assert_same_network(trained(ir.zoo.build(name, seed=1, **size)), method="random", escapes=4)
    assert (found.moved, len(found.groups)) == (moved, groups)
    assert sum(group.found.after > group.found.before for group in found.groups if group.found) > moved // 2


# ---- one network of each kind


def small(channels=8, image=4):
    net = Builder("net", seed=3)
    return net, net.relu(
        net.conv(net.input("x", (3, image, image)), "first", channels, 3, padding=1, bias=True), "relu"
    )


def finished(net, y):
    return trained(net.model({"y": y}))


def test_readers_of_one_value_are_searched_together():
    net, x = small(16)
    left, right = net.conv(x, "left", 8, 3, padding=1), net.conv(x, "right", 4, 1)
    found = assert_same_network(finished(net, net.concat([left, right], "join")))
    assert found.groups[0].weights == ("left.weight", "right.weight")
    assert all(group.reason == "y is an output of the graph" for group in found.groups[1:])
    together = found.groups[0].found
    assert together.after == pytest.approx(sum(row.after for row in found.layers))
    assert together.efficacy > 0.2


@pytest.mark.parametrize(("image", "searched"), [(1, True), (4, None), (3, False)])
def test_flattened_channels(image, searched):
    net, x = small(8, image)
    net_model = finished(net, net.gemm(net.flatten(x, "flatten"), "fc", 12))
    found = assert_same_network(net_model)
    if searched:
        assert (found.moved, found.layers[0].reason) == (1, "")
    elif searched is None:  # 16 values of each channel: groups of 4 lie within channels
        assert reasons(found)["first.weight"] == "their order makes no difference"
    else:
        said = "fc.weight reads 9 values of each channel, so that groups of 4 hold parts of channels"
        assert reasons(found)["first.weight"] == found.layers[0].reason == said


def test_channels_flattened_last_are_read_several_times_over():
    net, x = small(8, 3)
    x = net.reshape(net.transpose(x, "last", (2, 3, 1)), "flat", (72,))
    found = assert_same_network(finished(net, net.gemm(x, "fc", 12)))
    assert found.groups[0].found.efficacy > 0.1


def test_order_that_makes_no_difference_to_a_reader_may_change_for_another():
    net, x = small(8, 4)
    y = net.gemm(net.flatten(x, "flatten"), "fc", 12)
    z = net.conv(x, "conv", 8, 3)
    found = assert_same_network(trained(net.model({"y": y, "z": z})))
    assert found.groups[0].weights == ("conv.weight",)
    assert {row.name: row.reason for row in found.layers} == {
        "conv.weight": "",
        "fc.weight": "their order makes no difference",
    }


def test_parts_of_a_concatenation_move_each_by_itself():
    net, x = small(8)
    parts = [net.conv(x, f"part{index}", channels, 1) for index, channels in enumerate((8, 12, 10, 6))]
    found = assert_same_network(finished(net, net.conv(net.concat(parts, "join"), "last", 8, 1)))
    assert [group.found is not None for group in found.groups] == [True, True, True, False, False, False]
    assert reasons(found)["part2.weight"] == "10 channels are no multiple of 4"
    assert reasons(found)["part3.weight"] == "last.weight reads them from column 30 on, within a group of 4"


def test_grouped_and_depthwise_convolutions():
    net, x = small(16)
    x = net.conv(x, "depthwise", 16, 3, padding=1, groups=16, bias=True)
    x = net.conv(net.batch_norm(x, "bn"), "grouped", 32, 3, padding=1, groups=2, bias=True)
    found = assert_same_network(finished(net, net.conv(x, "last", 4, 1)))
    assert found.groups[0].channels == 8  # of each of two groups
    assert [group.weights for group in found.groups] == [("grouped.weight",), ("last.weight",), ()]
    assert found.moved == 2  # last.weight sees the channels of a group twice over


def test_grouped_convolution_with_channels_of_its_own_stays():
    net, x = small(16)
    found = permute(finished(net, net.conv(x, "grouped", 32, 3, groups=4)))
    assert reasons(found)["first.weight"] == "4 channels are fewer than two groups of 4"


@pytest.mark.parametrize("groups", [1, 2])
def test_transposed_convolution(groups):
    net, x = small(16)
    x = net.conv_transpose(x, "up", 16, 3, groups=groups, bias=True)
    found = assert_same_network(finished(net, net.conv(x, "last", 4, 1)))
    assert "up.weight" in found.groups[0].weights
    assert found.groups[0].found.efficacy > 0.1


def test_split_channels_stay():
    net, x = small(16)
    one, other = net.split(x, "split", (8, 8))
    y = net.add(net.conv(one, "one", 8, 1), net.conv(other, "other", 8, 1), "add")
    found = assert_same_network(finished(net, y))
    assert reasons(found)["first.weight"] == "one.weight reads only some of them"


def test_channels_that_are_taken_out_of_order_stay():
    net, x = small(8)
    mixed = net.operation(
        "Gather", "mix", [x, net.constant("order", (0, 3, 2, 1, 4, 5, 7, 6))], [("N", 8, 4, 4)], {"axis": 1}
    )
    y = net.add(net.conv(x, "one", 8, 1), net.conv(mixed[0], "other", 8, 1), "add")
    found = assert_same_network(finished(net, y))
    assert "reads them in another order" in reasons(found)["first.weight"]


def test_values_of_a_channel_that_are_mixed_keep_it_in_place():
    net, x = small(8, 2)
    flat = net.reshape(x, "flat", (32,))
    order = np.arange(32)
    order[[4, 5]] = 5, 4  # two values of one channel: what runs along the axis looks as before
    mixed = net.operation("Gather", "mix", [flat, net.constant("order", order.tolist())], [("N", 32)], {"axis": 1})[0]
    found = assert_same_network(finished(net, net.conv(net.reshape(mixed, "back", (8, 2, 2)), "conv", 8, 1)))
    assert reasons(found)["first.weight"] == "mix (Gather) takes them apart"


def test_transformer_moves_its_inner_features():
    found = assert_same_network(encoder())
    assert any(group.found is not None for group in found.groups)
    assert {row.name for row in found.layers if not row.reason} == {"down.weight"}
    assert reasons(found)["query.weight"] == "query.heads (Reshape) mixes them with other axes"


def test_weights_of_other_layouts_and_types():
    w = Weights()
    names = [w.make("a", 5, 8), w.make("b", 8), w.make("c", 8, 8), w.make("d", 6, 8)]
    nodes = [
        node("MatMul", "first", "x a"),
        node("Add", "bias", "first b"),
        node("Gemm", "second", "bias c", transB=0),
        node("Transpose", "turn", "d", perm=[1, 0]),
        node("MatMul", "y", "second turn"),
    ]
    net = model({"x": [2, 5]}, nodes, ["y"], {name: w[name] for name in names})
    found = assert_same_network(net, m=4)
    assert [row.name for row in found.layers] == ["c", "d"]
    assert found.moved == 2
    half = {name: values.astype(np.float16) for name, values in w.items()}
    net = model({"x": [2, 5]}, nodes, ["y"], half, types={"x": 10})
    assert {array(permute(net, escapes=0).model, name).dtype for name in names} == {np.dtype(np.float16)}


# ---- what is asked for


def test_only_weights_that_are_pruned_count():
    net, x = small(16)
    left, right = net.conv(x, "left", 16, 1), net.conv(x, "right", 16, 1)
    net_model = finished(net, net.add(left, right, "add"))
    found = permute(net_model, names=["right.weight"])
    assert found.groups[0].weights == ("right.weight",)
    assert [row.name for row in found.layers] == ["right.weight"]
    assert permute(net_model, names=[]).moved == 0


@pytest.mark.parametrize(("n", "m"), [(1, 2), (1, 4), (5, 6), (3, 8)])
def test_any_group(n, m):
    net, x = small(24)
    found = assert_same_network(finished(net, net.conv(x, "conv", 8, 1)), n=n, m=m)
    assert found.moved == 1
    assert found.layers[0].after > found.layers[0].before


def test_report():
    net, x = small(8)
    told = []
    found = permute(finished(net, net.conv(x, "conv", 8, 3)), advance=lambda *one: told.append(one))
    assert told == [("first.weight", 1, 1)]
    lines = str(found).splitlines()
    assert lines[0].split()[:2] == ["weight", "shape"]
    assert lines[1].endswith("searched")
    assert lines[-1].endswith("1 of 2 groups moved")
    data = found.to_dict()
    assert data["total"]["after"] == data["layers"]["conv.weight"]["after"] > data["total"]["before"]
    assert data["left"] == {"conv.weight": "y is an output of the graph"}
    assert found.table().row_count == 1


def test_errors():
    net, x = small(8)
    broken = finished(net, net.conv(x, "conv", 8, 3))
    with pytest.raises(RecipeError, match="window must be a multiple of 4"):
        permute(broken, window=6)
    with pytest.raises(RecipeError, match="0 <= n <= m"):
        permute(broken, n=5)
    numbers = array(broken, "conv.weight").copy()
    numbers[0, 0, 0, 0] = np.nan
    put(broken, "conv.weight", numbers)
    with pytest.raises(WeightError, match=r"conv\.weight: .*NaN"):
        permute(broken)


def test_nothing_else_is_copied():
    net, x = small(8)
    given = finished(net, net.conv(x, "conv", 8, 3))
    result = permute(given, names=[]).model
    assert isinstance(result, onnx_ir.Model)
    for name, value in given.graph.initializers.items():
        assert result.graph.initializers[name].const_value is value.const_value
