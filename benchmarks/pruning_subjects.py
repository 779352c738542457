"""Which networks `pruning_results.py` prunes, how, and what it calls a cell."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pretrained
from torch import nn

from mopruning import ir
from mopruning.backends import pytorch
from mopruning.training.settings import Settings

DENSE = "dense"
TIME = "time"
INSIDE = "filter-inside"
SHRUNK = ("filter", INSIDE, "torch-filter", "torch-pruning")
"""Types whose channels are cut out, so that there is less to compute for any runtime."""

TYPES: Mapping[str, str] = {
    "irregular": "unstructured",
    "bank": "bank:16",
    "m:n": "",  # the ratio says it
    "pattern": "pattern",
    "stripe": "stripe",
    "filter": "filter:group",
    INSIDE: "filter:group",
}
"""Prune type -> granularity."""

RIVALS = ("torch-unstructured", "torch-filter", "torch-pruning")


@dataclass(frozen=True)
class Subject:
    """A network, what it is trained with, and what it is pruned to.

    Args:
        title: What the page calls it.
        start: Returns the network to start from, given the folder of data.
        dataset: What it is trained with and tested on.
        normalize: A key of `training.data.NORMALIZATIONS`.
        settings: The numbers of fine-tuning, and of training from scratch where `scratch` says how long.
        ratios: Prune type -> its ratios.
        untouched: Layers that are never pruned, but by "filter": the first one and the last.
        scratch: The numbers of training it before it is pruned, where no public network is at hand.
        padding: Of the random crops; half of the images are mirrored.
        uncut: Modules whose outputs Torch-Pruning is told to leave. It takes the added channels of padded shortcuts for
            channels of their own, and what it leaves of such a network does not run.
    """

    title: str
    start: Callable[[Path], nn.Module]
    dataset: str
    normalize: str
    settings: Settings
    ratios: Mapping[str, tuple[str, ...]]
    untouched: tuple[str, ...]
    scratch: Settings | None = None
    padding: int = 4
    uncut: tuple[str, ...] = ()


_TWO = {
    "irregular": ("0.8", "0.9"),
    "bank": ("0.75", "0.875"),
    "m:n": ("2:4", "1:4"),
    "pattern": ("0.4445", "0.7"),
    "stripe": ("0.5", "0.7"),
    "filter": ("0.3", "0.5"),
}
_ONE = {
    "irregular": ("0.9",),
    "bank": ("0.875",),
    "m:n": ("1:4",),
    "pattern": ("0.7",),
    "stripe": ("0.6",),
    "filter": ("0.5",),
}

SUBJECTS: Mapping[str, Subject] = {
    "resnet20": Subject(
        *("ResNet-20 on CIFAR-10", lambda folder: pretrained.cifar_resnet(folder, 20), "cifar10", "imagenet"),
        settings=Settings(epochs=5, batch_size=128, lr=0.02, milestones=(3, 4)),
        ratios=_TWO,
        untouched=("conv1.weight", "linear.weight"),
        uncut=("conv1", *(f"layer{stage}.{block}.conv2" for stage in (1, 2, 3) for block in range(3))),
    ),
    "vgg16": Subject(
        *("VGG16 on CIFAR-10", pretrained.vgg16, "cifar10", "none"),
        settings=Settings(epochs=1, batch_size=128, lr=0.005, milestones=(), wd=5e-5),
        ratios=_ONE,
        untouched=("features.0.weight", "classifier.5.weight"),
    ),
    "fashion": Subject(
        *("A small network on Fashion-MNIST", lambda _: pytorch.from_ir(ir.zoo.build("mnist_cnn"))),
        *("fashion-mnist", "fashion-mnist"),
        settings=Settings(epochs=5, batch_size=128, lr=0.02, milestones=(3, 4)),
        ratios=_TWO,
        untouched=("conv1.weight", "fc.weight"),
        scratch=Settings(epochs=10, batch_size=128, lr=0.1, milestones=(6, 9)),
        padding=2,
    ),
}


def cells(subject: str) -> list[str]:
    """Return the names of a network's cells: NETWORK/TYPE/RATIO; first the dense one, last those of rivals."""
    ratios = SUBJECTS[subject].ratios
    own = [f"{subject}/{kind}/{ratio}" for kind in TYPES for ratio in ratios.get(kind, ())]
    alike = {rival: "irregular" if rival == "torch-unstructured" else "filter" for rival in RIVALS}
    rivals = [f"{subject}/{rival}/{ratios[kind][-1]}" for rival, kind in alike.items()]
    if SUBJECTS[subject].uncut:  # what Torch-Pruning is to be compared with there
        own.append(f"{subject}/{INSIDE}/{ratios['filter'][-1]}")
    return [f"{subject}/{DENSE}/0", *own, *rivals]


DENSE_CELLS = tuple(f"{subject}/{DENSE}/0" for subject in SUBJECTS)
TIME_CELLS = tuple(f"{subject}/{TIME}/0" for subject in SUBJECTS)
CELLS = (
    *DENSE_CELLS,  # first: what is trained from scratch is what the others start from
    *(cell for subject in SUBJECTS for cell in cells(subject) if cell not in DENSE_CELLS),
    *TIME_CELLS,  # last: of the networks that the others have kept
)
