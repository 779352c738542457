"""What the commands share in printing."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table


def show(table: Table) -> None:
    """Print a table: fitted to a terminal, in full width elsewhere, so that no name in a log is cut."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(
            width=max(80, console.measure(table, options=console.options.update(max_width=10_000)).maximum)
        )
    console.print(table)


def counted(reasons: list[str]) -> str:
    """Say how often each reason stands in a list.

    >>> counted(["running statistic", "int64 numbers", "running statistic"])
    '1 x int64 numbers, 2 x running statistic'
    """
    return ", ".join(f"{reasons.count(reason)} x {reason}" for reason in sorted(set(reasons)))
