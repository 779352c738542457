"""Coupling of channels: which channels of a network can only stay or go together.

One analysis serves whatever moves or removes channels: `mopruning.ir.shrink`, pruning by coupled groups of filters, and
the search for channel permutations.
"""

import mopruning.ir.passes  # noqa: F401  first, as shrinking, which is one of them, needs the modules of this package
from mopruning.ir.coupling.analysis import coupling
from mopruning.ir.coupling.filter_groups import filter_groups
from mopruning.ir.coupling.groups import Axis, ChannelGroup, Coupling

__all__ = ["Axis", "ChannelGroup", "Coupling", "coupling", "filter_groups"]
