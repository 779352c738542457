"""Kernel patterns: every 3x3 kernel keeps the positions of one pattern out of a small library."""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import array_api_compat
import numpy as np

from mopruning.arrays import Array, namespace
from mopruning.blocks import in_blocks
from mopruning.counting import zeros_of
from mopruning.errors import RecipeError
from mopruning.granularity.base import Granularity, Shape
from mopruning.selection import keep_largest
from mopruning.sums import scale_of, scaled

_CELLS = 9

LIBRARIES = {
    # the centre with three of its four neighbours, then the 2x2 squares around the centre; row-major
    4: (
        "010111000",
        "010011010",
        "000111010",
        "010110010",
        "110110000",
        "011011000",
        "000110110",
        "000011011",
    ),
    # the X, the cross and the two brackets of the published five-entry programs
    5: ("101010101", "010111010", "110010110", "011010011"),
}


@dataclass(frozen=True)
class KernelPattern(Granularity):
    """Each 3x3 kernel keeps one pattern of a library; past that, whole kernels go (connectivity pruning).

    A kernel takes the pattern that holds the largest sum of its scores; of equal sums the earlier pattern. With
    patterns of e entries, sparsity ``1 - e/9`` applies them to all kernels. A larger one removes, besides, the
    kernels whose kept entries sum to the least; a smaller one (on a ramp) applies patterns to the kernels that
    lose least by it.

    Args:
        entries: 4 or 5, choosing a built-in library; ignored where `patterns` is given.
        patterns: Own library: strings of nine 0 and 1 in row-major order, all with the same number of 1.

    Raises:
        RecipeError: If there is no such library, or a pattern is malformed.

    Source: Niu et al., "PatDNN: achieving real-time DNN execution on mobile devices with pattern-based weight
    pruning", ASPLOS 2020, sections 4.1 and 4.2.
    """

    entries: int = 4
    patterns: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        patterns = tuple(self.patterns)
        if not patterns:
            if self.entries not in LIBRARIES:
                raise RecipeError(f"KernelPattern: entries must be one of {sorted(LIBRARIES)}, got {self.entries!r}")
            patterns = LIBRARIES[self.entries]
        counts = {p.count("1") for p in patterns if isinstance(p, str) and len(p) == _CELLS and set(p) <= {"0", "1"}}
        if len(counts) != 1 or any(not isinstance(p, str) or len(p) != _CELLS for p in patterns) or 0 in counts:
            raise RecipeError(f"KernelPattern: expected strings of nine 0 and 1 with equally many 1, got {patterns!r}")
        object.__setattr__(self, "patterns", patterns)
        object.__setattr__(self, "entries", counts.pop())

    def __str__(self) -> str:
        if self.patterns == LIBRARIES.get(self.entries):
            return "pattern" if self.entries == 4 else f"pattern:{self.entries}"
        return "pattern:" + ",".join(self.patterns)

    def misfit(self, shape: Shape) -> str | None:
        return (
            None if len(shape) == 4 and shape[2:] == (3, 3) else f"kernel patterns need 3x3 kernels, got shape {shape}"
        )

    def zeros(self, shape: Shape, sparsity: float) -> int:
        patterned, removed = self._counts(shape, sparsity)
        return patterned * (_CELLS - self.entries) + removed * self.entries

    def _counts(self, shape: Shape, sparsity: float) -> tuple[int, int]:
        """Return how many kernels take a pattern and how many of those are removed whole."""
        kernels = math.prod(shape) // _CELLS
        zeros = zeros_of(sparsity, kernels * _CELLS)
        by_pattern = kernels * (_CELLS - self.entries)
        if zeros < by_pattern:
            return zeros // (_CELLS - self.entries), 0
        return kernels, (zeros - by_pattern) // self.entries

    def keep(self, scores: Array, sparsity: float) -> Array:
        def select(stakes: Array, count: int) -> Array:
            return keep_largest([stakes], count)[0]

        return self.keep_by(scores, scores.shape, sparsity, scale_of(scores, _CELLS), select)

    def keep_by(
        self, scores: Array, shape: Shape, sparsity: float, scale: float, select: Callable[[Array, int], Array]
    ) -> Array:
        """Return the mask of some kernels of a weight, all of them in the usual case.

        Args:
            scores: Finite scores of the kernels, [..., 3, 3].
            shape: Shape of the whole weight.
            sparsity: Share of zeros of the whole weight.
            scale: What `scale_of` says of the whole weight, for a sum of nine.
            select: Takes what is at stake for each of these kernels and how many are kept of the whole weight's;
                returns which of these are.
        """
        xp = namespace(scores)
        patterned, removed = self._counts(shape, sparsity)
        kernels = xp.reshape(scores, (-1, _CELLS))
        count, total = kernels.shape[0], math.prod(shape) // _CELLS
        if total == 0:
            return xp.astype(scores, xp.bool)
        border = patterned < total  # some kernels stay whole, or else some may be removed: ranked by what is at stake
        if isinstance(scores, np.ndarray):  # in blocks: the float64 scores of all kernels never stand in memory
            best = np.empty(kernels.shape, np.bool_)
            stakes = np.empty(count if border or removed else 0)

            def choose(start: int, stop: int) -> None:
                best[start:stop], kept, lost = self._choose(kernels[start:stop], scale)
                if stakes.size:
                    stakes[start:stop] = lost if border else kept

            in_blocks(choose, count, scores.size)
        else:
            best, kept, lost = self._choose(kernels, scale)
            stakes = lost if border else kept
        if border:  # a kernel stays whole where its pattern would cost most
            best = best | select(stakes, total - patterned)[:, None]
        if removed:
            best = best & select(stakes, total - removed)[:, None]
        return xp.reshape(best, scores.shape)

    def _choose(self, kernels: Array, scale: float) -> tuple[Array, Array, Array]:
        """Return for each kernel its pattern, the sum of the scores that this keeps, and of those it drops."""
        xp = namespace(kernels)
        device = array_api_compat.device(kernels)
        values = scaled(xp.permute_dims(kernels, (1, 0)), scale)
        totals = []
        for pattern in self.patterns:
            cells = [i for i, bit in enumerate(pattern) if bit == "1"]
            totals.append(sum((values[i, :] for i in cells[1:]), values[cells[0], :]))
        kept = functools.reduce(xp.maximum, totals)
        choice = xp.zeros(kept.shape, dtype=xp.int64, device=device)
        for index in range(len(totals) - 1, -1, -1):  # of equal sums the earlier pattern
            choice = xp.where(totals[index] == kept, index, choice)
        library = xp.asarray([[bit == "1" for bit in pattern] for pattern in self.patterns], device=device)
        return xp.take(library, choice, axis=0), kept, xp.sum(values, axis=0) - kept


