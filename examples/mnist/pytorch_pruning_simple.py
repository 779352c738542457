"""Train a small network on handwritten digits and prune it on the way: one optimizer instead of another.

A third of the epochs are dense, over the rest sparsity rises to 80%. The first convolution stays dense. Beside the
weights the whole network is written, as .mopir, so that any framework can go on with it.

    python examples/mnist/pytorch_pruning_simple.py
"""

from pathlib import Path

import torch
from data import load
from options import parser
from progress import Progress
from pytorch_network import DEVICE, network, predict, weights
from torch.nn.functional import cross_entropy

from mopruning import ir
from mopruning.backends.pytorch import SGDSparse, to_ir


def main() -> None:
    options = parser(__doc__, epochs=120, batch_size=1000, sparsity=0.8, out="mnist-sparse80.pth").parse_args()
    torch.manual_seed(options.seed)
    digits = load(options.data)
    net = network()

    step = digits.updates(options.batch_size)  # in an epoch
    dense_epochs = options.epochs // 3
    rate = 0.1 * options.batch_size / 256
    # optimizer = torch.optim.SGD(net.parameters(), rate, weight_decay=1e-5)
    optimizer = SGDSparse(
        net.named_parameters(),
        rate,
        weight_decay=1e-5,
        target_sparsity=options.sparsity,
        pretrain_step=dense_epochs * step,
        sparse_step=(options.epochs - dense_epochs) * step,
        frequency=step / 5,
        special_sparsity_dict={"conv1.weight": 0.0},
    )
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.epochs * step)
    progress = Progress(
        options, digits, optimizer.plan, lambda images: predict(net, images), lambda: weights(net), also=dense_epochs
    )

    progress.start()
    for epoch in range(1, options.epochs + 1):
        for images, labels in digits.batches(options.batch_size, options.seed, epoch):
            optimizer.zero_grad()
            scores = net(torch.from_numpy(images).to(DEVICE))
            cross_entropy(scores, torch.from_numpy(labels).to(DEVICE)).backward()
            optimizer.step()
            scheduler.step()
        progress.epoch(epoch)
    torch.save(net.state_dict(), options.out)
    ir.save(to_ir(net, torch.zeros(1, 1, 28, 28, device=DEVICE)), Path(options.out).with_suffix(".mopir"))
    progress.end()


if __name__ == "__main__":
    main()
