"""Fine-tune a network that is sparse already: `finetune` keeps its zeros, all else is as in any training.

The network arrives as a file from whatever framework it was pruned in.

    python examples/mnist/pytorch_pruning_simple.py
    python examples/finetune/tensorflow1_finetune.py --model mnist-sparse80.mopir --epochs 10 --lr 0.01
"""

import tensorflow.compat.v1 as tf
from finetuning import load, parser
from progress import Progress
from tensorflow1_network import channels_last, weights

from mopruning.backends.tensorflow1 import MomentumOptimizerSparse, from_ir, to_ir


def main() -> None:
    options = parser(__doc__, out="finetuned-tensorflow1.meta").parse_args()
    task = load(options)
    data = task.data
    net = from_ir(task.model)
    (images,), (scores,) = net.inputs.values(), net.outputs.values()
    with net.graph.as_default(), tf.Session() as session:
        tf.set_random_seed(options.seed)
        labels = tf.placeholder(tf.int64, [None])
        cross_entropy = tf.losses.sparse_softmax_cross_entropy(labels, scores)
        decay = 5e-4 * tf.add_n([tf.nn.l2_loss(weight) for weight in tf.trainable_variables()])

        updates = options.epochs * data.updates(options.batch_size)
        global_step = tf.train.create_global_step()
        rate = tf.train.cosine_decay(options.lr, global_step, updates)
        # optimizer = tf.train.MomentumOptimizer(rate, 0.9)
        optimizer = MomentumOptimizerSparse(rate, 0.9, finetune=True)
        with tf.control_dependencies(tf.get_collection(tf.GraphKeys.UPDATE_OPS)):
            train = optimizer.minimize(cross_entropy + decay, global_step)
        session.run(tf.global_variables_initializer())
        net.load(session)
        progress = Progress(
            options,
            data,
            optimizer.plan,
            lambda part: net.run([part], session)[0],
            lambda: weights(session),
            every=1,
        )

        progress.start(loaded=True)
        for epoch in range(1, options.epochs + 1):
            losses = []
            for part, truth in data.batches(options.batch_size, options.seed, epoch):
                feeds = {images: channels_last(part), labels: truth, net.training: True}
                losses.append(session.run([cross_entropy, train], feeds)[0])
            progress.epoch(epoch, losses)
        task.finish(to_ir(net, session=session), options.out)


if __name__ == "__main__":
    main()
