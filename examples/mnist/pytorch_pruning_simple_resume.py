"""Go on from a sparse network: the ramp starts at the sparsity its weights have and rises to 95%.

Four fifths of the epochs prune, the rest fine-tune at the target. Nothing but the weights is loaded: the masks are
read off their zeros.

    python examples/mnist/pytorch_pruning_simple.py
    python examples/mnist/pytorch_pruning_simple_resume.py
"""

import torch
from data import load
from options import parser
from progress import Progress
from pytorch_network import DEVICE, network, predict, weights
from torch.nn.functional import cross_entropy

from mopruning.backends.pytorch import SGDSparse


def main() -> None:
    wanted = parser(__doc__, epochs=50, batch_size=1000, sparsity=0.95, out="mnist-sparse95.pth")
    wanted.add_argument("--weights", default="mnist-sparse80.pth", help="the sparse network to go on from")
    options = wanted.parse_args()
    torch.manual_seed(options.seed)
    digits = load(options.data)
    net = network()
    net.load_state_dict(torch.load(options.weights, weights_only=True))

    step = digits.updates(options.batch_size)  # in an epoch
    optimizer = SGDSparse(
        net.named_parameters(),
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
    progress = Progress(options, digits, optimizer.plan, lambda images: predict(net, images), lambda: weights(net))

    progress.start(loaded=True)
    for epoch in range(1, options.epochs + 1):
        for images, labels in digits.batches(options.batch_size, options.seed, epoch):
            optimizer.zero_grad()
            scores = net(torch.from_numpy(images).to(DEVICE))
            cross_entropy(scores, torch.from_numpy(labels).to(DEVICE)).backward()
            optimizer.step()
            scheduler.step()
        progress.epoch(epoch)
    torch.save(net.state_dict(), options.out)
    progress.end()


if __name__ == "__main__":
    main()
