"""Where arrays lie: what a pruner asks of arrays beyond their elements, answered here for arrays that lie whole."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from mopruning.allocation import ALLOCATIONS
from mopruning.arrays import Array, count_true, namespace, on_host
from mopruning.granularity.base import Granularity
from mopruning.masks import mask
from mopruning.report import SparsityReport
from mopruning.scores import random
from mopruning.shards import NumPyArray

if TYPE_CHECKING:
    from mopruning.plan import Plan


class Whole:
    """Arrays that lie whole in this process, as they do unless something else is said.

    `mopruning.sharding.Sharded` answers the same for arrays that ranks share out between them.
    """

    def check(self, plan: Plan) -> None:
        """Raise RecipeError where a plan cannot be carried out on arrays that lie so."""

    def mask(self, name: str, scores: Array, granularity: Granularity, sparsity: float) -> Array:
        """Return the mask of one parameter, as `mopruning.mask` does."""
        return mask(scores, granularity, sparsity, name=name)

    def allocate(
        self,
        allocation: str,
        scores: Mapping[str, Array],
        granularities: Mapping[str, Granularity],
        sparsity: float,
        minimum: float,
        maximum: float,
    ) -> dict[str, float]:
        """Return the sparsity of each layer by an allocation that reads scores."""
        return ALLOCATIONS[allocation].function(scores, granularities, sparsity, minimum, maximum)

    def zeros(self, name: str, mask: Array) -> int:
        """Count the weights that the present mask of a parameter leaves out."""
        return int(math.prod(mask.shape)) - count_true(mask)

    def least(self, name: str, scores: Array) -> float:
        """Return the least score of a parameter, infinity where it has no elements."""
        return float(namespace(scores).min(scores)) if math.prod(scores.shape) else math.inf

    def random(self, name: str, weights: Array, seed: int) -> Array:
        """Score a parameter by chance."""
        return random(weights, seed, name)

    def join(self, name: str, mask: Array) -> NumPyArray:
        """Return the mask of a whole parameter, in host memory."""
        return on_host(mask)

    def part(self, name: str, array: NumPyArray) -> NumPyArray:
        """Return of a saved mask or of saved scores what lies here."""
        return array

    def total(self, report: SparsityReport) -> SparsityReport:
        """Return a report on the whole parameters for one on what lies here."""
        return report
