"""Soft pruning: when masks are computed anew, and from when on they are frozen."""

from __future__ import annotations

from dataclasses import dataclass

from mopruning.errors import RecipeError


@dataclass(frozen=True)
class SoftPruning:
    """The rules of time of the published data-parallel program, epochs counted from 0.

    Masks are made and applied before the first epoch. In the soft phase, the first `retrain_epoch` epochs, weights
    grow back freely; after the epochs 0, `prune_freq`, 2 `prune_freq`, ..., and after the last of the phase, masks are
    made anew and applied. From then on they are frozen: what is zero stays zero. The last epoch of a training ends
    with masks applied, whatever the phase.

    Args:
        epochs: Of the whole training.
        retrain_epoch: Epochs of the soft phase.
        prune_freq: Epochs from one mask update to the next.

    Raises:
        RecipeError: If a number is out of range.

    Source: the published program, and He et al., "Soft filter pruning for accelerating deep convolutional neural
    networks", 2018.

    >>> soft = SoftPruning(epochs=6, retrain_epoch=4, prune_freq=2)
    >>> [soft.updates(epoch) for epoch in range(6)]
    [True, False, True, True, False, False]
    >>> [soft.frozen(epoch) for epoch in range(6)], [soft.sparse(epoch) for epoch in range(6)]
    ([False, False, False, False, True, True], [True, False, True, True, True, True])
    """

    epochs: int
    retrain_epoch: int = 1
    prune_freq: int = 1

    def __post_init__(self) -> None:
        for name, least in (("epochs", 0), ("retrain_epoch", 0), ("prune_freq", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise RecipeError(f"{name} must be a whole number from {least}, got {value!r}")

    def updates(self, epoch: int) -> bool:
        """Whether masks are made anew at the end of an epoch."""
        soft = min(self.retrain_epoch, self.epochs)
        return epoch < soft and (epoch % self.prune_freq == 0 or epoch + 1 == soft)

    def frozen(self, epoch: int) -> bool:
        """Whether masks hold while an epoch trains."""
        return epoch >= self.retrain_epoch

    def sparse(self, epoch: int) -> bool:
        """Whether the network is sparse after an epoch; after -1, which is the start, it is."""
        return epoch < 0 or self.frozen(epoch) or self.updates(epoch)
