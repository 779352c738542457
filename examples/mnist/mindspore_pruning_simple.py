"""Train a small network on handwritten digits and prune it on the way: one optimizer instead of another.

A third of the epochs are dense, over the rest sparsity rises to 80%. The first convolution stays dense.

    python examples/mnist/mindspore_pruning_simple.py
"""

import mindspore as ms
from data import load
from mindspore import Tensor, nn
from mindspore_network import network, predict, weights
from options import parser
from progress import Progress

from mopruning.backends.mindspore import SGDSparse


def main() -> None:
    options = parser(__doc__, epochs=120, batch_size=1000, sparsity=0.8, out="mnist-sparse80.ckpt").parse_args()
    ms.set_seed(options.seed)
    digits = load(options.data)
    net = network()
    cross_entropy = nn.CrossEntropyLoss()

    step = digits.updates(options.batch_size)  # in an epoch
    dense_epochs = options.epochs // 3
    rate = nn.CosineDecayLR(0.0, 0.1 * options.batch_size / 256, options.epochs * step)
    # optimizer = nn.SGD(net.trainable_params(), rate, weight_decay=1e-5)
    optimizer = SGDSparse(
        net,
        rate,
        weight_decay=1e-5,
        target_sparsity=options.sparsity,
        pretrain_step=dense_epochs * step,
        sparse_step=(options.epochs - dense_epochs) * step,
        frequency=step / 5,
        special_sparsity_dict={"conv1.weight": 0.0},
    )
    gradients_of = ms.grad(lambda images, labels: cross_entropy(net(images), labels), None, optimizer.parameters)
    progress = Progress(
        options, digits, optimizer.plan, lambda images: predict(net, images), lambda: weights(net), also=dense_epochs
    )

    progress.start()
    for epoch in range(1, options.epochs + 1):
        for images, labels in digits.batches(options.batch_size, options.seed, epoch):
            optimizer(gradients_of(Tensor(images), Tensor(labels, ms.int32)))
        progress.epoch(epoch)
    ms.save_checkpoint(net, options.out)
    progress.end()


if __name__ == "__main__":
    main()
