"""Loss: the one check that tells a training that has diverged."""

from __future__ import annotations

import math

from mopruning.errors import WeightError


def check_loss(epoch: int, loss: float) -> None:
    """Raise WeightError where the loss of an epoch, counted from 0, is not finite: the training has diverged.

    >>> check_loss(2, float("nan"))
    Traceback (most recent call last):
    mopruning.errors.WeightError: epoch 3: the loss is nan; try a lower learning rate
    """
    if not math.isfinite(loss):
        raise WeightError(f"epoch {epoch + 1}: the loss is {loss}; try a lower learning rate")
