"""MindSpore sparse optimizers in all that trains with them, in GRAPH and in PYNATIVE mode."""

from __future__ import annotations

import numpy as np
import pytest

ms = pytest.importorskip("mindspore")

from mindspore import Tensor, amp, nn, ops  # noqa: E402
from mindspore.train import Model  # noqa: E402

from mopruning.backends import mindspore  # noqa: E402
from tests.backends.mindspore_networks import (  # noqa: E402
    RAMP,
    assert_same,
    batch,
    by_hand,
    cell_of,
    data,
    mlp,
    momentum,
    share,
    values,
)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Work in a folder of the test's own: MindSpore leaves one called rank_0 behind where a graph fails."""
    monkeypatch.chdir(tmp_path)


# --- ways to train ---------------------------------------------------------------------------------------------------


def train_one_step_cell(net, optimizer):
    cell = cell_of(net, optimizer)
    for step in range(8):
        cell(*batch(step))


def value_and_grad(net, optimizer, decorate=lambda function: function):
    loss_of = nn.MSELoss()

    def forward(x, y):
        return loss_of(net(x), y)

    gradient = ms.value_and_grad(forward, None, optimizer.parameters)

    def update(x, y):
        loss, slopes = gradient(x, y)
        optimizer(slopes)
        return loss

    update = decorate(update)
    for step in range(8):
        update(*batch(step))


def compiled_function(net, optimizer):
    value_and_grad(net, optimizer, ms.jit)


def model_train(net, optimizer):
    Model(net, nn.MSELoss(), optimizer).train(1, data(8), dataset_sink_mode=False)


def model_train_with_callback(net, optimizer):
    callbacks = [mindspore.PruneCallback(optimizer)]
    Model(net, nn.MSELoss(), optimizer).train(1, data(8), callbacks=callbacks, dataset_sink_mode=False)


@pytest.mark.parametrize(
    "train",
    [train_one_step_cell, value_and_grad, compiled_function, model_train, model_train_with_callback],
    ids=lambda train: train.__name__,
)
def test_every_way_to_train_is_masking_by_hand(train, mode):
    net = mlp()
    optimizer = momentum(net)
    train(net, optimizer)
    assert optimizer.pruner.steps == 8
    assert share(net[0].weight) == share(net[2].weight) == 0.75
    assert_same(values(optimizer), by_hand(8))


def test_zeros_are_there_after_every_step_of_a_graph(graph_mode):
    net = mlp()
    optimizer = momentum(net)
    cell = cell_of(net, optimizer)
    shares = []
    for step in range(7):
        cell(*batch(step))
        pruner = optimizer.pruner
        assert pruner.steps == step + 1
        shares.append(share(net[0].weight))
        for name, mask in pruner.masks.items():
            place = [p.name for p in optimizer.parameters].index(name)
            for one in (optimizer.parameters[place], optimizer.moments[place]):
                assert not one.asnumpy().view(np.int32)[~mask].any()
            assert optimizer.parameters[place].asnumpy()[mask].all()
    assert shares == sorted(shares)
    assert shares[0] == 0
    assert shares[4:] == [0.75] * 3


@pytest.mark.parametrize(
    "arguments",
    [
        {"score": "movement"},
        {"score": "taylor", "allocation": "global"},
        {"L1_regularization": 0.01, "granularity": "2:4", "target_sparsity": 0.5},
        {"restore_sparsity": True},
        {"fix_sparsity": True},
    ],
    ids=str,
)
def test_graphs_decide_as_python_does(arguments):
    found = []
    for mode in (ms.PYNATIVE_MODE, ms.GRAPH_MODE):
        ms.set_context(mode=mode)
        net = mlp()
        if "restore_sparsity" in arguments or "fix_sparsity" in arguments:
            mindspore.Prune(net, recipe={"sparsity": 0.5}).prune()
        optimizer = mindspore.AdamSparse(net, 0.01, loss_scale=4.0, **{**RAMP, **arguments})
        cell = cell_of(net, optimizer, sens=4.0)
        for step in range(6):
            cell(*batch(step))
        found.append(values(cell))
        expected = 0.5 if "fix_sparsity" in arguments or "granularity" in arguments else 0.75
        assert optimizer.pruner.sparsity == pytest.approx(expected, abs=0.01)
    ms.set_context(mode=ms.PYNATIVE_MODE)
    assert_same(found[1], found[0])


def test_loss_scale_is_taken_out_of_scores_and_put_into_the_penalty(mode):
    """Scaled by a power of two, all goes as without."""
    found = []
    for scale in (1.0, 8.0):
        net = mlp()
        optimizer = momentum(net, loss_scale=scale, score="movement", L1_regularization=0.01)
        manager = amp.FixedLossScaleManager(scale, drop_overflow_update=False)
        model = Model(net, nn.MSELoss(), optimizer, loss_scale_manager=manager)
        model.train(1, data(6), dataset_sink_mode=False)
        found.append(values(optimizer))
    assert_same(found[1], found[0])


