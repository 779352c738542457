"""Schedules: at which optimizer updates the masks change, and how sparse they are then."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from mopruning.counting import check_sparsity
from mopruning.errors import RecipeError


@dataclass(frozen=True)
class Schedule(ABC):
    """When masks change. Subclasses are frozen dataclasses: compared by value, printable, hashable.

    Time is counted in completed optimizer updates: 1 after the first, 0 before it.

    Args:
        start: Optimizer updates before the first mask update; a fraction is cut off.

    Raises:
        RecipeError: If `start` is negative or no number.
    """

    start: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "start", _count(self.start, "start"))

    @property
    @abstractmethod
    def end(self) -> int:
        """The last scheduled update; from it on the sparsity is the target."""

    @property
    def updates(self) -> Sequence[int]:
        """Every scheduled update, ascending; what a compiled graph compares its step with."""
        return tuple(step for step in range(self.end + 1) if self.latest_update(-1, step) == step)

    @abstractmethod
    def latest_update(self, last: int, step: int) -> int | None:
        """Return the newest scheduled update u with ``last < u <= step``, None where there is none.

        Updates that were missed are skipped: the newest alone matters, for it is the sparsest.

        Args:
            last: The scheduled update done before, -1 if there was none.
            step: Optimizer updates completed.
        """

    @abstractmethod
    def sparsity(self, update: int, initial: float, target: float) -> float:
        """Return the sparsity to reach at a scheduled update; exactly `target` from `end` on.

        Args:
            update: The scheduled update, as `latest_update` returns it.
            initial: Sparsity before the first update.
            target: Sparsity after the last one.

        Raises:
            RecipeError: If `initial` or `target` is not a share from 0 to 1.
        """


@dataclass(frozen=True)
class OneShot(Schedule):
    """All at once: one mask update, after `start` optimizer updates.

    >>> schedule = OneShot(start=10)
    >>> schedule.latest_update(-1, 9), schedule.latest_update(-1, 12), schedule.latest_update(10, 13)
    (None, 10, None)
    >>> schedule.sparsity(10, 0.0, 0.9)
    0.9
    """

    @property
    def end(self) -> int:
        return self.start

    @property
    def updates(self) -> Sequence[int]:
        return (self.start,)

    def latest_update(self, last: int, step: int) -> int | None:
        return self.start if last < self.start <= step else None

    def sparsity(self, update: int, initial: float, target: float) -> float:
        initial, target = check_sparsity(initial, "initial sparsity"), check_sparsity(target, "target sparsity")
        return target if update >= self.start else initial


@dataclass(frozen=True)
class Polynomial(Schedule):
    """A ramp: masks change every `frequency` updates, steeply at first and gently towards the target.

    At update u the sparsity is ``target + (initial - target) * (1 - (u - start) / length) ** exponent``. The
    updates are start, start + frequency, start + 2 frequency, ... and always start + length, so that the last
    one lands on the target whatever the frequency.

    Args:
        start: Optimizer updates before the ramp; a fraction is cut off.
        length: Optimizer updates from the first mask update to the last; 0 prunes all at once.
        frequency: Optimizer updates between two mask updates; a fraction is cut off, less than 1 counts as 1.
        exponent: Shape of the ramp, more than 0: 3 is the cubic one of the paper, 1 is linear.

    Raises:
        RecipeError: If an argument is negative, or none of the numbers above.

    Source: Zhu and Gupta, "To prune, or not to prune: exploring the efficacy of pruning for model
    compression", 2017, equation 1 (there with exponent 3).

    >>> ramp = Polynomial(start=100, length=250, frequency=100)
    >>> [ramp.latest_update(-1, step) for step in (99, 100, 299, 349, 350, 1000)]
    [None, 100, 200, 300, 350, 350]
    >>> ramp.updates
    (100, 200, 300, 350)
    >>> [round(ramp.sparsity(update, 0.0, 0.9), 4) for update in ramp.updates]
    [0.0, 0.7056, 0.8928, 0.9]
    """

    length: int = 0
    frequency: float = 100
    exponent: float = 3.0

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "length", _count(self.length, "length"))
        object.__setattr__(self, "frequency", max(1, _count(self.frequency, "frequency")))
        exponent = _number(self.exponent, "exponent")
        if exponent <= 0.0:
            raise RecipeError(f"schedule: exponent must be more than 0 (3 is cubic, 1 linear), got {self.exponent!r}")
        object.__setattr__(self, "exponent", exponent)

    @property
    def end(self) -> int:
        return self.start + self.length

    @property
    def updates(self) -> Sequence[int]:
        return (*range(self.start, self.end, int(self.frequency)), self.end)

    def latest_update(self, last: int, step: int) -> int | None:
        if step < self.start:
            return None
        every = int(self.frequency)
        update = self.end if step >= self.end else step - (step - self.start) % every
        return update if update > last else None

    def sparsity(self, update: int, initial: float, target: float) -> float:
        initial, target = check_sparsity(initial, "initial sparsity"), check_sparsity(target, "target sparsity")
        if update >= self.end:
            return target
        left = min(1.0, 1.0 - (update - self.start) / self.length)
        reached = target + (initial - target) * math.pow(left, self.exponent)
        low, high = sorted((initial, target))
        return min(max(reached, low), high)  # rounding may step a last bit outside


def _number(value: object, what: str) -> float:
    """Return a finite number, or raise RecipeError naming the argument."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise RecipeError(f"schedule: {what} must be a finite number, got {value!r}")
    return number


def _count(value: object, what: str) -> int:
    """Return a number of optimizer updates: published scripts pass quotients such as steps / 5."""
    number = _number(value, what)
    if number < 0:
        raise RecipeError(f"schedule: {what} counts optimizer updates and must be 0 or more, got {value!r}")
    return int(number)
