"""A small network for the tests of TensorFlow 1, and what they do with it."""

from __future__ import annotations

import contextlib

import numpy as np
import tensorflow.compat.v1 as tf

tf.get_logger().setLevel("ERROR")  # deprecations of what is tested here

# Two devices on one machine; it must be said before TensorFlow starts, so on import.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)


def variable(name, shape, use_resource=True, **options):
    """Return a variable of small random values, the same for the same name."""
    random = np.random.default_rng(len(name) + sum(shape))
    value = random.standard_normal(shape).astype(np.float32) / 4
    return tf.get_variable(name, initializer=value, use_resource=use_resource, **options)


def network(images, use_resource=True):
    """Return outputs of two convolutions and a classifier: kernels in both layouts, biases, and a normalisation."""
    kernel = variable("conv1/weights", [3, 3, 4, 8], use_resource)
    gamma = variable("conv1/gamma", [8], use_resource)
    images = tf.nn.relu(tf.nn.conv2d(images, kernel, 1, "SAME") * gamma)
    images = tf.nn.relu(tf.nn.conv2d(images, variable("conv2/weights", [3, 3, 8, 8], use_resource), 1, "SAME"))
    features = tf.reduce_mean(images, [1, 2])
    return tf.matmul(features, variable("fc/weights", [8, 6], use_resource)) + variable("fc/bias", [6], use_resource)


class Run:
    """A graph of the network with a train operation, and a session that trains it on noise.

    Args:
        optimizer: Function that makes the optimizer, called within the graph.
        use_resource: Kind of its variables.
    """

    def __init__(self, optimizer, use_resource=True):
        self.graph = tf.Graph()
        with self.graph.as_default():
            self.images = tf.placeholder(tf.float32, [None, 8, 8, 4])
            self.loss = tf.reduce_mean(tf.square(network(self.images, use_resource)))
            self.step = tf.train.create_global_step()
            self.optimizer = optimizer()
            self.train_op = self.optimizer.minimize(self.loss, global_step=self.step)
            self.saver = tf.train.Saver()
            self.variables = {v.op.name: v for v in tf.trainable_variables()}
            self.session = tf.Session()
            self.session.run(tf.global_variables_initializer())

    def train(self, steps=1, seed=0, op=None):
        """Run whole training steps."""
        for step in range(steps):
            images = np.random.default_rng([seed, step]).standard_normal([4, 8, 8, 4])
            self.session.run(self.train_op if op is None else op, {self.images: images})

    def variable(self, name):
        """Return a variable by name."""
        return next(v for v in self.graph.get_collection(tf.GraphKeys.GLOBAL_VARIABLES) if v.op.name == name)

    def __getitem__(self, name):
        """Return the value of a variable by name."""
        return self.session.run(self.variable(name))

    def __setitem__(self, name, value):
        start = self.variable(name).initializer
        self.session.run(start, {start.inputs[1]: value})

    def slots(self, name):
        """Return the values of the optimizer's slots of a variable."""
        found = [self.optimizer.get_slot(self.variables[name], slot) for slot in self.optimizer.get_slot_names()]
        return self.session.run(found)

    def weights(self):
        """Return the values of all trainable variables."""
        return self.session.run(self.variables)

    @property
    def pruner(self):
        """The state machine as it stands in the session."""
        with self.session.as_default():
            return self.optimizer.pruner

    @contextlib.contextmanager
    def open(self):
        """Make graph and session the default ones."""
        with self.graph.as_default(), self.session.as_default():
            yield self


def share(value) -> float:
    """Return the share of exact zeros."""
    return float(np.mean(value == 0))
