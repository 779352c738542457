"""How the weights that read a group of channels see them: as columns of a matrix that N:M pruning goes along."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from mopruning.ir.coupling.groups import Axis
from mopruning.ir.parameters import Parameter

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"


@dataclass(frozen=True, eq=False)
class Reader:
    """A weight that reads all channels of a group, so that groups of m columns are m of them.

    Args:
        parameter: The weight.
        start: First column of it that is one of them; those of other groups stand before and behind.
        columns: How many are: the channels, in order, once or several times over.
        channels: Channels of the group.
    """

    parameter: Parameter
    start: int
    columns: int
    channels: int

    @property
    def name(self) -> str:
        """The weight's name."""
        return str(self.parameter.value.name)

    def matrix(self, weight: NumPyArray) -> NumPyArray:
        """Return a canonical weight, [out, in, *kernel], as [rows, channels]."""
        own = np.moveaxis(weight[:, self.start : self.start + self.columns], 1, -1)
        return own.reshape(-1, self.channels)


def reader(axis: Axis, parameter: Parameter, channels: int, m: int) -> Reader | str | None:
    """Say how a weight sees the channels that it reads.

    Args:
        axis: The axis of the weight along which the channels of a group run.
        parameter: The weight.
        channels: Channels of the group.
        m: Weights in a group of N:M pruning.

    Returns:
        The reader; None where the order of the channels makes no difference to it; or why it cuts across the channels.
    """
    seen = axis.channels
    if parameter.layout == "deconvolution" and axis.blocks == 1 and parameter.groups > 1:
        seen = seen[: seen.size // parameter.groups]  # the canonical form has one block of them
    own = np.flatnonzero(seen >= 0)
    start, size = int(own[0]), own.size
    if np.unique(seen[own]).size < channels:
        return f"{axis.name} reads only some of them"
    if own[-1] - start + 1 != size:
        return f"{axis.name} reads them in several parts"
    each = size // channels
    if each > 1 and np.array_equal(seen[own], np.repeat(np.arange(channels), each)):
        if start % m or each % m:
            return f"{axis.name} reads {each} values of each channel, so that groups of {m} hold parts of channels"
        return None
    if not np.array_equal(seen[own], np.tile(np.arange(channels), each)):
        return f"{axis.name} reads them in another order"
    if start % m:
        return f"{axis.name} reads them from column {start} on, within a group of {m}"
    return Reader(parameter, start, size, channels)
