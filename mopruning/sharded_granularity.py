"""Granularities on arrays that ranks share out: which kernels are decided here, and what has to be told to others.

No rank ever sees a whole parameter. What lies within one rank is decided there. Across ranks go: histograms of one
group over all weights (`Unstructured`), sums of units, and the elements of those balanced groups that a border cuts.
"""

from __future__ import annotations

import math

import numpy as np

from mopruning import selection
from mopruning.arrays import Array, like, namespace, on_host
from mopruning.counting import zeros_of
from mopruning.granularity import NM, Balanced, BankBalanced, Granularity, KernelPattern, Unstructured
from mopruning.granularity.base import Shape, inputs_axis
from mopruning.granularity.units import Units
from mopruning.sharded_selection import keep_largest
from mopruning.shards import Exchange, NumPyArray, Shard
from mopruning.sums import scale_for, sums_within


def refusal(granularity: Granularity, shard: Shard) -> str | None:
    """Say why a weight that a granularity fits cannot be pruned so where it is shared out, or None where it can."""
    if isinstance(granularity, KernelPattern) and shard.axis > 1:
        return "its kernels are cut"
    extent = _balanced_extent(granularity, shard.shape, shard.axis)
    if extent is None or len(shard.shape) < 2:
        return None
    rows = sum(stop - start for start, stop in _cut_stretches(shard, extent))
    if 0 < rows == shard.shape[shard.axis]:
        return (
            f"every group of {extent} along axis {shard.axis} of {rows} lies on several ranks, so that all weights "
            "would have to be gathered"
        )
    return None


def keep(scores: Array, granularity: Granularity, sparsity: float, shard: Shard, exchange: Exchange) -> Array:
    """Return what lies here of the mask that `Granularity.keep` gives of the whole scores, bit for bit.

    Args:
        scores: Finite scores, what lies here of them, in a dtype whose comparisons are native.
        granularity: One that fits, and that `refusal` has nothing against.
        sparsity: Share of zeros, 0 to 1.
        shard: How the scores are shared out.
        exchange: What connects the ranks.
    """
    if isinstance(granularity, Unstructured):
        return keep_largest(scores, shard.size - granularity.zeros(shard.shape, sparsity), shard, exchange)
    if isinstance(granularity, Units):
        return _keep_units(scores, granularity, sparsity, shard, exchange)
    if isinstance(granularity, KernelPattern):
        return _keep_patterns(scores, granularity, sparsity, shard, exchange)
    return _keep_balanced(scores, granularity, sparsity, shard, exchange)


def sharded_means(scores: Array, granularity: Units, shard: Shard, exchange: Exchange) -> NumPyArray:
    """Return for each element that lies here the mean score of its unit, float64, in host memory."""
    unit = granularity.unit(shard.shape)
    largest = _largest(scores, exchange)
    scale = scale_for(largest, math.prod(unit))
    whole = float(np.rint(largest * scale))
    sums, grid = _unit_sums(scores, unit, scale, shard, exchange)
    return _spread(sums * ((largest / whole if whole else 0.0) / math.prod(unit)), grid, unit, shard)


def _keep_units(scores: Array, granularity: Units, sparsity: float, shard: Shard, exchange: Exchange) -> Array:
    unit = granularity.unit(shard.shape)
    scale = scale_for(_largest(scores, exchange), math.prod(unit))
    sums, grid = _unit_sums(scores, unit, scale, shard, exchange)
    count = granularity.units(shard.shape)
    kept = count - zeros_of(sparsity, count)
    if grid is None:
        marks = selection.keep_largest([sums.reshape(-1)], kept)[0].reshape(sums.shape)
    else:
        marks = keep_largest(sums, kept, grid, exchange)
    return like(_spread(marks, grid, unit, shard), scores)


