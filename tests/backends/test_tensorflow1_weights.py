"""How variables of TensorFlow 1 lie, as the operations tell that consume them."""

from __future__ import annotations

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow.compat.v1")

from mopruning.backends.tensorflow1 import Prune  # noqa: E402
from mopruning.backends.tensorflow1.weights import Weights, kernel_layout  # noqa: E402
from mopruning.errors import RecipeError, UnknownNameError  # noqa: E402
from mopruning.layouts import KernelLayout  # noqa: E402


def images(*shape):
    return tf.placeholder(tf.float32, shape)


def dilated(v):
    return tf.nn.conv2d(images(2, 9, 9, 16), v, 1, "SAME", dilations=2)


def looped(v):
    state = tf.zeros([2, 8])
    return tf.while_loop(lambda i, s: i < 3, lambda i, s: (i + 1, tf.tanh(tf.matmul(s, v))), [0, state])[1]


# what consumes a variable, its shape, its canonical shape, and which of its axes each canonical axis is
LAYERS = {
    "conv1d": (lambda v: tf.nn.conv1d(images(2, 9, 16), v, 1, "SAME"), (3, 16, 32), (32, 16, 3), (2, 1, 0)),
    "conv2d": (lambda v: tf.nn.conv2d(images(2, 9, 9, 16), v, 1, "SAME"), (3, 5, 16, 32), (32, 16, 3, 5), (3, 2, 0, 1)),
    "dilated": (dilated, (3, 5, 16, 32), (32, 16, 3, 5), (3, 2, 0, 1)),
    "conv3d": (
        lambda v: tf.nn.conv3d(images(2, 4, 9, 9, 16), v, [1] * 5, "SAME"),
        (2, 3, 5, 16, 32),
        (32, 16, 2, 3, 5),
        (4, 3, 0, 1, 2),
    ),
    "conv2d_transpose": (
        lambda v: tf.nn.conv2d_transpose(images(2, 9, 9, 16), v, [2, 18, 18, 32], 2),
        (3, 5, 32, 16),
        (32, 16, 3, 5),
        (2, 3, 0, 1),
    ),
    "conv1d_transpose": (
        lambda v: tf.nn.conv1d_transpose(images(2, 9, 16), v, [2, 18, 32], 2),
        (3, 32, 16),
        (32, 16, 3),
        (1, 2, 0),
    ),
    "conv3d_transpose": (
        lambda v: tf.nn.conv3d_transpose(images(2, 4, 4, 4, 16), v, [2, 8, 8, 8, 32], [1, 2, 2, 2, 1]),
        (2, 3, 5, 32, 16),
        (32, 16, 2, 3, 5),
        (3, 4, 0, 1, 2),
    ),
    "dense": (lambda v: tf.matmul(images(2, 16), v), (16, 32), (32, 16), (1, 0)),
    "transpose_b": (lambda v: tf.matmul(images(2, 16), v, transpose_b=True), (32, 16), (32, 16), (0, 1)),
    "weight times features": (lambda v: tf.matmul(v, images(16, 2)), (32, 16), (32, 16), (0, 1)),
    "transpose_a": (lambda v: tf.matmul(v, images(16, 2), transpose_a=True), (16, 32), (32, 16), (1, 0)),
    "tensordot": (lambda v: tf.tensordot(images(2, 5, 16), v, [[2], [0]]), (16, 32), (32, 16), (1, 0)),
    "half precision": (
        lambda v: tf.matmul(tf.cast(images(2, 16), tf.float16), tf.cast(v, tf.float16), transpose_b=True),
        (32, 16),
        (32, 16),
        (0, 1),
    ),
    "embedding": (lambda v: tf.nn.embedding_lookup(v, [1, 2]), (20, 16), (20, 16), (0, 1)),
    "embedding and output": (
        lambda v: tf.matmul(tf.nn.embedding_lookup(v, [1, 2]), v, transpose_b=True),
        (20, 16),
        (20, 16),
        (0, 1),
    ),
    "sparse features": (
        lambda v: tf.sparse.sparse_dense_matmul(tf.sparse.from_dense(np.eye(16, dtype=np.float32)), v),
        (16, 32),
        (32, 16),
        (1, 0),
    ),
    "recurrent": (looped, (8, 8), (8, 8), (1, 0)),
    "unknown": (lambda v: tf.reduce_sum(v * 2), (16, 32), (32, 16), (1, 0)),
    "vector": (lambda v: images(2, 16) + v, (16,), (16,), (0,)),
}


