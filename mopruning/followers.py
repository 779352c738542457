"""The rows of followers: parameters that lose a number with each filter that others lose, such as a bias."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from mopruning.coupling import FilterGroup
from mopruning.granularity import Filter

if TYPE_CHECKING:
    from mopruning.plan import PlanRow

GROUPED = Filter(group=True)


def follow(
    rows: Sequence[PlanRow], groups: Sequence[FilterGroup], alive: Sequence[FilterGroup], left: Mapping[str, str]
) -> tuple[list[PlanRow], list[FilterGroup]]:
    """Return the rows with what followers do, and the pruned groups with those followers that do.

    A follower has no target of its own, whatever the recipe says of it. It stays dense where the recipe leaves it out
    or nothing goes in its groups, and goes its own way where the recipe prunes it in other shapes.

    Args:
        rows: A row for each parameter, settled but for followers.
        groups: All groups, under the network's names.
        alive: Those of them that are pruned.
        left: Why a parameter is not to be touched, by name.
    """
    following = {follower.name: group.names[0] for group in groups for follower in group.followers}
    leaders: dict[str, set[str]] = {}
    for group in alive:
        for follower in group.followers:
            leaders.setdefault(follower.name, set()).update(group.names)
    places = {row.name: place for place, row in enumerate(rows)}
    result = [
        _row(row, following[row.name], sorted(leaders.get(row.name, ()), key=places.__getitem__), left, places)
        if row.name in following
        else row
        for row in rows
    ]
    followed = {
        new.name for old, new in zip(rows, result, strict=True) if new is not old and new.granularity == GROUPED
    }
    return result, [
        replace(group, followers=tuple(one for one in group.followers if one.name in followed)) for group in alive
    ]


def _row(
    row: PlanRow, member: str, leaders: Sequence[str], left: Mapping[str, str], places: Mapping[str, int]
) -> PlanRow:
    """Return the row of a follower.

    Args:
        row: What the recipe makes of it by itself.
        member: A weight that it would follow.
        leaders: Those that it can follow, as they lose filters, in the network's order.
        left: As `follow`.
        places: Place of each row by name.
    """
    own = row.granularity is not None
    if own and (row.granularity != GROUPED or row.target is None):  # None: all zeros that it has stay
        return row
    if leaders and row.name not in left:
        before = [name for name in leaders if places[name] < places[row.name]]
        nearest = before[-1] if before else leaders[0]
        return replace(row, granularity=GROUPED, target=None, reason=f"follows {nearest}", misfit=False)
    if own:
        return replace(row, granularity=None, target=None, reason=f"follows {member}, which loses no filters")
    return replace(row, reason=left[row.name], misfit=False) if leaders else row
