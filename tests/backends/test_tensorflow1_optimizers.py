"""How a TensorFlow 1 sparse optimizer is made: classes, call forms, recipes, plans, errors."""

from __future__ import annotations

import doctest
import importlib
import inspect

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow.compat.v1")

from mopruning.backends import tensorflow1  # noqa: E402
from mopruning.errors import RecipeError, UnknownNameError  # noqa: E402
from mopruning.sparse_arguments import SPARSE_ARGUMENTS  # noqa: E402
from tests.backends import tensorflow1_harness  # noqa: E402
from tests.backends.tensorflow1_networks import Run, share, variable  # noqa: E402

CLASSES = [name for name in tensorflow1.__all__ if name.endswith("Sparse")]
KERNELS = ("conv1/weights", "conv2/weights", "fc/weights")


# --- classes ---------------------------------------------------------------------------------------------------------


def test_every_optimizer_of_tensorflow_has_a_sparse_class():
    native = {n for n, c in vars(tf.train).items() if inspect.isclass(c) and issubclass(c, tf.train.Optimizer)}
    # SyncReplicasOptimizer wraps another, which is to be the sparse one.
    assert {name + "Sparse" for name in native - {"Optimizer", "SyncReplicasOptimizer"}} == set(CLASSES)


@pytest.mark.parametrize("name", CLASSES)
def test_contract_covers_every_class_and_native_argument(name):
    arguments = set(inspect.signature(getattr(tf.train, name.removesuffix("Sparse"))).parameters)
    covered = {key for case in tensorflow1_harness.CASES if case.cls == name for key in case.options}
    # with a threshold for single weights, weights that are not pruned become zero too
    assert covered == arguments - {"l1_regularization_strength"}


@pytest.mark.parametrize("name", CLASSES)
def test_signature_is_the_native_one_and_the_sparse_arguments(name):
    native = inspect.signature(getattr(tf.train, name.removesuffix("Sparse"))).parameters
    shown = inspect.signature(getattr(tensorflow1, name)).parameters
    assert list(shown)[: len(native)] == list(native)
    defaults = {key: value.default for key, value in native.items()}
    if name == "MomentumOptimizerSparse":
        defaults["momentum"] = 0.9  # as published; the native one has none
    assert {key: shown[key].default for key in native} == defaults
    assert {"recipe", "target_sparsity", "granularity", "finetune"} <= set(shown) - set(native)
    assert not SPARSE_ARGUMENTS & set(native)


def test_soft_thresholds_are_accepted():
    run = Run(
        lambda: tensorflow1.FtrlOptimizerSparse(0.1, l1_regularization_strength=1e-4, target_sparsity=0.5),
    )
    run.train(3)
    assert share(run["fc/weights"]) >= 0.5


# --- call forms ------------------------------------------------------------------------------------------------------


class InSteps(tensorflow1.MomentumOptimizerSparse):
    """Minimizes as users do who process gradients."""

    def minimize(self, loss, global_step=None, **more):
        pairs = self.compute_gradients(loss, tf.trainable_variables(), **more)
        clipped, _ = tf.clip_by_global_norm([gradient for gradient, _ in pairs], 1e6)
        pairs = zip(clipped, [variable for _, variable in pairs], strict=True)
        return self.apply_gradients(pairs, global_step, "training")


FORMS = {
    "published": lambda **a: tensorflow1.MomentumOptimizerSparse(learning_rate=0.1, momentum=0.9, **a),
    "published default": lambda **a: tensorflow1.MomentumOptimizerSparse(0.1, **a),
    "wrapper": lambda **a: tensorflow1.SparseOptimizer(tf.train.MomentumOptimizer(0.1, 0.9), **a),
    "apply_gradients": lambda **a: InSteps(0.1, **a),
}


