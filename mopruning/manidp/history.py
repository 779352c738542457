"""History: what each epoch of a ManiDP training came to, as a CSV file and as a picture."""

from __future__ import annotations

import csv
import dataclasses
import io
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from mopruning.errors import FormatError
from mopruning.manidp.evaluation import Evaluation
from mopruning.plots import BLUE, GREEN, GREY, INK, ORANGE, PALE, calm, new_figure, save

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
_TYPES: dict[str, Callable[[str], Any]] = {
    field.name: int if field.name == "epoch" else float for field in dataclasses.fields(Row)
}


class History:
    """The epochs of a training so far.

    Args:
        rows: One each, in order.

    Attributes:
        rows: The same.

    >>> history = History([Row(1, 0.1, 0.5, 2.0, 1.5, 0.1, 0.1, 0.4, 0.5, 4e7, 0.02, 60.0)])
    >>> print(history.text().splitlines()[1])
    1,0.1,0.5,2.0,1.5,0.1,0.1,0.4,0.5,40000000.0,0.02,60.0
    >>> History.of_text(history.text(), "log.csv").rows == history.rows
    True
    """

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        self.rows = list(rows)

    @classmethod
    def read(cls, path: str | os.PathLike[str], epochs: int) -> History:
        """Read the first `epochs` epochs of a file that `write` wrote.

        Raises:
            FormatError: If the file is none, or has fewer.
            OSError: If it cannot be read.
        """
        where = os.fspath(path)
        found = cls.of_text(Path(path).read_text(encoding="utf-8"), where)
        if [row.epoch for row in found.rows[:epochs]] != list(range(1, epochs + 1)):
            raise FormatError(f"{where}: expected epochs 1 to {epochs}, as many as the saved training has completed")
        return cls(found.rows[:epochs])

    @classmethod
    def of_text(cls, text: str, where: str) -> History:
        """Read what `text` returns; `where` is what errors call it.

        Raises:
            FormatError: If it is something else.
        """
        reader = csv.DictReader(io.StringIO(text))
        try:
            if list(reader.fieldnames or ()) != list(_TYPES):
                raise ValueError(f"columns {reader.fieldnames}")
            return cls(Row(**{name: kind(row[name]) for name, kind in _TYPES.items()}) for row in reader)
        except (TypeError, ValueError) as error:
            raise FormatError(f"{where}: expected a log with columns {', '.join(_TYPES)}: {error}") from error

    def text(self) -> str:
        """Return the rows as CSV, exact."""
        stream = io.StringIO()
        writer = csv.DictWriter(stream, list(_TYPES), lineterminator="\n")
        writer.writeheader()
        writer.writerows(dataclasses.asdict(row) for row in self.rows)
        return stream.getvalue()

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the rows as a CSV file, whole or not at all."""
        _whole(path, lambda stream: stream.write(self.text().encode()))

    def figure(self, title: str = "") -> Figure:
        """Draw loss, accuracy and remaining multiply-accumulates by epoch.

        Raises:
            ImportError: If matplotlib is not installed.
        """
        figure = new_figure(9.0, 6.6)
        epochs = [row.epoch for row in self.rows]
        panels = list(figure.subplots(len(_PANELS), 1, sharex=True))
        for axes, (label, curves) in zip(panels, _PANELS.items(), strict=True):
            for name, (colour, value) in curves.items():
                values = [value(row) for row in self.rows]
                marker = "o" if len(values) == 1 else None  # one point makes no line
                axes.plot(epochs, values, color=colour, linewidth=1.6, label=name, marker=marker)
            axes.set_ylabel(label, fontsize=9, color=INK)
            axes.grid(axis="y", color=PALE, linewidth=0.8)
            if len(curves) > 1:
                axes.legend(fontsize=8, frameon=False)
            calm(axes)
        panels[-1].set_xlabel("epoch", fontsize=9, color=GREY)
        panels[-1].locator_params(axis="x", integer=True)
        figure.align_ylabels(panels)
        if title:
            panels[0].set_title(title, fontsize=10, color=INK, loc="left")
        return figure

    def plot(self, path: str | os.PathLike[str], title: str = "") -> None:
        """Draw `figure` into an image file.

        Raises:
            FormatError: If the suffix is none of .png, .svg and .pdf.
            ImportError: If matplotlib is not installed.
        """
        save(self.figure(title), path)


def write_evaluation(evaluation: Evaluation, path: str | os.PathLike[str]) -> None:
    """Write answers and kept channels for each image as an .npz file, whole or not at all."""
    names = ("predictions", "labels", "cross_entropy", "kept")
    arrays = {name: getattr(evaluation, name) for name in names} | {"macs": evaluation.macs}
    _whole(path, lambda stream: np.savez_compressed(stream, **arrays))


def _whole(path: str | os.PathLike[str], write: Callable[[BinaryIO], object]) -> None:
    temporary = Path(f"{os.fspath(path)}.part")
    with temporary.open("wb") as stream:
        write(stream)
    temporary.replace(path)
