"""Cost: multiply-accumulates of a network with gates, dense and for each image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from mopruning.manidp.structure import Structure

NumPyArray: TypeAlias = "np.ndarray[Any, Any]"

_KERNEL = 9  # of a block's convolutions


@dataclass(frozen=True)
class Cost:
    """Multiply-accumulates of one image.

    Args:
        dense: Convolutions and the classifier, with every channel.
        gates: All gates.
    """

    dense: int
    gates: int

    @property
    def total(self) -> int:
        """What reductions are measured against: the dense network with its gates."""
        return self.dense + self.gates


def cost(structure: Structure) -> Cost:
    """Count what an image costs when it keeps every channel.

    >>> from mopruning.manidp.structure import structure
    >>> cost(structure("dyresnet20"))
    Cost(dense=40813184, gates=61952)
    """
    gates = sum(block.gate_macs for block in structure.layers)
    every = np.asarray([structure.gate_channels])
    return Cost(int(macs(structure, every)[0]) - gates, gates)


def macs(structure: Structure, kept: NumPyArray) -> NumPyArray:
    """Count what each image costs with the channels that it keeps.

    A convolution costs what its kept output channels take from its kept input channels. The residual stream is never
    pruned, so a block's first convolution reads every channel. Gates, stem, shortcuts and classifier cost the same for
    every image. Batch normalisation, additions and pooling are not counted.

    Args:
        structure: The network.
        kept: Whole numbers [images, gates]: how many channels are kept, gates in the order of `Structure.gates`.

    Returns:
        int64 [images]

    Raises:
        ValueError: If there are more or fewer gates, or a gate keeps more channels than it has.
    """
    channels = np.asarray(structure.gate_channels)
    counts = np.asarray(kept)
    if counts.ndim != 2 or counts.shape[1] != len(channels) or not np.issubdtype(counts.dtype, np.integer):
        raise ValueError(
            f"kept: expected whole numbers [images, {len(channels)}], one a gate, got {counts.dtype} {counts.shape}"
        )
    if (counts < 0).any() or (counts > channels).any():
        raise ValueError("kept: a gate keeps a negative number of channels, or more than it has")
    stem_side = -(-structure.image // structure.family.stem_stride)
    fixed = 3 * structure.channels[0] * structure.family.stem_kernel**2 * stem_side**2
    fixed += structure.channels[-1] * structure.classes
    result = np.zeros(len(counts), np.int64)
    for number, block in enumerate(structure.layers):
        first, second = counts[:, 2 * number].astype(np.int64), counts[:, 2 * number + 1].astype(np.int64)
        pixels = block.side**2
        result += block.inputs * first * _KERNEL * pixels + first * second * _KERNEL * pixels
        fixed += block.gate_macs
        if block.changes and structure.shortcut == "conv":
            fixed += block.inputs * block.outputs * pixels
    return result + fixed
