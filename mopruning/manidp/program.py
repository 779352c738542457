"""Program: what every program that trains with ManiDP does, whatever framework computes."""

from __future__ import annotations

import argparse
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
from rich.console import Console

from mopruning.datasets import Images
from mopruning.manidp.controller import Controller
from mopruning.manidp.cost import cost
from mopruning.manidp.evaluation import Evaluation
from mopruning.manidp.history import History, write_evaluation
from mopruning.manidp.record import Record
from mopruning.manidp.settings import Settings
from mopruning.training import run as loop
from mopruning.training.checkpoints import Checkpoints, Files
from mopruning.training.data import Data
from mopruning.training.progress import Display

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"


class Training(ABC):
    """A training in a framework; its adapter trains an epoch and evaluates.

    Attributes:
        net: The network, with its `structure`, and thresholds that `set_thresholds` sets.
        data: The images.
        settings: The numbers.
        control: The rules of time.
        updates: Optimizer updates of an epoch.
        begun: What else `record` keeps of how it began, as far as it is known: `amp`, `gate_scale`, `pretrain_path`,
            `pretrain_gates`.
    """

    net: Any
    data: Data
    settings: Settings
    control: Controller
    updates: int
    begun: Mapping[str, Any] = MappingProxyType({})

    @abstractmethod
    def epoch(self, shown: Callable[[int, Any], None] | None = None) -> dict[str, float]:
        """Train an epoch, and set the thresholds that hold from then on.

        Args:
            shown: Called after each update with how many are done, and the loss of this one.

        Returns:
            What `history.Row` wants of a training: lr, limit, loss, cross_entropy, lasso, graph, train_accuracy.

        Raises:
            WeightError: If the training has diverged.
        """

    @abstractmethod
    def evaluate(self, images: Images, *, gates: bool = True) -> Evaluation:
        """Return what the network answers for images, in their order.

        Args:
            images: The images.
            gates: Without, the network computes every channel as it is.
        """

    @property
    def record(self) -> Record:
        """What this training is."""
        return Record(self.net.structure, self.settings, self.data.normalize, **self.begun)

    @property
    def completed(self) -> int:
        """Epochs completed."""
        return self.control.epoch

    @property
    def _gated(self) -> bool:
        """Whether the network began with trained gates; untrained ones are left out until the first epoch."""
        return bool(self.begun.get("pretrain_gates"))

    def start(self) -> Evaluation:
        """Set the first limit, from the training images and the network as it begins: dense, or with trained gates.

        Returns:
            What that network answers for the test images.
        """
        self.control.start(float(self.evaluate(self.data.train, gates=self._gated).cross_entropy.mean()))
        return self.evaluate(self.data.test, gates=self._gated)

    def begin(self) -> Sequence[str]:
        """Start, and return the line that tells of it."""
        found = self.start()
        macs = (
            f"{found.mean_macs:,.0f} mean MACs" if self._gated else f"{cost(found.structure).total:,} MACs with gates"
        )
        return [
            f"{'dynamic' if self._gated else 'dense'} start: accuracy {found.accuracy:.2%}, {macs}, "
            f"limit {self.control.limit:.4f}"
        ]

    def advance(self, shown: Callable[[int, Any], None]) -> dict[str, Any]:
        """Train an epoch and evaluate; returns all of its row but `epoch` and `seconds`."""
        trained = self.epoch(shown)
        tested = self.evaluate(self.data.test)
        return trained | {name: getattr(tested, name) for name in ("accuracy", "mean_macs", "reduction")}

    def _end_epoch(
        self,
        rate: float,
        images: int,
        sums: Sequence[NumPyArray],
        *,
        loss: float,
        cross_entropy: float,
        right: float,
        lasso: float = 0.0,
        graph: float = 0.0,
    ) -> dict[str, float]:
        """Complete an epoch in place: limit and thresholds change as the controller says.

        Args:
            rate: Learning rate of the last update.
            images: How many were trained on.
            sums: Saliencies of each gate over all of them; none where there are no gates.
            loss: Mean over all of them, as the others are.
            cross_entropy: The same.
            right: How many answers were right.
            lasso: The same as `loss`.
            graph: The same.

        Returns:
            What `epoch` does.
        """
        limit = self.control.limit
        thresholds = self.control.end_epoch(sums, images, cross_entropy)
        if thresholds:
            self.net.set_thresholds(thresholds)
        means = {"loss": loss, "cross_entropy": cross_entropy, "lasso": lasso, "graph": graph}
        return {"lr": rate, "limit": limit, **means, "train_accuracy": right / images}


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
    data, epochs = training.data, training.settings.epochs
    folder = Path(options.save_path)
    files = Files(folder / checkpoints.name, folder / "log.csv")
    with Display(epochs, training.updates, Console(quiet=not first), options.print_freq) as display:
        display.say(
            f"{options.arch} on {device}, {len(data.train)} images to train with, {len(data.test)} to test with"
        )
        history = loop.run(
            training,
            History(),
            display,
            epochs=epochs,
            checkpoints=checkpoints,
            files=files,
            resume=files if options.resume else None,
            first=first,
            title=f"{options.arch} on {options.dataset}",
        )
        final = training.evaluate(data.test)
        if first:
            write_evaluation(final, folder / "evaluation.npz")
        display.say(f"last acc: {final.accuracy:.2%}, {told(final)}")
        if history.rows:
            display.say(f"best acc: {max(row.accuracy for row in history.rows):.2%}")
        display.say(f"checkpoint: {files.checkpoint}")


def told(evaluation: Evaluation) -> str:
    """Say what a set of images costs in the mean."""
    return f"mean MACs {evaluation.mean_macs:,.0f} ({0 - evaluation.reduction:+.2%})"
