"""`Prune` beside a native TensorFlow 1 optimizer."""

from __future__ import annotations

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow.compat.v1")

from mopruning.backends.tensorflow1 import Prune  # noqa: E402
from mopruning.errors import GranularityWarning, RecipeError, StateError  # noqa: E402
from tests.backends.tensorflow1_networks import Run, share, variable  # noqa: E402


class Pruned(Run):
    """A run of the native optimizer with `Prune` beside it; keyword arguments are those of `Prune`."""

    def __init__(self, *args, model=None, with_optimizer=False, use_resource=True, **arguments):
        super().__init__(lambda: tf.train.MomentumOptimizer(0.05, 0.9), use_resource)
        with self.graph.as_default():
            more = {"optimizer": self.optimizer} if with_optimizer else {}
            self.prune = Prune(self.graph if model is None else model(), *args, **arguments, **more)
            self.saver = tf.train.Saver()
            self.session.run(tf.global_variables_initializer())

    def steps(self, count, seed=0):
        for step in range(count):
            self.train(seed=1000 * seed + step)
            self.prune.prune(self.session)


@pytest.mark.parametrize("use_resource", [True, False], ids=["resource", "reference"])
def test_published_call(use_resource):
    """Positional order and the loop over all parameters are those of the published examples."""
    names = ("conv1/weights", "conv1/gamma", "conv2/weights", "fc/weights", "fc/bias")
    prune_dict = dict.fromkeys(names, 0.75)
    with pytest.warns(GranularityWarning, match="conv1/weights cannot be balanced pruned and will be deleted"):
        run = Pruned(2, 6, 2, prune_dict, balance="bank:8", use_resource=use_resource)
    assert prune_dict == dict.fromkeys(names, 0.75)
    assert run.prune.prune_dict == {"conv2/weights": 0.75, "fc/weights": 0.75}
    shares = []
    for step in range(10):
        run.steps(1, seed=step)
        shares.append(run.prune.sparsity(run.session)[1])
    assert shares[0] == shares[1] == 0
    assert shares == sorted(shares)
    assert shares[7:] == [0.75] * 3
    assert (np.count_nonzero(run["conv2/weights"], axis=2) == 2).all()  # input channels are the bank
    assert (np.count_nonzero(run["fc/weights"], axis=0) == 2).all()
    assert share(run["conv1/weights"]) == share(run["conv1/gamma"]) == 0


MODELS = {
    "variables": lambda: tf.trainable_variables(),
    "collection": lambda: tf.GraphKeys.TRAINABLE_VARIABLES,
    "graph": lambda: tf.get_default_graph(),
    "model": lambda: type("Model", (), {"trainable_variables": tf.trainable_variables()})(),
}


@pytest.mark.parametrize("model", MODELS)
def test_what_a_model_may_be(model):
    run = Pruned(prune_dict={"fc/weights": 0.5}, balance="none", model=MODELS[model])
    run.steps(1)
    with run.open():
        assert run.prune.sparsity() == ({"fc/weights": 0.5}, 0.5)
    assert [row.name for row in run.prune.plan.rows] == list(run.variables)


def test_one_operation_for_update_and_pruning():
    run = Run(lambda: tf.train.MomentumOptimizer(0.05, 0.9))
    with run.graph.as_default():
        with tf.control_dependencies([run.train_op]):
            prune = Prune(tf.trainable_variables(), 1, 2, 1, {"fc/weights": 0.75}, balance="none")
        run.session.run(tf.global_variables_initializer())
    for step, expected in enumerate([0.0, 0.65625, 0.75, 0.75]):
        run.train(seed=step, op=prune.prune_op)
        assert run["global_step"] == step + 1
        assert share(run["fc/weights"]) == pytest.approx(expected, abs=0.02)


def test_sessions_are_needed_and_named():
    run = Pruned(prune_dict={"fc/weights": 0.5}, balance="none")
    with pytest.raises(RuntimeError, match="pass session="):
        run.prune.prune()


def test_monitored_session(tmp_path):
    with tf.Graph().as_default():
        weights = variable("w", [8, 8])
        prune = Prune([weights], prune_dict={"w": 0.5}, balance="none")
        tf.train.create_global_step()
        with tf.train.MonitoredTrainingSession(checkpoint_dir=str(tmp_path), save_checkpoint_steps=100) as session:
            prune.prune(session)
            assert prune.sparsity(session) == ({"w": 0.5}, 0.5)


def test_given_the_optimizer_its_slots_are_zeroed():
    alone = Pruned(2, prune_dict={"fc/weights": 0.5}, balance="none")
    alone.steps(3)
    run = Pruned(2, prune_dict={"fc/weights": 0.5}, balance="none", with_optimizer=True)
    run.steps(3)
    pruned = run["fc/weights"] == 0
    assert pruned.mean() == 0.5
    assert not run.slots("fc/weights")[0][pruned].any()
    assert run.slots("fc/weights")[0][~pruned].all()
    assert alone.slots("fc/weights")[0][alone["fc/weights"] == 0].any()  # nobody erased it


