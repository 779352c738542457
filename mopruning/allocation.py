"""Allocation: how sparse each layer is, so that together they reach the sparsity asked for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from mopruning.arrays import Array, host_view, plain, rankable
from mopruning.counting import check_sparsity, sparsity_of, zeros_of
from mopruning.errors import RecipeError
from mopruning.granularity.base import Granularity, Shape
from mopruning.granularity.units import Units
from mopruning.parts import Parts
from mopruning.scores import lamp


def uniform(
    shapes: Mapping[str, Shape], sparsity: float, minimum: float = 0.0, maximum: float = 1.0
) -> dict[str, float]:
    """Give every layer the same sparsity.

    Args:
        shapes: Canonical shape of each layer, by name.
        sparsity: Share of zeros over all layers, 0 to 1.
        minimum: Least sparsity of a layer.
        maximum: Largest sparsity of a layer.

    Returns:
        Sparsity of each layer, by name.

    Raises:
        RecipeError: If `sparsity` lies outside the bounds.

    >>> uniform({"conv": (8, 4, 3, 3), "fc": (10, 8)}, 0.9)
    {'conv': 0.9, 'fc': 0.9}
    """
    _check_reach(sparsity, minimum, maximum)
    return dict.fromkeys(shapes, float(sparsity))


def erk(shapes: Mapping[str, Shape], sparsity: float, minimum: float = 0.0, maximum: float = 1.0) -> dict[str, float]:
    """Leave more of a layer whose weights are few for its extents (Erdős-Rényi-Kernel).

    The density of a layer is proportional to the sum of its extents over their product. A layer that would be
    denser than dense, or passes a bound, is fixed there, and the rest are solved again for what remains.

    Args:
        shapes: Canonical shape of each layer, by name.
        sparsity: Share of zeros over all layers, 0 to 1.
        minimum: Least sparsity of a layer.
        maximum: Largest sparsity of a layer.

    Returns:
        Sparsity of each layer, by name. Each stands for a whole number of zeros, and these add up to the request.

    Raises:
        RecipeError: If `sparsity` lies outside the bounds.

    Source: Evci et al., "Rigging the lottery: making all tickets winners", 2020, section 3.

    >>> erk({"wide": (100, 100), "narrow": (10, 10)}, 0.5)
    {'wide': 0.505, 'narrow': 0.0}
    """
    _check_reach(sparsity, minimum, maximum)
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    spread = {name: float(sum(shape)) or 1.0 for name, shape in shapes.items()}  # proportional to the weights kept

    def solve(free: Sequence[str], zeros: float) -> dict[str, float]:
        kept = (sum(sizes[name] for name in free) - zeros) / (sum(spread[name] for name in free) or 1.0)
        return {name: sizes[name] - kept * spread[name] for name in free}

    lower = {name: zeros_of(minimum, size) for name, size in sizes.items()}
    upper = {name: zeros_of(maximum, size) for name, size in sizes.items()}
    total = _total_zeros(sparsity, sizes, lower, upper)
    exact = _within_bounds(total, lower, upper, solve)
    zeros = {name: math.floor(value + 1e-9) for name, value in exact.items()}
    # What cutting off the fractions took away goes to the largest of them.
    lost = max(0, total - sum(zeros.values()))
    for name in sorted(exact, key=lambda name: zeros[name] - exact[name])[:lost]:
        zeros[name] += 1
    return {name: sparsity_of(zeros[name], size) for name, size in sizes.items()}


def global_threshold(
    scores: Mapping[str, Array],
    granularities: Mapping[str, Granularity],
    sparsity: float,
    minimum: float = 0.0,
    maximum: float = 1.0,
) -> dict[str, float]:
    """Rank the weights of all layers against each other and read off how many each layer loses.

    Weights are ranked one by one, or by the mean score of their unit where a granularity removes whole units. A
    layer that passes a bound is fixed there, and the rest are ranked again for what remains. Where a granularity
    rounds a layer's share down (a bank loses whole weights per bank), the rest goes to the layers that lost most
    by it, as far as it fits: never more zeros than asked, and all of them where every layer is unstructured.

    Args:
        scores: Scores of each layer, canonical, by name, of any one array library; looked up several times and
            never held, so that a mapping may compute them.
        granularities: Granularity of each layer, by name; each must fit.
        sparsity: Share of zeros over all layers, 0 to 1.
        minimum: Least sparsity of a layer.
        maximum: Largest sparsity of a layer; what a granularity can hold (2:4 half) bounds it as well, and where
            all layers are full there are fewer zeros than asked.

    Returns:
        Sparsity of each layer, by name: what `mask` needs to carry it out.

    Raises:
        RecipeError: If `sparsity` lies outside the bounds, or a granularity does not fit.
        WeightError: If a score is NaN or infinite.

    Source: Han et al., "Learning both weights and connections for efficient neural networks", 2015, one threshold
    for all layers.

    >>> from mopruning.granularity import Unstructured
    >>> layers = {"a": np.array([1.0, 2.0, 3.0, 4.0]), "b": np.array([3.5, 5.0])}
    >>> global_threshold(layers, dict.fromkeys(layers, Unstructured()), 0.5)
    {'a': 0.75, 'b': 0.0}
    """
    _check_reach(sparsity, minimum, maximum)
    return share_out(Parts(scores, granularities), granularities, sparsity, minimum, maximum)


class Ranked(Protocol):
    """Layers whose weights can be ranked against each other, as `mopruning.parts.Parts`."""

    @property
    def shapes(self) -> Mapping[str, Shape]:
        """Shape of each layer, by name."""

    def kept(self, names: Sequence[str], keep: int) -> list[int]:
        """Count how many weights of each of some layers are among the `keep` largest of all of these."""


def share_out(
    parts: Ranked, granularities: Mapping[str, Granularity], sparsity: float, minimum: float, maximum: float
) -> dict[str, float]:
    """Return what `global_threshold` does, of layers that are ranked already."""
    _check_reach(sparsity, minimum, maximum)
    sizes = {name: math.prod(shape) for name, shape in parts.shapes.items()}
    most = {name: min(maximum, granularities[name].ceiling()) for name in sizes}
    upper = {name: zeros_of(most[name], size) for name, size in sizes.items()}
    lower = {name: min(upper[name], zeros_of(minimum, size)) for name, size in sizes.items()}

    def solve(free: Sequence[str], zeros: float) -> dict[str, float]:
        kept = parts.kept(free, sum(sizes[name] for name in free) - int(zeros))
        return {name: sizes[name] - count for name, count in zip(free, kept, strict=True)}

    total = _total_zeros(sparsity, sizes, lower, upper)
    zeros = {name: int(count) for name, count in _within_bounds(total, lower, upper, solve).items()}
    zeros = _top_up(zeros, upper, parts.shapes, granularities)
    return {name: sparsity_of(zeros[name], size) for name, size in sizes.items()}


def lamp_threshold(
    scores: Mapping[str, Array],
    granularities: Mapping[str, Granularity],
    sparsity: float,
    minimum: float = 0.0,
    maximum: float = 1.0,
) -> dict[str, float]:
    """Allocate as `global_threshold` does, by magnitudes that LAMP has made comparable between layers.

    Args:
        scores: Magnitudes of each layer, canonical, by name; what is below 0 counts as 0.
        granularities: As for `global_threshold`.
        sparsity: As for `global_threshold`.
        minimum: As for `global_threshold`.
        maximum: As for `global_threshold`.

    Returns:
        Sparsity of each layer, by name.

    Raises:
        RecipeError: If `sparsity` lies outside the bounds, or a granularity does not fit.
        WeightError: If a score is NaN or infinite.

    Source: Lee et al., "Layer-adaptive sparsity for the magnitude-based pruning", 2021.

    >>> from mopruning.granularity import Unstructured
    >>> layers = {"small": np.array([0.01, 0.02]), "large": np.array([1.0, 1.0, 1.0, 8.0])}
    >>> lamp_threshold(layers, dict.fromkeys(layers, Unstructured()), 0.5)
    {'small': 0.0, 'large': 0.75}
    """
    return global_threshold(_Lamp(scores, granularities), granularities, sparsity, minimum, maximum)


def global_masks(
    scores: Mapping[str, Array], sparsity: float, key: Callable[[Array], Array] | None = None
) -> dict[str, Array]:
    """Choose the weights to keep over all layers at once, unstructured: one threshold, one pass.

    The masks are those that `global_threshold` and `mask` give in two steps.

    Args:
        scores: Scores of each layer, by name, of any one array library; looked up several times and never held, so
            that a mapping may compute them.
        sparsity: Share of zeros over all layers, 0 to 1; there are ``floor(sparsity * n + 1e-9)`` of n weights.
        key: Elementwise function of what scores are ranked by, applied a block at a time: with `abs`, `scores` may
            be floating-point weights, and their magnitudes never stand in memory.

    Returns:
        Bool mask of each layer, by name, True = keep; same library, device and shape as its scores. Of equal
        scores the earlier layer's, then the earlier index, is kept.

    Raises:
        RecipeError: If `sparsity` is not from 0 to 1.
        WeightError: If a score is NaN or infinite.

    >>> global_masks({"a": np.array([1.0, 4.0]), "b": np.array([3.0, 2.0])}, 0.5)
    {'a': array([False,  True]), 'b': array([ True, False])}
    >>> global_masks({"a": np.array([1.0, -4.0]), "b": np.array([-3.0, 2.0])}, 0.5, key=abs)
    {'a': array([False,  True]), 'b': array([ True, False])}
    """
    sparsity = check_sparsity(sparsity)
    parts = Parts(scores, key=key)
    total = sum(math.prod(shape) for shape in parts.shapes.values())
    marks = parts.keep_largest(list(parts.shapes), total - zeros_of(sparsity, total))
    return {name: parts.restore(name, mark) for name, mark in zip(parts.shapes, marks, strict=True)}


@dataclass(frozen=True)
class Allocation:
    """How an allocation is called.

    Args:
        function: Takes shapes, or scores and granularities; then sparsity, minimum and maximum. Returns the
            sparsity of each layer, by name.
        scores: Whether it needs scores and granularities, and so waits for a mask update; otherwise shapes do.
    """

    function: Callable[..., dict[str, float]]
    scores: bool = False


ALLOCATIONS: Mapping[str, Allocation] = {
    "uniform": Allocation(uniform),
    "global": Allocation(global_threshold, scores=True),
    "erk": Allocation(erk),
    "lamp": Allocation(lamp_threshold, scores=True),
}
"""The allocations a recipe may name."""


def _check_reach(sparsity: float, minimum: float, maximum: float) -> None:
    check_sparsity(sparsity)
    check_sparsity(minimum, "minimum sparsity of a layer")
    check_sparsity(maximum, "maximum sparsity of a layer")
    if minimum > maximum:
        raise RecipeError(f"minimum sparsity of a layer, {minimum:g}, exceeds the maximum, {maximum:g}")
    if not minimum <= sparsity <= maximum:
        raise RecipeError(
            f"sparsity {sparsity:g} cannot be reached: with every layer from {minimum:g} to {maximum:g} the whole "
            "lies between these as well; widen the bounds or change the sparsity"
        )


def _total_zeros(sparsity: float, sizes: Mapping[str, int], lower: Mapping[str, int], upper: Mapping[str, int]) -> int:
    """Return the zeros of all layers together, within what the layers' own, rounded bounds add up to."""
    return min(max(zeros_of(sparsity, sum(sizes.values())), sum(lower.values())), sum(upper.values()))


