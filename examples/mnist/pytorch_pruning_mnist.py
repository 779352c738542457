"""Prune beside any training loop: `Prune` needs no optimizer of its own, only one call after each update.

Bank-balanced, 90%. A bank is 64 input channels, so of the three convolutions only the second fits: the first has one
input channel and the third 127. Both are reported and stay dense; that is what this example is there to show.

    python examples/mnist/pytorch_pruning_mnist.py
"""

import torch
from data import load
from options import parser
from progress import Progress
from pytorch_network import DEVICE, network, predict, weights
from torch.nn.functional import cross_entropy

from mopruning.backends.pytorch import Prune


def main() -> None:
    options = parser(__doc__, epochs=100, batch_size=256, sparsity=0.9, out="mnist-bank90.pth").parse_args()
    torch.manual_seed(options.seed)
    digits = load(options.data)
    net = network((64, 127, 256))

    step = digits.updates(options.batch_size)  # in an epoch
    optimizer = torch.optim.SGD(net.parameters(), 0.1 * options.batch_size / 256)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.epochs * step)

    prune_dict = {name: options.sparsity for name, weight in net.named_parameters() if weight.ndim == 4}
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
            optimizer.zero_grad()
            scores = net(torch.from_numpy(images).to(DEVICE))
            cross_entropy(scores, torch.from_numpy(labels).to(DEVICE)).backward()
            optimizer.step()
            scheduler.step()
            prune.prune()
        progress.epoch(epoch)
    torch.save(net.state_dict(), options.out)
    progress.end()


if __name__ == "__main__":
    main()
