"""The small convolutional network of the examples, as a graph of TensorFlow 1."""

from collections.abc import Sequence

import numpy as np
import tensorflow.compat.v1 as tf

# Uniform within 1 / sqrt(inputs), as PyTorch and MindSpore begin by default.
INITIAL = tf.variance_scaling_initializer(1 / 3, mode="fan_in", distribution="uniform")


def network(images: tf.Tensor, training: bool, channels: Sequence[int] = (64, 128, 256)) -> tf.Tensor:
    """Return the scores of images [n, 28, 28, 1], from the same variables each time.

    Three 3x3 convolutions of stride 2, each with batch normalisation and ReLU, and a dense layer to ten classes. In
    training, what keeps the moving averages is in the collection UPDATE_OPS.
    """
    features = images
    for i, outputs in enumerate(channels, start=1):
        with tf.variable_scope(f"conv{i}", reuse=tf.AUTO_REUSE):
            kernel = tf.get_variable("weights", [3, 3, features.shape[-1], outputs], initializer=INITIAL)
            bias = tf.get_variable("biases", [outputs], initializer=tf.zeros_initializer())
            features = tf.nn.conv2d(features, kernel, 2, "VALID") + bias
        with tf.variable_scope(f"bn{i}", reuse=tf.AUTO_REUSE):
            features = tf.nn.relu(normalised(features, training))
    with tf.variable_scope("dense1", reuse=tf.AUTO_REUSE):
        inputs = 4 * channels[-1]  # 28x28 images end as 2x2
        kernel = tf.get_variable("weights", [inputs, 10], initializer=INITIAL)
        bias = tf.get_variable("biases", [10], initializer=tf.zeros_initializer())
        return tf.reshape(features, [-1, inputs]) @ kernel + bias


def normalised(features: tf.Tensor, training: bool) -> tf.Tensor:
    """Return features in batch normalisation, the averages of which move by a tenth; TensorFlow 2 has no tf.layers."""
    one, zero, count = tf.ones_initializer(), tf.zeros_initializer(), [features.shape[-1]]
    gamma = tf.get_variable("gamma", count, initializer=one)
    beta = tf.get_variable("beta", count, initializer=zero)
    mean = tf.get_variable("moving_mean", count, initializer=zero, trainable=False)
    variance = tf.get_variable("moving_variance", count, initializer=one, trainable=False)
    result, new_mean, new_variance = tf.nn.fused_batch_norm(
        features, gamma, beta, mean, variance, 1e-5, is_training=training, exponential_avg_factor=0.1
    )
    if training:
        tf.add_to_collection(tf.GraphKeys.UPDATE_OPS, tf.group(mean.assign(new_mean), variance.assign(new_variance)))
    return result


def channels_last(images: np.ndarray) -> np.ndarray:
    """Return images [n, 1, height, width] as TensorFlow takes them."""
    return images.transpose(0, 2, 3, 1)


def weights(session: tf.Session) -> dict[str, np.ndarray]:
    """Return what trains, by name."""
    return session.run({variable.op.name: variable for variable in tf.trainable_variables()})
