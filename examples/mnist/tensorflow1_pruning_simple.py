"""Train a small network on handwritten digits and prune it on the way: one optimizer instead of another.

A third of the epochs are dense, over the rest sparsity rises to 80%. The first convolution stays dense.

    python examples/mnist/tensorflow1_pruning_simple.py
"""

import tensorflow.compat.v1 as tf
from data import load
from options import parser
from progress import Progress
from tensorflow1_network import channels_last, network, weights

from mopruning.backends.tensorflow1 import GradientDescentOptimizerSparse


def main() -> None:
    options = parser(__doc__, epochs=120, batch_size=1000, sparsity=0.8, out="mnist-sparse80").parse_args()
    digits = load(options.data)
    with tf.Graph().as_default(), tf.Session() as session:
        tf.set_random_seed(options.seed)
        images = tf.placeholder(tf.float32, [None, 28, 28, 1])
        labels = tf.placeholder(tf.int64, [None])
        scores = network(images, training=True)
        test_scores = network(images, training=False)
        saver = tf.train.Saver()  # of the network alone
        loss = tf.losses.sparse_softmax_cross_entropy(labels, scores)
        loss += 1e-5 * tf.add_n([tf.nn.l2_loss(weight) for weight in tf.trainable_variables()])

        step = digits.updates(options.batch_size)  # in an epoch
        dense_epochs = options.epochs // 3
        global_step = tf.train.create_global_step()
        rate = tf.train.cosine_decay(0.1 * options.batch_size / 256, global_step, options.epochs * step)
        # optimizer = tf.train.GradientDescentOptimizer(rate)
        optimizer = GradientDescentOptimizerSparse(
            rate,
            target_sparsity=options.sparsity,
            pretrain_step=dense_epochs * step,
            sparse_step=(options.epochs - dense_epochs) * step,
            frequency=step / 5,
            special_sparsity_dict={"conv1/weights": 0.0},
        )
        with tf.control_dependencies(tf.get_collection(tf.GraphKeys.UPDATE_OPS)):
            train = optimizer.minimize(loss, global_step)
        session.run(tf.global_variables_initializer())
        progress = Progress(
            options,
            digits,
            optimizer.plan,
            lambda part: session.run(test_scores, {images: channels_last(part)}),
            lambda: weights(session),
            also=dense_epochs,
        )

        progress.start()
        for epoch in range(1, options.epochs + 1):
            for part, truth in digits.batches(options.batch_size, options.seed, epoch):
                session.run(train, {images: channels_last(part), labels: truth})
            progress.epoch(epoch)
        saver.save(session, options.out)
        progress.end()


if __name__ == "__main__":
    main()