@pytest.mark.parametrize("with_gradients", [False, True], ids=["forward", "trained"])
@pytest.mark.parametrize("use_resource", [True, False], ids=["resource", "reference"])
@pytest.mark.parametrize("layer", LAYERS)
def test_layouts(layer, use_resource, with_gradients):
    """Gradients consume kernels by the operations of other layers, which must not be taken for them."""
    consume, shape, canonical, axes = LAYERS[layer]
    with tf.Graph().as_default():
        variable = tf.get_variable("w", shape, use_resource=use_resource)
        if layer == "recurrent" and not use_resource:
            variable = tf.get_variable("v", shape, use_resource=True)  # a loop of functions takes no references
        output = consume(variable)
        if with_gradients:
            tf.gradients(tf.reduce_sum(tf.square(output)), variable)
        weights = Weights([variable])
        name = variable.op.name
        assert weights.shapes == {name: canonical}
        value = np.arange(np.prod(shape)).reshape(shape)
        seen = weights.layouts[name].to_canonical(value)
        np.testing.assert_array_equal(seen, value.transpose(axes))
        assert np.shares_memory(seen, value)
        np.testing.assert_array_equal(weights.layouts[name].to_native(seen), value)


@pytest.mark.parametrize("multiplier", [1, 3])
def test_depthwise_kernels(multiplier):
    with tf.Graph().as_default():
        variable = tf.get_variable("w", [3, 5, 8, multiplier])
        output = tf.nn.depthwise_conv2d(images(2, 9, 9, 8), variable, [1] * 4, "SAME")
        tf.gradients(output, variable)
        weights = Weights([variable])
    assert weights.shapes == {"w": (8 * multiplier, 1, 3, 5)}
    value = np.arange(3 * 5 * 8 * multiplier).reshape(3, 5, 8, multiplier)
    seen = weights.layouts["w"].to_canonical(value)
    for channel in range(8):  # an output channel of the framework is input * multiplier + place
        for place in range(multiplier):
            np.testing.assert_array_equal(seen[channel * multiplier + place, 0], value[:, :, channel, place])
    np.testing.assert_array_equal(weights.layouts["w"].to_native(seen), value)


def test_layouts_are_inverses():
    value = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    for layout in (kernel_layout(4), KernelLayout((2, 3, 0, 1)), KernelLayout((2, 3, 0, 1), multiplier=5)):
        back = layout.to_native(layout.to_canonical(value))
        np.testing.assert_array_equal(back, value)
        assert back.flags.c_contiguous
        assert layout.shape(value.shape) == layout.to_canonical(value).shape


def test_values_are_those_of_the_session():
    with tf.Graph().as_default(), tf.Session() as session:
        value = np.arange(6, dtype=np.float32).reshape(2, 3)
        weights = Weights([tf.get_variable("scope/w", initializer=value), tf.get_variable("b", [3])])
        session.run(tf.global_variables_initializer())
        assert list(weights) == ["scope/w", "b"]
        np.testing.assert_array_equal(weights["scope/w"], value.T)


def test_without_a_session_there_are_no_values():
    with tf.Graph().as_default():
        weights = Weights([tf.get_variable("w", [2, 3])])
        with pytest.raises(RuntimeError, match="pass session="):
            weights["w"]


def test_variables_that_do_not_train_are_frozen():
    with tf.Graph().as_default():
        weights = Weights([tf.get_variable("w", [2, 3]), tf.get_variable("fixed", [2, 3], trainable=False)])
    assert weights.frozen == ["fixed"]


@pytest.mark.parametrize("name", ["scope/w", "scope/w:0", "scope/*", "*w:0"])
def test_names_with_and_without_their_output(name):
    with tf.Graph().as_default():
        prune = Prune([tf.get_variable("scope/w", [64, 3]), tf.get_variable("other", [64, 3])], prune_dict={name: 0.5})
    assert [row.name for row in prune.plan.pruned] == ["scope/w"]


def test_misspelt_name_offers_the_nearest():
    with tf.Graph().as_default(), pytest.raises(UnknownNameError, match="did you mean 'conv1/weights'"):
        Prune([tf.get_variable("conv1/weights", [64, 3])], prune_dict={"conv1/weight": 0.5})


def test_nothing_to_prune_and_unknown_shapes_are_explained():
    with tf.Graph().as_default():
        with pytest.raises(RecipeError, match="no variables"):
            Weights([])
        unknown = tf.get_variable("w", initializer=tf.placeholder(tf.float32, [None, 3]), validate_shape=False)
        with pytest.raises(RecipeError, match=r"w has shape .*known in the graph"):
            Weights([unknown])
