"""Program: what every program that trains with ManiDP does, whatever framework computes."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console

from mopruning.datasets import Images
from mopruning.manidp.controller import Controller
from mopruning.manidp.cost import cost
from mopruning.manidp.data import Data
from mopruning.manidp.evaluation import Evaluation
from mopruning.manidp.history import History, Row, write_evaluation
from mopruning.manidp.progress import Display
from mopruning.manidp.settings import Settings


class Training(Protocol):
    """A training in a framework, as its adapter has it."""

    data: Data
    settings: Settings
    control: Controller
    updates: int

    def start(self) -> Evaluation:
        """Set the first limit, and return what the dense network answers for the test images."""

    def epoch(self, shown: Callable[[int, Any], None] | None = None) -> dict[str, float]:
        """Train an epoch; see `history.Row` for what is returned."""

    def evaluate(self, images: Images) -> Evaluation:
        """Return what the network answers."""


@dataclass(frozen=True)
class Checkpoints:
    """How a framework keeps a training in a file.

    Args:
        name: Of the file.
        save: Writes it, given its path.
        restore: Goes on from it in place, given its path.
    """

    name: str
    save: Callable[[Path], None]
    restore: Callable[[Path], None]


def run(
    training: Training, options: argparse.Namespace, checkpoints: Checkpoints, device: str, *, first: bool = True
) -> None:
    """Train, evaluate after each epoch, and keep checkpoint, log and plot in the folder `--save_path`.

    Args:
        training: What trains; weights to start from are in it already.
        options: Those of `flags.parser`.
        checkpoints: How it is kept.
        device: What it trains on, for the first line.
        first: Whether this process prints and writes; of several that share the training, one does.

    Raises:
        StateError: If a checkpoint to go on from is of another training.
        WeightError: If the training has diverged.
    """
    settings, data = training.settings, training.data
    folder = Path(options.save_path)
    checkpoint = folder / checkpoints.name
    console = Console(quiet=not first)
    with Display(settings.epochs, training.updates, console, options.print_freq) as display:
        display.say(
            f"{options.arch} on {device}, {len(data.train)} images to train with, {len(data.test)} to test with"
        )
        plotted = find_spec("matplotlib") is not None
        if not plotted:
            display.say("without log.png: it needs matplotlib: pip install 'mopruning[plot]'")
        history = History()
        if options.resume:
            checkpoints.restore(checkpoint)
            history = History.read(folder / "log.csv", training.control.epoch)
            display.say(f"resumed after epoch {training.control.epoch}")
        else:
            folder.mkdir(parents=True, exist_ok=True)
            dense = training.start()
            display.say(
                f"dense start: accuracy {dense.accuracy:.2%}, {cost(dense.structure).total:,} MACs with gates, "
                f"limit {training.control.limit:.4f}"
            )
        for epoch in range(training.control.epoch, settings.epochs):
            history.rows.append(_epoch(training, epoch, display))
            if first:
                # the log first: where a checkpoint tells of an epoch, so does the log
                history.write(folder / "log.csv")
                checkpoints.save(checkpoint)
                if plotted:
                    history.plot(folder / "log.png", f"{options.arch} on {options.dataset}")
        final = training.evaluate(data.test)
        if first:
            write_evaluation(final, folder / "evaluation.npz")
        display.say(f"last acc: {final.accuracy:.2%}, {told(final)}")
        if history.rows:
            display.say(f"best acc: {max(row.accuracy for row in history.rows):.2%}")
        display.say(f"checkpoint: {checkpoint}")


def told(evaluation: Evaluation) -> str:
    """Say what a set of images costs in the mean."""
    return f"mean MACs {evaluation.mean_macs:,.0f} ({0 - evaluation.reduction:+.2%})"


def _epoch(training: Training, epoch: int, display: Display) -> Row:
    started = time.monotonic()

    def shown(done: int, loss: Any) -> None:
        display.update(epoch, done, float(loss) if display.wants_loss(done) else None)

    trained = training.epoch(shown)
    tested = training.evaluate(training.data.test)
    row = Row(
        epoch=epoch + 1,
        **trained,
        accuracy=tested.accuracy,
        mean_macs=tested.mean_macs,
        reduction=tested.reduction,
        seconds=time.monotonic() - started,
    )
    display.epoch(row)
    return row
