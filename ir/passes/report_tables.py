"""A network's report as tables: the layers, which runtimes use their zeros, and what the runtimes give."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, NamedTuple

from mopruning.conformity import Conformity
from mopruning.ir.passes.report import ENCODINGS, LayerRow, NetworkReport
from mopruning.ir.table import aligned
from mopruning.runtimes import RUNTIMES

if TYPE_CHECKING:
    from rich.table import Table


class Cells(NamedTuple):
    """A table as text.

    Args:
        title: What it shows.
        head: Names of its columns.
        rows: Its rows, one text a column.
        total: Its last row, () if it has none.
        right: Indices of the columns of numbers.
    """

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    total: tuple[str, ...]
    right: Collection[int]

    def table(self) -> Table:
        """Return it as a rich table, without its title."""
        from rich.table import Table
        from rich.text import Text

        table = Table(show_footer=bool(self.total))
        for index, column in enumerate(self.head):
            footer = self.total[index] if self.total else ""
            table.add_column(column, footer, justify="right" if index in self.right else "left", overflow="fold")
        for row in self.rows:
            table.add_row(*(Text(cell) for cell in row))  # a name with brackets is no markup
        return table

    def __str__(self) -> str:
        return aligned([self.head, *self.rows, *((self.total,) if self.total else ())], right=self.right)


def layers(found: NetworkReport) -> Cells:
    """Show for every weight its sparsity, patterns, products and bytes; without products where they are not known."""
    known = found.cost is not None
    head = ("layer", "shape", "sparsity", "patterns", *(("MACs", "effective") if known else ()), *ENCODINGS)
    rows = []
    for row in found.rows:
        shape = "x".join(map(str, row.counted.shape)) or "scalar"
        macs = (_count(row.macs), _count(row.effective_macs)) if known else ()
        sizes = (_count(row.bytes[name]) for name in ENCODINGS)
        rows.append((row.counted.name, shape, f"{row.counted.sparsity:.4f}", patterns(row.conformity), *macs, *sizes))
    macs = (_count(found.macs), _count(found.effective_macs)) if known else ()
    sizes = (_count(found.bytes(name)) for name in ENCODINGS)
    total = ("total", "", f"{found.counted.sparsity:.4f}", "", *macs, *sizes)
    return Cells("layers, bytes in each encoding", head, tuple(rows), total, (2, *range(4, len(head))))


def gains(found: NetworkReport) -> Cells:
    """Show for every weight which runtimes use its zeros today, or what is in the way of the others first."""
    shown = [runtime for runtime in RUNTIMES if not runtime.never]
    rows = tuple((row.counted.name, *(next(iter(row.reasons[one.key]), "yes") for one in shown)) for row in found.rows)
    total = ("total", *(f"{len(found.gains(one.key))} of {len(found.rows)}" for one in shown))
    return Cells("who uses these zeros today", ("layer", *(one.key for one in shown)), rows, total, ())


def offers(found: NetworkReport) -> Cells:
    """Show for every runtime in how many layers it uses zeros, what share of the work that is, and what it gives."""
    known = found.cost is not None
    head = ("runtime", "what it is", "runs on", "layers", "of the MACs" if known else "of the weights", "gives")
    rows = []
    for one in RUNTIMES:
        using = found.gains(one.key)
        gain = one.never or one.gain
        rows.append((one.key, one.name, one.hardware, str(len(using)), f"{share(found, using):.4f}", gain))
    return Cells("what runtimes give", head, tuple(rows), (), (3, 4))


def share(found: NetworkReport, rows: Sequence[LayerRow]) -> float:
    """Return how much of all multiply-accumulates, or of all weights where those are not known, some rows make up."""
    if found.macs is not None:
        return sum(row.macs or 0 for row in rows) / max(1, found.macs)
    return sum(row.counted.size for row in rows) / max(1, found.counted.size)


def summary(found: NetworkReport, name: str, size: int) -> list[str]:
    """Return what there is to say of the whole, a line each.

    Args:
        found: The report.
        name: Name of the file.
        size: Its bytes.
    """
    counted, dense, smallest = found.counted, found.bytes("dense"), found.bytes("smallest")
    lines = [
        f"weights: {counted.size:,}, zero {counted.zeros:,} ({counted.sparsity:.4f}); with biases and the like "
        f"{found.parameters:,}, non-zero {found.nonzeros:,}",
        f"bytes: {smallest:,} in the smallest encoding of each weight; as dense numbers {dense:,}, "
        f"{dense / max(1, smallest):.1f} times as much; {name} has {size:,}",
    ]
    if found.macs is None or found.cost is None:
        return [*lines, f"MACs: not known: {found.without_cost}"]
    effective = found.effective_macs or 0
    left = effective / max(1, found.macs)
    lines.append(f"MACs: {found.macs:,}, effective {effective:,} ({left:.4f}) {found.of_what}")
    return [*lines, shrunk(found)] if found.shrunk is not None else lines


def shrunk(found: NetworkReport) -> str:
    """Say what a network with zero filters or channels comes to without them."""
    assert found.cost is not None
    assert found.shrunk is not None
    before, after = found.cost, found.shrunk
    if after.parameters == before.parameters:
        return "shrink: nothing can be cut out; `mopruning shrink` says why"
    parts = ((after.parameters, before.parameters, "parameters"), (after.macs, before.macs, "MACs"))
    return "shrink: " + ", ".join(f"{now:,} {what} ({now / max(1, was):.4f})" for now, was, what in parts) + " are left"


def patterns(found: Conformity) -> str:
    """Name the patterns of a weight, and how many of its filters and channels are zero throughout.

    >>> import numpy as np
    >>> from mopruning.conformity import conformity
    >>> weight = np.ones((8, 3)); weight[:2] = 0.0
    >>> patterns(conformity(weight))
    '2 of 8 filters'
    """
    units = (("filters", found.zero_filters), ("channels", found.zero_channels))
    return ", ".join([*found.patterns(), *(f"{zero} of {of} {what}" for what, (zero, of) in units if zero)]) or "-"


def _count(number: int | None) -> str:
    return "-" if number is None else f"{number:,}"
