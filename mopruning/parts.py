"""Parts: the scores of many layers, ranked as one without ever standing in memory together."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import array_api_compat
import numpy as np

from mopruning.arrays import Array, count_true, like, namespace, native, plain
from mopruning.errors import RecipeError
from mopruning.granularity.base import Granularity, Shape
from mopruning.granularity.units import Units
from mopruning.masks import check_finite
from mopruning.selection import keep_largest
from mopruning.sums import integral


class Parts:
    """The scores of layers, checked once and looked up anew each time they are ranked.

    Args:
        scores: Scores of each layer, by name, of any one array library; may be computed when looked up.
        granularities: By name; a layer whose granularity removes whole units is ranked by its units' mean scores.
        key: Elementwise function of what is ranked, such as `abs`. It sees a block at a time, so that what it gives
            never stands in memory; `scores` are then taken to stand there already, and are held.

    Attributes:
        shapes: Shape of each layer, by name.

    Raises:
        RecipeError: If a granularity does not fit.
        WeightError: If a score is NaN or infinite.

    >>> parts = Parts({"a": np.array([[1.0, 4.0]]), "b": np.array([3.0, 2.0])})
    >>> parts.keep_largest(["a", "b"], 2)
    [array([False,  True]), array([ True, False])]
    """

    def __init__(
        self,
        scores: Mapping[str, Array],
        granularities: Mapping[str, Granularity] | None = None,
        key: Callable[[Array], Array] | None = None,
    ) -> None:
        self._scores, self._granularities, self._key = scores, granularities or {}, key
        self._dtype: np.dtype[Any] | None = None
        self._origins: dict[str, Array] = {}  # an empty array each, which remembers library and device
        self.shapes: dict[str, Shape] = {}
        dtypes = []
        for name in scores:
            values = plain(scores[name])
            shape = tuple(values.shape)
            granularity = self._granularities.get(name)
            if granularity is not None and (reason := granularity.misfit(shape)):
                raise RecipeError(f"{name} {shape} cannot be allocated to {granularity}: {reason}")
            ranked = native(values)
            check_finite(ranked, name)
            self.shapes[name] = shape
            self._origins[name] = namespace(values).empty((0,), device=array_api_compat.device(values))
            dtypes.append(np.dtype(np.float64) if isinstance(granularity, Units) else ranked.dtype)
        # NumPy 1 compares float32 elements with a float64 threshold in float32, so all parts get one dtype. Other
        # libraries rank their parts joined, which promotes them.
        if dtypes and all(isinstance(dtype, np.dtype) for dtype in dtypes):
            self._dtype = np.result_type(*dtypes)

    def keep_largest(self, names: Sequence[str], keep: int) -> list[Array]:
        """Mark the `keep` largest scores of some layers, of equal ones the earlier: a flat bool array a layer."""
        computed = Computed(self._flat, names)
        return keep_largest(computed if self._key is None else list(computed), keep, self._key) if names else []

    def kept(self, names: Sequence[str], keep: int) -> list[int]:
        """Count how many scores of each of some layers are among the `keep` largest of all of these."""
        return [count_true(mark) for mark in self.keep_largest(names, keep)]

    def restore(self, name: str, mark: Array) -> Array:
        """Return the flat mark of a layer in the shape, library and device of its scores."""
        xp = namespace(mark)
        mask = xp.reshape(mark, self.shapes[name])
        return like(mask, self._origins[name]) if isinstance(mask, np.ndarray) else mask

    def _flat(self, name: str) -> Array:
        ranked = native(self._scores[name])
        granularity = self._granularities.get(name)
        if isinstance(granularity, Units):
            ranked = unit_means(ranked, granularity)
        flat = namespace(ranked).reshape(ranked, (-1,))
        return flat if self._dtype is None else flat.astype(self._dtype, copy=False)


class Computed(Sequence[Array]):
    """A sequence whose items are computed when they are looked up, by any thread.

    Selection works through it block by block, so the two latest items are remembered: threads at work on blocks
    around a border between two layers would otherwise compute both over and over.
    """

    def __init__(self, compute: Callable[[str], Array], names: Sequence[str]) -> None:
        self._compute, self._names = compute, names
        self._latest: dict[int, Array] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: Any) -> Any:
        with self._lock:
            if index not in self._latest:
                name = self._names[index]
                if len(self._latest) == 2:
                    del self._latest[next(iter(self._latest))]  # before the next is made, to hold two at most
                self._latest[index] = self._compute(name)
            return self._latest[index]


def unit_means(scores: Array, granularity: Units) -> Array:
    """Return for each element the mean score of its unit, float64; sums are exact, so every device finds the same."""
    xp = namespace(scores)
    shape = tuple(scores.shape)
    if math.prod(shape) == 0:
        return xp.astype(scores, xp.float64)
    unit = granularity.unit(shape)
    split = tuple(part for n, u in zip(shape, unit, strict=True) for part in (n // u, u))
    whole = integral(scores, math.prod(unit))
    largest = _largest(whole)
    scale = _largest(scores) / largest if largest else 0.0  # undoes that of `integral`, which differs between layers
    sums = xp.sum(xp.reshape(whole, split), axis=tuple(range(1, len(split), 2)), keepdims=True)
    return xp.reshape(xp.broadcast_to(sums * (scale / math.prod(unit)), split), shape)


def _largest(values: Array) -> float:
    xp = namespace(values)
    return max(float(xp.max(values)), -float(xp.min(values)))
