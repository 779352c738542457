"""`Prune` beside a native MXNet optimizer."""

from __future__ import annotations

import inspect
import pickle

import numpy as np
import pytest

pytest.importorskip("mopruning.backends.mxnet", exc_type=ImportError)

from mopruning.backends import mxnet
from mopruning.backends.mxnet.framework import mx
from mopruning.errors import GranularityWarning, RecipeError, StateError, UnknownNameError
from mopruning.prune import BasePrune
from tests.backends.mxnet_networks import backward, build, native_states, parameter, share, train, values
from tests.backends.test_mxnet_module import copies, module, step

TWO = [mx.cpu(0), mx.cpu(1)]


def published(deferred=False):
    """Build the example network of the published documents: one convolution has 127 input channels."""
    net = mx.gluon.nn.HybridSequential(prefix="net_")
    with net.name_scope():
        net.add(mx.gluon.nn.Conv2D(127, 3, in_channels=0 if deferred else 64, activation="relu", prefix="conv1_"))
        net.add(mx.gluon.nn.Conv2D(128, 3, in_channels=0 if deferred else 127, activation="relu", prefix="conv2_"))
        net.add(mx.gluon.nn.GlobalAvgPool2D())
        net.add(mx.gluon.nn.Dense(10, in_units=0 if deferred else 128, prefix="fc_"))
    mx.random.seed(0)
    net.initialize(mx.init.Xavier())
    return net


def sgd(net, **options):
    return mx.gluon.Trainer(net.collect_params(), "sgd", {"learning_rate": 0.01, "momentum": 0.9}, **options)


def published_step(net, trainer, prune, seed, prepare=True):
    images = mx.nd.empty((2, 64, 6, 6))
    images[:] = np.random.default_rng(seed).standard_normal(images.shape)
    with mx.autograd.record():
        loss = net(images).square().mean()
    loss.backward()
    if prepare:
        prune.prepare()
    trainer.step(1)
    prune.prune()


@pytest.mark.parametrize("deferred", [False, True])
@pytest.mark.parametrize("prepare", [False, True])
def test_published_call(deferred, prepare):
    net = published(deferred)
    net.hybridize()
    prune_dict = dict.fromkeys(net.collect_params(), 0.9375)
    trainer = sgd(net)
    if deferred:
        prune = mxnet.Prune(net, 2, 6, 2, prune_dict)
        with pytest.raises(StateError, match=r"net_conv1_weight.*run a batch"):
            prune.sparsity()
        with pytest.warns(GranularityWarning, match="127"):
            published_step(net, trainer, prune, 0, prepare)
    else:
        with pytest.warns(GranularityWarning, match=r"net_conv2_weight cannot be balanced pruned .*127"):
            prune = mxnet.Prune(net, 2, 6, 2, prune_dict)
        published_step(net, trainer, prune, 0, prepare)
    assert prune.prune_dict == {"net_conv1_weight": 0.9375, "net_fc_weight": 0.9375}
    shares = [prune.sparsity()[1]]
    for seed in range(1, 10):
        published_step(net, trainer, prune, seed, prepare)
        shares.append(prune.sparsity()[1])
    assert shares[0] == shares[1] == 0
    assert shares == sorted(shares)
    assert shares[7:] == [0.9375] * 3
    assert prune.sparsity()[0] == {"net_conv1_weight": 0.9375, "net_fc_weight": 0.9375}
    banks = np.moveaxis(values(net, "conv1_weight"), 1, -1).reshape(-1, 64)
    assert ((banks != 0).sum(1) == 4).all()
    assert share(values(net, "conv2_weight")) == 0


@pytest.mark.parametrize("on_store", [True, False])
def test_two_contexts(on_store):
    """What is pruned starts from zero at the next update too, wherever that runs."""
    nets = [build(TWO), build()]
    nets[0].collect_params(".*bn.*").setattr("grad_req", "null")
    nets[1].collect_params(".*bn.*").setattr("grad_req", "null")
    results = []
    for net, options in zip(nets, ({"kvstore": "device", "update_on_kvstore": on_store}, {}), strict=True):
        contexts = net.collect_params().list_ctx()
        optimizer = {"learning_rate": 0.25 / len(contexts)}
        trainer = mx.gluon.Trainer(net.collect_params(), "sgd", optimizer, **options)
        prune = mxnet.Prune(net, 1, 4, 2, {"net_conv2_weight": 0.75, "net_fc_weight": 0.5}, balance="none")
        for seed in range(8):
            random = np.random.default_rng(seed)
            for one in net.collect_params().values():
                if one.grad_req != "null":
                    slope = np.round(random.standard_normal(one.shape) * 4) / 4
                    for context in contexts:
                        one.grad(context)[:] = slope
                        one.data(context)._fresh_grad = True
            trainer.step(1)
            prune.prune()
            for name, mask in prune._sparsifier.pruner.masks.items():
                for array in net.collect_params()[name].list_data():
                    assert not array.asnumpy()[~mask].any()
        results.append({name: values(net, name, mx.cpu(0)) for name in ("conv2_weight", "fc_weight")})
        assert [share(value) for value in results[-1].values()] == [0.75, 0.5]
    for name in results[0]:
        np.testing.assert_array_equal(results[0][name] == 0, results[1][name] == 0)
        np.testing.assert_allclose(results[0][name], results[1][name], rtol=1e-6)


