"""MXNet sparse optimizers in training: contexts, stores, precisions, Module and plain updaters."""

from __future__ import annotations

import sys

import numpy as np
import pytest

pytest.importorskip("mopruning.backends.mxnet", exc_type=ImportError)

from mopruning.backends import mxnet
from mopruning.backends.mxnet.framework import mx
from mopruning.errors import WeightError
from tests.backends.mxnet_networks import (
    backward,
    batch,
    build,
    native_states,
    parameter,
    share,
    train,
    values,
)

SPARSE = {"target_sparsity": 0.75, "pretrain_step": 2, "sparse_step": 4, "frequency": 2}
TWO = [mx.cpu(0), mx.cpu(1)]
WEIGHTS = ("conv1_weight", "conv2_weight", "fc_weight")


def trainer_of(net, optimizer, **options):
    return mx.gluon.Trainer(net.collect_params(), optimizer, **options)


def assert_sparse(net, trainer, copies=1):
    """Fail unless every copy of every weight and all state is zero wherever the masks say so."""
    masks = trainer.optimizer.pruner.masks
    assert masks
    indices = {p.name: i for i, p in enumerate(trainer._params)}
    for name, mask in masks.items():
        arrays = net.collect_params()[name].list_data()
        assert len(arrays) == copies
        for array in arrays:
            np.testing.assert_array_equal(array.asnumpy(), arrays[0].asnumpy())
            assert not array.asnumpy()[~mask].any()
        for number in range(1 if trainer._update_on_kvstore else copies):
            for state in native_states(trainer, indices[name], number):
                assert state.shape != mask.shape or not state.asnumpy()[~mask].any()


# --- several contexts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("on_store", [True, False])
@pytest.mark.parametrize("name", ["SGDSparse", "AdamSparse", "AdaGradSparse"])
def test_two_contexts_with_a_kvstore(name, on_store):
    net = build(TWO)
    optimizer = getattr(mxnet, name)(learning_rate=0.05, wd=0.01, **SPARSE)
    trainer = trainer_of(net, optimizer, kvstore="device", update_on_kvstore=on_store)
    for step in range(8):
        train(net, trainer, seed=step)
        assert optimizer.pruner.steps == step + 1
        if step + 1 >= 2:
            assert_sparse(net, trainer, copies=2)
    assert trainer._update_on_kvstore is on_store
    assert [share(values(net, weight, TWO[0])) for weight in WEIGHTS] == [0.75] * 3


@pytest.mark.parametrize("on_store", [True, False])
def test_contexts_decide_as_one_alone(on_store):
    """Both stores add up the same gradients, so all masks are those of one context with half of the learning rate."""
    results = []
    for contexts in ([mx.cpu(0)], TWO):
        net = build(contexts)
        net.collect_params(".*bn.*").setattr("grad_req", "null")
        options = {"kvstore": "device", "update_on_kvstore": on_store} if len(contexts) > 1 else {}
        optimizer = mxnet.SGDSparse(learning_rate=0.125 / len(contexts), momentum=0.5, score="movement", **SPARSE)
        trainer = trainer_of(net, optimizer, **options)
        for step in range(7):
            for context in contexts:  # the same batch everywhere
                with mx.autograd.record():
                    loss = net(batch(step).as_in_context(context)).square().mean()
                loss.backward()
            trainer.step(1)
        results.append({name: mask.copy() for name, mask in optimizer.pruner.masks.items()})
    for name, mask in results[0].items():
        np.testing.assert_array_equal(mask, results[1][name])


@pytest.mark.parametrize("on_store", [True, False])
@pytest.mark.filterwarnings("ignore:Exception ignored in. <_io.FileIO")  # MXNet's store leaves its file open
def test_states_of_two_contexts_resume(on_store, tmp_path):
    def start(seed):
        net = build(TWO, seed=seed)
        optimizer = mxnet.NAGSparse(learning_rate=0.05, momentum=0.9, score="movement", **SPARSE)
        return net, trainer_of(net, optimizer, kvstore="device", update_on_kvstore=on_store)

    net, trainer = start(0)
    train(net, trainer, 3)
    trainer.save_states(str(tmp_path / "states"))
    net.save_parameters(str(tmp_path / "params"))
    train(net, trainer, 5, seed=1)

    again, its_trainer = start(1)
    again.load_parameters(str(tmp_path / "params"), ctx=TWO)
    its_trainer.load_states(str(tmp_path / "states"))
    assert its_trainer.optimizer.pruner.steps == 3
    train(again, its_trainer, 5, seed=1)
    assert its_trainer.optimizer.pruner.steps == 8
    for name in WEIGHTS:
        for context in TWO:
            np.testing.assert_array_equal(values(again, name, context), values(net, name, context), name)
    assert_sparse(again, its_trainer, copies=2)


