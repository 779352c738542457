"""TensorFlow 1 sparse optimizers under MirroredStrategy, on two devices of one machine."""

from __future__ import annotations

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow.compat.v1")

from mopruning.backends import tensorflow1  # noqa: E402
from tests.backends.tensorflow1_networks import Run, network, share  # noqa: E402

RAMP = {"target_sparsity": 0.75, "pretrain_step": 2, "sparse_step": 6, "frequency": 2}
KERNELS = ("conv1/weights", "conv2/weights", "fc/weights")


def momentum(**arguments):
    return tensorflow1.MomentumOptimizerSparse(0.05, 0.9, **arguments)


class Mirrored:
    """The network on two devices of one machine, each with half of every batch."""

    def __init__(self, optimizer):
        self.graph = tf.Graph()
        with self.graph.as_default():
            strategy = tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"])
            self.images = tf.placeholder(tf.float32, [4, 8, 8, 4])

            def step():
                half = self.images[2 * tf.distribute.get_replica_context().replica_id_in_sync_group :][:2]
                with tf.variable_scope("", reuse=tf.AUTO_REUSE):
                    loss = tf.reduce_mean(tf.square(network(half))) / 2.0
                return self.optimizer.minimize(loss, global_step=tf.train.get_global_step())

            with strategy.scope():
                tf.train.create_global_step()
                self.optimizer = optimizer()
                self.train_op = strategy.group(strategy.run(step))
            self.held = {v.op.name: v.values for v in tf.global_variables()}
            self.session = tf.Session()
            self.session.run(tf.global_variables_initializer())

    def train(self, seed):
        images = np.random.default_rng([seed, 0]).standard_normal([4, 8, 8, 4])
        self.session.run(self.train_op, {self.images: images})

    def values(self):
        return self.session.run(self.held)


@pytest.mark.parametrize(
    "arguments",
    [{}, {"score": "movement"}, {"score": "taylor", "allocation": "global"}, {"L1_regularization": 0.01}],
    ids=["magnitude", "movement", "taylor", "penalty"],
)
def test_replicas_do_what_one_device_does(arguments):
    one = Run(lambda: momentum(**RAMP, **arguments))
    many = Mirrored(lambda: momentum(**RAMP, **arguments))
    for name, value in one.weights().items():
        np.testing.assert_array_equal(many.values()[name][0], value)
    for seed in range(10):
        one.train(seed=seed)
        many.train(seed)
        values = many.values()
        for name, (here, there) in values.items():
            np.testing.assert_array_equal(here, there, name)
        for name, value in one.weights().items():
            np.testing.assert_allclose(values[name][0], value, rtol=1e-3, atol=1e-5, err_msg=name)
        for name in KERNELS:
            np.testing.assert_array_equal(values[f"mopruning/mask/{name}"][0], one[f"mopruning/mask/{name}"])
            mask = values[f"mopruning/mask/{name}"][0]
            assert not values[name][0][~mask].any()
            assert not values[f"{name}/Momentum"][0][~mask].any()
            assert mask.mean() == pytest.approx(1.0 if seed < 3 else mask.mean())
    assert share(values["conv2/weights"][0]) > 0.5
    with many.session.as_default():
        assert many.optimizer.pruner.sparsity == pytest.approx(0.75, abs=0.01)
        assert many.optimizer.pruner.steps == values["global_step"][0] == 10


@pytest.mark.parametrize("cls", ["MomentumOptimizer", "AdamOptimizer"])
def test_replicas_without_sparsity_are_native(cls):
    options = {"MomentumOptimizer": {"learning_rate": 0.1, "momentum": 0.9}, "AdamOptimizer": {}}[cls]
    native = Mirrored(lambda: getattr(tf.train, cls)(**options))
    later = {"target_sparsity": 0.5, "pretrain_step": 100}
    runs = [Mirrored(lambda a=a: getattr(tensorflow1, cls + "Sparse")(**options, **a)) for a in ({}, later)]
    for seed in range(3):
        native.train(seed)
        for run in runs:
            run.train(seed)
    expected = native.values()
    for run in runs:
        values = run.values()
        assert {name for name in values if not name.startswith("mopruning/")} == set(expected)
        for name, (one, other) in expected.items():
            np.testing.assert_array_equal(values[name][0], one, name)
            np.testing.assert_array_equal(values[name][1], other, name)
