"""Coupled filters: those of several weights that can only be removed together."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from mopruning.errors import RecipeError
from mopruning.names import stripped

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"


@dataclass(frozen=True)
class Coupled:
    """One parameter whose filters belong to a group, each entry of a vector being one, or whose inputs do.

    Args:
        name: The parameter's name.
        channels: Of each filter (index along the canonical axis 0), or of each input of a reader (index along the
            canonical axis 1), the channel of the group that it belongs to; -1 for one that does not belong to this
            group. Several may belong to one channel.

    Raises:
        RecipeError: If `channels` are no whole numbers.
    """

    name: str
    channels: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "channels", _whole(self.channels, f"groups: channels of {self.name!r}"))

    @property
    def count(self) -> int:
        """How many filters of the parameter belong to the group."""
        return sum(channel >= 0 for channel in self.channels)


@dataclass(frozen=True)
class FilterGroup:
    """Filters that can only be removed together: all those that belong to one channel, or none of them.

    Args:
        channels: How many channels the group has.
        fixed: Channels that must stay.
        members: The weights whose filters belong to it, each once.
        followers: Parameters that have a number for each channel, such as the bias of a convolution or the scale and
            shift of a normalisation: what goes in the members goes in them, and they have no say in what that is.
        readers: The weights whose inputs the channels are. Nothing goes in them, but how strongly they read a channel
            is part of its score, where every channel that may go is read by one. Without them the filters decide alone.

    Raises:
        RecipeError: If a channel lies out of range, or a parameter is named twice.

    Two convolutions whose results are added, of which the second channel must stay:

    >>> FilterGroup(4, (1,), (Coupled("a", range(4)), Coupled("b", range(4))), (Coupled("a.bias", range(4)),)).names
    ('a', 'b')
    """

    channels: int
    fixed: tuple[int, ...]
    members: tuple[Coupled, ...]
    followers: tuple[Coupled, ...] = ()
    readers: tuple[Coupled, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "fixed", tuple(sorted({*_whole(self.fixed, "groups: fixed")})))
        for kind in ("members", "followers", "readers"):
            object.__setattr__(self, kind, tuple(getattr(self, kind)))
        limit = f"the group has {self.channels} channels"
        if self.fixed and not 0 <= self.fixed[0] <= self.fixed[-1] < self.channels:
            raise RecipeError(f"groups: fixed channels {self.fixed[0]} to {self.fixed[-1]}, but {limit}")
        for one in self.parts + self.readers:
            least, most = min(one.channels, default=-1), max(one.channels, default=-1)
            if not -1 <= least <= most < self.channels:
                raise RecipeError(f"groups: {one.name!r} has channels {least} to {most}, but {limit}")
        counts = Counter(one.name for one in self.parts)
        if twice := {name for name, count in counts.items() if count > 1}:
            raise RecipeError(f"groups: {min(twice)!r} stands twice in one group; give all its channels at once")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the members."""
        return tuple(member.name for member in self.members)

    @property
    def parts(self) -> tuple[Coupled, ...]:
        """Members and followers."""
        return self.members + self.followers

    @property
    def free(self) -> NumPyArray:
        """Bool [channels]: whether a channel may go, that is whether it has filters and is not fixed."""
        result = self._named_by(self.members)
        result[list(self.fixed)] = False
        return result

    @property
    def read(self) -> bool:
        """Whether there are readers of every channel that may go."""
        return bool(self.readers) and bool((self._named_by(self.readers) | ~self.free).all())

    def _named_by(self, parts: Iterable[Coupled]) -> NumPyArray:
        result = np.zeros(self.channels, np.bool_)
        for one in parts:
            result[[channel for channel in one.channels if channel >= 0]] = True
        return result

    def renamed(self, own: Callable[[str], str]) -> FilterGroup:
        """Return the same group with other names; those that are one parameter then, in the same way, become one."""
        members, followers, readers = (
            tuple(dict.fromkeys(Coupled(own(one.name), one.channels) for one in parts))
            for parts in (self.members, self.followers, self.readers)
        )
        return FilterGroup(self.channels, self.fixed, members, followers, readers)

    def to_dict(self) -> dict[str, Any]:
        """Return the group as numbers, text, lists and mappings; None stands for channels 0, 1, 2, ... in order.

        "followers" and "readers" are left out where there are none.
        """
        in_order = tuple(range(self.channels))
        members, followers, readers = (
            {one.name: None if one.channels == in_order else list(one.channels) for one in parts}
            for parts in (self.members, self.followers, self.readers)
        )
        result = {"channels": self.channels, "fixed": list(self.fixed), "members": members}
        return result | {key: found for key, found in (("followers", followers), ("readers", readers)) if found}


def read_groups(groups: Any) -> tuple[FilterGroup, ...]:
    """Return groups as a tuple, or raise RecipeError where they are none."""
    found = tuple(groups) if isinstance(groups, Iterable) else (groups,)
    for group in found:
        if not isinstance(group, FilterGroup):
            raise RecipeError(f"groups: expected FilterGroup objects, got {type(group).__name__}")
    return found


def group_differences(here: Iterable[Mapping[str, Any]], there: Iterable[Mapping[str, Any]]) -> list[str]:
    """Say which groups two plans do not share; wrapper prefixes of names do not count.

    Args:
        here: Groups of one plan, as `FilterGroup.to_dict` returns them.
        there: Those of the other.
    """
    mine, theirs = ({_identity(group): list(group["members"]) for group in groups} for groups in (here, there))
    sides = (("here", mine, theirs), ("there", theirs, mine))
    return [
        f"filters of {', '.join(names)} are coupled so {side} only"
        for side, own, other in sides
        for key, names in own.items()
        if key not in other
    ]


def _whole(values: Any, what: str) -> tuple[int, ...]:
    try:
        return tuple(map(operator.index, values))
    except TypeError:
        raise RecipeError(f"{what}: expected whole numbers, got {values!r}") from None


def _identity(group: Mapping[str, Any]) -> tuple[Any, ...]:
    parts = (
        frozenset((stripped(name), None if c is None else tuple(c)) for name, c in group.get(kind, {}).items())
        for kind in ("members", "followers", "readers")
    )
    return group["channels"], tuple(group["fixed"]), *parts
