"""Controller: holds the rules of time of a ManiDP training, for any framework."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from mopruning.errors import StateError
from mopruning.manidp.gates import threshold
from mopruning.manidp.schedule import learning_rate, remain_rate
from mopruning.manidp.settings import Settings
from mopruning.training.loss import check_loss

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"


class Controller:
    """Says which learning rate, limit and thresholds hold when; adapters train, and carry the answers out.

    Args:
        settings: The numbers.
        updates: Optimizer updates of an epoch.

    Attributes:
        settings: The numbers.
        epoch: Epochs completed.
        limit: Cross-entropy from which on an image counts as hard in this epoch.

    >>> control = Controller(Settings(epochs=2, target_remain_rate=0.5), updates=10)
    >>> control.start(mean_cross_entropy=0.2)
    >>> control.limit, control.end_epoch([np.array([1.0, 3.0])], images=1, mean_cross_entropy=0.1)
    (0.1, None)
    >>> control.end_epoch([np.array([1.0, 3.0])], images=2, mean_cross_entropy=0.1), control.epoch
    ([1.5], 2)
    """

    def __init__(self, settings: Settings, updates: int) -> None:
        self.settings = settings
        self.epoch = 0
        self.limit = 0.0
        self._updates = updates

    def start(self, mean_cross_entropy: float) -> None:
        """Set the first limit, from the mean over the training images by the dense network, in evaluation mode."""
        self.limit = self.settings.thre_cls * mean_cross_entropy

    def learning_rate(self, update: int) -> float:
        """Return the rate of an update of this epoch, counted from 0."""
        total = self.settings.epochs * self._updates
        return learning_rate(self.epoch * self._updates + update, total, self.settings.lr)

    def end_epoch(
        self, saliency_sums: Sequence[NumPyArray], images: int, mean_cross_entropy: float
    ) -> list[float] | None:
        """Complete an epoch: set the next limit, and say which thresholds hold from now on.

        They change after every `thre_freq`-th epoch but the first.

        Args:
            saliency_sums: Of each gate, over all images that were trained on in this epoch [channels].
            images: How many these were.
            mean_cross_entropy: Of these images.

        Returns:
            A threshold for each gate; None if they stay.

        Raises:
            WeightError: If the mean or a sum is not finite: the training has diverged.
        """
        check_loss(self.epoch, mean_cross_entropy)
        settings, epoch = self.settings, self.epoch
        changed = None
        if epoch >= 1 and epoch % settings.thre_freq == 0:
            length = max(1, round(settings.remain_ramp * settings.epochs))
            rate = remain_rate(min(epoch, length - 1), length, settings.target_remain_rate)
            changed = [threshold(np.asarray(one, np.float64) / images, rate) for one in saliency_sums]
        self.limit = settings.thre_cls * mean_cross_entropy
        self.epoch += 1
        return changed

    def state_dict(self) -> dict[str, float]:
        """Return what a resumed training needs; thresholds are the network's own."""
        return {"epoch": self.epoch, "limit": self.limit}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken.

        Raises:
            StateError: If an entry is missing or not finite, or the training was longer than this one is to be.
        """
        try:
            epoch, limit = int(state["epoch"]), float(state["limit"])
        except (KeyError, TypeError, ValueError):
            raise StateError("state of a ManiDP training: expected numbers 'epoch' and 'limit'") from None
        if not math.isfinite(limit):
            raise StateError(f"state of a ManiDP training: 'limit' is {limit}: the training had diverged")
        if not 0 <= epoch <= self.settings.epochs:
            raise StateError(
                f"the saved training has completed {epoch} epochs, this one is to have {self.settings.epochs}"
            )
        self.epoch, self.limit = epoch, limit
