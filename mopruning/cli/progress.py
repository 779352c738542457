"""Progress of long work: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LINES = 8  # how many plain lines a whole run prints


@contextmanager
def epochs(total: int, console: Console) -> Iterator[Callable[[str, int], None]]:
    """Yield a function ``advance(note, done)`` to call after each of `total` epochs."""
    if not console.is_terminal:

        def line(note: str, done: int) -> None:
            if done == total or done % max(1, total // LINES) == 0:
                console.print(f"epoch {done}/{total}  {note}", highlight=False, soft_wrap=True)

        yield line
        return
    columns = (
        TextColumn("epoch"),
        MofNCompleteColumn(),
        BarColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("epochs", total=total, note="")
        yield lambda note, done: bar.update(task, completed=done, note=note)
