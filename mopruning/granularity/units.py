"""Structured granularities: whole units of weights are zeroed together, ranked by the sum of their scores."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass

from mopruning.arrays import Array, namespace
from mopruning.counting import zeros_of
from mopruning.errors import RecipeError
from mopruning.granularity.base import Granularity, Shape
from mopruning.selection import keep_largest
from mopruning.sums import sums_within


class Units(Granularity):
    """A granularity whose units tile the weight regularly."""

    @abstractmethod
    def unit(self, shape: Shape) -> Shape:
        """Return the extent of one unit along each axis of a weight that fits."""

    def units(self, shape: Shape) -> int:
        """Count the units of a weight that fits."""
        return math.prod(n // u for n, u in zip(shape, self.unit(shape), strict=True) if u)

    def zeros(self, shape: Shape, sparsity: float) -> int:
        return zeros_of(sparsity, self.units(shape)) * math.prod(self.unit(shape))

    def keep(self, scores: Array, sparsity: float) -> Array:
        xp = namespace(scores)
        unit = self.unit(scores.shape)
        split = tuple(part for n, u in zip(scores.shape, unit, strict=True) for part in (n // u, u))
        sums = sums_within(xp.reshape(scores, split), tuple(range(1, len(split), 2)))
        count = self.units(scores.shape)
        (mark,) = keep_largest([xp.reshape(sums, (-1,))], count - zeros_of(sparsity, count))
        return xp.reshape(xp.broadcast_to(xp.reshape(mark, sums.shape), split), scores.shape)


@dataclass(frozen=True)
class Filter(Units):
    """Whole output channels are zeroed.

    Args:
        group: Whether filters that can only be removed together (of convolutions whose results are added, of a
            depthwise convolution and the one before it) are ranked and zeroed as one. Which these are, a plan has to
            be told: `Recipe.plan(..., groups=...)`. `mask`, which sees one weight, treats it as alone.

    Source: Li et al., "Pruning filters for efficient ConvNets", 2017 (sum of magnitudes).
    """

    group: bool = False

    def __str__(self) -> str:
        return "filter:group" if self.group else "filter"

    def misfit(self, shape: Shape) -> str | None:
        return None if shape else "a single number has no output channels"

    def unit(self, shape: Shape) -> Shape:
        return (1, *shape[1:])


@dataclass(frozen=True)
class Channel(Units):
    """Whole input channels are zeroed.

    Source: He et al., "Channel pruning for accelerating very deep neural networks", 2017.
    """

    def __str__(self) -> str:
        return "channel"

    def misfit(self, shape: Shape) -> str | None:
        return None if len(shape) > 1 else "a vector has no input channels"

    def unit(self, shape: Shape) -> Shape:
        return (shape[0], 1, *shape[2:])


@dataclass(frozen=True)
class Stripe(Units):
    """Stripes are zeroed: all input channels of one kernel position of one output channel.

    Source: Meng et al., "Pruning filter in filter", 2020.
    """

    def __str__(self) -> str:
        return "stripe"

    def misfit(self, shape: Shape) -> str | None:
        return None if len(shape) > 2 else f"stripes need a convolution kernel, this weight has {len(shape)} axes"

    def unit(self, shape: Shape) -> Shape:
        return (1, shape[1], *(1 for _ in shape[2:]))


@dataclass(frozen=True)
class Block(Units):
    """Rectangular blocks are zeroed, such as 4 output by 4 input channels at one kernel position.

    Args:
        shape: Extent along the leading axes [out, in, ...]; axes not named count 1.

    Raises:
        RecipeError: If an extent is less than 1.

    Source: Gray et al., "GPU kernels for block-sparse weights", 2017.
    """

    shape: tuple[int, ...] = (4, 4)

    def __post_init__(self) -> None:
        if not isinstance(self.shape, Iterable):
            raise RecipeError(f"Block: expected one extent an axis, such as (4, 4), got {self.shape!r}")
        object.__setattr__(self, "shape", tuple(self.shape))
        if not self.shape or any(not isinstance(n, int) or n < 1 for n in self.shape):
            raise RecipeError(f"Block: every extent must be a whole number of 1 or more, got {self.shape!r}")

    def __str__(self) -> str:
        return "block:" + "x".join(map(str, self.shape))

    def misfit(self, shape: Shape) -> str | None:
        if len(shape) < len(self.shape):
            return f"{len(shape)} axes are fewer than the block's {len(self.shape)}"
        bad = [f"axis {i} of {n}" for i, (n, b) in enumerate(zip(shape, self.shape, strict=False)) if n % b]
        return f"{' and '.join(bad)} no multiple of the block {self}" if bad else None

    def unit(self, shape: Shape) -> Shape:
        return (*self.shape, *(1 for _ in shape[len(self.shape) :]))
