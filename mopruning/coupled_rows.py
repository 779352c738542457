"""The part of a plan that coupling decides: which groups of filters are pruned, and what the rows say of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from mopruning.counting import zeros_of
from mopruning.coupling import Coupled, FilterGroup
from mopruning.errors import RecipeError, unknown_name
from mopruning.followers import GROUPED, follow
from mopruning.names import Names

if TYPE_CHECKING:
    from mopruning.plan import PlanRow

_SHOWN = 3  # names of other members that a row tells
_FIXED = "every channel must stay"


def couple(
    rows: Sequence[PlanRow], groups: Iterable[FilterGroup], left: Mapping[str, str]
) -> tuple[list[PlanRow], list[FilterGroup]]:
    """Return the rows with what coupling makes of them, and the groups that are pruned, under the network's names.

    A group is pruned where all its members are, as coupled filters. Otherwise none of its filters goes, for what is
    zeroed in one member alone can never be removed. Filters in no group are one of their own, for each weight. A
    follower decides nothing: one that stays dense leaves the group as it is.

    Where the recipe keeps the zeros that are there, followers keep those of channels that are gone, if groups are
    given.

    Args:
        rows: A row for each parameter.
        groups: Which filters go together; needed only where a row has the granularity `Filter(group=True)`.
        left: Why a parameter is not to be touched, by name: those that are skipped or do not train.

    Raises:
        RecipeError: If groups are needed and missing, or of another network, or members have different targets.
    """
    coupled = {row.name: row for row in rows if row.granularity == GROUPED}
    keeping = all(row.target is None for row in coupled.values())
    given = [group for group in groups if group.members]
    if not coupled or (keeping and not given):
        return list(rows), []
    if not given:
        raise RecipeError(
            f"{GROUPED} ({_some(list(coupled))}) needs to know which filters go together: pass groups=, such as "
            "pytorch.filter_groups(module, example), or prune a network file with `mopruning prune`; 'filter' prunes "
            "each weight by itself"
        )
    every = {row.name: row for row in rows}
    found = _under_own_names(given, every)
    if keeping:
        whole = [group for group in found if group.free.any() and coupled.keys() >= set(group.names)]
        settled, kept = follow(rows, found, whole, left)
        return settled, [group for group in kept if group.followers]
    following = {follower.name for group in found for follower in group.followers}
    pruned = {name: row for name, row in coupled.items() if name not in following}
    alive: list[FilterGroup] = []
    notes: dict[str, list[str]] = {name: [] for name in pruned}
    for group in [*found, *_alone(found, pruned.values())]:
        obstacle = _obstacle(group, every)
        if obstacle is None:
            alive.append(group)
        for member in group.members:
            if member.name in pruned and (note := obstacle or _note(group, member.name, _target(group, pruned))):
                notes[member.name].append(
                    note if member.count == len(member.channels) else f"{member.count} filters {note}"
                )
    living = {name for group in alive for name in group.names}
    settled = [_row(row, notes[row.name], row.name in living) if row.name in pruned else row for row in rows]
    return follow(settled, found, alive, left)


def _under_own_names(groups: Sequence[FilterGroup], rows: Mapping[str, PlanRow]) -> list[FilterGroup]:
    """Return groups under the names that the network has; refuse what cannot be a group of it."""
    names = Names(rows)

    def own(name: str) -> str:
        found, _ = names.find(name)
        return found[0] if len(found) == 1 else name

    result = [_with_readers_of(group.renamed(own), rows) for group in groups]
    if not any(name in rows for group in result for name in group.names):
        raise unknown_name(result[0].names[0], rows, where="groups")
    taken: dict[str, np.ndarray[tuple[int], np.dtype[np.bool_]]] = {}
    for one in (one for group in result for one in group.parts if one.name in rows):
        filters = rows[one.name].shape[0] if rows[one.name].shape else 0
        if len(one.channels) != filters:
            raise RecipeError(
                f"groups: {one.name!r} has {filters} filters here, {len(one.channels)} in its group; "
                "are these the groups of another network?"
            )
        before, belongs = taken.setdefault(one.name, np.zeros(filters, np.bool_)), _belongs(one)
        if twice := np.flatnonzero(before & belongs).tolist():
            raise RecipeError(f"groups: filter {twice[0]} of {one.name!r} belongs to two groups; make them one")
        before |= belongs
    following = {follower.name for group in result for follower in group.followers}
    if both := following.intersection(name for group in result for name in group.names):
        raise RecipeError(f"groups: {min(both)!r} is a member of one group and follows in another; make it a member")
    return result


def _with_readers_of(group: FilterGroup, rows: Mapping[str, PlanRow]) -> FilterGroup:
    """Return a group with those of its readers that are parameters here."""
    readers = tuple(reader for reader in group.readers if reader.name in rows)
    for reader in readers:
        inputs = rows[reader.name].shape[1] if len(rows[reader.name].shape) > 1 else 0
        if len(reader.channels) != inputs:
            raise RecipeError(
                f"groups: {reader.name!r} has {inputs} inputs here, {len(reader.channels)} in the group that it reads; "
                "are these the groups of another network?"
            )
    return replace(group, readers=readers)


def _alone(groups: Iterable[FilterGroup], rows: Iterable[PlanRow]) -> list[FilterGroup]:
    """Return a group for the filters of each row that belong to none."""
    rest = {row.name: np.ones(row.shape[0], np.bool_) for row in rows}
    for member in (member for group in groups for member in group.members if member.name in rest):
        rest[member.name] &= ~_belongs(member)
    numbered = {name: np.where(own, np.cumsum(own) - 1, -1) for name, own in rest.items() if own.any()}
    return [FilterGroup(int(n.max()) + 1, (), (Coupled(name, tuple(n.tolist())),)) for name, n in numbered.items()]


def _belongs(one: Coupled) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    return np.array(one.channels, np.int64) >= 0


def _obstacle(group: FilterGroup, rows: Mapping[str, PlanRow]) -> str | None:
    """Say why no filter of a group goes, or None where some may."""
    for name in group.names:
        if name not in rows:
            return f"coupled with {name}, which is no parameter here"
        granularity = rows[name].granularity
        if granularity is None:
            return f"coupled with {name}, which stays dense"
        if granularity != GROUPED:
            return f"coupled with {name}, which is pruned as {granularity}"
    return None if group.free.any() else _FIXED


def _target(group: FilterGroup, pruned: Mapping[str, PlanRow]) -> float:
    targets = {name: pruned[name].target or 0.0 for name in group.names}
    if len({*targets.values()}) > 1:
        told = ", ".join(f"{name} {target:.6g}" for name, target in targets.items())
        raise RecipeError(
            f"{GROUPED}: filters that go together need one sparsity, got {told}; give all of them the same"
        )
    return next(iter(targets.values()))


def _note(group: FilterGroup, name: str, target: float) -> str:
    """Say with what a pruned member is coupled, and what that makes of its target."""
    others = [other for other in group.names if other != name]
    said = [f"coupled with {_some(others)}"] if others else []
    zeros, free = zeros_of(target, group.channels), int(group.free.sum())
    if not zeros:
        said.append("too little for one channel")
    elif zeros > free:
        said.append(f"only {free} of {group.channels} channels may go")
    return ", ".join(said)


def _row(row: PlanRow, notes: Sequence[str], alive: bool) -> PlanRow:
    if alive:
        return replace(row, reason=", ".join([row.reason, *notes]))
    misfit = any(not note.endswith(_FIXED) for note in notes)  # what makes a network's outputs is no mistake of anyone
    return replace(row, granularity=None, target=None, reason=", ".join(notes), misfit=misfit)


def _some(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
