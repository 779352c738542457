"""`SparseOptimizer` around MindSpore optimizers, also those of others."""

from __future__ import annotations

import numpy as np
import pytest

ms = pytest.importorskip("mindspore")

from mindspore import ParameterTuple, nn, ops  # noqa: E402

from mopruning.backends import mindspore  # noqa: E402
from tests.backends.mindspore_networks import batch, gradients, mlp, share, values  # noqa: E402


class Lion(nn.Optimizer):
    """An optimizer of somebody else's: the sign of a momentum, with decay."""

    def __init__(self, params, learning_rate=0.01, beta=0.9, decay=0.1):
        super().__init__(learning_rate, params)
        self.beta, self.decay = beta, decay
        self.average = self.parameters.clone(prefix="average", init="ones")

    def construct(self, gradients):
        rate = self.get_lr()
        for p, average, gradient in zip(self.parameters, self.average, gradients):  # noqa: B905  graphs know no strict zip
            direction = ops.sign(average + 0.1 * (gradient - average))
            ops.assign(p, p * (1.0 - rate * self.decay) - rate * direction)
            ops.assign(average, average + (1.0 - self.beta) * (gradient - average))
        return True


class Jittery(nn.SGD):
    """A subclass of MindSpore's own whose update does more than its parent's."""

    def __init__(self, params, learning_rate=0.01):
        super().__init__(params, learning_rate, momentum=0.9)
        self.noise = ParameterTuple([p.clone() for p in self.parameters])
        for parameter in self.noise:
            parameter.name = f"noise.{parameter.name}"

    def construct(self, gradients):
        rate = self.get_lr()
        for p, noise, gradient in zip(self.parameters, self.noise, gradients):  # noqa: B905  graphs know no strict zip
            ops.assign(p, p - rate * gradient + 0.01)
            ops.assign(noise, noise + 1.0)
        return True


class Talkative(nn.Optimizer):
    """An optimizer that is plain Python, which no graph could hold."""

    def __init__(self, params):
        super().__init__(0.5, params)
        self.heard = []

    def construct(self, gradients):
        for p, gradient in zip(self.parameters, gradients, strict=True):
            self.heard.append(float(np.abs(gradient.asnumpy()).sum()))
            ops.assign(p, p - 0.5 * gradient)
        return True


@pytest.mark.parametrize("compiled", [False, True], ids=["PYNATIVE", "jit"])
@pytest.mark.parametrize("foreign", [Lion, Jittery])
def test_wraps_optimizers_of_others(foreign, compiled):
    net = mlp()
    optimizer = mindspore.SparseOptimizer(foreign(net.trainable_params(), 0.01), net, target_sparsity=0.5)
    slots = optimizer.average if foreign is Lion else optimizer.noise

    def update(slopes):
        return optimizer(slopes)

    call = ms.jit(update) if compiled else update
    for seed in range(4):
        call(ms.mutable(gradients(optimizer, seed)))
        pruned = net[0].weight.asnumpy() == 0
        assert pruned.mean() == 0.5
        assert not slots[0].asnumpy()[pruned].any()
        assert slots[0].asnumpy()[~pruned].all()


def test_wraps_optimizers_that_only_python_runs():
    net = mlp()
    inner = Talkative(net.trainable_params())
    optimizer = mindspore.SparseOptimizer(inner, net, target_sparsity=0.5)
    for seed in range(3):
        optimizer(gradients(optimizer, seed))
        assert share(net[0].weight) == 0.5
    assert len(inner.heard) == 12
    assert inner.heard[4] < 0.75 * inner.heard[0]  # from the second update on it sees no slope at pruned weights


def test_wrapper_shows_the_optimizer_it_wraps():
    net = mlp()
    native = nn.Adam(net.trainable_params(), learning_rate=0.25, loss_scale=4.0)
    optimizer = mindspore.SparseOptimizer(native, target_sparsity=0.5)
    assert isinstance(optimizer, nn.Optimizer)
    assert optimizer.parameters is native.parameters
    assert optimizer.moment1 is native.moment1
    assert optimizer.loss_scale == 4.0
    assert float(optimizer.get_lr().asnumpy()) == 0.25
    assert optimizer.get_lr_parameter(native.parameters[0]) is native.learning_rate
    ops.assign(optimizer.learning_rate, ms.Tensor(0.5))
    assert float(native.get_lr().asnumpy()) == 0.5
    assert {p.name for p in native.get_parameters()} < {p.name for p in optimizer.get_parameters()}
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = optimizer.nothing


def test_what_steers_the_optimizer_reaches_it():
    native = nn.LazyAdam(mlp().trainable_params())
    optimizer = mindspore.SparseOptimizer(native, target_sparsity=0.5)
    optimizer.target = "CPU"
    assert native.target == optimizer.target == "CPU"
    optimizer.unique = False
    assert native.unique is optimizer.unique is False


@pytest.mark.usefixtures("mode")
def test_wrapper_without_sparsity_is_the_native_optimizer():
    found = []
    for wrap in (lambda optimizer: optimizer, mindspore.SparseOptimizer):
        net = mlp()
        optimizer = wrap(nn.Momentum(net.trainable_params(), 0.1, 0.9))
        cell = nn.TrainOneStepCell(nn.WithLossCell(net, nn.MSELoss()), optimizer)
        for seed in range(3):
            cell(*batch(seed))
        found.append(values(cell))
    assert optimizer.plan is None
    assert optimizer.pruner is None
    assert not optimizer.update_masks()
    assert list(found[0]) == list(found[1])
    for name, value in found[0].items():
        np.testing.assert_array_equal(found[1][name], value)
