"""Parts: an order of many channels is improved in parts of its stripes, drawn anew in each round."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"


def in_parts(
    improve: Callable[[NumPyArray, NumPyArray], NumPyArray],
    matrix: NumPyArray,
    m: int,
    order: NumPyArray,
    *,
    part: int,
    rounds: int,
    random: np.random.RandomState,
) -> NumPyArray:
    """Improve an order of many columns, whose stripes are too many to compare all of them with each other.

    Args:
        improve: Improves a matrix, given it and the order to start from; returns a new order.
        matrix: [rows, channels].
        m: Columns in a stripe.
        order: Where to start, int64 [channels].
        part: Columns in a part, at most.
        rounds: How often all stripes are dealt out to parts and the parts improved.
        random: Deals them out.

    Returns:
        A new order, which keeps no less.

    >>> def descending(part, order):
    ...     return np.argsort(-part[0], kind="stable")
    >>> matrix, random = np.arange(8)[None], np.random.RandomState(0)
    >>> in_parts(descending, matrix, 2, np.arange(8), part=4, rounds=1, random=random)
    array([7, 6, 5, 4, 3, 2, 1, 0])
    """
    parts = -(-len(order) // part)
    for _ in range(rounds):
        stripes = order.reshape(-1, m)
        improved = []
        for chosen in np.array_split(random.permutation(len(stripes)), parts):
            columns = stripes[chosen].reshape(-1)
            improved.append(columns[improve(matrix[:, columns], np.arange(len(columns)))])
        order = np.concatenate(improved)
    return order
