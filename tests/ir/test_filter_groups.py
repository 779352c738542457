"""What of a network goes with a channel: the parameters that follow its filters, and that nothing of it is left."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx_ir
import pytest

from mopruning import Pruner, Recipe
from mopruning.ir import zoo
from mopruning.ir.coupling import coupling, filter_groups
from mopruning.ir.parameters import parameters
from mopruning.ir.passes import cost, shrink_report
from tests.ir.channel_graphs import IMAGE, build, conv
from tests.ir.small_models import Weights, model, node


def followers(net):
    return {
        group.names: {follower.name: follower.channels for follower in group.followers} for group in filter_groups(net)
    }


def test_biases_scales_and_shifts_follow_and_statistics_do_not():
    net = zoo.build("resnet8_cifar", image=8)
    found = followers(net)
    second = next(followed for names, followed in found.items() if "layer2.0.conv2.weight" in names)
    assert second["layer2.0.bn2.weight"] == second["layer2.0.bn2.bias"] == tuple(range(32))
    every = Counter(name for followed in found.values() for name in followed)
    assert set(every.values()) == {1}
    assert set(every) == {name for name, one in parameters(net).items() if len(one.value.shape) == 1}


@pytest.mark.parametrize(
    ("graph", "name", "expected"),
    [
        ("joined", "n.weight", [(0, 1, 2, -1, -1, -1, -1), (-1, -1, -1, 0, 1, 2, 3)]),
        ("slopes", "slope", [(0, 1, 2, 3)]),
        ("deconvolution", "b.bias", [(0, 1, 0, 1)]),
        ("grouped", "b.bias", [(0, 1, 0, 1)]),
        ("depthwise", "b.bias", [(0, 0, 1, 1, 2, 2, 3, 3)]),
    ],
)
def test_channels_of_followers(graph, name, expected):
    groups = filter_groups(build(graph))
    found = [one.channels for group in groups for one in group.followers if one.name == name]
    assert found == expected
    assert not {one.name for group in groups for one in group.followers} & {n for g in groups for n in g.names}


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        ("residual", {"a.weight": {"b.weight": tuple(range(6)), "y.weight": tuple(range(6))}}),
        (
            "joined",
            {"a.weight": {"y.weight": (0, 1, 2, -1, -1, -1, -1)}, "b.weight": {"y.weight": (-1, -1, -1, 0, 1, 2, 3)}},
        ),
        ("grouped", {"a.weight": {"b.weight": (0, 1, 2, 3)}, "b.weight": {"y.weight": (0, 1, 0, 1)}}),
        ("depthwise", {"a.weight": {"y.weight": (0, 0, 1, 1, 2, 2, 3, 3)}}),
        ("deconvolution", {"a.weight": {"b.weight": (0, 1, 2)}, "b.weight": {"y.weight": (0, 1, 0, 1)}}),
        (
            "flattened",
            {"a.weight": {"b.weight": tuple(np.repeat(range(4), 9))}, "b.weight": {"y.weight": (0, 1, 2, 3, 4)}},
        ),
    ],
)
def test_what_reads_the_channels(graph, expected):
    groups = [group for group in filter_groups(build(graph)) if group.free.any()]
    assert {group.names[0]: {one.name: one.channels for one in group.readers} for group in groups} == expected
    assert all(group.read for group in groups)


def test_what_may_not_be_zero_does_not_follow():
    """0 / 0 is no number, and whatever to the power of 0 is 1."""
    w = Weights()
    w["divisor"], w["exponent"], w["factor"], w["shift"] = (np.full((4, 1, 1), 2, np.float32) for _ in range(4))
    nodes = [
        *(conv(w, "a", "x", 4, 3), node("Div", "d", "a divisor"), node("Pow", "p", "d exponent")),
        *(node("Identity", "same", "factor"), node("Mul", "m", "p same"), node("Sub", "s", "m shift")),
        conv(w, "y", "s", 2, 4),
    ]
    found = followers(model(IMAGE, nodes, ["y"], w))
    assert set(found["a.weight",]) == {"a.bias", "factor", "shift"}


def settled(name):
    """Build a network whose normalisations have numbers as a trained network has them."""
    net = zoo.build(name)
    random = np.random.default_rng(0)
    for name, value in net.graph.initializers.items():
        if value.const_value.numpy().ndim == 1:
            numbers = random.uniform(0.5, 1.5, value.const_value.shape).astype(np.float32)
            value.const_value = onnx_ir.Tensor(numbers, name=name)
    return net


@pytest.mark.parametrize("name", ["resnet20_cifar", "vgg8_cifar"])
def test_nothing_is_left_of_a_channel(name):
    """Half of the channels go: the shrunk network has half the width, and the numbers that were there."""
    net = settled(name)
    arrays = {name: value.const_value.numpy() for name, value in net.graph.initializers.items()}
    trained = parameters(net)
    assert {one.layout for one in trained.values()} == {"canonical"}
    plan = Recipe(sparsity=0.5, granularity="filter:group").plan(
        {name: arrays[name].shape for name in trained}, groups=filter_groups(net)
    )
    masks = Pruner(plan).step(arrays)
    for name, mask in masks.items():
        net.graph.initializers[name].const_value = onnx_ir.Tensor(arrays[name] * mask, name=name)
    kept = {name: [np.arange(size) for size in array.shape] for name, array in arrays.items()}
    for group in coupling(net).groups:
        if group.name in masks:
            alive = np.flatnonzero(masks[group.name].reshape(group.channels, -1)[:, 0])
            assert 2 * alive.size == group.channels
            for axis in group.axes:
                kept[axis.name][axis.axis] = np.flatnonzero(np.isin(axis.channels, alive))
    shrunk = shrink_report(net)
    assert sum(row.zeros for row in shrunk.rows) == 0
    assert list(shrunk.model.graph.initializers) == list(arrays)
    for name, value in shrunk.model.graph.initializers.items():  # no bias and no running mean took anything over
        np.testing.assert_array_equal(value.const_value.numpy(), arrays[name][np.ix_(*kept[name])], err_msg=name)
    assert cost(shrunk.model).macs < 0.26 * cost(net).macs
