"""Go on from a sparse network: the ramp starts at the sparsity its weights have and rises to 95%.

Four fifths of the epochs prune, the rest fine-tune at the target. Nothing but the weights is loaded: the masks are
read off their zeros.

    python examples/mnist/pytorch_pruning_simple.py
    python examples/mnist/pytorch_pruning_simple_resume.py
"""

import math

import torch
from data import load
from network import accuracy, network
from options import parser
from training import train

from mopruning.backends.pytorch import SGDSparse


def main() -> None:
    wanted = parser(__doc__, epochs=50, batch_size=1000, sparsity=0.95, out="mnist-sparse95.pth")
    wanted.add_argument("--weights", default="mnist-sparse80.pth", help="the sparse network to go on from")
    options = wanted.parse_args()
    torch.manual_seed(options.seed)
    digits = load(options.data)
    model = network()
    model.load_state_dict(torch.load(options.weights, weights_only=True))

    step = math.ceil(len(digits.train_labels) / options.batch_size)  # updates in an epoch
    optimizer = SGDSparse(
        model.named_parameters(),
        0.1 * options.batch_size / 256,
        weight_decay=1e-5,
        target_sparsity=options.sparsity,
        sparse_step=options.epochs * 4 // 5 * step,
        frequency=step / 5,
        special_sparsity_dict={"conv1.weight": 0.0},
        restore_sparsity=True,
        # To fine-tune at the sparsity that is there: also fix_sparsity=True, and no target.
    )
    right = accuracy(model, digits.test_images, digits.test_labels)
    print(f"loaded  accuracy {right:.4f}  sparsity of the pruned weights {optimizer.pruner.sparsity:.4f}")

    train(model, digits, options, optimizer, step, lambda: optimizer.pruner.sparsity)


if __name__ == "__main__":
    main()
