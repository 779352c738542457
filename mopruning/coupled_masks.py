"""The masks of coupled filters: which channels of each group go, and with them what in its members and followers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import array_api_compat
import numpy as np

from mopruning.arrays import Array, host_view, like, namespace, native, on_host, plain
from mopruning.counting import zeros_of
from mopruning.coupling import Coupled, FilterGroup
from mopruning.masks import check_finite
from mopruning.selection import keep_largest
from mopruning.sums import integral, scale_of, sums_within

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"


def coupled_masks(
    groups: Sequence[FilterGroup],
    scores: Callable[[str], Array],
    sparsity: Mapping[str, float],
    weights: Callable[[str], Array] | None = None,
    reading: Callable[[str], Array] | None = None,
) -> dict[str, Array]:
    """Choose in each group the channels to keep, and mask the filters of the others in every member and follower.

    A channel's score is the sum of the scores of all its filters, in all members, times the sum of the scores of all
    the weights that read it, where readers count. With magnitudes, that is the sum of |w v| over every path of two
    weights through the channel, w that makes it and v that reads it: one whose filters are gone scores 0, and so does
    one that nothing reads any more.

    Each filter's sum is made where its weight lies, of whole numbers (`mopruning.sums`), and so is each input's; one
    number of each comes to the host, where those of a group are brought to one scale and added, again as whole numbers.
    So neither the device nor the order of the members makes a difference. Of `channels` channels,
    ``floor(sparsity * channels + 1e-9)`` go, or as many as may; of equal scores the earlier channel is kept.

    Args:
        groups: The groups; no filter belongs to two of them.
        scores: Returns the scores of a weight by its name, canonical; called once for each weight.
        sparsity: Share of channels that go, by name of a member; where members of a group differ, the least counts.
        weights: Returns a follower by its name, canonical; only its shape and place count. Needed where there is one.
        reading: Returns the scores of a reader by its name, canonical; without, filters decide alone.

    Returns:
        Bool mask of each member and follower by name, of the library, device and shape of its scores.

    Raises:
        WeightError: If a score is NaN or infinite.

    Source: Fang et al., "DepGraph: towards any structural pruning", 2023, section 3.3 (one score for a whole group);
    Neyshabur et al., "Path-SGD: path-normalized optimization in deep neural networks", 2015 (sums over paths).
    """
    filters, places = {}, {}
    for name in dict.fromkeys(name for group in groups for name in group.names):
        ranked = scores(name)
        filters[name], places[name] = _sums(ranked, name, 0), _place(ranked)
    inputs = {}
    if reading is not None:
        for name in dict.fromkeys(reader.name for group in groups if group.read for reader in group.readers):
            inputs[name] = _sums(reading(name), name, 1)
    for name in dict.fromkeys(follower.name for group in groups for follower in group.followers):
        assert weights is not None
        places[name] = _place(weights(name))
    keep = {name: np.ones(place.shape[0], np.bool_) for name, place in places.items()}
    for group in groups:
        totals = _totals(group.members, group.channels, filters)
        if inputs and group.read:
            totals = totals * _totals(group.readers, group.channels, inputs)
        alive = _keep_channels(group, totals, min(sparsity[name] for name in group.names))
        for one in group.parts:
            _put(alive, one, keep[one.name])
    return {name: place.spread(keep[name]) for name, place in places.items()}


def first_follower_masks(groups: Sequence[FilterGroup], weights: Mapping[str, Array]) -> dict[str, Array]:
    """Return the masks of followers that go with the zeros that weights have already.

    A zero in a follower tells nothing by itself: biases start with it. It stays where its channel is gone, that is
    where it may go and no member has anything else in it.

    Args:
        groups: The groups.
        weights: Members and followers by name, canonical.

    Returns:
        Bool mask of each follower by name, of its library, device and shape.
    """
    masks: dict[str, Array] = {}
    for group in (group for group in groups if group.followers):
        alive = ~group.free
        for member in group.members:
            nonzero = plain(weights[member.name]) != 0
            xp = namespace(nonzero)
            filters = on_host(xp.any(xp.reshape(nonzero, (nonzero.shape[0], -1)), axis=1))
            index = np.array(member.channels)
            alive[index[(index >= 0) & filters]] = True
        for follower in group.followers:
            values = plain(weights[follower.name])
            keep = np.ones(len(follower.channels), np.bool_)
            _put(alive, follower, keep)
            mask = _place(values).spread(keep) | (values != 0)
            masks[follower.name] = mask & masks[follower.name] if follower.name in masks else mask
    return masks


def _put(alive: NumPyArray, one: Coupled, keep: NumPyArray) -> None:
    """Note in place which filters of a member or follower are kept, of which channels are."""
    index = np.array(one.channels, np.int64)
    belongs = index >= 0
    keep[belongs] = alive[index[belongs]]


@dataclass(frozen=True)
class _Place:
    """What is needed to make a mask of whole filters."""

    shape: tuple[int, ...]
    origin: Array  # an empty array where the mask is to lie

    def spread(self, keep: NumPyArray) -> Array:
        """Return the mask of the whole parameter, of which filters are kept."""
        column = keep.reshape(-1, *(1 for _ in self.shape[1:]))
        if host_view(self.origin) is not None:
            return like(np.broadcast_to(column, self.shape), self.origin)
        xp = namespace(self.origin)
        return xp.asarray(xp.broadcast_to(like(column, self.origin), self.shape), copy=True)


def _place(array: Array) -> _Place:
    values = plain(array)
    xp = namespace(values)
    origin = xp.empty((0,), dtype=xp.float32, device=array_api_compat.device(values))
    return _Place(tuple(values.shape), origin)


@dataclass(frozen=True)
class _Sums:
    """The sum of scores for each index along an axis of a weight."""

    numbers: NumPyArray  # whole ones
    scale: float  # the power of two that the scores were multiplied by


def _sums(scores: Array, name: str, axis: int) -> _Sums:
    ranked = native(scores)
    check_finite(ranked, name)
    xp = namespace(ranked)
    others = tuple(place for place in range(ranked.ndim) if place != axis)
    rows = xp.reshape(xp.permute_dims(ranked, (axis, *others)), (ranked.shape[axis], -1))
    scale = scale_of(rows, rows.shape[1])
    return _Sums(on_host(sums_within(rows, (1,), scale)).reshape(-1), scale)


def _totals(parts: Sequence[Coupled], channels: int, sums: Mapping[str, _Sums]) -> NumPyArray:
    """Return for each channel the sum of what belongs to it in all parts, times a power of two; float64 [channels]."""
    least = min(sums[one.name].scale for one in parts)  # no sum grows by coming to it, so none overflows
    index = np.concatenate([one.channels for one in parts])
    numbers = np.concatenate([sums[one.name].numbers * (least / sums[one.name].scale) for one in parts])
    index, numbers = index[index >= 0], numbers[index >= 0]
    totals = np.zeros(channels)
    np.add.at(totals, index, integral(numbers, int(np.bincount(index, minlength=1).max())))
    return totals


def _keep_channels(group: FilterGroup, totals: NumPyArray, sparsity: float) -> NumPyArray:
    """Return the mask of a group's channels, bool [channels]."""
    places = np.flatnonzero(group.free)
    zeros = min(zeros_of(sparsity, group.channels), places.size)
    alive = np.ones(group.channels, np.bool_)
    (alive[places],) = keep_largest([totals[places]], places.size - zeros)
    return alive
