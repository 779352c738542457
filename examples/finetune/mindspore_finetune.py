"""Fine-tune a network that is sparse already: `fix_sparsity` keeps its zeros, all else is as in any training.

The network arrives as a file from whatever framework it was pruned in.

    python examples/mnist/pytorch_pruning_simple.py
    python examples/finetune/mindspore_finetune.py --model mnist-sparse80.mopir --epochs 10 --lr 0.01
"""

import mindspore as ms
from finetuning import load, parser
from mindspore import Tensor, nn
from mindspore_network import predict, weights
from progress import Progress

from mopruning.backends.mindspore import MomentumSparse, from_ir, to_ir


def main() -> None:
    options = parser(__doc__, out="finetuned-mindspore").parse_args()
    ms.set_seed(options.seed)
    task = load(options)
    data = task.data
    net = from_ir(task.model).set_train()
    cross_entropy = nn.CrossEntropyLoss()

    updates = options.epochs * data.updates(options.batch_size)
    rate = nn.CosineDecayLR(0.0, options.lr, updates)
    # optimizer = nn.Momentum(net.trainable_params(), rate, 0.9, weight_decay=5e-4)
    optimizer = MomentumSparse(net, rate, 0.9, weight_decay=5e-4, fix_sparsity=True)
    gradients_of = ms.value_and_grad(
        lambda images, labels: cross_entropy(net(images), labels), None, optimizer.parameters
    )
    progress = Progress(
        options, data, optimizer.plan, lambda images: predict(net, images), lambda: weights(net), every=1
    )

    progress.start(loaded=True)
    for epoch in range(1, options.epochs + 1):
        losses = []
        for images, labels in data.batches(options.batch_size, options.seed, epoch):
            loss, gradients = gradients_of(Tensor(images), Tensor(labels, ms.int32))
            optimizer(gradients)
            losses.append(float(loss.asnumpy()))
        progress.epoch(epoch, losses)
    task.finish(to_ir(net, ms.ops.zeros(task.shape)), options.out, folder="mindspore")


if __name__ == "__main__":
    main()
