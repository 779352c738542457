"""What the tests of TensorFlow's reader and writer share: small networks, and how to run and compare them."""

from __future__ import annotations

import math

import numpy as np
import tensorflow.compat.v1 as tf

from mopruning import BankBalanced, mask
from mopruning.ir import zoo
from mopruning.ir.builder import Builder
from tests.ir.small_models import array, put, run

NETWORKS = {"lenet5": None, "mnist_cnn": None, "resnet8_cifar": None, "vgg8_cifar": None, "tiny": None}
"""Networks on which everything is tried: convolutions, batch normalisation, shortcuts, flattened images, dropout."""

CLASSES = 4


def tiny():
    """Everything that makes layouts difficult: odd sizes, asymmetric windows, a channel shuffle, groups, branches."""
    net = Builder("tiny")
    x = net.relu(net.batch_norm(net.conv(net.input("image", (3, 17, 14)), "stem.conv", 8, 3, stride=2), "stem.bn"), "r")
    left, right = net.split(x, "parts", (4, 4))
    right = net.conv(right, "depthwise", 4, 3, padding=1, groups=4, bias=True)
    x = net.concat([left, right], "joined")
    x = net.reshape(x, "pair", (2, 4, 8, 6))
    x = net.reshape(net.transpose(x, "swap", (2, 1, 3, 4)), "shuffled", (8, 8, 6))
    x = net.conv(x, "grouped", 8, (3, 2), stride=(2, 1), padding=(1, 0), groups=2, bias=True)
    x = net.average_pool(net.max_pool(x, "max", 3, stride=2, padding=1, ceil=True), "mean", 2, stride=1, padding=1)
    x = net.clip(net.conv_transpose(x, "up", 6, 3, stride=2, padding=1, output_padding=1), "clip", 0.0, 6.0)
    x = net.dropout(net.flatten(x, "flatten"), "dropout", 0.25)
    return net.model({"logits": net.gemm(x, "fc", CLASSES)})


def pruned(name):
    """Build a network with used statistics, and 3/4 of its larger weights zero."""
    random = np.random.default_rng(3)
    net = tiny() if name == "tiny" else zoo.build(name, classes=CLASSES)
    for key, value in net.graph.initializers.items():
        content = array(net, key)
        if key.endswith(("running_mean", "running_var")):
            put(net, key, (np.abs(random.standard_normal(content.shape)) + 0.5).astype(np.float32))
        elif value.const_value.size > 256 and content.ndim > 1:
            kept = mask(np.abs(content), BankBalanced(bank=math.gcd(64, content.shape[1])), 0.75)
            put(net, key, np.where(kept, content, np.float32(0)))
    return net


def images(net, batch=3, seed=0):
    """Random images for a network, NCHW."""
    (value,) = (one for one in net.graph.inputs if not one.is_initializer())
    shape = [batch, *list(value.shape)[1:]]
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def outputs_of(net, x):
    """What onnxruntime computes."""
    return run(net, {str(net.graph.inputs[0].name): x})


def distance(actual, expected):
    """The largest difference, as a share of the range."""
    assert [one.shape for one in actual] == [one.shape for one in expected]
    return max(np.abs(a - b).max() / np.ptp(b) for a, b in zip(actual, expected, strict=True))


def weights(net):
    """The content of all floating initializers that are no numbers of a formula, bit for bit."""
    return {
        name: array(net, name).tobytes()
        for name, value in net.graph.initializers.items()
        if array(net, name).dtype.kind == "f" and value.const_value.size > 1
    }


def summary(net):
    """Each node with its operator and what it reads."""
    return {node.name: (node.op_type, [value and value.name for value in node.inputs][:2]) for node in net.graph}


def training_loss(network):
    """A loss over the first output of a network, in its graph; labels are 0, 1, 2, ..."""
    logits = next(iter(network.outputs.values()))
    labels = tf.range(tf.shape(logits)[0]) % CLASSES
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits))
