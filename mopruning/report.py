"""The sparsity report: exact zeros over size, of each parameter and in total."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mopruning.arrays import Array, namespace, plain

if TYPE_CHECKING:
    from rich.table import Table

_COLUMNS = ("parameter", "shape", "zeros", "size", "sparsity")


@dataclass(frozen=True)
class SparsityRow:
    """One parameter of a report.

    Args:
        name: The parameter's name.
        shape: Its shape, as it was handed over.
        zeros: How many of its elements are exactly zero (-0.0 counts).
        size: How many elements it has.
    """

    name: str
    shape: tuple[int, ...]
    zeros: int
    size: int

    @property
    def sparsity(self) -> float:
        """Return zeros / size, 0 for a parameter without elements."""
        return _share(self.zeros, self.size)


@dataclass(frozen=True)
class SparsityReport:
    """How sparse a network is: one row a parameter, and the total over all of them.

    Args:
        rows: The parameters in their network's order.
    """

    rows: tuple[SparsityRow, ...]

    @property
    def zeros(self) -> int:
        """Return the exact zeros of all parameters together."""
        return sum(row.zeros for row in self.rows)

    @property
    def size(self) -> int:
        """Return the number of elements of all parameters together."""
        return sum(row.size for row in self.rows)

    @property
    def sparsity(self) -> float:
        """Return the total sparsity: all zeros / all elements, not a mean of the parameters' sparsities."""
        return _share(self.zeros, self.size)

    @property
    def per_parameter(self) -> dict[str, float]:
        """Return each parameter's sparsity by name."""
        return {row.name: row.sparsity for row in self.rows}

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain numbers, lists and dictionaries."""
        return {
            "total": {"zeros": self.zeros, "size": self.size, "sparsity": self.sparsity},
            "parameters": {
                row.name: {"shape": list(row.shape), "zeros": row.zeros, "size": row.size, "sparsity": row.sparsity}
                for row in self.rows
            },
        }

    def to_json(self) -> str:
        """Return `to_dict` as JSON text."""
        return json.dumps(self.to_dict(), indent=2)

    def table(self) -> Table:
        """Return the report as a rich table, for a terminal or a notebook."""
        from rich.table import Table
        from rich.text import Text

        table = Table(show_footer=True)
        for column, footer in zip(_COLUMNS, self._total(), strict=True):
            left = column in _COLUMNS[:2]
            table.add_column(column, footer, justify="left" if left else "right", overflow="fold", no_wrap=not left)
        for row in self.rows:
            table.add_row(*(Text(cell) for cell in _cells(row)))  # a name with brackets is no markup
        return table

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Write a bar chart of the parameters' sparsities to an image file.

        Args:
            path: Where to; the suffix (.png, .svg or .pdf) says the format.

        Raises:
            ImportError: If matplotlib is not installed.
            FormatError: If the suffix is none of these.
        """
        from mopruning import plots

        plots.save(plots.sparsity_bars(self), path)

    def __str__(self) -> str:
        lines = [_COLUMNS, *(_cells(row) for row in self.rows), self._total()]
        widths = [max(len(line[i]) for line in lines) for i in range(len(_COLUMNS))]
        return "\n".join(
            "  ".join(
                cell.ljust(w) if i < 2 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))
            )
            for line in lines
        )

    def _total(self) -> tuple[str, ...]:
        return ("total", "", f"{self.zeros:,}", f"{self.size:,}", f"{self.sparsity:.4f}")


def sparsity(weights: Any) -> SparsityReport:
    """Count the exact zeros of every parameter, on the device where it lies.

    Args:
        weights: Mapping from name to array (of NumPy, torch or another array library), or an object with
            `named_parameters()`, such as a torch module.

    Returns:
        The report; print it, or ask it for `table()`, `to_dict()`, `to_json()` or `plot(path)`.

    Raises:
        TypeError: If `weights` is neither, or a value is no array.

    >>> report = sparsity({"fc.weight": np.array([[0.0, 2.0], [0.0, -0.0]]), "fc.bias": np.ones(2)})
    >>> report.sparsity, report.per_parameter
    (0.5, {'fc.weight': 0.75, 'fc.bias': 0.0})
    >>> print(report)
    parameter  shape  zeros  size  sparsity
    fc.weight  2x2        3     4    0.7500
    fc.bias    2          0     2    0.0000
    total                 3     6    0.5000
    """
    if isinstance(weights, Mapping):
        named = weights.items()
    elif hasattr(weights, "named_parameters"):
        named = weights.named_parameters()
    else:
        raise TypeError(
            "sparsity: expected a mapping from name to array, or an object with named_parameters(), "
            f"got {type(weights).__name__}"
        )
    return SparsityReport(tuple(_row(str(name), plain(array)) for name, array in named))


def _row(name: str, array: Array) -> SparsityRow:
    xp = namespace(array)
    shape = tuple(int(extent) for extent in array.shape)
    size = math.prod(shape)
    if isinstance(array, np.ndarray):
        return SparsityRow(name, shape, size - int(np.count_nonzero(array)), size)
    return SparsityRow(name, shape, int(xp.sum(xp.astype(array == 0, xp.int64))) if size else 0, size)


def _share(zeros: int, size: int) -> float:
    return zeros / size if size else 0.0


def _cells(row: SparsityRow) -> tuple[str, ...]:
    shape = "x".join(map(str, row.shape)) or "scalar"
    return (row.name, shape, f"{row.zeros:,}", f"{row.size:,}", f"{row.sparsity:.4f}")
