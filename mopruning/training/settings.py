"""Settings: the numbers of training a network, with the published defaults."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mopruning.errors import RecipeError

GAMMA = 0.1
"""What the learning rate is multiplied by at each milestone."""


@dataclass(frozen=True)
class Settings:
    """The numbers of one training with stochastic gradient descent.

    Args:
        epochs: Passes over the training images.
        batch_size: Images of an update, on all devices together.
        lr: Learning rate of the first epoch.
        milestones: Epochs, from 0, before which it falls to a tenth.
        wd: Weight decay.
        momentum: Of the optimizer.
        seed: Draws initial weights, order and augmentation of the images, and what is dropped out.

    Raises:
        RecipeError: If a number is out of range.

    >>> [round(Settings(milestones=(2, 3)).learning_rate(epoch), 5) for epoch in range(4)]
    [0.1, 0.1, 0.01, 0.001]
    """

    epochs: int = 200
    batch_size: int = 256
    lr: float = 0.1
    milestones: tuple[int, ...] = (120, 150, 180)
    wd: float = 1e-4
    momentum: float = 0.9
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("epochs", 0), ("batch_size", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise RecipeError(f"{name} must be a whole number from {least}, got {getattr(self, name)!r}")
        for name in ("lr", "wd", "momentum"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0.0):
                raise RecipeError(f"{name} must be a finite number from 0, got {value!r}")
        if any(epoch < 0 for epoch in self.milestones):
            raise RecipeError(f"lr_decay_milestones must be epochs from 0, got {self.milestones}")

    def learning_rate(self, epoch: int) -> float:
        """Return the rate of an epoch, counted from 0."""
        return self.lr * GAMMA ** sum(milestone <= epoch for milestone in self.milestones)

    def draw(self, epoch: int, rank: int = 0) -> int:
        """Return the seed of what a process draws in an epoch, so that a resumed training draws it again."""
        return (self.seed * 1_000_003 + epoch * 4_099 + rank) % (1 << 63)