@pytest.mark.parametrize("argument", ["restore_sparsity", "fix_sparsity"])
def test_zeros_are_read_by_prepare(argument):
    first = Pruned(prune_dict={"fc/weights": 0.5}, balance="none")
    first.steps(2)
    zeros = first["fc/weights"] == 0
    run = Pruned(0, 4, 2, {"fc/weights": 0.75}, balance="none", **{argument: True})
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"run Prune\.prepare once"):
        run.steps(1)
    run["fc/weights"] = first["fc/weights"]
    run.prune.prepare(run.session)
    shares = []
    for step in range(6):
        run.steps(1, seed=step)
        shares.append(share(run["fc/weights"]))
        assert not run["fc/weights"][zeros].any()
    assert shares == sorted(shares)
    assert shares[0] == 0.5
    assert shares[-1] == (0.75 if argument == "restore_sparsity" else 0.5)


def test_state_survives_in_either_form(tmp_path):
    arguments = {"prune_dict": {"conv2/weights": 0.75, "fc/weights": 0.5}, "balance": "none"}
    straight = Pruned(1, 8, 2, **arguments)
    straight.steps(4)
    with straight.open():
        path = straight.saver.save(straight.session, str(tmp_path / "model.ckpt"))
        state = straight.prune.state_dict()
    weights = straight.weights() | {"global_step": straight["global_step"]}
    slots = {name: straight.slots(name)[0] for name in straight.variables}
    straight.steps(8, seed=1)

    saved = Pruned(1, 8, 2, **arguments)
    with saved.open():
        saved.saver.restore(saved.session, path)
    loaded = Pruned(1, 8, 2, **arguments)
    with loaded.open():
        for name, value in slots.items():
            loaded.variables[name].load(weights[name], loaded.session)
            loaded.optimizer.get_slot(loaded.variables[name], "momentum").load(value, loaded.session)
        loaded.prune.load_state_dict(state)
    for run in (saved, loaded):
        run.steps(8, seed=1)
        for name, value in straight.weights().items():
            np.testing.assert_array_equal(run[name], value)

    other = Pruned(1, 8, 2, {"fc/weights": 0.5}, balance="none")
    with other.open(), pytest.raises(StateError, match=r"another plan: .*conv2/weights"):
        other.prune.load_state_dict(state)


def test_loaded_state_zeroes_weights_and_slots():
    first = Pruned(prune_dict={"fc/weights": 0.5}, balance="none")
    first.steps(2)
    with first.open():
        state = first.prune.state_dict()
    run = Pruned(prune_dict={"fc/weights": 0.5}, balance="none", with_optimizer=True)
    run.train(2)
    run.prune.load_state_dict(state, run.session)
    zeros = first["fc/weights"] == 0
    np.testing.assert_array_equal(run["fc/weights"] == 0, zeros)
    assert not run.slots("fc/weights")[0][zeros].any()


def test_nothing_listed_prunes_nothing():
    run = Pruned(balance="none")
    before = run.weights()
    run.prune.prune(run.session)
    assert run.prune.sparsity(run.session) == ({}, 0.0)
    for name, value in run.weights().items():
        np.testing.assert_array_equal(value, before[name])


def test_scores_of_gradients_are_refused():
    with pytest.raises(RecipeError, match=r"'movement' needs gradients.*sparse optimizer"):
        Pruned(recipe={"sparsity": 0.5, "score": "movement"})


@pytest.mark.parametrize("score", ["fpgm", "random", "bn_scale"])
def test_other_scores(score):
    skip = ["conv2/*", "fc/*"] if score == "bn_scale" else []
    granularity = "unstructured" if score == "random" else "filter"
    run = Pruned(recipe={"sparsity": 0.5, "score": score, "granularity": granularity, "skip": skip})
    run["conv1/gamma"] = np.arange(8, 0, -1).astype(np.float32)
    run.prune.prune(run.session)
    weights = run["conv1/weights"]
    assert share(weights) == 0.5
    if score == "bn_scale":
        assert not weights[..., 4:].any()


def test_weights_that_cannot_be_ranked_are_named_and_stay_due():
    run = Pruned(prune_dict={"conv2/weights": 0.5}, balance="none")
    good = run["conv2/weights"]
    run["conv2/weights"] = np.where(np.arange(good.size).reshape(good.shape) == 7, np.nan, good)
    for _ in range(2):
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"WeightError: conv2/weights: 1 NaN and 0 infinite"):
            run.prune.prune(run.session)
    run["conv2/weights"] = good
    run.prune.prune(run.session)
    assert share(run["conv2/weights"]) == 0.5


def test_scope_of_a_strategy():
    with tf.Graph().as_default(), tf.Session() as session:
        strategy = tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"])
        with strategy.scope():
            weights = variable("w", [8, 8])
            prune = Prune([weights], prune_dict={"w": 0.5}, balance="none")
        session.run(tf.global_variables_initializer())
        prune.prune()
        one, other = session.run(weights.values)
        assert share(one) == 0.5
        np.testing.assert_array_equal(one, other)
        state = prune.state_dict()
        session.run(tf.global_variables_initializer())
        prune.load_state_dict(state)
        for value in session.run(weights.values):
            np.testing.assert_array_equal(value == 0, one == 0)
