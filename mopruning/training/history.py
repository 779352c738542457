"""History: what each epoch of a training came to, as a CSV file and as a picture."""

from __future__ import annotations

import csv
import dataclasses
import io
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

from mopruning.errors import FormatError
from mopruning.plots import GREY, INK, PALE, calm, new_figure, save
from mopruning.training.checkpoints import write_whole

if TYPE_CHECKING:
    from typing import TypeAlias

    from matplotlib.figure import Figure

    # Label of a panel -> name of a curve -> its colour, and what it shows of a row.
    Panels: TypeAlias = Mapping[str, Mapping[str, tuple[str, Callable[[Any], float]]]]


class AnyRow(Protocol):
    """One epoch: a frozen dataclass of numbers, whose `str` says it in one line."""

    @property
    def epoch(self) -> int:
        """Epochs completed."""

    @property
    def accuracy(self) -> float:
        """Share of right answers on the test images."""


R = TypeVar("R", bound=AnyRow)


class History(Generic[R]):
    """The epochs of a training so far; each kind of training has its own class of rows, and draws them its own way.

    Args:
        rows: One each, in order.

    Attributes:
        rows: The same.
    """

    kind: ClassVar[type[Any]]
    panels: ClassVar[Panels]

    def __init__(self, rows: Iterable[R] = ()) -> None:
        self.rows: list[R] = list(rows)

    @classmethod
    def read(cls, path: str | os.PathLike[str], epochs: int) -> History[R]:
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
    def of_text(cls, text: str, where: str) -> History[R]:
        """Read what `text` returns; `where` is what errors call it.

        Raises:
            FormatError: If it is something else.
        """
        reader = csv.DictReader(io.StringIO(text))
        types = cls._types()
        try:
            if list(reader.fieldnames or ()) != list(types):
                raise ValueError(f"columns {reader.fieldnames}")
            return cls(cls.kind(**{name: one(row[name]) for name, one in types.items()}) for row in reader)
        except (TypeError, ValueError) as error:
            raise FormatError(f"{where}: expected a log with columns {', '.join(types)}: {error}") from error

    @classmethod
    def _types(cls) -> dict[str, Callable[[Any], Any]]:
        fields = dataclasses.fields(cls.kind)
        return {field.name: int if field.type in (int, "int") else float for field in fields}

    def text(self) -> str:
        """Return the rows as CSV, exact."""
        stream = io.StringIO()
        writer = csv.DictWriter(stream, list(self._types()), lineterminator="\n")
        writer.writeheader()
        writer.writerows(vars(row) for row in self.rows)
        return stream.getvalue()

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the rows as a CSV file, whole or not at all."""
        write_whole(path, lambda stream: stream.write(self.text().encode()))

    def figure(self, title: str = "") -> Figure:
        """Draw the epochs, one panel above the other.

        Raises:
            ImportError: If matplotlib is not installed.
        """
        figure = new_figure(9.0, 6.6)
        epochs = [row.epoch for row in self.rows]
        panels = list(figure.subplots(len(self.panels), 1, sharex=True))
        for axes, (label, curves) in zip(panels, self.panels.items(), strict=True):
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