def test_error_within_the_store_comes_up_at_the_next_step(monkeypatch):
    """MXNet calls the store's updater from C, where an exception is printed and lost."""
    net = build(TWO)
    trainer = trainer_of(net, mxnet.SGDSparse(learning_rate=0.1, target_sparsity=0.5), kvstore="device")
    backward(net)
    for gradient in parameter(net, "conv2_weight").list_grad():
        gradient[:] = np.nan
    printed = []
    monkeypatch.setattr(sys, "unraisablehook", printed.append)
    trainer.step(1)
    assert [entry.exc_type for entry in printed] == [WeightError]
    backward(net)
    with pytest.raises(WeightError, match="conv2_weight"):
        trainer.step(1)


# --- Trainer ---------------------------------------------------------------------------------------------------------


def test_hybridized_network_trains_as_the_other():
    nets = [build(), build()]
    nets[1].hybridize()
    for net in nets:
        optimizer = mxnet.SGDSparse(learning_rate=0.1, momentum=0.9, **SPARSE)
        train(net, trainer_of(net, optimizer), 8)
        assert share(values(net, "conv2_weight")) == 0.75
    np.testing.assert_allclose(values(nets[0], "conv2_weight"), values(nets[1], "conv2_weight"), atol=1e-5)


def test_created_by_name():
    net = build()
    trainer = trainer_of(net, "nagsparse", optimizer_params={"learning_rate": 0.1, "target_sparsity": 0.5})
    train(net, trainer)
    assert isinstance(trainer.optimizer, mxnet.NAGSparse)
    assert share(values(net, "fc_weight")) == 0.5


def test_deferred_initialisation():
    net = build(deferred=True)
    optimizer = mxnet.SGDSparse(learning_rate=0.1, target_sparsity=0.5)
    trainer = trainer_of(net, optimizer)
    assert optimizer.plan is None
    train(net, trainer)
    assert {row.name: row.shape for row in optimizer.plan.pruned}["net_conv2_weight"] == (8, 8, 3, 3)
    assert share(values(net, "conv2_weight")) == 0.5


def test_stale_gradients_are_passed_over_and_steps_counted_once():
    net = build()
    optimizer = mxnet.AdamSparse(learning_rate=0.01, target_sparsity=0.5, pretrain_step=2)
    trainer = trainer_of(net, optimizer)
    train(net, trainer)
    before = values(net, "conv2_weight")
    for _ in range(3):
        for name in ("fc_weight", "fc_bias"):
            parameter(net, name).grad()[:] = 1.0
            parameter(net, name).data()._fresh_grad = True
        trainer.step(1, ignore_stale_grad=True)
    after = values(net, "conv2_weight")
    assert optimizer.pruner.steps == 4
    assert share(after) == 0.5
    np.testing.assert_array_equal(after[after != 0], before[after != 0])
    assert share(native_states(trainer, trainer._param2idx["net_conv2_weight"])[0]) >= 0.5
    with pytest.raises(UserWarning, match="has not been updated"):
        trainer.step(1)
    assert optimizer.pruner.steps == 4
    train(net, trainer)
    assert optimizer.pruner.steps == 5


def test_frozen_parameters_stay_dense_unless_named():
    net = build()
    net.collect_params(".*conv.*").setattr("grad_req", "null")
    optimizer = mxnet.SGDSparse(
        learning_rate=0.1, target_sparsity=0.5, special_sparsity_dict={"net_conv2_weight": 0.75}
    )
    train(net, trainer_of(net, optimizer), 2)
    assert {row.name: row.reason for row in optimizer.plan.rows}["net_conv1_weight"] == "frozen"
    assert (share(values(net, "conv1_weight")), share(values(net, "conv2_weight"))) == (0.0, 0.75)
    assert optimizer.pruner.steps == 2