def test_module():
    net = module(TWO)
    net.init_optimizer(kvstore="device", optimizer="sgd", optimizer_params={"learning_rate": 0.1, "momentum": 0.9})
    prune = mxnet.Prune(net, 1, 2, 1, {"up_weight": 0.5, "fc_weight": 0.5}, balance="none", optimizer=net)
    for seed in range(5):
        step(net, seed)
        prune.prune()
    assert net._update_on_kvstore
    for name in ("up_weight", "fc_weight"):
        assert [share(array) for array in copies(net)[name]] == [0.5, 0.5]
    mask = prune._sparsifier.pruner.masks["fc_weight"]
    assert {row.name: row.shape for row in prune.plan.rows}["up_weight"] == (6, 8, 3, 3)
    assert not copies(net)["fc_weight"][0][~mask].any()


@pytest.mark.parametrize("kind", ["trainer", "store", "updater"])
def test_given_the_optimizer_its_state_is_zeroed_with_the_masks(kind):
    net = build(TWO if kind == "store" else None)
    trainer = sgd(net, kvstore="device")
    optimizer = trainer._updaters[0] if kind == "updater" else trainer
    prune = mxnet.Prune(net, 2, prune_dict={"net_conv2_weight": 0.5}, balance="none", optimizer=optimizer)
    train(net, trainer, 2, after=prune.prune)
    (momentum,) = native_states(trainer, trainer._param2idx["net_conv2_weight"])
    pruned = values(net, "conv2_weight", mx.cpu(0)) == 0
    assert pruned.mean() == 0.5
    assert not momentum.asnumpy()[pruned].any()
    assert momentum.asnumpy()[~pruned].all()


@pytest.mark.parametrize("score", ["movement", "taylor", "fpgm"])
@pytest.mark.parametrize("contexts", [1, 2])
def test_scores(score, contexts):
    net = build(TWO[:contexts])
    prune = mxnet.Prune(net, recipe={"sparsity": 0.5, "score": score, "granularity": "2:4", "skip": ["net_conv1*"]})
    trainer = sgd(net, kvstore="device")
    expected = None
    for seed in range(2):
        backward(net, seed)
        if expected is None and score == "taylor":
            gradient = sum(g.as_in_context(mx.cpu(0)).asnumpy() for g in parameter(net, "fc_weight").list_grad())
            expected = np.abs(values(net, "fc_weight", mx.cpu(0)) * gradient).reshape(-1, 4)
        prune.prepare()
        trainer.step(1)
        prune.prune()
    weight = values(net, "fc_weight", mx.cpu(0)).reshape(-1, 4)
    assert ((weight == 0).sum(1) == 2).all()
    if expected is not None:
        kept = np.sort(np.argsort(-expected, axis=1, kind="stable")[:, :2], axis=1)
        np.testing.assert_array_equal(np.argwhere(weight != 0)[:, 1].reshape(-1, 2), kept)


def test_state_survives_a_pickle():
    net = build()
    trainer, prune = sgd(net), mxnet.Prune(net, 1, 8, 2, {"net_fc_weight": 0.75}, balance="none")
    train(net, trainer, 4, after=prune.prune)
    saved = pickle.dumps(prune.state_dict())
    twin = build(seed=1)
    second = mxnet.Prune(twin, 1, 8, 2, {"net_fc_weight": 0.75}, balance="none")
    second.load_state_dict(pickle.loads(saved))
    np.testing.assert_array_equal(values(twin, "fc_weight") == 0, values(net, "fc_weight") == 0)
    other = mxnet.Prune(twin, 1, 8, 2, {"net_fc_weight": 0.5}, balance="none")
    with pytest.raises(StateError, match="another plan"):
        other.load_state_dict(pickle.loads(saved))


def test_restore_and_fix_keep_the_zeros_there():
    net = build()
    mxnet.Prune(net, prune_dict={"net_fc_weight": 0.5}, balance="none").prune()
    was_zero = values(net, "fc_weight") == 0
    assert was_zero.mean() == 0.5
    trainer = sgd(net)
    fixed = mxnet.Prune(net, prune_dict={"net_fc_weight": 0.9}, fix_sparsity=True)
    train(net, trainer, 3, after=fixed.prune)
    np.testing.assert_array_equal(values(net, "fc_weight") == 0, was_zero)
    further = mxnet.Prune(net, 0, 4, 2, {"net_fc_weight": 0.75}, True, balance="none")
    shares = []
    for seed in range(6):
        train(net, trainer, seed=seed, after=further.prune)
        assert not values(net, "fc_weight")[was_zero].any()
        shares.append(share(values(net, "fc_weight")))
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0.5, 0.75)


def test_names_of_parameter_files_serve_too():
    net = build()
    prune = mxnet.Prune(net, prune_dict={"7.weight": 0.5}, balance="none")
    assert prune.prune_dict == {"net_fc_weight": 0.5}


def test_mistakes_are_explained():
    net = build()
    with pytest.raises(UnknownNameError, match=r"prune_dict: 'net_fc_wieght' .* 'net_fc_weight'"):
        mxnet.Prune(net, prune_dict={"net_fc_wieght": 0.5})
    with pytest.raises(TypeError, match="balanced"):
        mxnet.Prune(net, balanced="none")
    with pytest.raises(RecipeError, match="prune_device"):
        mxnet.Prune(net, prune_dict={"net_fc_weight": 0.5}, prune_device="gpu")
    with pytest.raises(RecipeError, match="L1"):
        mxnet.Prune(net, recipe={"sparsity": 0.5, "l1": 0.1})
    prune = mxnet.Prune(net, recipe={"sparsity": 0.5})
    with pytest.raises(AttributeError, match="no attribute 'prun'"):
        prune.prun()
    assert list(inspect.signature(mxnet.Prune).parameters) == list(inspect.signature(BasePrune).parameters)