def _unit_sums(
    scores: Array, unit: Shape, scale: float, shard: Shard, exchange: Exchange
) -> tuple[NumPyArray, Shard | None]:
    """Add up the scores of each unit, as whole numbers.

    Returns:
        The sums of the units that lie here and how their grid is shared out, or, where a border cuts units, the sums
        of all of them and None.
    """
    extent, axis = unit[shard.axis], shard.axis
    counts = tuple(n // u for n, u in zip(shard.shape, unit, strict=True))
    first, last = shard.start // extent, -(-shard.stop // extent)
    here = np.zeros((*counts[:axis], last - first, *counts[axis + 1 :]))
    for start, stop in _stretches(shard.start, shard.stop, extent):
        piece = scores[shard.index(start - shard.start, stop - shard.start)]
        size = (*unit[:axis], min(extent, stop - start), *unit[axis + 1 :])  # of a unit's part that lies here
        split = tuple(part for n, u in zip(piece.shape, size, strict=True) for part in (n // u, u))
        sums = sums_within(namespace(piece).reshape(piece, split), tuple(range(1, len(split), 2)), scale)
        place = shard.index(start // extent - first, -(-stop // extent) - first)
        here[place] = on_host(sums).reshape(split[::2])
    if not shard.cut(extent):
        return here, Shard(counts, axis, tuple(border // extent for border in shard.borders), shard.rank)
    everywhere = np.zeros(counts)
    everywhere[shard.index(first, last)] = here
    return exchange.add(everywhere), None


def _spread(values: NumPyArray, grid: Shard | None, unit: Shape, shard: Shard) -> NumPyArray:
    """Return for each element that lies here the value of its unit; of which units there are values, `grid` tells."""
    first = 0 if grid is None else grid.start
    rows = np.arange(shard.start, shard.stop) // unit[shard.axis] - first
    column = np.take(values, rows, axis=shard.axis)
    extents = (*unit[: shard.axis], 1, *unit[shard.axis + 1 :])
    wide = np.broadcast_to(
        column.reshape([part for n in column.shape for part in (n, 1)]),
        [part for n, u in zip(column.shape, extents, strict=True) for part in (n, u)],
    )
    return wide.reshape(shard.held)


def _keep_patterns(
    scores: Array, granularity: KernelPattern, sparsity: float, shard: Shard, exchange: Exchange
) -> Array:
    kernels = Shard(shard.shape[:2], shard.axis, shard.borders, shard.rank)

    def select(stakes: Array, count: int) -> Array:
        xp = namespace(stakes)
        return xp.reshape(keep_largest(xp.reshape(stakes, kernels.held), count, kernels, exchange), (-1,))

    scale = scale_for(_largest(scores, exchange), math.prod(shard.shape[2:]))
    return granularity.keep_by(scores, shard.shape, sparsity, scale, select)


def _keep_balanced(scores: Array, granularity: Granularity, sparsity: float, shard: Shard, exchange: Exchange) -> Array:
    """Decide whole groups here; of a group that a border cuts every rank gets the elements and does the same."""
    extent = _balanced_extent(granularity, shard.shape, shard.axis)
    assert extent is not None  # of granularities that ask, only the balanced ones come here
    cut = _cut_stretches(shard, extent)
    joint = _joint(scores, cut, shard, exchange) if cut else np.empty(shard.lengthened(0))
    decided = granularity.keep(joint, sparsity) if cut else joint
    begins = np.cumsum([0, *(stop - start for start, stop in cut)])
    xp = namespace(scores)
    marks = [xp.astype(scores[shard.index(0, 0)], xp.bool)]
    for start, stop in _stretches(shard.start, shard.stop, extent):
        whole = next((i for i, (a, b) in enumerate(cut) if a <= start < b), None)
        if whole is None:
            piece = scores[shard.index(start - shard.start, stop - shard.start)]
            marks.append(granularity.keep(piece, sparsity))
        else:
            offset = int(begins[whole]) - cut[whole][0]
            marks.append(like(decided[shard.index(start + offset, stop + offset)], scores))
    return xp.concat(marks, axis=shard.axis)


def _joint(scores: Array, cut: list[tuple[int, int]], shard: Shard, exchange: Exchange) -> NumPyArray:
    """Return the elements of some stretches of the shared axis, one after the other, wherever they lie."""
    host = on_host(scores)
    result = np.zeros(shard.lengthened(sum(stop - start for start, stop in cut)), np.float64)
    result = result if host.dtype.kind == "f" else result.astype(np.int64)
    begin = 0
    for start, stop in cut:
        first, last = max(start, shard.start), min(stop, shard.stop)
        if first < last:
            place = shard.index(begin + first - start, begin + last - start)
            result[place] = host[shard.index(first - shard.start, last - shard.start)]
        begin += stop - start
    return exchange.add(result)


def _cut_stretches(shard: Shard, extent: int) -> list[tuple[int, int]]:
    """Return where the groups of `extent` begin and end that a border cuts."""
    length = shard.shape[shard.axis]
    return [(group * extent, min((group + 1) * extent, length)) for group in shard.cut(extent)]


def _stretches(start: int, stop: int, extent: int) -> list[tuple[int, int]]:
    """Cut a stretch into a part of a group of `extent`, whole groups, and a part of one, as far as there are such."""
    head = min(stop, -(-start // extent) * extent)
    tail = max(head, stop - stop % extent)
    return [(a, b) for a, b in ((start, head), (head, tail), (tail, stop)) if a < b]


def _balanced_extent(granularity: Granularity, shape: Shape, axis: int) -> int | None:
    """Return how many consecutive indices of an axis make a balanced group; None where a granularity has none."""
    if isinstance(granularity, Balanced):
        tile = granularity.tile[axis]
        return shape[axis] if tile == -1 else tile
    if isinstance(granularity, BankBalanced | NM):
        group = granularity.bank if isinstance(granularity, BankBalanced) else granularity.m
        return group if axis == inputs_axis(shape) else 1
    return None


def _largest(scores: Array, exchange: Exchange) -> float:
    """Return the largest magnitude of scores on all ranks."""
    here = 0.0
    if math.prod(scores.shape):
        xp = namespace(scores)
        here = max(float(xp.max(scores)), -float(xp.min(scores)))
    return float(exchange.largest(np.array([here]))[0])
