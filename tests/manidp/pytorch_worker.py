"""One of the processes that share a training; see test_pytorch_training.py."""

import argparse

import numpy as np
import torch
from torch import nn

from mopruning.backends.pytorch.manidp import Training, network, state_of
from mopruning.backends.pytorch.ranks import join, leave
from mopruning.datasets import Images
from mopruning.manidp import Settings, Structure
from mopruning.manidp.structure import CIFAR
from mopruning.training.data import Data

TINY = Structure(CIFAR, (1, 1, 1), (4, 6, 8), classes=10, image=16)


def drawn(count: int, seed: int = 0) -> Images:
    """Return images of 16 x 16 that a small network learns: noise on a colour and a place for each class."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 10, count)
    pixels = rng.integers(0, 90, (count, 16, 16, 3))
    for image, label in zip(pixels, labels, strict=True):
        image[:, :, label % 3] += 40 + 8 * label
        image[label : label + 6] += 60
    return Images(pixels.clip(0, 255).astype(np.uint8), labels)


def freeze_statistics(net: nn.Module) -> None:
    """Make normalisations use their running statistics while training as well, in place.

    What an image becomes then depends on no other image, so processes compute what one alone would.
    """
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
            module.train = lambda mode=True, module=module: module


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out")
    parser.add_argument("--alike", action="store_true", help="only what is the same however images are shared")
    options = parser.parse_args()
    torch.set_num_threads(1)
    ranks = join(torch.device("cpu"))
    graph = 0.0 if options.alike else 0.1
    settings = Settings(epochs=3, batch_size=16, lr=0.02, lambda_graph=graph, thre_cls=2.0)
    net = network(TINY, gate_scale=0.1, seed=ranks.rank)  # the first one's weights are to be everyone's
    if options.alike:
        freeze_statistics(net)
    training = Training(net, Data(drawn(64), drawn(21, seed=1), "cifar"), settings, ranks=ranks)
    dense = training.start()
    rows = [training.epoch() for _ in range(3)]
    found = training.evaluate(training.data.test)
    np.savez(
        f"{options.out}-{ranks.rank}.npz",
        limit=training.control.limit,
        dense=dense.cross_entropy,
        loss=[row["loss"] for row in rows],
        predictions=found.predictions,
        labels=found.labels,
        kept=found.kept,
        **{f"state/{name}": value.numpy() for name, value in state_of(net).items()},
    )
    leave(ranks)


if __name__ == "__main__":
    main()