def _within_bounds(
    total: int,
    lower: Mapping[str, int],
    upper: Mapping[str, int],
    solve: Callable[[Sequence[str], float], dict[str, float]],
) -> dict[str, float]:
    """Distribute `total` zeros so that every layer keeps its bounds.

    Layers past a bound are fixed at it, on that side only on which more is amiss: the others move away from it
    when the rest is solved again, so none is fixed that would not stay there (variable fixing; Bitran and Hax,
    "Disaggregation and resource allocation using convex knapsack problems with bounded variables", 1981).
    """
    fixed: dict[str, float] = {}
    free = list(lower)
    while True:
        found = solve(free, total - sum(fixed.values()))
        below = {name: lower[name] for name in free if found[name] < lower[name]}
        above = {name: upper[name] for name in free if found[name] > upper[name]}
        missing = sum(bound - found[name] for name, bound in below.items())
        excess = sum(found[name] - bound for name, bound in above.items())
        bound = (below if missing >= excess else {}) | (above if excess >= missing else {})
        if not bound:
            return {name: found[name] if name in found else fixed[name] for name in lower}
        fixed |= bound
        free = [name for name in free if name not in bound]


def _top_up(
    zeros: Mapping[str, int],
    upper: Mapping[str, int],
    shapes: Mapping[str, Shape],
    granularities: Mapping[str, Granularity],
) -> dict[str, int]:
    """Hand the zeros that granularities round away to the layers that lost the largest part of a step."""

    def realised(name: str, count: int) -> int:
        return granularities[name].zeros(shapes[name], sparsity_of(count, math.prod(shapes[name])))

    result = dict(zeros)
    spare, steps = 0, []
    for name, count in zeros.items():
        reached = realised(name, count)
        if reached == count:
            continue
        spare += count - reached
        low, high = count, upper[name]  # the least count that reaches more, by halving
        if realised(name, high) == reached:
            continue
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if realised(name, middle) > reached else (middle, high)
        step = realised(name, high) - reached
        steps.append((-(count - reached) / step, name, high, step))
    for _, name, count, step in sorted(steps, key=lambda row: row[0]):
        if step <= spare:
            result[name] = count
            spare -= step
    return result


class _Lamp(Mapping[str, Array]):
    """LAMP scores by name. Only where units add up does it matter which weight has which score."""

    def __init__(self, scores: Mapping[str, Array], granularities: Mapping[str, Granularity]) -> None:
        self._scores, self._granularities = scores, granularities

    def __getitem__(self, name: str) -> Array:
        scores = plain(self._scores[name])
        view = host_view(scores)
        if view is not None and not isinstance(self._granularities[name], Units):
            ranked = rankable(view)
            scores = np.sort(ranked, axis=None)[::-1].reshape(ranked.shape)  # ten times as fast as ordering indices
        return lamp(scores, name=name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._scores)

    def __len__(self) -> int:
        return len(self._scores)
