"""Fine-tune a network that is sparse already: `fix_sparsity` keeps its zeros, all else is as in any training.

The network arrives as a file from whatever framework it was pruned in.

    python examples/mnist/pytorch_pruning_simple.py
    python examples/finetune/pytorch_finetune.py --model mnist-sparse80.mopir --epochs 10 --lr 0.01
"""

import torch
from finetuning import load, parser
from progress import Progress
from pytorch_network import DEVICE, predict, weights
from torch.nn.functional import cross_entropy

from mopruning.backends.pytorch import SGDSparse, from_ir, to_ir


def main() -> None:
    options = parser(__doc__, out="finetuned-pytorch").parse_args()
    torch.manual_seed(options.seed)
    task = load(options)
    data = task.data
    net = from_ir(task.model).to(DEVICE)

    # optimizer = torch.optim.SGD(net.parameters(), options.lr, momentum=0.9, weight_decay=5e-4)
    optimizer = SGDSparse(net.named_parameters(), options.lr, momentum=0.9, weight_decay=5e-4, fix_sparsity=True)
    updates = options.epochs * data.updates(options.batch_size)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates)
    progress = Progress(
        options, data, optimizer.plan, lambda images: predict(net, images), lambda: weights(net), every=1
    )

    progress.start(loaded=True)
    for epoch in range(1, options.epochs + 1):
        losses = []
        for images, labels in data.batches(options.batch_size, options.seed, epoch):
            optimizer.zero_grad()
            loss = cross_entropy(net(torch.from_numpy(images).to(DEVICE)), torch.from_numpy(labels).to(DEVICE))
            loss.backward()
            optimizer.step()
            scheduler.step()
            losses.append(loss.item())
        progress.epoch(epoch, losses)
    task.finish(to_ir(net, torch.zeros(task.shape, device=DEVICE)), options.out)


if __name__ == "__main__":
    main()
