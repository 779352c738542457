"""Channel permutation before N:M pruning, for `mopruning prune --permute`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from mopruning.errors import FormatError, RecipeError

if TYPE_CHECKING:
    from mopruning.cli.network_file import NetworkFile
    from mopruning.files import WeightFile
    from mopruning.granularity import Granularity
    from mopruning.ir.passes import Permuted
    from mopruning.plan import Plan


def permuted(opened: WeightFile, plan: Plan) -> tuple[NetworkFile, Permuted]:
    """Return an opened network with its channels in the order in which pruning keeps more, and what that gained.

    Args:
        opened: What was read; it is not changed.
        plan: What is going to be pruned, and how.

    Raises:
        FormatError: If weights were opened without a network, which would say who produces a channel.
        RecipeError: If anything is not pruned N:M, or different weights in different groups.
        WeightError: If a weight holds NaN or infinity.
    """
    from mopruning.cli.network_file import NetworkFile
    from mopruning.cli.opening import is_network
    from mopruning.granularity import NM
    from mopruning.ir.passes import permute

    if not is_network(opened):
        raise FormatError(
            f"{opened.path} holds weights without a network, which --permute needs to find out which layer produces a "
            "channel; prune a file that holds the network, or leave --permute out"
        )
    kinds: dict[Granularity | None, str] = {}
    for row in plan.pruned:
        kinds.setdefault(row.granularity, row.name)
    others = [f"{name!r} is pruned {kind}" for kind, name in kinds.items() if not isinstance(kind, NM)]
    if others or len(kinds) != 1:
        found = others[0] if others else ", ".join(f"{name!r} is pruned {kind}" for kind, name in kinds.items())
        raise RecipeError(f"--permute is for one N:M granularity, such as 2:4, in all layers: {found}")
    (kind,) = kinds
    assert isinstance(kind, NM)

    def advance(name: str, number: int, count: int) -> None:
        if sys.stderr.isatty():
            print(f"\rsearching {number} of {count}: {name}\x1b[K", end="", file=sys.stderr, flush=True)

    try:
        done = permute(opened.model, kind.n, kind.m, names={row.name for row in plan.pruned}, advance=advance)
    finally:
        if sys.stderr.isatty():
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
    return NetworkFile(opened.path, done.model), done
