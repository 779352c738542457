"""What a framework's test harness fulfils, so that the one contract suite runs on it.

`NAME_harness.py` beside this file holds the harness of backend NAME: a literal table `CASES` of its sparse optimizers
and their native options, and `HARNESS`, a `Harness`. Nothing else is needed for a further framework.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray[Any, Any]

LAYERS: Mapping[str, tuple[str, tuple[int, ...]]] = {
    "conv.weight": ("conv", (8, 64, 3, 3)),
    "conv.bias": ("vector", (8,)),
    "up.weight": ("transposed", (4, 64, 3, 3)),
    "hidden.weight": ("dense", (12, 64)),
    "hidden.bias": ("vector", (12,)),
    "out.weight": ("dense", (8, 128)),
}
"""The network under test: name -> kind of layer, canonical shape. A harness stores each in its framework's layout."""

RECIPE: Mapping[str, Any] = {
    "sparsity": 0.75,
    "granularity": "bank:16",
    "schedule": {"start": 2, "length": 6, "frequency": 2},
}
"""What most tests prune: masks change four times, after steps 2 to 8."""


@dataclass(frozen=True)
class Case:
    """A sparse optimizer class and native options to build it with.

    Args:
        cls: Name of the class in the adapter.
        options: Arguments of the native optimizer.
        axes: Where given, the optimizer takes only parameters of so many axes.
    """

    cls: str
    options: Mapping[str, Any] = field(default_factory=dict)
    axes: int | None = None

    def __str__(self) -> str:
        return ",".join([self.cls, *(f"{key}={value}" for key, value in self.options.items() if key != "lr")])


class Trainer(Protocol):
    """One optimizer over named weights, which go in and come out as canonical NumPy arrays."""

    def step(self, gradients: Mapping[str, Array]) -> None:
        """Update all weights once, given the gradients at hand."""

    def weights(self) -> dict[str, Array]:
        """Return copies of all weights."""

    def masks(self) -> dict[str, Array]:
        """Return the masks in force; none before the first mask update."""

    def state(self) -> dict[str, list[Array]]:
        """Return, for each weight, what the optimizer remembers of it element by element."""

    def everything(self) -> Any:
        """Return the whole optimizer state and its settings as nested dicts and lists of plain values and arrays."""

    def save(self, folder: Path) -> None:
        """Write weights and optimizer as the framework's users do, into an existing folder."""

    def load(self, folder: Path) -> None:
        """Read back what `save` wrote, in the framework's safe way: no code is run from the file."""


class Harness(Protocol):
    """How one framework builds trainers."""

    plain_sgd: Case
    """Plain gradient descent at learning rate 0.25: a power of two makes its updates round alike everywhere."""

    def native(self, case: Case, weights: Mapping[str, Array]) -> Trainer:
        """Build the framework's own optimizer; `masks` of the trainer are empty."""

    def sparse(self, case: Case, weights: Mapping[str, Array], recipe: Mapping[str, Any]) -> Trainer:
        """Build the sparse optimizer; an empty recipe stands for none."""


def initial_weights(case: Case, seed: int = 0) -> dict[str, Array]:
    """Draw the weights that a case can train; those of `out` lie on a coarse grid, so that many are equal."""
    random = np.random.default_rng(seed)
    weights = {name: random.standard_normal(shape).astype(np.float32) for name, (_, shape) in LAYERS.items()}
    weights["out.weight"] = np.round(weights["out.weight"] * 4) / 4
    return {name: value for name, value in weights.items() if case.axes in (None, value.ndim)}


def gradients_at(step: int, weights: Mapping[str, Array]) -> dict[str, Array]:
    """Draw the gradients of one step, the same whenever asked."""
    random = np.random.default_rng([step, 1])
    gradients = {name: random.standard_normal(value.shape).astype(np.float32) for name, value in weights.items()}
    if "out.weight" in gradients:
        gradients["out.weight"] = np.round(gradients["out.weight"] * 2) / 2
    return gradients
