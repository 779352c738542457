"""Pruning parameters that ranks share out between them: every rank finds its part of the masks of the whole ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from mopruning.allocation import share_out
from mopruning.arrays import Array, like, namespace, native, plain
from mopruning.batchnorm import scale_names
from mopruning.counting import check_sparsity
from mopruning.errors import RecipeError, StateError
from mopruning.granularity.base import Granularity, Shape
from mopruning.granularity.units import Units
from mopruning.masks import check_finite, refuse_unrankable, unrankable
from mopruning.parts import Computed, unit_means
from mopruning.placement import Whole
from mopruning.report import SparsityReport
from mopruning.scores import random
from mopruning.sharded_granularity import keep, refusal, sharded_means
from mopruning.sharded_selection import dtype_of, kept_counts
from mopruning.shards import Exchange, NumPyArray, Shard

if TYPE_CHECKING:
    from mopruning.plan import Plan

_REFUSED = {
    "fpgm": "a filter's score is its distance to all others, which lie on several ranks; use 'magnitude'",
    "lamp": "a weight's score needs the order of all weights of its layer; use 'global', 'erk' or 'uniform'",
}


class Sharded(Whole):
    """Parameters that ranks share out between them; what is asked is answered for the whole ones, bit for bit.

    Every rank makes the same calls in the same order. Where a score cannot be ranked, all ranks raise the same error,
    so none is left waiting.

    Args:
        shards: How each parameter is shared out, by name. A parameter without a shard lies whole on every rank, and
            alike; looked up as late as possible, so that parameters may join.
        exchange: What connects the ranks.
    """

    def __init__(self, shards: Mapping[str, Shard], exchange: Exchange) -> None:
        self._shards, self._exchange = shards, exchange
        self._counted: dict[str, tuple[Array, int]] = {}

    def check(self, plan: Plan) -> None:
        """Raise RecipeError where a plan cannot be carried out on shards: granularity, score or allocation."""
        recipe = plan.recipe
        coupled = {name for group in plan.groups for name in group.names}
        for row in plan.pruned:
            shard = self._shards.get(row.name)
            if shard is None:
                continue
            where = f"{row.name} {row.shape}, which ranks share out"
            if row.name in coupled:
                raise RecipeError(
                    f"{row.granularity} cannot prune {where}: filters are coupled only whole; use 'filter'"
                )
            if recipe.score in _REFUSED:
                raise RecipeError(f"score {recipe.score!r} cannot rank {where}: {_REFUSED[recipe.score]}")
            if row.target is None and not recipe.fix_sparsity and recipe.allocation in _REFUSED:
                raise RecipeError(
                    f"allocation {recipe.allocation!r} cannot rank {where}: {_REFUSED[recipe.allocation]}"
                )
            if not recipe.fix_sparsity and (reason := refusal(_given(row.granularity), shard)):
                raise RecipeError(f"{row.granularity} cannot prune {where}: {reason}; or skip it")
        if recipe.score == "bn_scale":
            for weight, scale in scale_names(plan).items():
                self._check_scale(weight, scale)

    def _check_scale(self, weight: str, scale: str) -> None:
        shards = [self._shards.get(name) for name in (weight, scale)]
        stretches = [None if shard is None else (shard.axis, shard.borders) for shard in shards]
        if stretches[0] != stretches[1] or (stretches[0] is not None and stretches[0][0] != 0):
            raise RecipeError(
                f"score 'bn_scale' cannot rank {weight}: ranks share out its filters and their scales ({scale}) in "
                "different ways; shard both alike, or use score 'magnitude'"
            )

    def mask(self, name: str, scores: Array, granularity: Granularity, sparsity: float) -> Array:
        """Return what lies here of the mask that `mopruning.mask` gives of the whole parameter."""
        shard = self._shards.get(name)
        if shard is None:
            return super().mask(name, scores, granularity, sparsity)
        ranked = self.checked(name, scores)
        sparsity = check_sparsity(sparsity)
        kept = keep(ranked, granularity, sparsity, shard, self._exchange)
        xp = namespace(ranked)
        mask: Array = like(kept, plain(scores)) if isinstance(kept, np.ndarray) else xp.asarray(kept, copy=True)
        self._counted[name] = mask, granularity.zeros(shard.shape, sparsity)
        return mask

    def allocate(
        self,
        allocation: str,
        scores: Mapping[str, Array],
        granularities: Mapping[str, Granularity],
        sparsity: float,
        minimum: float,
        maximum: float,
    ) -> dict[str, float]:
        """Return the sparsity of each layer by allocation "global", the only one on shards that reads scores."""
        if not any(name in self._shards for name in scores):
            return super().allocate(allocation, scores, granularities, sparsity, minimum, maximum)
        return share_out(_Parts(self, self._exchange, scores, granularities), granularities, sparsity, minimum, maximum)

    def zeros(self, name: str, mask: Array) -> int:
        """Count the weights that a mask leaves out of a whole parameter; ranks meet only over a mask not made here."""
        known, count = self._counted.get(name, (None, 0))
        if known is not mask:
            count = super().zeros(name, mask)
            if name in self._shards:
                count = int(self._exchange.add(np.array([count], np.int64))[0])
            self._counted[name] = mask, count
        return count

    def least(self, name: str, scores: Array) -> float:
        """Return the least score of the whole parameter, infinity where it has no elements."""
        least = super().least(name, scores)
        return -float(self._exchange.largest(np.array([-least]))[0]) if name in self._shards else least

    def random(self, name: str, weights: Array, seed: int) -> Array:
        """Score a parameter by chance; every rank draws the scores of the whole one, and keeps its part."""
        shard = self._shards.get(name)
        if shard is None:
            return super().random(name, weights, seed)
        return like(shard.part(random(np.broadcast_to(np.float32(0), shard.shape), seed, name)), plain(weights))

    def join(self, name: str, mask: Array) -> NumPyArray:
        """Return the mask of a whole parameter; ranks meet, and send a bit a weight."""
        here = super().join(name, mask)
        shard = self._shards.get(name)
        return here if shard is None else shard.join(here, self._exchange)

    def part(self, name: str, array: NumPyArray) -> NumPyArray:
        """Return what lies here of a saved mask, or of saved scores, which may also be just that already.

        Raises:
            StateError: If scores are neither those of the whole parameter nor what lies here.
        """
        shard = self._shards.get(name)
        if shard is None or array.shape == shard.held != shard.shape:
            return array
        if array.shape != shard.shape:
            raise StateError(
                f"{name}: saved scores have the shape {array.shape}, here lie {shard.held} of {shard.shape}: such "
                "scores go on only on as many ranks as saved them"
            )
        here = np.ascontiguousarray(shard.part(array))
        if array.dtype == np.bool_:
            self._counted[name] = here, super().zeros(name, array)
        return here

    def total(self, report: SparsityReport) -> SparsityReport:
        """Return a report on the whole parameters; ranks meet."""
        zeros = self._exchange.add(np.array([row.zeros for row in report.rows], np.int64))
        rows = (
            replace(row, shape=self._shards[row.name].shape, size=self._shards[row.name].size, zeros=int(count))
            if row.name in self._shards
            else row
            for row, count in zip(report.rows, zeros, strict=True)
        )
        return SparsityReport(tuple(rows))

    def shard(self, name: str) -> Shard | None:
        """Return how a parameter is shared out, None where it lies whole on every rank."""
        return self._shards.get(name)

    def checked(self, name: str, scores: Array) -> Array:
        """Return scores in a dtype whose comparisons are native, or raise WeightError on all ranks."""
        ranked = native(scores)
        shard = self._shards.get(name)
        if shard is None:
            check_finite(ranked, name)
        else:
            counts = self._exchange.add(np.array(unrankable(ranked, name), np.int64))
            refuse_unrankable(int(counts[0]), int(counts[1]), shard.size, name)
        return ranked


class _Parts:
    """The scores of layers, ranked as one by all ranks; what `mopruning.parts.Parts` is for whole ones."""

    def __init__(
        self, place: Sharded, exchange: Exchange, scores: Mapping[str, Array], granularities: Mapping[str, Granularity]
    ) -> None:
        self._place, self._exchange, self._scores, self._granularities = place, exchange, scores, granularities
        self.shapes: dict[str, Shape] = {}
        dtypes = []
        for name in scores:
            ranked, shard = place.checked(name, scores[name]), place.shard(name)
            self.shapes[name] = tuple(ranked.shape) if shard is None else shard.shape
            dtypes.append(np.dtype(np.float64) if isinstance(granularities[name], Units) else dtype_of(ranked))
        self._dtype = np.result_type(*dtypes)

    def kept(self, names: Sequence[str], keep: int) -> list[int]:
        """Count how many scores of each of some layers are among the `keep` largest of all of these."""
        return kept_counts(Computed(self._flat, names), keep, self._exchange) if names else []

    def _flat(self, name: str) -> Array:
        ranked = native(self._scores[name])
        granularity, shard = self._granularities[name], self._place.shard(name)
        if isinstance(granularity, Units):
            if shard is None:
                ranked = unit_means(ranked, granularity)
            else:
                ranked = sharded_means(ranked, granularity, shard, self._exchange)
        xp = namespace(ranked)
        flat = xp.astype(xp.reshape(ranked, (-1,)), getattr(xp, self._dtype.name), copy=False)
        return flat[:0] if shard is None and self._exchange.rank else flat  # what all have alike counts once


def _given(granularity: Granularity | None) -> Granularity:
    assert granularity is not None  # Plan.pruned holds no other
    return granularity
