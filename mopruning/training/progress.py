"""Progress of a training: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from mopruning.training.history import AnyRow


class Display:
    """Shows how a training gets on; to be used in a `with` statement.

    Args:
        epochs: How many there are.
        updates: Of each epoch.
        console: Where to.
        every: Without a terminal, a line is printed after so many updates, or none with 0; and after each epoch.
        log: File to which every line is added as well.
    """

    def __init__(self, epochs: int, updates: int, console: Console, every: int = 200, log: Path | None = None) -> None:
        self._epochs, self._updates, self._console, self._every = epochs, updates, console, every
        self._log = log
        self._bar: Progress | None = None
        if console.is_terminal:
            columns = (TextColumn("epoch {task.fields[epoch]}"), MofNCompleteColumn(), BarColumn())
            self._bar = Progress(
                *columns, TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[note]}"), console=console
            )
            self._task = self._bar.add_task("updates", total=epochs * updates, epoch=1, note="")

    def __enter__(self) -> Display:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def say(self, text: str) -> None:
        """Print a line."""
        self._console.print(text, highlight=False, soft_wrap=True, markup=False)
        if self._log is not None:
            with self._log.open("a", encoding="utf-8") as stream:
                stream.write(f"{text}\n")

    def update(self, epoch: int, done: int, loss: float | None) -> None:
        """Show that `done` updates of an epoch, from 0, are done; see `wants_loss`."""
        if self._bar is not None:
            if loss is not None:
                self._bar.update(self._task, note=f"loss {loss:.4f}")
            self._bar.update(self._task, completed=epoch * self._updates + done, epoch=epoch + 1)
        elif loss is not None:
            self.say(f"epoch {epoch + 1}/{self._epochs}  update {done}/{self._updates}  loss {loss:.4f}")

    def wants_loss(self, done: int) -> bool:
        """Whether the loss is shown after so many updates; reading it makes a GPU wait."""
        return self._every > 0 and done % self._every == 0

    def epoch(self, row: AnyRow) -> None:
        """Print the line of an epoch."""
        self.say(f"epoch {row.epoch}/{self._epochs}  {row}")
