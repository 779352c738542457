"""Copies of PyTorch sparse optimizers, and `SparseOptimizer` around optimizers of others."""

from __future__ import annotations

import copy
import io
import pickle

import pytest

torch = pytest.importorskip("torch")

from mopruning.backends import pytorch  # noqa: E402
from tests.backends.pytorch_networks import Net, share, train  # noqa: E402


@pytest.fixture
def net(device):
    torch.manual_seed(0)
    return Net().to(device)


def by_deepcopy(pair):
    return copy.deepcopy(pair)


def by_pickle(pair):
    return pickle.loads(pickle.dumps(pair))


def by_torch(pair):
    file = io.BytesIO()
    torch.save(pair, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def wrapped(model, **arguments):
    return pytorch.SparseOptimizer(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), model, **arguments)


def derived(model, **arguments):
    return pytorch.SGDSparse(model, lr=0.1, momentum=0.9, **arguments)


@pytest.mark.parametrize("make", [derived, wrapped])
@pytest.mark.parametrize("copied", [by_deepcopy, by_pickle, by_torch])
def test_copies_stay_sparse_and_go_their_own_way(make, copied, net):
    optimizer = make(net, target_sparsity=0.75, sparse_step=6, frequency=2)
    train(net, optimizer, 3)
    twin, twin_optimizer = copied((net, optimizer))
    assert 0 < share(twin.conv2.weight) < 0.75
    train(net, optimizer, 5, seed=1)
    assert twin_optimizer.pruner.steps == 3
    train(twin, twin_optimizer, 5, seed=1)
    assert twin_optimizer.pruner.steps == 8
    for one, other in zip(net.parameters(), twin.parameters(), strict=True):
        assert torch.equal(one, other)
    assert share(twin.conv2.weight) == 0.75
    assert twin_optimizer.plan == optimizer.plan


def test_copy_of_an_optimizer_alone_brings_its_parameters(net):
    optimizer = derived(net, target_sparsity=0.5)
    train(net, optimizer)
    twin = copy.deepcopy(optimizer)
    weight = twin.param_groups[0]["params"][4]
    assert weight is not net.conv2.weight
    weight.grad = torch.ones_like(weight)
    twin.step()
    assert share(weight) == 0.5
    assert twin.pruner.steps == optimizer.pruner.steps + 1


class Lion(torch.optim.Optimizer):
    """An optimizer of somebody else's: the sign of a momentum, with decay."""

    def __init__(self, params, lr=0.01, beta=0.9, decay=0.1):
        super().__init__(params, {"lr": lr, "beta": beta, "decay": decay})

    @torch.no_grad()
    def step(self, closure=None):
        loss = closure() if closure else None
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                momentum = self.state[p].setdefault("exp_avg", torch.ones_like(p))
                p.mul_(1 - group["lr"] * group["decay"]).add_(momentum.lerp(p.grad, 0.1).sign(), alpha=-group["lr"])
                momentum.lerp_(p.grad, 1 - group["beta"])
        return loss


class Jittery(torch.optim.SGD):
    """A subclass of torch's own whose step does more than its parent's."""

    @torch.no_grad()
    def step(self, closure=None):
        super().step(closure)
        for group in self.param_groups:
            for p in group["params"]:
                p.add_(0.01)


@pytest.mark.parametrize("foreign", [Lion, Jittery])
def test_wraps_optimizers_of_others(foreign, net):
    optimizer = pytorch.SparseOptimizer(foreign(net.named_parameters(), lr=0.01), target_sparsity=0.5)
    for seed in range(4):
        train(net, optimizer, seed=seed)
        assert share(net.conv2.weight) == 0.5
        for values in optimizer.state[net.conv2.weight].values():
            if isinstance(values, torch.Tensor):
                assert not values[net.conv2.weight == 0].any()


def test_wrapper_shows_the_optimizer_it_wraps(net):
    native = torch.optim.AdamW(net.named_parameters(), lr=0.1)
    optimizer = pytorch.SparseOptimizer(native, target_sparsity=0.5)
    assert isinstance(optimizer, torch.optim.Optimizer)
    assert optimizer.param_groups is native.param_groups
    assert optimizer.defaults is native.defaults
    assert "AdamW" in repr(optimizer)
    optimizer.param_groups = native.param_groups[:]
    assert native.param_groups is optimizer.param_groups
    train(net, native)  # stepped directly, it is as sparse
    assert share(net.conv2.weight) == 0.5
    assert native.state_dict()["mopruning"]["steps"] == 1


def test_wrapper_without_sparsity_is_the_native_optimizer(net):
    twin = copy.deepcopy(net)
    optimizer = pytorch.SparseOptimizer(torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9))
    assert optimizer.plan is None
    assert optimizer.pruner is None
    train(net, optimizer, 3)
    train(twin, torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9), 3)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), twin.parameters(), strict=True))
    assert set(optimizer.state_dict()) == {"state", "param_groups"}
