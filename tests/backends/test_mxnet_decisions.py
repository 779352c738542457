"""What MXNet sparse optimizers decide, and what they continue from."""

from __future__ import annotations

import math

import numpy as np
import pytest

pytest.importorskip("mopruning.backends.mxnet", exc_type=ImportError)

from mopruning.backends import mxnet
from mopruning.backends.mxnet.framework import mx
from mopruning.errors import StateError
from tests.backends.mxnet_networks import backward, build, parameter, share, train, values

WEIGHTS = ("conv1_weight", "conv2_weight", "fc_weight")


@pytest.fixture
def net():
    return build()


def trainer_of(net, optimizer, **options):
    return mx.gluon.Trainer(net.collect_params(), optimizer, **options)


def shares(net):
    return [share(values(net, name)) for name in WEIGHTS]


@pytest.mark.parametrize("allocation", ["erk", "global", "lamp"])
def test_allocations(allocation, net):
    parameter(net, "conv2_weight").data()[:] *= 0.01
    optimizer = mxnet.SGDSparse(learning_rate=0.0, target_sparsity=0.75, allocation=allocation)
    train(net, trainer_of(net, optimizer))
    arrays = [values(net, name) for name in WEIGHTS]
    assert sum((array == 0).sum() for array in arrays) == math.floor(0.75 * sum(array.size for array in arrays))


@pytest.mark.parametrize("score", ["movement", "taylor", "fpgm", "bn_scale", "random"])
def test_scores(score, net):
    options = {"granularity": "filter" if score in ("fpgm", "bn_scale") else "unstructured"}
    if score == "bn_scale":
        options["skip"] = ["net_fc_weight"]
        parameter(net, "bn2_gamma").data()[:] = mx.nd.arange(8, 0, -1)
    backward(net)
    product = values(net, "conv2_weight") * parameter(net, "conv2_weight").grad().asnumpy()
    optimizer = mxnet.SGDSparse(learning_rate=0.001, target_sparsity=0.5, score=score, param_name=net, **options)
    trainer = trainer_of(net, optimizer)
    trainer.step(2)
    weight = values(net, "conv2_weight")
    assert share(weight) == 0.5
    if score in ("movement", "taylor"):
        ranked = np.abs(product) if score == "taylor" else -product
        assert not weight.ravel()[np.argsort(ranked.ravel(), kind="stable")[:288]].any()
    if score == "bn_scale":
        assert not weight[4:].any()
        assert weight[:4].all()
    train(net, trainer, 2)
    assert share(values(net, "conv2_weight")) == 0.5


def test_normalisation_is_not_guessed_from_sorted_names(net):
    options = {"target_sparsity": 0.5, "score": "bn_scale", "granularity": "filter", "skip": ["net_fc_weight"]}
    with pytest.raises(StateError, match="param_name=net"):
        trainer_of(net, mxnet.SGDSparse(**options))
    scales = {f"net_conv{i}_weight": f"net_bn{i}_gamma" for i in (1, 2)}
    for arguments in ({"bn_scales": scales}, {"param_name": net}):
        optimizer = mxnet.SGDSparse(**options, **arguments)
        trainer_of(net, optimizer)
        assert [row.name for row in optimizer.plan.pruned] == ["net_conv1_weight", "net_conv2_weight"]


def test_l1_regularisation_is_of_the_loss_whatever_the_batch(net):
    before = values(net, "conv2_weight")
    backward(net)
    slope = parameter(net, "conv2_weight").grad().asnumpy()
    optimizer = mxnet.SGDSparse(learning_rate=0.5, target_sparsity=0.5, pretrain_step=2, L1_regularization=0.125)
    trainer_of(net, optimizer).step(4)
    expected = before - 0.5 * (slope / 4 + 0.125 * np.sign(before))
    np.testing.assert_allclose(values(net, "conv2_weight"), expected, atol=1e-6)
    with pytest.warns(UserWarning, match="L1"):
        trainer_of(net, mxnet.SGDSparse(L1_regularization=True))


def sparse_net(net):
    train(net, trainer_of(net, mxnet.SGDSparse(learning_rate=0.01, target_sparsity=0.5)))
    assert shares(net) == [0.5, 0.5, 0.5]
    return net


def test_zeros_of_weights_loaded_after_the_trainer_was_built_count(net, tmp_path):
    sparse_net(net).save_parameters(str(tmp_path / "params"))
    other = build(seed=1)
    optimizer = mxnet.SGDSparse(learning_rate=0.01, fix_sparsity=True)
    trainer = trainer_of(other, optimizer)
    other.load_parameters(str(tmp_path / "params"))
    train(other, trainer, 2)
    assert shares(other) == [0.5] * 3
    assert optimizer.pruner.steps == 2


def test_resume_ramps_on_from_the_zeros_there(net):
    was_zero = values(sparse_net(net), "conv2_weight") == 0
    options = {"target_sparsity": 0.9, "sparse_step": 8, "frequency": 2, "resume": True, "momentum": 0.9}
    trainer = trainer_of(net, mxnet.NAGSparse(learning_rate=0.01, **options))
    found = []
    for seed in range(10):
        train(net, trainer, seed=seed)
        assert not values(net, "conv2_weight")[was_zero].any()
        found.append(share(values(net, "conv2_weight")))
    assert found[0] == 0.5
    assert found == sorted(found)
    assert found[-1] == pytest.approx(0.9, abs=1 / 576)


@pytest.mark.parametrize("how", [{"fix_sparsity": True}, {"resume": True}, {"finetune": True}])
def test_fine_tuning_keeps_the_zeros_there(how, net):
    was_zero = values(sparse_net(net), "conv2_weight") == 0
    before = values(net, "conv2_weight")
    train(net, trainer_of(net, mxnet.AdamSparse(learning_rate=0.01, **how)), 3)
    np.testing.assert_array_equal(values(net, "conv2_weight") == 0, was_zero)
    assert not np.array_equal(values(net, "conv2_weight"), before)
