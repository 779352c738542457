"""Train a small network on handwritten digits and prune it on the way: one optimizer instead of another.

A third of the epochs are dense, over the rest sparsity rises to 80%. The first convolution stays dense.

    python examples/mnist/mxnet_pruning_simple.py
"""

from data import load
from mxnet_network import CONTEXT, network, predict, weights
from options import parser
from progress import Progress

from mopruning.backends.mxnet import SGDSparse

# isort: split
import mxnet as mx
from mxnet import autograd, gluon


def main() -> None:
    options = parser(__doc__, epochs=120, batch_size=1000, sparsity=0.8, out="mnist-sparse80.params").parse_args()
    mx.random.seed(options.seed)
    digits = load(options.data)
    net = network()
    loss_of = gluon.loss.SoftmaxCrossEntropyLoss()

    step = digits.updates(options.batch_size)  # in an epoch
    dense_epochs = options.epochs // 3
    rate = 0.1 * options.batch_size / 256
    scheduler = mx.lr_scheduler.CosineScheduler(options.epochs * step, rate)
    # optimizer = mx.optimizer.SGD(learning_rate=rate, wd=1e-5, lr_scheduler=scheduler)
    optimizer = SGDSparse(
        learning_rate=rate,
        wd=1e-5,
        lr_scheduler=scheduler,
        target_sparsity=options.sparsity,
        pretrain_step=dense_epochs * step,
        sparse_step=(options.epochs - dense_epochs) * step,
        frequency=step / 5,
        special_sparsity_dict={"conv1_weight": 0.0},
        param_name=net,
    )
    trainer = gluon.Trainer(net.collect_params(), optimizer)
    progress = Progress(
        options, digits, optimizer.plan, lambda images: predict(net, images), lambda: weights(net), also=dense_epochs
    )

    progress.start()
    for epoch in range(1, options.epochs + 1):
        for images, labels in digits.batches(options.batch_size, options.seed, epoch):
            with autograd.record():
                loss = loss_of(net(mx.nd.array(images, CONTEXT)), mx.nd.array(labels, CONTEXT))
            loss.backward()
            trainer.step(len(labels))
        progress.epoch(epoch)
    net.save_parameters(options.out)
    progress.end()


if __name__ == "__main__":
    main()
