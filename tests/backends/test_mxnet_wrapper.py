"""`SparseOptimizer` around MXNet optimizers of others, and copies and saved states of sparse optimizers."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

pytest.importorskip("mopruning.backends.mxnet", exc_type=ImportError)

from mopruning.backends import mxnet
from mopruning.backends.mxnet.framework import mx
from tests.backends.mxnet_networks import build, native_states, share, train, values

WEIGHTS = ("conv1_weight", "conv2_weight", "fc_weight")


@pytest.fixture
def net():
    return build()


def trainer_of(net, optimizer, **options):
    return mx.gluon.Trainer(net.collect_params(), optimizer, **options)


def shares(net):
    return [share(values(net, name)) for name in WEIGHTS]


class Lion(mx.optimizer.Optimizer):
    """An optimizer of somebody else's: the sign of a momentum, with decay."""

    def create_state(self, index, weight):
        return mx.nd.ones_like(weight)

    def update(self, index, weight, grad, state):
        self._update_count(index)
        rate = self._get_lr(index)
        weight[:] = weight * (1 - rate * 0.1) - rate * mx.nd.sign(0.9 * state + 0.1 * grad)
        state[:] = 0.99 * state + 0.01 * grad


class Jittery(mx.optimizer.SGD):
    """A subclass of MXNet's own whose update does more than its parent's."""

    def update_multi_precision(self, index, weight, grad, state):
        super().update_multi_precision(index, weight, grad, state)
        for array in weight if isinstance(weight, (list, tuple)) else [weight]:
            array[:] += 0.01


class JitterySparse(mxnet.SGDSparse):
    """Somebody's subclass of a sparse class."""

    def update_multi_precision(self, index, weight, grad, state):
        super().update_multi_precision(index, weight, grad, state)
        self.seen = True


@pytest.mark.parametrize(
    "make",
    [
        lambda: mxnet.SparseOptimizer(Lion(learning_rate=0.01), target_sparsity=0.5),
        lambda: mxnet.SparseOptimizer(Jittery(learning_rate=0.01, momentum=0.9), target_sparsity=0.5),
        lambda: JitterySparse(learning_rate=0.01, target_sparsity=0.5),
    ],
    ids=["other", "derived", "derived from sparse"],
)
def test_optimizers_of_others(make, net):
    optimizer = make()
    trainer = trainer_of(net, optimizer)
    for seed in range(4):
        train(net, trainer, seed=seed)
        assert shares(net) == [0.5] * 3
        pruned = values(net, "conv2_weight") == 0
        for array in native_states(trainer, trainer._param2idx["net_conv2_weight"]):
            assert not array.asnumpy()[pruned].any()
    assert optimizer.pruner.steps == 4


def test_wrapper_shows_the_optimizer_it_wraps(net):
    native = mx.optimizer.LARS(learning_rate=0.1, momentum=0.9)
    optimizer = mxnet.SparseOptimizer(native, target_sparsity=0.5)
    assert isinstance(optimizer, mx.optimizer.Optimizer)
    assert "LARS" in repr(optimizer)
    trainer = trainer_of(net, optimizer)
    assert native.param_dict is optimizer.param_dict
    trainer.set_learning_rate(0.25)
    assert native.lr == optimizer.learning_rate == trainer.learning_rate == 0.25
    train(net, trainer, 2)
    assert native.num_update == optimizer.num_update == 2
    optimizer.set_wd_mult({"net_fc_weight": 0.5})
    assert native.wd_mult["net_fc_weight"] == 0.5


def test_wrapper_without_sparsity_is_the_native_optimizer():
    results = []
    for wrapped in (False, True):
        net = build()
        optimizer = mx.optimizer.SGD(learning_rate=0.1, momentum=0.9)
        optimizer = mxnet.SparseOptimizer(optimizer) if wrapped else optimizer
        train(net, trainer_of(net, optimizer), 3)
        results.append(values(net, "conv2_weight"))
    assert optimizer.plan is optimizer.pruner is None
    np.testing.assert_array_equal(results[0], results[1])


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_copies_go_on_where_they_are(copied, wrapped, net):
    native = {"learning_rate": 0.01, "momentum": 0.9}
    sparse = {"target_sparsity": 0.75, "sparse_step": 6, "frequency": 2}
    optimizer = mxnet.SGDSparse(**native, **sparse)
    if wrapped:
        optimizer = mxnet.SparseOptimizer(mx.optimizer.SGD(**native), **sparse)
    train(net, trainer_of(net, optimizer), 3)
    twin = copied(optimizer)
    assert (twin.pruner.steps, twin.plan) == (3, optimizer.plan)
    train(net, trainer_of(net, twin), 5, seed=1)
    assert (optimizer.pruner.steps, twin.pruner.steps) == (3, 8)
    assert twin.plan == optimizer.plan
    assert shares(net) == [0.75] * 3


@pytest.mark.parametrize("wrapped", [False, True])
def test_states_resume_into_another_trainer(wrapped, tmp_path):
    def start(seed):
        net = build(seed=seed)
        optimizer = mxnet.AdamSparse(learning_rate=0.01, target_sparsity=0.75, sparse_step=6, frequency=2)
        if wrapped:
            optimizer = mx.optimizer.Adam(learning_rate=0.01)
            optimizer = mxnet.SparseOptimizer(optimizer, target_sparsity=0.75, sparse_step=6, frequency=2)
        return net, trainer_of(net, optimizer)

    net, trainer = start(0)
    train(net, trainer, 3)
    trainer.save_states(str(tmp_path / "states"))
    net.save_parameters(str(tmp_path / "params"))
    train(net, trainer, 5, seed=1)
    again, second = start(1)
    again.load_parameters(str(tmp_path / "params"))
    second.load_states(str(tmp_path / "states"))
    train(again, second, 5, seed=1)
    for name in WEIGHTS:
        np.testing.assert_array_equal(values(again, name), values(net, name))
    plain = mx.nd.load(str(tmp_path / "params"))
    assert set(plain) == set(net._collect_params_with_prefix())
