"""Prune beside any training loop: `Prune` needs no optimizer of its own, only one call after each update.

Bank-balanced, 90%. A bank is 64 input channels, so of the three convolutions only the second fits: the first has one
input channel and the third 127. Both are reported and stay dense; that is what this example is there to show.

    python examples/mnist/pytorch_pruning_mnist.py
"""

import math

import torch
from data import load
from network import network
from options import parser
from training import train

from mopruning.backends.pytorch import Prune


def main() -> None:
    options = parser(__doc__, epochs=100, batch_size=256, sparsity=0.9, out="mnist-bank90.pth").parse_args()
    torch.manual_seed(options.seed)
    digits = load(options.data)
    model = network((64, 127, 256))

    step = math.ceil(len(digits.train_labels) / options.batch_size)  # updates in an epoch
    optimizer = torch.optim.SGD(model.parameters(), 0.1 * options.batch_size / 256)

    prune_dict = {name: options.sparsity for name, weight in model.named_parameters() if weight.ndim == 4}
    prune = Prune(
        model,
        options.epochs // 10 * step,  # dense
        options.epochs * 8 // 10 * step,  # ramp
        100,
        prune_dict,
    )
    print(prune.plan)

    train(model, digits, options, optimizer, step, lambda: prune.sparsity()[1], after_update=prune.prune)


if __name__ == "__main__":
    main()
