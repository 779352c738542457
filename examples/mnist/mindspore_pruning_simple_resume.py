"""Go on from a sparse network: the ramp starts at the sparsity its weights have and rises to 95%.

Four fifths of the epochs prune, the rest fine-tune at the target. Nothing but the weights is loaded: the masks are
read off their zeros.

    python examples/mnist/mindspore_pruning_simple.py
    python examples/mnist/mindspore_pruning_simple_resume.py
"""

import mindspore as ms
from data import load
from mindspore import Tensor, nn
from mindspore_network import network, predict, weights
from options import parser
from progress import Progress

from mopruning.backends.mindspore import SGDSparse


def main() -> None:
    wanted = parser(__doc__, epochs=50, batch_size=1000, sparsity=0.95, out="mnist-sparse95.ckpt")
    wanted.add_argument("--weights", default="mnist-sparse80.ckpt", help="the sparse network to go on from")
    options = wanted.parse_args()
    ms.set_seed(options.seed)
    digits = load(options.data)
    net = network()
    ms.load_param_into_net(net, ms.load_checkpoint(options.weights), strict_load=True)
    cross_entropy = nn.CrossEntropyLoss()

    step = digits.updates(options.batch_size)  # in an epoch
    optimizer = SGDSparse(
        net,
        nn.CosineDecayLR(0.0, 0.1 * options.batch_size / 256, options.epochs * step),
        weight_decay=1e-5,
        target_sparsity=options.sparsity,
        sparse_step=options.epochs * 4 // 5 * step,
        frequency=step / 5,
        special_sparsity_dict={"conv1.weight": 0.0},
        restore_sparsity=True,
        # To fine-tune at the sparsity that is there: also fix_sparsity=True, and no target.
    )
    gradients_of = ms.grad(lambda images, labels: cross_entropy(net(images), labels), None, optimizer.parameters)
    progress = Progress(options, digits, optimizer.plan, lambda images: predict(net, images), lambda: weights(net))

    progress.start(loaded=True)
    for epoch in range(1, options.epochs + 1):
        for images, labels in digits.batches(options.batch_size, options.seed, epoch):
            optimizer(gradients_of(Tensor(images), Tensor(labels, ms.int32)))
        progress.epoch(epoch)
    ms.save_checkpoint(net, options.out)
    progress.end()


if __name__ == "__main__":
    main()
