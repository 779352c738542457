"""Importance scores: what each weight is worth. The lowest go first."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mopruning.arrays import Array, host_view, like, namespace, native, on_host, plain, rankable
from mopruning.errors import RecipeError, WeightError
from mopruning.granularity.base import inputs_axis
from mopruning.masks import check_finite
from mopruning.sums import integral

_PAIRS = 1 << 20  # distances between filters that are held at once: 8 MB


def magnitude(weights: Array) -> Array:
    """Score each weight by its absolute value.

    Args:
        weights: Any real dtype and shape.

    Returns:
        ``|w|``, same library, device and shape; small signed integers widen, for int8 has no +128.

    Source: Han et al., "Learning both weights and connections for efficient neural networks", 2015.

    >>> magnitude(np.array([-2.0, 0.5]))
    array([2. , 0.5])
    """
    values = plain(weights)
    xp = namespace(values)
    if xp.isdtype(values.dtype, "bool"):
        return xp.astype(values, xp.uint8)
    if xp.isdtype(values.dtype, "signed integer"):
        wider = {8: xp.int16, 16: xp.int32}.get(xp.iinfo(values.dtype).bits)
        values = values if wider is None else xp.astype(values, wider)
    view = host_view(values)
    if view is not None and str(values.dtype).endswith(str(view.dtype)):  # bfloat16 has no view, only a copy
        # Threads of a framework go on spinning for milliseconds, on the cores that are to rank the scores.
        return like(np.abs(view), values)
    return xp.abs(values)


def movement(weights: Array, gradients: Array) -> Array:
    """Score each weight by how much its updates move it away from zero; to be summed over updates.

    Args:
        weights: Any real dtype and shape; half-width floats are multiplied in float32, where small products survive.
        gradients: Gradient of the loss, same shape.

    Returns:
        ``-w * g``: positive where the update makes the weight larger, same library, device and shape.

    Raises:
        WeightError: If the shapes differ.

    Source: Sanh et al., "Movement pruning: adaptive sparsity by fine-tuning", 2020, section 4.

    >>> movement(np.array([2.0, 2.0]), np.array([-0.5, 0.5]))
    array([ 1., -1.])
    """
    return -_product(weights, gradients, "movement")


def taylor(weights: Array, gradients: Array) -> Array:
    """Score each weight by how much the loss changes, to first order, when it becomes zero.

    Args:
        weights: Any real dtype and shape; half-width floats are multiplied in float32, where small products survive.
        gradients: Gradient of the loss, same shape.

    Returns:
        ``|w * g|``, same library, device and shape.

    Raises:
        WeightError: If the shapes differ.

    Source: Molchanov et al., "Pruning convolutional neural networks for resource efficient inference", 2017,
    section 2.2; "Importance estimation for neural network pruning", 2019 (there squared: the same ranks).

    >>> taylor(np.array([2.0, 3.0]), np.array([-0.5, 0.0]))
    array([1., 0.])
    """
    product = _product(weights, gradients, "taylor")
    return namespace(product).abs(product)


def fpgm(weights: Array, *, name: str | None = None) -> Array:
    """Score each output filter by its distance to the others: one near their median can be replaced by them.

    Computed by NumPy in float64 for every device and rounded to float32, so that the last bits, which depend on
    the order of additions, decide no rank. Filters that are equal have distance 0 and equal scores.

    Args:
        weights: Canonical [out, in, *kernel]; any real dtype.
        name: Name of the parameter, for messages.

    Returns:
        For each filter the sum of its Euclidean distances to all filters, float32, same library, device and shape.

    Raises:
        WeightError: If a weight is NaN or infinite.

    Source: He et al., "Filter pruning via geometric median for deep convolutional neural networks acceleration",
    2019, section 3.

    >>> fpgm(np.array([[0.0, 0.0], [0.0, 3.0], [4.0, 0.0]]))[:, 0]
    array([7., 8., 9.], dtype=float32)
    """
    values = plain(weights)
    host = rankable(on_host(values))
    check_finite(host, name)
    if host.ndim == 0 or host.size == 0:
        return like(np.zeros(host.shape, np.float32), values)
    sums = _distance_sums(host.reshape(host.shape[0], -1))
    column = sums.astype(np.float32).reshape(-1, *(1 for _ in host.shape[1:]))
    return like(np.broadcast_to(column, host.shape), values)


def bn_scale(weights: Array, scale: Array) -> Array:
    """Score each output channel by the scale of the normalisation that follows it.

    Args:
        weights: Canonical [out, in, *kernel], of which only the shape counts.
        scale: The normalisation's factors (gamma), 1-D [out].

    Returns:
        ``|gamma|`` of each weight's output channel, same shape; it may be a read-only view.

    Raises:
        WeightError: If `scale` is not one number for each output channel.

    Source: Liu et al., "Learning efficient convolutional networks through network slimming", 2017, section 3.

    >>> bn_scale(np.ones((2, 3)), np.array([0.5, -1.0]))
    array([[0.5, 0.5, 0.5],
           [1. , 1. , 1. ]])
    """
    shape = tuple(weights.shape)
    if not shape or tuple(scale.shape) != shape[:1]:
        raise WeightError(
            f"bn_scale: a weight of shape {shape} needs scales of shape {shape[:1]}, got {tuple(scale.shape)}"
        )
    size = magnitude(scale)
    xp = namespace(size)
    return xp.broadcast_to(xp.reshape(size, (-1, *(1 for _ in shape[1:]))), shape)


def random(weights: Array, seed: int, name: str) -> Array:
    """Score each weight by chance, the baseline every score must beat.

    The bits come straight from NumPy's Philox generator, whose stream never changes between releases: the same
    seed and name give the same scores on every machine and for every framework.

    Args:
        weights: Any array, of which shape, library and device count.
        seed: Whole number of 0 or more.
        name: Name of the parameter, so that equal shapes do not get equal scores.

    Returns:
        float32 in [0, 1), in steps of 2**-24, same library, device and shape.

    Raises:
        RecipeError: If `seed` is negative or no whole number.

    >>> random(np.zeros(2), 0, "fc") == random(np.ones(2), 0, "fc")
    array([ True,  True])
    """
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise RecipeError(f"random: seed must be a whole number of 0 or more, got {seed!r}")
    size = math.prod(weights.shape)
    stream = np.random.Philox(np.random.SeedSequence((int(seed), zlib.crc32(name.encode()))))
    words = stream.random_raw((size + 1) // 2).astype("<u8").view("<u4")[:size]  # two numbers of each 64-bit word
    scores = (words >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)
    return like(scores.reshape(tuple(weights.shape)), plain(weights))


def lamp(scores: Array, *, name: str | None = None) -> Array:
    """Scale the magnitudes of one layer so that layers can be ranked against each other.

    Args:
        scores: Magnitudes, any real dtype and shape; what is below 0 counts as 0.
        name: Name of the parameter, for messages.

    Returns:
        Each square over the sum of all squares that are at least as large, float64 in [0, 1], same library, device
        and shape. Of equal magnitudes the earlier counts as larger, as in every mask, so ranks within the layer
        stay as they are. A layer of zeros scores 0 throughout. The sums are exact, so every device finds the same.

    Raises:
        WeightError: If a score is NaN or infinite.

    Source: Lee et al., "Layer-adaptive sparsity for the magnitude-based pruning", 2021, the LAMP score.

    >>> lamp(np.array([1.0, 2.0, 2.0]))
    array([0.11111111, 1.        , 0.5       ])
    """
    values = plain(scores)
    ranked = native(values)
    check_finite(ranked, name)
    xp = namespace(ranked)
    flat = xp.reshape(xp.astype(ranked, xp.float64), (-1,))
    largest = float(xp.max(flat)) if math.prod(ranked.shape) else 0.0
    if largest <= 0.0:
        result = xp.zeros_like(flat)
    else:
        # By a power of two, which costs no bit: squares of huge numbers would overflow.
        flat = xp.where(flat > 0.0, flat, xp.zeros_like(flat)) * math.ldexp(1.0, min(1023, -math.frexp(largest)[1]))
        order = _descending(flat)
        falling = xp.take(flat, order)
        squares = falling * falling
        sums = xp.cumulative_sum(integral(squares, math.prod(flat.shape)))
        shares = (squares / squares[0]) / (sums / sums[0])  # both relative to the largest, for `integral` rescales
        result = xp.take(shares, _inverse(order))
    result = xp.reshape(result, tuple(ranked.shape))
    return like(result, values) if isinstance(result, np.ndarray) else result


def wanda(weights: Array, input_norms: Array) -> Array:
    """Score each weight by its magnitude times how strongly its input channel is driven.

    Args:
        weights: Canonical [out, in, *kernel]; half-width floats are multiplied in float32.
        input_norms: Euclidean norm of each input channel over the calibration data, 1-D [in].

    Returns:
        ``|w| * norm``, same library, device and shape.

    Raises:
        WeightError: If `input_norms` is not one number for each input channel.

    Source: Sun et al., "A simple and effective pruning approach for large language models", 2023, equation 1.

    >>> wanda(np.array([[1.0, -1.0]]), np.array([2.0, 3.0]))
    array([[2., 3.]])
    """
    shape = tuple(weights.shape)
    axis = inputs_axis(shape)
    if not shape or tuple(input_norms.shape) != shape[axis : axis + 1]:
        expected = shape[axis : axis + 1]
        raise WeightError(
            f"wanda: a weight of shape {shape} needs input norms of shape {expected}, got {tuple(input_norms.shape)}"
        )
    xp = namespace(weights)
    return rankable(magnitude(weights)) * xp.reshape(
        rankable(plain(input_norms)), (-1, *(1 for _ in shape[axis + 1 :]))
    )


@dataclass(frozen=True)
class Score:
    """How a score is called.

    Args:
        function: The score. Its first argument is the weights; `bn_scale` and `random` need their own besides.
        gradients: Whether the second argument is the gradients.
        accumulates: Whether the values of all updates since the start are added up.
    """

    function: Callable[..., Array]
    gradients: bool = False
    accumulates: bool = False


SCORES: Mapping[str, Score] = {
    "magnitude": Score(magnitude),
    "movement": Score(movement, gradients=True, accumulates=True),
    "taylor": Score(taylor, gradients=True),
    "fpgm": Score(fpgm),
    "bn_scale": Score(bn_scale),
    "random": Score(random),
}
"""The scores a recipe may name."""


def _product(weights: Array, gradients: Array, what: str) -> Array:
    if tuple(weights.shape) != tuple(gradients.shape):
        raise WeightError(
            f"{what}: weights of shape {tuple(weights.shape)} got gradients of shape {tuple(gradients.shape)}"
        )
    return _real(weights) * _real(gradients)


def _real(array: Array) -> Array:
    """Return values that can be multiplied without loss: float32 or float64."""
    values = rankable(plain(array))
    xp = namespace(values)
    return values if xp.isdtype(values.dtype, "real floating") else xp.astype(values, xp.float64)


def _distance_sums(filters: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the sum of Euclidean distances of each row to all rows, float64.

    ``|a - b|^2 = |a|^2 + |b|^2 - 2 a.b`` turns all pairs into one matrix product. It cancels badly where rows are
    equal, so equal rows are merged first: their distance is 0 by construction.
    """
    largest = float(np.max(np.abs(filters.astype(np.float64, copy=False))))
    exponent = math.frexp(largest)[1]
    rows = np.ldexp(filters.astype(np.float64), -exponent) + 0.0  # + 0.0: -0.0 and 0.0 are one value
    known: dict[bytes, int] = {}
    which = np.array([known.setdefault(row.tobytes(), len(known)) for row in rows])
    rows = rows[np.unique(which, return_index=True)[1]]
    counts = np.bincount(which).astype(np.float64)
    squares = np.einsum("ij,ij->i", rows, rows)
    sums = np.empty(len(rows))
    step = max(1, _PAIRS // len(rows))
    for start in range(0, len(rows), step):
        block = slice(start, start + step)
        distances = squares[block, np.newaxis] + squares - 2.0 * (rows[block] @ rows.T)
        np.fill_diagonal(distances[:, start:], 0.0)
        sums[block] = np.sqrt(np.maximum(distances, 0.0)) @ counts
    result: np.ndarray[Any, Any] = np.ldexp(sums, exponent)[which]
    return result


def _descending(flat: Array) -> Array:
    """Return the order of falling values; of equal ones the earlier first."""
    if isinstance(flat, np.ndarray):
        return np.argsort(-flat, kind="stable")
    return namespace(flat).argsort(flat, descending=True, stable=True)


def _inverse(order: Array) -> Array:
    """Return the permutation that undoes `order`."""
    if isinstance(order, np.ndarray):
        inverse = np.empty_like(order)
        inverse[order] = np.arange(order.size)
        return inverse
    return namespace(order).argsort(order)
