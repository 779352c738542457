"""What the examples print while they train."""

import argparse
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from data import Data

from mopruning import sparsity
from mopruning.plan import Plan


class Progress:
    """Prints how a training gets on.

    Args:
        options: Those of the example.
        data: The images, of which those for testing are looked at.
        plan: What is pruned; None for nothing.
        predict: Returns the scores [n, classes] of images [n, channels, height, width].
        weights: Returns what trains, by name.
        also: An epoch to report besides every so many and the last.
        every: How many.
    """

    def __init__(
        self,
        options: argparse.Namespace,
        data: Data,
        plan: Plan | None,
        predict: Callable[[np.ndarray], np.ndarray],
        weights: Callable[[], Mapping[str, np.ndarray]],
        also: int = 0,
        every: int = 10,
    ) -> None:
        self.options, self.data, self.plan = options, data, plan
        self.predict, self.weights, self.also, self.every = predict, weights, also, every

    def start(self, loaded: bool = False) -> None:
        """Print the plan, and what a loaded network does."""
        if self.plan:
            print(self.plan)
        if loaded:
            self._line("loaded")

    def epoch(self, number: int, losses: Sequence[float] = ()) -> None:
        """Print a line where one is due after an epoch, with the mean of the batches' losses if they are given."""
        if number in (self.also, self.options.epochs) or number % self.every == 0:
            loss = f"  loss {np.mean(losses):.4f}" if losses else ""
            self._line(f"epoch {number}/{self.options.epochs}{loss}")

    def end(self) -> None:
        """Print the sparsity of every parameter, and where the weights are."""
        print(sparsity(self.weights()))
        print(f"weights: {self.options.out}")

    def accuracy(self) -> float:
        """Return the share of images for testing that the network recognises."""
        right = [self.predict(images).argmax(1) == labels for images, labels in self.data.test_batches()]
        return float(np.concatenate(right).mean())

    def _line(self, label: str) -> None:
        pruned = {row.name for row in self.plan.pruned} if self.plan else set()
        found = sparsity({name: weight for name, weight in self.weights().items() if name in pruned})
        print(f"{label}  accuracy {self.accuracy():.4f}  sparsity of the pruned weights {found.sparsity:.4f}")
