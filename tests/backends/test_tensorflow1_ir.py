"""From the IR to TensorFlow and back: what arrives computes, is called, and trains as what was sent."""

from __future__ import annotations

import numpy as np
import pytest

tensorflow = pytest.importorskip("tensorflow")
pytest.importorskip("onnxruntime")

import tensorflow.compat.v1 as tf  # noqa: E402

from mopruning.backends import tensorflow1  # noqa: E402
from mopruning.backends.tensorflow1.reader import to_ir  # noqa: E402
from mopruning.backends.tensorflow1.writer import from_ir  # noqa: E402
from mopruning.ir.builder import Builder  # noqa: E402
from mopruning.ir.roles import roles_of  # noqa: E402
from tests.backends.tensorflow1_ir_networks import (  # noqa: E402
    NETWORKS,
    distance,
    images,
    outputs_of,
    pruned,
    summary,
    training_loss,
    weights,
)
from tests.ir.small_models import content  # noqa: E402

_SENT = {}


def sent(name):
    """A network, and what it becomes; built once for all tests."""
    if name not in _SENT:
        net = pruned(name)
        before = content(net)
        _SENT[name] = net, from_ir(net), before
    return _SENT[name][:2]


@pytest.fixture(params=NETWORKS)
def name(request):
    return request.param


def test_outputs_are_those_of_onnxruntime(name):
    net, network = sent(name)
    with network.session() as session:
        for batch in (1, 3):
            x = images(net, batch)
            assert distance(network.run([x], session), outputs_of(net, x)) < 2e-6


def test_what_returns_is_the_same_graph_with_the_same_weights(name):
    net, network = sent(name)
    back = to_ir(network)
    x = images(net)
    assert weights(back) == weights(net)
    assert distance(outputs_of(back, x), outputs_of(net, x)) < 1e-6
    assert [value.name for value in (*back.graph.inputs, *back.graph.outputs)] == [
        value.name for value in (*net.graph.inputs, *net.graph.outputs)
    ]
    assert back.metadata_props["mopruning.layout"] == "NHWC"
    if name != "tiny":  # whose shuffle comes back as another transpose
        assert summary(back) == summary(net)


def test_tables_of_a_formula_are_no_parameters():
    """The share of each window that lies inside an image is a Const beside variables: nothing that is trained."""
    builder = Builder("pool")
    x = builder.conv(builder.input("image", (3, 16, 16)), "conv", 4, 3, padding=1)
    x = builder.average_pool(x, "mean", 3, stride=2, padding=1, ceil=True)
    net = builder.model({"output": builder.conv(x, "last", 2, 1)})
    back = to_ir(from_ir(net))
    roles = roles_of(back)
    assert {key for key, role in roles.items() if role != "constant"} == {"conv.weight", "last.weight"}
    assert any(len(back.graph.initializers[key].shape) == 4 for key, role in roles.items() if role == "constant")
    x = images(net)
    assert distance(outputs_of(back, x), outputs_of(net, x)) < 1e-6


def test_variables_have_the_parameters_names_and_images_are_nhwc(name):
    net, network = sent(name)
    assert set(weights(net)) == set(network.variables)
    assert all(variable.op.name == own for own, variable in network.variables.items())
    (placeholder,) = network.inputs.values()
    channels, height, width = list(net.graph.inputs[0].shape)[1:]
    assert placeholder.shape.as_list() == [None, height, width, channels]


def test_nothing_is_transposed_but_a_channel_shuffle(name):
    _, network = sent(name)
    transposes = [one.name for one in network.graph.get_operations() if one.type == "Transpose"]
    assert len(transposes) == (name == "tiny")


def test_model_stays_as_it_is(name):
    sent(name)
    net, _, before = _SENT[name]
    assert content(net) == before


@pytest.mark.parametrize("name", ["resnet8_cifar", "tiny"])
def test_loss_falls_with_tensorflows_own_optimizer(name):
    net, network = sent(name)[0], from_ir(pruned(name))
    (placeholder,) = network.inputs.values()
    x = np.transpose(images(net, 4), (0, 2, 3, 1))
    with network.graph.as_default(), network.session() as session:
        loss = training_loss(network)
        with tf.control_dependencies(tf.get_collection(tf.GraphKeys.UPDATE_OPS)):
            step = tf.train.GradientDescentOptimizer(0.05).minimize(loss)
        losses = [session.run([loss, step], {network.training: True, placeholder: x})[0] for _ in range(6)]
    assert losses[-1] < losses[0]


def test_statistics_move_by_the_momentum_in_training_alone():
    net, network = sent("mnist_cnn")
    (placeholder,) = network.inputs.values()
    x = np.transpose(images(net, 4), (0, 2, 3, 1))
    first = next(node for node in net.graph if node.op_type == "BatchNormalization")
    mean = network.variables[first.inputs[3].name]
    features = network.graph.get_tensor_by_name(f"{first.inputs[0].name}:0")
    with network.graph.as_default(), network.session() as session:
        updates = tf.get_collection(tf.GraphKeys.UPDATE_OPS)
        before = session.run(mean)
        session.run(updates, {placeholder: x})
        assert np.array_equal(session.run(mean), before)
        batch = session.run(features, {placeholder: x}).mean((0, 1, 2))
        session.run(updates, {placeholder: x, network.training: True})
        momentum = first.attributes["momentum"].value
        np.testing.assert_allclose(session.run(mean), momentum * before + (1 - momentum) * batch, rtol=1e-4, atol=1e-6)


def test_dropout_drops_in_training_alone():
    net, network = sent("tiny")
    (placeholder,) = network.inputs.values()
    ends = [network.graph.get_tensor_by_name(f"{name}:0") for name in ("flatten", "dropout")]
    x = np.transpose(images(net, 16), (0, 2, 3, 1))
    with network.session() as session:
        assert np.array_equal(*session.run(ends, {placeholder: x}))
        before, after = session.run(ends, {placeholder: x, network.training: True})
    kept = after != 0
    assert 0.2 < 1 - kept[before != 0].mean() < 0.3
    np.testing.assert_allclose(after[kept], before[kept] / 0.75, rtol=1e-6)


def test_arrival_trains_with_its_masks():
    network = from_ir(pruned("lenet5"))
    (placeholder,) = network.inputs.values()
    x = np.transpose(images(sent("lenet5")[0], 4), (0, 2, 3, 1))
    with network.graph.as_default():
        loss = training_loss(network)
        optimizer = tensorflow1.MomentumOptimizerSparse(0.05, 0.9, fix_sparsity=True)
        step = optimizer.minimize(loss)
        with tf.Session() as session:
            session.run(tf.global_variables_initializer())
            network.load(session)
            before = {own: session.run(variable) for own, variable in network.variables.items()}
            losses = [session.run([loss, step], {network.training: True, placeholder: x})[0] for _ in range(5)]
            after = {own: session.run(variable) for own, variable in network.variables.items()}
    assert losses[-1] < losses[0]
    for own, content_before in before.items():
        if content_before.ndim > 1 and (content_before == 0).mean() > 0.5:
            assert np.array_equal(content_before == 0, after[own] == 0), own
            assert not np.array_equal(content_before, after[own]), own


def test_names_that_tensorflow_does_not_allow_return():
    net = pruned("lenet5")
    for old, new in (("fc1.weight", "scope/fc:0"), ("fc1.bias", "_a b"), ("conv1.weight", "W"), ("conv1.bias", "w")):
        if old in net.graph.initializers:
            net.graph.initializers[old].name = new
    network = from_ir(net)
    assert set(weights(net)) == set(network.variables)
    assert weights(to_ir(network)) == weights(net)