@pytest.mark.parametrize("use_resource", [True, False], ids=["resource", "reference"])
@pytest.mark.parametrize("form", FORMS)
def test_call_forms_agree(form, use_resource):
    arguments = {"target_sparsity": 0.5, "special_sparsity_dict": {"fc/weights:0": 0.75}}
    run = Run(lambda: FORMS[form](**arguments), use_resource)
    run.train(2)
    assert {row.name for row in run.optimizer.plan.pruned} == set(KERNELS)
    assert [share(run[name]) for name in KERNELS] == [0.5, 0.5, 0.75]
    assert share(run["fc/bias"]) == share(run["conv1/gamma"]) == 0
    assert run["global_step"] == 2
    assert run.train_op.name == ("training" if form == "apply_gradients" else "MomentumSparse")
    assert run.graph.get_collection(tf.GraphKeys.TRAIN_OP) == [run.train_op]
    assert isinstance(run.optimizer, tf.train.Optimizer)
    (momentum,) = run.slots("fc/weights")
    assert share(momentum) == 0.75


def test_without_sparsity_nothing_is_added():
    native = Run(lambda: tf.train.MomentumOptimizer(0.1, 0.9))
    for form in ("published", "wrapper"):
        plain = Run(FORMS[form])
        assert plain.graph.as_graph_def() == native.graph.as_graph_def()
        assert plain.optimizer.plan is None
        assert plain.optimizer.pruner is None


def test_a_subset_of_the_variables():
    def optimizer():
        sparse = tensorflow1.MomentumOptimizerSparse(0.1, target_sparsity=0.5)
        minimize = sparse.minimize
        sparse.minimize = lambda loss, **more: minimize(loss, var_list=tf.trainable_variables("fc"), **more)
        return sparse

    run = Run(optimizer)
    before = run["conv2/weights"]
    run.train(2)
    assert [row.name for row in run.optimizer.plan.rows] == ["fc/weights", "fc/bias"]
    np.testing.assert_array_equal(run["conv2/weights"], before)


def test_variables_without_gradient_are_pruned_where_they_stand():
    with tf.Graph().as_default(), tf.Session() as session:
        trained, left = variable("trained", [8, 8]), variable("left", [8, 8])
        optimizer = tensorflow1.MomentumOptimizerSparse(0.1, target_sparsity=0.5)
        train = optimizer.minimize(tf.reduce_sum(trained * trained))
        session.run(tf.global_variables_initializer())
        session.run(train)
        assert share(session.run(left)) == share(session.run(trained)) == 0.5


@pytest.mark.parametrize("use_locking", [False, True])
def test_two_train_operations_over_the_same_variables_share_masks(use_locking):
    with tf.Graph().as_default(), tf.Session() as session:
        weights = variable("w", [8, 8])
        arguments = {"target_sparsity": 0.5, "pretrain_step": 2, "score": "movement", "use_locking": use_locking}
        optimizer = tensorflow1.GradientDescentOptimizerSparse(0.1, **arguments)
        one = optimizer.minimize(tf.reduce_sum(tf.square(weights - 1.0)))
        other = optimizer.minimize(tf.reduce_sum(tf.square(weights + 1.0)))
        session.run(tf.global_variables_initializer())
        session.run(one)
        assert share(session.run(weights)) == 0
        session.run(other)
        zeros = session.run(weights) == 0
        assert zeros.mean() == 0.5
        session.run(one)
        np.testing.assert_array_equal(session.run(weights) == 0, zeros)
        assert optimizer.pruner.steps == 3