def test_allreduce_and_update_apart():
    net = build(TWO)
    optimizer = mxnet.SGDSparse(learning_rate=0.1, target_sparsity=0.5)
    trainer = trainer_of(net, optimizer, kvstore="device", update_on_kvstore=False)
    for step in range(3):
        backward(net, step)
        trainer.allreduce_grads()
        trainer.update(1)
    assert optimizer.pruner.steps == 3
    assert_sparse(net, trainer, copies=2)


def test_scheduler_and_multipliers_reach_the_optimizer():
    results = []
    for cls, sparse in ((mx.optimizer.SGD, {}), (mxnet.SGDSparse, {**SPARSE, "pretrain_step": 99})):
        net = build()
        net.collect_params(".*fc.*").setattr("lr_mult", 0.5)
        scheduler = mx.lr_scheduler.FactorScheduler(step=2, factor=0.5, base_lr=0.1)
        trainer = trainer_of(net, cls(lr_scheduler=scheduler, wd=0.01, learning_rate=0.1, **sparse))
        train(net, trainer, 5)
        results.append((values(net, "fc_weight"), trainer.learning_rate))
    np.testing.assert_array_equal(results[0][0], results[1][0])
    assert results[0][1] == results[1][1] < 0.1


def step_on_noise(net, trainer, seed):
    """Update with gradients drawn: on a CPU, MXNet has no products of float16 matrices to compute them with."""
    random = np.random.default_rng(seed)
    for one in net.collect_params().values():
        if one.grad_req != "null":
            one.grad()[:] = random.standard_normal(one.shape)
            one.data()._fresh_grad = True
    trainer.step(1)


@pytest.mark.parametrize("name", ["SGD", "NAG", "Adam"])
def test_half_precision_with_masters(name):
    """Masks come from the float16 weights; these and their float32 masters are zero alike."""
    net = build(dtype="float16")
    optimizer = getattr(mxnet, name + "Sparse")(learning_rate=0.01, multi_precision=True, **SPARSE)
    trainer = trainer_of(net, optimizer)
    for step in range(8):
        step_on_noise(net, trainer, step)
        if step + 1 >= 2:
            assert_sparse(net, trainer)
    weight = values(net, "conv2_weight")
    assert weight.dtype == np.float16
    masters = [a for a in native_states(trainer, trainer._param2idx["net_conv2_weight"]) if a.dtype == np.float32]
    assert any(np.array_equal(master.asnumpy().astype(np.float16), weight) for master in masters)
    assert share(weight) == 0.75


@pytest.mark.filterwarnings("ignore:Accumulating with float16")  # MXNet's advice
def test_half_precision_alone():
    net = build(dtype="float16")
    optimizer = mxnet.AdamSparse(learning_rate=0.01, epsilon=1e-4, target_sparsity=0.5)
    trainer = trainer_of(net, optimizer)
    for step in range(3):
        step_on_noise(net, trainer, step)
        assert_sparse(net, trainer)
    assert np.isfinite(values(net, "conv2_weight").astype(np.float32)).all()


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdaGrad"])
@pytest.mark.parametrize("arguments", [{}, {"score": "movement"}, {"L1_regularization": 0.01}], ids=str)
def test_gradients_stored_by_rows(name, arguments):
    embedding = mx.gluon.nn.Embedding(32, 8, sparse_grad=True, prefix="embed_")
    embedding.initialize()
    options = {"sparse_step": 4, "frequency": 2, "target_sparsity": 0.5, **arguments}
    trainer = trainer_of(embedding, getattr(mxnet, name + "Sparse")(learning_rate=0.5, **options))
    for step in range(8):
        with mx.autograd.record():
            loss = (embedding(mx.nd.arange(step, step + 5)) - 1.0).square().sum()
        loss.backward()
        assert embedding.weight.grad().stype == "row_sparse"
        trainer.step(1)
        if step + 1 >= 2:
            assert_sparse(embedding, trainer)
    assert share(embedding.weight.data()) == 0.5


def test_weights_stored_by_rows_are_refused():
    rows = mx.gluon.Parameter("rows", shape=(4, 4), stype="row_sparse", grad_stype="row_sparse")
    rows.initialize(mx.init.One())
    with pytest.raises(WeightError, match="rows: weights stored as row_sparse"):
        mx.gluon.Trainer([rows], mxnet.SGDSparse(target_sparsity=0.5))
