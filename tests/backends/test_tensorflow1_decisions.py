"""What TensorFlow 1 sparse optimizers decide, on all kinds of variables and gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow.compat.v1")

from mopruning.backends import tensorflow1  # noqa: E402
from mopruning.backends.tensorflow1.symbolic import SymbolicArray  # noqa: E402
from mopruning.scores import movement, taylor  # noqa: E402
from tests.backends.tensorflow1_networks import Run, share, variable  # noqa: E402


def descent(rate=0.1, **arguments):
    return tensorflow1.GradientDescentOptimizerSparse(rate, **arguments)


@pytest.mark.parametrize("use_resource", [True, False], ids=["resource", "reference"])
@pytest.mark.parametrize("arguments", [{}, {"score": "movement"}, {"L1_regularization": 0.01}], ids=str)
@pytest.mark.parametrize("name", ["GradientDescent", "Momentum", "Adam", "Adagrad"])
def test_sparse_gradients_of_embeddings(name, arguments, use_resource):
    with tf.Graph().as_default(), tf.Session() as session:
        table = variable("table", [32, 8], use_resource)
        rows = tf.placeholder(tf.int32, [5])
        given = (0.5, 0.9) if name == "Momentum" else (0.5,)
        native = getattr(tf.train, f"{name}Optimizer")(*given)
        optimizer = tensorflow1.SparseOptimizer(native, target_sparsity=0.5, sparse_step=4, frequency=2, **arguments)
        pairs = optimizer.compute_gradients(tf.reduce_sum(tf.square(tf.nn.embedding_lookup(table, rows) - 1.0)))
        assert isinstance(pairs[0][0], tf.IndexedSlices)
        train = optimizer.apply_gradients(pairs)
        session.run(tf.global_variables_initializer())
        for step in range(8):
            session.run(train, {rows: [3, 5, 5, 8 + step, 31]})  # one of them twice
            values = session.run([table, *(native.get_slot(table, slot) for slot in native.get_slot_names())])
            assert all(np.isfinite(value).all() for value in values)
            for pruned in (~mask for mask in optimizer.pruner.masks.values()):
                assert not any(value[pruned].any() for value in values)
        assert share(values[0]) == 0.5


def test_penalty_on_sparse_gradients_reaches_every_row():
    with tf.Graph().as_default(), tf.Session() as session:
        table = variable("table", [32, 8])
        optimizer = descent(0.5, target_sparsity=0.5, pretrain_step=9, L1_regularization=0.125)
        train = optimizer.minimize(0.0 * tf.reduce_sum(tf.nn.embedding_lookup(table, [0])))
        session.run(tf.global_variables_initializer())
        before = session.run(table)
        session.run(train)
        np.testing.assert_allclose(session.run(table), before - 0.0625 * np.sign(before), atol=1e-7)


def test_l1_regularisation_adds_its_gradient():
    penalised, plain = (Run(lambda a=a: descent(0.5, target_sparsity=0.5, pretrain_step=2, **a))
                        for a in ({"L1_regularization": 0.125}, {}))  # fmt: skip
    before = plain["conv2/weights"]
    penalised.train()
    plain.train()
    np.testing.assert_allclose(
        penalised["conv2/weights"], plain["conv2/weights"] - 0.5 * 0.125 * np.sign(before), atol=1e-6
    )
    np.testing.assert_array_equal(penalised["fc/bias"], plain["fc/bias"])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
@pytest.mark.parametrize("score", ["magnitude", "movement"])
def test_dtypes(dtype, score):
    with tf.Graph().as_default(), tf.Session() as session:
        weights = tf.cast(tf.random.stateless_normal([16, 8], [1, 2]), dtype)
        weights = tf.get_variable("w", initializer=weights, use_resource=True)
        optimizer = tensorflow1.MomentumOptimizerSparse(0.125, target_sparsity=0.75, granularity="1:4", score=score)
        train = optimizer.minimize(tf.reduce_sum(tf.square(weights - 1)))
        session.run(tf.global_variables_initializer())
        for _ in range(3):
            session.run(train)
            value = session.run(weights).astype(np.float32)
            assert (np.count_nonzero(value.reshape(4, 4, 8), axis=1) == 1).all()
            assert np.isfinite(value).all()


def test_bank_balance_follows_each_layer():
    with tf.Graph().as_default(), tf.Session() as session:
        images = tf.placeholder(tf.float32, [2, 9, 9, 8])
        up, mixed = variable("up", [3, 3, 4, 8]), variable("mixed", [3, 3, 8, 4])
        depthwise, tied = variable("depthwise", [3, 3, 8, 2]), variable("tied", [6, 8])
        outputs = [
            tf.nn.conv2d_transpose(images, up, [2, 18, 18, 4], 2),
            tf.nn.conv2d(images, mixed, 1, "SAME"),
            tf.nn.depthwise_conv2d(images, depthwise, [1] * 4, "SAME"),
            tf.matmul(images[0, 0], tied, transpose_b=True),
        ]
        optimizer = descent(0.0, target_sparsity=0.5, granularity="bank:4")
        train = optimizer.minimize(tf.add_n([tf.reduce_sum(tf.square(output)) for output in outputs]))
        session.run(tf.global_variables_initializer())
        session.run(train, {images: np.ones([2, 9, 9, 8])})
        reasons = {row.name: (row.shape, row.granularity) for row in optimizer.plan.rows}
        assert reasons["depthwise"] == ((16, 1, 3, 3), None)  # one input channel each: no bank of four
        up, mixed, tied = session.run([up, mixed, tied])
        assert (np.count_nonzero(up.reshape(3, 3, 4, 2, 4), axis=4) == 2).all()
        assert (np.count_nonzero(mixed.reshape(3, 3, 2, 4, 4), axis=3) == 2).all()
        assert (np.count_nonzero(tied.reshape(6, 2, 4), axis=2) == 2).all()


@pytest.mark.parametrize("score", ["movement", "taylor", "fpgm", "bn_scale", "random"])
def test_scores(score):
    granularity = "filter" if score in ("fpgm", "bn_scale") else "unstructured"
    skip = {"skip": ["conv2/*", "fc/*"]} if score == "bn_scale" else {}  # no normalisation follows them
    run = Run(lambda: descent(target_sparsity=0.5, score=score, granularity=granularity, **skip))
    run["conv1/gamma"] = np.arange(8, 0, -1).astype(np.float32)
    before = run["conv1/weights"]
    with run.graph.as_default():
        images = np.random.default_rng([0, 0]).standard_normal([4, 8, 8, 4])
        gradients = [v for v in run.graph.get_operations() if v.type == "Conv2DBackpropFilter"]
        (gradient,) = [op.outputs[0] for op in gradients if op.outputs[0].shape == before.shape]
        product = before * run.session.run(gradient, {run.images: images})
    run.train()
    weights = run["conv1/weights"]
    assert share(weights) == 0.5
    if score in ("movement", "taylor"):
        canonical = (-product if score == "movement" else abs(product)).transpose(3, 2, 0, 1)
        lowest = np.argsort(canonical.ravel(), kind="stable")[: before.size // 2]
        assert not weights.transpose(3, 2, 0, 1).ravel()[lowest].any()
    if score == "bn_scale":
        assert not weights[..., 4:].any()
        assert weights[..., :4].all()
    run.train(2)
    assert share(run["conv1/weights"]) == 0.5


def test_score_of_gradients_without_gradients_is_explained():
    with tf.Graph().as_default(), tf.Session() as session:
        trained, left = variable("trained", [8, 8]), variable("left", [8, 8])
        train = descent(target_sparsity=0.5, score="movement").minimize(tf.reduce_sum(trained * trained))
        session.run(tf.global_variables_initializer())
        with pytest.raises(tf.errors.InvalidArgumentError, match="needs the gradient of left"):
            session.run(train)
        assert left is not None


@pytest.mark.parametrize("allocation", ["erk", "global", "lamp"])
def test_allocations(allocation):
    run = Run(lambda: descent(0.0, target_sparsity=0.75, allocation=allocation))
    run["conv2/weights"] = run["conv2/weights"] * 0.01
    run.train()
    pruned = [run["conv1/weights"], run["conv2/weights"], run["fc/weights"]]
    assert sum(np.count_nonzero(v == 0) for v in pruned) == math.floor(0.75 * sum(v.size for v in pruned))
    if allocation == "global":
        assert share(run["conv2/weights"]) == 1.0
    else:
        assert share(run["fc/weights"]) < share(run["conv2/weights"]) < 1.0


@pytest.mark.parametrize("score", [movement, taylor], ids=lambda score: score.__name__)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bfloat16"])
def test_scores_in_a_graph_are_those_of_numpy(score, dtype):
    random = np.random.default_rng(0)
    with tf.Graph().as_default(), tf.Session() as session:
        weights, gradients = (tf.cast(random.standard_normal([8, 8]), dtype) for _ in range(2))
        built = score(SymbolicArray(weights), SymbolicArray(gradients)).tensor
        built, weights, gradients = session.run([built, weights, gradients])
    expected = score(weights, gradients)
    assert built.dtype == expected.dtype
    np.testing.assert_array_equal(built, expected)
