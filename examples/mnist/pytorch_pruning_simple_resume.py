"""Go on from a sparse network: the ramp starts at the sparsity its weights have and rises to 95%.

Four fifths of the epochs prune, the rest fine-tune at the target. Nothing but the weights is loaded: the masks are
read off their zeros.

    python examples/mnist/pytorch_pruning_simple.py
    python examples/mnist/pytorch_pruning_simple_resume.py
"""

import math

import torch
from data import load
from network import DEVICE, accuracy, network
from options import parser
from torch.nn.functional import cross_entropy

from mopruning import sparsity
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
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.epochs * step)
    right = accuracy(model, digits.test_images, digits.test_labels)
    print(f"loaded  accuracy {right:.4f}  sparsity of the pruned weights {optimizer.pruner.sparsity:.4f}")

    for epoch in range(1, options.epochs + 1):
        model.train()
        for batch in torch.randperm(len(digits.train_labels)).split(options.batch_size):
            images, labels = digits.train_images[batch].to(DEVICE), digits.train_labels[batch].to(DEVICE)
            optimizer.zero_grad()
            cross_entropy(model(images), labels).backward()
            optimizer.step()
            scheduler.step()
        if epoch == options.epochs or epoch % 10 == 0:
            reached = optimizer.pruner.sparsity
            right = accuracy(model, digits.test_images, digits.test_labels)
            print(f"epoch {epoch}/{options.epochs}  accuracy {right:.4f}  sparsity of the pruned weights {reached:.4f}")

    print(sparsity(model))
    torch.save(model.state_dict(), options.out)
    print(f"weights: {options.out}")


if __name__ == "__main__":
    main()
