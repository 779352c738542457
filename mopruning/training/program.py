"""Program: what `train_scratch.py` and `prune.py` do around a training, whatever framework computes."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from rich.console import Console

from mopruning.errors import RecipeError
from mopruning.training import run as loop
from mopruning.training.checkpoints import Checkpoints, Files
from mopruning.training.progress import Display
from mopruning.training.rows import History, Row

_RESUME = ".resume.pth"


@dataclass(frozen=True)
class Outputs:
    """What the files of a training are called, as published.

    Args:
        out: Folder for checkpoints/ and the log.
        kind: "scratch", or the type of pruning.
        dataset: Published name.
        model: Published name.
        tag: End of the names.
        folder: Where the checkpoints lie; checkpoints/KIND in `out` where None.

    >>> names = Outputs(Path("."), "irre_prune", "cifar10", "vgg16", "a")
    >>> names.best.as_posix(), names.last.name, names.log.name
    ('checkpoints/irre_prune/cifar10_vgg16-a.pth', 'cifar10_vgg16_le-a.pth', 'log-cifar10-vgg16-a.txt')
    """

    out: Path
    kind: str
    dataset: str
    model: str
    tag: str = ""
    folder: Path | None = None

    def of_checkpoint(self, path: Path) -> Outputs:
        """Return the names of the training that a checkpoint to go on from belongs to.

        Raises:
            RecipeError: If it is called otherwise than such a checkpoint.
        """
        head = f"{self._head}-"
        if not (path.name.startswith(head) and path.name.endswith(_RESUME)):
            raise RecipeError(f"--resume {path}: expected the name {head}TAG{_RESUME}, as it was written")
        return replace(self, tag=path.name.removeprefix(head).removesuffix(_RESUME), folder=path.parent)

    @property
    def _head(self) -> str:
        return f"{self.dataset}_{self.model}" + ("_scratch_ddp" if self.kind == "scratch" else "")

    def _file(self, middle: str, suffix: str) -> Path:
        folder = self.out / "checkpoints" / self.kind if self.folder is None else self.folder
        return folder / f"{self._head}{middle}-{self.tag}{suffix}"

    @property
    def best(self) -> Path:
        """Weights after the best epoch."""
        return self._file("", ".pth")

    @property
    def last(self) -> Path:
        """Weights after the last epoch."""
        return self._file("_le", ".pth")

    @property
    def log(self) -> Path:
        """Every line that was printed."""
        return self.out / f"log-{self.dataset}-{self.model}-{self.tag}.txt"

    @property
    def files(self) -> Files:
        """What a training that is cut off goes on from."""
        return Files(self._file("", _RESUME), self._file("", ".csv"))


class Training(loop.Trainable, Protocol):
    """A training in a framework, as its adapter has it."""

    updates: int

    def save(self, path: Path) -> None:
        """Write a checkpoint to go on from."""

    def restore(self, path: Path) -> None:
        """Go on from one, in place."""

    def write(self, path: Path, row: Row | None) -> None:
        """Write the weights, and what else is published with them; `row` is the epoch's, None before the first."""

    def publish(self, path: Path) -> None:
        """Write the network that `write` wrote for other frameworks as well."""


def run(training: Training, options: argparse.Namespace, names: Outputs, *, about: str, first: bool = True) -> History:
    """Train, and keep the best and the last network, a log, a table and a picture of the epochs, and a checkpoint.

    Args:
        training: What trains; weights to start from are in it already.
        options: Those of `flags.scratch_parser` or `flags.prune_parser`.
        names: What the files are called.
        about: The first line.
        first: Whether this process prints and writes; of several that share the training, one does.

    Returns:
        The history of all epochs.

    Raises:
        StateError: If a checkpoint to go on from is of another training, or the processes have different masks.
        WeightError: If the training has diverged.
    """
    files = names.files

    def keep(history: History) -> None:
        row = history.rows[-1]
        if first and row.final:
            training.write(names.last, row)
            if row is history.best:
                training.write(names.best, row)

    if first:
        names.log.parent.mkdir(parents=True, exist_ok=True)
        if options.resume is None:
            names.log.write_text("", encoding="utf-8")
    log = names.log if first else None
    with Display(options.epochs, training.updates, Console(quiet=not first), options.print_freq, log) as display:
        display.say(about)
        history = loop.run(
            training,
            History(),
            display,
            epochs=options.epochs,
            checkpoints=Checkpoints(files.checkpoint.name, training.save, training.restore),
            files=files,
            resume=None if options.resume is None else files,
            first=first,
            title=f"{options.model} on {options.dataset}",
            after=keep,
        )
        best = history.best
        if best is None:
            if first:
                training.write(names.best, None)
            display.say("no epoch was trained: these are the weights of the start")
        else:
            display.say(f"last acc: {history.rows[-1].accuracy:.2%}, best acc: {best.accuracy:.2%}, epoch {best.epoch}")
        for path in (names.best, names.last) if first else ():
            if path.exists():
                training.publish(path)
        display.say(f"weights: {names.best}")
    return history