@pytest.mark.parametrize("use_locking", [False, True])
def test_train_operations_over_other_variables_count_for_themselves(use_locking):
    with tf.Graph().as_default(), tf.Session() as session:
        one, other = variable("one", [8, 8]), variable("other", [8, 8])
        optimizer = tensorflow1.AdamOptimizerSparse(0.1, target_sparsity=0.5, use_locking=use_locking)
        step = tf.train.create_global_step()
        train = optimizer.minimize(tf.reduce_sum(one * one), step, var_list=[one])
        later = optimizer.minimize(tf.reduce_sum(other * other), step, var_list=[other])
        session.run(tf.global_variables_initializer())
        session.run(train)
        assert share(session.run(one)) == 0.5
        assert share(session.run(other)) == 0
        session.run([train, later])
        assert share(session.run(other)) == 0.5
        assert session.run(step) == 3
        with pytest.raises(RecipeError, match="one is among the variables of two train operations"):
            optimizer.minimize(tf.reduce_sum(one * other))


def test_one_optimizer_in_two_graphs():
    optimizer = tensorflow1.GradientDescentOptimizerSparse(0.1, target_sparsity=0.5)
    for _ in range(2):
        run = Run(lambda: optimizer)
        run.train()
        assert share(run["fc/weights"]) == 0.5
        assert run.variable("mopruning/plan").dtype == tf.string


@pytest.mark.parametrize("use_locking", [False, True])
@pytest.mark.parametrize("scope", [None, "training/phase"])
def test_native_variables_keep_their_names(scope, use_locking):
    def names(optimizer):
        with tf.Graph().as_default():
            weights = variable("w", [8, 8])
            with tf.name_scope(scope):
                optimizer().minimize(tf.reduce_sum(tf.square(weights)))
            return [v.op.name for v in tf.global_variables() if not v.op.name.startswith("mopruning/")]

    native = names(lambda: tf.train.AdamOptimizer(use_locking=use_locking))
    assert names(lambda: tensorflow1.AdamOptimizerSparse(target_sparsity=0.5, use_locking=use_locking)) == native
    assert len(native) == 5


def test_variables_are_all_that_a_saver_needs_besides_the_weights():
    run = Run(lambda: tensorflow1.AdamOptimizerSparse(0.1, target_sparsity=0.5, score="movement"))
    with run.graph.as_default():
        held = {v.op.name for v in [*run.optimizer.variables(), *tf.trainable_variables()]}
        assert held == {v.op.name for v in tf.global_variables()} - {"global_step"}
        assert not any(v.op.name.startswith("mopruning/") for v in tf.trainable_variables())
    assert "mopruning/observed/fc/weights" in held


# --- recipes ---------------------------------------------------------------------------------------------------------


def test_published_arguments():
    run = Run(
        lambda: tensorflow1.MomentumOptimizerSparse(
            learning_rate=0.01,
            momentum=0.9,
            target_sparsity=0.75,
            init_sparsity=0.5,
            pretrain_step=1,
            sparse_step=4,
            frequency=4 / 5,
            keywords_no_sparse=["bias", "beta", "gamma", "conv1"],
            special_sparsity_dict={"fc/weights": 0.625},
            enable_channel_balance=True,
            use_locking=False,
        )
    )
    shares = []
    for step in range(6):
        run.train(seed=step)
        shares.append(share(run["conv2/weights"]))
    assert shares[0] == 0.5  # init_sparsity, at the first update of the ramp
    assert shares == sorted(shares)
    assert shares[4:] == [0.75, 0.75]
    assert share(run["conv1/weights"]) == 0
    assert share(run["fc/weights"]) == 0.625
    tiles = run["conv2/weights"].reshape(3, 3, 2, 4, 8)  # groups of 4 input channels over all else
    assert (np.count_nonzero(tiles == 0, axis=(0, 1, 3, 4)) == 3 * 3 * 4 * 8 * 0.75).all()


def test_one_dimensional_variables_stay_dense_unless_asked_for():
    run = Run(lambda: tensorflow1.AdamOptimizerSparse(target_sparsity=0.5, include_1d=True))
    run.train()
    assert share(run["fc/bias"]) == share(run["conv1/gamma"]) == 0.5


