"""Balanced granularities: every group of weights holds the same number of zeros.

Unstructured is one group, bank-balanced and N:M are groups along the input channels: one mechanism serves all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from mopruning.arrays import Array, namespace
from mopruning.counting import zeros_of
from mopruning.errors import RecipeError
from mopruning.granularity.base import Granularity, Shape, inputs_axis
from mopruning.selection import keep_largest, keep_largest_in_groups

_GroupCount: TypeAlias = "Callable[[int], int]"
"""Maps the size of a group to a number of its weights."""


@dataclass(frozen=True)
class Unstructured(Granularity):
    """Any single weight may be zeroed; the whole tensor is one group.

    Source: Han et al., "Learning both weights and connections for efficient neural networks", 2015.
    """

    def __str__(self) -> str:
        return "unstructured"

    def misfit(self, shape: Shape) -> str | None:
        return None

    def zeros(self, shape: Shape, sparsity: float) -> int:
        return zeros_of(sparsity, math.prod(shape))

    def keep(self, scores: Array, sparsity: float) -> Array:
        xp = namespace(scores)
        (mark,) = keep_largest(
            [xp.reshape(scores, (-1,))], math.prod(scores.shape) - self.zeros(scores.shape, sparsity)
        )
        return xp.reshape(mark, scores.shape)


@dataclass(frozen=True)
class BankBalanced(Granularity):
    """Every bank of `bank` consecutive input channels holds the same number of zeros.

    A bank lies along the input channels, for each output channel and kernel position; at sparsity s it keeps
    ``bank - floor(bank * s)`` weights.

    Args:
        bank: Weights in a bank, 1 or more.
        tail: What happens where the input channels are no multiple of the bank: "dense" leaves the whole weight
            dense, "balance" makes a last, shorter bank and balances it too.

    Raises:
        RecipeError: If `bank` or `tail` is none of these.

    Source: Cao et al., "Efficient and effective sparse LSTM on FPGA with bank-balanced sparsity", FPGA 2019.
    """

    bank: int = 64
    tail: Literal["dense", "balance"] = "dense"

    def __post_init__(self) -> None:
        if not isinstance(self.bank, int) or self.bank < 1:
            raise RecipeError(f"BankBalanced: bank must be a whole number of 1 or more, got {self.bank!r}")
        if self.tail not in ("dense", "balance"):
            raise RecipeError(f"BankBalanced: tail must be 'dense' or 'balance', got {self.tail!r}")

    def __str__(self) -> str:
        return f"bank:{self.bank}" + (":balance" if self.tail == "balance" else "")

    def misfit(self, shape: Shape) -> str | None:
        return _indivisible(shape, 1 if self.tail == "balance" else self.bank, f"the bank of {self.bank}")

    def zeros(self, shape: Shape, sparsity: float) -> int:
        return _zeros_in_groups(shape, self.bank, lambda size: zeros_of(sparsity, size))

    def keep(self, scores: Array, sparsity: float) -> Array:
        return _keep_in_groups(scores, self.bank, lambda size: size - zeros_of(sparsity, size))


@dataclass(frozen=True)
class NM(Granularity):
    """At full sparsity ``1 - n/m``, exactly n of every m consecutive input channels are kept.

    At a smaller sparsity s (on a ramp) each group keeps ``m - floor(m * s)``; a larger one than ``1 - n/m`` still
    keeps n.

    Args:
        n: Weights kept in a group, 0 to m.
        m: Weights in a group, 1 or more.

    Raises:
        RecipeError: If not 0 <= n <= m.

    Source: Mishra et al., "Accelerating sparse deep neural networks", 2021.
    """

    n: int
    m: int

    def __post_init__(self) -> None:
        if not (isinstance(self.n, int) and isinstance(self.m, int) and 0 <= self.n <= self.m and self.m >= 1):
            raise RecipeError(f"NM: expected whole numbers 0 <= n <= m, m >= 1, got n={self.n!r}, m={self.m!r}")

    def __str__(self) -> str:
        return f"{self.n}:{self.m}"

    def ceiling(self) -> float:
        return 1.0 - self.n / self.m

    def misfit(self, shape: Shape) -> str | None:
        return _indivisible(shape, self.m, f"the group of {self.m}")

    def zeros(self, shape: Shape, sparsity: float) -> int:
        return _zeros_in_groups(shape, self.m, lambda size: self._group_zeros(sparsity))

    def keep(self, scores: Array, sparsity: float) -> Array:
        return _keep_in_groups(scores, self.m, lambda size: size - self._group_zeros(sparsity))

    def _group_zeros(self, sparsity: float) -> int:
        return min(zeros_of(sparsity, self.m), self.m - self.n)


@dataclass(frozen=True)
class Balanced(Granularity):
    """Every tile of a given shape holds the same number of zeros; within a tile any weight may go.

    Args:
        tile: Extent of a tile along each axis; -1 means the whole axis. ``(1, 64, 1, 1)`` is a bank of 64.

    Raises:
        RecipeError: If an extent is neither -1 nor 1 or more.
    """

    tile: tuple[int, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.tile, Iterable):
            raise RecipeError(f"Balanced: expected one extent an axis, such as (4, 4), got {self.tile!r}")
        object.__setattr__(self, "tile", tuple(self.tile))
        if not self.tile or any(not isinstance(t, int) or (t < 1 and t != -1) for t in self.tile):
            raise RecipeError(f"Balanced: every extent of the tile must be -1 or 1 and more, got {self.tile!r}")

    def __str__(self) -> str:
        return "balanced:" + "x".join(map(str, self.tile))

    def misfit(self, shape: Shape) -> str | None:
        if len(shape) != len(self.tile):
            return f"{len(shape)} axes do not match the tile of {len(self.tile)} axes"
        bad = [f"axis {i} of {n}" for i, (n, t) in enumerate(zip(shape, self.tile, strict=True)) if t > 0 and n % t]
        return f"{' and '.join(bad)} not a multiple of the tile {self.tile}" if bad else None

    def zeros(self, shape: Shape, sparsity: float) -> int:
        size = math.prod(self._extents(shape))
        return zeros_of(sparsity, size) * (math.prod(shape) // size) if size else 0

    def keep(self, scores: Array, sparsity: float) -> Array:
        xp = namespace(scores)
        extents = self._extents(scores.shape)
        split = [part for n, t in zip(scores.shape, extents, strict=True) for part in (n // t, t)]
        axes = (*range(0, len(split), 2), *range(1, len(split), 2))
        size = math.prod(extents)
        tiles = xp.permute_dims(xp.reshape(scores, tuple(split)), axes)
        mark = keep_largest_in_groups(xp.reshape(tiles, (-1, size, 1)), size - zeros_of(sparsity, size))
        back = tuple(axes.index(i) for i in range(len(axes)))
        return xp.reshape(xp.permute_dims(xp.reshape(mark, tiles.shape), back), scores.shape)

    def _extents(self, shape: Shape) -> Shape:
        return tuple(n if t == -1 else t for n, t in zip(shape, self.tile, strict=True))


def _indivisible(shape: Shape, group: int, what: str) -> str | None:
    if not shape:
        return "a single number has no input channels"
    inputs = shape[inputs_axis(shape)]
    return f"input channels ({inputs}) are no multiple of {what}" if inputs % group else None


def _zeros_in_groups(shape: Shape, group: int, zeros_in: _GroupCount) -> int:
    axis = inputs_axis(shape)
    whole, rest = divmod(shape[axis], group)
    return (whole * zeros_in(group) + (zeros_in(rest) if rest else 0)) * math.prod(shape[:axis] + shape[axis + 1 :])


def _keep_in_groups(scores: Array, group: int, keep_in: _GroupCount) -> Array:
    """Keep the largest of every `group` consecutive input channels; a shorter last group is one as well."""
    xp = namespace(scores)
    axis = inputs_axis(scores.shape)
    outputs, inputs, kernel = math.prod(scores.shape[:axis]), scores.shape[axis], math.prod(scores.shape[axis + 1 :])
    flat = xp.reshape(scores, (outputs, inputs, kernel))
    whole = inputs - inputs % group
    marks = []
    for start, stop, size in ((0, whole, group), (whole, inputs, inputs - whole)):
        if start < stop:
            groups = xp.reshape(flat[:, start:stop, :], (-1, size, kernel))
            mark = keep_largest_in_groups(groups, keep_in(size))
            marks.append(xp.reshape(mark, (outputs, stop - start, kernel)))
    return xp.reshape(marks[0] if len(marks) == 1 else xp.concat(marks, axis=1), scores.shape)