def natural_patterns(weights: Any, size: int = 8, entries: int = 4) -> tuple[str, ...]:
    """Choose a pattern library from a network: its most frequent natural patterns.

    The natural pattern of a kernel is its centre and its ``entries - 1`` largest other magnitudes.

    Args:
        weights: Iterable of NumPy arrays [out, in, 3, 3]; others are passed over.
        size: Patterns in the library.
        entries: Positions a pattern keeps, 2 to 8.

    Returns:
        Up to `size` patterns for `KernelPattern`, most frequent first, ties in the order of their text.

    Raises:
        RecipeError: If no weight has 3x3 kernels.

    Source: PatDNN, section 4.1.

    >>> w = np.zeros((1, 2, 3, 3)); w[..., 0, :] = 1.0
    >>> natural_patterns([w])
    ('111010000',)
    """
    found: Counter[str] = Counter()
    for weight in weights:
        if weight.ndim != 4 or weight.shape[2:] != (3, 3):
            continue
        kernels = np.abs(np.asarray(weight, np.float64)).reshape(-1, _CELLS)
        kernels[:, _CELLS // 2] = np.inf
        order = np.argsort(-kernels, axis=1, kind="stable")[:, :entries]
        bits = np.zeros(kernels.shape, np.uint8)
        np.put_along_axis(bits, order, 1, axis=1)
        rows, counts = np.unique(bits, axis=0, return_counts=True)
        for row, count in zip(rows, counts, strict=True):
            found["".join(map(str, row))] += int(count)
    if not found:
        raise RecipeError("natural_patterns: none of the weights has 3x3 kernels")
    return tuple(sorted(found, key=lambda p: (-found[p], p))[:size])