@pytest.mark.parametrize("form", ["mapping", "file"])
def test_recipe_argument(form, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("sparsity: 0.5\ngranularity: 2:4\n")
    recipe = {"sparsity": 0.5, "granularity": "2:4"} if form == "mapping" else str(path)
    run = Run(lambda: tensorflow1.AdamOptimizerSparse(recipe=recipe))
    run.train()
    groups = run["conv2/weights"].reshape(9, 2, 4, 8)
    assert (np.count_nonzero(groups, axis=2) == 2).all()


def test_plan_is_printable_and_says_why():
    run = Run(lambda: tensorflow1.AdamOptimizerSparse(target_sparsity=0.9375, granularity="bank:8"))
    text = str(run.optimizer.plan)
    assert "conv1/weights  8x4x3x3  dense" in text
    assert "input channels (4)" in text
    assert "fc/weights     6x8      bank:8" in text


def test_pruner_is_of_the_default_session():
    run = Run(lambda: tensorflow1.AdamOptimizerSparse(target_sparsity=0.5))
    run.train()
    assert run.optimizer.pruner.steps == 0  # as at the start, for no session says more
    with tf.Graph().as_default(), tf.Session():
        assert run.optimizer.pruner.steps == 0
    with run.session.as_default():
        assert run.optimizer.pruner.steps == 1
        assert run.optimizer.pruner.sparsity == 0.5


@pytest.mark.parametrize("module", ["weights", "optimizers", "prune"])
def test_doctests(module):
    failed, attempted = doctest.testmod(importlib.import_module(f"mopruning.backends.tensorflow1.{module}"))
    assert attempted
    assert not failed


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: tensorflow1.AdamOptimizerSparse(target_sparsity=90), RecipeError, "0.9"),
        (lambda: tensorflow1.AdamOptimizerSparse(target_sparsity=0.5, recipe={}), TypeError, "not both"),
        (lambda: tensorflow1.AdamOptimizerSparse(target_sparcity=0.5), TypeError, "target_sparcity"),
        (
            lambda: tensorflow1.AdamOptimizerSparse(target_sparsity=0.5, prune_device="gpu"),
            RecipeError,
            "prune_device 'gpu' is unknown",
        ),
        (lambda: tensorflow1.SparseOptimizer("adam", target_sparsity=0.5), TypeError, "got str"),
        (
            lambda: tensorflow1.SparseOptimizer(tf.train.AdamOptimizer(), beta1=0.5),
            TypeError,
            "SparseOptimizer: unknown arguments beta1",
        ),
        (
            lambda: tensorflow1.SparseOptimizer(tensorflow1.AdamOptimizerSparse(target_sparsity=0.5)),
            TypeError,
            "sparse already",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_mistakes_are_explained(build, error, message):
    with pytest.raises(error, match=message):
        build()


def test_names_are_checked_when_gradients_are_applied():
    with pytest.raises(UnknownNameError, match=r"special_sparsity_dict: 'conv1_weight' .* 'conv1/weights'"):
        Run(lambda: tensorflow1.AdamOptimizerSparse(special_sparsity_dict={"conv1_weight": 0.5}))


def test_eager_execution_is_refused():
    weights = tf.Variable(np.ones((4, 4), np.float32))
    optimizer = tensorflow1.GradientDescentOptimizerSparse(0.1, target_sparsity=0.5)
    with pytest.raises(RuntimeError, match="graphs and sessions"):
        optimizer.apply_gradients([(tf.ones([4, 4]), weights)])


def test_no_gradients_at_all_is_the_native_error():
    with tf.Graph().as_default():
        optimizer = tensorflow1.GradientDescentOptimizerSparse(0.1, target_sparsity=0.5)
        with pytest.raises(ValueError, match="No gradients provided"):
            optimizer.apply_gradients([(None, variable("w", [4, 4]))])


def test_penalty_without_anything_to_prune_warns():
    with pytest.warns(UserWarning, match="L1"):
        Run(lambda: tensorflow1.AdamOptimizerSparse(L1_regularization=True))
