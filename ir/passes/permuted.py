"""What permuting the channels of a network gained: the network, and a table of the magnitude that N:M pruning keeps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import onnx_ir

from mopruning.ir.table import aligned
from mopruning.permutation import Permutation

if TYPE_CHECKING:
    from rich.table import Table

_COLUMNS = ("weight", "shape", "before", "after", "at best", "efficacy", "order of its input channels")


@dataclass(frozen=True)
class PermutedGroup:
    """A group of channels, and what became of it.

    Args:
        name: Name of the first parameter that produces the channels.
        channels: How many there are.
        weights: Names of the weights that were searched on.
        found: The order found; None where the channels were left.
        reason: Why they were left; "" if they moved.
    """

    name: str
    channels: int
    weights: tuple[str, ...]
    found: Permutation | None
    reason: str = ""


@dataclass(frozen=True)
class PermutedLayer:
    """A weight that can be pruned N:M, and the magnitude that this keeps.

    Args:
        name: The weight's name.
        shape: Its canonical shape.
        before: Magnitude kept with the channels as they were.
        after: Magnitude kept now.
        best: What no order could surpass.
        total: All its magnitude.
        reason: Why its input channels stand as they did; "" if they moved.
    """

    name: str
    shape: tuple[int, ...]
    before: float
    after: float
    best: float
    total: float
    reason: str = ""

    def texts(self) -> tuple[str, ...]:
        """Return the layer as text, one for each column of the table."""
        shape = "x".join(map(str, self.shape))
        return self.name, shape, *shares(self.before, self.after, self.best, self.total), self.reason or "searched"


@dataclass(frozen=True)
class Permuted:
    """A network with its channels in another order, which computes the same.

    Args:
        model: The network.
        groups: Every group of channels, and what became of it.
        layers: Every weight that can be pruned N:M, in the order of use.
    """

    model: onnx_ir.Model = field(repr=False)
    groups: tuple[PermutedGroup, ...]
    layers: tuple[PermutedLayer, ...]

    @property
    def moved(self) -> int:
        """How many groups of channels changed places."""
        return sum(group.found is not None for group in self.groups)

    def total(self) -> tuple[float, float, float, float]:
        """Return before, after, best and total of all layers together."""
        columns = zip(*((row.before, row.after, row.best, row.total) for row in self.layers), strict=True)
        before, after, best, total = (float(sum(column)) for column in columns) if self.layers else (0.0,) * 4
        return before, after, best, total

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain numbers, lists and dictionaries."""
        names = ("before", "after", "best", "total")
        return {
            "total": dict(zip(names, self.total(), strict=True)),
            "layers": {
                row.name: {"shape": list(row.shape), **{name: getattr(row, name) for name in names}}
                | {"reason": row.reason}
                for row in self.layers
            },
            "left": {group.name: group.reason for group in self.groups if group.found is None},
        }

    def table(self) -> Table:
        """Return the report as a rich table, for a terminal or a notebook."""
        from rich.table import Table
        from rich.text import Text

        table = Table(show_footer=True)
        for index, (column, footer) in enumerate(zip(_COLUMNS, self._footer(), strict=True)):
            table.add_column(column, footer, justify="right" if 2 <= index <= 5 else "left", overflow="fold")
        for row in self.layers:
            table.add_row(*(Text(text) for text in row.texts()))
        return table

    def __str__(self) -> str:
        return aligned([_COLUMNS, *(row.texts() for row in self.layers), self._footer()], right=(2, 3, 4, 5))

    def _footer(self) -> tuple[str, ...]:
        return "total", "", *shares(*self.total()), f"{self.moved} of {len(self.groups)} groups moved"


def shares(before: float, after: float, best: float, total: float) -> tuple[str, str, str, str]:
    """Return magnitudes as shares of all there is, and the share of the avoidable loss that is avoided."""
    gain = (after - before) / (best - before) if best > before else 0.0
    first, second, third = (f"{one / total:.2%}" if total else "-" for one in (before, after, best))
    return first, second, third, f"{gain:.1%}"
