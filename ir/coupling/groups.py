"""What the analysis of coupling finds: groups of channels, and every axis of a weight along which they run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import onnx_ir

from mopruning.ir.coupling.classes import NONE, Numbers
from mopruning.ir.table import aligned

if TYPE_CHECKING:
    from mopruning.ir.coupling.walk import Move, Sizes

Flags: TypeAlias = "np.ndarray[Any, np.dtype[np.bool_]]"

PRODUCES, READS, FOLLOWS = "produces", "reads", "follows"
"""Roles of an axis: output channels of a weight; input channels of a weight; a bias, scale, statistic or operand."""


@dataclass(frozen=True, eq=False)
class Axis:
    """An axis of an initializer along which the channels of a group run.

    Args:
        name: The initializer's name in the graph.
        axis: Which axis of the array, as it is stored.
        canonical: The same axis in the canonical form [out, in, *kernel] of a weight (`Parameter.canonical`).
        channels: int64 [size of the axis]: number of the channel within the group; -1 for an index of another group.
        role: "produces" (output channels of a weight), "reads" (its input channels) or "follows" (a bias, scale, mean,
            variance or operand with one number a channel).
        node: The first node that computes with it.
        blocks: 1, or the groups of a grouped convolution whose channels along this axis are numbered within each group.
    """

    name: str
    axis: int
    canonical: int
    channels: Numbers
    role: str
    node: onnx_ir.Node
    blocks: int = 1

    def __str__(self) -> str:
        own = int(np.count_nonzero(self.channels >= 0))
        part = "" if own == self.channels.size else f" ({own} of them)"
        return f"{self.name} axis {self.axis}{part}"


@dataclass(frozen=True, eq=False)
class ChannelGroup:
    """Channels that are made by the same layers; each of them stays or goes everywhere at once.

    Args:
        name: Name of the first parameter that produces them.
        channels: How many there are.
        fixed: bool [channels]: those that may not be removed or moved.
        reasons: Why, in words.
        axes: Every axis of an initializer along which they run.
    """

    name: str
    channels: int
    fixed: Flags
    reasons: tuple[str, ...]
    axes: tuple[Axis, ...]

    def along(self, role: str) -> tuple[Axis, ...]:
        """Return the axes of one role."""
        return tuple(axis for axis in self.axes if axis.role == role)

    def texts(self) -> tuple[str, ...]:
        """Return the group as text, one for each column of the table."""
        free = int(np.count_nonzero(~self.fixed))
        shown = (_some(axis.name for axis in self.along(role)) for role in (PRODUCES, READS))
        return self.name, f"{self.channels:,}", f"{free:,}", *shown, _some(self.reasons, "; ")

    def __str__(self) -> str:
        free = int(np.count_nonzero(~self.fixed))
        lines = [f"{self.name}: {self.channels} channels, {free} of them free"]
        lines += [f"  fixed: {reason}" for reason in self.reasons]
        rows = [
            (f"  {axis.role}", axis.name, f"axis {axis.axis}", f"{np.count_nonzero(axis.channels >= 0)}", _where(axis))
            for axis in self.axes
        ]
        return "\n".join([*lines, *([aligned(rows, right=(3,))] if rows else [])])


@dataclass(frozen=True, eq=False)
class Coupling:
    """Which channels of a model are coupled.

    Args:
        groups: The groups, in order of their first producer.
        tracks: For each value, axis -> int64 [size], the number of each channel among those of all groups; -1 for one
            of no group. Group after group is numbered.
        moves: For each value and axis that an operator rearranges: which channels it takes from where.
        shapes: Shape of each value, with the name of each open axis; None where nothing is known of it.
    """

    groups: tuple[ChannelGroup, ...]
    tracks: Mapping[onnx_ir.Value, Mapping[int, Numbers]] = field(repr=False)
    moves: Mapping[tuple[onnx_ir.Value, int], Move] = field(repr=False)
    shapes: Mapping[onnx_ir.Value, Sizes | None] = field(repr=False)

    @property
    def offsets(self) -> Numbers:
        """Return the number of each group's first channel, and behind them how many channels there are."""
        return np.cumsum([0, *(group.channels for group in self.groups)], dtype=np.int64)

    def along(self, value: onnx_ir.Value) -> dict[int, tuple[tuple[ChannelGroup, Numbers], ...]]:
        """Return the tracked axes of a value of the model.

        Args:
            value: Any value of the graph that was analysed.

        Returns:
            Axis -> the groups along it (several where values were joined), each with int64 [size of the axis], the
            number of the channel within that group or -1.
        """
        offsets = self.offsets
        result = {}
        for axis, numbers in self.tracks.get(value, {}).items():
            homes = np.searchsorted(offsets, numbers, side="right") - 1
            found = [int(home) for home in np.unique(homes[numbers >= 0])]
            result[axis] = tuple(
                (self.groups[home], np.where((homes == home) & (numbers >= 0), numbers - offsets[home], NONE))
                for home in found
            )
        return result

    def __str__(self) -> str:
        head = ("group", "channels", "free", "produced by", "read by", "fixed because")
        rows = [head, *(group.texts() for group in self.groups)]
        return aligned(rows, right=(1, 2))


def _where(axis: Axis) -> str:
    blocks = f", in {axis.blocks} groups" if axis.blocks > 1 else ""
    return f"{axis.node.name} ({axis.node.op_type}{blocks})"


def _some(names: Iterable[str], between: str = ", ") -> str:
    """Return two of the names, and how many more there are."""
    known = list(dict.fromkeys(names))
    more = f" and {len(known) - 2} more" if len(known) > 2 else ""
    return between.join(known[:2]) + more or "-"
