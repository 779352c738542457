"""Train a small network on handwritten digits and prune it on the way: one optimizer instead of another.

A third of the epochs are dense, over the rest sparsity rises to 80%. The first convolution stays dense.

    python examples/mnist/pytorch_pruning_simple.py
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
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.epochs * step)

    for epoch in range(1, options.epochs + 1):
        model.train()
        for batch in torch.randperm(len(digits.train_labels)).split(options.batch_size):
            images, labels = digits.train_images[batch].to(DEVICE), digits.train_labels[batch].to(DEVICE)
            optimizer.zero_grad()
            cross_entropy(model(images), labels).backward()
            optimizer.step()
            scheduler.step()
        if epoch in (dense_epochs, options.epochs) or epoch % 10 == 0:
            reached = optimizer.pruner.sparsity if optimizer.pruner else 0.0
            right = accuracy(model, digits.test_images, digits.test_labels)
            print(f"epoch {epoch}/{options.epochs}  accuracy {right:.4f}  sparsity of the pruned weights {reached:.4f}")

    print(sparsity(model))
    torch.save(model.state_dict(), options.out)
    print(f"weights: {options.out}")


if __name__ == "__main__":
    main()
