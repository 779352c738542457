"""Prune beside any training loop: `Prune` needs no optimizer of its own, only a call before and after each update.

Bank-balanced, 90%. A bank is 64 input channels, so of the three convolutions only the second fits: the first has one
input channel and the third 127. Both are reported and stay dense; that is what this example is there to show.

    python examples/mnist/mxnet_pruning_mnist.py
"""

from data import load
from mxnet_network import CONTEXT, network, predict, weights
from options import parser
from progress import Progress

from mopruning.backends.mxnet import Prune

# isort: split
import mxnet as mx
from mxnet import autograd, gluon


def main() -> None:
    options = parser(__doc__, epochs=100, batch_size=256, sparsity=0.9, out="mnist-bank90.params").parse_args()
    mx.random.seed(options.seed)
    digits = load(options.data)
    net = network((64, 127, 256))
    loss_of = gluon.loss.SoftmaxCrossEntropyLoss()

    step = digits.updates(options.batch_size)  # in an epoch
    rate = 0.1 * options.batch_size / 256
    scheduler = mx.lr_scheduler.CosineScheduler(options.epochs * step, rate)
    trainer = gluon.Trainer(net.collect_params(), "sgd", {"learning_rate": rate, "lr_scheduler": scheduler})

    prune_dict = {name: options.sparsity for name, weight in net.collect_params().items() if len(weight.shape) == 4}
    prune = Prune(
        net,
        options.epochs // 10 * step,  # dense
        options.epochs * 8 // 10 * step,  # ramp
        100,
        prune_dict,
    )
    progress = Progress(options, digits, prune.plan, lambda images: predict(net, images), lambda: weights(net))

    progress.start()
    for epoch in range(1, options.epochs + 1):
        for images, labels in digits.batches(options.batch_size, options.seed, epoch):
            with autograd.record():
                loss = loss_of(net(mx.nd.array(images, CONTEXT)), mx.nd.array(labels, CONTEXT))
            loss.backward()
            prune.prepare()
            trainer.step(len(labels))
            prune.prune()
        progress.epoch(epoch)
    net.save_parameters(options.out)
    progress.end()


if __name__ == "__main__":
    main()
