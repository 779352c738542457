"""Run: trains epoch by epoch, and keeps log, picture and checkpoint after each."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any, Protocol, TypeVar

from mopruning.training.checkpoints import Checkpoints, Files
from mopruning.training.history import History
from mopruning.training.progress import Display

H = TypeVar("H", bound=History[Any])


class Trainable(Protocol):
    """What can be run."""

    @property
    def completed(self) -> int:
        """Epochs completed."""

    def begin(self) -> Sequence[str]:
        """Do what comes before the first epoch, and return the lines that tell of it."""

    def advance(self, shown: Callable[[int, Any], None]) -> dict[str, Any]:
        """Train an epoch and evaluate.

        Args:
            shown: Called after each update with how many are done, and the loss of this one.

        Returns:
            All of the epoch's row but `epoch` and `seconds`.
        """


def run(
    training: Trainable,
    history: H,
    display: Display,
    *,
    epochs: int,
    checkpoints: Checkpoints,
    files: Files,
    resume: Files | None = None,
    first: bool = True,
    title: str = "",
    after: Callable[[H], None] | None = None,
) -> H:
    """Train to the last epoch; log, then checkpoint, then picture are written after each.

    Args:
        training: What is trained.
        history: None of its epochs yet; says what a row is.
        display: Shows it.
        epochs: How many there are in all.
        checkpoints: How it is kept.
        files: Where it is kept; their folder is made.
        resume: Where it was kept, if it is to go on.
        first: Whether this process writes; of several that share the training, one does.
        title: Of the picture.
        after: Called after each epoch, before the checkpoint is written, with the history so far.

    Returns:
        The history of all epochs.

    Raises:
        StateError: If a checkpoint to go on from is of another training.
        WeightError: If the training has diverged.
    """
    plotted = find_spec("matplotlib") is not None
    if not plotted:
        display.say(f"without {files.picture.name}: it needs matplotlib: pip install 'mopruning[plot]'")
    files.log.parent.mkdir(parents=True, exist_ok=True)
    if resume is not None:
        checkpoints.restore(resume.checkpoint)
        history.rows = type(history).read(resume.log, training.completed).rows
        display.say(f"resumed after epoch {training.completed}")
    else:
        for line in training.begin():
            display.say(line)
    for epoch in range(training.completed, epochs):
        started = time.monotonic()

        def shown(done: int, loss: Any, epoch: int = epoch) -> None:
            display.update(epoch, done, float(loss) if display.wants_loss(done) else None)

        values = training.advance(shown)
        row = history.kind(epoch=epoch + 1, **values, seconds=time.monotonic() - started)
        display.epoch(row)
        history.rows.append(row)
        if after is not None:
            after(history)
        if first:
            # the log first: where a checkpoint tells of an epoch, so does the log
            history.write(files.log)
            checkpoints.save(files.checkpoint)
            if plotted:
                history.plot(files.picture, title)
    return history