def test_l1_regularisation_adds_its_gradient(mode):
    before, found = mlp()[0].weight.asnumpy().copy(), []
    for penalty in (0.0, 0.125):
        net = mlp()
        optimizer = mindspore.SGDSparse(
            net, 0.5, target_sparsity=0.5, pretrain_step=2, L1_regularization=penalty, loss_scale=2.0
        )
        cell_of(net, optimizer, sens=2.0)(*batch())
        found.append((net[0].weight.asnumpy().copy(), net[0].bias.asnumpy().copy()))
    np.testing.assert_allclose(found[1][0], found[0][0] - 0.5 * 0.125 * np.sign(before), atol=1e-6)
    np.testing.assert_array_equal(found[1][1], found[0][1])


# --- loss scaling and mixed precision --------------------------------------------------------------------------------


class LossScaleCell(nn.TrainOneStepWithLossScaleCell):
    """MindSpore 2.10's own looks for overflows by operators that a CPU has not."""

    def get_overflow_status(self, status, compute_output):
        return ops.logical_not(amp.all_finite(compute_output))


@pytest.mark.parametrize("kind", ["fixed", "dynamic"])
def test_steps_left_out_by_loss_scaling_are_no_updates(kind, mode):
    net = mlp()
    optimizer = momentum(net)
    scale = {"fixed": nn.FixedLossScaleUpdateCell(16.0), "dynamic": nn.DynamicLossScaleUpdateCell(16.0, 2, 100)}[kind]
    cell = LossScaleCell(nn.WithLossCell(net, nn.MSELoss()), optimizer, scale)
    counted, shares = [], []
    for step in range(8):
        inputs, targets = batch(step if step < 3 else step - 1)
        _, overflow, _ = cell(Tensor(np.full((8, 8), np.inf, np.float32)) if step == 3 else inputs, targets)
        assert bool(overflow.asnumpy()) == (step == 3)
        counted.append(optimizer.pruner.steps)
        shares.append(share(net[0].weight))
    assert counted == [1, 2, 3, 3, 4, 5, 6, 7]
    assert shares[3] == shares[2] < shares[-1] == 0.75
    assert_same(values(optimizer), by_hand(7))


def test_dynamic_loss_scaler(mode):
    net = mlp()
    optimizer = momentum(net)
    scaler, loss_of = amp.DynamicLossScaler(8.0, 2, 100), nn.MSELoss()

    def forward(x, y):
        return scaler.scale(loss_of(net(x), y))

    gradient = ms.value_and_grad(forward, None, optimizer.parameters)
    counted = []
    for step in range(8):
        inputs, targets = batch(step if step < 3 else step - 1)
        _, slopes = gradient(Tensor(np.full((8, 8), np.inf, np.float32)) if step == 3 else inputs, targets)
        finite = amp.all_finite(slopes)
        if finite:
            optimizer(scaler.unscale(slopes))
        scaler.adjust(finite)
        counted.append(optimizer.pruner.steps)
    assert counted == [1, 2, 3, 3, 4, 5, 6, 7]
    assert float(scaler.scale_value.asnumpy()) == 4.0
    assert_same(values(optimizer), by_hand(7))


@pytest.mark.parametrize("level", ["O0", "O2", "O3"])
def test_mixed_precision(level, mode):
    """Parameters stay float32 under amp; what is computed with them is float16 from O2 on."""
    net = mlp()
    optimizer = momentum(net)
    model = Model(net, nn.MSELoss(), optimizer, amp_level=level, loss_scale_manager=None)
    model.train(1, data(8), dataset_sink_mode=False)
    assert {p.dtype for p in net.trainable_params()} == {ms.float32}
    assert share(net[0].weight) == 0.75
    if level == "O0":
        assert_same(values(optimizer), by_hand(8))
    else:
        assert np.abs(net[0].bias.asnumpy() - by_hand(8)["0.bias"]).max() > 0
        np.testing.assert_allclose(net[0].bias.asnumpy(), by_hand(8)["0.bias"], atol=0.02)


def test_half_width_parameters(mode):
    weight = ms.Parameter(Tensor(np.random.default_rng(0).standard_normal((8, 8)).astype(np.float16)), name="w")
    optimizer = mindspore.MomentumSparse([weight], 0.125, 0.5, target_sparsity=0.5, score="movement", sparse_step=2)

    class Update(nn.Cell):
        def __init__(self):
            super().__init__(auto_prefix=False)
            self.optimizer = optimizer

        def construct(self, slope):
            return self.optimizer((slope,))

    update = Update()
    for seed in range(4):
        update(Tensor(np.random.default_rng(seed).standard_normal((8, 8)).astype(np.float16)))
    assert weight.dtype == optimizer.moments[0].dtype == ms.float16
    assert share(weight) == 0.5
