"""Tables as plain text: aligned columns, two blanks apart."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def aligned(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> str:
    """Return rows of cells as lines of text.

    Args:
        rows: The cells; every row has equally many.
        right: Indices of the columns that are set flush right, such as numbers.

    >>> print(aligned([("node", "MACs"), ("conv1", "7"), ("fc", "10")], right=[1]))
    node   MACs
    conv1     7
    fc       10
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if index in right else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
