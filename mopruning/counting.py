"""The one rule that turns a sparsity into a number of zeros."""

from __future__ import annotations

import math

from mopruning.errors import RecipeError


def check_sparsity(sparsity: float, what: str = "sparsity") -> float:
    """Return `sparsity` as a float, or raise RecipeError where it is not a share from 0 to 1."""
    try:
        value = float(sparsity)
    except (TypeError, ValueError, OverflowError):
        raise RecipeError(f"{what} must be a number from 0 to 1, got {sparsity!r}") from None
    if not 0.0 <= value <= 1.0:
        hint = f"; for {value:g} percent write {value / 100:g}" if 2.0 <= value <= 100.0 else ""
        raise RecipeError(f"{what} must lie from 0 to 1, got {sparsity!r}{hint}")
    return value


def zeros_of(sparsity: float, size: int) -> int:
    """Count the zeros that a sparsity means in a group: ``floor(sparsity * size + 1e-9)``.

    Args:
        sparsity: Share of zeros, 0 to 1.
        size: Number of things in the group that are pruned one by one.

    >>> zeros_of(0.9375, 64), zeros_of(0.29, 100), zeros_of(1.0, 3)
    (60, 29, 3)
    """
    return min(size, math.floor(sparsity * size + 1e-9))


def sparsity_of(zeros: int, size: int) -> float:
    """Return a sparsity for which `zeros_of` gives back exactly `zeros` of `size`.

    >>> zeros_of(sparsity_of(7, 49), 49)
    7
    """
    if size == 0:
        return 0.0
    share = zeros / size
    while zeros_of(share, size) < zeros:
        share = math.nextafter(share, 2.0)
    return share
