"""Small MindSpore networks to prune, and how the tests train them."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from mopruning import Pruner, Recipe
from mopruning.backends import mindspore

RAMP = {"target_sparsity": 0.75, "pretrain_step": 1, "sparse_step": 4, "frequency": 2}
"""Masks change after updates 1, 3 and 5."""


def mlp(seed: int = 0) -> nn.Cell:
    """Build 8 inputs -> 16 -> 4 outputs, with weights drawn from a seed."""
    return drawn(nn.SequentialCell(nn.Dense(8, 16), nn.ReLU(), nn.Dense(16, 4)), seed)


def drawn(net: nn.Cell, seed: int = 0) -> nn.Cell:
    """Give a network's trainable parameters values from a seed and return it."""
    random = np.random.default_rng(seed)
    for parameter in net.trainable_params():
        parameter.set_data(Tensor(random.standard_normal(parameter.shape).astype(np.float32) * 0.3))
    return net


class ConvNet(nn.Cell):
    """Two convolutions, a normalisation and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(4, 8, 3)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, has_bias=True)
        self.fc = nn.Dense(8, 6)

    def construct(self, x: Any) -> Any:
        return self.fc(ops.relu(self.conv2(ops.relu(self.bn1(self.conv1(x))))).mean((2, 3)))


def gradients(optimizer: nn.Optimizer, seed: int = 0) -> tuple[Tensor, ...]:
    """Draw a gradient for each parameter of an optimizer."""
    random = np.random.default_rng([seed, 1])
    return tuple(Tensor(random.standard_normal(p.shape).astype(np.float32)) for p in optimizer.parameters)


def batch(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Draw a batch for `mlp`."""
    random = np.random.default_rng([seed, 2])
    return Tensor(random.standard_normal((8, 8)).astype(np.float32)), Tensor(
        random.standard_normal((8, 4)).astype(np.float32)
    )


def share(parameter: ms.Parameter) -> float:
    """Return the share of exact zeros."""
    return float((parameter.asnumpy() == 0).mean())


def values(cell: nn.Cell) -> dict[str, Any]:
    """Return copies of all parameters of a Cell."""
    return {parameter.name: parameter.asnumpy().copy() for parameter in cell.get_parameters()}


def momentum(net: nn.Cell, **arguments: Any) -> nn.Optimizer:
    """Build the sparse optimizer of most tests."""
    return mindspore.MomentumSparse(net, 0.01, 0.9, **{**RAMP, **arguments})


def cell_of(net: nn.Cell, optimizer: nn.Optimizer, **arguments: Any) -> nn.Cell:
    """Build the Cell that trains a network step by step."""
    return nn.TrainOneStepCell(nn.WithLossCell(net, nn.MSELoss()), optimizer, **arguments)


def data(steps: int) -> Any:
    """Return the batches 0, 1, ... as a dataset."""
    inputs, targets = zip(*(batch(step) for step in range(steps)), strict=True)
    arrays = tuple(np.concatenate([one.asnumpy() for one in column]) for column in (inputs, targets))
    return ms.dataset.NumpySlicesDataset(arrays, ["inputs", "targets"], shuffle=False).batch(8)


@functools.cache
def by_hand(steps: int) -> dict[str, Any]:
    """Train with the native optimizer and mask with NumPy between the steps: what a sparse one must equal."""
    net = mlp()
    optimizer = nn.Momentum(net.trainable_params(), 0.01, 0.9)
    pruner = Pruner(Recipe.load(dict(RAMP)).plan({p.name: p.shape for p in optimizer.parameters}))

    def forward(x: Any, y: Any) -> Any:
        return nn.MSELoss()(net(x), y)

    mode = ms.get_context("mode")
    ms.set_context(mode=ms.PYNATIVE_MODE)
    gradient = ms.value_and_grad(forward, None, optimizer.parameters)
    for step in range(steps):
        _, slopes = gradient(*batch(step))
        masks = [pruner.masks.get(p.name, np.True_) for p in optimizer.parameters]
        optimizer(tuple(Tensor(np.where(k, g.asnumpy(), np.float32(0))) for g, k in zip(slopes, masks, strict=True)))
        pruner.step({p.name: p.asnumpy() for p in optimizer.parameters})
        for p, slot in zip(optimizer.parameters, optimizer.moments, strict=True):
            if p.name in pruner.masks:
                for one in (p, slot):
                    ops.assign(one, Tensor(np.where(pruner.masks[p.name], one.asnumpy(), np.float32(0))))
    ms.set_context(mode=mode)
    return values(optimizer)


def assert_same(found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Fail unless all that is expected was found, bit for bit."""
    assert expected.keys() <= found.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, name)
