"""The search for an order of channels in which N:M pruning keeps more magnitude."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from mopruning.errors import RecipeError, WeightError
from mopruning.permutation.arrangements import count
from mopruning.permutation.channel_swap import channel_swap
from mopruning.permutation.kept import kept, kept_at_best
from mopruning.permutation.parts import in_parts
from mopruning.permutation.stripe_groups import stripe_groups
from mopruning.permutation.stripe_tables import StripeTables

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"
Method: TypeAlias = Literal["auto", "stripe_groups", "channel_swap", "random"]

SMALLEST_LOSS = 0.001  # share of the magnitude that pruning has to lose for a search to be worth it
_MOST_ARRANGEMENTS = 20_000  # of one group
_MOST_MEMORY = 2**31  # bytes of tables
_MOST_WORK = 1e11  # sets of columns times rows, valued at first, for what is chosen unasked
_SWAPPED_FIRST = 128  # more channels are swapped first, which halves the time
_MOST_CHANNELS = 2048  # more are improved in parts of so many channels, so often
_PART, _ROUNDS = 256, 2
_WIDE_PART = 512  # channels, more of which windows of more than two stripes see in such parts only


@dataclass(frozen=True, eq=False)
class Permutation:
    """An order of channels, and what it is worth.

    Args:
        order: int64 [channels]: the channel that comes to stand in each place, so that ``weight[:, order]`` is the
            permuted weight.
        before: Magnitude that N:M pruning keeps in the order as it was.
        after: Magnitude that it keeps in this one.
        best: What no order can surpass: the largest ``channels * n / m`` of every row.
        total: All the magnitude there is.
        method: How it was searched for; "" if it was not.
        seconds: How long that took.
        reason: Why nothing was searched; "" if it was.
    """

    order: NumPyArray
    before: float
    after: float
    best: float
    total: float
    method: str = ""
    seconds: float = 0.0
    reason: str = ""

    @property
    def efficacy(self) -> float:
        """Return which share of the loss that an order could avoid this one avoids, 0 to 1."""
        return (self.after - self.before) / (self.best - self.before) if self.best > self.before else 0.0


def search(
    weights: Sequence[Any],
    n: int = 2,
    m: int = 4,
    *,
    method: Method = "auto",
    window: int | None = None,
    escapes: int = 100,
    seed: int = 1,
) -> Permutation:
    """Search for an order of the input channels in which pruning to n of every m keeps more magnitude.

    The result is the same on every machine.

    Args:
        weights: Matrices [rows, channels] that share their channels, such as the weights of all layers that read a
            value, each reshaped so that its input channels are columns. Real numbers, NaN and infinity excluded.
        n: Weights that pruning keeps of every m consecutive channels.
        m: Weights in such a group, a stripe.
        method: "stripe_groups" values all arrangements of every `window` columns, "channel_swap" all swaps of two,
            whose cost does not grow with m; "random" takes the best of `escapes` orders. "auto" is stripe groups where
            a window has at most 20,000 arrangements, and not too many sets of columns have to be valued.
        window: Columns of a group of stripes: a multiple of m, two stripes unless given. 12 finds more than 8 for 2:4.
        escapes: Random swaps to go on from when nothing gains any more. With more than 128 channels all swaps of two
            are made before stripe groups are looked at, and escapes belong to those.
        seed: Of the random numbers.

    Returns:
        The order, and what is kept. Where there is nothing to search it is the order as it was, and says why.

    Raises:
        RecipeError: If n, m, `method` or `window` is impossible.
        WeightError: If a weight is no matrix, has other channels than the first, or is not finite.

    Source: Pool and Yu, "Channel permutations for N:M sparsity", NeurIPS 2021; its limits are kept: windows of more
    than two stripes are for up to 512 channels, larger matrices being improved in parts first; and more than 2048
    channels are improved in parts alone.

    >>> weight = np.random.RandomState(1).uniform(size=(128, 64))
    >>> found = search([weight])
    >>> print(f"{found.before:.3f} {found.after:.3f} {found.efficacy:.1%}")
    2852.377 2919.759 35.5%
    >>> kept(weight[:, found.order]) == found.after
    True
    """
    stripes = _check(n, m, method, window)
    matrix = _joined(weights)
    channels = matrix.shape[1]
    order = np.arange(channels)
    total = float(np.abs(matrix).sum(dtype=np.float64))
    if reason := _unfit(channels, n, m):
        return Permutation(order, total, total, total, total, reason=reason)
    before, best = kept(matrix, n, m), kept_at_best(matrix, n, m)
    if total - before <= SMALLEST_LOSS * total:
        reason = f"pruning loses no more than {SMALLEST_LOSS:.1%} of its magnitude"
        return Permutation(order, before, before, best, total, reason=reason)
    own = _method(method, window, matrix.shape, n, m, stripes)
    started = time.perf_counter()
    random = np.random.RandomState(seed)
    found = _search(own, matrix, n, m, stripes, escapes, random)
    seconds = time.perf_counter() - started
    after = kept(matrix[:, found], n, m)
    if after <= before:  # what was found is no more than rounding
        found, after = order, before
    return Permutation(found, before, after, best, total, own, seconds)


def _search(
    method: str, matrix: NumPyArray, n: int, m: int, stripes: int, escapes: int, random: np.random.RandomState
) -> NumPyArray:
    channels = matrix.shape[1]
    order = np.arange(channels)
    if method == "random":
        orders = [order, *(random.permutation(channels) for _ in range(escapes))]
        return max(orders, key=lambda one: kept(matrix[:, one], n, m))
    swap = method == "channel_swap"

    def improve(matrix: NumPyArray, order: NumPyArray, stripes: int, escapes: int) -> NumPyArray:
        if swap or len(order) > _SWAPPED_FIRST:
            order = channel_swap(matrix, n, m, order, escapes=escapes, random=random)
            escapes = 0
        if swap:
            return order
        return stripe_groups(matrix, n, m, order, stripes=stripes, escapes=escapes, random=random)

    alone = partial(improve, stripes=stripes, escapes=0)
    if channels > max(_MOST_CHANNELS, 2 * m):
        return in_parts(alone, matrix, m, order, part=max(_PART, 2 * m), rounds=_ROUNDS, random=random)
    if stripes > 2 and channels > _WIDE_PART and not swap:
        order = in_parts(alone, matrix, m, order, part=_WIDE_PART, rounds=1, random=random)
        return improve(matrix, order, 2, 10 * escapes)
    return improve(matrix, order, stripes, escapes)


def _check(n: int, m: int, method: str, window: int | None) -> int:
    """Return how many stripes a window has."""
    if not 0 <= n <= m or m < 1:
        raise RecipeError(f"search: expected whole numbers 0 <= n <= m, m >= 1, got n={n!r}, m={m!r}")
    if method not in get_args(Method):
        raise RecipeError(f"search: method must be one of {', '.join(get_args(Method))}, got {method!r}")
    if window is None:
        return 2
    if window % m or window < 2 * m:
        raise RecipeError(f"search: window must be a multiple of {m}, {2 * m} or more, got {window!r}")
    return window // m


def _joined(weights: Sequence[Any]) -> NumPyArray:
    """Return all rows as one matrix, float32 unless a weight is finer."""
    arrays = [np.asarray(one) for one in weights]
    if not arrays or any(one.ndim != 2 for one in arrays) or len({one.shape[1] for one in arrays}) != 1:
        shapes = ", ".join(str(list(one.shape)) for one in arrays) or "none"
        raise WeightError(f"search: expected matrices [rows, channels] of equally many channels, got {shapes}")
    dtype = np.float64 if any(one.dtype.itemsize >= 8 for one in arrays) else np.float32
    matrix = np.concatenate([one.astype(dtype, copy=False) for one in arrays])
    if not np.isfinite(matrix).all():
        raise WeightError("search: a weight is NaN or infinite, and has no magnitude")
    return matrix


def _unfit(channels: int, n: int, m: int) -> str:
    """Say why no order can keep more, as far as the number of channels tells."""
    if n in (0, m):
        return f"{n}:{m} keeps {'everything' if n else 'nothing'} in any order"
    if channels % m:
        return f"{channels} channels are no multiple of {m}"
    return f"{channels} channels are fewer than two groups of {m}" if channels < 2 * m else ""


def _method(method: str, window: int | None, shape: tuple[int, ...], n: int, m: int, stripes: int) -> str:
    """Return how to search; raise RecipeError where stripe groups are asked for and have too many arrangements."""
    rows, channels = shape
    width = channels if channels <= _MOST_CHANNELS else max(_PART, 2 * m)
    width = min(width, _WIDE_PART) if stripes > 2 else width
    ways = count(min(stripes, channels // m), m)
    possible = ways <= _MOST_ARRANGEMENTS and StripeTables.bytes_needed(width, rows, n, m) <= _MOST_MEMORY
    work = math.comb(stripes * m, m) * math.comb(width // m, stripes) * rows
    if method == "auto":
        method = "stripe_groups" if window is not None or (possible and work <= _MOST_WORK) else "channel_swap"
    if method == "stripe_groups" and not possible:
        raise RecipeError(
            f"search: {stripes * m} columns in stripes of {m} can stand in {ways:,} ways, for {rows} rows; take a "
            "smaller window or channel_swap"
        )
    return method
