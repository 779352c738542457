"""Coupling of channels in whole networks: the groups that are expected, and every network of the zoo."""

import time

import numpy as np
import pytest

from mopruning.ir import zoo
from mopruning.ir.coupling import coupling, filter_groups
from mopruning.ir.parameters import parameters

SMALL = {"inception_v3": 75, "vgg": 32, "resnet": 32, "mobilenet": 32, "shufflenet": 32, "squeezenet": 32}


def small(name, **options):
    """A network for small images, with dense layers that need few weights; none of its weights is made."""
    if name.endswith("_cifar") or name in ("mnist_cnn", "lenet5"):
        return zoo.build(name, **options)
    return zoo.build(name, image=next(size for start, size in SMALL.items() if name.startswith(start)), **options)


@pytest.fixture(scope="module")
def found():
    start = time.process_time()
    groups = {name: (net := small(name), coupling(net)) for name in zoo.names()}
    assert time.process_time() - start < 20
    return groups


@pytest.mark.parametrize("name", zoo.names())
def test_every_channel_of_the_zoo_is_followed(found, name):
    net, coupled = found[name]
    makers = {axis.name for group in coupled.groups for axis in group.axes if axis.role == "produces"}
    weights = {own: parameter for own, parameter in parameters(net).items() if parameter.role == "weight"}
    assert makers == weights.keys()
    outputs = {group.name for group in coupled.groups if group.fixed.any()}
    assert all(
        set(group.reasons) <= {f"{value.name} is an output of the graph" for value in net.graph.outputs}
        for group in coupled.groups
    )
    assert len(outputs) == len(net.graph.outputs)  # everything else may go
    first = next(iter(weights))
    read = {axis.name for group in coupled.groups for axis in group.axes if axis.role == "reads"}
    depthwise = {own for own, one in weights.items() if one.value.const_value.shape[1] == 1 and own != first}
    assert read == weights.keys() - depthwise - {first}


def test_resnet_with_convolutions_as_shortcuts_has_a_group_a_stage():
    groups = coupling(small("resnet20_cifar")).groups
    stages = [
        ("conv1.weight", ["layer1.0.conv2", "layer1.1.conv2", "layer1.2.conv2"]),
        ("layer2.0.conv2.weight", ["layer2.0.downsample", "layer2.1.conv2", "layer2.2.conv2"]),
        ("layer3.0.conv2.weight", ["layer3.0.downsample", "layer3.1.conv2", "layer3.2.conv2"]),
    ]
    named = {group.name: group for group in groups}
    for (name, others), channels in zip(stages, (16, 32, 64), strict=True):
        assert [axis.name for axis in named[name].along("produces")] == [name, *(f"{own}.weight" for own in others)]
        assert named[name].channels == channels
        assert all(axis.channels.tolist() == list(range(channels)) for axis in named[name].axes)
    assert len(groups) == 3 + 9 + 1
    assert [axis.name for axis in named["layer1.1.conv1.weight"].axes if axis.role != "follows"] == [
        "layer1.1.conv1.weight",
        "layer1.1.conv2.weight",
    ]


def test_resnet_with_padded_shortcuts_has_one_group_for_all_stages():
    groups = coupling(small("resnet20_cifar", shortcut="A")).groups
    first = groups[0]
    assert (first.name, first.channels, len(first.along("produces")), len(groups)) == ("conv1.weight", 64, 10, 11)
    channels = {axis.name: axis.channels for axis in first.along("produces")}
    # each stage stands in the middle of the next one
    np.testing.assert_array_equal(channels["layer2.0.conv2.weight"][8:24], channels["conv1.weight"])
    np.testing.assert_array_equal(channels["layer3.2.conv2.weight"][16:48], channels["layer2.1.conv2.weight"])
    assert np.unique(channels["layer3.0.conv2.weight"]).size == 64


def test_vgg_is_a_chain():
    groups = coupling(small("vgg16_cifar")).groups
    ends = [(len(group.along("produces")), len(group.along("reads"))) for group in groups]
    assert ends == [(1, 1)] * 13 + [(1, 0)]
    followers = [axis.name for axis in groups[0].along("follows")]
    assert [name.rpartition(".")[2] for name in followers] == ["bias", "weight", "bias", "running_mean", "running_var"]


def test_mobilenet_ties_expansion_and_depthwise():
    groups = {group.name: group for group in coupling(small("mobilenet_v2_cifar")).groups}
    inner = groups["blocks.1.1.conv.0.weight"]
    assert [(axis.role, axis.name) for axis in inner.axes if axis.role != "follows"] == [
        ("produces", "blocks.1.1.conv.0.weight"),
        ("produces", "blocks.1.1.conv.3.weight"),
        ("reads", "blocks.1.1.conv.6.weight"),
    ]
    outer = groups["blocks.1.0.conv.6.weight"]
    assert [axis.name for axis in outer.along("produces")] == ["blocks.1.0.conv.6.weight", "blocks.1.1.conv.6.weight"]


def test_shufflenet_ties_both_halves_of_a_stage():
    groups = coupling(small("shufflenet_v2_cifar")).groups
    stage = next(group for group in groups if group.name == "layer1.0.conv2.weight")
    assert stage.channels == 58
    assert [axis.name.removesuffix(".weight") for axis in stage.along("produces")] == [
        *("layer1.0.conv2", "layer1.0.conv5", "layer1.1.conv3", "layer1.2.conv3", "layer1.3.conv3"),
        "layer2.0.conv1",  # depthwise, over what the stage gives
    ]
    assert not stage.fixed.any()
    assert all(np.unique(axis.channels).size <= 58 for axis in stage.axes)


@pytest.mark.parametrize(
    ("name", "reader"),
    [("squeezenet1_1", "features.4.squeeze.weight"), ("inception_v3", "Mixed_5c.branch1x1.conv.weight")],
)
def test_concatenations_are_read_in_parts(found, name, reader):
    net, coupled = found[name]
    parts = [axis for group in coupled.groups for axis in group.axes if (axis.name, axis.role) == (reader, "reads")]
    own = [set(np.flatnonzero(axis.channels >= 0).tolist()) for axis in parts]
    assert len(parts) > 1
    assert sum(map(len, own)) == len(set.union(*own)) == net.graph.initializers[reader].const_value.shape[1]


def test_filters_of_a_network_are_in_one_group_each(found):
    for name in ("resnet50", "shufflenet_v2", "mobilenet_v2", "resnet50_v1d_centernet"):
        net, _ = found[name]
        groups = filter_groups(net)
        counted = {}
        for group in groups:
            for member in group.members:
                counted[member.name] = counted.get(member.name, 0) + member.count
        known = parameters(net)
        probe = {
            own: one.canonical(np.broadcast_to(np.False_, one.value.const_value.shape.numpy())).shape[0]
            for own, one in known.items()
            if one.role == "weight"
        }
        assert counted == probe
