"""Masks: scores, a granularity and a sparsity in, the weights to keep out."""

from __future__ import annotations

import math
import warnings

import numpy as np

from mopruning.arrays import Array, all_finite, like, namespace, native, plain
from mopruning.counting import check_sparsity
from mopruning.errors import GranularityWarning, RecipeError, WeightError
from mopruning.granularity import NM, Granularity, parse_granularity


def mask(
    scores: Array, granularity: Granularity | str, sparsity: float | None = None, *, name: str | None = None
) -> Array:
    """Choose which weights to keep: the highest scores that a granularity and a sparsity leave room for.

    A pure function with the same answer for every array library and device: the number of zeros is
    ``floor(sparsity * n + 1e-9)`` in each group that the granularity defines, and of equal scores the earlier
    (C order) is kept.

    Args:
        scores: What each weight is worth, in canonical layout: [out, in, *kernel] for a convolution, [out, in]
            for a dense layer; any real dtype, 0 to 5 axes. For magnitude pruning the absolute weights.
        granularity: An object such as ``BankBalanced(bank=64)``, or its text, such as "bank:64".
        sparsity: Share of zeros wanted, 0 to 1. ``NM(n, m)`` alone may go without: it then has 1 - n/m.
        name: Name of the parameter, for messages.

    Returns:
        Bool array, True = keep, of the same library, device and shape as `scores`.

    Raises:
        RecipeError: If `sparsity` or `granularity` makes no sense.
        WeightError: If a score is NaN, infinite or no real number.

    Warns:
        GranularityWarning: If the granularity does not fit the shape; the mask then keeps everything.

    >>> import numpy as np
    >>> mask(np.array([[3.0, 1.0, 2.0, 0.5]]), "2:4").astype(int)
    array([[1, 0, 1, 0]])
    """
    granularity = parse_granularity(granularity)
    wanted = _wanted(granularity, sparsity)
    xp = namespace(scores)
    shape = tuple(scores.shape)
    if reason := granularity.misfit(shape):
        warnings.warn(
            f"{name or 'weight'} {shape} left dense by {granularity}: {reason}", GranularityWarning, stacklevel=2
        )
        return xp.ones_like(plain(scores), dtype=xp.bool)
    values = plain(scores)
    ranked = native(values)
    check_finite(ranked, name)
    if math.prod(shape) == 0:
        return xp.ones_like(values, dtype=xp.bool)
    kept = granularity.keep(ranked, wanted)
    # a copy, for it may be a broadcast view, which no one can write into
    return like(kept, values) if isinstance(kept, np.ndarray) else xp.asarray(kept, copy=True)


def check_finite(scores: Array, name: str | None) -> None:
    """Raise WeightError, naming the parameter and counting the culprits, where a score is NaN or infinite."""
    refuse_unrankable(*unrankable(scores, name), math.prod(scores.shape), name)


def unrankable(scores: Array, name: str | None) -> tuple[int, int]:
    """Count the scores that are NaN and those that are infinite; raise WeightError where they are no real numbers."""
    xp = namespace(scores)
    if not xp.isdtype(scores.dtype, ("real floating", "integral", "bool")):
        raise WeightError(f"{name or 'scores'}: {scores.dtype} values cannot be ranked; expected real numbers")
    if all_finite(scores):
        return 0, 0
    nans = int(xp.sum(xp.astype(xp.isnan(scores), xp.int64)))
    finite = int(xp.sum(xp.astype(xp.isfinite(scores), xp.int64)))
    return nans, math.prod(scores.shape) - nans - finite


def refuse_unrankable(nans: int, infinite: int, total: int, name: str | None) -> None:
    """Raise WeightError where any of `total` scores are NaN or infinite."""
    if nans or infinite:
        raise WeightError(
            f"{name or 'scores'}: {nans} NaN and {infinite} infinite of {total} values, which cannot be ranked; "
            "did training diverge (learning rate, loss scale)?"
        )


def _wanted(granularity: Granularity, sparsity: float | None) -> float:
    if sparsity is not None:
        return check_sparsity(sparsity)
    if isinstance(granularity, NM):
        return granularity.ceiling()
    raise RecipeError(f"mask: {granularity} needs a sparsity, such as 0.9")
