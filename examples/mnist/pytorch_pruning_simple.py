"""Train a small network on handwritten digits and prune it on the way: one optimizer instead of another.

A third of the epochs are dense, over the rest sparsity rises to 80%. The first convolution stays dense.

    python examples/mnist/pytorch_pruning_simple.py
"""

import math

import torch
from data import load
from network import network
from options import parser
from training import train

from mopruning.backends.pytorch import SGDSparse


def main() -> None:
    options = parser(__doc__, epochs=120, batch_size=1000, sparsity=0.8, out="mnist-sparse80.pth").parse_args()
    torch.manual_seed(options.seed)
    digits = load(options.data)
    model = network()

    step = math.ceil(len(digits.train_labels) / options.batch_size)  # updates in an epoch
    dense_epochs = options.epochs // 3
    rate = 0.1 * options.batch_size / 256
    # optimizer = torch.optim.SGD(model.parameters(), rate, weight_decay=1e-5)
    optimizer = SGDSparse(
        model.named_parameters(),
        rate,
        weight_decay=1e-5,
        target_sparsity=options.sparsity,
        pretrain_step=dense_epochs * step,
        sparse_step=(options.epochs - dense_epochs) * step,
        frequency=step / 5,
        special_sparsity_dict={"conv1.weight": 0.0},
    )
    if optimizer.plan:
        print(optimizer.plan)

    def reached() -> float:
        return optimizer.pruner.sparsity if optimizer.pruner else 0.0  # with --sparsity 0 it is a plain SGD

    train(model, digits, options, optimizer, step, reached, also=dense_epochs)


if __name__ == "__main__":
    main()
