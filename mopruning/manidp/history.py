"""History: what each epoch of a ManiDP training came to, as a CSV file and as a picture."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mopruning.manidp.evaluation import Evaluation
from mopruning.plots import BLUE, GREEN, GREY, ORANGE
from mopruning.training import history
from mopruning.training.checkpoints import write_whole


@dataclass(frozen=True)
class Row:
    """One epoch.

    Args:
        epoch: Epochs completed.
        lr: Learning rate of its last update.
        limit: Cross-entropy from which on an image counted as hard.
        loss: Mean of what was minimised.
        cross_entropy: Mean over the images that were trained on.
        lasso: Mean of the penalty.
        graph: Mean of the distance between similarities.
        train_accuracy: Share of right answers while training.
        accuracy: Share of right answers on the test images, with the thresholds that hold after the epoch.
        mean_macs: Mean multiply-accumulates of a test image.
        reduction: Share of multiply-accumulates that is saved.
        seconds: How long training and evaluation took.
    """

    epoch: int
    lr: float
    limit: float
    loss: float
    cross_entropy: float
    lasso: float
    graph: float
    train_accuracy: float
    accuracy: float
    mean_macs: float
    reduction: float
    seconds: float

    def __str__(self) -> str:
        """Say the row in one line."""
        trained = f"loss {self.loss:.4f}  cross-entropy {self.cross_entropy:.4f}  train {self.train_accuracy:.2%}"
        cost = f"MACs {self.mean_macs / 1e6:.2f} M ({-self.reduction:+.1%})"
        return f"{trained}  test {self.accuracy:.2%}  {cost}  {self.seconds:.0f} s"


_PANELS: dict[str, dict[str, tuple[str, Callable[[Row], float]]]] = {
    "loss": {"total": (GREY, lambda row: row.loss), "cross-entropy": (BLUE, lambda row: row.cross_entropy)},
    "accuracy (%)": {
        "train": (GREY, lambda row: 100 * row.train_accuracy),
        "test": (GREEN, lambda row: 100 * row.accuracy),
    },
    "MACs left (%)": {"test": (ORANGE, lambda row: 100 * (1 - row.reduction))},
}


class History(history.History[Row]):
    """The epochs of a ManiDP training so far: loss, accuracy and remaining multiply-accumulates.

    >>> history = History([Row(1, 0.1, 0.5, 2.0, 1.5, 0.1, 0.1, 0.4, 0.5, 4e7, 0.02, 60.0)])
    >>> print(history.text().splitlines()[1])
    1,0.1,0.5,2.0,1.5,0.1,0.1,0.4,0.5,40000000.0,0.02,60.0
    >>> History.of_text(history.text(), "log.csv").rows == history.rows
    True
    """

    kind = Row
    panels = _PANELS


def write_evaluation(evaluation: Evaluation, path: str | os.PathLike[str]) -> None:
    """Write answers and kept channels for each image as an .npz file, whole or not at all."""
    names = ("predictions", "labels", "cross_entropy", "kept")
    arrays = {name: getattr(evaluation, name) for name in names} | {"macs": evaluation.macs}
    write_whole(path, lambda stream: np.savez_compressed(stream, **arrays))
