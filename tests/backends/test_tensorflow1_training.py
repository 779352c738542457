"""TensorFlow 1 sparse optimizers in training: sessions, checkpoints, threads, loss scales."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow.compat.v1")

from mopruning.backends import tensorflow1  # noqa: E402
from mopruning.backends.tensorflow1.sparsifier import GraphSparsifier  # noqa: E402
from mopruning.pruner import Pruner  # noqa: E402
from tests.backends.tensorflow1_networks import Run, network, share, variable  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
RAMP = {"target_sparsity": 0.75, "pretrain_step": 2, "sparse_step": 6, "frequency": 2}
KERNELS = ("conv1/weights", "conv2/weights", "fc/weights")


def momentum(**arguments):
    return tensorflow1.MomentumOptimizerSparse(0.05, 0.9, **arguments)


# --- what runs when --------------------------------------------------------------------------------------------------


def test_python_runs_where_masks_change_and_nowhere_else(monkeypatch):
    calls = []
    update = Pruner.update

    def counted(self, weights):
        calls.append(self.steps)
        return update(self, weights)

    monkeypatch.setattr(Pruner, "update", counted)
    run = Run(lambda: momentum(**RAMP, score="movement"))
    run.train(12)
    assert calls == [2, 4, 6, 8]


@pytest.mark.parametrize("use_resource", [True, False], ids=["resource", "reference"])
def test_masking_by_hand_gives_the_same(use_resource):
    run = Run(lambda: momentum(target_sparsity=0.5, granularity="2:4"), use_resource)
    run.train()
    twin = Run(lambda: tf.train.MomentumOptimizer(0.05, 0.9), use_resource)
    masks = {name: run[name] != 0 for name in KERNELS}
    for name in run.variables:
        for held in (name, f"{name}/Momentum"):
            twin[held] = run[held]
    for seed in range(3):
        run.train(seed=seed)
        twin.train(seed=seed)
        for name, mask in masks.items():
            for held in (name, f"{name}/Momentum"):
                twin[held] = np.where(mask, twin[held], 0)
    for name, value in run.weights().items():
        np.testing.assert_allclose(value, twin[name], rtol=1e-4, atol=1e-6)


def test_steps_are_counted_apart_from_the_global_step():
    run = Run(lambda: momentum(**RAMP))
    run["global_step"] = 1000
    run.train(3)
    assert run.pruner.steps == 3
    assert run["global_step"] == 1003


def test_constraints_leave_zeros():
    with tf.Graph().as_default(), tf.Session() as session:
        weights = variable("w", [8, 8], constraint=lambda value: tf.maximum(value, 0.1))
        train = momentum(target_sparsity=0.5).minimize(tf.reduce_sum(tf.square(weights)))
        session.run(tf.global_variables_initializer())
        for _ in range(3):
            session.run(train)
            assert share(session.run(weights)) == 0.5


@pytest.mark.parametrize("use_resource", [True, False], ids=["resource", "reference"])
def test_use_locking_loses_no_update_of_any_thread(use_resource):
    """Whole numbers show how often each weight was updated."""
    with tf.Graph().as_default(), tf.Session() as session:
        weights = tf.get_variable(
            "w", initializer=np.arange(1e4, 1e4 + 2500, dtype=np.float32).reshape(50, 50), use_resource=use_resource
        )
        optimizer = tensorflow1.GradientDescentOptimizerSparse(1.0, use_locking=True, **RAMP)
        train = optimizer.apply_gradients([(tf.ones([50, 50]), weights)])
        session.run(tf.global_variables_initializer())
        before = session.run(weights)
        threads = [threading.Thread(target=lambda: [session.run(train) for _ in range(25)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        after = session.run(weights)
        assert share(after) == 0.75
        assert optimizer.pruner.steps == 100
        np.testing.assert_array_equal((before - after)[after != 0], 100.0)


@pytest.mark.parametrize("name", ["Adagrad", "AdagradDA", "ProximalAdagrad"])
def test_revived_weights_are_not_divided_by_zero(name):
    """Zeros that do not fit a granularity come back; Adagrad would divide by their accumulators, which are 0."""
    with tf.Graph().as_default(), tf.Session() as session:
        start = np.ones([8, 8], np.float32)
        start[:4] = 0.0  # along the inputs, two groups of four: one all zeros, one without
        weights, gradient = tf.get_variable("w", initializer=start), tf.placeholder(tf.float32, [8, 8])
        step = tf.train.create_global_step()
        more = [step] if name == "AdagradDA" else []
        optimizer = tensorflow1.SparseOptimizer(
            getattr(tf.train, f"{name}Optimizer")(0.1, *more),
            target_sparsity=0.5, granularity="2:4", pretrain_step=2, restore_sparsity=True,
        )  # fmt: skip
        train = optimizer.apply_gradients([(gradient, weights)], step)
        session.run(tf.global_variables_initializer())
        for factor in (1.0, 1.0, 0.0, 1.0):
            session.run(train, {gradient: factor * np.ones([8, 8])})
            assert np.isfinite(session.run(weights)).all()
        assert optimizer.pruner.masks["w"][:, :4].any()  # what was zero at the start
        assert session.run(weights)[:4].any()


# --- checkpoints -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["saver", "monitored session"])
def test_a_restored_checkpoint_continues(by, tmp_path):
    straight = Run(lambda: momentum(**RAMP))
    straight.train(9)

    def run(steps, seeds):
        with tf.Graph().as_default():
            images = tf.placeholder(tf.float32, [None, 8, 8, 4])
            step = tf.train.create_global_step()
            train = momentum(**RAMP).minimize(tf.reduce_mean(tf.square(network(images))), global_step=step)
            saver = tf.train.Saver()
            monitored = tf.train.MonitoredTrainingSession(
                checkpoint_dir=str(tmp_path), save_checkpoint_steps=steps, save_summaries_steps=None,
                save_summaries_secs=None, log_step_count_steps=None,
            ) if by != "saver" else tf.Session()  # fmt: skip
            with monitored as session:
                if by == "saver" and (path := tf.train.latest_checkpoint(str(tmp_path))):
                    saver.restore(session, path)
                elif by == "saver":
                    session.run(tf.global_variables_initializer())
                for seed in seeds:
                    noise = np.random.default_rng([0, seed]).standard_normal([4, 8, 8, 4])
                    session.run(train, {images: noise})
                values = session.run({v.op.name: v for v in tf.global_variables()})
                if by == "saver":
                    saver.save(session, str(tmp_path / "model.ckpt"), global_step=step)
        return values

    run(4, range(4))
    values = run(5, range(4, 9))
    assert values.pop("global_step") == 9
    with straight.graph.as_default():
        expected = straight.session.run({v.op.name: v for v in tf.global_variables()})
    del expected["global_step"]
    assert values.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(values[name], value, name)


@pytest.fixture
def checkpoint(tmp_path):
    """A checkpoint of a sparse run, and the weights in it."""
    run = Run(lambda: momentum(target_sparsity=0.5))
    run.train(3)
    with run.graph.as_default():
        path = run.saver.save(run.session, str(tmp_path / "sparse.ckpt"))
    return path, run.weights()


def test_plain_code_loads_the_weights(checkpoint):
    path, weights = checkpoint
    with tf.Graph().as_default(), tf.Session() as session:
        held = {name: tf.get_variable(name, value.shape) for name, value in weights.items()}
        tf.train.Saver().restore(session, path)
        for name, value in session.run(held).items():
            np.testing.assert_array_equal(value, weights[name])
            assert share(value) == (0.5 if name in KERNELS else 0.0)


def restored(checkpoint, **arguments):
    """A run that starts from the weights of the checkpoint alone."""
    run = Run(lambda: momentum(**arguments))
    with run.graph.as_default():
        tf.train.Saver(tf.trainable_variables()).restore(run.session, checkpoint[0])
    return run


@pytest.mark.parametrize("argument", ["restore_sparsity", "resume"])
def test_ramps_on_from_the_zeros_of_restored_weights(argument, checkpoint):
    run = restored(checkpoint, target_sparsity=0.75, sparse_step=4, frequency=2, **{argument: True})
    shares = []
    for seed in range(6):
        run.train(seed=seed)
        shares.append(share(run["conv2/weights"]))
        for name in KERNELS:
            assert not run[name][checkpoint[1][name] == 0].any()
    assert shares == sorted(shares)
    assert shares[0] == 0.5
    assert shares[-1] == 0.75


@pytest.mark.parametrize("argument", ["fix_sparsity", "finetune", "fineune"])
def test_fine_tuning_keeps_the_zeros_of_restored_weights(argument, checkpoint):
    if argument == "fineune":
        with pytest.warns(DeprecationWarning, match="finetune"):
            run = restored(checkpoint, fineune=True)
    else:
        run = restored(checkpoint, **{argument: True})
    assert all(row.target is None for row in run.optimizer.plan.pruned)
    for seed in range(4):
        run.train(seed=seed)
        for name in KERNELS:
            np.testing.assert_array_equal(run[name] == 0, checkpoint[1][name] == 0)
    assert not np.array_equal(run["fc/weights"], checkpoint[1]["fc/weights"])
    assert run.pruner.sparsity == 0.5


def test_negative_zeros_become_positive():
    run = Run(lambda: momentum(finetune=True))
    start = np.where(np.arange(48).reshape(8, 6) % 2 == 0, np.float32(-0.0), run["fc/weights"])
    run["fc/weights"] = start
    run.train()
    zeros = run["fc/weights"] == 0
    np.testing.assert_array_equal(zeros, start == 0)
    assert not np.signbit(run["fc/weights"][zeros]).any()


def test_a_checkpoint_of_another_plan_is_refused_before_anything_changes(checkpoint):
    run = Run(lambda: momentum(target_sparsity=0.75))
    with run.graph.as_default():
        run.saver.restore(run.session, checkpoint[0])
    for _ in range(2):
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"another plan: conv1/weights: target 0\.75 here"):
            run.train()
    for name, value in run.weights().items():
        np.testing.assert_array_equal(value, checkpoint[1][name])
    assert run["mopruning/steps"] == 3


def test_a_checkpoint_of_a_newer_version_is_refused(checkpoint):
    run = Run(lambda: momentum(target_sparsity=0.5))
    with run.graph.as_default():
        run.saver.restore(run.session, checkpoint[0])
    for text, message in (
        (run["mopruning/plan"].replace(b'"version": 1', b'"version": 9'), "version 9"),
        ("x", "holds no plan"),
    ):
        run["mopruning/plan"] = text
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            run.train()


# --- what surrounds an optimizer -------------------------------------------------------------------------------------


def test_loss_scale_around_a_sparse_optimizer():
    """An update that it leaves out, for its gradients overflow, is not counted."""
    with tf.Graph().as_default(), tf.Session() as session:
        weights, images = variable("w", [8, 8]), tf.placeholder(tf.float32, [4, 8])
        product = tf.matmul(tf.cast(images, tf.float16), tf.cast(weights, tf.float16))
        sparse = momentum(target_sparsity=0.5, pretrain_step=2)
        scaled = tf.mixed_precision.MixedPrecisionLossScaleOptimizer(sparse, "dynamic")
        train = scaled.minimize(tf.reduce_mean(tf.square(tf.cast(product, tf.float32))))
        session.run(tf.global_variables_initializer())
        for factor in (1e-3, 1e6, 1e6, 1e-3):
            assert share(session.run(weights)) == 0
            session.run(train, {images: np.full([4, 8], factor)})
        assert sparse.pruner.steps == 2
        assert share(session.run(weights)) == 0.5
        with pytest.raises(TypeError, match="around the sparse optimizer"):
            tensorflow1.SparseOptimizer(
                tf.mixed_precision.MixedPrecisionLossScaleOptimizer(tf.train.AdamOptimizer(), "dynamic"),
                target_sparsity=0.5,
            )


def test_averages_around_a_sparse_optimizer():
    run = Run(lambda: momentum(target_sparsity=0.5))
    with run.graph.as_default():
        with tf.control_dependencies([run.train_op]):
            average = tf.train.ExponentialMovingAverage(0.5)
            train = average.apply(tf.trainable_variables())
        run.session.run(tf.global_variables_initializer())
        run.train(2, op=train)
        shadow = run.session.run(average.average(run.variables["fc/weights"]))
    assert share(run["fc/weights"]) == 0.5
    assert not np.array_equal(shadow, run["fc/weights"])


def test_finalized_graph():
    run = Run(lambda: momentum(target_sparsity=0.5))
    run.graph.finalize()
    run.train(2)
    assert run.pruner.sparsity == 0.5


def test_a_graph_that_runs_in_control_flow_of_version_1():
    """`disable_v2_behavior` is the user's to call, once and for all; it changes how conditions are built."""
    code = """
        import conftest, numpy as np, tensorflow.compat.v1 as tf
        tf.disable_v2_behavior()
        tf.get_logger().setLevel("ERROR")
        from mopruning.backends import tensorflow1
        for use_resource in (False, True):
            tf.reset_default_graph()
            weights = tf.get_variable("w", [8, 8], use_resource=use_resource)
            optimizer = tensorflow1.AdamOptimizerSparse(
                0.1, target_sparsity=0.5, sparse_step=4, frequency=2, score="movement", use_locking=use_resource
            )
            train = optimizer.minimize(tf.reduce_sum(tf.square(weights - 1.0)))
            with tf.Session() as session:
                session.run(tf.global_variables_initializer())
                for _ in range(5):
                    session.run(train)
                value, mask = session.run(weights), optimizer.pruner.masks["w"].T
                assert (value == 0).mean() == 0.5 and not value[~mask].any(), value
                assert not any(slot[~mask].any() for slot in session.run(
                    [optimizer.get_slot(weights, name) for name in ("m", "v")]))
        print("done")
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert result.stdout.strip() == "done"


def test_importing_switches_nothing():
    assert isinstance(GraphSparsifier, type)
    assert tf.executing_eagerly()
    assert tf.control_flow_v2_enabled()
