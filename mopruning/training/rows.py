"""Rows: what each epoch of training a network, dense or while it is pruned, came to."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

from mopruning.plots import BLUE, GREEN, GREY, ORANGE
from mopruning.training import history


@dataclass(frozen=True)
class Row:
    """One epoch.

    Args:
        epoch: Epochs completed.
        lr: Learning rate.
        loss: Mean cross-entropy over the images that were trained on.
        train_accuracy: Share of right answers while training.
        accuracy: Share of right answers on the test images, after the epoch.
        sparsity: Share of zeros by the published accounting, after the epoch.
        final: 1 where the network may be kept as it is: masks have been applied, or nothing is pruned; else 0.
        seconds: How long training and evaluation took.
    """

    epoch: int
    lr: float
    loss: float
    train_accuracy: float
    accuracy: float
    sparsity: float
    final: int
    seconds: float

    def __str__(self) -> str:
        """Say the row in one line."""
        zeros = f"sparsity {self.sparsity:.2%}" + ("" if self.final else ", weights regrowing")
        trained = f"lr {self.lr:g}  loss {self.loss:.4f}  train {self.train_accuracy:.2%}"
        return f"{trained}  test {self.accuracy:.2%}  {zeros}  {self.seconds:.0f} s"


class History(history.History[Row]):
    """The epochs of a training so far: loss, accuracy and sparsity.

    >>> rows = [Row(1, 0.1, 2.0, 0.3, 0.5, 0.0, 0, 9.0), Row(2, 0.1, 1.0, 0.6, 0.4, 0.5, 1, 9.0)]
    >>> history = History(rows)
    >>> print(history.text().splitlines()[2])
    2,0.1,1.0,0.6,0.4,0.5,1,9.0
    >>> History.of_text(history.text(), "log.csv").rows == rows, history.best.epoch
    (True, 2)
    """

    kind = Row
    panels = MappingProxyType(
        {
            "loss": {"train": (BLUE, lambda row: row.loss)},
            "accuracy (%)": {
                "train": (GREY, lambda row: 100 * row.train_accuracy),
                "test": (GREEN, lambda row: 100 * row.accuracy),
            },
            "sparsity (%)": {"all weights": (ORANGE, lambda row: 100 * row.sparsity)},
        }
    )

    @property
    def best(self) -> Row | None:
        """The first of the epochs with the highest accuracy, among those after which the network may be kept."""
        return max((row for row in self.rows if row.final), key=lambda row: row.accuracy, default=None)
